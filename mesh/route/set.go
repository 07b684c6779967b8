package route

import (
	"errors"
	"fmt"
	"math"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/mix"
)

// MinRelays is the length of a route before the recipient.
const MinRelays = 3

// MaxStale is the age of the newest key register at which sending stops.
const MaxStale = 2 * time.Hour

// Refusals to send. They keep the record; nothing falls back to an open path.
// Use errors.Is with these and errors.As with the types for the numbers.
var (
	ErrSmallSet       = errors.New("too few homes to hide among")
	ErrFewRelays      = errors.New("too few relays")
	ErrStaleDirectory = errors.New("directory of relays is too old")
	ErrLabClass       = errors.New("this network does not allow class lab")
)

// SmallSetError says how far the crowd misses the floor.
type SmallSetError struct {
	Set      float64 // 0 when it was not the reason
	MinSet   int
	Homes    int
	MinHomes int
}

// Error says the numbers and what happens now, for the page.
func (e *SmallSetError) Error() string {
	if e.Homes < e.MinHomes {
		return fmt.Sprintf("too few homes to hide among: %d of at least %d enrolled; records wait, cover goes on", e.Homes, e.MinHomes)
	}
	return fmt.Sprintf("too few homes to hide among: a message could come from %.1f homes, at least %d are wanted; records wait, cover goes on", e.Set, e.MinSet)
}

// Is makes errors.Is(err, ErrSmallSet) true.
func (e *SmallSetError) Is(target error) bool { return target == ErrSmallSet }

// FewRelaysError says how many usable relays there are.
type FewRelaysError struct {
	Relays int
	Why    string // what made the others unusable, "" when there are just too few
}

// Error says the number and what happens now, for the page.
func (e *FewRelaysError) Error() string {
	why := ""
	if e.Why != "" {
		why = " (" + e.Why + ")"
	}
	return fmt.Sprintf("too few relays: %d usable%s, a route needs %d; records wait", e.Relays, why, MinRelays)
}

// Is makes errors.Is(err, ErrFewRelays) true.
func (e *FewRelaysError) Is(target error) bool { return target == ErrFewRelays }

// StaleDirectoryError says since when no keys were heard.
type StaleDirectoryError struct {
	Since time.Time // zero when there never was a directory
}

// Error says the time and what happens now, for the page.
func (e *StaleDirectoryError) Error() string {
	if e.Since.IsZero() {
		return "directory of relays is too old: none was received yet; records wait"
	}
	return fmt.Sprintf("directory of relays is too old: last heard %s; records wait", e.Since.UTC().Format(time.RFC3339))
}

// Is makes errors.Is(err, ErrStaleDirectory) true.
func (e *StaleDirectoryError) Is(target error) bool { return target == ErrStaleDirectory }

// setShare is the part of a guard's mix that one honest relay keeps unlinked; it
// keeps Set at 0.90 to 1.00 of what an attacker with an exact account of the
// pool is left with.
const setShare = 1.8

// Set is the collision-entropy size 1/sum(p^2) over the homes that may have sent
// a packet, for a guard that takes framesPerSecond from leaves attached leaves
// and a mean hold hop, assuming one honest relay:
//
//	S = max(1, 1.8 l m), Set = 1/(1/S + (1-1/S)/n)
func Set(framesPerSecond float64, leaves int, hop time.Duration) float64 {
	if leaves < 1 {
		return 1
	}
	s := math.Max(1, setShare*framesPerSecond*hop.Seconds())
	return 1 / (1/s + (1-1/s)/float64(leaves))
}

// guardSet is Set from what a guard publishes, at a frame rate scaled by factor.
func guardSet(n *Node, p member.Policy, factor float64) float64 {
	leaves := min(int(n.Keys.Leaves), p.HomesEnrolled)
	return Set(float64(n.Keys.LeafFrames)/1000*factor, leaves, p.Hop())
}

// crowd reports whether the numbers of a guard meet the floor for a leaf behind it.
func (f Floor) crowd(n *Node) bool {
	return n.haveKeys && guardSet(n, f.Policy, 1) >= float64(max(f.MinSet, f.Policy.MinSet))
}

// smallestSet is the worse of the guards' sets; 0 without guards.
func smallestSet(s *Snapshot, guards []Guard, p member.Policy, factor float64) float64 {
	smallest := 0.0
	for i, g := range guards {
		set := 1.0
		if n, known := s.Node(g.Node); known && n.haveKeys {
			set = guardSet(n, p, factor)
		}
		if i == 0 || set < smallest {
			smallest = set
		}
	}
	return smallest
}

// Status is what the page shows about a class.
type Status struct {
	Set      float64 // the smaller of both guards' sets
	MinSet   int
	Homes    int
	MinHomes int
	Relays   int
	Fresh    time.Time // when the newest keys of a relay were published; zero means that none were heard
	Err      error     // nil: may send
}

// Floor holds the network's policy and what the owner of this node demands on
// top; floors go only upwards.
type Floor struct {
	Policy   member.Policy
	MinSet   int // own demand; counts when above the policy's
	MinHomes int // likewise
}

// Check says whether class c may send now through these guards, with the numbers.
func (f Floor) Check(c mix.Class, s *Snapshot, guards []Guard, now time.Time) Status {
	st := Status{
		Set: smallestSet(s, guards, f.Policy, 1), MinSet: max(f.MinSet, f.Policy.MinSet), Homes: f.Policy.HomesEnrolled,
		MinHomes: max(f.MinHomes, f.Policy.MinHomes), Relays: len(s.relays), Fresh: s.Fresh,
	}
	st.Err = f.refusal(c, st, s.Fresh, now)
	return st
}

func (f Floor) refusal(c mix.Class, st Status, fresh, now time.Time) error {
	switch {
	case c == mix.ClassLab && !f.Policy.Lab:
		return ErrLabClass
	case fresh.IsZero() || now.Sub(fresh) > MaxStale:
		return &StaleDirectoryError{fresh}
	case st.Relays < MinRelays:
		return &FewRelaysError{Relays: st.Relays}
	case c == mix.ClassLab:
		return nil
	case st.Homes < st.MinHomes:
		return &SmallSetError{Homes: st.Homes, MinHomes: st.MinHomes}
	case c == mix.ClassMeter && st.Set < float64(st.MinSet):
		return &SmallSetError{Set: st.Set, MinSet: st.MinSet, Homes: st.Homes, MinHomes: st.MinHomes}
	}
	return nil
}

// FastSlot is the mean slot while the published numbers miss the floor: more cover, larger Set.
const FastSlot = 10 * time.Second

// SlotMean is the mean slot that every leaf should use, from published numbers
// only. current is the mean in use: a leaf goes back to the slow slot only if
// the numbers would still meet the floor there, so that it does not swing. A
// network with too few homes stays slow: no rate makes up for them.
func (f Floor) SlotMean(current time.Duration, s *Snapshot, guards []Guard) time.Duration {
	slow := f.Policy.Slot()
	if slow <= FastSlot || f.Policy.HomesEnrolled < max(f.MinHomes, f.Policy.MinHomes) {
		return slow
	}
	factor := 1.0
	if current > 0 {
		factor = current.Seconds() / slow.Seconds()
	}
	if smallestSet(s, guards, f.Policy, factor) >= float64(max(f.MinSet, f.Policy.MinSet)) {
		return slow
	}
	return FastSlot
}
