package ledger_test

import (
	"errors"
	"math"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/privacy/commit"
)

// want fails unless the step is refused with an error.
func want(t *testing.T, s *scene.Scene, what string, target error, st scene.Step) {
	t.Helper()
	before := s.State.Hash()
	if err := s.Try(st); !errors.Is(err, target) {
		t.Errorf("%s: got %v, want %v", what, err, target)
	} else if s.State.Hash() != before {
		t.Errorf("%s: refused, but the state changed", what)
	}
}

func by(s *scene.Scene, author ledger.PartyID, body ledger.Body) scene.Step {
	return scene.Step{Author: author, Body: body, Signers: s.As(author)}
}

func TestGenesisRules(t *testing.T) {
	for name, edit := range map[string]func(*ledger.Genesis){
		"unknown rules":            func(g *ledger.Genesis) { g.Rules = 2 },
		"another origin":           func(g *ledger.Genesis) { g.Origin = "other" },
		"origin with a space":      func(g *ledger.Genesis) { g.Network = "a b" },
		"one currency twice":       func(g *ledger.Genesis) { g.Currencies[1] = g.Currencies[0] },
		"bucket of a millisecond":  func(g *ledger.Genesis) { g.Params.BucketMs = 1 },
		"k above what fits":        func(g *ledger.Genesis) { g.Params.K = 7 },
		"k 0":                      func(g *ledger.Genesis) { g.Params.K = 0 },
		"min_batch 0":              func(g *ledger.Genesis) { g.Params.MinBatch = 0 },
		"a quota above one in one": func(g *ledger.Genesis) { g.Params.OpenPer10k = 10_001 },
		"a close in 2^32 buckets":  func(g *ledger.Genesis) { g.Params.CloseEvery = 1 << 32 },
		"a parameter out of range": func(g *ledger.Genesis) { g.Params.NoticeMs = math.MaxUint64 },
		"two parties of one name":  func(g *ledger.Genesis) { g.Parties[1].Name = g.Parties[2].Name },
	} {
		s := scene.New(t, 1)
		st := s.Found()
		edit(st.Body.(*ledger.Genesis))
		want(t, s, name, ledger.ErrMalformed, st)
	}
	for name, edit := range map[string]func(*ledger.Genesis){
		"first party is no aggregator": func(g *ledger.Genesis) { g.Parties[0].Role = ledger.Utility },
		"second aggregator":            func(g *ledger.Genesis) { g.Parties[1].Role = ledger.Aggregator },
		"numbers not from 1":           func(g *ledger.Genesis) { g.Parties[1].Party = 9 },
	} {
		s := scene.New(t, 1)
		st := s.Found()
		edit(st.Body.(*ledger.Genesis))
		want(t, s, name, ledger.ErrRole, st)
	}
	s := scene.New(t, 1)
	e := unsigned(t, 1, anchor(1), 1, scene.Pub(s.Keys[1]))
	if _, err := s.State.Apply(e); !errors.Is(err, ledger.ErrKind) {
		t.Errorf("anchor before genesis: got %v", err)
	}
	s.Begin()
	want(t, s, "genesis twice", ledger.ErrKind, s.Found())
}

func TestPartyAndKeyRules(t *testing.T) {
	s := scene.New(t, 1).Begin()
	join := func(p ledger.Party) scene.Step {
		return scene.Step{Author: 1, Body: &p, Signers: s.As(scene.Evagg, scene.Late)}
	}
	good := ledger.Party{Party: 8, Role: ledger.Utility, Name: "Late", Pub: scene.Pub(s.Keys[scene.Late])}
	p := good
	p.Party = 9
	want(t, s, "a number left out", ledger.ErrMalformed, join(p))
	p = good
	p.Role = ledger.Aggregator
	want(t, s, "a second aggregator", ledger.ErrRole, join(p))
	p = good
	p.Name = "Utb Energie"
	want(t, s, "a taken name", ledger.ErrDuplicate, join(p))
	p = good
	p.Pub = scene.Pub(s.Keys[scene.Utb])
	want(t, s, "a taken key", ledger.ErrDuplicate, scene.Step{Author: 1, Body: &p, Signers: s.As(scene.Evagg, scene.Utb)})
	want(t, s, "revoking the last entry key", ledger.ErrLimit, by(s, scene.Utb, &ledger.Key{Use: ledger.UseEntry, Pub: scene.Pub(s.Keys[scene.Utb])}))
	want(t, s, "revoking the key of another", ledger.ErrRole, by(s, scene.Utb, &ledger.Key{Use: ledger.UseEntry, Pub: scene.Pub(s.Keys[scene.Uta])}))
	for range 63 {
		k := s.Key()
		s.Do(scene.Step{Author: scene.Utb, Body: &ledger.Key{Add: true, Use: ledger.UsePseudonym, Pub: scene.Pub(k)},
			Signers: append(s.As(scene.Utb), scene.Signer{Use: ledger.UsePseudonym, Key: k})})
	}
	k := s.Key()
	want(t, s, "a 65th key", ledger.ErrLimit, scene.Step{Author: scene.Utb, Body: &ledger.Key{Add: true, Use: ledger.UsePseudonym, Pub: scene.Pub(k)},
		Signers: append(s.As(scene.Utb), scene.Signer{Use: ledger.UsePseudonym, Key: k})})
	if got := len(s.State.ActiveKeys(scene.Utb, ledger.UsePseudonym)); got != 63 {
		t.Errorf("ActiveKeys: got %d, want 63", got)
	}
}

