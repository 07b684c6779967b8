package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	grid "gridveil/ev/signal"
	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/node/clock"
	"gridveil/node/meter"
	"gridveil/node/model"
	"gridveil/node/role"
	"gridveil/node/signal"
)

// signals follows what grid, utility and aggregator ask of this home. It judges
// every authentic signal by the home's own state, keeps what is plausible, and
// answers nobody: a home publishes nothing.
type signals struct {
	env  *role.Env
	book *signal.Book

	mu       sync.Mutex
	volt     int64 // newest own measurement, mV
	voltAt   time.Time
	onChange []func()
}

const (
	signalTick = time.Minute      // what waited for a sure clock is judged again
	freshVolt  = 10 * time.Minute // an older measurement says nothing about now
)

func newSignals(env *role.Env) (*signals, error) {
	p := env.Host.Bundle().Policy
	self := env.ID.Member
	book, err := signal.OpenBook(signal.Config{Store: env.Store, Rand: env.Rand, Zone: self.Zone, Operator: self.Operator, Lo: p.PriceMinMicro, Hi: p.PriceMaxMicro})
	if err != nil {
		return nil, err
	}
	s := &signals{env: env, book: book}
	for _, k := range []gossip.Kind{gossip.KindPrice, gossip.KindNetState, gossip.KindControl} {
		env.Host.Follow(k, nil, s.take)
	}
	s.commands()
	return s, nil
}

// take judges a register that the mesh has accepted.
func (s *signals) take(e gossip.Envelope) {
	if e.Kind == gossip.KindControl {
		v, mine, err := s.book.Control(e, s.measured(), s.env.Clock.Now())
		s.judged(e.Kind, v, mine, err)
		return
	}
	from, err := s.env.Host.Publisher(e)
	if err != nil {
		return // its certificate is on its way: the next tick judges it
	}
	v, mine, err := s.book.Take(e, from, s.measured(), s.env.Clock.Now())
	s.judged(e.Kind, v, mine, err)
}

func (s *signals) judged(k gossip.Kind, v grid.Verdict, mine bool, err error) {
	switch {
	case err != nil:
		s.env.Log.Error("signal not kept; the home's default holds", "kind", k.String(), "err", err)
	case !mine:
	case !v.OK():
		s.env.Log.Debug("signal refused", "kind", k.String(), "reason", v.Reason.String())
	default:
		s.changed()
	}
}

// OnChange has fn called whenever an accepted signal may move a plan. Register
// before Serve; fn must not block.
func (s *signals) OnChange(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onChange = append(s.onChange, fn)
}

func (s *signals) changed() {
	s.mu.Lock()
	all := slices.Clone(s.onChange)
	s.mu.Unlock()
	for _, fn := range all {
		fn()
	}
}

// frame takes the home's own voltage: the mean of the phases that the meter shows.
func (s *signals) frame(f meter.Frame) {
	var sum, n int64
	for _, c := range []model.Channel{model.VoltageL1, model.VoltageL2, model.VoltageL3} {
		if v, ok := f.Get(c); ok && v > 0 {
			sum, n = sum+v, n+1
		}
	}
	if n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.volt, s.voltAt = sum/n, s.env.Clock.Now()
}

// measured is what the home can hold against a signal: its clock and its voltage.
func (s *signals) measured() signal.Measured {
	sure := !slices.ContainsFunc(s.env.Host.Warnings(), func(w mesh.Warning) bool { return w.Code == mesh.WarnClockOff })
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := s.volt > 0 && s.env.Clock.Now().Sub(s.voltAt) < freshVolt
	return signal.Measured{ClockSure: sure, HasMV: fresh, MilliVolt: s.volt}
}

// serve judges anew what could not be judged at once, and forgets what is over.
func (s *signals) serve(ctx context.Context) error {
	for clock.Sleep(ctx, s.env.Clock, signalTick) {
		for _, k := range []gossip.Kind{gossip.KindPrice, gossip.KindNetState} {
			s.retake(k)
		}
		if err := s.book.Sweep(s.env.Clock.Now()); err != nil {
			return fmt.Errorf("forget expired signals: %w", err)
		}
	}
	return nil
}

// retake offers the registers held of a kind again; known ones change nothing.
func (s *signals) retake(k gossip.Kind) {
	for _, e := range s.env.Host.Registers(k) {
		s.take(e)
	}
}

// ExpectControl looks out for the next controls of a session: hosting calls it
// with every answer to a flexibility offer, and after a restart.
func (s *signals) ExpectControl(x signal.Session) error {
	if err := s.book.Expect(x); err != nil {
		return err
	}
	s.retake(gossip.KindControl) // one may have come before the line was known
	return nil
}

// ForgetControl ends the controls of a session.
func (s *signals) ForgetControl(open [32]byte) error { return s.book.Forget(open) }

// At is what holds at now, for the plan.
func (s *signals) At(now time.Time) signal.Signals { return s.book.Signals(now) }

// Signals is what holds now, for the page.
func (g *Gateway) Signals() signal.Signals { return g.signals.At(g.env.Clock.Now()) }

// SignalHistory lists the newest signals and what was made of them, newest first.
func (g *Gateway) SignalHistory() []signal.Event { return g.signals.book.History() }

// tariffNames are the words for a utility's tariffs.
var tariffNames = map[string]signal.Tariff{"flat": signal.Flat, "day-night": signal.DayNight}

// commands are what `gridveil signals` asks a running gateway.
func (s *signals) commands() {
	s.env.Control.Handle("signals", func(context.Context, json.RawMessage) (any, error) { return s.status(), nil })
	s.env.Control.Handle("tariff", func(_ context.Context, in json.RawMessage) (any, error) {
		var name string
		if err := json.Unmarshal(in, &name); err != nil || tariffNames[name] == 0 {
			return nil, errors.New("want the tariff of the household's contract: flat or day-night")
		}
		if err := s.book.SetTariff(tariffNames[name]); err != nil {
			return nil, err
		}
		s.retake(gossip.KindPrice)
		s.changed()
		return name, nil
	})
}

// SignalStatus is what `gridveil signals` prints.
type SignalStatus struct {
	Prices  []PriceLine    `json:"prices"`
	Limit   *LimitLine     `json:"limit,omitempty"`
	History []signal.Event `json:"history"`
}

// PriceLine is the price of one stretch of time.
type PriceLine struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Micro    int64     `json:"micro_per_kwh"`
	Critical bool      `json:"critical,omitempty"`
}

// LimitLine is the grid operator's limit.
type LimitLine struct {
	ImportMaxW int64     `json:"import_max_w"`
	ExportMaxW int64     `json:"export_max_w"`
	Until      time.Time `json:"until"`
	By         string    `json:"by"`
}

func (s *signals) status() SignalStatus {
	now := s.At(s.env.Clock.Now())
	out := SignalStatus{Prices: []PriceLine{}, History: s.book.History()}
	for _, p := range now.Prices {
		out.Prices = append(out.Prices, PriceLine{p.From, p.To, p.MicroPerKWh, p.Critical})
	}
	if l := now.Limit; l != nil && (l.ImportMaxW < signal.Unlimited || l.ExportMaxW < signal.Unlimited) {
		out.Limit = &LimitLine{l.ImportMaxW, l.ExportMaxW, l.Until, l.By}
	}
	return out
}
