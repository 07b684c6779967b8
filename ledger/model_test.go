package ledger_test

import (
	"bytes"
	"flag"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/privacy"
	"gridveil/privacy/commit"
	"gridveil/privacy/note"
)

func sortKeyIDs(ids []ledger.KeyID) {
	slices.SortFunc(ids, func(a, b ledger.KeyID) int { return bytes.Compare(a[:], b[:]) })
}

// engine is what the model is compared with.
type engine interface {
	// enter brings a body onto the ledger, signed by these parties, and the state
	// of the scene up to date.
	enter(body ledger.Body, author ledger.PartyID, signers []ledger.PartyID) (leaf [32]byte, err error)
	// note is a new note of mint key i that the engine accepts.
	note(i int) note.Spent
	redeem(payee ledger.Account, n note.Spent) *ledger.Redeem
}

// model is the ledger as a plain map: what a person would write down.
type model struct {
	t        *rapid.T
	engine   engine
	s        *scene.Scene
	balance  map[ledger.Account]int64
	moved    map[uint64]ledger.Transfer // reversible transfers by index
	leaves   map[uint64][32]byte
	leaf     [32]byte // of the last accepted entry
	issued   [3]int64
	returned [3]int64
	pays     map[uint32][]ledger.Pay // outstanding by period; paid ones have Minor 0
	period   uint32
	closed   uint32
	lone     [32]byte      // ref of the one session of Utc, zero if there is none
	held     ledger.CaseID // case that holds it, zero if none does
	cases    byte
	seen     map[string]int
}

const limit = 1000 * scene.Unit

// apply enters a body signed by the parties and compares the verdict with want.
func (m *model) apply(want bool, body ledger.Body, author ledger.PartyID, also ...ledger.PartyID) bool {
	signers := []ledger.PartyID{author}
	for _, p := range also {
		if !slices.Contains(signers, p) {
			signers = append(signers, p)
		}
	}
	var before [8]int64
	for p := range before {
		before[p] = m.s.State.Total(ledger.PartyID(p), 0)
	}
	leaf, err := m.engine.enter(body, author, signers)
	if (err == nil) != want {
		m.t.Fatalf("%s by %d: got %v, the model says %v (totals before %v)", body.Kind(), author, err, want, before)
	}
	for p := 1; p < len(before); p++ { // guarantee G1
		if m.s.State.Total(ledger.PartyID(p), 0) < before[p] && !slices.Contains(signers, ledger.PartyID(p)) {
			m.t.Fatalf("%s: the total of party %d fell without its signature", body.Kind(), p)
		}
	}
	if err == nil {
		m.seen[body.Kind().String()]++
		m.leaf = leaf
	}
	return err == nil
}

func (m *model) total(p ledger.PartyID) int64 {
	return m.balance[ledger.OpenAccount(p, 0)] + m.balance[ledger.DueAccount(p, 0)]
}

func (m *model) move(from, to ledger.Account, x int64) {
	m.balance[from] -= x
	m.balance[to] += x
}

func (m *model) party(label string) ledger.PartyID {
	return ledger.PartyID(rapid.IntRange(1, 7).Draw(m.t, label))
}

func (m *model) transfer() {
	from, to := m.party("from"), m.party("to")
	x := rapid.Int64Range(1, 300*scene.Unit).Draw(m.t, "x")
	tr := ledger.Transfer{From: ledger.OpenAccount(from, 0), To: ledger.OpenAccount(to, 0), X: x, Purpose: 1}
	if rapid.IntRange(0, 3).Draw(m.t, "earned") == 0 {
		tr.To = ledger.EarnedAccount(0)
	}
	at := m.s.State.Size()
	if m.apply(tr.From != tr.To && m.total(from)-x >= -limit, &tr, from) {
		m.move(tr.From, tr.To, x)
		m.moved[at], m.leaves[at] = tr, m.leaf
	}
}

func (m *model) reverse() {
	for _, at := range slices.Sorted(mapKeys(m.moved)) { // the oldest
		tr := m.moved[at]
		owner, fits := tr.To.Party(), false
		if owner == 0 {
			owner, fits = 1, m.balance[tr.To] >= tr.X
		} else {
			fits = m.total(owner)-tr.X >= -limit
		}
		if m.apply(fits, &ledger.Reverse{Target: at, Leaf: m.leaves[at]}, owner) {
			m.move(tr.To, tr.From, tr.X)
			delete(m.moved, at)
		}
		return
	}
}

