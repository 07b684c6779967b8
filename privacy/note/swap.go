package note

import (
	"encoding/binary"
	"fmt"
	"time"

	"gridveil/privacy"
)

// Registry finds the key that signed a note among the denoms of all months and
// currencies on the ledger.
type Registry struct{ byKey map[[8]byte]registered }

type registered struct {
	pub      *PublicKey
	minor    uint16
	currency uint16
	epoch    uint32
}

// Add registers the keys of one currency and month.
func (r *Registry) Add(d *Denoms) {
	if r.byKey == nil {
		r.byKey = map[[8]byte]registered{}
	}
	for i, k := range d.Keys {
		r.byKey[k.id] = registered{k, 1 << i, d.Currency, d.Epoch}
	}
}

// Payment is spent notes with the salt that opens their bind.
type Payment struct {
	Salt  [32]byte
	Notes []Spent
}

// check verifies all notes of a payment and gives their sum in minor units.
// Whether a nullifier was seen is the ledger's to know; within the payment a
// note may not stand twice.
func (p *Payment) check(reg *Registry, currency uint16, origin string, payee uint32, purpose []byte, now time.Time, swap bool) (uint32, error) {
	if len(p.Notes) == 0 || len(p.Notes) > MaxSpent {
		return 0, fmt.Errorf("%d notes: %w", len(p.Notes), ErrAmount)
	}
	bind := Bind(p.Salt, purpose)
	seen := make(map[[32]byte]bool, len(p.Notes))
	var sum uint32
	for i := range p.Notes {
		n := &p.Notes[i].Note
		key, ok := reg.byKey[n.KeyID()]
		if !ok || key.currency != currency {
			return 0, fmt.Errorf("note %d: %w", i, ErrKey)
		}
		_, redeemTo, swapTo := Windows(key.epoch)
		if (swap && !now.Before(swapTo)) || (!swap && !now.Before(redeemTo)) {
			return 0, fmt.Errorf("note %d: %w", i, ErrLate)
		}
		if null := Nullifier(n); seen[null] {
			return 0, fmt.Errorf("note %d: %w", i, ErrTwice)
		} else {
			seen[null] = true
		}
		if err := Verify(n, key.pub); err != nil {
			return 0, fmt.Errorf("note %d: %w", i, err)
		}
		if err := VerifySpend(n, p.Notes[i].Spend, origin, payee, bind); err != nil {
			return 0, fmt.Errorf("note %d: %w", i, err)
		}
		sum += uint32(key.minor)
	}
	return sum, nil
}

func (p *Payment) append(b []byte) []byte {
	b = append(b, p.Salt[:]...)
	b = append(b, byte(len(p.Notes)))
	for i := range p.Notes {
		b = append(b, p.Notes[i].Note[:]...)
		b = append(b, p.Notes[i].Spend[:]...)
	}
	return b
}

const spentSize = Size + 64

// parsePayment reads a payment that fills b.
func parsePayment(b []byte) (Payment, error) {
	if len(b) < 33 || b[32] == 0 || b[32] > MaxSpent || len(b) != 33+int(b[32])*spentSize {
		return Payment{}, fmt.Errorf("payment of %d bytes: %w", len(b), ErrEncoding)
	}
	p := Payment{Salt: [32]byte(b), Notes: make([]Spent, b[32])}
	for i := range p.Notes {
		s := b[33+i*spentSize:]
		p.Notes[i] = Spent{Note(s), [64]byte(s[Size:])}
	}
	return p, nil
}

// SwapRequest is old notes with the rows that shall be signed for them. The
// notes are bound to these very rows.
type SwapRequest struct {
	Currency uint16
	Epoch    uint32 // month of the keys that shall sign
	Amounts  []uint16
	Rows     []*Row
	Payment
}

