package meshbench

import (
	"errors"
	"math/rand/v2"
	"testing"

	"gridveil/mesh/mix"
	"gridveil/mesh/packet"
)

// seeded gives reproducible randomness.
func seeded(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

// fourHops is a full route.
func fourHops(b *testing.B) []packet.Hop {
	b.Helper()
	rnd := seeded(6)
	var route []packet.Hop
	for i := range 4 {
		k, err := packet.NewKey(uint16(i), rnd)
		if err != nil {
			b.Fatal(err)
		}
		route = append(route, packet.Hop{Node: packet.NodeKey{byte(i + 1)}, KeyID: k.ID, Key: k.Public})
	}
	return route
}

// fresh gives n different packets for one hop.
func fresh(b *testing.B, n int) (*packet.Key, []packet.Packet) {
	b.Helper()
	rnd := seeded(2)
	key, err := packet.NewKey(1, rnd)
	if err != nil {
		b.Fatal(err)
	}
	packets, user := make([]packet.Packet, n), make([]byte, packet.UserSize)
	route := []packet.Hop{{Node: packet.NodeKey{1}, KeyID: 1, Key: key.Public}}
	for i := range packets {
		if err := packet.Build(&packets[i], route, packet.FlagDeliver, user, rnd); err != nil {
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

// Unwrap opens packets at one hop, replay check included.
func Unwrap(b *testing.B) {
	key, packets := fresh(b, 2048)
	i, table := 0, newTable(b)
	against(b, func() {
		if i == len(packets) {
			i, table = 0, newTable(b) // 8 KiB once in 2048 packets
		}
		p := packets[i]
		if _, err := packet.Unwrap(&p, key, table); err != nil {
			b.Fatal(err)
		}
		i++
	})
}

// RejectTampered refuses a packet with a changed tag.
func RejectTampered(b *testing.B) {
	key, packets := fresh(b, 1)
	bad, table := packets[0], newTable(b)
	bad[40] ^= 1 // a byte of the tag
	against(b, func() {
		if _, err := packet.Unwrap(&bad, key, table); !errors.Is(err, packet.ErrTampered) {
			b.Fatal(err)
		}
	})
}

// RejectReplay refuses a packet that was seen before.
func RejectReplay(b *testing.B) {
	key, packets := fresh(b, 1)
	table, first := newTable(b), packets[0]
	if _, err := packet.Unwrap(&first, key, table); err != nil {
		b.Fatal(err)
	}
	against(b, func() {
		if _, err := packet.Unwrap(&packets[0], key, table); !errors.Is(err, mix.ErrReplayed) {
			b.Fatal(err)
		}
	})
}

// Build4 builds packets for a full route.
func Build4(b *testing.B) {
	rnd := seeded(4)
	route, p, user := fourHops(b), new(packet.Packet), make([]byte, packet.UserSize)
	against(b, func() {
		if err := packet.Build(p, route, packet.FlagDeliver, user, rnd); err != nil {
			b.Fatal(err)
		}
	})
}

// ReplyUse fills a reply block.
func ReplyUse(b *testing.B) {
	route, p, user := fourHops(b), new(packet.Packet), make([]byte, packet.UserSize)
	block, _, err := packet.NewReplyBlock(route, packet.ReplyID{1}, seeded(5))
	if err != nil {
		b.Fatal(err)
	}
	against(b, func() {
		if err := block.Use(p, user); err != nil {
			b.Fatal(err)
		}
	})
}
