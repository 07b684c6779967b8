package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// seeded gives reproducible randomness for tests.
func seeded(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

// memory is a replay table without limits.
type memory map[[16]byte]bool

var errSeen = errors.New("seen before")

func (m memory) Insert(tag [16]byte) error {
	if m[tag] {
		return errSeen
	}
	m[tag] = true
	return nil
}

// chain is a route together with the private keys of its hops.
type chain struct {
	route []Hop
	keys  []*Key
	seen  []memory
}

func newChain(t testing.TB, n int, rnd *rand.ChaCha8) chain {
	t.Helper()
	var c chain
	for i := range n {
		k, err := NewKey(uint16(1000+i), rnd)
		if err != nil {
			t.Fatal(err)
		}
		h := Hop{KeyID: k.ID, Key: k.Public, Delay: time.Duration(i+1) * 1500 * time.Millisecond}
		rnd.Read(h.Node[:])
		c.route, c.keys, c.seen = append(c.route, h), append(c.keys, k), append(c.seen, memory{})
	}
	return c
}

// travel unwraps p at every hop and returns the last routing.
func (c chain) travel(t *testing.T, p *Packet) Routing {
	t.Helper()
	for i, k := range c.keys {
		r, err := Unwrap(p, k, c.seen[i])
		if err != nil {
			t.Fatalf("hop %d: %v", i+1, err)
		}
		if i == len(c.keys)-1 {
			return r
		}
		if r.Flag != FlagRelay || r.Next != c.route[i+1].Node || r.Delay != c.route[i].Delay || p.KeyID() != c.route[i+1].KeyID {
			t.Fatalf("hop %d: routing %+v does not lead to hop %d", i+1, r, i+2)
		}
	}
	panic("unreachable")
}

func randomUser(rnd *rand.ChaCha8) []byte {
	user := make([]byte, UserSize)
	rnd.Read(user)
	return user
}

func TestAPacketReachesItsRecipientOverOneToFourLayers(t *testing.T) {
	for n := 1; n <= MaxLayers; n++ {
		for _, flag := range []Flag{FlagDeliver, FlagDrop} {
			t.Run(fmt.Sprintf("layers=%d/flag=%d", n, flag), func(t *testing.T) {
				rnd := seeded(byte(n))
				c, user, p := newChain(t, n, rnd), randomUser(rnd), new(Packet)
				if err := Build(p, c.route, flag, user, rnd); err != nil {
					t.Fatal(err)
				}
				if r := c.travel(t, p); r.Flag != flag {
					t.Errorf("flag %d, want %d", r.Flag, flag)
				}
				got, err := p.User()
				if err != nil || !bytes.Equal(got, user) {
					t.Errorf("User: %v, or other bytes than were sent", err)
				}
			})
		}
	}
}

func TestAnAnswerReturnsByItsReplyBlock(t *testing.T) {
	for n := 1; n <= MaxLayers; n++ {
		rnd := seeded(byte(10 + n))
		c, user, p := newChain(t, n, rnd), randomUser(rnd), new(Packet)
		block, keys, err := NewReplyBlock(c.route, ReplyID{7}, rnd)
		if err != nil {
			t.Fatal(err)
		}
		if block.First() != c.route[0].Node {
			t.Error("the block does not name the first hop")
		}
		if err := block.Use(p, user); err != nil {
			t.Fatal(err)
		}
		if r := c.travel(t, p); r.Flag != FlagReply || r.Reply != keys.ID {
			t.Errorf("%d layers: routing %+v does not find the block", n, r)
		}
		got, err := keys.Open(p)
		if err != nil || !bytes.Equal(got, user) {
			t.Errorf("%d layers: Open: %v, or other bytes than were sent", n, err)
		}
	}
}

func TestAReplyBlockServesOnce(t *testing.T) {
	rnd := seeded(20)
	c := newChain(t, 3, rnd)
	block, _, err := NewReplyBlock(c.route, ReplyID{1}, rnd)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []error{nil, errSeen} {
		p := new(Packet)
		if err := block.Use(p, randomUser(rnd)); err != nil {
			t.Fatal(err)
		}
		if _, err := Unwrap(p, c.keys[0], c.seen[0]); !errors.Is(err, want) {
			t.Errorf("use %d: got %v, want %v", i+1, err, want)
		}
	}
}

func TestAReplayedPacketIsRefusedAtEveryHop(t *testing.T) {
	rnd := seeded(21)
	c, p := newChain(t, 4, rnd), new(Packet)
	if err := Build(p, c.route, FlagDeliver, randomUser(rnd), rnd); err != nil {
		t.Fatal(err)
	}
	for i, k := range c.keys {
		replay := *p
		if _, err := Unwrap(p, k, c.seen[i]); err != nil {
			t.Fatal(err)
		}
		if _, err := Unwrap(&replay, k, c.seen[i]); !errors.Is(err, errSeen) {
			t.Errorf("hop %d accepts a replay: %v", i+1, err)
		}
	}
}

func TestEveryTamperedHeaderByteStopsThePacketAtTheNextHop(t *testing.T) {
	rnd := seeded(22)
	c, p := newChain(t, 4, rnd), new(Packet)
	if err := Build(p, c.route, FlagDeliver, randomUser(rnd), rnd); err != nil {
		t.Fatal(err)
	}
	for hop, k := range c.keys {
		for at := range prefixSize + headerSize {
			for _, flip := range []byte{0x01, 0x80} {
				bad := *p
				bad[at] ^= flip
				seen := memory{}
				_, err := Unwrap(&bad, k, seen)
				// X25519 ignores the top bit of a public key (RFC 7748, 5); HKDF and tag do not.
				if !errors.Is(err, ErrTampered) && !errors.Is(err, ErrVersion) {
					t.Fatalf("hop %d, byte %d xor %#x: %v", hop+1, at, flip, err)
				}
				if len(seen) != 0 {
					t.Fatalf("hop %d, byte %d: a tampered packet entered the replay table", hop+1, at)
				}
			}
		}
		if _, err := Unwrap(p, k, c.seen[hop]); err != nil {
			t.Fatal(err)
		}
	}
}

func TestATamperedPayloadBecomesNoise(t *testing.T) {
	rnd := seeded(23)
	for _, at := range []int{prefixSize + headerSize, 400, 1200, Size - 1} {
		c, p := newChain(t, 4, rnd), new(Packet)
		user := make([]byte, UserSize)
		if err := Build(p, c.route, FlagDeliver, user, rnd); err != nil {
			t.Fatal(err)
		}
		p[at] ^= 1
		c.travel(t, p)
		if _, err := p.User(); !errors.Is(err, ErrTampered) {
			t.Errorf("byte %d: User says %v, want ErrTampered", at, err)
		}
		zeros := bytes.Count(p[prefixSize+headerSize:], []byte{0})
		if zeros > 30 { // 1692/256 = 6.6 expected of noise
			t.Errorf("byte %d: %d zero bytes survive of %d", at, zeros, UserSize)
		}
	}
}

func TestAKeyRefusesWhatIsNotForIt(t *testing.T) {
	rnd := seeded(24)
	c, p := newChain(t, 2, rnd), new(Packet)
	if err := Build(p, c.route, FlagDeliver, randomUser(rnd), rnd); err != nil {
		t.Fatal(err)
	}
	sameID, _ := NewKey(c.keys[0].ID, rnd)
	wiped := *c.keys[0]
	wiped.Wipe()
	low := *p
	clear(low[prefixSize : prefixSize+ctSize]) // the point of order 2
	for _, tc := range []struct {
		fact string
		p    *Packet
		key  *Key
		want error
	}{
		{"another key id", p, c.keys[1], ErrVersion},
		{"another key with the same id", p, sameID, ErrTampered},
		{"a wiped key", p, &wiped, ErrVersion},
		{"a low-order point", &low, c.keys[0], ErrTampered},
	} {
		bad := *tc.p
		if _, err := Unwrap(&bad, tc.key, memory{}); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.fact, err, tc.want)
		}
	}
}

