package session

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"sort"

	"gridveil/privacy"
)

// Line is one session on the bill of a driver's utility. By its type it cannot
// say where, when, at whose house, under which certificate or by which entry of
// the ledger; the day is the settlement's.
type Line struct {
	BPK       [32]byte
	Form      LineForm
	EVAGG     [16]byte
	Epoch     uint32
	In, Out   int64 // mWh, multiples of 100 Wh
	Total     int64 // millionths
	Currency  uint16
	AuthNonce [16]byte
	Band      uint16            // Mandate: the band of the driver's mandate; else 0
	Sig       privacy.Signature // by BPK: over the stub (Signed) or over the mandate (Mandate)
}

// LineForm says what the driver signed.
type LineForm byte

// Forms of a Line.
const (
	Signed  LineForm = 1 // the driver signed energy and amount
	Mandate LineForm = 2 // cut or unattended: the driver signed the band, the aggregator the amount
)

func (l *Line) stub() stub {
	return stub{BPK: l.BPK, EVAGG: l.EVAGG, Epoch: l.Epoch, In: l.In, Out: l.Out, Total: l.Total,
		Currency: l.Currency, AuthNonce: l.AuthNonce, Sig: l.Sig}
}

func (e *enc) line(l *Line) {
	e.raw(l.BPK[:])
	e.u8(byte(l.Form))
	e.raw(l.EVAGG[:])
	e.u32(l.Epoch)
	e.i64(l.In)
	e.i64(l.Out)
	e.i64(l.Total)
	e.u16(l.Currency)
	e.raw(l.AuthNonce[:])
	e.u16(l.Band)
	e.raw(l.Sig[:])
}

func (d *dec) line() (l Line) {
	d.raw(l.BPK[:])
	l.Form = LineForm(d.u8())
	d.raw(l.EVAGG[:])
	l.Epoch = d.u32()
	l.In, l.Out = d.energy(), d.energy()
	l.Total = d.debt()
	l.Currency = d.u16()
	d.raw(l.AuthNonce[:])
	l.Band = d.u16()
	d.raw(l.Sig[:])
	switch l.Form {
	case Signed:
		d.bad = d.bad || l.Band != 0
	case Mandate:
		d.bad = d.bad || !IsBand(l.Band)
	default:
		d.bad = true
	}
	return l
}

// Bytes encodes the line, LineSize bytes.
func (l *Line) Bytes() []byte {
	e := enc(make([]byte, 0, LineSize))
	e.line(l)
	return e
}

// ParseLine decodes a line as Bytes gave it.
func ParseLine(b []byte) (Line, error) {
	d := &dec{b: b}
	l := d.line()
	return l, d.end("bill line")
}

// Hash names the line in a LineReject.
func (l *Line) Hash() [32]byte { return sha256.Sum256(l.Bytes()) }

// verify checks the driver's signature.
func (l *Line) verify(net privacy.Net) bool {
	if l.Form == Mandate {
		a := billAuth{EVAGG: l.EVAGG, Epoch: l.Epoch, Band: l.Band, Nonce: l.AuthNonce}
		return privacy.Verify(l.BPK[:], privacy.KindBillAuth, net, a.body(), l.Sig)
	}
	s := l.stub()
	return privacy.Verify(l.BPK[:], privacy.KindStub, net, s.body(), l.Sig)
}

// BillBatch is all lines of one utility in one settlement, sorted by bill key,
// so that their order tells nothing. It travels sealed to the utility's
// monthly bill key, as kind KindBillBatch.
type BillBatch struct {
	EVAGG    [16]byte
	Currency uint16
	Settle   [32]byte // hash of the settle entry that the utility is asked to sign
	Lines    []Line
	Sig      privacy.Signature // by the aggregator's record key
}

// NewBillBatch sorts the lines and signs the batch. It returns ErrMalformed for
// no lines, more than MaxLines or a repeated bill key.
func NewBillBatch(net privacy.Net, key ed25519.PrivateKey, evagg [16]byte, currency uint16, settle [32]byte, lines []Line) (BillBatch, error) {
	b := BillBatch{EVAGG: evagg, Currency: currency, Settle: settle, Lines: append([]Line(nil), lines...)}
	sort.Slice(b.Lines, func(i, j int) bool { return bytes.Compare(b.Lines[i].BPK[:], b.Lines[j].BPK[:]) < 0 })
	b.Sig = privacy.Sign(key, privacy.KindBillBatch, net, b.body())
	if _, err := ParseBillBatch(b.Bytes()); err != nil {
		return BillBatch{}, err
	}
	return b, nil
}

func (b *BillBatch) body() []byte {
	e := head(privacy.KindBillBatch, 2+16+2+32+2+len(b.Lines)*LineSize+64)
	e.raw(b.EVAGG[:])
	e.u16(b.Currency)
	e.raw(b.Settle[:])
	e.u16(uint16(len(b.Lines)))
	for i := range b.Lines {
		e.line(&b.Lines[i])
	}
	return e
}

// Bytes encodes the batch.
func (b *BillBatch) Bytes() []byte { return append(b.body(), b.Sig[:]...) }

// ParseBillBatch decodes a batch; lines must be sorted and their keys distinct.
func ParseBillBatch(raw []byte) (BillBatch, error) {
	var b BillBatch
	d := body(raw, privacy.KindBillBatch, -1)
	d.raw(b.EVAGG[:])
	b.Currency = d.u16()
	d.raw(b.Settle[:])
	n := int(d.u16())
	if n < 1 || n > MaxLines || len(d.b) != n*LineSize+64 {
		d.bad = true
	}
	for i := 0; i < n && !d.bad; i++ {
		l := d.line()
		if i > 0 && bytes.Compare(b.Lines[i-1].BPK[:], l.BPK[:]) >= 0 {
			d.bad = true
		}
		b.Lines = append(b.Lines, l)
	}
	d.raw(b.Sig[:])
	return b, d.end("bill batch")
}

