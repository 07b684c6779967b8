package session_test

import (
	"bytes"
	"errors"
	"testing"

	"gridveil/privacy/internal/world"
	"gridveil/privacy/session"
)

// TestDriverCollectsWhatItsSessionEarnedInThePool: nothing before the events are
// paid, then exactly the lines of its own session, once, and nobody else.
func TestDriverCollectsWhatItsSessionEarnedInThePool(t *testing.T) {
	w := newWorld(t)
	r := mustSession(t, w, world.Plan{Energy: mixed})
	other := mustSession(t, w, world.Plan{Driver: 1, Home: 1, Energy: mixed})
	if _, err := r.Shares(); !errors.Is(err, session.ErrNotYet) {
		t.Fatalf("before its events are paid: got %v, want ErrNotYet", err)
	}
	name := r.Host.Session()
	w.EVAGG.Pool[name] = []session.Share{{Instruction: [32]byte{1}, Delivered: 500_000, Permille: 1000, Paid: 350_000, Size: 2, Index: 1, Path: [][32]byte{{2}}, Payment: []byte("proof")},
		{Instruction: [32]byte{2}, Paid: 20_000, Size: 1}}
	w.EVAGG.Pool[other.Host.Session()] = nil
	s, err := r.Shares()
	if err != nil || len(s.List) != 2 || s.Sum() != 370_000 || s.Session != name {
		t.Fatalf("shares: %+v, %v", s, err)
	}
	if got, err := r.Collect(session.PartyPool); err != nil || got != 37 {
		t.Fatalf("collect: got %d, %v, want 37", got, err)
	}
	if _, err := r.Collect(session.PartyPool); !errors.Is(err, session.ErrCollected) {
		t.Errorf("another request for the same share: got %v, want ErrCollected", err)
	}
	if b := w.Drivers[0].Wallet.Balance(world.Currency); b.Swapped != 37 || w.EVAGG.Issued != 37 {
		t.Errorf("driver's wallet: %+v, issued %d", b, w.EVAGG.Issued)
	}
	if _, err := other.Collect(session.PartyPool); err == nil {
		t.Error("a session without a share collects one")
	}
	if got, err := r.Collect(session.PartyHost); err != nil || got != 170 {
		t.Errorf("the host's own earnings: got %d, %v", got, err)
	}
}

// TestOnlyTheDriverAsksForShares: host and strangers know the session's name and
// get nothing by it, in its own form or in the driver's.
func TestOnlyTheDriverAsksForShares(t *testing.T) {
	w := newWorld(t)
	r := mustSession(t, w, world.Plan{Energy: mixed})
	other := mustSession(t, w, world.Plan{Driver: 1, Home: 1, Energy: mixed})
	name := r.Host.Session()
	w.EVAGG.Pool[name] = []session.Share{{Paid: 350_000, Size: 1}}
	c := session.Collect{Session: name, Party: session.PartyPool, Epoch: 202603}
	c.Sign(world.Net, r.HostKey())
	if _, _, _, err := w.EVAGG.Settler.Claim(w.Now, c.Bytes()); !errors.Is(err, session.ErrMismatch) {
		t.Errorf("the host, in its own form: got %v, want ErrMismatch", err)
	}
	msg, err := other.Driver.AskShares()
	if err != nil {
		t.Fatal(err)
	}
	foreign := bytes.Clone(msg)
	copy(foreign[2:], name[:])
	if _, err := w.EVAGG.Settler.Shares(foreign); err == nil {
		t.Error("another driver's box opens for this session")
	}
	bent := bytes.Clone(msg)
	bent[len(bent)-1] ^= 1
	if _, err := w.EVAGG.Settler.Shares(bent); err == nil {
		t.Error("an altered question is answered")
	}
	open := mustOpen(t, w, world.Plan{})
	if _, err := open.Driver.AskShares(); !errors.Is(err, session.ErrOrder) {
		t.Errorf("while the session goes on: got %v, want ErrOrder", err)
	}
	answer, err := w.EVAGG.Settler.Shares(mustAsk(t, r))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Driver.OpenShares(answer); err == nil {
		t.Error("another driver reads the answer")
	}
}

func mustAsk(t *testing.T, r *world.Run) []byte {
	t.Helper()
	b, err := r.Driver.AskShares()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPoolPayIsCappedByOneRowOfNotes holds what one collect can carry.
func TestPoolPayIsCappedByOneRowOfNotes(t *testing.T) {
	s := session.Shares{List: []session.Share{{Paid: 60_000_000}, {Paid: 60_000_000}}}
	if got := s.Sum(); got != 81_910_000 {
		t.Errorf("sum %d, want 81.91", got)
	}
}