func TestUnusableRoutesAreRefused(t *testing.T) {
	rnd := seeded(25)
	long := newChain(t, 5, rnd).route
	noNode := newChain(t, 2, rnd).route
	noNode[1].Node = NodeKey{}
	slow := newChain(t, 2, rnd).route
	slow[0].Delay = MaxDelay + time.Millisecond
	low := newChain(t, 2, rnd).route
	low[1].Key = [32]byte{}
	for fact, route := range map[string][]Hop{"no hop": nil, "five hops": long, "no node": noNode, "too slow": slow, "low-order key": low} {
		if err := Build(new(Packet), route, FlagDeliver, make([]byte, UserSize), rnd); !errors.Is(err, ErrRoute) {
			t.Errorf("%s: got %v, want ErrRoute", fact, err)
		}
		if _, _, err := NewReplyBlock(route, ReplyID{}, rnd); !errors.Is(err, ErrRoute) {
			t.Errorf("%s: reply block: got %v, want ErrRoute", fact, err)
		}
	}
	good := newChain(t, 2, rnd).route
	for _, size := range []int{0, UserSize - 1, UserSize + 1} {
		if err := Build(new(Packet), good, FlagDeliver, make([]byte, size), rnd); !errors.Is(err, ErrUserSize) {
			t.Errorf("%d user bytes: got %v, want ErrUserSize", size, err)
		}
	}
	if err := Build(new(Packet), good, FlagRelay, make([]byte, UserSize), rnd); !errors.Is(err, ErrRoute) {
		t.Errorf("a last hop that relays: got %v, want ErrRoute", err)
	}
}

