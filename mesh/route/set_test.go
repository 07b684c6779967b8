package route

import (
	"errors"
	"strings"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/mix"
)

func TestSetMatchesTheDocumentedFigures(t *testing.T) {
	// Three SSNs, every home attached to two: n = 2/3 of the homes, l = homes / slot / 3.
	for _, tc := range []struct {
		homes, slot int
		want        int
	}{{30, 30, 9}, {25, 30, 8}, {20, 10, 9}} {
		frames := float64(tc.homes) / float64(tc.slot) / 3
		set := Set(frames, tc.homes*2/3, 30*time.Second)
		if int(set+1e-9) != tc.want {
			t.Errorf("%d homes at %d-s slots: Set %.2f, documented %d", tc.homes, tc.slot, set, tc.want)
		}
	}
	if Set(0, 100, 30*time.Second) != 1 || Set(10, 0, 30*time.Second) != 1 || Set(1, 1, 30*time.Second) != 1 {
		t.Error("without traffic or company a home hides among one")
	}
}

// policy is that of a town with n homes.
func policy(n int) member.Policy {
	return member.Policy{HomesEnrolled: n, MinHomes: 20, MinSet: 8, SlotMS: 30_000, HopMS: 30_000}
}

func TestPrivateClassesRefuseBelowTheFloorAndSayWhy(t *testing.T) {
	w := newTown()
	relays := w.ssns(t, 3, "a")
	quiet := w.node(t, 50, member.RoleSSN, "a", FlagRelay, 20, 10)
	s := w.dir.Snapshot(start)
	busy := []Guard{{Node: relays[0]}, {Node: relays[1]}}
	lonely := []Guard{{Node: relays[0]}, {Node: quiet}}
	empty := NewDirectory(epoch).Snapshot(start)
	lab := policy(6)
	lab.Lab = true
	for _, tc := range []struct {
		fact   string
		floor  Floor
		class  mix.Class
		snap   *Snapshot
		guards []Guard
		after  time.Duration
		want   error
		words  string
	}{
		{"30 homes may send", Floor{Policy: policy(30)}, mix.ClassMeter, s, busy, 0, nil, ""},
		{"session too", Floor{Policy: policy(30)}, mix.ClassSession, s, busy, 0, nil, ""},
		{"20 homes are enough", Floor{Policy: policy(20)}, mix.ClassSession, s, busy, 0, nil, ""},
		{"19 homes are not", Floor{Policy: policy(19)}, mix.ClassSession, s, busy, 0, ErrSmallSet, "19 of at least 20"},
		{"a quiet guard is not enough for meter", Floor{Policy: policy(30)}, mix.ClassMeter, s, lonely, 0, ErrSmallSet, "from 1.0 homes, at least 8"},
		{"but for session", Floor{Policy: policy(30)}, mix.ClassSession, s, lonely, 0, nil, ""},
		{"the owner may demand more", Floor{Policy: policy(30), MinHomes: 40}, mix.ClassSession, s, busy, 0, ErrSmallSet, "30 of at least 40"},
		{"and not less", Floor{Policy: policy(19), MinHomes: 1, MinSet: 1}, mix.ClassMeter, s, busy, 0, ErrSmallSet, "19 of at least 20"},
		{"no relays", Floor{Policy: policy(30)}, mix.ClassMeter, empty, nil, 0, ErrStaleDirectory, "none was received yet"},
		{"an hour-old directory is enough", Floor{Policy: policy(30)}, mix.ClassMeter, s, busy, time.Hour, nil, ""},
		{"two hours are the limit", Floor{Policy: policy(30)}, mix.ClassMeter, s, busy, MaxStale + 1, ErrStaleDirectory, "last heard 2023-11-14T22:13:20Z"},
		{"lab needs permission", Floor{Policy: policy(30)}, mix.ClassLab, s, busy, 0, ErrLabClass, "does not allow class lab"},
		{"lab ignores the crowd", Floor{Policy: lab}, mix.ClassLab, s, lonely, 0, nil, ""},
	} {
		st := tc.floor.Check(tc.class, tc.snap, tc.guards, start.Add(tc.after))
		if !errors.Is(st.Err, tc.want) || st.Err != nil && !strings.Contains(st.Err.Error(), tc.words) {
			t.Errorf("%s: %v", tc.fact, st.Err)
		}
	}
}

func TestTwoRelaysAreTooFew(t *testing.T) {
	w := newTown()
	relays := w.ssns(t, 2, "a")
	st := Floor{Policy: policy(30)}.Check(mix.ClassMeter, w.dir.Snapshot(start), []Guard{{Node: relays[0]}}, start)
	if !errors.Is(st.Err, ErrFewRelays) || !strings.Contains(st.Err.Error(), "2 usable") {
		t.Errorf("got %v", st.Err)
	}
}

func TestLeavesSpeedUpBelowTheFloorAndDoNotSwing(t *testing.T) {
	for _, tc := range []struct {
		fact    string
		frames  int // per 1000 s at the guard
		current time.Duration
		want    time.Duration
	}{
		{"enough cover stays slow", 1000, 30 * time.Second, 30 * time.Second},
		{"too little cover goes fast", 200, 30 * time.Second, FastSlot},
		{"fast cover that slow slots could not hold stays fast", 600, FastSlot, FastSlot},
		{"cover that slow slots hold goes back", 3000, FastSlot, 30 * time.Second},
	} {
		w := newTown()
		key := w.node(t, 1, member.RoleSSN, "a", FlagRelay, 20, tc.frames)
		got := Floor{Policy: policy(30)}.SlotMean(tc.current, w.dir.Snapshot(start), []Guard{{Node: key}})
		if got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.fact, got, tc.want)
		}
	}
	w := newTown()
	key := w.node(t, 1, member.RoleSSN, "a", FlagRelay, 20, 200)
	if got := (Floor{Policy: policy(12)}).SlotMean(30*time.Second, w.dir.Snapshot(start), []Guard{{Node: key}}); got != 30*time.Second {
		t.Errorf("too few homes: got %s, want slow slots", got)
	}
}
