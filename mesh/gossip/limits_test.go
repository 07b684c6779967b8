package gossip

import (
	"encoding/binary"
	"testing"
	"time"
)

// TestTheRateTableIsBounded fills the table of publishers; one more is refused until one of them has been idle.
func TestTheRateTableIsBounded(t *testing.T) {
	w := newTown(t)
	publisher := func(i int) (s share) {
		binary.BigEndian.PutUint32(s.publisher[:], uint32(i))
		s.kind = KindPrice
		return s
	}
	for i := range maxRates {
		if !w.regs.takeToken(publisher(i), begin) {
			t.Fatalf("publisher %d is over its rate", i+1)
		}
	}
	if w.regs.takeToken(publisher(maxRates), begin) || len(w.regs.rates) != maxRates {
		t.Errorf("publisher %d has a place, of %d", maxRates+1, maxRates)
	}
	if !w.regs.takeToken(publisher(maxRates), begin.Add(time.Minute)) {
		t.Error("a publisher is refused although all others have been idle for a minute")
	}
}
