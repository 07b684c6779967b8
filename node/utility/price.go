package utility

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	grid "gridveil/ev/signal"
	"gridveil/ev/tariff"
	"gridveil/mesh/gossip"
	"gridveil/node/clock"
	"gridveil/node/signal"
	"gridveil/node/store"
)

const (
	priceStep    = 15 * time.Minute
	priceSteps   = int(signal.PriceLife / priceStep) // as far ahead as a register lives
	pricePeriod  = 6 * time.Hour                     // a home that was away for a day still knows a day ahead
	pricePause   = 20 * time.Second                  // between two registers: gossip takes four a minute
	peakNotice   = 3 * time.Hour                     // homes refuse a critical peak with less than two
	peakLongest  = 12 * time.Hour
	peakMaxRate  = 5_000_000 // micro/kWh, the network's usual bound
	maxPeaks     = 200       // remembered for bills; tariff.MaxOverlays is 255
	peakGrid     = time.Hour // peaks begin and end on the hour, so that no meter slot has two prices
	latestPeakBy = signal.PriceLife
)

// tariffs are the plans in the order of their numbers in price registers.
var tariffs = map[Plan]signal.Tariff{PlanFlat: signal.Flat, PlanDayNight: signal.DayNight}

// Peak is a critical peak: for its time a plan's energy costs another price.
// Homes are told by a signed register; bills use the same prices.
type Peak struct {
	Plan      Plan  `json:"plan"`
	Announced int64 `json:"announced"` // UTC ms
	From      int64 `json:"from"`
	To        int64 `json:"to"`
	Import    int64 `json:"import"` // micro/kWh
	Published bool  `json:"published"`
}

var peaksKey = store.SpaceOrder.Key([]byte("peaks"))

// loadPrices reads the announced peaks and registers the command that announces
// one.
func (u *Utility) loadPrices() error {
	b, err := u.env.Store.Get(peaksKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("announced peaks: %w", err)
	}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &u.peaks); err != nil {
			return fmt.Errorf("announced peaks: %w", err)
		}
	}
	u.env.Control.Handle("price-event", func(_ context.Context, in json.RawMessage) (any, error) {
		var p Peak
		if err := json.Unmarshal(in, &p); err != nil {
			return nil, errors.New("want {plan, from, to, import}")
		}
		return u.AnnouncePeak(p.Plan, time.UnixMilli(p.From), time.UnixMilli(p.To), p.Import)
	})
	return nil
}

// AnnouncePeak tells the homes of a plan that its energy costs rate millionths
// per kWh from..to. It is durable, and part of every bill, when it returns.
func (u *Utility) AnnouncePeak(plan Plan, from, to time.Time, rate int64) (Peak, error) {
	now := u.env.Clock.Now()
	p := Peak{Plan: plan, Announced: now.UnixMilli(), From: from.UnixMilli(), To: to.UnixMilli(), Import: rate}
	if err := p.check(now); err != nil {
		return p, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, o := range u.peaks {
		if o.Plan == plan && o.To > p.Announced {
			return p, fmt.Errorf("a critical peak of plan %s stands until %s; announce the next one after it", plan, time.UnixMilli(o.To).UTC().Format(time.RFC3339))
		}
	}
	if err := u.savePeaks(append(slices.Clone(u.peaks), p)); err != nil {
		return p, err
	}
	select {
	case u.repriced <- struct{}{}:
	default: // already poked
	}
	return p, nil
}

func (p Peak) check(now time.Time) error {
	from, to := time.UnixMilli(p.From), time.UnixMilli(p.To)
	switch {
	case tariffs[p.Plan] == 0:
		return fmt.Errorf("unknown plan %q: want %s or %s", p.Plan, PlanFlat, PlanDayNight)
	case !from.Truncate(peakGrid).Equal(from), !to.Truncate(peakGrid).Equal(to):
		return errors.New("a critical peak begins and ends on the hour, so that no metered interval has two prices")
	case !to.After(from), to.Sub(from) > peakLongest:
		return fmt.Errorf("a critical peak lasts 1 h to %v", peakLongest)
	case from.Sub(now) < peakNotice:
		return fmt.Errorf("a critical peak needs %v of notice; begin at %s or later", peakNotice, clock.Next(now.Add(peakNotice), peakGrid).UTC().Format(time.RFC3339))
	case to.Sub(now) > latestPeakBy:
		return fmt.Errorf("a critical peak can be announced at most %v ahead of its end", latestPeakBy)
	case p.Import < 0 || p.Import > peakMaxRate:
		return fmt.Errorf("want a price of 0 to %d millionths per kWh, got %d", peakMaxRate, p.Import)
	}
	return nil
}

// savePeaks makes the list durable, then current. The caller holds mu.
func (u *Utility) savePeaks(next []Peak) error {
	next = next[max(0, len(next)-maxPeaks):]
	b, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := u.env.Store.Set(peaksKey, b); err != nil {
		return fmt.Errorf("keep critical peak: %w", err)
	}
	u.peaks = next
	return nil
}

// calendar is a plan's calendar with the critical peaks that were announced.
func (u *Utility) calendar(p Plan) (*tariff.Calendar, error) {
	base, err := p.calendar()
	if err != nil {
		return nil, err
	}
	spec := base.Spec()
	u.mu.Lock()
	for _, k := range u.peaks {
		if k.Plan == p {
			spec.Overlays = append(spec.Overlays, tariff.Overlay{Announced: k.Announced, From: k.From, To: k.To, Import: k.Import, Export: feedInRate})
		}
	}
	u.mu.Unlock()
	return tariff.New(spec)
}

// publishPrices keeps the prices of every zone and plan known, and announces
// peaks at once.
func (u *Utility) publishPrices(ctx context.Context) error {
	for {
		if err := u.publishPeaks(ctx); err != nil {
			return err
		}
		next := u.env.Clock.Now().Add(pricePeriod)
		for _, zone := range u.zones() {
			for _, p := range []Plan{PlanFlat, PlanDayNight} {
				if err := u.publishPlan(ctx, zone, p); err != nil {
					return err
				}
				if err := u.publishPeaks(ctx); err != nil {
					return err
				}
			}
		}
		if !u.awaitRound(ctx, next) {
			return nil
		}
	}
}

// awaitRound announces peaks until the next round is due; false means that ctx
// ended.
func (u *Utility) awaitRound(ctx context.Context, next time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-u.env.Clock.After(next.Sub(u.env.Clock.Now())):
			return true
		case <-u.repriced:
			if err := u.publishPeaks(ctx); err != nil {
				u.env.Log.Error("critical peak not announced; tried with the next round", "err", err)
			}
		}
	}
}

