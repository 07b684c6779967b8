package note

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"
)

// RedeemStep is what one redeem is always worth, in minor units, and RedeemSet
// the denominations it always consists of: every redeem of every household
// looks alike.
const RedeemStep = 2000

// RedeemSet lists the notes of one redeem step, highest first.
var RedeemSet = [6]uint16{1024, 512, 256, 128, 64, 16}

const (
	// MaxSpent is the most notes one entry spends (ledger, redeem).
	MaxSpent = 128
	// MaxRows is the most rows one swap asks for: 7 redeem steps and a rest.
	MaxRows = 8
)

// Swap exchanges notes for new ones of equal sum: everything fresh, and what
// earlier swaps left over beyond full redeem steps, as far as MaxSpent and
// MaxRows go. The new notes come in rows of a redeem step each and one rest.
// If want is not 0, one row is exactly that amount, so that Spend can pay it.
// payee is the ledger's `earned` account of the currency, d the month issued
// at present. It returns ErrNothing, ErrChange if want exceeds what can be
// swapped, ErrAmount if want exceeds one row, or ErrFull.
func (w *Wallet) Swap(now time.Time, d *Denoms, want uint16, payee uint32) (Op, error) {
	if want > MaxAmount {
		return Op{}, fmt.Errorf("want %d minor units: %w", want, ErrAmount)
	}
	chosen, sum := w.chooseSwap(now, d.Currency, want)
	switch {
	case sum == 0:
		return Op{}, ErrNothing
	case sum < uint32(want):
		return Op{}, ErrChange
	}
	o := Op{Kind: OpSwap, Currency: d.Currency, Epoch: d.Epoch, Amounts: swapRows(sum, want), Payee: payee}
	o.Salt = w.salt(w.counter)
	o.ID = w.counter // begin gives the same; rows need it now
	rows, err := w.rows(&o, d)
	if err != nil {
		return Op{}, err
	}
	o.Bind = Bind(o.Salt, rowsPurpose(o.Amounts, rows))
	if o, err = w.begin(o); err != nil {
		return Op{}, err
	}
	w.mark(chosen, o.ID)
	return o, nil
}

func (w *Wallet) mark(chosen []int, id uint64) {
	for _, i := range chosen {
		w.notes[i].op = id
	}
}

// chooseSwap picks notes oldest month first. With a want, full redeem steps
// are broken up too.
func (w *Wallet) chooseSwap(now time.Time, currency, want uint16) (chosen []int, sum uint32) {
	keep := map[int]bool{}
	if want == 0 {
		for {
			set := w.redeemSet(now, currency, keep)
			if set == nil {
				break
			}
			for _, i := range set {
				keep[i] = true
			}
		}
	}
	order := make([]int, 0, len(w.notes))
	gains := want != 0 // else change of earlier swaps alone is not worth a swap
	for i := range w.notes {
		h := &w.notes[i]
		if !h.spendable(now, currency, true) || keep[i] {
			continue
		}
		order = append(order, i)
		gains = gains || !h.swapped || !h.spendable(now, currency, false)
	}
	if !gains {
		return nil, 0
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(w.notes[a].epoch) - int(w.notes[b].epoch) })
	for _, i := range order {
		v := uint32(w.notes[i].minor)
		if len(chosen) < MaxSpent && sum+v <= (MaxRows-1)*RedeemStep {
			chosen, sum = append(chosen, i), sum+v
		}
	}
	return chosen, sum
}

// swapRows splits a sum: want first, then redeem steps, then the rest, which
// is below one step.
func swapRows(sum uint32, want uint16) []uint16 {
	var rows []uint16
	if want != 0 {
		rows, sum = append(rows, want), sum-uint32(want)
	}
	for ; sum >= RedeemStep; sum -= RedeemStep {
		rows = append(rows, RedeemStep)
	}
	if sum > 0 {
		rows = append(rows, uint16(sum))
	}
	return rows
}

// redeemSet finds one note of each value of RedeemSet that may be redeemed, nil
// if the wallet lacks one.
func (w *Wallet) redeemSet(now time.Time, currency uint16, without map[int]bool) []int {
	set := make([]int, 0, len(RedeemSet))
	for _, v := range RedeemSet {
		found := -1
		for i := range w.notes {
			h := &w.notes[i]
			if h.minor == v && h.swapped && !without[i] && h.spendable(now, currency, false) {
				found = i
				break
			}
		}
		if found < 0 {
			return nil
		}
		set = append(set, found)
	}
	return set
}

// RedeemStep hands one step of 20.00 to the own utility: payee is the
// utility's `open` account, purpose what the utility credits (the contract's
// handle). It returns ErrNothing while the wallet has no full set of swapped
// notes within their redeem window.
func (w *Wallet) RedeemStep(now time.Time, currency uint16, payee uint32, purpose []byte) (Op, error) {
	set := w.redeemSet(now, currency, nil)
	if set == nil {
		return Op{}, ErrNothing
	}
	return w.beginSpend(OpRedeem, currency, payee, purpose, set)
}

// Spend pays an exact amount with swapped notes to any payee, for example
// energy that a guest's car sells to the house. It returns ErrChange if the
// notes at hand cannot make it up exactly.
func (w *Wallet) Spend(now time.Time, currency, minor uint16, payee uint32, purpose []byte) (Op, error) {
	order := make([]int, 0, len(w.notes))
	for i := range w.notes {
		if w.notes[i].swapped && w.notes[i].spendable(now, currency, false) {
			order = append(order, i)
		}
	}
	// Each value divides the next higher one: greedy finds a sum if there is one.
	slices.SortStableFunc(order, func(a, b int) int { return int(w.notes[b].minor) - int(w.notes[a].minor) })
	var chosen []int
	rest := minor
	for _, i := range order {
		if v := w.notes[i].minor; v <= rest && len(chosen) < MaxSpent {
			chosen, rest = append(chosen, i), rest-v
		}
	}
	if rest != 0 || minor == 0 {
		return Op{}, fmt.Errorf("spend %d minor units: %w", minor, ErrChange)
	}
	return w.beginSpend(OpSpend, currency, payee, purpose, chosen)
}

func (w *Wallet) beginSpend(kind OpKind, currency uint16, payee uint32, purpose []byte, chosen []int) (Op, error) {
	salt := w.salt(w.counter)
	o, err := w.begin(Op{Kind: kind, Currency: currency, Payee: payee, Salt: salt, Bind: Bind(salt, purpose)})
	if err != nil {
		return Op{}, err
	}
	w.mark(chosen, o.ID)
	return o, nil
}

// SwapDelay draws how long after a collect its notes are swapped: 1 to 48
// hours, so that the swap's time does not name the session.
func SwapDelay(rnd io.Reader) (time.Duration, error) {
	return delay(rnd, time.Hour, 48*time.Hour)
}

// RedeemDelay draws how long after a swap a step is redeemed: 3 to 30 days.
func RedeemDelay(rnd io.Reader) (time.Duration, error) {
	return delay(rnd, 3*24*time.Hour, 30*24*time.Hour)
}

// delay is uniform in milliseconds; the bias of the remainder is below 2^-30.
func delay(rnd io.Reader, from, to time.Duration) (time.Duration, error) {
	var b [8]byte
	if _, err := io.ReadFull(rnd, b[:]); err != nil {
		return 0, fmt.Errorf("draw delay: %w", err)
	}
	span := uint64((to - from).Milliseconds())
	return from + time.Duration(binary.BigEndian.Uint64(b[:])%span)*time.Millisecond, nil
}
