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
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/alarm"
	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/role"
	"gridveil/node/store"
)

const (
	forwardRetry = 30 * time.Second
	callTimeout  = 10 * time.Second // wall time, for one neighbour
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
	dark    chan struct{} // a home lost its voltage
	tell    chan telling

	mu       sync.Mutex
	seen     map[member.Key]time.Time // gateways of this zone, when last connected
	silent   map[member.Key]bool
	cluster  *alarm.Clusterer
	ordinals map[member.Key]uint32 // places in this substation's own list, for outages
	held     map[member.Key]int    // reports that wait here, by home
	rates    map[member.Key]bucket // of alarms
	seq      uint64
	relayed  Counters
	limit    GridLimit

	sums *sums // private sums that this substation leads or helps with
	mail *mail // items for recipients that are away
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
		cluster: alarm.NewClusterer(1), ordinals: map[member.Key]uint32{}, dark: make(chan struct{}, 1), tell: make(chan telling, tellQueue),
		held: map[member.Key]int{}, rates: map[member.Key]bucket{}}
	if err := s.countHeld(); err != nil {
		return nil, err
	}
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
	if s.mail, err = openMail(env); err != nil {
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
	g.Go(func() error { return s.outages(ctx) })
	for range tellers {
		g.Go(func() error { return s.tellHomes(ctx) })
	}
	g.Go(func() error { return s.publishState(ctx) })
	g.Go(func() error { return s.sums.serve(ctx) })
	g.Go(func() error { return s.mail.serve(ctx) })
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
	defer s.mu.Unlock()
	c := s.relayed
	for _, n := range s.held {
		c.Waiting += n
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
