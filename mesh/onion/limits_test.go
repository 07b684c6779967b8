package onion_test

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/mix"
	"gridveil/mesh/onion"
	"gridveil/mesh/packet"
)

// TestALeafsLimits tries each limit of a sender at the limit and one above.
func TestALeafsLimits(t *testing.T) {
	n, agg := lab(t, 1, meshtest.Options{Policy: member.Policy{SlotMS: 600_000}})
	home, to := n.Homes[0].Onion, agg.Member.Key
	call := func() error {
		_, err := home.Call(t.Context(), to, mesh.Lab, mesh.EVRecord, nil)
		return err
	}
	const blocks = 2 // of ev.record
	for _, tc := range []struct {
		what          string
		calls, blocks int
		busy          bool
	}{
		{"the last call", onion.MaxCalls - 1, 0, false},
		{"one call more", onion.MaxCalls, 0, true},
		{"the last reply blocks", 0, packet.MaxOpenReplies - blocks, false},
		{"one reply block more", 0, packet.MaxOpenReplies - blocks + 1, true},
	} {
		home.Full(tc.calls, tc.blocks, 0)
		if err := call(); errors.Is(err, mesh.ErrBusy) != tc.busy || !tc.busy && err != nil {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
	for over := range 2 {
		home.Full(0, 0, onion.MaxWaiting-2)
		if err := home.PlanMeter(to, 2+over); errors.Is(err, mesh.ErrBusy) != (over == 1) || over == 0 && err != nil {
			t.Errorf("%d packets wait for slots: %v", onion.MaxWaiting+over, err)
		}
	}
	home.Full(0, 0, 0)
}

// TestQueuesToNeighboursAreBounded fills the queue of a neighbour that takes nothing, and the list of neighbours.
func TestQueuesToNeighboursAreBounded(t *testing.T) {
	n, agg := lab(t, 1, meshtest.Options{})
	stranger := func() packet.NodeKey {
		key, _ := n.Issue(member.RoleGateway, "z1")
		raw, err := key.GetPublic().Raw()
		if err != nil {
			t.Fatal(err)
		}
		return packet.NodeKey(raw)
	}
	agg.Onion.Crowd(1) // it sends nothing of itself
	stuck := packet.NodeKey{0xff}
	for i := range onion.SendQueue {
		if !agg.Onion.Push(stuck) {
			t.Fatalf("packet %d of %d is refused", i+1, onion.SendQueue)
		}
	}
	if agg.Onion.Push(stuck) {
		t.Errorf("packet %d is queued, at most %d are", onion.SendQueue+1, onion.SendQueue)
	}
	agg.Onion.Crowd(onion.MaxNeighbours)
	if agg.Onion.Push(stranger()) {
		t.Errorf("neighbour %d was taken", onion.MaxNeighbours+1)
	}
	agg.Onion.Crowd(onion.MaxNeighbours - 1)
	if !agg.Onion.Push(stranger()) {
		t.Errorf("neighbour %d was refused", onion.MaxNeighbours)
	}
}

// TestARecipientsLimits tries answers of the greatest length and one byte more, and a request that comes when every
// handler is at work: it is dropped, and its next try is handled.
func TestARecipientsLimits(t *testing.T) {
	var mu sync.Mutex
	size := 0
	n, _ := lab(t, 1, meshtest.Options{Others: []member.Role{member.RoleUtility}, Ready: func(d *meshtest.Node) error {
		if d.Member.Role == member.RoleUtility {
			d.Onion.Handle(mesh.Deck, func(context.Context, []byte) ([]byte, error) {
				mu.Lock()
				defer mu.Unlock()
				return make([]byte, size), nil
			})
		}
		return nil
	}})
	home, utility := n.Homes[0].Onion, n.Others[1]
	ask := func(answer int) (int, error) {
		mu.Lock()
		size = answer
		mu.Unlock()
		got, err := home.Call(t.Context(), utility.Member.Key, mesh.Lab, mesh.Deck, nil)
		return len(got), err
	}
	if got, err := ask(onion.MaxAnswerSize); err != nil || got != onion.MaxAnswerSize {
		t.Errorf("the longest answer: %d bytes, %v", got, err)
	}
	var remote *mesh.RemoteError
	if _, err := ask(onion.MaxAnswerSize + 1); !errors.As(err, &remote) {
		t.Errorf("an answer that is too long: %v", err)
	}
	free := utility.Onion.Busy(onion.MaxHandlers - 1)
	if _, err := ask(1); err != nil {
		t.Errorf("with one handler free: %v", err)
	}
	more := utility.Onion.Busy(1)
	ended := make(chan error, 1)
	go func() {
		_, err := ask(1)
		ended <- err
	}()
	meshtest.Eventually(t, "the request is dropped", func() bool { return utility.Onion.Stats().Dropped[onion.DropHandlers] > 0 })
	free()
	more()
	if err := <-ended; err != nil {
		t.Errorf("its next try: %v", err)
	}
}

// TestARecipientsQueueIsBounded hands a recipient packets before it opens any.
func TestARecipientsQueueIsBounded(t *testing.T) {
	tried := false
	lab(t, 0, meshtest.Options{Ready: func(d *meshtest.Node) error {
		if d.Member.Role != member.RoleAggregator {
			return nil
		}
		tried = true
		lost := func() uint64 { return d.Onion.Stats().Dropped[onion.DropDelivery] }
		deliver := func() error {
			p := new(packet.Packet)
			if err := packet.Build(p, []packet.Hop{d.Onion.OwnHop()}, packet.FlagDeliver, make([]byte, packet.UserSize), rand.Reader); err != nil {
				return err
			}
			d.Onion.Open(p)
			return nil
		}
		for range onion.DeliverQueue {
			if err := deliver(); err != nil {
				return err
			}
		}
		if lost() != 0 {
			t.Errorf("of %d packets %d are lost", onion.DeliverQueue, lost())
		}
		if err := deliver(); err != nil || lost() != 1 {
			t.Errorf("with one more %d are lost, %v", lost(), err)
		}
		return nil
	}})
	if !tried {
		t.Error("there is no recipient")
	}
}

// oneByOne is a stream that brings a packet whenever it is read.
type oneByOne struct {
	network.Stream
	before func() // each packet
}

func (s oneByOne) Read(b []byte) (int, error) { s.before(); return packet.Size, nil }
func (s oneByOne) Reset() error               { return nil }

// TestANeighbourMaySendSoManyPacketsAboveItsRate sends a home that relays packets until it keeps the sender out.
func TestANeighbourMaySendSoManyPacketsAboveItsRate(t *testing.T) {
	h := &relayHomes{n: 1}
	o := h.options()
	o.Others = []member.Role{member.RoleVerifier}
	choose := o.OnionOf
	o.OnionOf = func(d *meshtest.Node, c *onion.Config) {
		choose(d, c)
		if c.Relay {
			c.Intake[1] = mix.Rate{PerSecond: 1, Burst: 1}
		}
	}
	n, _ := lab(t, 1, o)
	relay, sender := n.Homes[0], n.Others[1]
	meshtest.Eventually(t, "it relays", func() bool { return sender.Host.HomeRelay(relay.Member.Key) })
	s, err := sender.Host.Stream(t.Context(), relay.Member.Peer, onion.Protocol)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	relay.Onion.ServeStream(sender.Member, oneByOne{before: func() {
		over := relay.Onion.Stats().Dropped[onion.DropRate]
		if _, up := relay.Host.Connected(sender.Member.Peer); !up || over >= onion.OverRate {
			t.Fatalf("after %d packets above its rate the neighbour is connected: %v", over, up)
		}
	}})
	if over := relay.Onion.Stats().Dropped[onion.DropRate]; over != onion.OverRate {
		t.Errorf("a neighbour is kept out after %d packets above its rate, want %d", over, onion.OverRate)
	}
	meshtest.Eventually(t, "the neighbour is disconnected", func() bool { _, up := relay.Host.Connected(sender.Member.Peer); return !up })
}
