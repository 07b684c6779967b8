package demo

import (
	"context"
	"fmt"
	"time"

	"gridveil/ev/evsim"
	"gridveil/node/clock"
	"gridveil/node/gateway"
	"gridveil/node/wallet"
	"gridveil/node/web"
)

// Bounds of what is waited for: a wallet's payment, in wall time with the clock
// held; a car's start and end, in the day's time.
const (
	openWait = 15 * time.Second
	stepWait = 10 * time.Minute
)

// play lets one car arrive, charge or give, and leave. It comes and goes when every
// house has stepped through the minute before, so that it is certain which minutes
// it was there.
func (st *Story) play(ctx context.Context, p *played, at time.Time) error {
	if !clock.Until(ctx, st.s.Clock, at.Add(clock.Lead)) {
		return nil
	}
	host := st.s.Get(fmt.Sprintf("home-%d", p.home))
	gw := st.s.gateway(host) // as of now: it may be restarted while the car is there
	box := host.Home.Wallbox.CP
	release := clock.Hold(st.s.Clock)
	defer func() { release() }()
	box.SetFaults(p.faults)
	car := p.car
	car.TargetMWh = car.EnergyMWh // a car that gives does not charge
	if p.kind != "v2g-house" && p.kind != "v2g-grid" {
		car.TargetMWh += p.want * (1000 - car.LossPermille) / 1000
	}
	if err := box.Plug(st.s.Clock.Now(), &car); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	st.tell("session", "/sessions", "%s: a car arrives at home %d", p.name, p.home)
	before := len(gw.Sessions())
	if err := st.begin(ctx, gw, p, at); err != nil {
		p.err = err
		st.tell("refused", "/sessions", "%s: %v", p.name, err)
	}
	release()
	p.session = st.started(ctx, gw, before)
	if p.flex > 0 {
		if err := st.buy(ctx, host.Zone, at.Add(p.flex-p.at)); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	if !clock.Until(ctx, st.s.Clock, at.Add(p.stay+clock.Lead)) {
		return nil
	}
	box.Unplug(st.s.Clock.Now())
	st.ended(ctx, st.s.gateway(host), p)
	box.SetFaults(evsim.Faults{})
	return nil
}

// begin opens the session: a driver's by its wallet, a gift by the host.
func (st *Story) begin(ctx context.Context, gw *gateway.Gateway, p *played, at time.Time) error {
	if p.driver == 0 {
		return gw.Charge(true)
	}
	link, err := gw.GuestLink("127.0.0.1")
	if err != nil {
		return err
	}
	o := wallet.Options{Band: 20, Departure: at.Add(p.stay).UnixMilli(), ShowUtility: true}
	if p.kind == "v2g-house" || p.kind == "v2g-grid" {
		o.GiveMWh, o.OnCall = p.want, p.flex > 0
		if p.from > 0 {
			o.GiveFrom = at.Add(p.from - p.at).UnixMilli()
		}
	} else {
		o.WantMWh = p.want
	}
	ctx, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	w := st.s.Get(fmt.Sprintf("driver-%d", p.driver)).Node().Role.(*wallet.Wallet) // the cast gives drivers this role
	_, err = w.Pay(ctx, link, o)
	return err
}

// started waits until the house's newest session has left its first states; it
// gives its name.
func (st *Story) started(ctx context.Context, gw *gateway.Gateway, before int) string {
	for until := st.s.Clock.Now().Add(stepWait); st.s.Clock.Now().Before(until); {
		if rows := gw.Sessions(); len(rows) > before && settled(rows[0], "plugged", "opened", "starting") {
			return rows[0].ID
		}
		if !clock.Sleep(ctx, st.s.Clock, 5*time.Second) {
			break
		}
	}
	if rows := gw.Sessions(); len(rows) > before {
		return rows[0].ID
	}
	return ""
}

// settled says whether a row has left the given states.
func settled(r web.SessionRow, states ...string) bool {
	for _, s := range states {
		if r.State == s {
			return false
		}
	}
	return true
}

// ended waits until the session is signed or refused, so that the next car at
// the wallbox finds it free.
func (st *Story) ended(ctx context.Context, gw *gateway.Gateway, p *played) {
	for until := st.s.Clock.Now().Add(stepWait); st.s.Clock.Now().Before(until); {
		v, ok := gw.Session(p.session)
		if !ok {
			return
		}
		if settled(v.SessionRow, "charging", "paused", "discharging", "ended") {
			kind := "session"
			text := fmt.Sprintf("%s: %.2f kWh in, %.2f kWh out, %s", p.name, v.KWhIn, v.KWhOut, v.Total)
			if v.Refused != "" {
				kind, text = "refused", fmt.Sprintf("%s: refused, %s", p.name, v.Refused)
			}
			st.tell(kind, "/sessions/"+v.ID, "%s", text)
			return
		}
		if !clock.Sleep(ctx, st.s.Clock, 5*time.Second) {
			return
		}
	}
}
