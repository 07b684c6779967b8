package packet_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cloudflare/circl/dh/x25519"

	"gridveil/mesh/mix"
	. "gridveil/mesh/packet"
)

// seeded gives reproducible randomness.
func seeded(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

// fourHops is a full route.
func fourHops(b *testing.B) []Hop {
	b.Helper()
	rnd := seeded(6)
	var route []Hop
	for i := range 4 {
		k, err := NewKey(uint16(i), rnd)
		if err != nil {
			b.Fatal(err)
		}
		route = append(route, Hop{Node: NodeKey{byte(i + 1)}, KeyID: k.ID, Key: k.Public})
	}
	return route
}

// samples is how many of the last durations a median is taken of.
const samples = 4096

// against runs op and one circl X25519 shared secret (X, the yardstick) in turn
// and reports the quotient of their medians, so that other load on the machine
// hits both alike. ns/op is op's median alone.
func against(b *testing.B, op func()) {
	b.Helper()
	var private, public, secret x25519.Key
	rnd := seeded(1)
	rnd.Read(private[:])
	x25519.KeyGen(&public, &private)
	ours, x := make([]time.Duration, samples), make([]time.Duration, samples)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		begin := time.Now()
		op()
		between := time.Now()
		x25519.Shared(&secret, &private, &public)
		ours[n%samples], x[n%samples] = between.Sub(begin), time.Since(between)
		n++
	}
	median := func(d []time.Duration) float64 {
		d = d[:min(n, samples)]
		slices.Sort(d)
		return float64(d[len(d)/2].Nanoseconds())
	}
	b.ReportMetric(median(ours), "ns/op")
	b.ReportMetric(median(ours)/median(x), "ratio")
}

func BenchmarkX25519Shared(b *testing.B) {
	var private, public, secret x25519.Key
	rnd := seeded(1)
	rnd.Read(private[:])
	x25519.KeyGen(&public, &private)
	for b.Loop() {
		x25519.Shared(&secret, &private, &public)
	}
}

// fresh gives n different packets for one hop.
func fresh(b *testing.B, n int) (*Key, []Packet) {
	b.Helper()
	rnd := seeded(2)
	key, err := NewKey(1, rnd)
	if err != nil {
		b.Fatal(err)
	}
	packets, user := make([]Packet, n), make([]byte, UserSize)
	route := []Hop{{Node: NodeKey{1}, KeyID: 1, Key: key.Public}}
	for i := range packets {
		if err := Build(&packets[i], route, FlagDeliver, user, rnd); err != nil {
			b.Fatal(err)
		}
	}
	return key, packets
}

func newTable(b *testing.B) *mix.Replay {
	b.Helper()
	table, err := mix.NewReplay(mix.RelayTags, seeded(3))
	if err != nil {
		b.Fatal(err)
	}
	return table
}

func BenchmarkUnwrap(b *testing.B) {
	key, packets := fresh(b, 2048)
	i, table := 0, newTable(b)
	against(b, func() {
		if i == len(packets) {
			i, table = 0, newTable(b) // 8 KiB once in 2048 packets
		}
		p := packets[i]
		if _, err := Unwrap(&p, key, table); err != nil {
			b.Fatal(err)
		}
		i++
	})
}

func BenchmarkReject(b *testing.B) {
	key, packets := fresh(b, 1)
	b.Run("bad tag", func(b *testing.B) {
		bad, table := packets[0], newTable(b)
		bad[40] ^= 1 // a byte of the tag
		against(b, func() {
			if _, err := Unwrap(&bad, key, table); !errors.Is(err, ErrTampered) {
				b.Fatal(err)
			}
		})
	})
	b.Run("replay", func(b *testing.B) {
		table, first := newTable(b), packets[0]
		if _, err := Unwrap(&first, key, table); err != nil {
			b.Fatal(err)
		}
		against(b, func() {
			if _, err := Unwrap(&packets[0], key, table); !errors.Is(err, mix.ErrReplayed) {
				b.Fatal(err)
			}
		})
	})
}

func BenchmarkBuild4(b *testing.B) {
	rnd := seeded(4)
	route, p, user := fourHops(b), new(Packet), make([]byte, UserSize)
	against(b, func() {
		if err := Build(p, route, FlagDeliver, user, rnd); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkReplyUse(b *testing.B) {
	route, p, user := fourHops(b), new(Packet), make([]byte, UserSize)
	block, _, err := NewReplyBlock(route, ReplyID{1}, seeded(5))
	if err != nil {
		b.Fatal(err)
	}
	against(b, func() {
		if err := block.Use(p, user); err != nil {
			b.Fatal(err)
		}
	})
}
