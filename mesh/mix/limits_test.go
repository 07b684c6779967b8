package mix

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"
)

func TestLoopsAreCountedUpToALimit(t *testing.T) {
	var l Loops
	now := time.UnixMilli(1_700_000_000_000)
	id := func(i int) (id LoopID) {
		binary.BigEndian.PutUint64(id[:], uint64(i))
		return id
	}
	for i := range maxLoops + 1 {
		l.Sent(id(i), nil, now)
	}
	if _, known := l.Returned(id(maxLoops-1), now); !known {
		t.Errorf("loop %d of %d is not known", maxLoops, maxLoops)
	}
	if _, known := l.Returned(id(maxLoops), now); known {
		t.Errorf("loop %d is known, at most %d are", maxLoops+1, maxLoops)
	}
}

func TestAScheduleThatLagsTooFarStartsOver(t *testing.T) {
	const mean = 30 * time.Second
	for over := range 2 {
		rnd := rand.NewChaCha8([32]byte{1})
		var s Slots
		start := time.UnixMilli(1_700_000_000_000)
		if err := s.Start(start, mean, rnd); err != nil {
			t.Fatal(err)
		}
		late := s.Next().Add(maxBehind*mean + time.Duration(over)*time.Millisecond)
		if came, err := s.Take(late, mean, rnd); !came || err != nil {
			t.Fatalf("the slot did not come: %v", err)
		}
		if after := s.Next().After(late); after != (over == 1) {
			t.Errorf("%d means and %d ms behind: the next slot is yet to come: %v", maxBehind, over, after)
		}
	}
}