// RejectCode says why a utility refuses a line.
type RejectCode byte

// Reasons of a LineReject.
const (
	RejectUnknown   RejectCode = 1 // no row of this utility and epoch
	RejectBilled    RejectCode = 2 // the row was billed before
	RejectLimit     RejectCode = 3 // above the row's limit or the mandate's band
	RejectSignature RejectCode = 4 // the driver's signature does not verify
	RejectForeign   RejectCode = 5 // another aggregator, currency or rounding
)

// String names the code for an operator's page.
func (c RejectCode) String() string {
	switch c {
	case RejectUnknown:
		return "no such row"
	case RejectBilled:
		return "billed before"
	case RejectLimit:
		return "above the limit"
	case RejectSignature:
		return "driver's signature does not verify"
	case RejectForeign:
		return "other aggregator, currency or rounding"
	}
	return fmt.Sprintf("code %d", byte(c))
}

// LineReject is the utility's signed refusal of one line: the aggregator holds
// that session back and settles the rest.
type LineReject struct {
	Line [32]byte // Line.Hash
	Code RejectCode
	Sig  privacy.Signature
}

func (r *LineReject) body() []byte {
	e := head(privacy.KindLineReject, RejectSize)
	e.raw(r.Line[:])
	e.u8(byte(r.Code))
	return e
}

// Bytes encodes the refusal, RejectSize bytes.
func (r *LineReject) Bytes() []byte { return append(r.body(), r.Sig[:]...) }

// ParseLineReject decodes a refusal.
func ParseLineReject(b []byte) (LineReject, error) {
	var r LineReject
	d := body(b, privacy.KindLineReject, RejectSize)
	d.raw(r.Line[:])
	r.Code = RejectCode(d.u8())
	d.raw(r.Sig[:])
	d.bad = d.bad || r.Code < RejectUnknown || r.Code > RejectForeign
	return r, d.end("line reject")
}

// Verify returns ErrSignature unless the utility signed the refusal.
func (r *LineReject) Verify(net privacy.Net, utility [32]byte) error {
	if !privacy.Verify(utility[:], privacy.KindLineReject, net, r.body(), r.Sig) {
		return fmt.Errorf("line reject: %w", ErrSignature)
	}
	return nil
}

// Row is what a utility kept when it issued a pseudonym: the contract behind
// the bill key is the store's affair and not needed here.
type Row struct {
	Epoch  uint32
	Limit  uint16 // currency units
	Billed bool
}

// Totals of a checked batch: what the settle entry must open to.
type Totals struct {
	Lines  int
	Pay    int64 // millionths
	Energy int64 // mWh, Line.In + Line.Out
}

// Biller is a utility that checks batches.
type Biller struct {
	Net   privacy.Net
	EVAGG [16]byte // the aggregator whose batches it takes
	Key   [32]byte // that aggregator's record key
	Sign  ed25519.PrivateKey
	Row   func(bpk [32]byte) (Row, bool) // the utility's own rows
}

// Check decides every line of a batch. If rejects is empty, the batch holds:
// the utility may sign a settle entry that opens to exactly these totals, and
// bills the rows once that entry is final. Else Totals cover the good lines,
// and each refused one has a signed reason. The batch as a whole is refused
// with ErrMalformed, ErrMismatch or ErrSignature.
func (u *Biller) Check(raw []byte) (BillBatch, Totals, []LineReject, error) {
	b, err := ParseBillBatch(raw)
	if err != nil {
		return BillBatch{}, Totals{}, nil, err
	}
	if b.EVAGG != u.EVAGG {
		return BillBatch{}, Totals{}, nil, fmt.Errorf("%w: bill batch of another aggregator", ErrMismatch)
	}
	if !privacy.Verify(u.Key[:], privacy.KindBillBatch, u.Net, b.body(), b.Sig) {
		return BillBatch{}, Totals{}, nil, fmt.Errorf("bill batch: %w", ErrSignature)
	}
	var sum Totals
	var rejects []LineReject
	for i := range b.Lines {
		l := &b.Lines[i]
		if code := u.decide(&b, l); code != 0 {
			r := LineReject{Line: l.Hash(), Code: code}
			r.Sig = privacy.Sign(u.Sign, privacy.KindLineReject, u.Net, r.body())
			rejects = append(rejects, r)
			continue
		}
		sum.Lines++
		sum.Pay += l.Total // MaxLines * MaxAmount stays far below 2^63
		sum.Energy += l.In + l.Out
	}
	return b, sum, rejects, nil
}

func (u *Biller) decide(b *BillBatch, l *Line) RejectCode {
	row, ok := u.Row(l.BPK)
	switch {
	case !ok || row.Epoch != l.Epoch:
		return RejectUnknown
	case row.Billed:
		return RejectBilled
	case l.EVAGG != u.EVAGG || l.Currency != b.Currency || l.In%stubStep != 0 || l.Out%stubStep != 0:
		return RejectForeign
	case l.Total > int64(row.Limit)*unit || l.Form == Mandate && (l.Band > row.Limit || l.Total > int64(l.Band)*unit):
		return RejectLimit
	case !l.verify(u.Net):
		return RejectSignature
	}
	return 0
}
