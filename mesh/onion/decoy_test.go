package onion_test

import (
	"context"
	"math"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/onion"
)

// authorises answers requests of class session after the time that checking and signing may take.
func authorises(d *meshtest.Node) error {
	if d.Member.Role == member.RoleAggregator {
		d.Onion.Handle(mesh.EVAuth, func(ctx context.Context, body []byte) ([]byte, error) {
			select {
			case <-time.After(5*time.Millisecond + mathrand.N(10*time.Millisecond)):
			case <-ctx.Done():
			}
			return make([]byte, 300), nil
		})
	}
	return nil
}

// sessions is a policy under which class session may send, and slots hardly ever come.
var sessions = member.Policy{SlotMS: 600_000, HomesEnrolled: 30}

func TestDecoysLeaveAreAnsweredAndCountAsCover(t *testing.T) {
	n, homes := traceTown(t, 1, 20, sessions, authorises)
	home := homes[0].node.Onion
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { home.SendDecoys(ctx, meshtest.NewClock(100_000)) }) // a decoy every fifth of a second
	meshtest.EventuallyWithin(t, time.Minute, "decoys are answered", func() bool { return home.Stats().Decoys >= 3 })
	stop()
	wg.Wait()
	st := home.Stats()
	if st.Sent > 0 || st.Cover < 4*3 {
		t.Errorf("%d packets count as requests, %d as cover of class session", st.Sent, st.Cover)
	}
	if got := n.Others[0].Onion.Stats().Dropped; len(got) > 0 {
		t.Errorf("the aggregator has thrown away %v", got)
	}
	if err := home.Switch(false); err != nil {
		t.Fatal(err)
	}
	sent := home.Stats().Cover
	home.SendDecoy(t.Context())
	if got := home.Stats().Cover; got != sent {
		t.Errorf("a node that is switched off sends %d packets of decoys", got-sent)
	}
}

// burst is what a home's lines show of one request or decoy.
type burst struct {
	decoy   bool
	retried bool
	frames  []frame
}

// shot sends a request or a decoy and gives what the lines show until everything has come back.
func (h *tapped) shot(t *testing.T, to onion.Recipient, decoy bool) burst {
	h.mu.Lock()
	h.frames = nil
	h.mu.Unlock()
	before := h.node.Onion.Stats()
	if decoy {
		h.node.Onion.SendDecoy(t.Context())
	} else if _, err := h.node.Onion.Call(t.Context(), to, mesh.Session, mesh.EVAuth, make([]byte, 1080)); err != nil {
		t.Logf("a request: %v", err)
	}
	after := h.node.Onion.Stats()
	b := burst{decoy: decoy, retried: after.Retries > before.Retries || after.Unacked > before.Unacked}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) { // the rest of the answer; a read in two may hide a packet
		h.mu.Lock()
		b.frames = slices.Clone(h.frames)
		h.mu.Unlock()
		if b.count(true) >= 4 && b.count(false) >= 2 {
			break
		}
	}
	return b
}

func (b burst) count(up bool) (n int) {
	for _, f := range b.frames {
		if f.up == up {
			n++
		}
	}
	return n
}

// burstNames are the columns of features.
var burstNames = []string{"sent", "received", "first to last sent", "first sent to first received", "first to last received", "busiest line's share of sent",
	"both received on one line"}

// features is what an attacker would look at in a burst; times in ms.
func (b burst) features() []float64 {
	var first [2]time.Time
	var last [2]time.Time
	var on [2][3]float64
	for _, f := range b.frames {
		way := 1
		if f.up {
			way = 0
		}
		if first[way].IsZero() {
			first[way] = f.at
		}
		last[way] = f.at
		on[way][f.link]++
	}
	ms := func(from, to time.Time) float64 { return float64(to.Sub(from).Microseconds()) / 1000 }
	return []float64{float64(b.count(true)), float64(b.count(false)), ms(first[0], last[0]), ms(first[0], first[1]), ms(first[1], last[1]),
		slices.Max(on[0][:]) / float64(b.count(true)), slices.Max(on[1][:]) - 1}
}

// TestAStrangerOnTheLineCannotTellADecoyFromARequest sends requests of class session and decoys in random order and
// looks at the lines. By default it counts packets; with -long it trains an attacker.
func TestAStrangerOnTheLineCannotTellADecoyFromARequest(t *testing.T) {
	homes, each, speed := 3, 6, 10.0
	if *long {
		homes, each, speed = 6, 200, 1
	}
	n, tapped := traceTown(t, homes, speed, sessions, authorises)
	agg := n.Others[0].Member.Key
	all := make([][]burst, homes)
	var wg sync.WaitGroup
	for i, h := range tapped {
		rnd := mathrand.New(mathrand.NewPCG(2, uint64(i)))
		wg.Go(func() {
			for j := range each {
				decoy := rnd.IntN(2) == 0
				if j < 2 {
					decoy = j == 1 // one of each at least
				}
				all[i] = append(all[i], h.shot(t, agg, decoy))
			}
		})
	}
	wg.Wait()
	bursts := slices.Concat(all...)
	alone := map[bool]int{}
	for _, b := range bursts {
		if up, down := b.count(true), b.count(false); !b.retried && up == 4 && down == 2 {
			alone[b.decoy]++ // the others have a slot's packet among theirs
		}
	}
	if alone[true] == 0 || alone[false] == 0 {
		t.Errorf("of %d bursts %d requests and %d decoys are four packets sent and two received", len(bursts), alone[false], alone[true])
	}
	if *long {
		reportBursts(t, bursts)
	}
}

// reportBursts trains an attacker on every other burst and logs what it gets.
func reportBursts(t *testing.T, bursts []burst) {
	var rows [2][][]float64
	var decoy [2][]bool
	retried := map[bool]int{}
	for i, b := range bursts {
		if b.retried {
			retried[b.decoy]++ // one more burst each; as often for both
		}
		rows[i%2], decoy[i%2] = append(rows[i%2], b.features()), append(decoy[i%2], b.decoy)
	}
	split := func(of []int, score func(row []float64) float64) (real, fake []float64) {
		for _, half := range of {
			for i, r := range rows[half] {
				if decoy[half][i] {
					fake = append(fake, score(r))
				} else {
					real = append(real, score(r))
				}
			}
		}
		return real, fake
	}
	real, fake := split([]int{1}, train(rows[0], decoy[0]).score)
	auc := above(real, fake)
	sure := math.Sqrt(float64(len(real)+len(fake)+1) / 12 / float64(len(real)) / float64(len(fake)))
	t.Logf("%d bursts, tried again: %d requests, %d decoys; trained attacker: AUC %.3f, where chance alone deviates by %.3f", len(bursts), retried[false], retried[true], auc, sure)
	for f, name := range burstNames {
		real, fake := split([]int{0, 1}, func(r []float64) float64 { return r[f] })
		slices.Sort(real)
		slices.Sort(fake)
		t.Logf("%-30s median request %8.2f decoy %8.2f, AUC alone %.3f", name, real[len(real)/2], fake[len(fake)/2], above(real, fake))
		if f < 2 || f > 4 {
			continue // counts: too many are equal for the test below
		}
		if p := onion.KS(real, fake); p < 0.01/3 {
			t.Errorf("%s differs between requests and decoys: KS p %.4f", name, p)
		} else {
			t.Logf("%-30s KS p %.3f", name, p)
		}
	}
	if auc > 0.55+2*sure {
		t.Errorf("a trained attacker tells decoys from requests with AUC %.3f", auc)
	}
}