func TestPartiesEndAtTheirLimit(t *testing.T) {
	s := scene.New(t, 1).Begin()
	pub := func(i int) (v [32]byte) { v[0], v[1] = byte(i), byte(i>>8); return v }
	for i := 8; i <= ledger.MaxParties+1; i++ {
		p := &ledger.Party{Party: ledger.PartyID(i), Role: ledger.Utility, Name: "Utility " + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676)), Pub: pub(i)}
		_, err := s.State.Apply(unsigned(t, s.State.NextSeq(1), p, 1, scene.Pub(s.Keys[1]), p.Pub))
		if full := i > ledger.MaxParties; full != errors.Is(err, ledger.ErrLimit) || (!full && err != nil) {
			t.Fatalf("party %d: got %v", i, err)
		}
	}
}

func TestTickRules(t *testing.T) {
	s := scene.New(t, 1).Begin()
	want(t, s, "a tick at the same time", ledger.ErrWindow, by(s, 1, &ledger.Tick{Ms: scene.Start}))
	want(t, s, "a tick beyond the last bucket", ledger.ErrWindow, by(s, 1, &ledger.Tick{Ms: 1<<62 - 1}))
	want(t, s, "a hash inside a bucket", ledger.ErrState, by(s, 1, &ledger.Tick{Ms: scene.Start + 5, State: s.State.Hash()}))
	want(t, s, "no hash at a new bucket", ledger.ErrState, by(s, 1, &ledger.Tick{Ms: scene.Start + scene.Hour}))
	s.Tick(scene.Start + 5)
	s.Tick(scene.Start + scene.Hour)
	if got := s.State.LogTime().UnixMilli(); got != scene.Start+scene.Hour {
		t.Errorf("LogTime: got %d", got)
	}
}

func TestTransferRules(t *testing.T) {
	s := scene.New(t, 1).Begin()
	tr := func(from, to ledger.Account, x int64) scene.Step {
		return by(s, max(from.Party(), 1), &ledger.Transfer{From: from, To: to, X: x, Purpose: 1})
	}
	uta, utb := ledger.OpenAccount(scene.Uta, 0), ledger.OpenAccount(scene.Utb, 0)
	want(t, s, "from earned", ledger.ErrRole, tr(ledger.EarnedAccount(0), uta, 1))
	want(t, s, "from a due book", ledger.ErrRole, tr(ledger.DueAccount(scene.Uta, 0), utb, 1))
	want(t, s, "to a due book", ledger.ErrRole, tr(uta, ledger.DueAccount(scene.Utb, 0), 1))
	want(t, s, "to notes", ledger.ErrRole, tr(uta, ledger.NotesAccount(0), 1))
	want(t, s, "to another currency", ledger.ErrMalformed, tr(uta, ledger.OpenAccount(scene.Utb, 1), 1))
	want(t, s, "in a currency that is not there", ledger.ErrMalformed, tr(ledger.OpenAccount(scene.Uta, 5), ledger.OpenAccount(scene.Utb, 5), 1))
	want(t, s, "to a party that is not there", ledger.ErrMalformed, tr(uta, ledger.OpenAccount(99, 0), 1))
	want(t, s, "to oneself", ledger.ErrMalformed, tr(uta, uta, 1))
	want(t, s, "one above the limit", ledger.ErrLimit, tr(uta, utb, 1000*scene.Unit+1))
	s.Do(tr(uta, utb, 1000*scene.Unit))
	want(t, s, "one more", ledger.ErrLimit, tr(uta, utb, 1))
}

