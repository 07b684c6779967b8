package onion_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/packet"
)

var seeds = flag.Int("seeds", 40, "with -long: how many seeds the simulation runs")

// storm is a network whose lines lose packets, whose relays crash and are cut off, and whose clock jumps, as a seed says.
type storm struct {
	t    *testing.T
	seed uint64
	net  *meshtest.Network
	agg  *meshtest.Node

	proxies map[member.Key]*meshtest.Proxy // before each substation
	listens map[member.Key]ma.Multiaddr

	mu    sync.Mutex
	rnd   *mathrand.Rand
	loss  int            // of 100 packets at every hop
	done  map[string]int // how often each call was handled
	ended map[string]error
}

// freeAddr gives an address to listen at, also after a restart.
func freeAddr(t *testing.T) ma.Multiaddr {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := manet.FromNetAddr(ln.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newStorm(t *testing.T, seed uint64) *storm {
	s := &storm{t: t, seed: seed, rnd: mathrand.New(mathrand.NewPCG(seed, seed)), done: map[string]int{}, ended: map[string]error{},
		proxies: map[member.Key]*meshtest.Proxy{}, listens: map[member.Key]ma.Multiaddr{}}
	s.net, s.agg = lab(t, 3, meshtest.Options{Speed: 50, Config: s.behindProxy, Ready: func(d *meshtest.Node) error {
		d.Onion.Witness(func(packet.NodeKey, packet.Routing, *packet.Packet, *packet.Packet) bool {
			return s.below(100) >= s.lossNow()
		})
		if d.Member.Role == member.RoleAggregator {
			d.Onion.Handle(mesh.EVRecord, s.handle)
		}
		return nil
	}})
	return s
}

// behindProxy puts each substation behind a line that can be cut.
func (s *storm) behindProxy(d *meshtest.Node, c *mesh.Config) {
	if d.Member.Role != member.RoleSSN {
		return
	}
	key := d.Member.Key
	if s.proxies[key] == nil {
		s.listens[key] = freeAddr(s.t)
		s.proxies[key] = meshtest.NewProxy(s.t, s.listens[key], 0)
	}
	c.Listen, c.Announce = []ma.Multiaddr{s.listens[key]}, []ma.Multiaddr{s.proxies[key].Addr}
}

func (s *storm) below(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rnd.IntN(n)
}

func (s *storm) lossNow() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loss
}

func (s *storm) handle(_ context.Context, body []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done[string(body)]++; s.done[string(body)] > 1 {
		s.t.Errorf("seed %d: %s was handled twice", s.seed, body)
	}
	return []byte("done"), nil
}

// step does one thing of the storm and says what.
func (s *storm) step() string {
	ssn := s.net.SSNs[s.below(3)]
	line := s.proxies[ssn.Member.Key]
	switch s.below(5) {
	case 0:
		p := s.below(31)
		s.mu.Lock()
		s.loss = p
		s.mu.Unlock()
		return fmt.Sprintf("%d %% of packets are lost at each hop", p)
	case 1:
		ssn.Restart()
		return "a relay restarts"
	case 2:
		line.Cut()
		return "a relay is cut off"
	case 3:
		line.Mend()
		return "a relay is no longer cut off"
	}
	jump := time.Duration(s.below(420)-60) * time.Second // forward, or a little back; a few pass an epoch
	s.net.Clock.Jump(jump)
	return fmt.Sprintf("the clock jumps by %v", jump)
}

// calm ends the storm.
func (s *storm) calm() {
	s.mu.Lock()
	s.loss = 0
	s.mu.Unlock()
	for _, p := range s.proxies {
		p.Mend()
	}
}

// call sends a record and notes how that ended.
func (s *storm) call(d *meshtest.Node, record string) {
	_, err := d.Onion.Call(s.t.Context(), s.agg.Member.Key, mesh.Lab, mesh.EVRecord, []byte(record))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended[record] = err
}

// judge holds what callers know against what was done.
func (s *storm) judge() (acked, unknown, kept int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for record, err := range s.ended {
		switch times := s.done[record]; {
		case err == nil && times != 1:
			s.t.Errorf("seed %d: %s is acknowledged and was done %d times", s.seed, record, times)
		case err == nil:
			acked++
		case errors.Is(err, mesh.ErrUnacked):
			unknown++
		case errors.Is(err, mesh.ErrFewRelays), errors.Is(err, mesh.ErrOffline), errors.Is(err, mesh.ErrStaleDirectory), errors.Is(err, mesh.ErrBusy):
			if kept++; times > 0 {
				s.t.Errorf("seed %d: %s was done, though its caller knows that nothing was sent: %v", s.seed, record, err)
			}
		default:
			s.t.Errorf("seed %d: %s: %v", s.seed, record, err)
		}
	}
	return acked, unknown, kept
}

// TestInAnyStormCallsEndAndNothingIsDoneTwice plays storms. A seed decides what happens; when it happens the machine has
// a say in.
func TestInAnyStormCallsEndAndNothingIsDoneTwice(t *testing.T) {
	from, count, steps := uint64(1), 2, 4
	if *long {
		count, steps = *seeds, 20
	}
	for seed := from; seed < from+uint64(count); seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel() // mostly waits
			s := newStorm(t, seed)
			var wg sync.WaitGroup
			for i := range steps {
				for h, d := range s.net.Homes {
					for k := range 2 {
						wg.Go(func() { s.call(d, fmt.Sprintf("record %d.%d of home %d", i, k, h+1)) })
					}
				}
				t.Logf("step %d: %s", i+1, s.step())
				time.Sleep(600 * time.Millisecond) // calls get under way and are tried again; nothing is asserted of it
			}
			s.calm()
			wg.Wait()
			acked, unknown, kept := s.judge()
			t.Logf("%d acknowledged, %d with unknown outcome, %d kept", acked, unknown, kept)
			if acked+unknown+kept != 6*steps {
				t.Errorf("%d calls ended, want %d", acked+unknown+kept, 6*steps)
			}
			for h, d := range s.net.Homes {
				try := 0
				meshtest.EventuallyWithin(t, time.Minute, "after the storm every home is answered", func() bool {
					try++
					record := fmt.Sprintf("afterwards, try %d of home %d", try, h+1)
					s.call(d, record)
					s.mu.Lock()
					defer s.mu.Unlock()
					return s.ended[record] == nil
				})
			}
			s.judge()
		})
	}
}
