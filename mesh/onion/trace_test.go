package onion_test

import (
	"context"
	"math"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/onion"
	"gridveil/mesh/packet"
)

// frame is what a stranger sees of a packet on a home's line.
type frame struct {
	at   time.Time
	link int // which of the home's substations
	up   bool
}

// tapped is a home with a stranger on each of its lines.
type tapped struct {
	node *meshtest.Node
	busy bool

	mu     sync.Mutex
	missed int // calls that ended without an answer
	frames []frame
	sizes  map[int]int // bytes of one read that held a packet sent by the home, and how often
}

// see counts the packets in one read. Everything else on the line is far smaller than a packet.
func (h *tapped) see(at time.Time, link int, up bool, bytes int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for range (bytes + packet.Size/2) / (packet.Size + packet.Size/32) {
		h.frames = append(h.frames, frame{at, link, up})
	}
	if up && bytes >= packet.Size {
		h.sizes[bytes]++
	}
}

// traceTown is three substations, an aggregator, and homes behind watched lines.
func traceTown(t *testing.T, homes int, speed float64, policy member.Policy, ready func(*meshtest.Node) error) (*meshtest.Network, []*tapped) {
	t.Helper()
	lines := map[member.Key][]*meshtest.Proxy{}
	var substations []*meshtest.Node
	n := meshtest.Start(t, meshtest.Options{SSNs: 3, Speed: speed, Onion: true, Others: []member.Role{member.RoleAggregator}, Policy: policy,
		Config: func(d *meshtest.Node, c *mesh.Config) {
			if !d.Member.Role.Leaf() {
				return
			}
			c.DailyMB = 1000
			for _, s := range substations { // in one order for all: a line is named by its substation
				p := meshtest.NewProxy(t, s.Addrs[0], 0)
				lines[d.Member.Key] = append(lines[d.Member.Key], p)
				for i := range c.Parents {
					if c.Parents[i].ID == s.Member.Peer {
						c.Parents[i].Addrs = []ma.Multiaddr{p.Addr}
					}
				}
			}
		},
		Ready: ready})
	substations = n.SSNs
	var out []*tapped
	for i := range homes {
		d := n.Add(member.RoleGateway, substations[i%3].Member.Zone)
		n.Homes = append(n.Homes, d)
		h := &tapped{node: d, busy: i%2 == 1, sizes: map[int]int{}}
		for link, p := range lines[d.Member.Key] {
			p.Watch(func(up bool, bytes int) { h.see(n.Clock.Now(), link, up, bytes) })
		}
		out = append(out, h)
	}
	n.AwaitConnected()
	n.AwaitDirectory()
	return n, out
}

// takesAll answers every service of class meter that a home asks for here, with as many bytes as the request names.
func takesAll(d *meshtest.Node) error {
	for _, s := range []mesh.Service{mesh.EVRecord, mesh.EVCollect, mesh.AggShare} {
		if s.AllowedRecipient(d.Member.Role) {
			d.Onion.Handle(s, func(_ context.Context, body []byte) ([]byte, error) { return make([]byte, 40*int(body[0])), nil })
		}
	}
	return nil
}

// live lets a busy home work until ctx ends: a session's record, then its results, then a share of a private sum, in
// bursts as a session's end makes them. One slot in eight carries a packet of these, as 350 in a day of 2880 slots.
func (h *tapped) live(ctx context.Context, n *meshtest.Network, rnd *mathrand.Rand) {
	agg, substation := n.Others[0].Member.Key, n.SSNs[rnd.IntN(3)].Member.Key
	burst := []func() error{
		func() error {
			_, err := h.node.Onion.CallBelowFloor(ctx, agg, mesh.EVRecord, append([]byte{1}, make([]byte, 1500)...))
			return err
		},
		func() error {
			_, err := h.node.Onion.CallBelowFloor(ctx, agg, mesh.EVCollect, []byte{byte(rnd.IntN(100))})
			return err
		},
		func() error {
			_, err := h.node.Onion.CallBelowFloor(ctx, substation, mesh.AggShare, append([]byte{1}, make([]byte, 735)...))
			return err
		},
	}
	const packets = 2 + 3 + 2 // of a burst
	wait := h.node.Host.Bundle().Policy.Slot()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.Clock.After(wait):
		}
		wait = time.Duration(rnd.ExpFloat64() * 8 * packets * float64(h.node.Host.Bundle().Policy.Slot()))
		for _, call := range burst {
			if err := call(); err != nil && ctx.Err() == nil {
				h.mu.Lock()
				h.missed++ // its tries were in the slots all the same
				h.mu.Unlock()
			}
		}
	}
}

