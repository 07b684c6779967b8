package signal_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"gridveil/ev/signal"
)

const now = 1_700_000_000_000

func price(change func(*signal.Price)) *signal.Price {
	p := &signal.Price{Currency: 978, From: now + 600_000, StepS: 900, Prices: []int64{200_000, 250_000, 180_000}}
	if change != nil {
		change(p)
	}
	return p
}

func netState(change func(*signal.NetState)) *signal.NetState {
	n := &signal.NetState{Zone: 7, From: now, To: now + 900_000, ImportMaxW: 4_200, MilliVolt: 228_000, MilliHertz: 49_990}
	if change != nil {
		change(n)
	}
	return n
}

func control(change func(*signal.Control)) *signal.Control {
	c := &signal.Control{Open: [32]byte{1}, From: now, To: now + 900_000, SetW: 3_000}
	if change != nil {
		change(c)
	}
	return c
}

func own(change func(*signal.Own)) signal.Own {
	o := signal.Own{Now: now, ClockSure: true, Zone: 7, Currency: 978, PriceLo: -100_000, PriceHi: 2_000_000, HasLast: true, LastPrice: 220_000,
		NoticeMS: 3_600_000, Open: [32]byte{1}, EnvelopeLo: -5_000, EnvelopeHi: 7_000, HasMHz: true, MilliHertz: 50_000, HasMV: true, MilliVolt: 230_000,
		HasDeparture: true, Departure: now + 4*3_600_000, NeedMWh: 10_000_000, MaxW: 11_000, HasFloor: true, SpareMWh: 5_000_000}
	if change != nil {
		change(&o)
	}
	return o
}

func TestLegitimateSignalsThatAreNotGenuineAreRefusedByName(t *testing.T) {
	swings := func(n int) func(*signal.Own) {
		return func(o *signal.Own) {
			for i := range n {
				o.Recent = append(o.Recent, signal.Set{At: now - int64(n-i)*60_000, W: int64(i%2) * 5_000})
			}
		}
	}
	for _, c := range []struct {
		name string
		body signal.Body
		own  func(*signal.Own)
		want signal.Reason
	}{
		{"an honest price", price(nil), nil, signal.None},
		{"our clock is unsure", price(nil), func(o *signal.Own) { o.ClockSure = false }, signal.ClockUnsure},
		{"replayed after its time", price(func(p *signal.Price) { p.From = now - 2_700_000 }), nil, signal.Expired},
		{"three days ahead", price(func(p *signal.Price) { p.From = now + 3*86_400_000 }), nil, signal.TooEarly},
		{"another currency", price(func(p *signal.Price) { p.Currency = 840 }), nil, signal.OtherZone},
		{"outside the contract", price(func(p *signal.Price) { p.Prices[1] = 2_000_001 }), nil, signal.PriceBand},
		{"six times the step before", price(func(p *signal.Price) { p.Prices[1] = 1_200_001 }), nil, signal.PriceJump},
		{"a sixth of the step before", price(func(p *signal.Price) { p.Prices[0] = 30_000 }), nil, signal.PriceJump},
		{"five times is allowed", price(func(p *signal.Price) { p.Prices[1] = 900_000 }), nil, signal.None},
		{"prices near zero may change sign", price(func(p *signal.Price) { p.Prices = []int64{50_000, -10_000, 90_000} }), nil, signal.None},
		{"critical peak without notice", price(func(p *signal.Price) { p.Kind, p.Prices[0] = signal.CriticalPeak, 1_900_000 }), nil, signal.NoNotice},
		{"critical peak with notice", price(func(p *signal.Price) {
			p.Kind, p.From, p.Prices[0] = signal.CriticalPeak, now+3_600_000, 1_900_000
		}), nil, signal.None},

		{"an honest network state", netState(nil), nil, signal.None},
		{"another zone", netState(func(n *signal.NetState) { n.Zone = 8 }), nil, signal.OtherZone},
		{"a frequency that is not ours", netState(func(n *signal.NetState) { n.MilliHertz = 49_900 }), nil, signal.Measurement},
		{"a voltage that is not ours", netState(func(n *signal.NetState) { n.MilliVolt = 200_000 }), nil, signal.Measurement},
		{"short of energy at 50.2 Hz", netState(func(n *signal.NetState) { n.State, n.MilliHertz = signal.ImportStrained, 50_200 }),
			func(o *signal.Own) { o.MilliHertz = 50_200 }, signal.AgainstGrid},

		{"an honest control", control(nil), nil, signal.None},
		{"another session's control", control(func(c *signal.Control) { c.Open = [32]byte{2} }), nil, signal.OtherSession},
		{"beyond the envelope", control(func(c *signal.Control) { c.SetW = 7_001 }), nil, signal.Envelope},
		{"below the envelope", control(func(c *signal.Control) { c.SetW = -5_001 }), nil, signal.Envelope},
		{"the fourth reversal", control(nil), swings(5), signal.None},
		{"the fifth reversal", control(func(c *signal.Control) { c.SetW = 0 }), swings(6), signal.Oscillating},
		{"reversals long ago do not count", control(nil), func(o *signal.Own) {
			swings(8)(o)
			for i := range o.Recent {
				o.Recent[i].At -= 3_600_000
			}
		}, signal.None},
		{"departure would be missed", control(func(c *signal.Control) { c.Kind, c.SetW, c.To = signal.Stop, 0, now+4*3_600_000 }), nil, signal.FloorLost},
		{"discharge below the floor", control(func(c *signal.Control) { c.Kind, c.SetW, c.To = signal.Discharge, -5_000, now+3_660_000 }), nil, signal.FloorLost},
		{"discharge at 50.2 Hz", control(func(c *signal.Control) { c.Kind, c.SetW = signal.Discharge, -1_000 }),
			func(o *signal.Own) { o.MilliHertz = 50_200 }, signal.AgainstGrid},
		{"charging at 49.8 Hz", control(nil), func(o *signal.Own) { o.MilliHertz = 49_800 }, signal.AgainstGrid},
		{"a release is always followed", control(func(c *signal.Control) { c.Kind, c.SetW = signal.Release, 0 }), swings(20), signal.None},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := signal.Plausible(c.body, own(c.own)); got.Reason != c.want || got.OK() != (c.want == signal.None) {
				t.Errorf("got %v, want %v", got.Reason, c.want)
			}
		})
	}
}

