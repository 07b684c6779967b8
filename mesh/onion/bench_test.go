//go:build unix

package onion_test

import (
	"crypto/rand"
	"syscall"
	"testing"
	"time"

	"github.com/cloudflare/circl/dh/x25519"

	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/packet"
)

// BenchmarkRelayTCP sends packets A - R - B over real TCP, Noise and yamux, with R's unwrapping, replay table, hold
// and shuffling in between. The ratio is relayed packets to bare X25519 operations, per second of processor time: 1 would
// mean that sending, relaying and taking in together cost nothing but the one X25519 that each packet needs. Processor
// time, because other work on the machine then does not count.
func BenchmarkRelayTCP(b *testing.B) {
	n := meshtest.Start(b, meshtest.Options{SSNs: 2, Others: []member.Role{member.RoleAggregator}, Onion: true, Speed: 1,
		Policy: member.Policy{Lab: true}, Ready: func(d *meshtest.Node) error { d.Onion.Unlimit(); return nil }})
	n.AwaitDirectory()
	a, r, end := n.SSNs[1], n.SSNs[0], n.Others[0]
	const batch, inFlight = 2000, 160 // in flight: above a batch of 16, below a neighbour's queue
	x := bareX25519(b)
	var took time.Duration
	var relayed uint64
	for b.Loop() {
		b.StopTimer()
		last := end.Onion.OwnHop()
		last.KeyID++ // the end drops it before it costs an X25519 there
		packets := build(b, batch, r.Onion.OwnHop(), last)
		before := r.Onion.Relayed()
		b.StartTimer()
		began, limit := processorTime(b), time.Now().Add(10*time.Second)
		for i := range packets {
			for uint64(i) > r.Onion.Relayed()-before+inFlight {
				time.Sleep(20 * time.Microsecond)
			}
			a.Onion.Push(packet.NodeKey(r.Member.Key), packets[i])
		}
		for r.Onion.Relayed() < before+batch && time.Now().Before(limit) {
			time.Sleep(20 * time.Microsecond)
		}
		took += processorTime(b) - began
		relayed += r.Onion.Relayed() - before
	}
	perSecond := float64(relayed) / took.Seconds()
	b.ReportMetric(perSecond, "packets/cpu-s")
	b.ReportMetric(perSecond*x.Seconds(), "ratio")
	if dropped := r.Onion.Stats().Dropped; len(dropped) > 0 {
		b.Logf("dropped %v", dropped)
	}
}

// build makes packets for one relay and a last hop, without holds.
func build(b *testing.B, n int, hops ...packet.Hop) []*packet.Packet {
	b.Helper()
	out := make([]*packet.Packet, n)
	user := make([]byte, packet.UserSize)
	for i := range out {
		out[i] = new(packet.Packet)
		if err := packet.Build(out[i], hops, packet.FlagDrop, user, rand.Reader); err != nil {
			b.Fatal(err)
		}
	}
	return out
}

// bareX25519 measures one Shared on this core.
func bareX25519(b *testing.B) time.Duration {
	b.Helper()
	var secret, public, shared x25519.Key
	rand.Read(secret[:])
	x25519.KeyGen(&public, &secret)
	const rounds = 2000
	began := processorTime(b)
	for range rounds {
		x25519.Shared(&shared, &secret, &public)
	}
	return (processorTime(b) - began) / rounds
}

// processorTime is what this process has used of all cores so far.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
