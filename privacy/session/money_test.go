package session_test

import (
	"errors"
	"testing"
	"time"

	"gridveil/privacy/internal/world"
	"gridveil/privacy/note"
	"gridveil/privacy/session"
)

// TestEnergyOfTheCarIsPaidFromLockedNotes: a host earns notes with one guest,
// locks them, buys energy of the next guest's car, and gets its change.
func TestEnergyOfTheCarIsPaidFromLockedNotes(t *testing.T) {
	w := newWorld(t)
	earn := mustSession(t, w, world.Plan{Energy: mixed})
	if got, err := earn.Collect(session.PartyHost); err != nil || got != 170 {
		t.Fatalf("Collect: got %d, %v", got, err)
	}
	if _, err := earn.Collect(session.PartyHost); !errors.Is(err, session.ErrCollected) {
		t.Errorf("a second collect: got %v, want ErrCollected", err)
	}
	sell := mustSession(t, w, world.Plan{Driver: 1, Energy: session.Energy{Out: 5_200_000}, Mode: session.ModeDischarge, Lock: 170})
	if sell.Host.Locked() != 1_700_000 {
		t.Fatalf("locked: got %d", sell.Host.Locked())
	}
	if got, err := sell.Collect(session.PartyDriver); err != nil || got != 135 {
		t.Fatalf("driver's collect: got %d, %v", got, err)
	}
	if got, err := sell.Collect(session.PartyChange); err != nil || got != 35 {
		t.Fatalf("change: got %d, %v", got, err)
	}
	if _, err := sell.Collect(session.PartyHost); err == nil {
		t.Error("a host that owes collects earnings")
	}
	if b := w.Drivers[1].Wallet.Balance(world.Currency); b.Swapped != 135 {
		t.Errorf("driver's wallet: got %+v", b)
	}
	if b := w.Homes[0].Wallet.Balance(world.Currency); b.Swapped != 35 {
		t.Errorf("host's wallet: got %+v", b)
	}
	// 1.70 issued, 1.70 redeemed into the lock, 1.35 and 0.35 issued from it.
	if w.EVAGG.Issued != 170+135+35 {
		t.Errorf("issued: got %d", w.EVAGG.Issued)
	}
	for home, view := range map[string]*world.View{"ua0": w.View("ua0")} {
		for _, e := range view.Events {
			if e.What == "carried" && len(e.Fields[0].Value) != 3584+32 {
				t.Errorf("%s carries %d bytes, want one block", home, len(e.Fields[0].Value))
			}
		}
	}
}

func TestLocksThatDoNotHold(t *testing.T) {
	w := newWorld(t)
	r := mustOpen(t, w, world.Plan{Mode: session.ModeDischarge})
	pay := note.Payment{Notes: make([]note.Spent, 1)}
	if _, err := r.Host.Lock(15_000, pay); !errors.Is(err, session.ErrNotWholeCents) {
		t.Errorf("half a cent: got %v", err)
	}
	if _, err := r.Host.Lock(20_000, note.Payment{}); !errors.Is(err, session.ErrAmount) {
		t.Errorf("no notes: got %v", err)
	}
	if _, err := r.Host.Lock(20_000, note.Payment{Notes: make([]note.Spent, session.MaxLocked+1)}); !errors.Is(err, session.ErrAmount) {
		t.Errorf("too many notes: got %v", err)
	}
	out, err := r.Host.Lock(20_000, pay)
	if err != nil {
		t.Fatal(err)
	}
	l, known, err := w.EVAGG.Settler.CheckLock(out.Send[0].Msg)
	if err != nil || known != nil {
		t.Fatalf("CheckLock: %v", err)
	}
	if _, err := w.EVAGG.Settler.Locked(w.Now, &l, 10_000); !errors.Is(err, session.ErrAmount) {
		t.Errorf("notes worth less than the lock says: got %v", err)
	}
	if r.Host.Locked() != 0 || len(r.Host.Outbox()) != 1 {
		t.Errorf("an unconfirmed lock: locked %d, outbox %d", r.Host.Locked(), len(r.Host.Outbox()))
	}
	plain := mustOpen(t, w, world.Plan{Home: 1, Driver: 1})
	if _, err := plain.Host.Lock(20_000, pay); !errors.Is(err, session.ErrOrder) {
		t.Errorf("a lock where no sale was offered: got %v", err)
	}
}

// TestLockOfASessionThatNeverSettles comes back whole, after the time in which
// a settlement could still arrive.
func TestLockOfASessionThatNeverSettles(t *testing.T) {
	w := newWorld(t)
	r := mustOpen(t, w, world.Plan{Mode: session.ModeDischarge})
	out, err := r.Host.Lock(20_000, note.Payment{Notes: make([]note.Spent, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l, _, err := w.EVAGG.Settler.CheckLock(out.Send[0].Msg)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := w.EVAGG.Settler.Locked(w.Now, &l, 20_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range reply.Put {
		w.EVAGG.Store[string(p.Key)] = p.Value
	}
	if _, err := r.Host.Collect(session.PartyChange, 202603, note.Row{}); !errors.Is(err, session.ErrNotDue) {
		t.Errorf("before the lock is confirmed: got %v, want ErrNotDue", err)
	}
	if _, err := r.Host.Step(w.Now, reply.Msg); err != nil {
		t.Fatal(err)
	}
	value, from := r.Host.Lapse()
	if value != 20_000 || from.Before(w.Now.Add(session.LateFor)) || from.After(w.Now.Add(session.LateFor+48*time.Hour)) {
		t.Errorf("the lock lapses with %d at %v", value, from)
	}
	if _, err := r.Host.Collect(session.PartyHost, 202603, note.Row{}); !errors.Is(err, session.ErrNotDue) {
		t.Errorf("earnings of nothing: got %v, want ErrNotDue", err)
	}
	c, err := r.Host.Collect(session.PartyChange, 202603, note.Row{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := w.EVAGG.Settler.Claim(w.Now, c.Bytes()); !errors.Is(err, session.ErrNotDue) {
		t.Errorf("at once: got %v, want ErrNotDue", err)
	}
	if _, _, _, err := w.EVAGG.Settler.Claim(from, c.Bytes()); !errors.Is(err, session.ErrNotDue) {
		t.Errorf("at the last moment: got %v, want ErrNotDue", err)
	}
	for _, p := range reply.Put {
		if left := p.Until.Sub(from); left < session.LateFor {
			t.Errorf("what the claim needs is kept for %v after it lapsed", left)
		}
	}
	claim, _, back, err := w.EVAGG.Settler.Claim(from.Add(time.Second), c.Bytes())
	if err != nil || claim.Minor != 2 {
		t.Fatalf("after %v: got %d, %v, want 2", session.LateFor, claim.Minor, err)
	}
	for _, p := range back.Put {
		w.EVAGG.Store[string(p.Key)] = p.Value
	}
	if err := errors.Join(r.Charge(), r.Finish()); err != nil {
		t.Fatal(err)
	}
	if r.Host.Phase() != session.Settling || !errors.Is(errors.Join(r.Errors...), session.ErrCollected) {
		t.Errorf("a settlement against a lock that went back: %v, %v", r.Host.Phase(), r.Errors)
	}
}
