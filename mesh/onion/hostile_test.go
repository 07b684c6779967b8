package onion_test

import (
	"context"
	"crypto/rand"
	"flag"
	"maps"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/onion"
	"gridveil/mesh/packet"
)

var long = flag.Bool("long", false, "run the tests of floods and replays at their full size: minutes")

// How long the trace of the lines lasts, for a machine with more or less time.
var (
	traceWindows = flag.Int("windows", 9, "with -long: windows of four hours that the trace of the lines lasts")
	traceSpeed   = flag.Float64("speed", 300, "how much faster than the wall the trace of the lines runs")
)

// heap is what the process holds, in bytes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// ending builds a packet that ends at a node now.
func ending(t *testing.T, at *meshtest.Node) *packet.Packet {
	t.Helper()
	p := new(packet.Packet)
	if err := packet.Build(p, []packet.Hop{at.Onion.OwnHop()}, packet.FlagDrop, make([]byte, packet.UserSize), rand.Reader); err != nil {
		t.Error(err) // a flood builds on its own goroutines
	}
	return p
}

// floods are the packets with which a neighbour may flood a relay: each gives one batch.
var floods = map[string]func(t *testing.T, relay *meshtest.Node) []byte{
	"noise": func(*testing.T, *meshtest.Node) []byte {
		junk := make([]byte, 16*packet.Size)
		rand.Read(junk)
		return junk
	},
	"bad tags under the relay's key": func(t *testing.T, relay *meshtest.Node) (b []byte) {
		p := ending(t, relay)
		for range 16 {
			p[40]++ // in the tag, behind prefix and ct
			b = append(b, p[:]...)
		}
		return b
	},
	"one packet again and again": func(t *testing.T, relay *meshtest.Node) (b []byte) {
		p := ending(t, relay)
		for range 16 {
			b = append(b, p[:]...)
		}
		return b
	},
}

func TestAFloodingNeighbourCostsTheOthersLessThanOnePercent(t *testing.T) {
	goal := uint64(300) // honest loops under the flood
	if *long {
		goal = 3000
	}
	const honestHomes = 8
	n, _ := lab(t, len(floods)+honestHomes, meshtest.Options{Speed: 100,
		Policy: member.Policy{SlotMS: 10_000, HopMS: 1000, EpochMS: (12 * time.Hour).Milliseconds()}})
	rogues, honest := n.Homes[:len(floods)], n.Homes[len(floods):]
	loops := func() (sent, back uint64) {
		for _, h := range honest {
			st := h.Onion.Stats()
			sent, back = sent+st.LoopsSent, back+st.LoopsReturned
		}
		return sent, back
	}
	dropped := func() (all uint64, by map[mesh.Drop]uint64) {
		by = map[mesh.Drop]uint64{}
		for _, s := range n.SSNs {
			for why, count := range s.Onion.Stats().Dropped {
				by[why] += count
				all += count
			}
		}
		return all, by
	}
	// missing is what never came back: the least that is out over a second, since only what is on its way changes.
	missing := func() uint64 {
		sent, back := loops()
		least := sent - back
		for range 50 {
			sent, back = loops()
			least = min(least, sent-back)
			time.Sleep(20 * time.Millisecond)
		}
		return least
	}
	meshtest.Eventually(t, "every honest home's loops come back", func() bool { _, back := loops(); return back >= 3*honestHomes })
	before := heap()
	// A machine that has no time for its clock of speed 100 loses loops by itself: then another round decides. What a
	// flood costs is lost in every round.
	const rounds = 5
	for round := 1; ; round++ {
		lost := missing()
		began, _ := loops()
		calm, _ := dropped()
		stop := flood(t, n, rogues)
		var sent, junk uint64
		meshtest.EventuallyWithin(t, 5*time.Minute, "the flood is a hundred times the honest loops", func() bool {
			sent, _ = loops()
			junk, _ = dropped()
			sent, junk = sent-began, junk-calm
			return sent >= goal && junk >= 100*sent
		})
		grown := heap() - before
		stop()
		for try := 0; try < 10; try++ { // what is late comes back meanwhile
			if m := missing(); (m-min(m, lost))*100 < sent || try == 9 {
				lost = m - min(m, lost)
				break
			}
		}
		_, by := dropped()
		t.Logf("round %d: %d flood packets dropped, in all %v; at most %d of %d honest loops lost; heap grew by %.1f MB", round, junk, by, lost, sent, float64(grown)/1e6)
		for _, why := range []mesh.Drop{onion.DropRate, onion.DropKey, onion.DropTampered, onion.DropReplay} {
			if by[why] == 0 {
				t.Errorf("nothing was dropped as %s", why)
			}
		}
		// Nine streams with a window of 1 MiB at either end; the flood itself is a hundred MB and more.
		if grown > 32<<20 {
			t.Errorf("the flood made the heap grow by %d bytes, want at most 32 MiB", grown)
		}
		if lost*100 < sent {
			return
		}
		if round == rounds {
			t.Fatalf("the flood cost %d of %d honest loops, want less than 1 %%", lost, sent)
		}
	}
}