func TestAmountsThatOverflowAreRefused(t *testing.T) {
	s := scene.New(t, 1)
	st := s.Found()
	for i := range st.Body.(*ledger.Genesis).Parties {
		st.Body.(*ledger.Genesis).Parties[i].Limit = math.MaxInt64
	}
	s.Do(st)
	uta, utb, dso := ledger.OpenAccount(scene.Uta, 0), ledger.OpenAccount(scene.Utb, 0), ledger.OpenAccount(scene.Dso, 0)
	s.By(scene.Uta, &ledger.Transfer{From: uta, To: utb, X: math.MaxInt64})
	want(t, s, "a balance above int64", ledger.ErrOverflow, by(s, scene.Dso, &ledger.Transfer{From: dso, To: utb, X: 1}))
	want(t, s, "debts that sum above int64", ledger.ErrOverflow, by(s, scene.Dso, &ledger.Transfer{From: dso, To: ledger.OpenAccount(scene.Utc, 0), X: 2}))
	want(t, s, "a balance below int64", ledger.ErrOverflow, by(s, scene.Uta, &ledger.Transfer{From: uta, To: dso, X: 2}))
	if pays := s.State.Net(0); len(pays) != 1 || pays[0].Minor != math.MaxInt64/scene.Cent {
		t.Errorf("Net of the largest debt: got %v", pays)
	}
}

func TestReverseRules(t *testing.T) {
	s := scene.New(t, 1).Begin()
	at := s.By(scene.Uta, &ledger.Transfer{From: ledger.OpenAccount(scene.Uta, 0), To: ledger.OpenAccount(scene.Utb, 0), X: 5})
	leaf := ledger.LeafHash(s.Log[at])
	want(t, s, "an entry that is no transfer", ledger.ErrWindow, by(s, scene.Utb, &ledger.Reverse{Target: 0, Leaf: leaf}))
	want(t, s, "another leaf", ledger.ErrMalformed, by(s, scene.Utb, &ledger.Reverse{Target: at}))
	want(t, s, "by the sender", ledger.ErrRole, by(s, scene.Uta, &ledger.Reverse{Target: at, Leaf: leaf}))
	s.By(scene.Utb, &ledger.Reverse{Target: at, Leaf: leaf})
	want(t, s, "twice", ledger.ErrDuplicate, by(s, scene.Utb, &ledger.Reverse{Target: at, Leaf: leaf}))
	at = s.By(scene.Uta, &ledger.Transfer{From: ledger.OpenAccount(scene.Uta, 0), To: ledger.OpenAccount(scene.Utb, 0), X: 5})
	s.Pass(2)
	s.By(scene.Evagg, &ledger.Close{Period: 1, Pays: s.State.Net(0)})
	want(t, s, "after a close", ledger.ErrWindow, by(s, scene.Utb, &ledger.Reverse{Target: at, Leaf: ledger.LeafHash(s.Log[at])}))
}

func TestCDRRules(t *testing.T) {
	s := scene.New(t, 1).Begin()
	cdr := func(edit func(c *ledger.CDR)) scene.Step {
		c := s.CDR(scene.Utb, 0, scene.Session(10))
		s.Forget(scene.Utb, 0)
		edit(c)
		return by(s, 1, c)
	}
	want(t, s, "payer is no utility", ledger.ErrRole, cdr(func(c *ledger.CDR) { c.Payer = scene.Dso }))
	want(t, s, "grid is the regulator", ledger.ErrRole, cdr(func(c *ledger.CDR) { c.Grid = scene.Regulator }))
	want(t, s, "yesterday's bucket", ledger.ErrBucket, cdr(func(c *ledger.CDR) { c.Bucket-- }))
	want(t, s, "tomorrow's bucket", ledger.ErrBucket, cdr(func(c *ledger.CDR) { c.Bucket++ }))
	want(t, s, "identity commitment", ledger.ErrMalformed, cdr(func(c *ledger.CDR) { c.Commit = [32]byte{} }))
	want(t, s, "commitment off the curve", ledger.ErrMalformed, cdr(func(c *ledger.CDR) { c.Commit = h(0xff) }))
	want(t, s, "a tariff that is none", ledger.ErrWindow, cdr(func(c *ledger.CDR) { c.Tariff = 1 }))
	st := cdr(func(*ledger.CDR) {})
	s.Do(st)
	want(t, s, "a ref twice", ledger.ErrDuplicate, cdr(func(c *ledger.CDR) { c.Ref = st.Body.(*ledger.CDR).Ref }))
	s.Pass(1)
	want(t, s, "a ref in two buckets", ledger.ErrDuplicate, cdr(func(c *ledger.CDR) { c.Ref = st.Body.(*ledger.CDR).Ref }))
	if i, state := s.State.Session(st.Body.(*ledger.CDR).Ref); i != 2 || state != ledger.CDROpen {
		t.Errorf("Session: got entry %d %s", i, state)
	}
}

