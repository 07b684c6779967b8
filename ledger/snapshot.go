package ledger

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"maps"
	"slices"

	"gridveil/privacy/commit"
)

const (
	snapshotMagic = "GVSS\x01"
	coreMagic     = "GVSS\x02" // without the used-sets: see Save
)

// Hash is SHA-256 of the canonical snapshot of the state in which the used-sets
// (refs, nullifiers, recent ids) appear only by their counts.
func (s *State) Hash() [32]byte {
	var w encoder
	s.putCore(&w)
	return sha256.Sum256(w.b)
}

// Snapshot encodes the whole state, sorted, so that equal states give equal
// bytes.
func (s *State) Snapshot() []byte {
	return s.encode(true)
}

// encode writes a snapshot; recent says whether the ids of recent entries go
// with it.
func (s *State) encode(recent bool) []byte {
	var w encoder
	w.raw([]byte(snapshotMagic))
	s.putCore(&w)
	s.putUsed(&w)
	s.putRecent(&w, recent)
	return w.b
}

// Flags of a snapshot.
const (
	flagTicked = 1 << iota
	flagSealed // the next log's origin follows
	flagHeir   // what is known of the log before follows
)

func (s *State) putFlags(w *encoder) {
	flags := uint8(0)
	if s.ticked {
		flags |= flagTicked
	}
	if s.next != "" {
		flags |= flagSealed
	}
	if s.heir.base > 0 {
		flags |= flagHeir
	}
	w.u8(flags)
	if s.next != "" {
		w.str8(s.next)
	}
	if h := s.heir; h.base > 0 {
		w.u64(h.base)
		w.h32(h.prev)
		w.u64(h.size)
		w.h32(h.sum)
		w.str8(s.home)
	}
}

func (s *State) getFlags(r *decoder) {
	flags := r.u8()
	r.want(flags < 2*flagHeir)
	s.ticked = flags&flagTicked != 0
	if flags&flagSealed != 0 {
		s.next = r.str8()
		r.want(validOrigin(s.next))
	}
	if flags&flagHeir != 0 {
		s.heir = heir{r.u64(), r.h32(), r.u64(), r.h32()}
		s.home = r.str8()
		s.homeHash = OriginHash(s.home)
		r.want(validOrigin(s.home) && s.heir.base > 0 && s.heir.base <= s.size && s.heir.size <= s.heir.base)
	}
}

// Restore reads a snapshot of the log with this origin. It returns ErrDamaged
// if the bytes are not one, and never panics; whether they are the right ones is
// proved by replaying to a known root.
func Restore(origin string, snapshot []byte) (*State, error) {
	r := decoder{b: snapshot}
	if string(r.take(len(snapshotMagic))) != snapshotMagic {
		return nil, refuse(ErrDamaged, "not a ledger snapshot")
	}
	s := New(origin)
	s.getUsed(&r, s.getCore(&r))
	s.getRecent(&r)
	if !r.done() {
		return nil, refuse(ErrDamaged, "snapshot is cut or of another log")
	}
	if err := s.Audit(); err != nil {
		return nil, refuse(ErrDamaged, "%v", err)
	}
	if !bytes.Equal(s.Snapshot(), snapshot) {
		return nil, refuse(ErrDamaged, "snapshot is not canonical")
	}
	return s, nil
}

// sorted lists the keys of a map in the order of less.
func sorted[K comparable, V any](m map[K]V, order func(a, b K) int) []K {
	return slices.SortedFunc(maps.Keys(m), order)
}

func byBytes(a, b digest) int { return bytes.Compare(a[:], b[:]) }

func byEpoch(a, b epochKey) int {
	return cmp.Or(cmp.Compare(a.cur, b.cur), cmp.Compare(a.epoch, b.epoch))
}

func (s *State) putCore(w *encoder) {
	w.h32(s.originHash)
	w.str8(s.network)
	w.u64(s.size)
	w.u64(s.tick)
	s.putFlags(w)
	for _, f := range s.params.fields() {
		w.u64(*f)
	}
	s.putParties(w)
	s.putBooks(w)
	s.putNotes(w)
	s.putPairs(w)
	s.putCases(w)
	w.u64(uint64(len(s.cdrs)))
	for _, k := range sorted(s.denoms, byEpoch) {
		w.u64(uint64(s.spent[k].len()))
	}
}

func (s *State) getCore(r *decoder) used {
	r.want(r.h32() == s.originHash)
	s.network, s.size, s.tick = r.str8(), r.u64(), r.u64()
	s.getFlags(r)
	for _, f := range s.params.fields() {
		*f = r.u64()
	}
	r.want(s.size == 0 || s.params.valid() == nil)
	s.getParties(r)
	s.getBooks(r)
	s.getNotes(r)
	s.getPairs(r)
	s.getCases(r)
	return usedCounts(r, s)
}

