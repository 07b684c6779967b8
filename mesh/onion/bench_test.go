package onion_test

import (
	"crypto/rand"
	"runtime"
	"testing"
	"time"

	"github.com/cloudflare/circl/dh/x25519"

	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/packet"
)

// BenchmarkRelayTCP sends packets A - R - B over real TCP, Noise and yamux, with R's unwrapping, replay table, hold
// and shuffling in between. The ratio is relayed packets per second to bare X25519 operations per second on one core:
// 1 would mean that a relay does nothing but the one X25519 that each packet needs.
func BenchmarkRelayTCP(b *testing.B) {
	n := meshtest.Start(b, meshtest.Options{SSNs: 2, Others: []member.Role{member.RoleAggregator}, Onion: true, Speed: 1,
		Policy: member.Policy{Lab: true}, Ready: func(d *meshtest.Node) error { d.Onion.Unlimit(); return nil }})
	n.AwaitDirectory()
	a, r, end := n.SSNs[1], n.SSNs[0], n.Others[0]
	const batch, inFlight = 2000, 160 // in flight: above a batch of 16, below a neighbour's queue
	x := bareX25519(b)
	procs := runtime.GOMAXPROCS(0)
	var took time.Duration
	var relayed uint64
	for b.Loop() {
		b.StopTimer()
		last := end.Onion.OwnHop()
		last.KeyID++ // the end drops it before it costs an X25519 there
		packets := build(b, batch, r.Onion.OwnHop(), last)
		before := r.Onion.Stats().Relayed
		b.StartTimer()
		began := time.Now()
		for i := range packets {
			for uint64(i) > r.Onion.Stats().Relayed-before+inFlight {
				time.Sleep(20 * time.Microsecond)
			}
			a.Onion.Push(packet.NodeKey(r.Member.Key), packets[i])
		}
		for r.Onion.Stats().Relayed < before+batch && time.Since(began) < 10*time.Second {
			time.Sleep(20 * time.Microsecond)
		}
		took += time.Since(began)
		relayed += r.Onion.Stats().Relayed - before
	}
	perSecond := float64(relayed) / took.Seconds()
	b.ReportMetric(perSecond, "packets/s")
	b.ReportMetric(perSecond*x.Seconds(), "ratio")
	b.ReportMetric(float64(procs), "cores")
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
	began := time.Now()
	for range rounds {
		x25519.Shared(&shared, &secret, &public)
	}
	return time.Since(began) / rounds
}
