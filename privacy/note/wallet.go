package note

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/privacy"
)

const (
	// maxNotes and maxOps bound a wallet's stored state; a household that
	// swaps and redeems as scheduled holds a few dozen notes.
	maxNotes = 16_384
	maxOps   = 256
)

var (
	// ErrOp says that no operation with that number waits in the wallet.
	ErrOp = errors.New("no such operation in the wallet")
	// ErrFull says that the wallet holds as many notes or open operations as
	// it can; finish some first.
	ErrFull = errors.New("wallet is full")
	// ErrNothing says that the wallet holds no notes that could be swapped or
	// redeemed now.
	ErrNothing = errors.New("no notes to spend")
	// ErrChange says that the notes at hand do not make up an amount exactly:
	// swap with that amount wanted, then spend.
	ErrChange = errors.New("notes do not make up the amount; swap for change first")
)

// Wallet holds a household's (or driver's) notes and its unfinished
// operations. It is pure state: every method that changes it must be followed
// by storing Bytes durably before anything is sent. After a crash the stored
// state makes the same requests again, byte for byte. It is not safe for
// concurrent use.
type Wallet struct {
	seed    [32]byte
	origin  string // ledger origin that spends are bound to
	counter uint64 // next unused; rows of one operation take one each
	notes   []held
	ops     []Op
}

// held is a note in the wallet; its serial key derives from seed, key and
// counter.
type held struct {
	currency uint16
	epoch    uint32
	minor    uint16
	swapped  bool // came out of a swap: may be redeemed
	op       uint64
	key      [8]byte
	counter  uint64
	sig      [SlotSize]byte
}

// OpKind says what an operation does.
type OpKind uint8

const (
	OpCollect OpKind = 1 // new notes for a session
	OpSwap    OpKind = 2 // old notes for new ones
	OpRedeem  OpKind = 3 // notes for a credit on the bill
	OpSpend   OpKind = 4 // notes for a payee of the caller's choice
)

// Op is an operation that has begun and is neither finished nor aborted.
type Op struct {
	ID       uint64 // unique in the wallet, never 0
	Kind     OpKind
	Currency uint16
	Epoch    uint32   // month of the new notes (collect, swap)
	Amounts  []uint16 // of its rows, minor units (collect, swap)
	Payee    uint32   // ledger account (swap, redeem, spend)
	Salt     [32]byte // opens Bind (swap, redeem, spend)
	Bind     [32]byte
}

// NewWallet makes an empty wallet. seed is 32 random bytes, secret, used for
// this wallet only; two wallets with one seed would spend each other's notes.
func NewWallet(seed [32]byte, origin string) *Wallet {
	return &Wallet{seed: seed, origin: origin, counter: 1}
}

// Ops lists the unfinished operations, oldest first.
func (w *Wallet) Ops() []Op { return slices.Clone(w.ops) }

// Balance is what a wallet holds of one currency, in minor units.
type Balance struct {
	Fresh    uint64 // collected, not yet swapped
	Swapped  uint64 // ready to redeem or spend
	Leaving  uint64 // spent in an unfinished operation
	Expected uint64 // asked for in an unfinished operation
}

// Balance sums up the notes of a currency.
func (w *Wallet) Balance(currency uint16) Balance {
	var b Balance
	for _, n := range w.notes {
		switch {
		case n.currency != currency:
		case n.op != 0:
			b.Leaving += uint64(n.minor)
		case n.swapped:
			b.Swapped += uint64(n.minor)
		default:
			b.Fresh += uint64(n.minor)
		}
	}
	for _, o := range w.ops {
		if o.Currency == currency {
			for _, a := range o.Amounts {
				b.Expected += uint64(a)
			}
		}
	}
	return b
}

// Collect begins collecting an amount in notes of d's month, which must be
// issued at present. Send the row of the operation (see Rows) with the claim.
// It returns ErrAmount for 0 or more than MaxAmount, or ErrFull.
func (w *Wallet) Collect(d *Denoms, minor uint16) (Op, error) {
	if minor == 0 || minor > MaxAmount {
		return Op{}, fmt.Errorf("collect %d minor units: %w", minor, ErrAmount)
	}
	return w.begin(Op{Kind: OpCollect, Currency: d.Currency, Epoch: d.Epoch, Amounts: []uint16{minor}})
}

func (w *Wallet) begin(o Op) (Op, error) {
	if len(w.ops) >= maxOps || len(w.notes)+Slots*len(o.Amounts) > maxNotes {
		return Op{}, ErrFull
	}
	o.ID = w.counter
	w.counter += uint64(max(1, len(o.Amounts)))
	w.ops = append(w.ops, o)
	return o, nil
}

func (w *Wallet) op(id uint64) (int, error) {
	i := slices.IndexFunc(w.ops, func(o Op) bool { return o.ID == id })
	if i < 0 {
		return 0, fmt.Errorf("operation %d: %w", id, ErrOp)
	}
	return i, nil
}

// Rows makes an operation's blinded rows, the same bytes each time. d must be
// of the operation's currency and month, else ErrKey.
func (w *Wallet) Rows(id uint64, d *Denoms) ([]*Row, error) {
	i, err := w.op(id)
	if err != nil {
		return nil, err
	}
	return w.rows(&w.ops[i], d)
}