func TestBytesAreUniformAtEveryHopWhateverThePacketIs(t *testing.T) {
	// Chi-square over 256 byte values; 400 packets x 2044 bytes per stage. The
	// limit is the 1 - 1e-6 quantile for 255 degrees of freedom (about 376).
	const packets, limit = 400, 376
	for _, kind := range []string{"request", "cover", "reply", "one layer", "two layers", "three layers"} {
		rnd := seeded(30)
		layers := map[string]int{"one layer": 1, "two layers": 2, "three layers": 3}[kind]
		if layers == 0 {
			layers = 4
		}
		counts := make([][256]int, layers)
		for range packets {
			c, p := newChain(t, layers, rnd), new(Packet)
			fill(t, kind, c, p, rnd)
			for hop, k := range c.keys {
				for at, x := range p[prefixSize:] {
					if at != ctSize-1 { // an X25519 public key is below 2^255: its last byte is not uniform
						counts[hop][x]++
					}
				}
				if _, err := Unwrap(p, k, memory{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		for hop := range counts {
			if chi := chiSquare(counts[hop][:]); chi > limit {
				t.Errorf("%s before hop %d: chi-square %.0f > %d", kind, hop+1, chi, limit)
			}
		}
	}
}

func fill(t *testing.T, kind string, c chain, p *Packet, rnd *rand.ChaCha8) {
	t.Helper()
	user := make([]byte, UserSize) // all zero: the hardest case for looking random
	var err error
	switch kind {
	case "reply":
		var b *ReplyBlock
		if b, _, err = NewReplyBlock(c.route, ReplyID{}, rnd); err == nil {
			err = b.Use(p, user)
		}
	case "cover":
		err = Build(p, c.route, FlagDrop, user, rnd)
	default:
		err = Build(p, c.route, FlagDeliver, user, rnd)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func chiSquare(counts []int) float64 {
	total := 0
	for _, n := range counts {
		total += n
	}
	want, chi := float64(total)/float64(len(counts)), 0.0
	for _, n := range counts {
		chi += (float64(n) - want) * (float64(n) - want) / want
	}
	return chi
}

func TestRoutingIsBijective(t *testing.T) {
	rnd := seeded(40)
	var raw [routingSize]byte
	accepted := 0
	for range 200_000 {
		rnd.Read(raw[:])
		raw[32] &= 3
		raw[33] &= 0x0f
		raw[38], raw[39] = raw[38]&1, 0
		if r, err := decodeRouting(raw[:]); err == nil {
			accepted++
			if r.encode() != raw {
				t.Fatalf("%x decodes to another encoding", raw)
			}
		}
	}
	if accepted == 0 {
		t.Error("no random routing decodes: the test says nothing")
	}
}

func TestImpossibleRoutingsAreRefused(t *testing.T) {
	relay := Routing{Flag: FlagRelay, Next: NodeKey{1}, Delay: time.Second, keyID: 7}.encode()
	for fact, change := range map[string]func(b []byte){
		"a relay without next hop":       func(b []byte) { clear(b[:32]) },
		"an unknown flag":                func(b []byte) { b[32] = 4 },
		"a delivery with a next hop":     func(b []byte) { b[32] = byte(FlagDeliver) },
		"a delay over ten minutes":       func(b []byte) { binary.BigEndian.PutUint32(b[32:], 600_001) },
		"reserved bytes that are in use": func(b []byte) { b[39] = 1 },
	} {
		bad := relay
		change(bad[:])
		if _, err := decodeRouting(bad[:]); !errors.Is(err, ErrRouting) {
			t.Errorf("%s: got %v, want ErrRouting", fact, err)
		}
	}
}
