package ssn

import (
	"context"
	"fmt"
	"slices"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/alarm"
	"gridveil/node/clock"
	"gridveil/node/store"
)

const (
	heartbeat    = 2 * time.Minute        // homes that are gone for two of these raise an event
	outageStep   = 200 * time.Millisecond // between looks while losses of voltage come in
	outageBusy   = 6 * time.Second        // so long after the newest of them
	alarmBurst   = 200                    // events of one home at once
	alarmsPerSec = 20                     // and from then on; a home merges what is more
	forgetHome   = 7 * 24 * time.Hour     // a home that is gone so long has moved
)

// watch raises an event for homes that have been silent for two heartbeats.
func (s *SSN) watch(ctx context.Context) error {
	for clock.Sleep(ctx, s.env.Clock, heartbeat/4) {
		for _, e := range s.look(s.env.Clock.Now()) {
			if err := s.raise(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// outages tells of clustered losses of voltage: in short steps after the first,
// then seldom.
func (s *SSN) outages(ctx context.Context) error {
	busy := time.Time{}
	for {
		now := s.env.Clock.Now()
		pause := heartbeat / 4
		if now.Before(busy) {
			pause = outageStep
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.dark:
			busy = s.env.Clock.Now().Add(outageBusy)
		case <-s.env.Clock.After(pause):
		}
		s.mu.Lock()
		due := s.cluster.Tick(s.env.Clock.Now())
		s.mu.Unlock()
		for _, e := range due {
			if err := s.raise(e); err != nil {
				return err
			}
		}
	}
}

// look compares who is connected with who was: one event for all homes that went,
// one for all that came back.
func (s *SSN) look(now time.Time) (out []alarm.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	zone := s.env.Host.Self().Zone
	for _, p := range s.env.Host.Peers() {
		if p.Role == member.RoleGateway && p.Zone == zone {
			s.seen[p.Key] = now
		}
	}
	var went, came alarm.Bitmap
	for k, at := range s.seen {
		gone := now.Sub(at) > 2*heartbeat
		switch {
		case gone && !s.silent[k]:
			went.Set(s.ordinalOf(k))
		case !gone && s.silent[k]:
			came.Set(s.ordinalOf(k))
		case now.Sub(at) > forgetHome:
			delete(s.seen, k)
			delete(s.silent, k)
			continue
		}
		s.silent[k] = gone
	}
	if n := went.Count(); n > 0 {
		out = append(out, silence(now, went, 0, fmt.Sprintf("not connected: %d of this zone's gateways", n)))
	}
	if n := came.Count(); n > 0 {
		out = append(out, silence(now, came, alarm.Restored, fmt.Sprintf("connected again: %d of this zone's gateways", n)))
	}
	return out
}

func silence(now time.Time, homes alarm.Bitmap, flags alarm.Flags, detail string) alarm.Event {
	n := homes.Count()
	if n > 1 {
		flags |= alarm.Merged
	}
	return alarm.Event{Priority: alarm.P1, Kind: alarm.Malfunction, Flags: flags, At: now.UnixMilli(), Key: alarm.Key{Profile: 2, Code: alarm.CodeSilent},
		Count: uint32(n), Roster: 1, Ordinals: homes, Detail: []byte(detail)}
}

// codeSum is the event of a private sum whose servers do not agree.
const codeSum = 108

// alertSum raises an event for a sum in which somebody did not do as agreed.
func (s *SSN) alertSum(why error) {
	e := alarm.Event{Priority: alarm.P1, Kind: alarm.Malfunction, At: s.env.Clock.Now().UnixMilli(), Key: alarm.Key{Profile: 2, Code: codeSum}, Count: 1, Detail: []byte("private sum: ")}
	e.Detail = append(e.Detail, why.Error()...)
	e.Detail = e.Detail[:min(len(e.Detail), alarm.MaxDetail)]
	if err := s.raise(e); err != nil {
		s.env.Log.Error("event could not be stored", "err", err)
	}
}

// raise signs and keeps an event of the substation itself.
func (s *SSN) raise(e alarm.Event) error {
	s.mu.Lock()
	s.seq++
	e.Seq = s.seq
	seq := s.seq
	s.mu.Unlock()
	if err := e.Sign(s.env.ID.Key); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	raw, err := e.Encode()
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	err = s.env.Store.Update(func(tx *store.Tx) error {
		if err := tx.Set(seqKey, store.U64(seq)); err != nil {
			return err
		}
		return s.keepAlarm(tx, e, s.env.Host.Self(), raw)
	})
	if err == nil {
		nudge(s.ring)
	}
	return err
}

// keepAlarm stores an event here and for the head-end: source's key 32 | event.
func (s *SSN) keepAlarm(tx *store.Tx, e alarm.Event, from mesh.Member, raw []byte) error {
	if _, err := s.inbox.TakeTx(tx, e, e.Device); err != nil {
		return err
	}
	id := e.ID()
	return s.alarms.PutTx(tx, store.Message{ID: id[:], Kind: "alarm", To: from.Operator, Body: slices.Concat(from.Key[:], raw), At: s.env.Clock.Now()})
}

// takeAlarm stores a home's event durably, then acknowledges it.
func (s *SSN) takeAlarm(_ context.Context, from mesh.Member, req []byte) ([]byte, error) {
	e, err := alarm.Decode(req)
	if err != nil {
		return nil, err
	}
	if err := e.Verify(from.Key[:]); err != nil {
		return nil, err
	}
	now := s.env.Clock.Now()
	if !s.mayAlarm(from.Key, now) {
		return nil, &mesh.BusyError{After: time.Second} // it stays at the home, which merges
	}
	err = s.env.Store.Update(func(tx *store.Tx) error { return s.keepAlarm(tx, e, from, req) })
	if err != nil {
		return nil, &mesh.BusyError{After: time.Second}
	}
	s.mu.Lock()
	s.relayed.Alarms++
	if e.Kind == alarm.VoltageAbsent {
		s.cluster.Take(e, s.ordinalOf(from.Key), now) // the cluster tells outages besides; single events go on too
		nudge(s.dark)
	}
	s.mu.Unlock()
	nudge(s.ring)
	return alarm.NewAck(e.ID(), now, s.env.ID.Key).Encode(), nil
}

// ordinalOf numbers the homes of this substation as they appear. Caller holds mu.
func (s *SSN) ordinalOf(k member.Key) uint32 {
	if o, ok := s.ordinals[k]; ok {
		return o
	}
	s.ordinals[k] = uint32(len(s.ordinals) + 1)
	return s.ordinals[k]
}

// bucket is how many events a home may still send, at an instant.
type bucket struct {
	left float64
	at   time.Time
}

// mayAlarm bounds what one home can make this node keep and pass on.
func (s *SSN) mayAlarm(k member.Key, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.rates[k]
	if !ok {
		b = bucket{alarmBurst, now}
	}
	b.left = min(alarmBurst, b.left+alarmsPerSec*max(0, now.Sub(b.at).Seconds()))
	b.at = now
	if b.left < 1 {
		s.rates[k] = b
		return false
	}
	b.left--
	s.rates[k] = b
	return true
}

// maxWaitingAlarms is how many events are looked at to find the most urgent.
const maxWaitingAlarms = 1024

// forwardAlarms sends waiting events to the head-ends, the most urgent first.
func (s *SSN) forwardAlarms(ctx context.Context) error {
	waiting, err := s.alarms.List(0, maxWaitingAlarms)
	if err != nil {
		return fmt.Errorf("waiting alarms: %w", err)
	}
	slices.SortStableFunc(waiting, func(a, b store.Message) int { return priority(a.Body) - priority(b.Body) })
	stuck := map[string]bool{} // operators whose head-end does not answer
	sent := 0
	for _, m := range waiting {
		if stuck[m.To] || ctx.Err() != nil {
			continue
		}
		if !s.forwardAlarm(ctx, m) {
			stuck[m.To] = true
			continue
		}
		if err := s.alarms.Done(m.ID); err != nil {
			return fmt.Errorf("acknowledged alarm: %w", err)
		}
		sent++
	}
	if len(waiting) == maxWaitingAlarms && sent > 0 {
		nudge(s.ring)
	}
	return nil
}

func priority(body []byte) int {
	e, err := alarm.Decode(body[32:])
	if err != nil {
		return int(alarm.P3)
	}
	return int(e.Priority)
}

func (s *SSN) forwardAlarm(ctx context.Context, m store.Message) bool {
	own := member.Key(m.Body[:32]) == s.env.Host.Self().Key
	for _, h := range s.alarmed(m.To, own) {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		answer, err := s.env.Host.Call(call, h.Peer, mesh.Alarm, m.Body)
		cancel()
		if err != nil {
			continue // the next head-end, or later
		}
		if ack, err := alarm.DecodeAck(answer); err == nil && ack.Verify(h.Key[:]) == nil && string(ack.Event[:]) == string(m.ID) {
			return true
		}
	}
	return false
}

// alarmed are the head-ends that an event is for: its operator's. One of this
// substation itself must reach somebody, so any head-end will do where its
// operator has none; a home's is nobody else's business.
func (s *SSN) alarmed(operator string, own bool) []mesh.Member {
	out := s.headends(operator)
	if len(out) == 0 && own {
		out = s.headends("")
	}
	return out
}