func TestRefsAreForgottenOnlyAfterTheirWindow(t *testing.T) {
	s := scene.New(t, 1).Begin()
	settled := s.CDR(scene.Utb, 0, scene.Session(10))
	s.By(1, settled)
	other := s.CDR(scene.Utc, 0, scene.Session(5))
	s.By(1, other)
	s.Pass(3)
	s.Do(s.Settle(scene.Utb, 0))
	s.Pass(18)
	if _, state := s.State.Session(settled.Ref); state != ledger.CDRSettled {
		t.Errorf("after 21 buckets: got %s, want settled", state)
	}
	s.Pass(1)
	if _, state := s.State.Session(settled.Ref); state != ledger.CDRUnknown {
		t.Errorf("after 22 buckets: got %s, want unknown", state)
	}
	if _, state := s.State.Session(other.Ref); state != ledger.CDROpen {
		t.Errorf("unsettled after 22 buckets: got %s, want open", state)
	}
	s.Do(s.Settle(scene.Utc, 0))
}

func TestUnsettledSessionsEndAtTheirLimit(t *testing.T) {
	s := scene.New(t, 1)
	st := s.Found()
	st.Body.(*ledger.Genesis).Params.MaxOpen = 2
	s.Do(st)
	s.Tick(scene.Start)
	s.By(1, s.CDR(scene.Utb, 0, scene.Session(10)))
	s.By(1, s.CDR(scene.Utb, 0, scene.Session(10)))
	third := s.CDR(scene.Utc, 0, scene.Session(10))
	want(t, s, "a third", ledger.ErrLimit, by(s, 1, third))
	s.Do(s.Settle(scene.Utb, 0))
	s.By(1, third)
}

