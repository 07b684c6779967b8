package ledger

import (
	"bytes"
	"fmt"

	"gridveil/privacy"
	"gridveil/privacy/note"
)

// epochKey names the mint keys of one currency and month.
type epochKey struct {
	cur   uint8
	epoch uint32 // yyyymm
}

// epoch holds the mint keys of a month and how many notes they signed and saw
// again.
type epoch struct {
	Denoms
	index    uint64 // leaf index of the denoms entry
	pubs     []*note.PublicKey
	issued   []uint64
	redeemed []uint64
	lapsed   uint64 // leaf index of the lapse entry, 0 if none
}

// mintKey is the place of one key.
type mintKey struct {
	epochKey
	i int
}

func newEpoch(d *Denoms, index uint64) (*epoch, error) {
	e := &epoch{Denoms: *d, index: index, issued: make([]uint64, len(d.Keys)), redeemed: make([]uint64, len(d.Keys))}
	for i := range d.Keys {
		pub, err := note.ParseKey(privacy.UseNote, d.Keys[i].N[:])
		if err != nil {
			return nil, refuse(ErrMalformed, "mint key %d: %v", i, err)
		}
		e.pubs = append(e.pubs, pub)
	}
	return e, nil
}

func (s *State) applyDenoms(d *Denoms) error {
	if err := s.currency(d.Cur); err != nil {
		return err
	}
	month := d.Epoch % 100
	switch {
	case month < 1 || month > 12 || d.Epoch < firstEpoch || d.Epoch > 999912:
		return refuse(ErrMalformed, "epoch %d is no yyyymm", d.Epoch)
	case d.IssueTo >= d.RedeemTo || d.RedeemTo > d.SwapTo || d.SwapTo > maxTickMs:
		return refuse(ErrMalformed, "want issue_to < redeem_to <= swap_to")
	case len(s.denoms) >= maxEpochs:
		return refuse(ErrLimit, "%d epochs", maxEpochs)
	}
	key := epochKey{d.Cur, d.Epoch}
	if old, known := s.denoms[key]; known {
		return &DuplicateError{What: "epoch", Index: old.index}
	}
	last := uint32(0)
	for i := range d.Keys {
		k := &d.Keys[i]
		if k.Minor&(k.Minor-1) != 0 || k.Minor <= last || k.Minor > 1<<(MaxDenoms-1) {
			return refuse(ErrMalformed, "key %d has value %d, want ascending powers of two up to 2^%d", i, k.Minor, MaxDenoms-1)
		}
		last = k.Minor
		if old, known := s.mintKeys[noteKeyID(&k.N)]; known {
			return &DuplicateError{What: "mint key", Index: s.denoms[old.epochKey].index}
		}
		for j := range d.Keys[:i] {
			if bytes.Equal(k.N[:], d.Keys[j].N[:]) {
				return refuse(ErrMalformed, "keys %d and %d share a modulus", j, i)
			}
		}
	}
	e, err := newEpoch(d, s.size)
	if err != nil {
		return err
	}
	s.putEpoch(key, e)
	return nil
}

func (s *State) putEpoch(key epochKey, e *epoch) {
	s.denoms[key] = e
	for i := range e.Keys {
		s.mintKeys[noteKeyID(&e.Keys[i].N)] = mintKey{key, i}
	}
}

// Denoms is the denoms entry of a currency and month: its leaf index, the keys
// and, per key, how many notes were issued and redeemed.
func (s *State) Denoms(cur uint8, month uint32) (d Denoms, index uint64, issued, redeemed []uint64, ok bool) {
	e, ok := s.denoms[epochKey{cur, month}]
	if !ok {
		return Denoms{}, 0, nil, nil, false
	}
	return e.Denoms, e.index, append([]uint64(nil), e.issued...), append([]uint64(nil), e.redeemed...), true
}

