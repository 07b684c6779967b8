// Package mix decides when packets move: what a relay takes in, which packets
// it has seen, how long it holds them, and when a home sends cover.
//
// A relay passes each packet through Fair (one neighbour cannot crowd out the
// others), packet.Unwrap with a Replay table of its Keyring, and Hold. A leaf
// sends in Slots: a waiting packet or cover, so that its link shows a Poisson flow
// that does not depend on what it has to say; Shape keeps what each line carries
// back free of that too, Loops notices when loops to itself do not return.
//
// What it guarantees: no packet leaves a Hold early, none is accepted twice
// under one key, every table has a limit. What it does not: hide anything in
// class lab, or the time of sending in class session.
//
// All types are plain state: now and rnd are arguments, nothing is safe for
// concurrent use, nothing waits. Sources: doc/design.md; Loopix (2017) for
// loops and exponential delays; SG-mixes (Kesdogan 1998).
package mix

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/packet"
)

// Class is the timing of an onion message.
type Class uint8

// Classes.
const (
	ClassMeter   Class = 1 // in slots, long holds: hides sender, recipient, time and the fact of sending
	ClassSession Class = 2 // at once, short holds: hides sender from recipient only
	ClassLab     Class = 3 // no delay, no cover; only where the bundle allows it
)

// String gives the class's word.
func (c Class) String() string {
	switch c {
	case ClassMeter:
		return "meter"
	case ClassSession:
		return "session"
	case ClassLab:
		return "lab"
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// Timing is when a class sends, holds and retries. All random times are exponential.
type Timing struct {
	Slots       bool          // send in slots; otherwise at once
	HopMean     time.Duration // mean hold at a relay
	RetryAfter  time.Duration // no answer: retry after this
	RetryJitter time.Duration // plus an exponential time of this mean
	Tries       int           // then the outcome is unknown
	UpPackets   int           // most packets of a request
	DownPackets int           // most packets of an answer
}

const sessionHop = 75 * time.Millisecond

// Timing gives the numbers of a class under the network's policy.
func (c Class) Timing(p member.Policy) Timing {
	t := Timing{Tries: 3, UpPackets: packet.MaxFragments, DownPackets: packet.MaxFragments}
	switch c {
	case ClassMeter:
		t.Slots, t.HopMean, t.RetryAfter, t.RetryJitter = true, p.Hop(), 8*time.Minute, time.Minute
	case ClassSession:
		t.HopMean, t.RetryAfter, t.RetryJitter = sessionHop, 2*time.Second, 500*time.Millisecond
		t.UpPackets, t.DownPackets = p.SessionUp, p.SessionDown
	default:
		t.RetryAfter, t.RetryJitter = 2*time.Second, 500*time.Millisecond
	}
	return t
}

// Exp draws an exponential time with the given mean from rnd, in whole ms. A
// mean of zero gives zero. It reads 8 bytes.
func Exp(mean time.Duration, rnd io.Reader) (time.Duration, error) {
	if mean <= 0 {
		return 0, nil
	}
	u, err := uniform(rnd)
	if err != nil {
		return 0, err
	}
	// u is in (0,1] with 53 bits, so -ln(u) is at most 36.8 means.
	return time.Duration(-math.Log(u) * float64(mean)).Round(time.Millisecond), nil
}

// HopDelay draws the hold that a sender asks of one relay; it never exceeds packet.MaxDelay.
func HopDelay(mean time.Duration, rnd io.Reader) (time.Duration, error) {
	d, err := Exp(mean, rnd)
	return min(d, packet.MaxDelay), err
}

// RetryAt is when a request sent at now is tried again.
func (t Timing) RetryAt(now time.Time, rnd io.Reader) (time.Time, error) {
	jitter, err := Exp(t.RetryJitter, rnd)
	return now.Add(t.RetryAfter + jitter), err
}

// uniform draws a number in (0,1].
func uniform(rnd io.Reader) (float64, error) {
	var raw [8]byte
	if _, err := io.ReadFull(rnd, raw[:]); err != nil {
		return 0, fmt.Errorf("draw random number: %w", err)
	}
	return (float64(binary.BigEndian.Uint64(raw[:])>>11) + 1) / (1 << 53), nil
}

// Below draws an integer in [0,n) for 0 < n < 2^32 from rnd. The bias is below n/2^64.
func Below(n int, rnd io.Reader) (int, error) {
	var raw [8]byte
	if _, err := io.ReadFull(rnd, raw[:]); err != nil {
		return 0, fmt.Errorf("draw random number: %w", err)
	}
	return int(binary.BigEndian.Uint64(raw[:]) % uint64(n)), nil
}
