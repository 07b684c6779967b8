package mix

import (
	"math/rand/v2"
	"testing"
	"time"

	"gridveil/mesh/packet"
)

var (
	linkA, linkB, linkC = packet.NodeKey{1}, packet.NodeKey{2}, packet.NodeKey{3}
	twoGuards           = []packet.NodeKey{linkA, linkB}
)

// behind lets a loop come back by any other of three lines.
func behind(first packet.NodeKey) []packet.NodeKey {
	var out []packet.NodeKey
	for _, n := range []packet.NodeKey{linkA, linkB, linkC} {
		if n != first {
			out = append(out, n)
		}
	}
	return out
}

// slotsOfADay fills a day's slots, one in eight with a packet of a request of two over the first guard only, each answered
// by three packets, none of them over the second line: so rules about operators may have it.
func slotsOfADay(t *testing.T, seed byte, busy bool) (sent, back map[packet.NodeKey]int) {
	t.Helper()
	sent, back = map[packet.NodeKey]int{}, map[packet.NodeKey]int{}
	rnd, events := rand.NewChaCha8([32]byte{seed}), rand.New(rand.NewPCG(uint64(seed), 1))
	var s Shape
	now := time.UnixMilli(1_700_000_000_000)
	for jobs := 0; now.Before(time.UnixMilli(1_700_000_000_000).Add(24 * time.Hour)); now = now.Add(30 * time.Second) {
		p, err := s.Draw(twoGuards, behind, rnd)
		if err != nil {
			t.Fatal(err)
		}
		if busy && jobs == 0 && events.IntN(16) == 0 {
			jobs = 2
			for _, last := range []packet.NodeKey{linkA, linkA, linkC} {
				s.Answer(last, now.Add(2*time.Minute))
				back[last]++
			}
		}
		if jobs > 0 {
			jobs--
			s.Sent(p, linkA)
			sent[linkA]++
			continue
		}
		p = s.Cover(p, twoGuards, behind, now)
		sent[p.First]++
		if p.Back != (packet.NodeKey{}) {
			back[p.Back]++
			if p.Back == p.First {
				t.Fatal("a loop comes back by its guard")
			}
		}
	}
	return sent, back
}

func TestCoverPaysWhatRequestsChangedOnTheLines(t *testing.T) {
	for seed := range byte(20) {
		idleSent, idleBack := slotsOfADay(t, seed, false)
		busySent, busyBack := slotsOfADay(t, seed, true) // the same draws
		for _, link := range []packet.NodeKey{linkA, linkB, linkC} {
			if d := busySent[link] - idleSent[link]; d < -10 || d > 10 {
				t.Errorf("seed %d: %d packets left on a line of a busy home, %d of an idle one", seed, busySent[link], idleSent[link])
			}
			if d := busyBack[link] - idleBack[link]; d < -25 || d > 25 { // chance alone: 20 or so
				t.Errorf("seed %d: %d packets came on a line of a busy home, %d of an idle one", seed, busyBack[link], idleBack[link])
			}
		}
		if d := busyBack[linkA] + busyBack[linkB] + busyBack[linkC] - idleBack[linkA] - idleBack[linkB] - idleBack[linkC]; d < -12 || d > 12 {
			t.Errorf("seed %d: a busy home gets %d packets more than an idle one", seed, d)
		}
		if n := idleBack[linkA] + idleBack[linkB] + idleBack[linkC]; n < 1900 || n > 2130 { // 0.7 of 2880, 4.7 deviations
			t.Errorf("seed %d: %d of 2880 slots bring a packet back", seed, n)
		}
	}
}

// burstiness gives the variance of packets per stretch of time over their mean, of a home's received packets in 20 days.
func burstiness(t *testing.T, busy bool, slots int) float64 {
	t.Helper()
	const slot, hop = 30, 30
	rnd, chance := rand.NewChaCha8([32]byte{9}), rand.New(rand.NewPCG(7, 7))
	way := func() (d float64) {
		for range 3 {
			d += chance.ExpFloat64() * hop
		}
		return d
	}
	var s Shape
	var waiting []int // packets of the requests that wait: how many answers each brings
	bins := map[int]float64{}
	at, end := 0.0, 20*86400.0
	when := func(seconds float64) time.Time { return time.UnixMilli(int64(1000 * seconds)) }
	for ; at < end; at += chance.ExpFloat64() * slot {
		p, err := s.Draw(twoGuards, behind, rnd)
		if err != nil {
			t.Fatal(err)
		}
		if busy && len(waiting) == 0 && chance.IntN(7*7) == 0 {
			waiting = []int{0, 2, 0, 0, 6, 0, 1} // a record, results, a share of a sum
		}
		if len(waiting) == 0 {
			if p = s.Cover(p, twoGuards, behind, when(at)); p.Back != (packet.NodeKey{}) {
				bins[int((at+way())/slot)/slots]++
			}
			continue
		}
		s.Sent(p, p.First)
		there := at + way()
		for i := range waiting[0] {
			back := there + way()*float64(AnswerHold(hop*time.Second, i))/float64(hop*time.Second)
			last, err := s.Draw(twoGuards, behind, rnd) // of a loop
			for err == nil && last.Back == (packet.NodeKey{}) {
				last, err = s.Draw(twoGuards, behind, rnd)
			}
			s.Answer(last.Back, when(back).Add(-CoverLead(hop*time.Second, slot*time.Second, waiting[0])))
			bins[int(back/slot)/slots]++
		}
		waiting = waiting[1:]
	}
	var n, sum, squares float64
	for b := 2; b < int(end/slot)/slots-30; b++ {
		n, sum, squares = n+1, sum+bins[b], squares+bins[b]*bins[b]
	}
	return (squares/n - sum/n*sum/n) / (sum / n)
}

func TestAnswersMakeNoBursts(t *testing.T) {
	for _, slots := range []int{4, 10, 30} {
		idle, busy := burstiness(t, false, slots), burstiness(t, true, slots)
		t.Logf("stretches of %d slots: idle %.2f, busy %.2f", slots, idle, busy)
		if busy > idle+0.15 || busy < idle-0.15 {
			t.Errorf("packets come back in bursts: variance over mean %.2f in stretches of %d slots, %.2f for an idle home", busy, slots, idle)
		}
	}
}

func TestWhatALineOwesIsLimited(t *testing.T) {
	var s Shape
	for range maxOwed + 1 {
		s.Sent(Pattern{First: linkB, Back: linkC}, linkA)
	}
	if s.first[linkA] != -maxOwed || s.first[linkB] != maxOwed || s.back[linkC] != maxOwed {
		t.Errorf("owed %v and %v, want at most %d", s.first, s.back, maxOwed)
	}
	for range packet.MaxOpenReplies + 1 {
		s.Answer(linkA, time.Time{})
	}
	if len(s.answers) != packet.MaxOpenReplies {
		t.Errorf("%d answers are remembered, want %d", len(s.answers), packet.MaxOpenReplies)
	}
}

func TestASlotWithoutRelaysHasNoPattern(t *testing.T) {
	var s Shape
	p, err := s.Draw(nil, behind, rand.NewChaCha8([32]byte{1}))
	if err != nil || p != (Pattern{}) {
		t.Errorf("drew %v, %v without a guard", p, err)
	}
	if p = s.Cover(p, nil, func(packet.NodeKey) []packet.NodeKey { return nil }, time.Time{}); p != (Pattern{}) || len(s.first)+len(s.back) > 0 {
		t.Errorf("cover %v, owed %v %v without a guard", p, s.first, s.back)
	}
}