// watch lets the busy homes work for span and gives what the lines showed from then on.
func watch(t *testing.T, n *meshtest.Network, homes []*tapped, before, span time.Duration, seed uint64) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i, h := range homes {
		if h.busy {
			wg.Go(func() { h.live(ctx, n, mathrand.New(mathrand.NewPCG(seed, uint64(i)))) })
		}
	}
	for _, wait := range []time.Duration{before, span} { // the first answers are on their way before the watch begins
		for _, h := range homes {
			h.mu.Lock()
			h.frames = nil
			h.mu.Unlock()
		}
		select {
		case <-n.Clock.After(wait):
		case <-t.Context().Done():
		}
	}
}

// window is one home's frames in a stretch of time.
type window struct {
	busy   bool
	frames []frame
}

// windows cuts each home's frames into parts of equal time.
func (h *tapped) windows(from time.Time, each time.Duration, count int) []window {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]window, count)
	for _, f := range h.frames {
		if i := int(f.at.Sub(from) / each); !f.at.Before(from) && i < count {
			out[i].frames = append(out[i].frames, f)
		}
	}
	for i := range out {
		out[i].busy = h.busy
	}
	return out
}

// gaps gives the sorted times between frames of one direction, in seconds.
func (w window) gaps(up bool) []float64 {
	var out []float64
	var last time.Time
	for _, f := range w.frames {
		if f.up != up {
			continue
		}
		if !last.IsZero() {
			out = append(out, f.at.Sub(last).Seconds())
		}
		last = f.at
	}
	slices.Sort(out)
	return out
}

// featureNames are the columns of features.
var featureNames = func() (names []string) {
	for _, way := range []string{"sent", "received"} {
		for _, f := range []string{"frames", "least line's share", "first line's share", "same line again", "gap 5 %", "gap 25 %", "gap 50 %", "gap 75 %",
			"gap 95 %", "burstiness 4 slots", "burstiness 10 slots", "burstiness 30 slots"} {
			names = append(names, way+": "+f)
		}
	}
	return append(names, "received per sent")
}()

// features is what an attacker would look at, in a direction: how many frames, how bursty at several scales, gaps, how
// they share out over the home's lines, and how often two in a row take one line.
func (w window) features(slot time.Duration) []float64 {
	out := []float64{}
	for _, up := range []bool{true, false} {
		g := w.gaps(up)
		share, last, same, count := [3]float64{}, -1, 0.0, float64(len(g)+1)
		for _, f := range w.frames {
			if f.up == up {
				share[f.link]++
				if f.link == last {
					same++
				}
				last = f.link
			}
		}
		slices.Sort(share[:])
		if len(g) == 0 {
			g = []float64{0} // a line without packets
		}
		out = append(out, count, share[0]/count, share[2]/count, same/count)
		for _, q := range []float64{0.05, 0.25, 0.5, 0.75, 0.95} {
			out = append(out, g[int(q*float64(len(g)-1))])
		}
		for _, slots := range []time.Duration{4, 10, 30} {
			out = append(out, w.burstiness(up, slots*slot))
		}
	}
	return append(out, out[12]/out[0]) // frames back per frame sent
}

// burstiness is the variance of frames per bin over their mean.
func (w window) burstiness(up bool, bin time.Duration) float64 {
	counts := map[int64]float64{}
	first, last := int64(math.MaxInt64), int64(0)
	for _, f := range w.frames {
		if f.up == up {
			b := f.at.UnixNano() / int64(bin)
			counts[b]++
			first, last = min(first, b), max(last, b)
		}
	}
	var sum, squares float64
	for _, c := range counts {
		sum, squares = sum+c, squares+c*c
	}
	if len(counts) == 0 {
		return 0
	}
	n := float64(last - first + 1)
	return (squares/n - (sum/n)*(sum/n)) / (sum / n)
}