// G6: however an authentic sender behaves, the set points that are followed never reverse more often than allowed.
func TestNoSequenceOfControlsMakesACarOscillate(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 4))
	o := own(func(o *signal.Own) { o.HasDeparture, o.HasFloor, o.HasMHz, o.HasMV = false, false, false, false })
	for range 20_000 {
		o.Now += rnd.Int64N(120_000)
		c := control(func(c *signal.Control) { c.From, c.To, c.SetW = o.Now, o.Now+60_000, rnd.Int64N(12_000)-5_000 })
		if !signal.Plausible(c, o).OK() {
			continue
		}
		o.Recent = append(o.Recent, signal.Set{At: o.Now, W: c.SetW})
		if len(o.Recent) > 200 {
			o.Recent = o.Recent[1:]
		}
		reversals, direction := 0, int64(0)
		for i := 1; i < len(o.Recent); i++ {
			step := o.Recent[i].W - o.Recent[i-1].W
			if step == 0 || o.Recent[i].At <= o.Now-3_600_000 {
				continue
			}
			if direction*step < 0 {
				reversals++
			}
			direction = step
		}
		if reversals > signal.MaxReversals {
			t.Fatalf("%d reversals within an hour", reversals)
		}
	}
}

func TestStartIsShiftedWithinItsWindow(t *testing.T) {
	long, short := control(func(c *signal.Control) { c.To = now + 3_600_000 }), control(func(c *signal.Control) { c.To = now + 10_000 })
	starts := map[int64]bool{}
	for i := range uint64(1000) {
		a, b := long.Start(i*7919), short.Start(i)
		if a < now || a > now+signal.MaxShift || b < now || b > now+5_000 {
			t.Fatalf("starts %d, %d", a-now, b-now)
		}
		starts[a] = true
	}
	if len(starts) < 900 {
		t.Errorf("only %d different starts", len(starts))
	}
}

