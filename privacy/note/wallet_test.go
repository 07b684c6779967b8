package note

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

// mustReopen is a crash and a restart from the stored state.
func mustReopen(t testing.TB, w *Wallet, state []byte) *Wallet {
	t.Helper()
	again, err := OpenWallet(w.seed, w.origin, state)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Bytes(), state) {
		t.Fatal("a wallet changes over a restart")
	}
	return again
}

func TestACollectSurvivesACrashAtEveryStep(t *testing.T) {
	b := newBank(t)
	d := b.mint.Denoms()
	w := NewWallet(seed(20), origin)
	op, err := w.Collect(d, 660)
	if err != nil {
		t.Fatal(err)
	}
	state := w.Bytes()
	first, err := w.Rows(op.ID, d)
	if err != nil {
		t.Fatal(err)
	}
	w = mustReopen(t, w, state) // crash after the request left
	rows, err := w.Rows(op.ID, d)
	if err != nil || *rows[0] != *first[0] {
		t.Fatalf("the repeated request differs: %v", err)
	}
	claim := [32]byte{20}
	if _, err := b.collect(claim, 660, first[0]); err != nil {
		t.Fatal(err)
	}
	answer, err := b.collect(claim, 660, rows[0]) // the first answer was lost
	if err != nil {
		t.Fatal(err)
	}
	if b.issued != 660 {
		t.Errorf("issued %d for one claim of 660", b.issued)
	}
	if err := w.Finish(op.ID, d, []*Row{answer}); err != nil {
		t.Fatal(err)
	}
	if w = mustReopen(t, w, w.Bytes()); w.Balance(eur) != (Balance{Fresh: 660}) || len(w.Ops()) != 0 {
		t.Errorf("balance %+v", w.Balance(eur))
	}
	if err := w.Finish(op.ID, d, []*Row{answer}); !errors.Is(err, ErrOp) {
		t.Errorf("finished twice: %v", err)
	}
	for i := range w.notes {
		n, _ := w.note(&w.notes[i])
		if err := Verify(&n, d.Keys[bitOf(w.notes[i].minor)]); err != nil {
			t.Error(err)
		}
	}
}

func bitOf(v uint16) (i int) {
	for v > 1 {
		v, i = v>>1, i+1
	}
	return i
}

func TestACrashBeforeTheCounterIsDurableRepeatsNoSerial(t *testing.T) {
	m := mustMint(t)
	w := NewWallet(seed(21), origin)
	stored := w.Bytes()
	lost, err := w.Collect(m.Denoms(), 8)
	if err != nil {
		t.Fatal(err)
	}
	w = mustReopen(t, w, stored) // the write was lost, so nothing was sent
	op, err := w.Collect(m.Denoms(), 4)
	if err != nil {
		t.Fatal(err)
	}
	if op.ID != lost.ID {
		t.Error("a counter that was never durable is skipped")
	}
	stored = w.Bytes()
	next, err := mustReopen(t, w, stored).Collect(m.Denoms(), 4)
	if err != nil || next.ID == op.ID {
		t.Errorf("a durable counter is used twice: %v", err)
	}
}