// classifier is a logistic regression on standardised features.
type classifier struct{ mean, dev, weight []float64 }

func train(rows [][]float64, busy []bool) *classifier {
	n := len(rows[0])
	c := &classifier{make([]float64, n), make([]float64, n), make([]float64, n)}
	for j := range n {
		for _, r := range rows {
			c.mean[j] += r[j] / float64(len(rows))
		}
		for _, r := range rows {
			c.dev[j] += (r[j] - c.mean[j]) * (r[j] - c.mean[j]) / float64(len(rows))
		}
		c.dev[j] = math.Sqrt(c.dev[j]) + 1e-9
	}
	const rate, decay = 0.1, 0.01
	for range 2000 {
		step := make([]float64, n)
		for i, r := range rows {
			miss := 1 / (1 + math.Exp(-c.score(r)))
			if busy[i] {
				miss--
			}
			for j := range n {
				step[j] += miss * (r[j] - c.mean[j]) / c.dev[j] / float64(len(rows))
			}
		}
		for j := range n {
			c.weight[j] -= rate * (step[j] + decay*c.weight[j])
		}
	}
	return c
}

func (c *classifier) score(row []float64) (s float64) {
	for j, w := range c.weight {
		s += w * (row[j] - c.mean[j]) / c.dev[j]
	}
	return s
}

// judged is how well an attacker tells busy windows from idle ones who trained on half of the homes.
type judged struct {
	auc, sure  float64            // of the classifier on the other half; its standard error without any difference
	single     map[int]float64    // AUC of each feature alone, for the log
	alike, all map[bool]int       // pairs of a busy and an idle window whose gaps look alike (KS p > 0.01), by direction
	same       map[bool]int       // the same of as many pairs of idle windows
	mean       map[bool][]float64 // features' means, busy and idle
}

func judge(homes []*tapped, from time.Time, each time.Duration, count int, slot time.Duration) judged {
	var rows [2][][]float64
	var busy [2][]bool
	by := map[bool][]window{}
	for i, h := range homes {
		half := i / 2 % 2
		for _, w := range h.windows(from, each, count) {
			rows[half] = append(rows[half], w.features(slot))
			busy[half] = append(busy[half], w.busy)
			by[w.busy] = append(by[w.busy], w)
		}
	}
	out := judged{single: map[int]float64{}, alike: map[bool]int{}, all: map[bool]int{}, same: map[bool]int{}, mean: map[bool][]float64{}}
	c := train(rows[0], busy[0])
	tell := func(score func(row []float64) float64) (idles, busies []float64) {
		for i, r := range rows[1] {
			if busy[1][i] {
				busies = append(busies, score(r))
			} else {
				idles = append(idles, score(r))
			}
		}
		return idles, busies
	}
	idles, busies := tell(c.score)
	out.auc = above(idles, busies)
	out.sure = math.Sqrt(float64(len(idles)+len(busies)+1) / 12 / float64(len(idles)) / float64(len(busies)))
	for j := range rows[0][0] {
		idles, busies := tell(func(r []float64) float64 { return r[j] })
		out.single[j] = onion.AUC(idles, busies)
	}
	for i := range min(len(by[true]), len(by[false])) {
		for _, up := range []bool{true, false} {
			out.all[up]++
			if onion.KS(by[true][i].gaps(up), by[false][i].gaps(up)) > 0.01 {
				out.alike[up]++
			}
			if onion.KS(by[false][(i+count)%len(by[false])].gaps(up), by[false][i].gaps(up)) > 0.01 { // of the next idle home, at the same time
				out.same[up]++
			}
		}
	}
	for _, b := range []bool{true, false} {
		sums := make([]float64, len(rows[0][0]))
		for _, w := range by[b] {
			for j, x := range w.features(slot) {
				sums[j] += x / float64(len(by[b]))
			}
		}
		out.mean[b] = sums
	}
	return out
}

// above is the chance that a random one of b scores above a random one of a.
func above(a, b []float64) float64 {
	wins := 0.0
	for _, x := range a {
		for _, y := range b {
			switch {
			case y > x:
				wins++
			case y == x:
				wins += 0.5
			}
		}
	}
	return wins / float64(len(a)*len(b))
}