// zones are those that this utility prices.
func (u *Utility) zones() []string {
	o, _ := u.env.Host.Bundle().Operator(u.env.Host.Self().Operator)
	return o.Zones
}

// publishPlan tells a zone the prices of a plan.
func (u *Utility) publishPlan(ctx context.Context, zone string, p Plan) error {
	cal, err := p.calendar()
	if err != nil {
		return err
	}
	from := u.env.Clock.Now().Truncate(priceStep)
	b := &grid.Price{Currency: currencyEUR, Kind: grid.TimeOfUse, From: from.UnixMilli(), StepS: int(priceStep / time.Second), Tariff: cal.Hash()}
	for i := range priceSteps {
		r, err := cal.PriceAt(from.Add(time.Duration(i)*priceStep).UnixMilli(), 0)
		if err != nil {
			return fmt.Errorf("prices of plan %s: %w", p, err)
		}
		b.Prices = append(b.Prices, r.Import)
	}
	_, err = u.publishPrice(ctx, zone, p, b, from.Add(signal.PriceLife))
	return err
}

const publishTries = 3

// publishPrice makes one price register known, and then leaves room for the next
// one; told is false when the network would not take it, or ctx ended.
func (u *Utility) publishPrice(ctx context.Context, zone string, p Plan, b *grid.Price, expires time.Time) (told bool, err error) {
	raw, err := b.Encode()
	if err != nil {
		return false, err
	}
	key := signal.PriceKey(zone, tariffs[p], b.Kind == grid.CriticalPeak)
	for range publishTries {
		err := u.env.Host.Publish(gossip.KindPrice, key, raw, expires)
		if err != nil && ctx.Err() == nil {
			u.env.Log.Warn("prices not published; tried again", "err", err)
		}
		if !clock.Sleep(ctx, u.env.Clock, pricePause) {
			return false, nil
		}
		if err == nil {
			return true, nil
		}
	}
	return false, nil
}

// publishPeaks announces what has not been announced yet.
func (u *Utility) publishPeaks(ctx context.Context) error {
	for _, p := range u.unpublished() {
		cal, err := u.calendar(p.Plan)
		if err != nil {
			return err
		}
		b := &grid.Price{Currency: currencyEUR, Kind: grid.CriticalPeak, From: p.From, StepS: int(priceStep / time.Second), Tariff: cal.Hash(),
			Prices: slices.Repeat([]int64{p.Import}, int((p.To-p.From)/priceStep.Milliseconds()))}
		everywhere := true
		for _, zone := range u.zones() {
			told, err := u.publishPrice(ctx, zone, p.Plan, b, time.UnixMilli(p.To))
			if err != nil {
				return err
			}
			everywhere = everywhere && told
		}
		if !everywhere {
			return nil // the next round tries again
		}
		if err := u.published(p); err != nil {
			return err
		}
	}
	return nil
}

func (u *Utility) unpublished() (out []Peak) {
	now := u.env.Clock.Now().UnixMilli()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, p := range u.peaks {
		if !p.Published && p.To > now {
			out = append(out, p)
		}
	}
	return out
}

func (u *Utility) published(p Peak) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	next := slices.Clone(u.peaks)
	if i := slices.Index(next, p); i >= 0 {
		next[i].Published = true
	}
	return u.savePeaks(next)
}