// SwapRequest makes the message of a swap, the same bytes each time.
func (w *Wallet) SwapRequest(id uint64, d *Denoms) (*SwapRequest, error) {
	i, err := w.op(id)
	if err != nil {
		return nil, err
	}
	o := w.ops[i]
	if o.Kind != OpSwap {
		return nil, fmt.Errorf("operation %d is no swap: %w", id, ErrOp)
	}
	rows, err := w.rows(&o, d)
	if err != nil {
		return nil, err
	}
	notes, err := w.Spends(id)
	if err != nil {
		return nil, err
	}
	return &SwapRequest{o.Currency, o.Epoch, o.Amounts, rows, Payment{o.Salt, notes}}, nil
}

// rowsPurpose is what a swap's bind hides: the rows and their amounts.
func rowsPurpose(amounts []uint16, rows []*Row) []byte {
	b := []byte{byte(len(rows))}
	for i, r := range rows {
		b = binary.BigEndian.AppendUint16(b, amounts[i])
		b = append(b, r.Bytes()...)
	}
	return b
}

// Check verifies notes, spends, bind and equal sums for the mint. payee is the
// ledger's `earned` account of the currency. Then the redeem entry is made;
// when it is final, SignSwap answers. Errors: ErrKey, ErrLate, ErrTwice,
// ErrSignature, ErrAmount.
func (r *SwapRequest) Check(reg *Registry, origin string, payee uint32, now time.Time) error {
	in, err := r.check(reg, r.Currency, origin, payee, rowsPurpose(r.Amounts, r.Rows), now, true)
	if err != nil {
		return fmt.Errorf("swap: %w", err)
	}
	var out uint32
	for _, a := range r.Amounts {
		out += uint32(a)
	}
	if in != out {
		return fmt.Errorf("swap of %d for %d: %w", in, out, ErrAmount)
	}
	return nil
}

// SignSwap answers a checked swap, the same bytes each time. It returns ErrKey
// if the request is for another month or currency.
func (m *Mint) SignSwap(r *SwapRequest) ([]*Row, error) {
	if r.Currency != m.denoms.Currency || r.Epoch != m.denoms.Epoch {
		return nil, fmt.Errorf("swap for another month or currency: %w", ErrKey)
	}
	out := make([]*Row, len(r.Rows))
	for i := range r.Rows {
		var err error
		if out[i], err = m.Sign(r.Amounts[i], r.Rows[i]); err != nil {
			return nil, fmt.Errorf("row %d: %w", i, err)
		}
	}
	return out, nil
}

const swapHead = 2 + 2 + 4 // kind, version, currency, epoch

// Bytes encodes { kind version currency2 epoch4 n1 {amount2 row}*n payment }.
func (r *SwapRequest) Bytes() []byte {
	b := []byte{byte(privacy.KindSwap), privacy.Version, byte(r.Currency >> 8), byte(r.Currency)}
	b = binary.BigEndian.AppendUint32(b, r.Epoch)
	b = append(b, rowsPurpose(r.Amounts, r.Rows)...)
	return r.append(b)
}

// ParseSwapRequest is the inverse of Bytes.
func ParseSwapRequest(b []byte) (*SwapRequest, error) {
	if len(b) < swapHead+1 || b[0] != byte(privacy.KindSwap) || b[1] != privacy.Version {
		return nil, fmt.Errorf("swap request: %w", ErrEncoding)
	}
	r := &SwapRequest{Currency: binary.BigEndian.Uint16(b[2:]), Epoch: binary.BigEndian.Uint32(b[4:])}
	if err := checkEpoch(r.Epoch); err != nil {
		return nil, fmt.Errorf("swap request: %w", err)
	}
	n, rest := int(b[swapHead]), b[swapHead+1:]
	if n < 1 || n > MaxRows || len(rest) < n*(2+RowSize) {
		return nil, fmt.Errorf("swap request of %d rows: %w", n, ErrEncoding)
	}
	for range n {
		amount := binary.BigEndian.Uint16(rest)
		if amount == 0 || amount > MaxAmount {
			return nil, fmt.Errorf("swap row of %d: %w", amount, ErrEncoding)
		}
		row, err := ParseRow(rest[2 : 2+RowSize])
		if err != nil {
			return nil, err
		}
		r.Amounts, r.Rows, rest = append(r.Amounts, amount), append(r.Rows, row), rest[2+RowSize:]
	}
	var err error
	r.Payment, err = parsePayment(rest)
	return r, err
}

