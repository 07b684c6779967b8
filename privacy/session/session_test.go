package session_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/commit"
	"gridveil/privacy/internal/world"
	"gridveil/privacy/pseudo"
	"gridveil/privacy/session"
)

func newWorld(t testing.TB) *world.World {
	t.Helper()
	w, err := world.New(world.Config{Seed: t.Name(), Utilities: 2, Drivers: 2, Homes: 2})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func mustSession(t testing.TB, w *world.World, p world.Plan) *world.Run {
	t.Helper()
	r, err := w.Session(p)
	if err != nil {
		t.Fatalf("session: %v", err)
	}
	return r
}

func mustOpen(t testing.TB, w *world.World, p world.Plan) *world.Run {
	t.Helper()
	r, err := w.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// mixed is 2.732663 kWh from the grid and 4.612337 kWh from the roof: 1.70 for
// the host, 0.11 for the aggregator.
var mixed = session.Energy{Grid: 2_732_663, Res: 4_612_337}

func TestSessionIsSettledAndBilled(t *testing.T) {
	w := newWorld(t)
	r := mustSession(t, w, world.Plan{Energy: mixed})
	rec, _, ok := r.Host.Last()
	if !ok || rec.Amounts.Host != 1_700_000 || rec.Form != session.Both {
		t.Errorf("record: got %+v", rec.Amounts)
	}
	o := r.Driver.Opened()
	if o == nil || o.Values.Pay != 1_810_000 || o.Values.Earn != 1_700_000 || o.Values.Energy != 7_300_000 {
		t.Fatalf("driver's opening: got %+v", o)
	}
	if r.Host.Due(session.PartyHost) != 1_700_000 || r.Driver.Due() != 0 {
		t.Errorf("due: host %d, driver %d", r.Host.Due(session.PartyHost), r.Driver.Due())
	}
	mustSession(t, w, world.Plan{Driver: 1, Home: 1, Energy: mixed})
	opens := w.EVAGG.Booked
	sums, err := w.Bill()
	if err != nil {
		t.Fatal(err)
	}
	var sum commit.Sum
	values, _ := opens[0].Values.Plus(opens[1].Values)
	blind, err := commit.AddBlinds(opens[0].Blind, opens[1].Blind)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range opens {
		if sum, err = sum.Add(x.Commit); err != nil {
			t.Fatal(err)
		}
	}
	if !sum.Opens(values, blind) {
		t.Error("the sum of commitments does not open to the sum of sessions")
	}
	if got, want := sums["utb0"], (session.Totals{Lines: 1, Pay: 1_810_000, Energy: 7_300_000}); got != want {
		t.Errorf("bill: got %+v, want %+v", got, want)
	}
}

func TestSessionSurvivesARestartAfterEveryStep(t *testing.T) {
	w := newWorld(t)
	r := mustOpen(t, w, world.Plan{Energy: mixed})
	restart := func() {
		t.Helper()
		if err := r.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	restart()
	if err := r.Charge(); err != nil {
		t.Fatal(err)
	}
	restart()
	if err := r.Finish(); err != nil {
		t.Fatal(err)
	}
	restart()
	if r.Host.Phase() != session.Done || r.Driver.Phase() != session.Done {
		t.Errorf("phases: host %v, driver %v, want done", r.Host.Phase(), r.Driver.Phase())
	}
	if r.Host.Due(session.PartyHost) != 1_700_000 {
		t.Errorf("due after restart: got %d", r.Host.Due(session.PartyHost))
	}
}

func TestSettleCountsOnce(t *testing.T) {
	w := newWorld(t)
	var settle []byte
	p := world.Plan{Energy: mixed, Tamper: func(to session.Role, msg []byte) []byte {
		if to == session.ToAggregator && msg[0] == byte(privacy.KindSettle) {
			settle = msg
		}
		return msg
	}}
	mustSession(t, w, p)
	first, booked, err := w.EVAGG.Settler.Settle(w.Now, settle)
	if err != nil || booked != nil || first.Put != nil {
		t.Fatalf("repeated settle: booked %v, puts %d, %v", booked != nil, len(first.Put), err)
	}
	again, _, err := w.EVAGG.Settler.Settle(w.Now.Add(24*time.Hour), settle)
	if err != nil || !bytes.Equal(first.Msg, again.Msg) {
		t.Errorf("the receipt changed: %v", err)
	}
	other := bytes.Clone(settle)
	other[len(other)-2] ^= 1
	if _, _, err := w.EVAGG.Settler.Settle(w.Now, other); !errors.Is(err, session.ErrDuplicate) {
		t.Errorf("other bytes: got %v, want ErrDuplicate", err)
	}
	if len(w.EVAGG.Booked) != 1 {
		t.Errorf("booked %d times", len(w.EVAGG.Booked))
	}
}

func TestUsedOnce(t *testing.T) {
	w := newWorld(t)
	me, err := w.Drivers[0].Deck.Take(w.Now)
	if err != nil {
		t.Fatal(err)
	}
	var req []byte
	r := mustOpen(t, w, world.Plan{Pseudonym: &me, Tamper: func(to session.Role, msg []byte) []byte {
		if to == session.ToAggregator {
			req = msg
		}
		return msg
	}})
	if r.Host.Phase() != session.Running {
		t.Fatalf("first use: %v, %v", r.Host.Phase(), r.Errors)
	}
	t.Run("the same request gets the same answer", func(t *testing.T) {
		a, err := w.EVAGG.Settler.Authorise(w.Now, req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := w.EVAGG.Settler.Authorise(w.Now.Add(time.Hour), req)
		if err != nil || !bytes.Equal(a.Msg, b.Msg) || a.Put != nil {
			t.Errorf("answers differ or store again: %v", err)
		}
	})
	t.Run("another session under it is refused, and only the driver learns why", func(t *testing.T) {
		r := mustOpen(t, w, world.Plan{Home: 1, Pseudonym: &me})
		if r.Host.Phase() != session.Refused || r.Driver.Phase() != session.Refused {
			t.Fatalf("phases: host %v, driver %v", r.Host.Phase(), r.Driver.Phase())
		}
		if r.Driver.Cause() != session.CauseUsed {
			t.Errorf("cause: got %v, want used", r.Driver.Cause())
		}
	})
}

// TestRefusals: what the host sees is one of three reasons, what the driver
// sees is the cause.
func TestRefusals(t *testing.T) {
	day := 24 * time.Hour
	bend := func(at int, n int) func(session.Role, []byte) []byte {
		return func(to session.Role, msg []byte) []byte {
			if to != session.ToAggregator {
				return msg
			}
			b := bytes.Clone(msg)
			if at < 0 {
				at += len(b)
			}
			for i := range n {
				b[at+i] ^= 1
			}
			return b
		}
	}
	for _, c := range []struct {
		name   string
		set    func(w *world.World, p *world.Plan)
		reason session.Reason
		cause  session.Cause
	}{
		{"a pass of another key", func(_ *world.World, p *world.Plan) { p.Tamper = bend(34, 1) }, session.ReasonOffer, session.CauseOffer},
		{"a pass for another host key", func(_ *world.World, p *world.Plan) { p.Tamper = bend(-100, 1) }, session.ReasonOffer, session.CauseOffer},
		{"an offer whose price was changed on the way", func(_ *world.World, p *world.Plan) { p.Tamper = bend(106, 1) }, session.ReasonOffer, session.CauseOffer},
		{"an open whose signature was changed on the way", func(_ *world.World, p *world.Plan) { p.Tamper = bend(195, 1) }, session.ReasonRefused, session.CauseIssuer},
		{"a box that does not open", func(_ *world.World, p *world.Plan) { p.Tamper = bend(300, 1) }, session.ReasonRefused, session.CauseIssuer},
		{"a revoked bill key", func(w *world.World, p *world.Plan) {
			me, err := w.Drivers[0].Deck.Take(w.Now)
			if err != nil {
				t.Fatal(err)
			}
			w.EVAGG.Revoked[[32]byte(me.BSK[32:])] = true
			p.Pseudonym = &me
		}, session.ReasonRefused, session.CauseRevoked},
		{"a certificate of last week", func(w *world.World, p *world.Plan) {
			me, err := w.Drivers[0].Deck.Take(w.Now)
			if err != nil {
				t.Fatal(err)
			}
			p.Pseudonym = &me
			w.Now = w.Now.Add(4*day + 20*time.Hour) // Monday 08:00
		}, session.ReasonOffer, session.CauseOffer}, // the pass of last week fails first
		{"an aggregator that cannot judge now", func(w *world.World, _ *world.Plan) { w.EVAGG.Busy = true }, session.ReasonRetry, session.CauseBusy},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			var p world.Plan
			c.set(w, &p)
			// The host only accepts a no to the request it sent, so the answer
			// is looked at here.
			var req []byte
			tamper := p.Tamper
			p.Tamper = func(to session.Role, msg []byte) []byte {
				if tamper != nil {
					msg = tamper(to, msg)
				}
				if to == session.ToAggregator {
					req = msg
					return nil
				}
				return msg
			}
			r := mustOpen(t, w, p)
			before := len(w.EVAGG.Store)
			reply, err := w.EVAGG.Settler.Authorise(w.Now, req)
			if err != nil {
				t.Fatal(err)
			}
			a, err := session.ParseAnswer(reply.Msg)
			if err != nil || a.OK || a.Reason != c.reason {
				t.Fatalf("answer: ok %v, reason %v, %v, want %v", a.OK, a.Reason, err, c.reason)
			}
			if len(reply.Put) != 0 || len(w.EVAGG.Store) != before {
				t.Error("a refusal burned the pseudonym")
			}
			if _, err := r.Driver.Step(w.Now, reply.Msg); err == nil && r.Driver.Cause() != c.cause {
				t.Errorf("driver's cause: got %v, want %v", r.Driver.Cause(), c.cause)
			}
		})
	}
	t.Run("a band above the limit never leaves the wallet", func(t *testing.T) {
		if err := pseudo.CheckBand(80, 40); !errors.Is(err, pseudo.ErrLimit) {
			t.Errorf("CheckBand: got %v", err)
		}
	})
}

func TestYesAndNoHaveOneSize(t *testing.T) {
	w := newWorld(t)
	yes := mustOpen(t, w, world.Plan{})
	w.EVAGG.Busy = true
	no := mustOpen(t, w, world.Plan{Driver: 1, Home: 1})
	if yes.Host.Phase() != session.Running || no.Host.Phase() != session.Asked {
		t.Fatalf("phases: %v, %v", yes.Host.Phase(), no.Host.Phase())
	}
	for _, home := range []string{"ua0", "ua1"} {
		for _, e := range w.View(home).Events {
			size := 0
			for _, f := range e.Fields {
				size += len(f.Value)
			}
			if (e.What == "yes" || e.What == "no") && size != session.AnswerSize {
				t.Errorf("%s: %d bytes, want %d", e.What, size, session.AnswerSize)
			}
		}
	}
}

func TestSettlerRefusesRecordsOutsideTheirAuthorisation(t *testing.T) {
	for _, c := range []struct {
		name string
		bend func(r *session.Record)
		want error
	}{
		{"begun before the offer", func(r *session.Record) { r.T0 -= 10 }, session.ErrMismatch},
		{"ends in the future", func(r *session.Record) { r.T1 += 10 }, session.ErrMismatch},
		{"another currency", func(r *session.Record) { r.Currency++ }, session.ErrMismatch},
		{"another session", func(r *session.Record) { r.Open[0]++ }, session.ErrUnknown},
		{"more earned than priced", func(r *session.Record) { r.Amounts.Host += 10_000 }, nil},
		{"half a cent", func(r *session.Record) { r.Amounts.Host += 5_000 }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			var r *world.Run
			var err error
			r, err = w.Open(world.Plan{Energy: mixed, CutAfter: 1, Tamper: func(to session.Role, msg []byte) []byte {
				if to != session.ToAggregator || msg[0] != byte(privacy.KindSettle) {
					return msg
				}
				s, err := session.ParseSettle(msg)
				if err != nil {
					t.Fatal(err)
				}
				c.bend(&s.Record)
				s.Record.SignHost(world.Net, r.HostKey())
				return s.Bytes()
			}})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Charge(); err != nil {
				t.Fatal(err)
			}
			if err := r.Finish(); err != nil {
				t.Fatal(err)
			}
			if len(r.Errors) == 0 || c.want != nil && !errors.Is(r.Errors[0], c.want) {
				t.Errorf("got %v, want %v", r.Errors, c.want)
			}
			if len(w.EVAGG.Booked) != 0 {
				t.Error("it was booked")
			}
		})
	}
}

// TestLies: each side lies where it can, and the other refuses.
func TestLies(t *testing.T) {
	for _, c := range []struct {
		name string
		kind privacy.Kind
		at   int
		want error
	}{
		{"a tick changed on the way", privacy.KindTick, 10, session.ErrSignature},
		{"an ack changed on the way", privacy.KindAck, 40, session.ErrSignature},
		{"a record changed on the way", 32, 80, session.ErrSignature},
		{"a signed record changed on the way", privacy.KindSettle, 80, session.ErrMismatch},
		{"a receipt changed on the way", privacy.KindReceipt, 70, session.ErrSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			r, _ := w.Session(world.Plan{Energy: mixed, Tamper: func(to session.Role, msg []byte) []byte {
				if to == session.ToAggregator || msg[0] != byte(c.kind) {
					return msg
				}
				b := bytes.Clone(msg)
				b[c.at] ^= 1
				return b
			}})
			if len(r.Errors) == 0 || !errors.Is(r.Errors[0], c.want) {
				t.Errorf("got %v, want %v", r.Errors, c.want)
			}
		})
	}
}

