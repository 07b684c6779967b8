// Package gateway is the node in a house: it reads the meter, hides the load
// behind the battery, reports what the contract asks for, raises alarms and is
// the wallbox's central system, host of guests and purse of the household.
//
// Everything that happens in the house needs nobody outside: with every remote
// down the meter is read, the battery masks, the car charges, and what should
// have left waits in the store.
package gateway

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/node/clock"
	"gridveil/node/role"
)

// Gateway is the gateway role. Its parts are in files of their own.
type Gateway struct {
	env     *role.Env
	journal *journal
	curve   *curve
	mask    *mask     // nil without battery
	metered *metering // nil without meter
	alarms  *alarms
	signals *signals
	house   *house   // nil without simulated hardware
	hosting *hosting // nil without wallbox
	sums    *sums    // nil without meter
}

// New builds the gateway of env. hw stands in for hardware; its zero value means
// what the configuration names.
func New(ctx context.Context, env *role.Env, hw Hardware) (*Gateway, error) {
	g := &Gateway{env: env, curve: newCurve()}
	var err error
	if g.journal, err = openJournal(env.Store); err != nil {
		return nil, err
	}
	if g.alarms, err = newAlarms(env, g.journal); err != nil {
		return nil, err
	}
	if g.signals, err = newSignals(env); err != nil {
		return nil, err
	}
	if env.Config.Meter.Source != "" {
		if err := g.openMeter(ctx, hw); err != nil {
			return nil, fmt.Errorf("meter: %w", err)
		}
		if g.sums, err = openSums(env, g.journal, func() time.Duration { return g.metered.collector.Status().ReadPeriod }); err != nil {
			return nil, err
		}
	}
	g.batteryCommands()
	g.proofCommands()
	if env.Config.Hosts() {
		if g.hosting, err = newHosting(env, g.journal, g.mask); err != nil {
			return nil, fmt.Errorf("wallbox: %w", err)
		}
		g.hosting.heed(g.signals)
		if g.mask != nil {
			g.mask.replan = g.hosting.replan
		}
		if g.house != nil && clock.Pace(env.Clock) != nil {
			g.house.ordered, g.hosting.stepped = g.hosting.ordered, true
		}
	} else {
		refuseGuests(env.Control)
	}
	return g, nil
}

// Serve runs the gateway's parts until ctx ends.
func (g *Gateway) Serve(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.alarms.serve(ctx) })
	group.Go(func() error { return g.signals.serve(ctx) })
	group.Go(func() error { return g.tidy(ctx) })
	if g.metered != nil {
		group.Go(func() error { return g.metered.serve(ctx) })
		group.Go(func() error { return g.sums.serve(ctx) })
	}
	if g.mask != nil {
		group.Go(func() error { return g.mask.serve(ctx) })
	}
	if g.house != nil {
		group.Go(func() error { return g.house.serve(ctx) })
	}
	if g.hosting != nil {
		group.Go(func() error { return g.hosting.serve(ctx) })
	}
	return group.Wait()
}