func (w *Wallet) rows(o *Op, d *Denoms) ([]*Row, error) {
	if d.Currency != o.Currency || d.Epoch != o.Epoch {
		return nil, fmt.Errorf("keys of another month or currency: %w", ErrKey)
	}
	rows := make([]*Row, len(o.Amounts))
	for r, amount := range o.Amounts {
		rows[r] = new(Row)
		for i := range Slots {
			var err error
			rows[r][i], err = w.slot(d.Keys[i], o.ID+uint64(r), amount>>i&1 == 1)
			if err != nil {
				return nil, fmt.Errorf("row %d, slot %d: %w", r, i, err)
			}
		}
	}
	return rows, nil
}

func (w *Wallet) slot(pub *PublicKey, counter uint64, wanted bool) (Slot, error) {
	if !wanted {
		return filler(w.seed, pub, counter)
	}
	b, err := blind(w.seed, pub, counter)
	return b.slot, err
}

// Finish takes the mint's answers to an operation's rows: the new notes are
// held, the operation's old notes are gone. It verifies every signature and
// changes nothing on an error: ErrOp, ErrKey, ErrAmount for a wrong number of
// rows, ErrSignature for an answer that is not signed.
func (w *Wallet) Finish(id uint64, d *Denoms, answers []*Row) error {
	i, err := w.op(id)
	if err != nil {
		return err
	}
	o := w.ops[i]
	if d.Currency != o.Currency || d.Epoch != o.Epoch {
		return fmt.Errorf("keys of another month or currency: %w", ErrKey)
	}
	if len(answers) != len(o.Amounts) || len(answers) == 0 {
		return fmt.Errorf("%d answers for %d rows: %w", len(answers), len(o.Amounts), ErrAmount)
	}
	var fresh []held
	for r, amount := range o.Amounts {
		for s := range Slots {
			if amount>>s&1 == 0 {
				continue
			}
			n := held{currency: o.Currency, epoch: o.Epoch, minor: 1 << s, swapped: o.Kind == OpSwap, key: d.Keys[s].id, counter: o.ID + uint64(r)}
			b, err := blind(w.seed, d.Keys[s], n.counter)
			if err != nil {
				return err
			}
			if n.sig, err = b.finish(answers[r][s]); err != nil {
				return fmt.Errorf("row %d, slot %d: %w", r, s, err)
			}
			fresh = append(fresh, n)
		}
	}
	w.drop(id)
	w.notes = append(w.notes, fresh...)
	w.ops = slices.Delete(w.ops, i, i+1)
	return nil
}

// Done ends a redeem or spend whose ledger entry is final: its notes are gone.
// Swaps and collects end with Finish.
func (w *Wallet) Done(id uint64) error {
	i, err := w.op(id)
	if err != nil {
		return err
	}
	if k := w.ops[i].Kind; k != OpRedeem && k != OpSpend {
		return fmt.Errorf("operation %d ends with Finish: %w", id, ErrOp)
	}
	w.drop(id)
	w.ops = slices.Delete(w.ops, i, i+1)
	return nil
}

// drop removes the notes that operation id spends.
func (w *Wallet) drop(id uint64) {
	w.notes = slices.DeleteFunc(w.notes, func(n held) bool { return n.op == id })
}

// Abort ends an operation that was refused for good: its notes are free again.
// Never abort one that may still have been accepted: its notes would be spent
// twice and the second spend refused.
func (w *Wallet) Abort(id uint64) error {
	i, err := w.op(id)
	if err != nil {
		return err
	}
	for n := range w.notes {
		if w.notes[n].op == id {
			w.notes[n].op = 0
		}
	}
	w.ops = slices.Delete(w.ops, i, i+1)
	return nil
}

// note builds the bearer form of a held note.
func (w *Wallet) note(h *held) (Note, ed25519.PrivateKey) {
	key := serialKey(w.seed, h.key, h.counter)
	var n Note
	copy(n[:], h.key[:])
	copy(n[8:], key.Public().(ed25519.PublicKey))
	copy(n[40:], h.sig[:])
	return n, key
}

// Spends makes the signed notes of a swap, redeem or spend, in the wallet's
// order; the same bytes each time.
func (w *Wallet) Spends(id uint64) ([]Spent, error) {
	i, err := w.op(id)
	if err != nil {
		return nil, err
	}
	var out []Spent
	for n := range w.notes {
		if w.notes[n].op != id {
			continue
		}
		note, key := w.note(&w.notes[n])
		sig := ed25519.Sign(key, SpendMessage(w.origin, w.ops[i].Payee, w.ops[i].Bind))
		out = append(out, Spent{Note: note, Spend: [64]byte(sig)})
	}
	return out, nil
}

// salt derives an operation's salt, so that a repeated request is the same.
func (w *Wallet) salt(id uint64) (s [32]byte) {
	r := privacy.SeededReader("gridveil-bind", w.seed[:], binary.BigEndian.AppendUint64(nil, id))
	_, _ = r.Read(s[:]) // SHAKE never fails and always fills
	return s
}

// spendable reports whether a note is free and inside a window.
func (h *held) spendable(now time.Time, currency uint16, swap bool) bool {
	_, redeemTo, swapTo := Windows(h.epoch)
	end := redeemTo
	if swap {
		end = swapTo
	}
	return h.op == 0 && h.currency == currency && now.Before(end)
}
