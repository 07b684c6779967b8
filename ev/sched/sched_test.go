package sched_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gridveil/ev/sched"
)

func TestRoofEnergyComesBeforeDearerGridEnergy(t *testing.T) {
	slots := []sched.Slot{
		{MaxMWh: 100, SurplusMWh: 60, FeedIn: 80, Grid: 300},
		{MaxMWh: 100, Grid: 200},
		{MaxMWh: 100, SurplusMWh: 500, FeedIn: 80, Grid: 300},
	}
	p, err := sched.Make(slots, 200)
	if err != nil {
		t.Fatal(err)
	}
	want := []sched.Share{{Res: 60}, {Grid: 40}, {Res: 100}}
	if !slices.Equal(p.Shares, want) || p.Lambda != 200 || p.Short != 0 {
		t.Errorf("got %+v", p)
	}
	if err := p.Check(slots, 200); err != nil {
		t.Error(err)
	}
}

func TestNeedThatDoesNotFitIsStated(t *testing.T) {
	slots := []sched.Slot{{MaxMWh: 100, Grid: 200}, {MaxMWh: 50, Grid: 300}}
	p, err := sched.Make(slots, 200)
	if err != nil || p.Short != 50 || p.Shares[0].Grid != 100 || p.Shares[1].Grid != 50 || p.Check(slots, 200) != nil {
		t.Errorf("got %+v, %v", p, err)
	}
}

func randomSlots(rnd *rand.Rand) ([]sched.Slot, int64) {
	slots := make([]sched.Slot, 1+rnd.IntN(40))
	var most int64
	for i := range slots {
		slots[i] = sched.Slot{MaxMWh: rnd.Int64N(5), SurplusMWh: rnd.Int64N(6), FeedIn: rnd.Int64N(8) - 2, Grid: rnd.Int64N(12) - 3}
		if rnd.IntN(3) == 0 {
			slots[i].SurplusMWh = 0
		}
		most += slots[i].MaxMWh
	}
	return slots, rnd.Int64N(most + 3)
}

// cheapest is the cost of filling unit by unit, the cheapest first: the primal optimum by exchange argument.
func cheapest(slots []sched.Slot, need int64) (cost int64) {
	var units []int64
	for _, s := range slots {
		p, err := sched.Make([]sched.Slot{s}, s.MaxMWh) // a full slot holds all its segments
		if err != nil {
			panic(err)
		}
		res, grid := p.Shares[0].Res, p.Shares[0].Grid
		feed, price := s.FeedIn, s.Grid
		if feed > price && res > 0 && grid > 0 {
			mean := price + ((feed-price)*res+s.MaxMWh-1)/s.MaxMWh
			feed, price = mean, mean
		}
		for range res {
			units = append(units, feed)
		}
		for range grid {
			units = append(units, price)
		}
	}
	slices.Sort(units)
	for _, u := range units[:min(need, int64(len(units)))] {
		cost += u
	}
	return cost
}

func costOf(slots []sched.Slot, p sched.Plan) (cost int64) {
	for i, s := range slots {
		res, grid := min(s.SurplusMWh, s.MaxMWh), s.MaxMWh-min(s.SurplusMWh, s.MaxMWh)
		feed, price := s.FeedIn, s.Grid
		if feed > price && res > 0 && grid > 0 {
			mean := price + ((feed-price)*res+s.MaxMWh-1)/s.MaxMWh
			feed, price = mean, mean
		}
		cost += p.Shares[i].Res*feed + p.Shares[i].Grid*price
	}
	return cost
}

// dual is need x lambda less what cheaper segments save: equal to the primal cost at the optimum, never above it.
func dual(slots []sched.Slot, p sched.Plan, need int64) int64 {
	d := (need - p.Short) * p.Lambda
	for i, s := range slots {
		full := sched.Plan{Shares: make([]sched.Share, len(slots))}
		full.Shares[i] = sched.Share{Res: min(s.SurplusMWh, s.MaxMWh), Grid: s.MaxMWh - min(s.SurplusMWh, s.MaxMWh)}
		one := func(share sched.Share) int64 {
			q := sched.Plan{Shares: make([]sched.Share, len(slots))}
			q.Shares[i] = share
			return min(0, costOf(slots, q)-p.Lambda*(share.Res+share.Grid))
		}
		d += one(sched.Share{Res: full.Shares[i].Res}) + one(sched.Share{Grid: full.Shares[i].Grid})
	}
	return d
}

