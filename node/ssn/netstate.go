package ssn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	grid "gridveil/ev/signal"
	"gridveil/mesh/gossip"
	"gridveil/node/signal"
	"gridveil/node/store"
)

// GridLimit is what the operator of the grid allows each home of this
// substation's zone, until an instant; then the network is free again.
type GridLimit struct {
	ImportMaxW int64      `json:"import_max_w"` // signal.Unlimited for no limit
	ExportMaxW int64      `json:"export_max_w"`
	State      grid.State `json:"state"`
	Until      int64      `json:"until"` // UTC ms
}

const (
	longestLimit = 24 * time.Hour
	limitRetry   = 30 * time.Second // gossip takes two network states a minute
)

var limitKey = store.SpaceSettings.Key([]byte("grid-limit"))

// free is the state of a network without limits.
var free = GridLimit{ImportMaxW: signal.Unlimited, ExportMaxW: signal.Unlimited}

// loadLimit reads the limit in force and registers the command that sets one.
func (s *SSN) loadLimit() error {
	s.limit = free
	b, err := s.env.Store.Get(limitKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("grid limit: %w", err)
	}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &s.limit); err != nil {
			return fmt.Errorf("grid limit: %w", err)
		}
	}
	s.env.Control.Handle("grid-limit", func(_ context.Context, in json.RawMessage) (any, error) {
		q := free
		if err := json.Unmarshal(in, &q); err != nil {
			return nil, errors.New("want {import_max_w, export_max_w, state, until}")
		}
		return q, s.SetLimit(q)
	})
	return nil
}

// SetLimit makes a limit durable and publishes it.
func (s *SSN) SetLimit(l GridLimit) error {
	now := s.env.Clock.Now()
	switch until := time.UnixMilli(l.Until); {
	case l.ImportMaxW < 0 || l.ExportMaxW < 0 || l.ImportMaxW > signal.Unlimited || l.ExportMaxW > signal.Unlimited:
		return fmt.Errorf("want limits of 0 to %d W", signal.Unlimited)
	case l.State > grid.Emergency:
		return fmt.Errorf("unknown state %d of the network", l.State)
	case !until.After(now) || until.Sub(now) > longestLimit:
		return fmt.Errorf("a limit ends within %v: say until when it holds", longestLimit)
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.env.Store.Set(limitKey, b); err != nil {
		return fmt.Errorf("keep grid limit: %w", err)
	}
	s.limit = l
	nudge(s.limited)
	return nil
}

// Limit is the limit in force now.
func (s *SSN) Limit() GridLimit {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.env.Clock.Now().UnixMilli() >= s.limit.Until {
		return free
	}
	return s.limit
}

// publishState tells the zone its network's state, when it changes and every
// quarter of an hour.
func (s *SSN) publishState(ctx context.Context) error {
	for {
		next := s.env.Clock.Now().Add(signal.NetStatePeriod)
		l := s.Limit()
		if end := time.UnixMilli(l.Until); l != free && end.Before(next) {
			next = end
		}
		if err := s.publishLimit(l); err != nil {
			s.env.Log.Warn("network state not published; tried again", "err", err)
			next = s.env.Clock.Now().Add(limitRetry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.limited:
		case <-s.env.Clock.After(next.Sub(s.env.Clock.Now())):
		}
	}
}

// publishLimit signs the state as it is now. The substation of this version has
// no voltage or frequency meter of its own: both are 0, not measured.
func (s *SSN) publishLimit(l GridLimit) error {
	now := s.env.Clock.Now()
	zone := s.env.Host.Self().Zone
	until := now.Add(signal.NetStateLife)
	if end := time.UnixMilli(l.Until); l != free && end.Before(until) {
		until = end
	}
	b := grid.NetState{Zone: signal.ZoneNumber(zone), From: now.UnixMilli(), To: until.UnixMilli(), ImportMaxW: l.ImportMaxW, ExportMaxW: l.ExportMaxW, State: l.State}
	raw, err := b.Encode()
	if err != nil {
		return err
	}
	return s.env.Host.Publish(gossip.KindNetState, signal.NetStateKey(zone), raw, now.Add(signal.NetStateLife))
}