func TestBodiesHaveOneEncoding(t *testing.T) {
	p, n, c := price(nil), netState(nil), control(nil)
	for name, x := range map[string]struct {
		body   signal.Body
		decode func([]byte) (signal.Body, error)
		size   int
	}{
		"price":    {p, func(b []byte) (signal.Body, error) { return signal.DecodePrice(b) }, 14 + 12 + 32},
		"netstate": {n, func(b []byte) (signal.Body, error) { return signal.DecodeNetState(b) }, 37},
		"control":  {c, func(b []byte) (signal.Body, error) { return signal.DecodeControl(b) }, 256},
	} {
		raw, err := x.body.Encode()
		if err != nil || len(raw) != x.size {
			t.Errorf("%s: %d bytes, %v", name, len(raw), err)
			continue
		}
		back, err := x.decode(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if again, err := back.Encode(); err != nil || !bytes.Equal(raw, again) {
			t.Errorf("%s: encodes to other bytes, %v", name, err)
		}
		for cut := range raw {
			if _, err := x.decode(raw[:cut]); !errors.Is(err, signal.ErrBody) {
				t.Errorf("%s cut at %d: got %v, want ErrBody", name, cut, err)
			}
		}
	}
}

func TestBodiesOutOfRangeAreRefused(t *testing.T) {
	for name, b := range map[string]signal.Body{
		"no prices":                price(func(p *signal.Price) { p.Prices = nil }),
		"too many prices":          price(func(p *signal.Price) { p.Prices = make([]int64, 256) }),
		"price beyond 32 bits":     price(func(p *signal.Price) { p.Prices[0] = 1 << 31 }),
		"no step":                  price(func(p *signal.Price) { p.StepS = 0 }),
		"end before begin":         netState(func(n *signal.NetState) { n.To = n.From }),
		"unknown state":            netState(func(n *signal.NetState) { n.State = 9 }),
		"negative limit":           netState(func(n *signal.NetState) { n.ImportMaxW = -1 }),
		"discharge that charges":   control(func(c *signal.Control) { c.Kind = signal.Discharge }),
		"stop with a power":        control(func(c *signal.Control) { c.Kind = signal.Stop }),
		"unknown kind of control":  control(func(c *signal.Control) { c.Kind = 9 }),
		"control without duration": control(func(c *signal.Control) { c.To = c.From }),
	} {
		if _, err := b.Encode(); !errors.Is(err, signal.ErrBody) {
			t.Errorf("%s: got %v, want ErrBody", name, err)
		}
	}
}

func TestRefusalHasOneEncoding(t *testing.T) {
	r := signal.Refusal{Signal: [32]byte{5}, Reason: signal.Envelope, At: now}
	if back, err := signal.DecodeRefusal(r.Encode()); err != nil || back != r {
		t.Errorf("got %+v, %v", back, err)
	}
	if _, err := signal.DecodeRefusal(signal.Refusal{}.Encode()); !errors.Is(err, signal.ErrBody) {
		t.Error("a refusal without reason was read")
	}
}

func FuzzDecode(f *testing.F) {
	for _, b := range []signal.Body{price(nil), netState(nil), control(nil)} {
		raw, err := b.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add(signal.Refusal{Reason: signal.Expired}.Encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		same := func(b signal.Body) {
			if again, err := b.Encode(); err != nil || !bytes.Equal(raw, again) {
				t.Errorf("decoded bytes encode to others, %v", err)
			}
			signal.Plausible(b, own(nil))
		}
		if p, err := signal.DecodePrice(raw); err == nil {
			same(p)
		}
		if n, err := signal.DecodeNetState(raw); err == nil {
			same(n)
		}
		if c, err := signal.DecodeControl(raw); err == nil {
			same(c)
			c.Start(12345)
		}
		if r, err := signal.DecodeRefusal(raw); err == nil && !bytes.Equal(r.Encode(), raw) {
			t.Error("refusal encodes to other bytes")
		}
	})
}