func mapKeys[V any](m map[uint64]V) func(func(uint64) bool) {
	return func(yield func(uint64) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (m *model) tick() {
	ms := m.s.Now() + rapid.Uint64Range(scene.Hour/4, scene.Hour).Draw(m.t, "tick")
	m.apply(true, m.s.State.NextTick(ms), 1)
}

func (m *model) settle() {
	v := commit.Values{Pay: rapid.Int64Range(0, 90*scene.Unit).Draw(m.t, "pay"), Earn: rapid.Int64Range(0, 50).Draw(m.t, "earn") * scene.Cent,
		GridPay: rapid.Int64Range(-10*scene.Unit, 10*scene.Unit).Draw(m.t, "gridpay")}
	c := m.s.CDR(scene.Utb, scene.Uta, v)
	m.apply(true, c, 1)
	if m.s.State.OpenBucket(0, scene.Utb, scene.Uta) > m.s.State.Bucket() {
		return // its bucket is still to come
	}
	st := m.s.Settle(scene.Utb, scene.Uta).Body.(*ledger.Settle)
	n, oldest, _ := m.s.State.Unsettled(0, scene.Utb, scene.Uta, st.To)
	if uint64(st.N) != n {
		m.t.Fatalf("state has %d unsettled sessions, the scene %d", n, st.N)
	}
	fee := st.Pay - st.Earn - st.GridPay
	off := *st
	off.Pay++
	m.apply(false, &off, 1, scene.Utb, scene.Uta)
	large := n >= 2 || m.s.State.Bucket()-oldest >= 3
	inLimit := m.total(scene.Utb)-st.Pay >= -limit && (st.GridPay >= 0 || m.total(scene.Uta)+st.GridPay >= -limit) && (fee >= 0 || m.total(1)+fee >= -limit)
	signers := []ledger.PartyID{scene.Utb}
	if st.GridPay < 0 {
		signers = append(signers, scene.Uta)
	}
	if m.apply(large && inLimit, st, 1, signers...) {
		m.balance[ledger.OpenAccount(scene.Utb, 0)] -= st.Pay
		m.balance[ledger.EarnedAccount(0)] += st.Earn
		m.balance[ledger.OpenAccount(scene.Uta, 0)] += st.GridPay
		m.balance[ledger.OpenAccount(1, 0)] += fee
		return
	}
	m.s.Unsettle(st)
}

func (m *model) issue() {
	var b ledger.Issue
	b.Epoch, b.Claims = scene.Month, 5
	var x int64
	values := [3]int64{64, 128, 512}
	for i := range values {
		n := rapid.Uint32Range(0, 4).Draw(m.t, "count")
		b.Counts = append(b.Counts, n)
		x += int64(n) * values[i] * scene.Cent
	}
	if m.apply(x > 0 && m.balance[ledger.EarnedAccount(0)] >= x && m.s.Now() <= scene.Start+300*scene.Hour, &b, 1) {
		m.move(ledger.EarnedAccount(0), ledger.NotesAccount(0), x)
		for i, n := range b.Counts {
			m.issued[i] += int64(n)
		}
	}
}

func (m *model) redeem() {
	i := rapid.IntRange(0, 2).Draw(m.t, "key")
	payee, author, last := ledger.OpenAccount(scene.Uta, 0), scene.Uta, uint64(scene.Start+400*scene.Hour)
	if rapid.Bool().Draw(m.t, "swap") {
		payee, author, last = ledger.EarnedAccount(0), 1, scene.Start+500*scene.Hour
	}
	d, _, _, _, _ := m.s.State.Denoms(0, scene.Month)
	b := m.engine.redeem(payee, m.engine.note(i))
	x := int64(d.Keys[i].Minor) * scene.Cent
	if m.apply(m.returned[i] < m.issued[i] && m.s.Now() <= last, b, author) {
		m.move(ledger.NotesAccount(0), payee, x)
		m.returned[i]++
		m.apply(false, b, author) // the same note again
	}
}

func (m *model) close() {
	var open []int64
	for p := ledger.PartyID(1); p <= 7; p++ {
		open = append(open, m.balance[ledger.OpenAccount(p, 0)])
	}
	pays := ledger.Net(open, scene.Cent)
	due := m.s.State.Bucket()-m.closed >= 2
	if m.apply(due, &ledger.Close{Period: m.period + 1, Pays: pays}, 1) {
		m.period++
		m.closed = m.s.State.Bucket()
		for _, p := range pays {
			x := int64(p.Minor) * scene.Cent
			m.move(ledger.DueAccount(p.Payer, 0), ledger.OpenAccount(p.Payer, 0), x)
			m.move(ledger.OpenAccount(p.Payee, 0), ledger.DueAccount(p.Payee, 0), x)
		}
		m.pays[m.period] = pays
		clear(m.moved)
	}
}

func (m *model) pay() {
	list := m.pays[m.period]
	if len(list) == 0 {
		return
	}
	i := rapid.IntRange(0, len(list)-1).Draw(m.t, "payment")
	p := list[i]
	x := int64(p.Minor) * scene.Cent
	if rapid.Bool().Draw(m.t, "paid") {
		if m.apply(p.Minor > 0, &ledger.Paid{Period: m.period, No: uint16(i + 1)}, m.payee(i)) {
			m.move(ledger.DueAccount(p.Payee, 0), ledger.DueAccount(p.Payer, 0), x)
			list[i].Minor = 0
		}
		return
	}
	grace := m.s.State.Bucket()-m.closed >= 1
	if m.apply(p.Minor > 0 && grace, &ledger.Failed{Period: m.period, No: uint16(i + 1), Reason: 1}, m.payee(i), 1) {
		m.move(ledger.OpenAccount(p.Payer, 0), ledger.DueAccount(p.Payer, 0), x)
		m.move(ledger.DueAccount(p.Payee, 0), ledger.OpenAccount(p.Payee, 0), x)
		list[i].Minor = 0
	}
}

func (m *model) payee(i int) ledger.PartyID { return m.pays[m.period][i].Payee }

// dispute holds the one session of a pair of its own, or ends its case.
func (m *model) dispute() {
	switch none := (ledger.CaseID{}); {
	case m.lone == [32]byte{}:
		c := m.s.CDR(scene.Utc, 0, scene.Session(5))
		m.apply(true, c, 1)
		m.lone = c.Ref
	case m.held == none:
		m.cases++
		m.held = ledger.CaseID{m.cases, byte(m.s.State.Size()), byte(m.s.State.Size() >> 8)}
		d := &ledger.Dispute{Case: m.held, Asks: ledger.CaseHold, Reason: ledger.ReasonBilling, Utility: scene.Utc, Refs: [][32]byte{m.lone}}
		m.apply(true, d, 1)
		again := *d
		again.Case[15] = 1
		m.apply(false, &again, scene.Regulator) // a session is in one case at a time
	default:
		end := &ledger.End{Case: m.held, Outcome: ledger.Release}
		if rapid.Bool().Draw(m.t, "cancel") {
			end.Outcome, m.lone = ledger.Cancel, [32]byte{}
			m.s.Forget(scene.Utc, 0)
		}
		m.apply(true, end, 1)
		m.apply(false, end, 1)
		m.held = none
	}
}

// settleLone settles that session unless a case holds it.
func (m *model) settleLone() {
	if m.lone == [32]byte{} {
		return
	}
	st := m.s.Settle(scene.Utc, 0).Body.(*ledger.Settle)
	n, oldest, _ := m.s.State.Unsettled(0, scene.Utc, 0, st.To)
	if m.held != (ledger.CaseID{}) && n > 0 {
		m.t.Fatal("a session that a case holds is to be settled")
	}
	fits := n == 1 && m.s.State.Bucket()-oldest >= 3 && m.total(scene.Utc)-st.Pay >= -limit
	if !m.apply(fits, st, 1, scene.Utc) {
		m.s.Unsettle(st)
		return
	}
	m.balance[ledger.OpenAccount(scene.Utc, 0)] -= st.Pay
	m.balance[ledger.EarnedAccount(0)] += st.Earn
	m.balance[ledger.OpenAccount(1, 0)] += st.Pay - st.Earn
	m.lone = [32]byte{}
}

// check compares all balances and the invariants.
func (m *model) check() {
	var sum int64
	for p := ledger.PartyID(0); p <= 7; p++ {
		for b := ledger.Book(0); b < 3; b++ {
			a := ledger.Account(uint32(p)<<8 | uint32(b))
			if got := m.s.State.Balance(a); got != m.balance[a] {
				m.t.Fatalf("account %v: state has %d, model %d", a, got, m.balance[a])
			}
			sum += m.balance[a]
		}
	}
	if sum != 0 {
		m.t.Fatalf("balances sum to %d", sum)
	}
	if err := m.s.State.Audit(); err != nil {
		m.t.Fatal(err)
	}
}

// bare is the state machine alone: signatures and notes are not verified.
type bare struct {
	s      *scene.Scene
	serial uint64
}

func (b *bare) enter(body ledger.Body, author ledger.PartyID, signers []ledger.PartyID) ([32]byte, error) {
	var keys [][32]byte
	for _, p := range signers {
		keys = append(keys, scene.Pub(b.s.Keys[p]))
	}
	e := unsigned(b.s.TB, b.s.State.NextSeq(author), body, author, keys...)
	_, err := b.s.State.Apply(e)
	return e.Leaf(), err
}

func (b *bare) note(i int) (n note.Spent) {
	d, _, _, _, _ := b.s.State.Denoms(0, scene.Month)
	id := privacy.KeyID(privacy.UseNote, d.Keys[i].N[:])
	copy(n.Note[:], id[:])
	b.serial++
	copy(n.Note[8:], []byte{byte(b.serial >> 16), byte(b.serial >> 8), byte(b.serial)})
	return n
}

func (b *bare) redeem(payee ledger.Account, n note.Spent) *ledger.Redeem {
	return &ledger.Redeem{Payee: payee, Notes: []note.Spent{n}}
}

// walk takes random steps and compares after each.
func walk(rt *rapid.T, s *scene.Scene, on engine, steps int, seen map[string]int) *model {
	m := &model{t: rt, s: s, engine: on, balance: map[ledger.Account]int64{}, moved: map[uint64]ledger.Transfer{},
		leaves: map[uint64][32]byte{}, pays: map[uint32][]ledger.Pay{}, closed: s.State.Bucket(), seen: seen}
	actions := []func(){m.transfer, m.transfer, m.transfer, m.transfer, m.transfer, m.reverse, m.tick, m.issue, m.redeem, m.redeem, m.close, m.pay}
	rare := []func(){m.settle, m.settle, m.dispute, m.settleLone} // their curve arithmetic costs a thousand transfers
	for range steps {
		if a := rapid.IntRange(0, 10*len(actions)+1).Draw(rt, "action"); a < 10*len(actions) {
			actions[a/10]()
		} else {
			rare[rapid.IntRange(0, len(rare)-1).Draw(rt, "rare")]()
		}
		m.check()
	}
	return m
}

var everyKind = []string{"transfer", "reverse", "tick", "cdr", "settle", "issue", "redeem", "close", "paid", "failed", "dispute", "end"}

// report fails if a kind of entry was never accepted.
func report(t *testing.T, seen map[string]int) {
	t.Helper()
	t.Logf("accepted: %v", seen)
	for _, kind := range everyKind {
		if seen[kind] == 0 {
			t.Errorf("no %s was ever accepted", kind)
		}
	}
}

// TestG2StateAgreesWithAMap is guarantee G2: after every entry the balances of
// each currency sum to zero and notes are backed, whatever is entered, and the
// state agrees with a plain map. 10^5 entries, 10^6 with -long.
func TestG2StateAgreesWithAMap(t *testing.T) {
	runs, steps := 100, 1000
	if *long {
		runs = 1000
	}
	if testing.Short() {
		runs = 5
	}
	if err := flag.Set("rapid.checks", strconv.Itoa(runs)); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		s := scene.New(t, uint64(rapid.Uint32().Draw(rt, "seed"))).Begin()
		s.By(scene.Evagg, s.Denoms())
		walk(rt, s, &bare{s: s}, steps, seen)
	})
	report(t, seen)
}
