// Package ssn is the node in a secondary substation: parent of the homes of its
// zone, relay of their reports, alarms and onion packets.
//
// It cannot read a report: it checks signature, chain and size, keeps the bytes
// durably, says so (held), and passes them on until the head-end says final.
// What waits is in the store; killing the node loses nothing that it
// acknowledged.
package ssn

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/alarm"
	"gridveil/node/clock"
	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/role"
	"gridveil/node/store"
)

const (
	forwardRetry = 30 * time.Second
	callTimeout  = 10 * time.Second // wall time, for one neighbour
	heartbeat    = 2 * time.Minute  // a home that is gone for two of these raises an event
	forwardBatch = 64
)

// SSN is the substation role.
type SSN struct {
	env     *role.Env
	reports store.Outbox
	alarms  store.Outbox
	inbox   alarm.Inbox
	wake    chan struct{}
	ring    chan struct{}
	limited chan struct{} // the grid limit changed

	mu       sync.Mutex
	seen     map[member.Key]time.Time // gateways of this zone, when last connected
	silent   map[member.Key]bool
	cluster  *alarm.Clusterer
	ordinals map[member.Key]uint32 // places in this substation's own list, for outages
	seq      uint64
	relayed  Counters
	limit    GridLimit

	sums *sums // private sums that this substation leads or helps with
}

// Counters are what the substation's page shows.
type Counters struct {
	Reports, Finals, Refused, Alarms uint64
	Waiting                          int
}

var seqKey = store.SpaceCursor.Key([]byte("alarm-seq"))

// New builds the role and registers what it answers.
func New(env *role.Env) (*SSN, error) {
	s := &SSN{env: env, reports: env.Store.Outbox("report"), alarms: env.Store.Outbox("alarm"), inbox: alarm.OpenInbox(env.Store),
		wake: make(chan struct{}, 1), ring: make(chan struct{}, 1), limited: make(chan struct{}, 1), seen: map[member.Key]time.Time{}, silent: map[member.Key]bool{},
		cluster: alarm.NewClusterer(1), ordinals: map[member.Key]uint32{}}
	b, err := env.Store.Get(seqKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("alarm counter: %w", err)
	}
	s.seq, _ = store.GetU64(b)
	if err := s.loadLimit(); err != nil {
		return nil, err
	}
	env.Host.Handle(mesh.Report, s.takeReport)
	env.Host.Handle(mesh.Backfill, s.takeReport)
	env.Host.Handle(mesh.Alarm, s.takeAlarm)
	env.Host.Handle(mesh.Order, s.passDown(mesh.Order))
	env.Host.Handle(mesh.ReadNow, s.passDown(mesh.ReadNow))
	if s.sums, err = openSums(env, s.alertSum); err != nil {
		return nil, err
	}
	return s, nil
}

// Serve forwards and watches until ctx ends.
func (s *SSN) Serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.loop(ctx, s.wake, s.forwardReports) })
	g.Go(func() error { return s.loop(ctx, s.ring, s.forwardAlarms) })
	g.Go(func() error { return s.watch(ctx) })
	g.Go(func() error { return s.publishState(ctx) })
	g.Go(func() error { return s.sums.serve(ctx) })
	return g.Wait()
}

// loop runs work whenever it is poked, and again while something waits.
func (s *SSN) loop(ctx context.Context, poke <-chan struct{}, work func(context.Context) error) error {
	for {
		if err := work(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-poke:
		case <-s.env.Clock.After(forwardRetry):
		}
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one nudge is enough
	}
}

// Counters gives what was relayed since the start.
func (s *SSN) Counters() Counters {
	s.mu.Lock()
	c := s.relayed
	s.mu.Unlock()
	if list, err := s.reports.List(0, 10_000); err == nil {
		c.Waiting = len(list)
	}
	return c
}

// passDown hands a head-end's request to a gateway: key 32 | bytes.
func (s *SSN) passDown(service mesh.Service) mesh.HandlerFunc {
	return func(ctx context.Context, _ mesh.Member, req []byte) ([]byte, error) {
		if len(req) < 32 {
			return nil, errors.New("request names no gateway")
		}
		id, err := member.Key(req[:32]).Peer()
		if err != nil {
			return nil, errors.New("request names no gateway")
		}
		if _, ok := s.env.Host.Connected(id); !ok {
			return nil, errors.New("the gateway is not connected to this substation now")
		}
		return s.env.Host.Call(ctx, id, service, req[32:])
	}
}

