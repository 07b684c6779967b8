package demo

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/clock"
	"gridveil/node/gateway"
	"gridveil/node/headend"
	"gridveil/node/utility"
)

// readyWait bounds, in wall time, how long the nodes may take to find each other.
const readyWait = 3 * time.Minute

// Once runs Options.Hours and judges them.
func Once(ctx context.Context, o Options) (*Summary, error) {
	began := time.Now()
	s, err := Build(o)
	if err != nil {
		return nil, err
	}
	var sum *Summary
	err = s.run(ctx, func(ctx context.Context, st *Story) error {
		if err := s.settleIn(ctx, st); err != nil {
			return err
		}
		for st.midnight().Before(st.end()) {
			if err := st.Day(ctx); err != nil {
				return err
			}
		}
		if err := st.Settle(ctx); err != nil {
			return err
		}
		sum, err = s.judge(ctx, st)
		return err
	})
	if err == nil && sum != nil {
		sum.WallSeconds = time.Since(began).Seconds()
		sum.finish(s)
	}
	return sum, errors.Join(err, s.Remove())
}

// run starts clock and nodes and lets act play; then it stops everything, whatever
// happened.
func (s *Scene) run(ctx context.Context, act func(context.Context, *Story) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	clockCtx, stopClock := context.WithCancel(context.WithoutCancel(ctx))
	ticking := make(chan error, 1)
	go func() { ticking <- s.Clock.Run(clockCtx) }() // stopped and awaited below
	st := newStory(s)
	err := s.RunAll(ctx)
	s.Clock.SetSpeed(meetSpeed)
	if err == nil {
		err = s.guard(ctx, func(ctx context.Context) error { return act(ctx, st) })
	}
	cancel()
	err = errors.Join(err, s.StopAll())
	stopClock()
	return errors.Join(err, <-ticking)
}

// guard runs act and ends it when a node falls that nobody stopped.
func (s *Scene) guard(ctx context.Context, act func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := make(chan struct{})
	go func() { // ends with ctx; awaited below
		defer close(watch)
		for {
			for _, m := range s.Members {
				if err := m.fallen(); err != nil {
					cancel(fmt.Errorf("%s stopped by itself: %w", m.Name, err))
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
		}
	}()
	err := act(ctx)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	cancel(nil)
	<-watch
	return err
}

// fallen is the error of a node that ended although nobody stopped it.
func (m *Member) fallen() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.node == nil {
		return nil
	}
	select {
	case err := <-m.done:
		m.done <- err // Stop reads it again
		if err == nil {
			err = errors.New("no reason given")
		}
		return err
	default:
		return nil
	}
}

// settleIn opens the contracts and waits until everybody knows whom to talk to,
// then until Start.
func (s *Scene) settleIn(ctx context.Context, st *Story) error {
	ua := s.utility("utility-a")
	for _, m := range s.Of(member.RoleGateway) {
		plan := utility.PlanFlat
		if len(m.Name)%2 == 0 {
			plan = utility.PlanDayNight
		}
		c := utility.NewContract{Gateway: m.Node().Host.Self().Key, Plan: plan, Masked: m.Home.BatteryWh > 0}
		if _, err := ua.Open(c); err != nil {
			return fmt.Errorf("contract of %s: %w", m.Name, err)
		}
	}
	if err := s.enrolDrivers(); err != nil {
		return err
	}
	if err := s.certifyMeters(); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	for !s.ordered() {
		if !clock.Sleep(wait, clock.Wall{}, 100*time.Millisecond) {
			return fmt.Errorf("the nodes did not find each other within %v: %w", readyWait, context.Cause(wait))
		}
	}
	if err := s.warm(wait, st); err != nil {
		return err
	}
	s.Clock.SetSpeed(max(s.Speed, warmSpeed))
	clock.Until(ctx, s.Clock, Start)
	s.Clock.SetSpeed(s.Speed)
	return nil
}

// Speeds of the clock before the first day: while the nodes find each other, and
// while they equip themselves.
const (
	meetSpeed = 40
	warmSpeed = 400
)

// warm lets the time before the first day pass until drivers and hosts are
// equipped. Where that takes longer it is stretched.
func (s *Scene) warm(ctx context.Context, st *Story) error {
	s.Clock.SetSpeed(warmSpeed)
	for !st.equipped() {
		if Start.Sub(s.Clock.Now()) < time.Minute {
			s.Clock.SetSpeed(1)
		}
		if !clock.Sleep(ctx, clock.Wall{}, 100*time.Millisecond) {
			return fmt.Errorf("wallets have no pseudonyms or hosts no passes: %w", context.Cause(ctx))
		}
	}
	return nil
}

// driverLimit is the highest band a driver of the scene may open.
const driverLimit = 80

// enrolDrivers makes the drivers customers of their utility.
func (s *Scene) enrolDrivers() error {
	for _, m := range s.Of(member.RoleWallet) {
		handle, err := s.utility("utility-b").OpenDriver(m.Node().Host.Self().Key, driverLimit)
		if err != nil {
			return fmt.Errorf("contract of %s: %w", m.Name, err)
		}
		s.contracts[m.Name] = hex.EncodeToString(handle[:])
	}
	return nil
}

// ordered says whether every home has its order.
func (s *Scene) ordered() bool {
	h, ok := s.Get("headend").Node().Role.(*headend.Headend)
	if !ok {
		return false
	}
	c := h.Counters()
	return c.Gateways == s.Homes && c.Ordered == s.Homes
}

func (s *Scene) utility(name string) *utility.Utility {
	return s.Get(name).Node().Role.(*utility.Utility) // the cast gives these names this role
}

func (s *Scene) gateway(m *Member) *gateway.Gateway {
	return m.Node().Role.(*gateway.Gateway) // the cast gives homes this role
}