func TestPlanIsOptimalAndItsCertificateProvesIt(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	n := 100_000
	if testing.Short() {
		n = 10_000
	}
	for range n {
		slots, need := randomSlots(rnd)
		p, err := sched.Make(slots, need)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Check(slots, need); err != nil {
			t.Fatalf("%v: %+v %d %+v", err, slots, need, p)
		}
		primal := costOf(slots, p)
		if best := cheapest(slots, need); primal != best {
			t.Fatalf("cost %d, best %d: %+v %d %+v", primal, best, slots, need, p)
		}
		if d := dual(slots, p, need); d != primal {
			t.Fatalf("primal %d, dual %d: %+v %d %+v", primal, d, slots, need, p)
		}
	}
}

// "False optimisation method": a plan that costs more is never accepted, whatever its author claims.
func TestPlanThatCostsMoreIsRefused(t *testing.T) {
	rnd := rand.New(rand.NewPCG(6, 6))
	refused := 0
	for range 20_000 {
		slots, need := randomSlots(rnd)
		p, err := sched.Make(slots, need)
		if err != nil {
			t.Fatal(err)
		}
		best := costOf(slots, p)
		i, j := rnd.IntN(len(slots)), rnd.IntN(len(slots))
		p.Shares[i].Grid++
		p.Shares[j].Grid--
		p.Lambda += rnd.Int64N(5) - 2
		err = p.Check(slots, need)
		if err == nil && costOf(slots, p) != best {
			t.Fatalf("accepted at %d, best is %d: %+v %d %+v", costOf(slots, p), best, slots, need, p)
		}
		if errors.Is(err, sched.ErrCertificate) {
			refused++
		}
	}
	if refused < 10_000 {
		t.Errorf("only %d of 20000 changed plans were refused", refused)
	}
}

func TestInputOutOfRangeIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		slots []sched.Slot
		need  int64
	}{
		"no slots":        {nil, 1},
		"too many slots":  {make([]sched.Slot, sched.MaxSlots+1), 1},
		"negative need":   {make([]sched.Slot, 1), -1},
		"negative energy": {[]sched.Slot{{MaxMWh: -1}}, 1},
		"absurd price":    {[]sched.Slot{{Grid: 1 << 40}}, 1},
	} {
		if _, err := sched.Make(c.slots, c.need); !errors.Is(err, sched.ErrInput) {
			t.Errorf("%s: got %v, want ErrInput", name, err)
		}
		if err := (sched.Plan{}).Check(c.slots, c.need); !errors.Is(err, sched.ErrInput) {
			t.Errorf("%s: check got %v, want ErrInput", name, err)
		}
	}
}

// BenchmarkPlan96 plans a day of quarter hours and checks the certificate. The days differ, as they do in life: branch
// prediction would otherwise learn the one day by heart, and the yardstick's sort with it.
func BenchmarkPlan96(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 1))
	const days = 1024
	var slots [days][96]sched.Slot
	var prices [days][96]int64
	for d := range slots {
		for i := range slots[d] {
			slots[d][i] = sched.Slot{MaxMWh: 2_750_000, FeedIn: 80_000, Grid: 100_000 + rnd.Int64N(300_000)}
			if i > 36 && i < 60 {
				slots[d][i].SurplusMWh = rnd.Int64N(1_500_000)
			}
			prices[d][i] = slots[d][i].Grid
		}
	}
	const rounds = 10
	start := time.Now()
	for range rounds {
		for _, day := range prices {
			slices.Sort(day[:])
		}
	}
	yard := float64(time.Since(start).Nanoseconds()) / (rounds * days)
	b.ResetTimer()
	for d := 0; b.Loop(); d++ {
		day := slots[d%days][:]
		p, err := sched.Make(day, 40_000_000)
		if err != nil || p.Check(day, 40_000_000) != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/yard, "ratio")
}
