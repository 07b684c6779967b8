package aggregator

import (
	"errors"
	"fmt"

	"gridveil/ev/settle"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/keys"
	"gridveil/privacy"
	"gridveil/privacy/pseudo"
)

// revocationKey stands beside the desk's own keys: a list may be larger than one
// value of the store.
func revocationKey(issuer [16]byte) []byte { return append([]byte{'R'}, issuer[:]...) }

// takeRevocation takes a utility's list of pseudonyms that may open no further
// session; it replaces the one before. The sealed bytes are kept, so that the
// list stays closed to whoever reads the disk later.
func (a *Aggregator) takeRevocation(from mesh.Member, box []byte) ([]byte, error) {
	if from.Role != member.RoleUtility {
		return nil, errors.New("revocations come from utilities")
	}
	list, err := a.openRevocation(a.env.Operator(from.Operator), box)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.revocations[list.Issuer]; old != nil && old.Issued.After(list.Issued) {
		return nil, nil // a newer one came first
	}
	if err := a.memory.Commit([]settle.Write{{Key: revocationKey(list.Issuer), Value: box}}); err != nil {
		return nil, fmt.Errorf("keep revocation: %w", err)
	}
	a.revocations[list.Issuer] = list
	a.env.Log.Info("pseudonyms revoked")
	return nil, nil
}

// openRevocation tries the box keys at hand and the issuer's keys.
func (a *Aggregator) openRevocation(issuer [16]byte, box []byte) (*pseudo.Revocation, error) {
	boxes, err := a.boxes(a.env.Clock.Now())
	if err != nil {
		return nil, err
	}
	known, err := a.issuers()
	if err != nil {
		return nil, err
	}
	last := error(privacy.ErrOpen)
	for _, k := range known {
		if k.Issuer != issuer {
			continue
		}
		for _, b := range boxes {
			list, err := pseudo.OpenRevocation(box, b, a.env.Net, k)
			if err == nil {
				return list, nil
			}
			if !errors.Is(err, privacy.ErrOpen) {
				last = err
			}
		}
	}
	return nil, last
}

// loadRevocations reads the newest list of every utility. One whose box key is
// erased names only pseudonyms whose week is long over.
func (a *Aggregator) loadRevocations() error {
	stored := map[[16]byte][]byte{}
	err := a.memory.Scan([]byte{'R'}, func(k, v []byte) bool {
		if len(k) == 1+16 {
			stored[[16]byte(k[1:])] = v
		}
		return true
	})
	if err != nil {
		return err
	}
	for issuer, box := range stored {
		list, err := a.openRevocation(issuer, box)
		if errors.Is(err, privacy.ErrOpen) || errors.Is(err, keys.ErrErased) {
			continue
		}
		if err != nil {
			return fmt.Errorf("stored revocation: %w", err)
		}
		a.revocations[issuer] = list
	}
	return nil
}

// revoked says whether a utility took a bill key back.
func (a *Aggregator) revoked(issuer [16]byte, bpk [32]byte, epoch uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.revocations[issuer]
	return list != nil && list.Has(bpk, epoch)
}