// TestG6 is guarantee G6 at the level of rules: only sums of min_batch sessions
// are opened, or smaller ones after max_wait.
func TestG6SmallSumsAreNotOpenedEarly(t *testing.T) {
	s := scene.New(t, 1).Begin()
	s.By(1, s.CDR(scene.Utb, 0, scene.Session(10)))
	for range 3 {
		st := s.Settle(scene.Utb, 0)
		want(t, s, "one session", ledger.ErrBatchTooSmall, st)
		s.Unsettle(st.Body.(*ledger.Settle))
		s.Pass(1)
	}
	s.Do(s.Settle(scene.Utb, 0))
	s.Pass(1)
	s.By(1, s.CDR(scene.Utb, 0, scene.Session(10)))
	s.By(1, s.CDR(scene.Utb, 0, scene.Session(11)))
	s.Do(s.Settle(scene.Utb, 0))
	if n, _, _ := s.State.Unsettled(0, scene.Utb, 0, math.MaxUint32); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// TestG2Opening is the part of guarantee G2 that an opening off by one is refused.
func TestG2AnOpeningOffByOneIsRefused(t *testing.T) {
	s := scene.New(t, 1).Begin()
	v := commit.Values{Pay: 9 * scene.Unit, Earn: 5 * scene.Unit, GridPay: -2 * scene.Unit, Energy: 20 * scene.Unit}
	s.By(1, s.CDR(scene.Utb, scene.Uta, v))
	s.By(1, s.CDR(scene.Utb, scene.Uta, v))
	st := s.Settle(scene.Utb, scene.Uta)
	right := st.Body.(*ledger.Settle)
	for _, c := range []struct {
		name   string
		target error
		edit   func(b *ledger.Settle)
	}{
		{"pay off by one", ledger.ErrOpening, func(b *ledger.Settle) { b.Pay-- }},
		{"earn off by a cent", ledger.ErrOpening, func(b *ledger.Settle) { b.Earn += scene.Cent }},
		{"earn off by one", ledger.ErrMalformed, func(b *ledger.Settle) { b.Earn++ }},
		{"gridpay off by one", ledger.ErrOpening, func(b *ledger.Settle) { b.GridPay-- }},
		{"energy off by one", ledger.ErrOpening, func(b *ledger.Settle) { b.Energy++ }},
		{"blind off", ledger.ErrOpening, func(b *ledger.Settle) { b.Blind[0] ^= 1 }},
		{"blind not canonical", ledger.ErrOpening, func(b *ledger.Settle) { b.Blind = h(0xff) }},
		{"one session more", ledger.ErrBucket, func(b *ledger.Settle) { b.N++ }},
		{"one bucket less", ledger.ErrBucket, func(b *ledger.Settle) { b.To-- }},
		{"a bucket to come", ledger.ErrBucket, func(b *ledger.Settle) { b.To++ }},
		{"a currency that is not there", ledger.ErrMalformed, func(b *ledger.Settle) { b.Cur = 7 }},
		{"negative pay", ledger.ErrMalformed, func(b *ledger.Settle) { b.Pay = -1 }},
		{"gridpay that cannot be negated", ledger.ErrOpening, func(b *ledger.Settle) { b.GridPay = math.MinInt64 }},
	} {
		b := *right
		c.edit(&b)
		want(t, s, c.name, c.target, scene.Step{Author: 1, Body: &b, Signers: s.As(scene.Evagg, scene.Utb, scene.Uta)})
	}
	s.Do(st)
	want(t, s, "twice", ledger.ErrBucket, st)
	fee := 2 * int64(9-5+2) * scene.Unit
	for a, x := range map[ledger.Account]int64{ledger.OpenAccount(scene.Utb, 0): -18 * scene.Unit, ledger.EarnedAccount(0): 10 * scene.Unit,
		ledger.OpenAccount(scene.Uta, 0): -4 * scene.Unit, ledger.OpenAccount(1, 0): fee} {
		if got := s.State.Balance(a); got != x {
			t.Errorf("%v: got %d, want %d", a, got, x)
		}
	}
}

func TestSettleStopsAtTheLimitOfWhoPays(t *testing.T) {
	s := scene.New(t, 1).Begin()
	v := commit.Values{Pay: 600 * scene.Unit}
	s.By(1, s.CDR(scene.Utb, 0, v))
	s.By(1, s.CDR(scene.Utb, 0, v))
	want(t, s, "payer above its limit", ledger.ErrLimit, s.Settle(scene.Utb, 0))
}

func TestNoteRules(t *testing.T) {
	s := scene.New(t, 1).Begin()
	s.By(1, s.Denoms())
	want(t, s, "an epoch twice", ledger.ErrDuplicate, by(s, 1, s.Denoms()))
	denoms := func(edit func(*ledger.Denoms)) scene.Step {
		d := s.Denoms()
		d.Epoch++
		for i := range d.Keys {
			d.Keys[i].N[100] ^= 1
		}
		edit(d)
		return by(s, 1, d)
	}
	want(t, s, "a modulus of another epoch", ledger.ErrDuplicate, denoms(func(d *ledger.Denoms) { d.Keys[0].N[100] ^= 1 }))
	want(t, s, "an even modulus", ledger.ErrMalformed, denoms(func(d *ledger.Denoms) { d.Keys[0].N[255] &^= 1 }))
	want(t, s, "a short modulus", ledger.ErrMalformed, denoms(func(d *ledger.Denoms) { d.Keys[0].N[0] = 0 }))
	want(t, s, "one modulus twice", ledger.ErrMalformed, denoms(func(d *ledger.Denoms) { d.Keys[0].N = d.Keys[1].N }))
	want(t, s, "values that fall", ledger.ErrMalformed, denoms(func(d *ledger.Denoms) { d.Keys[0].Minor = 256 }))
	want(t, s, "a value that is no power of two", ledger.ErrMalformed, denoms(func(d *ledger.Denoms) { d.Keys[0].Minor = 3 }))
	want(t, s, "a value above the largest", ledger.ErrMalformed, denoms(func(d *ledger.Denoms) { d.Keys[2].Minor = 1 << 16 }))
	want(t, s, "month 13", ledger.ErrMalformed, denoms(func(d *ledger.Denoms) { d.Epoch = 202613 }))
	want(t, s, "redeem before issue ends", ledger.ErrMalformed, denoms(func(d *ledger.Denoms) { d.RedeemTo = d.IssueTo }))

	issue := func(edit func(*ledger.Issue)) scene.Step {
		b := &ledger.Issue{Epoch: scene.Month, Claims: 2, Counts: []uint32{2, 0, 1}}
		edit(b)
		return by(s, 1, b)
	}
	same := func(*ledger.Issue) {}
	want(t, s, "notes that nobody has earned", ledger.ErrNotBacked, issue(same))
	s.By(scene.Uta, &ledger.Transfer{From: ledger.OpenAccount(scene.Uta, 0), To: ledger.EarnedAccount(0), X: 640 * scene.Cent})
	want(t, s, "no notes", ledger.ErrMalformed, issue(func(b *ledger.Issue) { b.Counts = []uint32{0, 0, 0} }))
	want(t, s, "counts for other keys", ledger.ErrMalformed, issue(func(b *ledger.Issue) { b.Counts = b.Counts[:2] }))
	want(t, s, "another epoch", ledger.ErrMalformed, issue(func(b *ledger.Issue) { b.Epoch-- }))
	want(t, s, "one note too many", ledger.ErrNotBacked, issue(func(b *ledger.Issue) { b.Counts[0]++ }))
	s.Do(issue(func(b *ledger.Issue) { b.Claims = 1; b.Counts = []uint32{1, 0, 0} })) // the first of a bucket may be small
	want(t, s, "a second small issue", ledger.ErrBatchTooSmall, issue(func(b *ledger.Issue) { b.Claims = 1; b.Counts = []uint32{1, 0, 0} }))
	s.Do(issue(func(b *ledger.Issue) { b.Counts[0]-- }))
	redeemRules(t, s)
}

func redeemRules(t *testing.T, s *scene.Scene) {
	uta := ledger.OpenAccount(scene.Uta, 0)
	one := s.Note(0)
	want(t, s, "to a DSO", ledger.ErrRole, by(s, scene.Dso, s.Redeem(ledger.OpenAccount(scene.Dso, 0), one)))
	want(t, s, "to the notes book", ledger.ErrRole, by(s, 1, s.Redeem(ledger.NotesAccount(0), one)))
	want(t, s, "of another currency", ledger.ErrNotBacked, by(s, scene.Uta, s.Redeem(ledger.OpenAccount(scene.Uta, 1), one)))
	want(t, s, "a note twice in an entry", ledger.ErrDuplicate, by(s, scene.Uta, s.Redeem(uta, one, one)))
	forged := s.Redeem(uta, one)
	forged.Notes[0].Note[100] ^= 1
	want(t, s, "a forged note", ledger.ErrSignature, by(s, scene.Uta, forged))
	stolen := s.Redeem(uta, one)
	stolen.Bind[0] ^= 1
	want(t, s, "a note spent for something else", ledger.ErrSignature, by(s, scene.Uta, stolen))
	stranger := s.Redeem(uta, one)
	stranger.Notes[0].Note[0] ^= 1
	want(t, s, "a note of a key that is not on the ledger", ledger.ErrNotBacked, by(s, scene.Uta, stranger))
	s.By(scene.Uta, s.Redeem(uta, one))
	want(t, s, "a note twice in a window", ledger.ErrDuplicate, by(s, scene.Uta, s.Redeem(uta, one)))
	want(t, s, "a note twice, by swap", ledger.ErrDuplicate, by(s, 1, s.Redeem(ledger.EarnedAccount(0), one)))
	s.By(1, s.Redeem(ledger.EarnedAccount(0), s.Note(0)))
	want(t, s, "more notes than were issued", ledger.ErrNotBacked, by(s, scene.Uta, s.Redeem(uta, s.Note(0))))
	want(t, s, "a lapse too early", ledger.ErrWindow, by(s, 1, &ledger.Lapse{Epoch: scene.Month}))
	s.Tick(scene.Start + 301*scene.Hour)
	want(t, s, "an issue too late", ledger.ErrWindow, by(s, 1, &ledger.Issue{Epoch: scene.Month, Claims: 2, Counts: []uint32{1, 0, 0}}))
	s.Tick(scene.Start + 401*scene.Hour)
	last := s.Note(2)
	want(t, s, "a redeem too late", ledger.ErrWindow, by(s, scene.Uta, s.Redeem(uta, last)))
	s.Tick(scene.Start + 501*scene.Hour)
	want(t, s, "a swap too late", ledger.ErrWindow, by(s, 1, s.Redeem(ledger.EarnedAccount(0), last)))
	want(t, s, "a lapse of another epoch", ledger.ErrMalformed, by(s, 1, &ledger.Lapse{Epoch: scene.Month + 1}))
	s.By(1, &ledger.Lapse{Epoch: scene.Month})
	want(t, s, "a lapse twice", ledger.ErrDuplicate, by(s, 1, &ledger.Lapse{Epoch: scene.Month}))
	if got := s.State.Balance(ledger.UnclaimedAccount(0)); got != 512*scene.Cent {
		t.Errorf("unclaimed: got %d, want %d", got, 512*scene.Cent)
	}
}

func TestRedeemAtAUtilityIsInSteps(t *testing.T) {
	s := scene.New(t, 1)
	st := s.Found()
	st.Body.(*ledger.Genesis).Params.RedeemStep = 640
	s.Do(st)
	s.Tick(scene.Start)
	s.By(1, s.Denoms())
	s.By(scene.Uta, &ledger.Transfer{From: ledger.OpenAccount(scene.Uta, 0), To: ledger.EarnedAccount(0), X: 1000 * scene.Cent})
	s.By(1, &ledger.Issue{Epoch: scene.Month, Claims: 2, Counts: []uint32{1, 1, 1}})
	uta := ledger.OpenAccount(scene.Uta, 0)
	want(t, s, "576 of a step of 640", ledger.ErrMalformed, by(s, scene.Uta, s.Redeem(uta, s.Note(0), s.Note(2))))
	s.By(scene.Uta, s.Redeem(uta, s.Note(1), s.Note(2)))
	s.By(1, s.Redeem(ledger.EarnedAccount(0), s.Note(0))) // a swap may be of any sum
}

// TestDayOfTheDesign plays the example of design/ledger.md, 4.3.
func TestDayOfTheDesignHasItsNumbers(t *testing.T) {
	s := scene.New(t, 1).Begin()
	s.By(1, s.Denoms())
	v := commit.Values{Pay: 7 * scene.Unit, Earn: 660 * scene.Cent, Energy: 20 * scene.Unit}
	s.By(1, s.CDR(scene.Utb, 0, v))
	s.Pass(3)
	s.Do(s.Settle(scene.Utb, 0))
	expect := func(when string, utb, utbDue, uta, utaDue, agg, aggDue, earned, notes int64) {
		t.Helper()
		for a, cents := range map[ledger.Account]int64{
			ledger.OpenAccount(scene.Utb, 0): utb, ledger.DueAccount(scene.Utb, 0): utbDue, ledger.OpenAccount(scene.Uta, 0): uta,
			ledger.DueAccount(scene.Uta, 0): utaDue, ledger.OpenAccount(1, 0): agg, ledger.DueAccount(1, 0): aggDue,
			ledger.EarnedAccount(0): earned, ledger.NotesAccount(0): notes} {
			if got := s.State.Balance(a); got != cents*scene.Cent {
				t.Errorf("%s: %v has %d, want %d", when, a, got, cents*scene.Cent)
			}
		}
	}
	expect("after settle", -700, 0, 0, 0, 40, 0, 660, 0)
	s.By(1, &ledger.Issue{Epoch: scene.Month, Claims: 2, Counts: []uint32{2, 0, 1}}) // 6.40 of 6.60
	expect("after issue", -700, 0, 0, 0, 40, 0, 20, 640)
	s.By(scene.Uta, s.Redeem(ledger.OpenAccount(scene.Uta, 0), s.Note(0), s.Note(2))) // 5.76
	expect("after redeem", -700, 0, 576, 0, 40, 0, 20, 64)
	pays := s.State.Net(0)
	s.By(1, &ledger.Close{Period: 1, Pays: pays})
	expect("after close", -84, -616, 0, 576, 0, 40, 20, 64)
	for i, p := range pays {
		s.By(p.Payee, &ledger.Paid{Period: 1, No: uint16(i + 1)})
	}
	expect("after paid", -84, 0, 0, 0, 0, 0, 20, 64)
}
