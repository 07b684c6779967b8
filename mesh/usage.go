package mesh

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"gridveil/mesh/lane"
)

// Link is one connected member as the page of its neighbour shows it.
type Link struct {
	Member   Member
	Outbound bool      // this node dialled
	Since    time.Time // of admission, protocol time
	// RoundTrip is how long the other side took to answer in the hello, in wall time; it includes the check of a
	// certificate. 0 means unknown.
	RoundTrip time.Duration
}

// Links lists the members that are connected now, each once by its oldest connection, ordered by key.
func (h *Host) Links() []Link {
	h.mu.Lock()
	out := make([]Link, 0, len(h.peers))
	for _, ls := range h.peers {
		l := ls[0]
		out = append(out, Link{l.member, l.conn.Stat().Direction == network.DirOutbound, l.since, l.trip})
	}
	h.mu.Unlock()
	slices.SortFunc(out, func(a, b Link) int { return bytes.Compare(a.Member.Key[:], b.Member.Key[:]) })
	return out
}

// trafficParts are what bytes travel on: the lanes, then onion packets.
const trafficParts = lane.Lanes + 1

const onionPart = lane.Lanes

// trafficNames are the parts' words, also in metrics.
var trafficNames = [trafficParts]string{lane.Alarm: "alarm", lane.Normal: "normal", lane.Bulk: "bulk", onionPart: "onion"}

// Traffic is bytes in both directions.
type Traffic struct{ Up, Down int64 }

// PartUsage is the traffic of one lane ("alarm", "normal", "bulk") or of onion packets ("onion").
type PartUsage struct {
	Name         string
	Today, Total Traffic // Total since the host was made
}

// Usage is what this node's links carried on the present UTC day.
type Usage struct {
	Today Traffic // counts against Cap
	Cap   int64   // bytes per day and direction; 0 means none, as on the backbone
	Parts []PartUsage
}

// Usage gives the bytes of today and the cap. Parts count from the start of this host, Today as the budget does.
func (h *Host) Usage() Usage {
	now := h.clock.Now()
	u := h.spent.today(now)
	u.Parts = h.traffic.parts(now)
	if u.Cap == 0 { // nothing is counted against a cap: what the parts say
		for _, p := range u.Parts {
			u.Today.Up, u.Today.Down = u.Today.Up+p.Today.Up, u.Today.Down+p.Today.Down
		}
	}
	return u
}

// today is the budget's count of the day of now.
func (b *budget) today(now time.Time) Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := Usage{Cap: b.cap}
	if now.Unix()/daySeconds == b.day {
		u.Today = Traffic{b.up, b.down}
	}
	return u
}

// traffic counts bytes by what they travel on.
type traffic struct {
	mu           sync.Mutex
	day          int64
	today, total [trafficParts]Traffic
}

func (t *traffic) add(part, up, down int, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn(now)
	for _, c := range []*Traffic{&t.today[part], &t.total[part]} {
		c.Up, c.Down = c.Up+int64(up), c.Down+int64(down)
	}
}

// turn begins a new day; t.mu is held.
func (t *traffic) turn(now time.Time) {
	if day := now.Unix() / daySeconds; day != t.day {
		t.day, t.today = day, [trafficParts]Traffic{}
	}
}

func (t *traffic) parts(now time.Time) []PartUsage {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn(now)
	var out []PartUsage
	for i, name := range trafficNames {
		out = append(out, PartUsage{name, t.today[i], t.total[i]})
	}
	return out
}
