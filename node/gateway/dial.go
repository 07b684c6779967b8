package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"gridveil/battery"
	"gridveil/node/signal"
	"gridveil/node/store"
)

// weighDays is over how many of the newest days a stop of the dial is tried out.
const weighDays = 7

// quarters of an hour has a day of prices.
const quarters = 96

// Insight is what is known of a home's mask since the last night.
type Insight struct {
	At    time.Time    `json:"at"`
	Leak  battery.Leak `json:"leak"`
	Flat  bool         `json:"flat_price"` // the price is the same all day: every stop is the private one
	Stops []Stop       `json:"stops"`
}

// Stop is what a position of the dial means for this home: tried out on its own
// newest days, with the prices of now.
type Stop struct {
	Bits   float64 `json:"bound_bits_day"`
	Cost   float64 `json:"cost_eur_day"`
	Loss   float64 `json:"loss_wh_day"`
	Cycles float64 `json:"full_cycles_day"`
}

// dial is the owner's choice with the prices of the day of now.
func (m *mask) dial(now time.Time) (battery.Dial, error) {
	stop, err := m.stop()
	if err != nil {
		return battery.Dial{}, err
	}
	var s signal.Signals
	if m.heard != nil {
		s = m.heard(now)
	}
	d := battery.Dial{Stop: stop, Prices: make([]float64, quarters)}
	for i := range d.Prices {
		at := now.UTC().Truncate(24 * time.Hour).Add(time.Duration(i) * 15 * time.Minute)
		if at.Before(now) {
			at = at.Add(24 * time.Hour) // that quarter is over: tomorrow's
		}
		d.Prices[i] = m.price(s, at)
	}
	if flat(d.Prices) {
		d.Stop = 0 // nothing to save: every stop is the private one
	}
	return d, nil
}

// stop is the position of the dial; private unless its owner chose another.
func (m *mask) stop() (int, error) {
	b, err := m.env.Store.Get(dialKey)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("position of the dial: %w", err)
	case len(b) != 1 || int(b[0]) >= battery.Stops:
		return 0, nil
	}
	return int(b[0]), nil
}

// errStop is the answer to a position that does not exist.
var errStop = fmt.Errorf("the dial has the stops 0 (private) to %d (thrifty)", battery.Stops-1)

// SetDial chooses cost against privacy: 0 private to battery.Stops-1 thrifty. The
// mask follows once it has learned again, at the earliest after four days of the
// home's own demand.
func (g *Gateway) SetDial(stop int) error {
	if g.mask == nil {
		return errNoBattery
	}
	return g.mask.setDial(stop)
}

func (m *mask) setDial(stop int) error {
	if stop < 0 || stop >= battery.Stops {
		return errStop
	}
	if err := m.env.Store.Set(dialKey, []byte{byte(stop)}); err != nil {
		return fmt.Errorf("keep the position of the dial: %w", err)
	}
	select {
	case m.turned <- struct{}{}:
	default: // the newest position is read then
	}
	return nil
}

// redial learns anew when the dial was turned.
func (m *mask) redial(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.turned:
			if err := m.teach(ctx, m.env.Clock.Now()); err != nil && ctx.Err() == nil {
				m.env.Log.Warn("the dial's new position takes effect tonight", "err", err)
			}
		}
	}
}

// weigh rates the running kernel and tries out every stop of the dial. It takes
// seconds of machine time and writes what it found.
func (m *mask) weigh(ctx context.Context, now time.Time, k battery.Learned, history []float64, d battery.Dial) error {
	in := Insight{At: now, Flat: flat(d.Prices)}
	var err error
	if in.Leak, err = battery.RateLeak(ctx, m.spec, k, history); err != nil {
		return err
	}
	kept, err := new(memory).load(m.env.Store)
	if err != nil {
		return err
	}
	days := kept.blocks[max(0, len(kept.blocks)-weighDays*int(24*time.Hour/battery.Block)):]
	for stop := range battery.Stops {
		at := &k
		if stop != d.Stop {
			if at, err = m.lesson(ctx, history, battery.Dial{Stop: stop, Prices: d.Prices}); err != nil {
				return err
			}
		}
		s, err := m.tryOut(ctx, *at, days, d.Prices)
		if err != nil {
			return err
		}
		in.Stops = append(in.Stops, s)
		if in.Flat {
			break
		}
	}
	b, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("keep what the dial means: %w", err)
	}
	return m.env.Store.Set(insightKey, b)
}

func flat(prices []float64) bool {
	for _, p := range prices {
		if p != prices[0] {
			return false
		}
	}
	return true
}

// tryOut lets a kernel mask recorded days, in minutes.
func (m *mask) tryOut(ctx context.Context, k battery.Learned, days []block, prices []float64) (s Stop, err error) {
	c, err := battery.NewController(ctx, battery.Config{Spec: m.spec, Policy: "veil", Learned: &k, Rand: rand.New(rand.NewChaCha8([32]byte{}))})
	if err != nil || len(days) == 0 {
		return s, err
	}
	s.Bits = c.Today().BoundBits
	half := (m.spec.Floor() + m.spec.Ceiling()) / 2
	st, mean, falls := battery.Store{Spec: m.spec, E: half}, 0., battery.WattHours(0)
	var last battery.Command
	for _, b := range days {
		for i := range int(battery.Block / time.Minute) {
			at := b.start.Add(time.Duration(i) * time.Minute)
			price := prices[(at.UTC().Hour()*60+at.UTC().Minute())/15]
			o := battery.Obs{Time: at, Dt: time.Minute, Load: battery.Watts(b.wh / battery.Block.Hours()), E: st.E, PrevMeter: last.Predicted, PrevActual: last.Battery, Price: price}
			last = c.Step(o)
			before := st.E
			s.Loss += float64(st.Apply(last.Battery, time.Minute))
			falls += max(0, before-st.E)
			s.Cost += float64(last.Predicted) / 60_000 * price
			mean += price
		}
	}
	minutes := float64(len(days)) * battery.Block.Minutes()
	s.Cost -= float64(st.E-half) / 1000 * mean / minutes // what is in the battery now was paid for, too
	n := minutes / (24 * 60)
	s.Cost, s.Loss, s.Cycles = s.Cost/n, s.Loss/n, float64(falls/m.spec.Capacity)/n
	return s, nil
}

// Insight is what the last night found; ok is false before the first that knew
// enough. Stop is the dial's position.
func (g *Gateway) Insight() (in Insight, stop int, ok bool) {
	if g.mask == nil {
		return in, 0, false
	}
	stop, err := g.mask.stop()
	if err != nil {
		return in, 0, false // the store's own warning tells why
	}
	b, err := g.mask.env.Store.Get(insightKey)
	if err != nil || json.Unmarshal(b, &in) != nil {
		return in, stop, false
	}
	return in, stop, true
}