// used counts what follows the core: refs, and nullifiers per epoch.
type used struct {
	refs  uint64
	spent []uint64
}

func usedCounts(r *decoder, s *State) (u used) {
	u.refs = r.u64()
	for range s.denoms {
		u.spent = append(u.spent, r.u64())
	}
	return u
}

func (s *State) putParties(w *encoder) {
	w.u32(uint32(len(s.parties)))
	for i := range s.parties {
		op := &s.parties[i]
		op.put(w)
		w.u64(op.seq)
		w.u64(op.created)
		w.u8(uint8(len(op.keyIDs)))
		for _, id := range op.keyIDs {
			k := s.keys[id]
			w.u8(uint8(k.use))
			w.h32(k.pub)
			w.u64(k.added)
			w.bool(k.revoked)
		}
	}
}

func (s *State) getParties(r *decoder) {
	n := int(r.u32())
	r.want(n <= MaxParties)
	for i := 0; i < n && !r.bad; i++ {
		op := operator{Party: getParty(r), seq: r.u64(), created: r.u64()}
		r.want(op.Party.Party == PartyID(i+1))
		for range r.u8() {
			k := keyRecord{party: op.Party.Party, use: Use(r.enum(uint8(UsePseudonym))), pub: r.h32(), added: r.u64(), revoked: r.bool()}
			id := KeyIDOf(k.use, k.pub)
			s.keys[id] = k
			op.keyIDs = append(op.keyIDs, id)
			if k.use == UseEntry && !k.revoked {
				op.entry++
			}
		}
		s.names[op.Name] = op.Party.Party
		s.parties = append(s.parties, op)
	}
}

func (s *State) putBooks(w *encoder) {
	w.u8(uint8(len(s.books)))
	for cur := range s.books {
		b := &s.books[cur]
		w.u16(s.currencies[cur].ISO4217)
		w.u8(s.currencies[cur].Exp)
		for _, v := range b.common {
			w.i64(v)
		}
		for i := range b.open {
			w.i64(b.open[i])
			w.i64(b.due[i])
		}
		w.u32(s.lastClose[cur].period)
		w.u32(s.lastClose[cur].bucket)
		w.u32(s.issued[uint8(cur)])
	}
	w.u32(uint32(len(s.tariffs)))
	for _, i := range sorted(s.tariffs, cmp.Compare[uint64]) {
		t := s.tariffs[i]
		w.u64(i)
		t.put(w)
	}
	w.u64(uint64(len(s.transfers)))
	for _, i := range sorted(s.transfers, cmp.Compare[uint64]) {
		t := s.transfers[i]
		w.u64(i)
		w.u32(uint32(t.from))
		w.u32(uint32(t.to))
		w.i64(t.x)
		w.h32(t.leaf)
		w.u64(t.reversed)
	}
	s.putCloses(w)
}

func (s *State) getBooks(r *decoder) {
	n := int(r.u8())
	r.want(n <= MaxCurrencies)
	for cur := 0; cur < n && !r.bad; cur++ {
		c := Currency{ISO4217: r.u16(), Exp: r.u8()}
		r.want(c.Exp <= 6)
		s.currencies = append(s.currencies, c)
		var b book
		for i := range b.common {
			b.common[i] = r.i64()
		}
		for range s.parties {
			b.open = append(b.open, r.i64())
			b.due = append(b.due, r.i64())
		}
		s.books = append(s.books, b)
		s.lastClose = append(s.lastClose, closeMark{r.u32(), r.u32()})
		if v := r.u32(); v != 0 {
			s.issued[uint8(cur)] = v
		}
	}
	for n := r.u32(); n > 0 && !r.bad; n-- {
		i := r.u64()
		s.tariffs[i] = Tariff{Hash: r.h32(), From: r.u64(), To: r.u64()}
	}
	for n := r.u64(); n > 0 && !r.bad; n-- {
		i := r.u64()
		s.transfers[i] = &transferRecord{from: Account(r.u32()), to: Account(r.u32()), x: r.i64(), leaf: r.h32(), reversed: r.u64()}
	}
	s.getCloses(r)
}

func byClose(a, b closeKey) int {
	return cmp.Or(cmp.Compare(a.cur, b.cur), cmp.Compare(a.period, b.period))
}

