package ledger

import "gridveil/privacy/note"

// Limits of the entries that move money.
const (
	MaxNotes = 128  // notes of one redeem: 128 x 360 B stays below MaxEntry
	MaxPays  = 4000 // payments of one close: 16 B each stay below MaxEntry
)

// CDR posts one session: who pays, and a hiding commitment to the money and
// energy. It moves nothing before a Settle opens the sum.
type CDR struct {
	Cur      uint8
	Bucket   uint32  // first unsettled bucket of the pair, see State.OpenBucket
	Payer    PartyID // the driver's utility
	Grid     PartyID // the host's utility, 0 for reimbursement
	Ref      Hash    // SHA-256("gridveil/ref/v1\0" || Cert), known to aggregator and driver only
	Evidence Hash    // SHA-256(salt32 || Record)
	Commit   Hash    // privacy/commit of (pay, earn, gridpay, energy)
	Tariff   uint64  // leaf index of a tariff entry, or 0
}

// Settle opens the sum of a pair's unsettled buckets up to To.
type Settle struct {
	Cur     uint8
	Payer   PartyID
	Grid    PartyID
	To      uint32 // last bucket taken
	N       uint32 // sessions in the sum
	Pay     int64  // what the payer owes
	Earn    int64  // what households receive as notes, in whole minor units
	GridPay int64  // what the grid utility receives, below zero if it pays
	Energy  int64  // mWh
	Blind   Hash   // sum of the blinds
}

// Transfer moves X millionths from an open book of the author.
type Transfer struct {
	From    Account
	To      Account // another open book or the earned book, same currency
	X       int64   // above 0
	Purpose Purpose
	Ref     Hash // salted by its author
}

// Purpose says why a transfer was made; statements print it.
type Purpose uint16

// Purposes of transfers.
const (
	PurposeFeedIn      Purpose = 1 // energy bought from homes
	PurposeFlexibility Purpose = 2 // flexibility delivered to a DSO
	PurposeFee         Purpose = 3 // fees between operators
	PurposeHousehold   Purpose = 4 // payout to households, to the earned book
	PurposeCorrection  Purpose = 5 // a wrong settled CDR; Ref = SHA-256(ref || case)
)

// String is the word of a statement.
func (p Purpose) String() string {
	names := [...]string{"none", "feed-in", "flexibility", "fee", "household", "correction"}
	if int(p) < len(names) {
		return names[p]
	}
	return "other"
}

// Reverse undoes one transfer since the last close, whole and once.
type Reverse struct {
	Target uint64 // leaf index
	Leaf   Hash   // its leaf hash
}

// Issue turns earned money into notes in circulation.
type Issue struct {
	Cur    uint8
	Epoch  uint32
	Claims uint32   // hosts and drivers served
	Root   Hash     // over salted claim leaves, so an omitted one can prove it
	Counts []uint32 // notes signed per key of the epoch, in its order
}

// Redeem returns notes to the payee: an open book of a utility, or the earned
// book for a swap.
type Redeem struct {
	Payee Account
	Bind  Hash         // salted purpose, covered by each spend signature
	Notes []note.Spent // 1..128, each with the signature of its serial key
}

// Lapse moves what is left of an expired epoch to the unclaimed book.
type Lapse struct {
	Cur   uint8
	Epoch uint32
}

// Close nets the open books of a currency into bank payments.
type Close struct {
	Period uint32 // last + 1, per currency, from 1
	Cur    uint8
	Pays   []Pay
}

// Pay is one payment of a close, in whole minor units.
type Pay struct {
	Payer PartyID
	Payee PartyID
	Minor uint64
}

// Paid confirms payment No (from 1) of a close.
type Paid struct {
	Period  uint32
	Cur     uint8
	No      uint16
	BankRef Hash
}

// Failed puts payment No of a close back on the open books.
type Failed struct {
	Period uint32
	Cur    uint8
	No     uint16
	Reason FailReason
}

// FailReason says why a payment did not arrive.
type FailReason uint16

// Reasons of a failed payment.
const (
	FailOverdue  FailReason = 1 // nothing arrived within the grace time
	FailReturned FailReason = 2 // the bank sent it back
	FailAccount  FailReason = 3 // account data did not match the registered hash
)

// Kind implements Body.
func (*CDR) Kind() Kind      { return KindCDR }
func (*Settle) Kind() Kind   { return KindSettle }
func (*Transfer) Kind() Kind { return KindTransfer }
func (*Reverse) Kind() Kind  { return KindReverse }
func (*Issue) Kind() Kind    { return KindIssue }
func (*Redeem) Kind() Kind   { return KindRedeem }
func (*Lapse) Kind() Kind    { return KindLapse }
func (*Close) Kind() Kind    { return KindClose }
func (*Paid) Kind() Kind     { return KindPaid }
func (*Failed) Kind() Kind   { return KindFailed }