// flood lets each rogue send its kind of packets to every relay until stop.
func flood(t *testing.T, n *meshtest.Network, rogues []*meshtest.Node) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	i := 0
	for _, batch := range floods {
		for _, s := range n.SSNs {
			stream, err := rogues[i].Host.Stream(ctx, s.Member.Peer, "/gridveil/onion/1")
			if err != nil {
				cancel()
				t.Fatal(err)
			}
			wg.Go(func() {
				defer stream.Reset()
				for ctx.Err() == nil {
					b := batch(t, s)
					for range 10 {
						if _, err := stream.Write(b); err != nil {
							return
						}
					}
					time.Sleep(10 * time.Millisecond) // leaves the machine to the relays, which the flood must not need
				}
			})
		}
		i++
	}
	return func() { cancel(); wg.Wait() }
}

func TestAHundredThousandPacketsReplayedAreNeverAccepted(t *testing.T) {
	count := 2000
	if *long {
		count = 100_000
	}
	var accepted atomic.Uint64
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Speed: 60, Onion: true, Others: []member.Role{member.RoleAggregator},
		Policy: member.Policy{EpochMS: (12 * time.Hour).Milliseconds()}, Ready: func(d *meshtest.Node) error {
			d.Onion.Unlimit()
			if d.Member.Role == member.RoleSSN {
				d.Onion.Witness(func(packet.NodeKey, packet.Routing, *packet.Packet, *packet.Packet) bool {
					accepted.Add(1)
					return true
				})
			}
			return nil
		}})
	relay, from := n.SSNs[0], n.Others[0].Member
	// offer hands the relay copies and says how many were accepted and what became of the others.
	offer := func(packets []*packet.Packet) (taken uint64, dropped map[mesh.Drop]uint64) {
		judged := func() uint64 {
			sum := accepted.Load()
			for _, count := range relay.Onion.Stats().Dropped {
				sum += count
			}
			return sum
		}
		firstTaken, firstDropped, first := accepted.Load(), relay.Onion.Stats().Dropped, judged()
		const batch = 128 // below a neighbour's queue
		for i := range packets {
			again := *packets[i]
			relay.Onion.Inject(from, &again)
			if done := uint64(i + 1); done%batch == 0 || i == len(packets)-1 {
				meshtest.Eventually(t, "the relay judges a batch", func() bool { return judged() == first+done })
			}
		}
		dropped = maps.Clone(relay.Onion.Stats().Dropped)
		for why := range dropped {
			if dropped[why] -= firstDropped[why]; dropped[why] == 0 {
				delete(dropped, why)
			}
		}
		return accepted.Load() - firstTaken, dropped
	}
	build := func() []*packet.Packet {
		out := make([]*packet.Packet, count)
		for i := range out {
			out[i] = ending(t, relay)
		}
		if taken, dropped := offer(out); taken != uint64(count) {
			t.Fatalf("%d of %d fresh packets were accepted; dropped %v", taken, count, dropped)
		}
		return out
	}
	// refused wants every packet dropped, and for a reason that may apply.
	refused := func(when string, packets []*packet.Packet, why mesh.Drop) {
		taken, dropped := offer(packets)
		t.Logf("%s: %d replayed, %d accepted, dropped %v", when, len(packets), taken, dropped)
		if taken > 0 {
			t.Errorf("%s: %d of %d replayed packets were accepted", when, taken, len(packets))
		}
		// A key id of 16 bits may be drawn again for a later key: then the tag is wrong.
		if got := dropped[why]; got+dropped[onion.DropTampered] != uint64(count) || got == 0 {
			t.Errorf("%s: dropped %v, want %d as %s", when, dropped, count, why)
		}
	}
	epoch := n.Bundle.Policy.Epoch()
	packets := build()
	refused("in the run", packets, onion.DropReplay)
	n.Clock.Jump(6 * epoch) // above the time that keys outlive their epoch on a fast clock
	meshtest.Eventually(t, "the relay draws the next keys", func() bool {
		id := relay.Onion.OwnHop().KeyID
		return id != 0 && id != packets[0].KeyID()
	})
	refused("after a change of keys", packets, onion.DropKey)
	packets = build()
	refused("in the run, with the next key", packets, onion.DropReplay)
	relay.Restart()
	refused("after a restart", packets, onion.DropKey)
}
