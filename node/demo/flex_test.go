package demo

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"gridveil/node/aggregator"
	"gridveil/node/clock"
	"gridveil/node/wallet"
	"gridveil/node/web"
)

// TestCarIsMovedAcrossRestartsAndItsDriverIsPaid is one flexibility event between
// real nodes, from the certified meter to the notes in the driver's wallet, with
// aggregator, grid operator and wallet restarted while it goes on. The home's
// restart is in package gateway: here its simulated roof would begin anew.
func TestCarIsMovedAcrossRestartsAndItsDriverIsPaid(t *testing.T) {
	if !*long {
		t.Skip("four hours of a small scene: 60 s; run with -long")
	}
	s, err := Build(Options{Homes: 6, Speed: 500, Seed: 3, Dir: t.TempDir() + "/scene"})
	if err != nil {
		t.Fatal(err)
	}
	err = s.run(t.Context(), func(ctx context.Context, st *Story) error {
		if err := s.settleIn(ctx, st); err != nil {
			return err
		}
		st.life = ctx
		at := s.Clock.Now().Sub(st.midnight()) + time.Minute
		p := &played{visit: visit{name: "a car that can wait", kind: "grid", home: 4, driver: 2, at: at, stay: 210 * time.Minute, want: 26 * kWh, car: sedan(15, 60, 11_000, 0),
			flex: (at + 90*time.Minute).Truncate(15 * time.Minute)}}
		st.cars = append(st.cars, p)
		over := make(chan error, 1)
		go func() { over <- st.play(ctx, p, st.midnight().Add(at)) }()
		moved := movedBy(t, s)
		if !clock.Until(ctx, s.Clock, moved.From.Add(7*time.Minute)) {
			return ctx.Err()
		}
		for _, name := range []string{"evagg", "utility-a", "driver-2"} {
			if err := s.Get(name).Stop(); err != nil {
				t.Errorf("stop %s: %v", name, err)
			}
			if err := s.Run(st.life, s.Get(name)); err != nil {
				return err
			}
		}
		if err := <-over; err != nil {
			return err
		}
		v, _ := s.gateway(s.Get("home-4")).Session(p.session)
		if !v.Offered || !v.Moved || v.KWhIn < 25.5 {
			for _, x := range v.Steps {
				t.Logf("%s %s", x.At.Format("15:04:05"), x.Text)
			}
			t.Errorf("the session: offered %v, moved %v, %.2f kWh of 26, %s %s", v.Offered, v.Moved, v.KWhIn, v.State, v.Refused)
			return nil
		}
		if err := st.Settle(ctx); err != nil {
			return err
		}
		sum := new(Summary)
		if err := st.judgeFlexibility(sum); err != nil {
			return err
		}
		for _, i := range sum.Invariants {
			if !i.Holds {
				t.Errorf("%s: %s", i.Name, i.Why)
			}
		}
		if f := sum.Flexibility; f.DeliveredMWh < 1_000_000 || f.SharedMicro >= f.PaidMicro || f.PaidMicro > flexPay {
			t.Errorf("flexibility: %+v, want most of 2 kWh delivered and shared", f)
		}
		shows(t, NewSite(s, st), p.session)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// shows looks at the pages: the session's last cent is the grid operator's, and the
// aggregator tells the event.
func shows(t *testing.T, site *Site, session string) {
	t.Helper()
	v, _ := site.Session(t.Context(), session)
	if n := len(v.Payees); n == 0 || v.Payees[n-1].Who != wallet.PoolPayee || !strings.HasPrefix(v.Payees[n-1].Paid, "EUR 0.") {
		t.Errorf("how each cent was paid: %+v", v.Payees)
	}
	p, _ := site.Party(t.Context(), "evagg")
	if !slices.ContainsFunc(p.Sees, func(x web.Pair) bool {
		return x.Name == "flexibility" && strings.Contains(x.Value, "the grid operator paid")
	}) {
		t.Errorf("what the aggregator sees: %+v", p.Sees)
	}
}

// movedBy waits for the first event that was dispatched.
func movedBy(t *testing.T, s *Scene) (e aggregator.EventView) {
	t.Helper()
	reach(t, "an instruction at the cars", func() bool {
		a, err := s.aggregator()
		if err != nil {
			return false
		}
		list, err := a.Events()
		if err == nil && len(list) > 0 && list[0].State == "sent" {
			e = list[0]
		}
		return e.Sessions > 0
	})
	return e
}
