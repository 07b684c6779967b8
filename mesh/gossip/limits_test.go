package gossip

import (
	"encoding/binary"
	"errors"
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

// TestForeignListsHaveALength tries a digest and a question for certificates at their limits and one above.
func TestForeignListsHaveALength(t *testing.T) {
	for over := range 2 {
		digest := make([]Have, maxDigest+over)
		for i := range digest {
			digest[i].Kind = KindPrice
		}
		if got, err := ParseDigest(EncodeDigest(digest)); errors.Is(err, ErrEnvelope) != (over == 1) || over == 0 && len(got) != maxDigest {
			t.Errorf("a digest of %d registers: %d, %v", maxDigest+over, len(got), err)
		}
		none := func([32]byte) ([][]byte, bool) { return nil, false }
		if _, err := AnswerCerts(make([]byte, 32*(MaxCertAsk+over)), none); errors.Is(err, ErrEnvelope) != (over == 1) {
			t.Errorf("%d certificates asked for: %v", MaxCertAsk+over, err)
		}
		answer := make([]byte, MaxSync+over)
		for rest := answer[answerFixed:]; len(rest) > 4; {
			size := min(len(rest)-4, MaxEnvelope)
			if left := len(rest) - 4 - size; left > 0 && left < 4 {
				size -= 4
			}
			binary.BigEndian.PutUint32(rest, uint32(size))
			rest = rest[4+size:]
		}
		if _, _, err := ParseSync(answer); errors.Is(err, ErrEnvelope) != (over == 1) {
			t.Errorf("a sync answer of %d bytes: %v", MaxSync+over, err)
		}
	}
	if got := len(AskCerts(make([][32]byte, MaxCertAsk+1))); got != 32*MaxCertAsk {
		t.Errorf("a question for %d certificates has %d bytes", MaxCertAsk+1, got)
	}
}
