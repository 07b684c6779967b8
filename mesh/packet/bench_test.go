package packet_test

import (
	"errors"
	"math/rand/v2"
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

// yardstick measures one circl X25519 shared secret on this core now, in ns.
func yardstick(b *testing.B) float64 {
	b.Helper()
	var private, public, secret x25519.Key
	rnd := seeded(1)
	rnd.Read(private[:])
	x25519.KeyGen(&public, &private)
	const rounds = 2000
	best := time.Duration(1<<63 - 1)
	for range 3 {
		start := time.Now()
		for range rounds {
			x25519.Shared(&secret, &private, &public)
		}
		best = min(best, time.Since(start))
	}
	return float64(best.Nanoseconds()) / rounds
}

// report adds the quotient of ns per operation and X.
func report(b *testing.B, x float64) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/x, "ratio")
	b.ReportAllocs()
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
	x := yardstick(b)
	key, packets := fresh(b, 512)
	i, table := 0, newTable(b)
	for b.Loop() {
		if i == len(packets) {
			b.StopTimer()
			i, table = 0, newTable(b)
			b.StartTimer()
		}
		p := packets[i]
		if _, err := Unwrap(&p, key, table); err != nil {
			b.Fatal(err)
		}
		i++
	}
	report(b, x)
}

func BenchmarkReject(b *testing.B) {
	x := yardstick(b)
	key, packets := fresh(b, 1)
	b.Run("bad tag", func(b *testing.B) {
		bad, table := packets[0], newTable(b)
		bad[40] ^= 1 // a byte of the tag
		for b.Loop() {
			if _, err := Unwrap(&bad, key, table); !errors.Is(err, ErrTampered) {
				b.Fatal(err)
			}
		}
		report(b, x)
	})
	b.Run("replay", func(b *testing.B) {
		table, first := newTable(b), packets[0]
		if _, err := Unwrap(&first, key, table); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := Unwrap(&packets[0], key, table); !errors.Is(err, mix.ErrReplayed) {
				b.Fatal(err)
			}
		}
		report(b, x)
	})
}

func BenchmarkBuild4(b *testing.B) {
	x := yardstick(b)
	rnd := seeded(4)
	route, p, user := fourHops(b), new(Packet), make([]byte, UserSize)
	for b.Loop() {
		if err := Build(p, route, FlagDeliver, user, rnd); err != nil {
			b.Fatal(err)
		}
	}
	report(b, x)
}

func BenchmarkReplyUse(b *testing.B) {
	x := yardstick(b)
	rnd := seeded(5)
	route, p, user := fourHops(b), new(Packet), make([]byte, UserSize)
	block, _, err := NewReplyBlock(route, ReplyID{1}, rnd)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := block.Use(p, user); err != nil {
			b.Fatal(err)
		}
	}
	report(b, x)
}