// value is n notes of key i in millionths.
func (s *State) value(e *epoch, i int, n uint64) (int64, bool) {
	v, ok := mulAmount(uint64(e.Keys[i].Minor)*uint64(s.currencies[e.Cur].Minor()), n)
	return v, ok // minor < 2^16 and the unit <= 10^6: their product fits
}

// circulating is what the notes of an epoch that are not redeemed are worth.
func (s *State) circulating(e *epoch) (int64, bool) {
	var sum int64
	for i := range e.Keys {
		v, ok := s.value(e, i, e.issued[i]-e.redeemed[i])
		if !ok {
			return 0, false
		}
		if sum, ok = addAmount(sum, v); !ok {
			return 0, false
		}
	}
	return sum, true
}

// countCirculation recomputes what book.circulation counts.
func (s *State) countCirculation(cur uint8) int64 {
	var sum int64
	for key, e := range s.denoms {
		if key.cur != cur || e.lapsed != 0 {
			continue
		}
		v, _ := s.circulating(e) // below the notes book, which is an int64
		sum += v
	}
	return sum
}

func (s *State) applyIssue(b *Issue) ([]Posting, error) {
	if err := s.currency(b.Cur); err != nil {
		return nil, err
	}
	e, known := s.denoms[epochKey{b.Cur, b.Epoch}]
	switch {
	case !known || len(b.Counts) != len(e.Keys):
		return nil, refuse(ErrMalformed, "no %d mint keys for epoch %d", len(b.Counts), b.Epoch)
	case s.tick > e.IssueTo:
		return nil, refuse(ErrWindow, "epoch %d issues no more", b.Epoch)
	case uint64(b.Claims) < s.params.MinBatch && s.issued[b.Cur] == s.Bucket()+1:
		return nil, refuse(ErrBatchTooSmall, "%d claims, want %d or the first issue of a bucket", b.Claims, s.params.MinBatch)
	}
	var x int64
	for i, n := range b.Counts {
		v, ok := s.value(e, i, uint64(n))
		if ok {
			x, ok = addAmount(x, v)
		}
		if !ok {
			return nil, refuse(ErrOverflow, "value of the notes")
		}
	}
	if x == 0 {
		return nil, refuse(ErrMalformed, "issue of no notes")
	}
	postings := []Posting{{EarnedAccount(b.Cur), -x}, {NotesAccount(b.Cur), x}}
	if err := s.post(postings...); err != nil {
		return nil, err
	}
	for i, n := range b.Counts {
		e.issued[i] += uint64(n)
	}
	s.issued[b.Cur] = s.Bucket() + 1
	s.books[b.Cur].circulation += x
	return postings, nil
}

// noteChecks appends the blind signatures and spends of a redeem.
func (s *State) noteChecks(b *Redeem, checks []Check) ([]Check, error) {
	msg := note.SpendMessage(s.home, uint32(b.Payee), b.Bind)
	for i := range b.Notes {
		n := &b.Notes[i]
		place, known := s.mintKeys[n.Note.KeyID()]
		if !known {
			return nil, refuse(ErrNotBacked, "note %d is of no mint key on this ledger", i)
		}
		pub := s.denoms[place.epochKey].pubs[place.i]
		serial := n.Note.Serial()
		checks = append(checks, Check{Pub: serial[:], Msg: msg, Sig: n.Spend[:]},
			Check{Fact: func() error { return checkNote(&n.Note, pub) }})
	}
	return checks, nil
}

func checkNote(n *note.Note, pub *note.PublicKey) error {
	if err := note.Verify(n, pub); err != nil {
		return refuse(ErrSignature, "%v", err)
	}
	return nil
}