// headends are the head-ends that serve an operator's homes, its own first.
func (s *SSN) headends(operator string) []mesh.Member {
	var out []mesh.Member
	for _, h := range s.env.Dir.All(member.RoleHeadend, operator) {
		out = append(out, h.Member)
	}
	return out
}

// watch raises an event for a home that has been silent for two heartbeats, and
// tells outages.
func (s *SSN) watch(ctx context.Context) error {
	for clock.Sleep(ctx, s.env.Clock, heartbeat/4) {
		now := s.env.Clock.Now()
		for _, e := range s.look(now) {
			if err := s.raise(e); err != nil {
				return err
			}
		}
		s.mu.Lock()
		due := s.cluster.Tick(now)
		s.mu.Unlock()
		for _, e := range due {
			if err := s.raise(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// look compares who is connected with who was.
func (s *SSN) look(now time.Time) []alarm.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	zone := s.env.Host.Self().Zone
	for _, p := range s.env.Host.Peers() {
		if p.Role == member.RoleGateway && p.Zone == zone {
			s.seen[p.Key] = now
		}
	}
	var out []alarm.Event
	for k, at := range s.seen {
		gone := now.Sub(at) > 2*heartbeat
		if gone == s.silent[k] {
			continue
		}
		s.silent[k] = gone
		e := alarm.Event{Priority: alarm.P1, Kind: alarm.Malfunction, At: now.UnixMilli(), Key: alarm.Key{Profile: 2, Code: alarm.CodeSilent}, Count: 1, Detail: []byte("a gateway of this zone is not connected")}
		if !gone {
			e.Flags, e.Detail = alarm.Restored, []byte("a gateway of this zone is connected again")
		}
		out = append(out, e)
	}
	return out
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
	e.Sign(s.env.ID.Key)
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
	return s.alarms.PutTx(tx, store.Message{ID: id[:], Kind: "alarm", To: from.Operator, Body: slices.Concat(from.Key[:], raw)})
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
	err = s.env.Store.Update(func(tx *store.Tx) error { return s.keepAlarm(tx, e, from, req) })
	if err != nil {
		return nil, &mesh.BusyError{After: time.Second}
	}
	s.mu.Lock()
	s.relayed.Alarms++
	if e.Kind == alarm.VoltageAbsent {
		s.cluster.Take(e, s.ordinalOf(from.Key), now) // the cluster tells outages besides; single events go on too
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

// forwardAlarms sends waiting events to the head-end, the most urgent first.
func (s *SSN) forwardAlarms(ctx context.Context) error {
	waiting, err := s.alarms.List(0, forwardBatch)
	if err != nil {
		return fmt.Errorf("waiting alarms: %w", err)
	}
	slices.SortStableFunc(waiting, func(a, b store.Message) int { return priority(a.Body) - priority(b.Body) })
	for _, m := range waiting {
		if !s.forwardAlarm(ctx, m) {
			return nil
		}
		if err := s.alarms.Done(m.ID); err != nil {
			return fmt.Errorf("acknowledged alarm: %w", err)
		}
	}
	if len(waiting) == forwardBatch {
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
	for _, h := range s.allHeadends(m.To) {
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

// allHeadends prefers the operator's own and falls back to any: an alarm of the
// substation's own operator must reach somebody.
func (s *SSN) allHeadends(operator string) []mesh.Member {
	if own := s.headends(operator); len(own) > 0 {
		return own
	}
	return s.headends("")
}

// chainKey names a chain in the store.
func chainKey(source model.SourceID, class report.Class) []byte {
	return store.SpaceInbox.Key([]byte("final"), source[:], []byte{byte(class)})
}

func messageID(h report.Header) []byte {
	id := append([]byte(nil), h.Source[:]...)
	id = append(id, byte(h.Class))
	return binary.BigEndian.AppendUint64(id, h.Seq)
}

func public(k member.Key) ed25519.PublicKey { return k[:] }