func TestAmountsMustAddUp(t *testing.T) {
	for _, c := range []struct {
		name string
		a    session.Amounts
		mode byte
		want error
	}{
		{"a host's earnings", session.Amounts{Host: 1_700_000, Fee: 110_000}, 0, nil},
		{"half a cent", session.Amounts{Host: 1_705_000}, 0, session.ErrNotWholeCents},
		{"a negative fee", session.Amounts{Host: 10_000, Fee: -10_000}, 0, session.ErrAmount},
		{"a host that earns and owes", session.Amounts{Host: 10_000, Owed: 10_000, Driver: 10_000}, session.ModeDischarge, session.ErrAmount},
		{"a sale that nobody pays", session.Amounts{Driver: 10_000}, session.ModeDischarge, session.ErrAmount},
		{"a sale that was not offered", session.Amounts{Owed: 10_000, Driver: 10_000}, 0, session.ErrAmount},
		{"a sale to the house", session.Amounts{Owed: 1_350_000, Driver: 1_350_000, Fee: 70_000}, session.ModeDischarge, nil},
		{"the host's utility outside direct mode", session.Amounts{Grid: 10_000}, 0, session.ErrAmount},
		{"direct import", session.Amounts{Grid: 2_350_000, Fee: 110_000}, session.ModeDirect, nil},
		{"direct export", session.Amounts{Grid: -410_000, Driver: 410_000, Fee: 70_000}, session.ModeDirect | session.ModeDischarge, nil},
		{"more than there is", session.Amounts{Host: session.MaxAmount + 10_000}, 0, session.ErrAmount},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.a.Check(c.mode); !errors.Is(err, c.want) {
				t.Errorf("Check: got %v, want %v", err, c.want)
			}
		})
	}
}