func (c *CDR) put(w *encoder) {
	w.u8(c.Cur)
	w.u32(c.Bucket)
	w.u32(uint32(c.Payer))
	w.u32(uint32(c.Grid))
	w.h32(c.Ref)
	w.h32(c.Evidence)
	w.h32(c.Commit)
	w.u64(c.Tariff)
}

func getCDR(r *decoder) Body {
	return &CDR{Cur: r.u8(), Bucket: r.u32(), Payer: PartyID(r.u32()), Grid: PartyID(r.u32()),
		Ref: r.h32(), Evidence: r.h32(), Commit: r.h32(), Tariff: r.u64()}
}

func (s *Settle) put(w *encoder) {
	w.u8(s.Cur)
	w.u32(uint32(s.Payer))
	w.u32(uint32(s.Grid))
	w.u32(s.To)
	w.u32(s.N)
	w.i64(s.Pay)
	w.i64(s.Earn)
	w.i64(s.GridPay)
	w.i64(s.Energy)
	w.h32(s.Blind)
}

func getSettle(r *decoder) Body {
	return &Settle{Cur: r.u8(), Payer: PartyID(r.u32()), Grid: PartyID(r.u32()), To: r.u32(), N: r.u32(),
		Pay: r.i64(), Earn: r.i64(), GridPay: r.i64(), Energy: r.i64(), Blind: r.h32()}
}

func (t *Transfer) put(w *encoder) {
	w.u32(uint32(t.From))
	w.u32(uint32(t.To))
	w.i64(t.X)
	w.u16(uint16(t.Purpose))
	w.h32(t.Ref)
}

func getTransfer(r *decoder) Body {
	t := &Transfer{From: Account(r.u32()), To: Account(r.u32()), X: r.i64(), Purpose: Purpose(r.u16()), Ref: r.h32()}
	r.want(t.X > 0)
	return t
}

func (v *Reverse) put(w *encoder) {
	w.u64(v.Target)
	w.h32(v.Leaf)
}

func getReverse(r *decoder) Body { return &Reverse{Target: r.u64(), Leaf: r.h32()} }

func (i *Issue) put(w *encoder) {
	w.u8(i.Cur)
	w.u32(i.Epoch)
	w.u32(i.Claims)
	w.h32(i.Root)
	w.u8(uint8(len(i.Counts)))
	for _, c := range i.Counts {
		w.u32(c)
	}
}

func getIssue(r *decoder) Body {
	i := &Issue{Cur: r.u8(), Epoch: r.u32(), Claims: r.u32(), Root: r.h32()}
	n := int(r.u8())
	r.want(n >= 1 && n <= MaxDenoms && i.Claims >= 1)
	for range n {
		i.Counts = append(i.Counts, r.u32())
	}
	return i
}

func (d *Redeem) put(w *encoder) {
	w.u32(uint32(d.Payee))
	w.h32(d.Bind)
	w.u8(uint8(len(d.Notes)))
	for i := range d.Notes {
		w.raw(d.Notes[i].Note[:])
		w.raw(d.Notes[i].Spend[:])
	}
}

func getRedeem(r *decoder) Body {
	d := &Redeem{Payee: Account(r.u32()), Bind: r.h32()}
	n := int(r.u8())
	r.want(n >= 1 && n <= MaxNotes)
	for i := 0; i < n && !r.bad; i++ {
		var s note.Spent
		copy(s.Note[:], r.take(note.Size))
		copy(s.Spend[:], r.take(len(s.Spend)))
		d.Notes = append(d.Notes, s)
	}
	return d
}

func (l *Lapse) put(w *encoder) {
	w.u8(l.Cur)
	w.u32(l.Epoch)
}

func getLapse(r *decoder) Body { return &Lapse{Cur: r.u8(), Epoch: r.u32()} }

func (c *Close) put(w *encoder) {
	w.u32(c.Period)
	w.u8(c.Cur)
	w.u16(uint16(len(c.Pays)))
	for _, p := range c.Pays {
		w.u32(uint32(p.Payer))
		w.u32(uint32(p.Payee))
		w.u64(p.Minor)
	}
}

func getClose(r *decoder) Body {
	c := &Close{Period: r.u32(), Cur: r.u8()}
	n := int(r.u16())
	r.want(n <= MaxPays)
	for i := 0; i < n && !r.bad; i++ {
		c.Pays = append(c.Pays, Pay{Payer: PartyID(r.u32()), Payee: PartyID(r.u32()), Minor: r.u64()})
	}
	return c
}

func (p *Paid) put(w *encoder) {
	w.u32(p.Period)
	w.u8(p.Cur)
	w.u16(p.No)
	w.h32(p.BankRef)
}

func getPaid(r *decoder) Body {
	return &Paid{Period: r.u32(), Cur: r.u8(), No: r.u16(), BankRef: r.h32()}
}

func (f *Failed) put(w *encoder) {
	w.u32(f.Period)
	w.u8(f.Cur)
	w.u16(f.No)
	w.u16(uint16(f.Reason))
}

func getFailed(r *decoder) Body {
	return &Failed{Period: r.u32(), Cur: r.u8(), No: r.u16(), Reason: FailReason(r.u16())}
}