// RowsReply encodes a mint's answer to a swap: { kind version n1 row*n }.
func RowsReply(rows []*Row) []byte {
	b := []byte{byte(privacy.KindSwapReply), privacy.Version, byte(len(rows))}
	for _, r := range rows {
		b = append(b, r.Bytes()...)
	}
	return b
}

// ParseRowsReply is the inverse of RowsReply.
func ParseRowsReply(b []byte) ([]*Row, error) {
	if len(b) < 3 || b[0] != byte(privacy.KindSwapReply) || b[1] != privacy.Version || b[2] < 1 || b[2] > MaxRows ||
		len(b) != 3+int(b[2])*RowSize {
		return nil, fmt.Errorf("swap reply of %d bytes: %w", len(b), ErrEncoding)
	}
	rows := make([]*Row, b[2])
	for i := range rows {
		var err error
		if rows[i], err = ParseRow(b[3+i*RowSize : 3+(i+1)*RowSize]); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// RedeemRequest is a redeem step (or another spend) handed to its payee.
type RedeemRequest struct {
	Currency uint16
	Payment
}

// RedeemRequest makes the message of a redeem or spend, the same bytes each
// time.
func (w *Wallet) RedeemRequest(id uint64) (*RedeemRequest, error) {
	i, err := w.op(id)
	if err != nil {
		return nil, err
	}
	o := w.ops[i]
	if o.Kind != OpRedeem && o.Kind != OpSpend {
		return nil, fmt.Errorf("operation %d is no redeem: %w", id, ErrOp)
	}
	notes, err := w.Spends(id)
	if err != nil {
		return nil, err
	}
	return &RedeemRequest{o.Currency, Payment{o.Salt, notes}}, nil
}

// Check verifies a redeem for its payee and gives its sum in minor units. It
// returns ErrAmount unless the notes are exactly one RedeemSet, besides
// ErrKey, ErrLate, ErrTwice and ErrSignature. purpose must be the one the
// spender bound: the contract to credit.
func (r *RedeemRequest) Check(reg *Registry, origin string, payee uint32, purpose []byte, now time.Time) (uint32, error) {
	sum, err := r.CheckSpend(reg, origin, payee, purpose, now)
	if err != nil {
		return 0, err
	}
	left := map[uint16]int{}
	for _, v := range RedeemSet {
		left[v]++
	}
	for i := range r.Notes {
		left[reg.byKey[r.Notes[i].Note.KeyID()].minor]--
	}
	for _, n := range left {
		if n != 0 {
			return 0, fmt.Errorf("redeem of %d is no redeem step: %w", sum, ErrAmount)
		}
	}
	return sum, nil
}

// CheckSpend is Check for any amount: what a payee of Spend verifies.
func (r *RedeemRequest) CheckSpend(reg *Registry, origin string, payee uint32, purpose []byte, now time.Time) (uint32, error) {
	sum, err := r.check(reg, r.Currency, origin, payee, purpose, now, false)
	if err != nil {
		return 0, fmt.Errorf("redeem: %w", err)
	}
	return sum, nil
}

// Bytes encodes { kind version currency2 payment }.
func (r *RedeemRequest) Bytes() []byte {
	return r.append([]byte{byte(privacy.KindRedeem), privacy.Version, byte(r.Currency >> 8), byte(r.Currency)})
}

// ParseRedeemRequest is the inverse of Bytes.
func ParseRedeemRequest(b []byte) (*RedeemRequest, error) {
	if len(b) < 4 || b[0] != byte(privacy.KindRedeem) || b[1] != privacy.Version {
		return nil, fmt.Errorf("redeem request: %w", ErrEncoding)
	}
	p, err := parsePayment(b[4:])
	return &RedeemRequest{binary.BigEndian.Uint16(b[2:]), p}, err
}