func TestMachinesDoNotPrintTheirKeys(t *testing.T) {
	w := newWorld(t)
	r := mustOpen(t, w, world.Plan{})
	seed := fmt.Sprintf("%x", r.HostKey().Seed())
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, x := range []any{r.Host, r.Driver, w.EVAGG.Settler} {
			if s := fmt.Sprintf(format, x); len(s) > 40 || strings.Contains(s, seed) {
				t.Errorf("%s prints %q", format, s)
			}
		}
	}
}

func TestBandIsTheMost(t *testing.T) {
	w := newWorld(t)
	r := mustOpen(t, w, world.Plan{Band: 10})
	w.Now = w.Now.Add(time.Minute)
	offer := r.Host.Offer()
	e := session.Energy{Grid: 40_000_000}
	out, err := r.Host.Meter(w.Now, e, world.Quote(&offer, e))
	if err != nil || out.Order != session.Pause || out.Send != nil {
		t.Errorf("above the band: order %d, %d messages, %v, want a pause", out.Order, len(out.Send), err)
	}
	if _, err := r.Host.End(w.Now, session.Ending{Energy: e, Amounts: world.Quote(&offer, e), Begin: w.Now, End: w.Now}); !errors.Is(err, session.ErrBand) {
		t.Errorf("End above the band: got %v, want ErrBand", err)
	}
}

func TestNoLockNoSale(t *testing.T) {
	w := newWorld(t)
	r := mustOpen(t, w, world.Plan{Mode: session.ModeDischarge | session.ModeShown})
	offer := r.Host.Offer()
	w.Now = w.Now.Add(time.Minute)
	e := session.Energy{Out: 5_200_000}
	if _, err := r.Host.Meter(w.Now, e, world.Quote(&offer, e)); !errors.Is(err, session.ErrNoLock) {
		t.Errorf("Meter: got %v, want ErrNoLock", err)
	}
}
