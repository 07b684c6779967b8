package gateway

import (
	"math"
	"testing"
	"time"

	"gridveil/battery"
	"gridveil/node/store"
)

// TestAClockThatIsSetCostsNeitherMaskNorMemory sets the clock of a masked house by an
// hour and by a day, forward and back: within half a minute the meter shows the mask
// again, no demand is lost, the accounts are of times that were, a command does not
// outlive its day, and a meter that falls silent then is noticed at once.
func TestAClockThatIsSetCostsNeitherMaskNorMemory(t *testing.T) {
	for _, tc := range []struct {
		name    string
		by      time.Duration
		ordered bool // the owner's command of two hours stands after it
	}{{"an hour forward", time.Hour, true}, {"an hour back", -time.Hour, true}, {"a day forward", 24 * time.Hour, false}, {"a day back", -24 * time.Hour, false}} {
		t.Run(tc.name, func(t *testing.T) {
			now := midsummer.Add(12*time.Hour + 4*time.Minute + 50*time.Second)
			d, address := device(t, battery.Reference(5000, 3000), 2500)
			m := realMask(t, "veil", address, &now)
			live := func(seconds int) { // with a meter that tells every five
				t.Helper()
				for range seconds / 5 {
					now = now.Add(4 * time.Second)
					second(t, m, &now, 800)
				}
			}
			blocks := func(day time.Time) (n int) {
				t.Helper()
				b, err := m.env.Store.Get(demandKey(day))
				if err == nil {
					n = len(b) / demandSize
				} else if err != store.ErrNotFound {
					t.Fatal(err)
				}
				return n
			}
			masked := func(when string) {
				t.Helper()
				level, ok := m.ctl.Base()
				h, _, _ := m.bank.house()
				if meter := 800 - h.BattWatts; !ok || math.Abs(float64(meter-level)) > 60 {
					t.Errorf("%s: the meter shows %.0f W, the mask wants %.0f W", when, meter, level)
				}
			}
			live(11 * 60)
			masked("before")
			today := now.Truncate(24 * time.Hour)
			if blocks(today) != 2 {
				t.Fatalf("%d blocks of demand, want 2", blocks(today))
			}
			if err := m.order(-500, now.Add(2*time.Hour)); err != nil {
				t.Fatal(err)
			}
			live(5)
			now = now.Add(tc.by)
			live(5)
			if stands := m.orders.Own != nil; stands != tc.ordered {
				t.Errorf("the owner's command stands: %t, want %t", stands, tc.ordered)
			}
			if err := m.setOwn(nil); err != nil {
				t.Fatal(err)
			}
			live(30)
			masked("half a minute after")
			live(11 * 60)
			masked("two blocks after")
			if blocks(today) < 2 {
				t.Errorf("%d blocks of the day before are left of 2", blocks(today))
			}
			if again := now.Truncate(24 * time.Hour); !again.Equal(today) && blocks(again) == 0 {
				t.Error("nothing is remembered of the day that it is now")
			}
			now = now.Add(-tc.by) // and the clock is set right
			live(12 * 60)
			masked("set right")
			if blocks(today) < 3 {
				t.Errorf("%d blocks of the day, want those before and those after", blocks(today))
			}
			g := &Gateway{env: m.env, mask: m}
			s, ok := g.BatteryStatus()
			if r := s.Report; !ok || len(s.Trouble) > 0 || r.Mins < 0 || r.Mins > 26*60 || r.ExposedMins > r.Mins+1 || r.LoadWh < 0 || r.LoadWh > 2000 || r.MeterWh > 5000 {
				t.Errorf("status %+v", s)
			}
			if m.memory.since.After(now) || now.Sub(m.memory.since) > longestAccount {
				t.Errorf("at %v the account is of %v", now, m.memory.since)
			}
			now = now.Add(-time.Hour) // set back once more, and the meter is silent
			for range 20 {
				now = now.Add(time.Second)
				m.bank.observe(now)
				if err := m.turn(now); err != nil {
					t.Fatal(err)
				}
			}
			m.bank.observe(now)
			if w, _ := d.State(); w != 0 {
				t.Errorf("20 s after the last reading the battery gives %.0f W", w)
			}
		})
	}
}

// TestACurveOfAClockThatIsSetBackHasNoMinuteTwice: the page draws times in order.
func TestACurveOfAClockThatIsSetBackHasNoMinuteTwice(t *testing.T) {
	c := newCurve()
	for _, minute := range []int{0, 1, 2, 3, 1, 1, 2, 90, 30} {
		c.add(Minute{At: midsummer.Add(time.Duration(minute) * time.Minute), Load: float64(minute)})
	}
	var got []int
	for _, m := range c.since(midsummer) {
		got = append(got, int(m.At.Sub(midsummer).Minutes()))
	}
	if len(got) != 4 || got[0] != 0 || got[1] != 1 || got[2] != 2 || got[3] != 30 {
		t.Errorf("minutes %v, want 0, 1, 2 and 30", got)
	}
}

// TestTwoRecordsOfADayAreJoined: of a block that both know the first stays.
func TestTwoRecordsOfADayAreJoined(t *testing.T) {
	record := func(blocks ...int) (b []byte) {
		for _, x := range blocks {
			b = appendBlock(b, uint16(x/10), float64(x%10))
		}
		return b
	}
	for _, tc := range []struct{ old, add, want []byte }{
		{nil, record(51), record(51)}, {record(51), nil, record(51)}, {record(51, 151), record(102), record(51, 102, 151)},
		{record(51, 102), record(103, 154), record(51, 102, 154)}, {record(51)[:4], record(52), record(52)},
	} {
		if got := mergeDemand(tc.old, tc.add); string(got) != string(tc.want) {
			t.Errorf("%x and %x: got %x, want %x", tc.old, tc.add, got, tc.want)
		}
	}
}