func (s *State) putCloses(w *encoder) {
	w.u32(uint32(len(s.closes)))
	for _, k := range sorted(s.closes, byClose) {
		c := s.closes[k]
		w.u8(k.cur)
		w.u32(k.period)
		w.u64(c.index)
		w.u32(c.bucket)
		w.u16(uint16(len(c.pays)))
		for _, p := range c.pays {
			w.u32(uint32(p.Payer))
			w.u32(uint32(p.Payee))
			w.u64(p.Minor)
			w.u8(uint8(p.state))
			w.u64(p.index)
		}
	}
}

func (s *State) getCloses(r *decoder) {
	for n := r.u32(); n > 0 && !r.bad; n-- {
		k := closeKey{r.u8(), r.u32()}
		c := &closeRecord{index: r.u64(), bucket: r.u32()}
		r.want(int(k.cur) < len(s.currencies))
		for m := r.u16(); m > 0 && !r.bad; m-- {
			p := payRecord{Pay: Pay{PartyID(r.u32()), PartyID(r.u32()), r.u64()}, state: PayState(r.u8()), index: r.u64()}
			r.want(p.state <= PayFailed && p.Payer >= 1 && int(p.Payer) <= len(s.parties) && p.Payee >= 1 && int(p.Payee) <= len(s.parties))
			c.pays = append(c.pays, p)
		}
		s.closes[k] = c
	}
}

func (s *State) putNotes(w *encoder) {
	w.u32(uint32(len(s.denoms)))
	for _, k := range sorted(s.denoms, byEpoch) {
		e := s.denoms[k]
		e.put(w)
		w.u64(e.index)
		w.u64(e.lapsed)
		for i := range e.Keys {
			w.u64(e.issued[i])
			w.u64(e.redeemed[i])
		}
	}
}

func (s *State) getNotes(r *decoder) {
	for n := r.u32(); n > 0 && !r.bad; n-- {
		d := getDenoms(r).(*Denoms)
		index, lapsed := r.u64(), r.u64()
		if r.want(int(d.Cur) < len(s.books)); r.bad {
			return
		}
		e, err := newEpoch(d, index)
		if err != nil {
			r.bad = true
			return
		}
		e.lapsed = lapsed
		for i := range e.Keys {
			e.issued[i], e.redeemed[i] = r.u64(), r.u64()
			r.want(e.redeemed[i] <= e.issued[i])
		}
		s.putEpoch(epochKey{d.Cur, d.Epoch}, e)
		if lapsed == 0 {
			v, ok := s.circulating(e)
			r.want(ok)
			s.books[d.Cur].circulation += v
		}
	}
}

func (s *State) putPairs(w *encoder) {
	w.u64(s.open)
	w.u32(s.month)
	w.u64(s.monthCDRs)
	w.u32(uint32(len(s.pairs)))
	for _, k := range sortedPairs(s.pairs) {
		p := s.pairs[k]
		w.u8(k.cur)
		w.u32(uint32(k.payer))
		w.u32(uint32(k.grid))
		w.bool(p.settled)
		w.u32(p.settledTo)
		w.u32(uint32(len(p.sums)))
		for _, b := range p.sums {
			w.u32(b.bucket)
			w.u64(b.n)
			w.h32(b.sum.Bytes())
		}
	}
}

func (s *State) getPairs(r *decoder) {
	s.open, s.month, s.monthCDRs = r.u64(), r.u32(), r.u64()
	for n := r.u32(); n > 0 && !r.bad; n-- {
		k := pairKey{r.u8(), PartyID(r.u32()), PartyID(r.u32())}
		p := &pair{settled: r.bool(), settledTo: r.u32()}
		for m := r.u32(); m > 0 && !r.bad; m-- {
			b := bucketSum{bucket: r.u32(), n: r.u64()}
			sum, err := commit.ParseSum(r.h32())
			r.want(err == nil)
			b.sum = sum
			p.sums = append(p.sums, b)
		}
		s.pairs[k] = p
	}
}

func byCase(a, b CaseID) int { return bytes.Compare(a[:], b[:]) }

func (s *State) putCases(w *encoder) {
	w.u32(uint32(len(s.quota)))
	for _, p := range sorted(s.quota, cmp.Compare[PartyID]) {
		w.u32(uint32(p))
		w.u64(s.quota[p])
	}
	w.u32(uint32(len(s.cases)))
	for _, id := range sorted(s.cases, byCase) {
		c := s.cases[id]
		w.raw(id[:])
		w.u64(c.index)
		w.u8(uint8(c.ended))
		if c.ended != 0 {
			continue
		}
		w.u32(uint32(c.requester))
		w.u32(uint32(c.utility))
		w.u8(uint8(c.asks))
		w.u16(uint16(c.reason))
		w.u64(c.opened)
		w.bool(c.answered)
		w.u8(uint8(len(c.refs)))
		for _, ref := range c.refs {
			w.h32(ref)
		}
		for _, list := range [][]PartyID{c.yes, c.no, c.partials} {
			w.u16(uint16(len(list)))
			for _, p := range list {
				w.u32(uint32(p))
			}
		}
	}
}

