package aggregator

import (
	"testing"

	"gridveil/ev/ocmf"
	"gridveil/ev/pool"
)

// bought is an event that has a part of session 1.
func bought(from, to, w, part int64) *event {
	x := pool.Instruction{Zone: 1, From: from * pool.SlotMS, To: to * pool.SlotMS, W: w, Currency: 978, Reference: [32]byte{byte(from), byte(to), byte(part >> 8)}}
	return &event{Hash: x.Hash(), Instruction: x.Encode(), State: eventSent, Parts: []eventPart{{Open: [32]byte{1}, W: part}}}
}

// TestASessionIsBoundOnceAndSellsItsEnergyOnce holds what other instructions leave
// of an offer for the slots 100 to 107.
func TestASessionIsBoundOnceAndSellsItsEnergyOnce(t *testing.T) {
	x := &pool.Instruction{From: 102 * pool.SlotMS, To: 104 * pool.SlotMS, W: 4000}
	for _, c := range []struct {
		name   string
		others []*event
		free   bool
		capW   int64
	}{
		{"nobody else", nil, true, 5000},
		{"another session's event at the same time", []*event{{Hash: [32]byte{9}, Parts: []eventPart{{Open: [32]byte{2}, W: 1}}}}, true, 5000},
		{"an event at the same time", []*event{bought(103, 105, 4000, 1000)}, false, 0},
		{"an event right before", []*event{bought(101, 102, 4000, 4000)}, true, 4000},
		{"an event that began before the offer", []*event{bought(98, 101, 4000, 4000)}, true, 4000},
		{"events that used everything", []*event{bought(104, 106, 4000, 6000)}, true, 0},
		{"an event of the other direction", []*event{bought(104, 106, -4000, 1000)}, true, 5000},
		{"as many events as a session takes part in", []*event{bought(10, 11, 1, 1), bought(11, 12, 1, 1), bought(12, 13, 1, 1), bought(13, 14, 1, 1)}, false, 0},
	} {
		o := &pool.Flex{Open: [32]byte{1}, From: 100 * pool.SlotMS, MinMWh: -5_000_000}
		for k := range o.Envelopes {
			o.Envelopes[k] = pool.Envelope{BaselineW: -1000, UpW: 5000}
		}
		free := bindBefore(o, &event{}, x, gate{gateName: gateName{From: o.From}}, c.others)
		if free != c.free || free && o.CapW(2, 3, true) != c.capW {
			t.Errorf("%s: free %v, %d W; want %v, %d", c.name, free, o.CapW(2, 3, true), c.free, c.capW)
		}
	}
}

// TestPlanOfASessionIsWhatWasAnchored: the newest gate that covers a time, the
// nearest where none does.
func TestPlanOfASessionIsWhatWasAnchored(t *testing.T) {
	at := func(slot int64, w int32) gate {
		f := &pool.Flex{Open: [32]byte{1}, From: slot * pool.SlotMS, Meter: pool.MeterCert{MaxW: 11_000}, MinMWh: -1, MaxMWh: 1}
		for k := range f.Envelopes {
			f.Envelopes[k].BaselineW = w
		}
		return gate{gateName: gateName{From: f.From}, Offers: [][]byte{f.Encode()}}
	}
	gates := []gate{at(100, 4000), at(102, 2000)}
	s := ocmf.Signed{Begin: 99 * pool.SlotMS, End: 104 * pool.SlotMS, ImportMWh: 2_500_000, TimeOK: true}
	x := &pool.Instruction{From: 102 * pool.SlotMS, To: 104 * pool.SlotMS, W: 1000}
	is, rest, err := intervalOf(s, eventPart{Open: [32]byte{1}, W: 1000}, x, gates)
	if err != nil || is.BaselineMWh != 3*1_000_000+2*500_000 || is.InstructedMWh != 500_000 || rest.InstructedMWh != 0 {
		t.Errorf("got %+v, %+v, %v", is, rest, err)
	}
	if got, err := pool.Delivered([]pool.Interval{is}, true); err != nil || got != 500_000 {
		t.Errorf("delivered %d, %v: what was bought and no more", got, err)
	}
	if _, _, err := intervalOf(s, eventPart{Open: [32]byte{2}}, x, gates); err == nil {
		t.Error("a session without a plan delivers")
	}
	s.TimeOK = false
	if _, _, err := intervalOf(s, eventPart{Open: [32]byte{1}}, x, gates); err == nil {
		t.Error("a meter without a clock delivers")
	}
}