// TestAStrangerOnTheLineCannotTellABusyHomeFromAnIdleOne watches the sockets of real homes, half of which send as much as
// a home with a guest each day. By default it looks at what needs few samples; with -long it trains an attacker.
func TestAStrangerOnTheLineCannotTellABusyHomeFromAnIdleOne(t *testing.T) {
	homes, before, each, count := 6, time.Duration(0), 15*time.Minute, 1
	if *long {
		homes, before, each, count = 12, 20*time.Minute, 4*time.Hour, *traceWindows // 960 slots: a third of a day of 30-s slots
	}
	n, tapped := traceTown(t, homes, *traceSpeed, member.Policy{SlotMS: 15_000, HopMS: 30_000}, takesAll)
	span := each * time.Duration(count)
	watch(t, n, tapped, before, span, 1)
	from := n.Clock.Now().Add(-span)
	var sum onion.Stats
	meshtest.EventuallyWithin(t, time.Minute, "a busy home has sent something and loops came back", func() bool {
		sum = totals(t, tapped)
		return sum.Sent > 0 && sum.LoopsReturned > 0
	})
	t.Logf("packets: %d of requests, %d loops of which %d came back and %d are lost, %d other cover", sum.Sent, sum.LoopsSent, sum.LoopsReturned,
		sum.LoopsLost, sum.SlotCover)
	if share := float64(sum.LoopsSent) / float64(sum.LoopsSent+sum.SlotCover); share < 0.55 || share > 0.85 { // 300 slots: 6 deviations
		t.Errorf("%.2f of the cover comes back, want 0.7", share)
	}
	for i, h := range tapped {
		if lines := h.sendsOver(); lines > 2 {
			t.Errorf("home %d sends over %d lines, want its two guards' only", i+1, lines)
		}
	}
	if *long {
		report(t, tapped, judge(tapped, from, each, count, n.Bundle.Policy.Slot()))
	}
}

// totals adds up what the homes counted; idle ones must have sent no request.
func totals(t *testing.T, homes []*tapped) (sum onion.Stats) {
	t.Helper()
	for _, h := range homes {
		st := h.node.Onion.Stats()
		if !h.busy && st.Sent > 0 {
			t.Fatalf("an idle home sent %d packets of requests", st.Sent)
		}
		sum.Sent += st.Sent
		sum.LoopsSent += st.LoopsSent
		sum.LoopsReturned += st.LoopsReturned
		sum.LoopsLost += st.LoopsLost
		sum.SlotCover += st.SlotCover
	}
	return sum
}

// sendsOver counts the lines on which packets left.
func (h *tapped) sendsOver() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	lines := map[int]bool{}
	for _, f := range h.frames {
		if f.up {
			lines[f.link] = true
		}
	}
	return len(lines)
}

// report logs what an attacker gets, and holds it against the goals.
func report(t *testing.T, homes []*tapped, j judged) {
	t.Helper()
	missed, sizes := 0, map[bool]map[int]int{true: {}, false: {}}
	for _, h := range homes {
		h.mu.Lock()
		missed += h.missed
		for size, times := range h.sizes {
			sizes[h.busy][size] += times
		}
		h.mu.Unlock()
	}
	t.Logf("%d calls unanswered; reads with packets by size: idle %v, busy %v", missed, sizes[false], sizes[true])
	t.Logf("trained attacker: AUC %.3f, where chance alone deviates by %.3f", j.auc, j.sure)
	for f, name := range featureNames {
		t.Logf("%-28s idle %8.3f busy %8.3f AUC alone %.3f", name, j.mean[false][f], j.mean[true][f], j.single[f])
	}
	for _, up := range []bool{true, false} {
		t.Logf("gaps alike (KS p > 0.01), sent %v: %d of %d pairs of busy and idle, %d of idle and idle", up, j.alike[up], j.all[up], j.same[up])
		if j.alike[up] < j.same[up]-j.all[up]/10 { // what a machine's pauses do to the gaps, they do to all
			t.Errorf("sent %v: the gaps of %d of %d pairs look alike, of idle homes among themselves %d", up, j.alike[up], j.all[up], j.same[up])
		}
	}
	if j.auc > 0.55+2*j.sure {
		t.Errorf("a trained attacker tells busy homes from idle ones with AUC %.3f", j.auc)
	}
}