func TestSwapMakesRedeemStepsAndKeepsTheSum(t *testing.T) {
	b := newBank(t)
	w := NewWallet(seed(22), origin)
	for i, amount := range []uint16{1137, 660, 250, 1999, 1} {
		mustCollect(t, b, w, byte(30+i), amount)
	}
	const total = 1137 + 660 + 250 + 1999 + 1
	if got := w.Balance(eur).Fresh; got != total {
		t.Fatalf("collected %d, want %d", got, total)
	}
	mustSwap(t, b, w, 0)
	if got := w.Balance(eur); got != (Balance{Swapped: total}) {
		t.Errorf("after the swap: %+v", got)
	}
	for range 2 {
		op, err := w.RedeemStep(june, eur, utbAcc, []byte("contract"))
		if err != nil {
			t.Fatal(err)
		}
		spends, err := w.Spends(op.ID)
		if err != nil || len(spends) != len(RedeemSet) || !b.spend(spends) {
			t.Fatalf("redeem of %d notes: %v", len(spends), err)
		}
		if err := w.Done(op.ID); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.Balance(eur); got != (Balance{Swapped: total - 2*RedeemStep}) {
		t.Errorf("after two steps: %+v", got)
	}
	if _, err := w.RedeemStep(june, eur, utbAcc, nil); !errors.Is(err, ErrNothing) {
		t.Errorf("a third step: %v", err)
	}
	if _, err := w.Swap(june, b.mint.Denoms(), 0, earned); !errors.Is(err, ErrNothing) {
		t.Errorf("a swap of change only: %v", err)
	}
}

func TestSwapGivesChangeForAnExactAmount(t *testing.T) {
	b := newBank(t)
	w := NewWallet(seed(23), origin)
	mustCollect(t, b, w, 40, 4096)
	if _, err := w.Spend(june, eur, 315, 77, []byte("lock")); !errors.Is(err, ErrChange) {
		t.Fatalf("spend without change: %v", err)
	}
	if _, err := w.Swap(june, b.mint.Denoms(), 5000, earned); !errors.Is(err, ErrChange) {
		t.Errorf("more wanted than there is: %v", err)
	}
	if _, err := w.Swap(june, b.mint.Denoms(), MaxAmount+1, earned); !errors.Is(err, ErrAmount) {
		t.Errorf("more wanted than a row holds: %v", err)
	}
	mustSwap(t, b, w, 315)
	op, err := w.Spend(june, eur, 315, 77, []byte("lock"))
	if err != nil {
		t.Fatal(err)
	}
	req, err := w.RedeemRequest(op.ID)
	if err != nil {
		t.Fatal(err)
	}
	if sum, err := req.CheckSpend(&b.reg, origin, 77, []byte("lock"), june); err != nil || sum != 315 {
		t.Errorf("paid %d, %v", sum, err)
	}
	if got := w.Balance(eur); got != (Balance{Swapped: 4096 - 315, Leaving: 315}) {
		t.Errorf("balance %+v", got)
	}
	if err := w.Abort(op.ID); err != nil {
		t.Fatal(err)
	}
	if got := w.Balance(eur); got != (Balance{Swapped: 4096}) {
		t.Errorf("after the abort: %+v", got)
	}
}

// TestSwapKilled: a swap killed between any two of its steps gives the same
// request again; the notes come out once and the old ones are spent once.
func TestSwapKilled(t *testing.T) {
	b := newBank(t)
	d := b.mint.Denoms()
	w := NewWallet(seed(24), origin)
	mustCollect(t, b, w, 41, 2100)
	before := w.Bytes()
	if _, err := w.Swap(june, d, 0, earned); err != nil {
		t.Fatal(err)
	}
	w = mustReopen(t, w, before) // killed before the write: nothing happened
	op, err := w.Swap(june, d, 0, earned)
	if err != nil {
		t.Fatal(err)
	}
	stored := w.Bytes()
	req, err := w.SwapRequest(op.ID, d)
	if err != nil {
		t.Fatal(err)
	}
	if err := req.Check(&b.reg, origin, earned, june); err != nil {
		t.Fatal(err)
	}
	if !b.spend(req.Notes) {
		t.Fatal("first spend refused")
	}
	answer, err := b.mint.SignSwap(req)
	if err != nil {
		t.Fatal(err)
	}
	w = mustReopen(t, w, stored) // killed after sending: the answer is lost
	again, err := w.SwapRequest(op.ID, d)
	if err != nil || !bytes.Equal(again.Bytes(), req.Bytes()) {
		t.Fatalf("the repeated request differs: %v", err)
	}
	repeated, err := b.mint.SignSwap(again)
	if err != nil || !bytes.Equal(RowsReply(repeated), RowsReply(answer)) {
		t.Fatalf("the repeated answer differs: %v", err)
	}
	if err := w.Finish(op.ID, d, repeated); err != nil {
		t.Fatal(err)
	}
	if got := w.Balance(eur); got != (Balance{Swapped: 2100}) {
		t.Errorf("balance %+v", got)
	}
	w = mustReopen(t, w, stored) // killed before the result was written
	if err := w.Finish(op.ID, d, answer); err != nil || w.Balance(eur) != (Balance{Swapped: 2100}) {
		t.Errorf("finished again: %v, %+v", err, w.Balance(eur))
	}
}

func TestDoubleSpendRefused(t *testing.T) {
	b := newBank(t)
	w := NewWallet(seed(25), origin)
	mustCollect(t, b, w, 42, RedeemStep)
	copied := mustReopen(t, w, w.Bytes())
	mustSwap(t, b, w, 0)
	op, err := copied.Swap(june, b.mint.Denoms(), 0, earned)
	if err != nil {
		t.Fatal(err)
	}
	req, err := copied.SwapRequest(op.ID, b.mint.Denoms())
	if err != nil {
		t.Fatal(err)
	}
	if err := req.Check(&b.reg, origin, earned, june); err != nil {
		t.Fatalf("the notes themselves are good: %v", err)
	}
	if b.spend(req.Notes) {
		t.Error("the same notes are spent twice")
	}
}

func TestASwapPaysForItsOwnRowsOnly(t *testing.T) {
	b := newBank(t)
	d := b.mint.Denoms()
	w := NewWallet(seed(26), origin)
	mustCollect(t, b, w, 43, 100)
	op, err := w.Swap(june, d, 0, earned)
	if err != nil {
		t.Fatal(err)
	}
	req, err := w.SwapRequest(op.ID, d)
	if err != nil {
		t.Fatal(err)
	}
	thief := NewWallet(seed(27), origin)
	t2, err := thief.Collect(d, 100)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := thief.Rows(t2.ID, d)
	if err != nil {
		t.Fatal(err)
	}
	stolen := *req
	stolen.Rows = rows
	if err := stolen.Check(&b.reg, origin, earned, june); !errors.Is(err, ErrSignature) {
		t.Errorf("another's rows: %v", err)
	}
	more := *req
	more.Amounts = []uint16{101}
	if err := more.Check(&b.reg, origin, earned, june); !errors.Is(err, ErrSignature) {
		t.Errorf("a larger amount: %v", err)
	}
	// A wallet that binds a wrong sum itself.
	w.ops[0].Amounts = []uint16{101}
	w.ops[0].Bind = Bind(w.ops[0].Salt, rowsPurpose([]uint16{101}, req.Rows))
	spends, err := w.Spends(op.ID)
	if err != nil {
		t.Fatal(err)
	}
	lie := SwapRequest{eur, d.Epoch, []uint16{101}, req.Rows, Payment{req.Salt, spends}}
	if err := lie.Check(&b.reg, origin, earned, june); !errors.Is(err, ErrAmount) {
		t.Errorf("unequal sums: %v", err)
	}
}

func TestBadWalletCallsAreRefused(t *testing.T) {
	m := mustMint(t)
	w := NewWallet(seed(28), origin)
	if _, err := w.Collect(m.Denoms(), 0); !errors.Is(err, ErrAmount) {
		t.Errorf("collect nothing: %v", err)
	}
	if _, err := w.Collect(m.Denoms(), MaxAmount+1); !errors.Is(err, ErrAmount) {
		t.Errorf("collect too much: %v", err)
	}
	if _, err := w.Spend(june, eur, 0, 1, nil); !errors.Is(err, ErrChange) {
		t.Errorf("spend nothing: %v", err)
	}
	op, err := w.Collect(m.Denoms(), 5)
	if err != nil {
		t.Fatal(err)
	}
	other := *m.Denoms()
	other.Epoch++
	if _, err := w.Rows(op.ID, &other); !errors.Is(err, ErrKey) {
		t.Errorf("keys of another month: %v", err)
	}
	if err := w.Finish(op.ID, m.Denoms(), nil); !errors.Is(err, ErrAmount) {
		t.Errorf("no answers: %v", err)
	}
	if err := w.Done(op.ID); !errors.Is(err, ErrOp) {
		t.Errorf("Done on a collect: %v", err)
	}
	if _, err := w.SwapRequest(op.ID, m.Denoms()); !errors.Is(err, ErrOp) {
		t.Errorf("SwapRequest of a collect: %v", err)
	}
	if _, err := w.RedeemRequest(op.ID); !errors.Is(err, ErrOp) {
		t.Errorf("RedeemRequest of a collect: %v", err)
	}
	if err := w.Abort(99); !errors.Is(err, ErrOp) {
		t.Errorf("Abort of nothing: %v", err)
	}
	for range maxOps - 1 {
		if _, err := w.Collect(m.Denoms(), 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Collect(m.Denoms(), 1); !errors.Is(err, ErrFull) {
		t.Errorf("operation %d: %v", maxOps+1, err)
	}
}

// TestMoneyConserved: over a household's days of hosting, crashing, swapping
// and redeeming, what was credited is always held, redeemed or not yet
// collected, to the cent.
func TestMoneyConserved(t *testing.T) {
	days := 25
	if testing.Short() {
		days = 6
	}
	b := newBank(t)
	w := NewWallet(seed(29), origin)
	dice := rand.New(rand.NewPCG(1, 2))
	var credited, redeemed, unclaimed uint64
	for day := range days {
		if amount := uint16(dice.IntN(900)); amount > 0 && dice.IntN(4) > 0 {
			credited += uint64(amount)
			unclaimed += uint64(amount)
			mustCollect(t, b, w, byte(day), amount)
			unclaimed -= uint64(amount)
		}
		if dice.IntN(3) == 0 {
			w = mustReopen(t, w, w.Bytes())
		}
		if dice.IntN(3) == 0 && w.Balance(eur).Fresh > 0 {
			mustSwap(t, b, w, 0)
		}
		if op, err := w.RedeemStep(june.Add(time.Duration(day)*time.Hour), eur, utbAcc, []byte("c")); err == nil {
			spends, err := w.Spends(op.ID)
			if err != nil || !b.spend(spends) {
				t.Fatalf("day %d: redeem refused: %v", day, err)
			}
			w = mustReopen(t, w, w.Bytes())
			if err := w.Done(op.ID); err != nil {
				t.Fatal(err)
			}
			redeemed += RedeemStep
		}
		held := w.Balance(eur)
		if sum := held.Fresh + held.Swapped + held.Leaving + redeemed + unclaimed; sum != credited || b.issued != credited {
			t.Fatalf("day %d: held %+v + redeemed %d + unclaimed %d, credited %d, issued %d", day, held, redeemed, unclaimed, credited, b.issued)
		}
	}
	if redeemed == 0 && !testing.Short() {
		t.Error("nothing was ever redeemed")
	}
}
