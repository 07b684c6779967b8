package ledger

import (
	"gridveil/ledger/internal/sigbatch"
)

// Check is one fact outside the rules that must hold before an entry is
// applied: an Ed25519 signature under ZIP-215, or whatever Fact tests (a note, a
// key's order). Checks of one entry are independent, so they
// may run in parallel and in batches.
type Check struct {
	Pub, Msg, Sig []byte       // an Ed25519 signature, if Fact is nil
	Fact          func() error // safe to call from any goroutine
}

// Verify runs the checks of many entries, the signatures of all in one batch,
// and returns nil if everything holds, else one error (or nil) per entry. A bad
// signature does not hide which entry it belongs to: the batch is bisected.
func Verify(groups [][]Check) []error {
	sigs, owner := make([]Check, 0, len(groups)), make([]int, 0, len(groups))
	var errs []error
	fail := func(i int, err error) {
		if errs == nil {
			errs = make([]error, len(groups))
		}
		if errs[i] == nil {
			errs[i] = err
		}
	}
	for i, checks := range groups {
		for _, c := range checks {
			if c.Fact == nil {
				sigs, owner = append(sigs, c), append(owner, i)
			} else if err := c.Fact(); err != nil {
				fail(i, err)
			}
		}
	}
	bad := sigbatch.Verify(len(sigs), func(i int) (pub, msg, sig []byte) { return sigs[i].Pub, sigs[i].Msg, sigs[i].Sig })
	for _, i := range bad {
		fail(owner[i], refuse(ErrSignature, "one of the signatures of this entry is wrong"))
	}
	return errs
}

// Holds reports whether everything that Verify checks holds, without naming what
// does not.
func Holds(groups [][]Check) bool {
	sigs := make([]Check, 0, len(groups))
	for _, checks := range groups {
		for _, c := range checks {
			if c.Fact == nil {
				sigs = append(sigs, c)
			} else if c.Fact() != nil {
				return false
			}
		}
	}
	return sigbatch.All(len(sigs), func(i int) (pub, msg, sig []byte) { return sigs[i].Pub, sigs[i].Msg, sigs[i].Sig })
}

// VerifyOne runs the checks of a single entry.
func VerifyOne(checks []Check) error {
	if errs := Verify([][]Check{checks}); errs != nil {
		return errs[0]
	}
	return nil
}