func (s *State) getCases(r *decoder) {
	for n := r.u32(); n > 0 && !r.bad; n-- {
		p := PartyID(r.u32())
		s.quota[p] = r.u64()
	}
	for n := r.u32(); n > 0 && !r.bad; n-- {
		id := r.caseID()
		c := &caseRecord{index: r.u64(), ended: Outcome(r.u8())}
		r.want(c.ended <= Cancel)
		s.cases[id] = c
		if c.ended == 0 {
			s.getOpenCase(r, id, c)
		}
	}
}

func (s *State) getOpenCase(r *decoder, id CaseID, c *caseRecord) {
	c.requester, c.utility = s.getParty(r), s.getParty(r)
	c.asks, c.reason, c.opened, c.answered = CaseKind(r.enum(uint8(CaseOpen))), Reason(r.u16()), r.u64(), r.bool()
	for n := r.u8(); n > 0 && !r.bad; n-- {
		ref := r.h32()
		c.refs = append(c.refs, ref)
		s.disputed[ref] = id
	}
	for _, list := range []*[]PartyID{&c.yes, &c.no, &c.partials} {
		for n := r.u16(); n > 0 && !r.bad; n-- {
			*list = append(*list, s.getParty(r))
		}
	}
	s.openCases++
}

// getParty reads the number of a registered party.
func (s *State) getParty(r *decoder) PartyID {
	p := PartyID(r.u32())
	r.want(p >= 1 && int(p) <= len(s.parties))
	return p
}

// putUsed writes the refs and nullifiers, which Hash only counts.
func (s *State) putUsed(w *encoder) {
	for _, d := range sorted(s.cdrs, byBytes) {
		s.putRef(w, d, s.cdrs[d])
	}
	for _, k := range sorted(s.denoms, byEpoch) {
		for _, d := range s.spent[k].sorted() {
			index, _ := s.spent[k].index(d)
			putSpent(w, d, index)
		}
	}
}

func (s *State) getUsed(r *decoder, n used) {
	for ; n.refs > 0 && !r.bad; n.refs-- {
		d, c := s.getRef(r)
		s.cdrs[d] = c
		s.remember(c.bucket, d)
	}
	for i, k := range sorted(s.denoms, byEpoch) {
		for m := n.spent[i]; m > 0 && !r.bad; m-- {
			d, index := getSpent(r)
			s.spentIn(k).add(d, index)
		}
	}
}

func (s *State) putRef(w *encoder, d digest, c *cdrRecord) {
	w.raw(d[:])
	w.u8(c.cur)
	w.u32(uint32(c.payer))
	w.u32(uint32(c.grid))
	w.u32(c.bucket)
	w.u8(uint8(c.state))
	w.u64(c.index)
	waits := c.state == cdrHeld || s.unsettled(c)
	if w.bool(waits); waits {
		w.h32(c.commit)
	}
}

func (s *State) getRef(r *decoder) (digest, *cdrRecord) {
	d := digest(r.caseID())
	c := &cdrRecord{pairKey: pairKey{r.u8(), PartyID(r.u32()), PartyID(r.u32())}, bucket: r.u32(), state: cdrState(r.u8()), index: r.u64()}
	if r.want(c.state <= cdrGone && s.pairs[c.pairKey] != nil); r.bad {
		return d, c
	}
	if r.bool() {
		c.commit = r.h32()
	} else {
		r.want(c.state != cdrHeld && !s.unsettled(c))
	}
	return d, c
}

func putSpent(w *encoder, d digest, index uint64) {
	w.raw(d[:])
	w.u64(index)
}

func getSpent(r *decoder) (digest, uint64) { return digest(r.caseID()), r.u64() }

// putRecent writes the ids of recent entries, or that there are none.
func (s *State) putRecent(w *encoder, ids bool) {
	for i := range s.parties {
		recent := s.parties[i].recent
		if !ids {
			recent = nil
		}
		w.u32(uint32(len(recent)))
		for _, ref := range recent {
			w.u64(ref.index)
			w.h32(ref.leaf)
		}
	}
}

func (s *State) getRecent(r *decoder) {
	for i := range s.parties {
		op := &s.parties[i]
		for m := r.u32(); m > 0 && !r.bad; m-- {
			op.recent = append(op.recent, seqRef{r.u64(), r.h32()})
		}
		r.want(uint64(len(op.recent)) <= op.seq)
	}
}
