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
			if d := busyBack[link] - idleBack[link]; d < -15 || d > 15 {
				t.Errorf("seed %d: %d packets came on a line of a busy home, %d of an idle one", seed, busyBack[link], idleBack[link])
			}
		}
		if n := idleBack[linkA] + idleBack[linkB] + idleBack[linkC]; n < 1900 || n > 2130 { // 0.7 of 2880, 4.7 deviations
			t.Errorf("seed %d: %d of 2880 slots bring a packet back", seed, n)
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
