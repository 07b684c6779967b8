package mesh

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// stepClock is a clock that a test sets.
type stepClock struct{ now time.Time }

func (c *stepClock) Now() time.Time                       { return c.now }
func (c *stepClock) After(time.Duration) <-chan time.Time { return nil }

func TestTheOldestDenialMakesRoomForANewOne(t *testing.T) {
	c := &stepClock{time.UnixMilli(1_700_000_000_000)}
	g := newGater(c)
	id := func(i int) peer.ID { return peer.ID(fmt.Sprint("peer ", i)) }
	for i := range maxDeny {
		g.deny(id(i))
		c.now = c.now.Add(time.Millisecond)
	}
	if g.allowed(id(0)) || g.allowed(id(maxDeny-1)) || len(g.until) != maxDeny {
		t.Fatalf("%d of %d peers are denied", len(g.until), maxDeny)
	}
	g.deny(id(maxDeny))
	if !g.allowed(id(0)) || g.allowed(id(1)) || g.allowed(id(maxDeny)) || len(g.until) != maxDeny {
		t.Errorf("with one more: the oldest allowed %v, the next %v, the newest %v; %d in all", g.allowed(id(0)), g.allowed(id(1)), g.allowed(id(maxDeny)), len(g.until))
	}
	c.now = c.now.Add(denyFor)
	if !g.allowed(id(maxDeny)) {
		t.Error("a peer is denied for longer than it should be")
	}
}
