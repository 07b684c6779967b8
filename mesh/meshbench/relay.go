//go:build unix

package meshbench

import (
	"crypto/rand"
	"runtime"
	"syscall"
	"testing"
	"time"

	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/mix"
	"gridveil/mesh/onion"
	"gridveil/mesh/packet"
	"gridveil/mesh/route"
)

const (
	batch    = 2000             // packets of one turn
	inFlight = 160              // above a relay's batch of 16, below a neighbour's queue
	chunk    = 16               // packets of one write, as a relay writes them
	patience = 10 * time.Second // for one batch
)

// RelayTCP sends packets A - R - B over real TCP, Noise and yamux, with R's unwrapping, replay table, hold and
// shuffling in between. The ratio is relayed packets to bare X25519 operations, per second of processor time: 1 would mean
// that sending, relaying and taking in together cost nothing but the one X25519 that each packet needs. Processor time,
// because other work on the machine then does not count.
//
// All of it runs on one core, as the yardstick does: on two that share an arithmetic unit both would be slower.
func RelayTCP(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	free := mix.Rate{PerSecond: 1e6, Burst: 1e6}
	n := meshtest.Start(b, meshtest.Options{SSNs: 2, Others: []member.Role{member.RoleAggregator}, Onion: true, Speed: 1,
		Policy: member.Policy{Lab: true}, OnionOf: func(_ *meshtest.Node, c *onion.Config) { c.Intake = [2]mix.Rate{free, free} }})
	n.AwaitDirectory()
	a, r, end := n.SSNs[1], n.SSNs[0], n.Others[0]
	out, err := a.Host.Stream(b.Context(), r.Member.Peer, onion.Protocol)
	if err != nil {
		b.Fatal(err)
	}
	defer out.Reset()
	x := secret()
	frames := make([]byte, 0, batch*packet.Size)
	var took, bare time.Duration
	var relayed uint64
	for b.Loop() {
		b.StopTimer()
		last := hopOf(b, n, end)
		last.KeyID++ // the end drops it before it costs an X25519 there
		frames = build(b, frames[:0], hopOf(b, n, r), last)
		runtime.GC() // building is not what is measured
		bare += bareX25519(b, x)
		before := r.Onion.Stats().Relayed
		b.StartTimer()
		began, limit := processorTime(b), time.Now().Add(patience)
		for sent := uint64(0); sent < batch && time.Now().Before(limit); {
			if sent > r.Onion.Stats().Relayed-before+inFlight {
				time.Sleep(20 * time.Microsecond)
				continue
			}
			if _, err := out.Write(frames[sent*packet.Size : (sent+chunk)*packet.Size]); err != nil {
				b.Fatal(err)
			}
			sent += chunk
		}
		for r.Onion.Stats().Relayed < before+batch && time.Now().Before(limit) {
			time.Sleep(20 * time.Microsecond)
		}
		took += processorTime(b) - began
		relayed += r.Onion.Stats().Relayed - before
	}
	if relayed == 0 {
		b.Fatalf("nothing was relayed: dropped %v", r.Onion.Stats().Dropped)
	}
	per, yard := float64(took.Nanoseconds())/float64(relayed), float64(bare.Nanoseconds())/float64(b.N)
	reportAgainst(b, per, yard, yard/per)
}

// hopOf is a node's hop now, as its directory register says.
func hopOf(b *testing.B, n *meshtest.Network, d *meshtest.Node) packet.Hop {
	b.Helper()
	e, ok := d.Host.Register(gossip.KindDirectory, d.Member.Key, gossip.KeyOnion)
	if !ok {
		b.Fatal("a relay published no keys")
	}
	keys, err := route.ParseKeys(e.Body)
	if err != nil {
		b.Fatal(err)
	}
	i := mix.EpochAt(n.Clock.Now(), n.Bundle.Policy.Epoch()) - keys.Epoch
	if int(i) >= len(keys.Keys) {
		b.Fatal("a relay's keys are not of this time")
	}
	return packet.Hop{Node: packet.NodeKey(d.Member.Key), KeyID: keys.Keys[i].ID, Key: keys.Keys[i].Key}
}

// build appends a batch of packets for these hops, without holds, to out.
func build(b *testing.B, out []byte, hops ...packet.Hop) []byte {
	b.Helper()
	user, p := make([]byte, packet.UserSize), new(packet.Packet)
	for range batch {
		if err := packet.Build(p, hops, packet.FlagDrop, user, rand.Reader); err != nil {
			b.Fatal(err)
		}
		out = append(out, p[:]...)
	}
	return out
}

// bareX25519 measures one shared secret beside each batch, as the speed of a core changes with its neighbours.
func bareX25519(b *testing.B, x func()) time.Duration {
	b.Helper()
	const turns = 500
	began := processorTime(b)
	for range turns {
		x()
	}
	return (processorTime(b) - began) / turns
}

// processorTime is what this process has used of all cores so far.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
