package session_test

import (
	"errors"
	"testing"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/internal/world"
	"gridveil/privacy/session"
)

func TestDriverLeaves(t *testing.T) {
	w := newWorld(t)
	r, err := w.Open(world.Plan{Energy: mixed, CutAfter: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Charge(); err != nil {
		t.Fatal(err)
	}
	acked := r.Driver.Last()
	if err := r.Finish(); err != nil {
		t.Fatal(err)
	}
	if r.Host.Phase() != session.Done {
		t.Fatalf("host %v: %v", r.Host.Phase(), r.Errors)
	}
	rec, _, _ := r.Host.Last()
	if rec.Form != session.Cut || rec.Energy != acked.Energy || acked.Seq != 2 {
		t.Errorf("record: form %d, energy %+v, want the second tick's %+v", rec.Form, rec.Energy, acked.Energy)
	}
	if got := r.Orders[len(r.Orders)-2:]; got[0] != session.Pause || got[1] != session.Stop {
		t.Errorf("orders: got %v, want pause, then stop", got)
	}
	sums, err := w.Bill()
	if err != nil || sums["utb0"].Pay != acked.Cum {
		t.Errorf("bill: got %+v, %v, want %d", sums["utb0"], err, acked.Cum)
	}
}

func TestDriverLeavesBeforeTheFirstAck(t *testing.T) {
	w := newWorld(t)
	r := mustOpen(t, w, world.Plan{Energy: mixed, Tamper: func(to session.Role, msg []byte) []byte {
		if msg[0] == byte(privacy.KindTick) {
			return nil
		}
		return msg
	}})
	if err := r.Charge(); err != nil {
		t.Fatal(err)
	}
	for r.Host.Phase() == session.Running {
		if err := r.Wake(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Finish(); err != nil {
		t.Fatal(err)
	}
	if r.Host.Phase() != session.Void || len(r.Host.Outbox()) != 0 {
		t.Errorf("phase %v with %d messages open, want void", r.Host.Phase(), len(r.Host.Outbox()))
	}
}

func TestUnattendedIsBilledByTheMeter(t *testing.T) {
	w := newWorld(t)
	r := mustSession(t, w, world.Plan{Energy: mixed, CutAfter: 1, Unattended: true, Mode: session.ModeShown})
	rec, _, _ := r.Host.Last()
	if rec.Form != session.Unattended || rec.Energy != mixed {
		t.Errorf("record: form %d, energy %+v", rec.Form, rec.Energy)
	}
	for _, o := range r.Orders {
		if o == session.Pause || o == session.Stop {
			t.Error("an unattended session was paused for want of an ack")
		}
	}
	if sums, err := w.Bill(); err != nil || sums["utb0"].Pay != 1_810_000 {
		t.Errorf("bill: got %+v, %v", sums["utb0"], err)
	}
	if _, _, err := session.NewHost(session.HostConfig{Unattended: true}, nil, [session.PassSize]byte{}, session.Offer{}); !errors.Is(err, session.ErrOffer) {
		t.Errorf("unattended without shown evidence: got %v, want ErrOffer", err)
	}
}

func TestDriverReturnsAfterAPause(t *testing.T) {
	w := newWorld(t)
	drop := true
	r := mustOpen(t, w, world.Plan{Energy: mixed, Tamper: func(to session.Role, msg []byte) []byte {
		if drop && msg[0] == byte(privacy.KindTick) {
			return nil
		}
		return msg
	}})
	if err := r.Charge(); err != nil {
		t.Fatal(err)
	}
	if err := r.Wake(); err != nil { // 30 s without ack
		t.Fatal(err)
	}
	drop = false
	out, err := r.Host.Step(w.Now, r.Driver.Opening()) // the wallet is back
	if err != nil || len(out.Send) == 0 {
		t.Fatalf("opening again: %d messages, %v", len(out.Send), err)
	}
	for _, s := range out.Send {
		if s.To != session.ToDriver {
			continue
		}
		ack, err := r.Driver.Step(w.Now, s.Msg)
		if err != nil || ack.Send == nil {
			continue
		}
		if out, err = r.Host.Step(w.Now, ack.Send[0].Msg); err != nil {
			t.Fatal(err)
		}
	}
	if out.Order != session.Resume {
		t.Errorf("order: got %d, want resume", out.Order)
	}
}

func TestOfflineHostTrusts(t *testing.T) {
	w := newWorld(t)
	w.EVAGG.Down = true
	r, err := w.Session(world.Plan{Energy: mixed, Trust: 10})
	if !errors.Is(err, world.ErrStuck) || r.Host.Phase() != session.Settling {
		t.Fatalf("offline session: host %v, %v", r.Host.Phase(), err)
	}
	if !r.Host.Trusted() || r.Host.Band() != 10 {
		t.Errorf("trusted %v, band %d, want 10", r.Host.Trusted(), r.Host.Band())
	}
	if cert, open, settle := r.Host.Claim(); cert == nil || open == nil || settle == nil {
		t.Error("the host holds no claim")
	}
	if err := r.Restart(); err != nil {
		t.Fatal(err)
	}
	t.Run("a path comes back a week later", func(t *testing.T) {
		w.EVAGG.Down = false
		w.Now = w.Now.Add(8 * 24 * time.Hour)
		r.Flush()
		if r.Host.Phase() != session.Done || r.Driver.Phase() != session.Done {
			t.Fatalf("host %v, driver %v: %v", r.Host.Phase(), r.Driver.Phase(), r.Errors)
		}
		r.Flush()
		if len(w.EVAGG.Booked) != 1 {
			t.Errorf("booked %d times", len(w.EVAGG.Booked))
		}
	})
}

func TestOfflineHostIsCheatedAndCanProveIt(t *testing.T) {
	w := newWorld(t)
	me, err := w.Drivers[0].Deck.Take(w.Now)
	if err != nil {
		t.Fatal(err)
	}
	mustSession(t, w, world.Plan{Energy: mixed, Pseudonym: &me})
	w.EVAGG.Down = true
	r, _ := w.Session(world.Plan{Home: 1, Energy: mixed, Trust: 10, Pseudonym: &me})
	w.EVAGG.Down = false
	r.Flush()
	if r.Host.Phase() != session.Refused {
		t.Fatalf("host %v", r.Host.Phase())
	}
	if cert, _, settle := r.Host.Claim(); cert == nil || settle == nil {
		t.Error("the host holds no claim")
	}
	if len(r.Host.Outbox()) != 0 {
		t.Error("a refused claim is sent for ever")
	}
}

func TestHostWithoutTrustWaits(t *testing.T) {
	w := newWorld(t)
	w.EVAGG.Down = true
	r := mustOpen(t, w, world.Plan{})
	if !r.Host.Deadline().IsZero() || r.Host.Phase() != session.Asked {
		t.Errorf("phase %v, deadline %v", r.Host.Phase(), r.Host.Deadline())
	}
	shown := session.Shown{Session: r.Host.Session()}
	if _, err := r.Host.Step(w.Now, shown.Bytes()); err == nil {
		t.Error("a host without trust took a certificate")
	}
}