func (s *State) applyRedeem(b *Redeem) ([]Posting, error) {
	if err := s.payeeOfNotes(b.Payee); err != nil {
		return nil, err
	}
	x, counts, err := s.sumNotes(b)
	if err != nil {
		return nil, err
	}
	cur := b.Payee.Currency()
	if step := int64(s.params.RedeemStep) * s.currencies[cur].Minor(); b.Payee.Party() != 0 && x%step != 0 {
		return nil, refuse(ErrMalformed, "redeem of %d, want a multiple of %d", x, step)
	}
	postings := []Posting{{NotesAccount(cur), -x}, {b.Payee, x}}
	if err := s.post(postings...); err != nil {
		return nil, err
	}
	for place, n := range counts {
		s.denoms[place.epochKey].redeemed[place.i] += n
	}
	for i := range b.Notes {
		key := s.mintKeys[b.Notes[i].Note.KeyID()].epochKey
		s.spentIn(key).add(short(note.Nullifier(&b.Notes[i].Note)), s.size)
	}
	s.books[cur].circulation -= x
	return postings, nil
}

func (s *State) payeeOfNotes(a Account) error {
	if err := s.currency(a.Currency()); err != nil {
		return err
	}
	switch {
	case a.Party() == 0 && a.Book() == Earned:
		return nil
	case a.Party() != 0 && a.Book() == Open:
		return s.role(a.Party(), Utility)
	}
	return refuse(ErrRole, "notes return to a utility's open book or to earned, not to %v", a)
}

// sumNotes checks the notes against windows, nullifiers and backing, and gives
// their value and how many are of which key.
func (s *State) sumNotes(b *Redeem) (x int64, counts map[mintKey]uint64, err error) {
	counts = map[mintKey]uint64{}
	inEntry := map[digest]bool{}
	for i := range b.Notes {
		n := &b.Notes[i].Note
		place, known := s.mintKeys[n.KeyID()]
		if !known || place.cur != b.Payee.Currency() {
			return 0, nil, refuse(ErrNotBacked, "note %d is of no mint key of this currency", i)
		}
		e := s.denoms[place.epochKey]
		limit := e.RedeemTo
		if b.Payee.Party() == 0 {
			limit = e.SwapTo
		}
		if s.tick > limit || e.lapsed != 0 {
			return 0, nil, refuse(ErrWindow, "note %d of epoch %d is too late", i, e.Epoch)
		}
		null := short(note.Nullifier(n))
		if index, used := s.spent[place.epochKey].index(null); used {
			return 0, nil, &DuplicateError{What: "note", Index: index}
		}
		if inEntry[null] {
			return 0, nil, &DuplicateError{What: "note", Index: s.size}
		}
		inEntry[null] = true
		counts[place]++
		if e.redeemed[place.i]+counts[place] > e.issued[place.i] {
			return 0, nil, refuse(ErrNotBacked, "more notes of value %d return than were issued", e.Keys[place.i].Minor)
		}
		v, ok := s.value(e, place.i, 1)
		if ok {
			x, ok = addAmount(x, v)
		}
		if !ok {
			return 0, nil, refuse(ErrOverflow, "value of the notes")
		}
	}
	return x, counts, nil
}

func (s *State) applyLapse(b *Lapse) ([]Posting, error) {
	if err := s.currency(b.Cur); err != nil {
		return nil, err
	}
	key := epochKey{b.Cur, b.Epoch}
	e, known := s.denoms[key]
	switch {
	case !known:
		return nil, refuse(ErrMalformed, "no mint keys for epoch %d", b.Epoch)
	case e.lapsed != 0:
		return nil, &DuplicateError{What: "lapse", Index: e.lapsed}
	case s.tick <= e.SwapTo:
		return nil, refuse(ErrWindow, "notes of epoch %d may still be swapped", b.Epoch)
	}
	x, ok := s.circulating(e)
	if !ok {
		return nil, fmt.Errorf("%w: value of epoch %d", errBroken, b.Epoch)
	}
	var postings []Posting
	if x > 0 {
		postings = []Posting{{NotesAccount(b.Cur), -x}, {UnclaimedAccount(b.Cur), x}}
		if err := s.post(postings...); err != nil {
			return nil, err
		}
	}
	e.lapsed = s.size
	s.books[b.Cur].circulation -= x
	delete(s.spent, key) // no note of this epoch is accepted any more
	return postings, nil
}
