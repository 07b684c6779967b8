package onion

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// seeded makes a reader of reproducible randomness.
func seeded(seed uint64) *rand.ChaCha8 {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return rand.NewChaCha8(key)
}

// sendingTimes gives when a home's link carries a packet in one day, while it has the given number of packets to send,
// in bursts as a session's end makes them.
func sendingTimes(t testing.TB, seed uint64, packets int) (at []time.Time, jobs int) {
	t.Helper()
	o := &Onion{rnd: seeded(seed), slotMean: 30 * time.Second, wake: make(chan struct{}, 1)}
	events := rand.New(seeded(seed + 1_000_000))
	now := time.UnixMilli(1_700_000_000_000)
	end := now.Add(24 * time.Hour)
	for left := packets; now.Before(end); {
		next, err := o.nextSlotAt(now)
		if err != nil {
			t.Fatal(err)
		}
		if next.After(now) {
			now = next
		}
		if left > 0 && events.IntN(2880) < 2*packets/7 { // bursts of seven packets
			for range min(7, left) {
				i, err := o.freeSlot(now)
				if err != nil {
					t.Fatal(err)
				}
				o.slots.drawn[i].job = &job{ready: true}
				left--
			}
		}
		j, came := o.takeSlot(now)
		if !came {
			t.Fatal("the slot that was waited for did not come")
		}
		if j != nil {
			jobs++
		}
		at = append(at, now)
	}
	return at, jobs
}

func gaps(at []time.Time) []float64 {
	var out []float64
	for i := 1; i < len(at); i++ {
		out = append(out, at[i].Sub(at[i-1]).Seconds())
	}
	slices.Sort(out)
	return out
}

// ks gives the p-value of the two-sample Kolmogorov-Smirnov test on sorted samples (asymptotic series).
func ks(a, b []float64) float64 {
	var d float64
	for i, j := 0, 0; i < len(a) && j < len(b); {
		if a[i] <= b[j] {
			i++
		} else {
			j++
		}
		d = max(d, math.Abs(float64(i)/float64(len(a))-float64(j)/float64(len(b))))
	}
	n := math.Sqrt(float64(len(a)) * float64(len(b)) / float64(len(a)+len(b)))
	x := (n + 0.12 + 0.11/n) * d
	var p float64
	for k := 1; k < 100; k++ {
		p += 2 * math.Pow(-1, float64(k-1)) * math.Exp(-2*float64(k*k)*x*x)
	}
	return min(max(p, 0), 1)
}

// TestALinkOfClassMeterDoesNotShowWhetherItCarriesAnything compares idle homes with homes that send 350 packets a day.
func TestALinkOfClassMeterDoesNotShowWhetherItCarriesAnything(t *testing.T) {
	const seeds = 100
	same := 0
	var idleScores, busyScores []float64
	for seed := range uint64(seeds) {
		idle, none := sendingTimes(t, seed, 0)
		busy, sent := sendingTimes(t, seed+10_000, 350)
		if none != 0 || sent != 350 {
			t.Fatalf("seed %d: %d and %d packets were sent, want 0 and 350", seed, none, sent)
		}
		if ks(gaps(idle), gaps(busy)) > 0.01 {
			same++
		}
		idleScores, busyScores = append(idleScores, burstiness(idle)), append(busyScores, burstiness(busy))
	}
	if same < 95 {
		t.Errorf("the gaps of %d of %d pairs of days look alike, want 95", same, seeds)
	}
	if a := auc(idleScores, busyScores); a > 0.55 {
		t.Errorf("a burst counter tells busy homes from idle ones with AUC %.3f", a)
	}
}

// burstiness is what an observer would look for: the variance of packets per five minutes over their mean.
func burstiness(at []time.Time) float64 {
	counts := map[int64]float64{}
	for _, x := range at {
		counts[x.Unix()/300]++
	}
	var sum, squares float64
	for _, c := range counts {
		sum, squares = sum+c, squares+c*c
	}
	n := float64(len(counts))
	mean := sum / n
	return (squares/n - mean*mean) / mean
}

// auc is the chance that a random one of b scores above a random one of a, whichever direction is better.
func auc(a, b []float64) float64 {
	var wins float64
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
	p := wins / float64(len(a)*len(b))
	return max(p, 1-p)
}

func TestJobsTakeTheNextSlotsInOrderAndLeaveTheTimesAlone(t *testing.T) {
	o := &Onion{rnd: seeded(1), slotMean: 30 * time.Second, wake: make(chan struct{}, 1)}
	now := time.UnixMilli(1_700_000_000_000)
	var jobs []*job
	for range 3 {
		i, err := o.freeSlot(now)
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, &job{depart: o.slots.drawn[i].at, ready: true})
		o.slots.drawn[i].job = jobs[len(jobs)-1]
	}
	if err := cancelJobs(jobs[1:2]); err != nil {
		t.Fatal(err)
	}
	if i, err := o.freeSlot(now); err != nil || i != 1 {
		t.Errorf("the slot of a cancelled job is not free: got %d, %v", i, err)
	}
	for i, want := range []*job{jobs[0], nil, jobs[2]} {
		at, err := o.nextSlotAt(now)
		if err != nil {
			t.Fatal(err)
		}
		if got, came := o.takeSlot(at); !came || got != want {
			t.Errorf("slot %d: got %v, want %v", i, got, want)
		}
		now = at
	}
}
