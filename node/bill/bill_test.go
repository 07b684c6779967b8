package bill

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"gridveil/ev/tariff"
	"gridveil/node/model"
	"gridveil/node/vee"
)

const quarter = int64(900_000)

var long = flag.Bool("long", false, "compare 100,000 random calendars with the oracle")

var (
	point  = model.UsagePoint{1}
	monday = time.Date(2024, 3, 4, 0, 0, 0, 0, time.UTC).UnixMilli()
)

func mustCalendar(t testing.TB, s tariff.Spec) *tariff.Calendar {
	t.Helper()
	s.Version, s.Currency = 1, 978
	if s.Zone == "" {
		s.Zone = "UTC"
	}
	c, err := tariff.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func flatDay(rate int64) []tariff.Band {
	return []tariff.Band{{FromMin: 0, ToMin: 1440, Register: tariff.RegisterFlat, Import: rate, Export: 80_000}}
}

// dayNight has a weekend at the night rate.
func dayNight(t testing.TB) *tariff.Calendar {
	t.Helper()
	week := []tariff.Band{
		{FromMin: 0, ToMin: 420, Register: tariff.RegisterNight, Import: 210_000, Export: 80_000},
		{FromMin: 420, ToMin: 1380, Register: tariff.RegisterDay, Import: 320_001, Export: 80_000, AvailableW: 3000},
		{FromMin: 1380, ToMin: 1440, Register: tariff.RegisterNight, Import: 210_000, Export: 80_000},
	}
	rest := []tariff.Band{{FromMin: 0, ToMin: 1440, Register: tariff.RegisterNight, Import: 210_000, Export: 80_000}}
	return mustCalendar(t, tariff.Spec{Days: [4][]tariff.Band{week, rest, rest, rest}})
}

// blocks turns energies per quarter hour from start on into day blocks, with
// the reading that opens the period.
func blocks(ch model.Channel, start, opening int64, energy []int64) []model.IntervalBlock {
	byDay := map[int64]*model.IntervalBlock{}
	add := func(slot, register int64) {
		day := slot - slot%86_400_000
		b := byDay[day]
		if b == nil {
			b = &model.IntervalBlock{UsagePoint: point, Channel: ch, State: model.ReadImportExport, Day: day, Period: 15 * time.Minute}
			byDay[day] = b
		}
		b.Readings = append(b.Readings, model.IntervalReading{Slot: slot, Register: register, Quality: model.QualityRaw, Report: 1})
	}
	add(start-quarter, opening)
	for i, e := range energy {
		opening += e
		add(start+int64(i)*quarter, opening)
	}
	var out []model.IntervalBlock
	for _, b := range byDay {
		out = append(out, *b)
	}
	return out
}

func constant(n int, e int64) []int64 {
	out := make([]int64, n)
	for i := range out {
		out[i] = e
	}
	return out
}

func contract(cal *tariff.Calendar, slots int) Contract {
	return Contract{UsagePoint: point, State: model.ReadImportExport, Calendar: cal, From: monday, To: monday + int64(slots)*quarter}
}

func both(slots int, imp, exp []int64) []model.IntervalBlock {
	return append(blocks(model.ImportTotal, monday, 7_000_000, imp), blocks(model.ExportTotal, monday, 500, exp)...)
}

func summary(b Bill) string {
	s := ""
	for _, l := range b.Lines {
		s += fmt.Sprintf("%v %v %d mWh at %d: %d\n", l.Channel, l.Register, l.Energy, l.Rate, l.Amount)
	}
	return s + fmt.Sprintf("excess %d, total %d", b.ExcessMWh, b.Total)
}

func TestGoldenBills(t *testing.T) {
	week := 7 * 96
	sunny := make([]int64, week)
	for i := range sunny {
		if i%96 >= 40 && i%96 < 60 {
			sunny[i] = 333
		}
	}
	cases := map[string]struct {
		cal      *tariff.Calendar
		imp, exp []int64
		want     string
	}{
		// 672 x 50,001 mWh x 0.25 = 8,400,168 micro
		"flat": {mustCalendar(t, tariff.Spec{Days: [4][]tariff.Band{flatDay(250_000), flatDay(250_000), flatDay(250_000), flatDay(250_000)}}),
			constant(week, 50_001), constant(week, 0),
			"1-0:1.8.0 flat 33600672 mWh at 250000: 8400168\n1-0:2.8.0 flat 0 mWh at 80000: 0\nexcess 0, total 8400168"},
		// day: 5 x 64 slots, night: 5 x 32 + 2 x 96; 320 x 1 kWh x 0.320001, 352 x 1 kWh x 0.21;
		// 1 kWh in 15 min is 4 kW, 250 Wh over the limit of 3 kW
		"day, night and weekend": {dayNight(t), constant(week, 1_000_000), sunny,
			"1-0:1.8.0 day 320000000 mWh at 320001: 102400320\n1-0:1.8.0 night 352000000 mWh at 210000: 73920000\n" +
				"1-0:2.8.0 day 33300 mWh at 80000: -2664\n1-0:2.8.0 night 13320 mWh at 80000: -1066\nexcess 80000000, total 176316590"},
	}
	for name, c := range cases {
		b, err := Compute(contract(c.cal, week), both(week, c.imp, c.exp))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := summary(b); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
		}
		if b.Ends[0].Opening != 7_000_000 || b.Slots != 2*week || b.Estimated != 0 {
			t.Errorf("%s: %+v", name, b)
		}
	}
}

func TestAmountRoundsHalfToEvenOnce(t *testing.T) {
	cases := []struct{ energy, rate, want int64 }{
		{1, 500_000, 0}, {3, 500_000, 2}, {5, 500_000, 2}, {1, 500_001, 1}, {1, 499_999, 0}, {3, -500_000, -2}, {1, -500_001, -1},
		{0, math.MaxInt64, 0}, {1_000_000, math.MaxInt64, math.MaxInt64}, {1e12, 320_000, 320_000_000_000},
	}
	for _, c := range cases {
		if got, err := Amount(c.energy, c.rate); got != c.want || err != nil {
			t.Errorf("%d mWh at %d: got %d, %v, want %d", c.energy, c.rate, got, err, c.want)
		}
	}
	for _, c := range [][2]int64{{math.MaxInt64, math.MaxInt64}, {1_000_001, math.MaxInt64}, {-1, 1}, {math.MaxInt64, math.MinInt64}} {
		if _, err := Amount(c[0], c[1]); !errors.Is(err, ErrOverflow) {
			t.Errorf("%d mWh at %d: %v, want ErrOverflow", c[0], c[1], err)
		}
	}
}

// TestReadingStatesDecideRegisters is requirement A4.
func TestReadingStatesDecideRegisters(t *testing.T) {
	cal := mustCalendar(t, tariff.Spec{Days: [4][]tariff.Band{flatDay(1), flatDay(1), flatDay(1), flatDay(1)}})
	for state, want := range map[model.ReadingState]string{
		model.ReadImport: "1-0:1.8.0", model.ReadExport: "1-0:2.8.0", model.ReadImportExport: "1-0:1.8.01-0:2.8.0", model.ReadDisabled: "",
	} {
		c := contract(cal, 4)
		c.State = state
		b, err := Compute(c, both(4, constant(4, 10), constant(4, 10)))
		got := ""
		for _, l := range b.Lines {
			got += l.Channel.String()
		}
		if got != want || errors.Is(err, ErrDisabled) != (state == model.ReadDisabled) {
			t.Errorf("%v: lines %q, %v", state, got, err)
		}
	}
}

func TestWhatCannotBeBilledIsNamed(t *testing.T) {
	cal := dayNight(t)
	flag := func(bs []model.IntervalBlock, slot int64, change func(*model.IntervalReading)) []model.IntervalBlock {
		for i := range bs {
			for k := range bs[i].Readings {
				if r := &bs[i].Readings[k]; r.Slot == slot && bs[i].Channel == model.ImportTotal {
					change(r)
				}
			}
		}
		return bs
	}
	cut := func(bs []model.IntervalBlock, slot int64) []model.IntervalBlock {
		for i := range bs {
			for k := range bs[i].Readings {
				if bs[i].Readings[k].Slot == slot && bs[i].Channel == model.ImportTotal {
					bs[i].Readings = append(bs[i].Readings[:k:k], bs[i].Readings[k+1:]...)
					break
				}
			}
		}
		return bs
	}
	fresh := func() []model.IntervalBlock { return both(40, constant(40, 10), constant(40, 10)) }
	cases := map[string]struct {
		c      Contract
		blocks []model.IntervalBlock
		want   error
		slot   int64
	}{
		"gap in the middle":    {contract(cal, 40), cut(fresh(), monday+3*quarter), ErrGap, monday + 3*quarter},
		"last slot is missing": {contract(cal, 41), fresh(), ErrGap, monday + 40*quarter},
		"no opening register":  {contract(cal, 40), cut(fresh(), monday-quarter), ErrGap, monday - quarter},
		"nothing at all":       {contract(cal, 40), nil, ErrGap, monday},
		"rejected raw value": {contract(cal, 40), flag(fresh(), monday+quarter, func(r *model.IntervalReading) { r.Flags = uint32(vee.OverLimit) }),
			ErrNotBillable, monday + quarter},
		"register falls":   {contract(cal, 40), flag(fresh(), monday+quarter, func(r *model.IntervalReading) { r.Register = 1 }), ErrNotBillable, monday + quarter},
		"meter swap":       {contract(cal, 40), flag(fresh(), monday+quarter, func(r *model.IntervalReading) { r.Epoch = 1 }), ErrEpoch, monday + quarter},
		"before the start": {contract(mustCalendar(t, tariff.Spec{From: monday + 2*quarter, Days: [4][]tariff.Band{flatDay(1), flatDay(1), flatDay(1), flatDay(1)}}), 40), fresh(), tariff.ErrNoPrice, monday},
	}
	for name, c := range cases {
		_, err := Compute(c.c, c.blocks)
		var at *SlotError
		if !errors.Is(err, c.want) || !errors.As(err, &at) || at.Slot != c.slot {
			t.Errorf("%s: got %v, want %v at %d", name, err, c.want, c.slot)
		}
	}
}

func TestBandEdgeInsideASlotIsRefused(t *testing.T) {
	odd := []tariff.Band{{FromMin: 0, ToMin: 20, Import: 1}, {FromMin: 20, ToMin: 1440, Import: 2}}
	cal := mustCalendar(t, tariff.Spec{Days: [4][]tariff.Band{odd, odd, odd, odd}})
	if _, err := Compute(contract(cal, 4), both(4, constant(4, 1), constant(4, 1))); !errors.Is(err, ErrBandEdge) {
		t.Errorf("got %v, want ErrBandEdge", err)
	}
}

func TestEditsEstimatesAndLateDataAreRevisions(t *testing.T) {
	cal := dayNight(t)
	bs := both(8, constant(8, 1000), constant(8, 0))
	wrong := blocks(model.ImportTotal, monday, 7_000_000, constant(8, 999_999))
	for i := range bs {
		if bs[i].Channel == model.ImportTotal {
			bs[i].Revision = 1
			for k := range bs[i].Readings {
				if k%3 == 1 {
					bs[i].Readings[k].Quality, bs[i].Readings[k].Flags = model.QualityEdited, uint32(vee.OverLimit)
				}
			}
		}
	}
	b, err := Compute(contract(cal, 8), append(wrong, bs...))
	if err != nil || b.Lines[0].Energy != 8000 || b.Estimated == 0 {
		t.Errorf("bill %+v, %v", b, err)
	}
}

func TestMeterSwapNeedsItsStartRegister(t *testing.T) {
	bs := blocks(model.ImportTotal, monday, 7_000_000, constant(8, 1000))
	for i := range bs {
		for k := range bs[i].Readings {
			if r := &bs[i].Readings[k]; r.Slot >= monday+4*quarter {
				r.Epoch, r.Register = 1, 500+(r.Slot-monday)/quarter*100
			}
		}
	}
	c := contract(dayNight(t), 8)
	c.State = model.ReadImport
	c.Starts = []Start{{Channel: model.ImportTotal, Epoch: 1, Register: 800}}
	b, err := Compute(c, bs)
	if err != nil || b.Lines[0].Energy != 4*1000+100+300 {
		t.Errorf("bill %+v, %v", b, err)
	}
}

func TestWithoutConformingTimeTheFlatRateHolds(t *testing.T) {
	bs := both(4, constant(4, 1_000_000), constant(4, 0))
	for i := range bs {
		for k := range bs[i].Readings {
			if r := &bs[i].Readings[k]; r.Slot >= monday+2*quarter {
				r.Status = model.StatusClockUnset
			}
		}
	}
	c := contract(dayNight(t), 4)
	c.State = model.ReadImport
	c.Flat = &Flat{Import: 100_000}
	b, err := Compute(c, bs)
	if err != nil || len(b.Lines) != 2 || b.Total != 2*100_000+2*210_000 || !b.Lines[0].NoClock {
		t.Errorf("bill %+v, %v", b, err)
	}
}

func TestForeignBlockIsRefused(t *testing.T) {
	bs := both(4, constant(4, 1), constant(4, 1))
	bs[0].UsagePoint = model.UsagePoint{9}
	if _, err := Compute(contract(dayNight(t), 4), bs); !errors.Is(err, ErrContract) {
		t.Errorf("got %v, want ErrContract", err)
	}
}

// randomCalendar draws bands on quarter hours, rates and sometimes limits.
func randomCalendar(t *testing.T, rng *rand.Rand) *tariff.Calendar {
	zones := []string{"UTC", "Europe/Rome", "America/New_York", "Australia/Adelaide"}
	day := func() (bands []tariff.Band) {
		for from := 0; from < 1440; {
			to := min(1440, from+15*(1+rng.IntN(40)))
			bands = append(bands, tariff.Band{FromMin: from, ToMin: to, Register: tariff.Register(rng.IntN(3)),
				Import: rng.Int64N(900_000), Export: rng.Int64N(300_000) - 100_000, AvailableW: int64(rng.IntN(2)) * rng.Int64N(9000)})
			from = to
		}
		return bands
	}
	return mustCalendar(t, tariff.Spec{Zone: zones[rng.IntN(len(zones))], Days: [4][]tariff.Band{day(), day(), day(), day()}})
}

// TestRandomCalendarsEqualABigIntegerOracle is F8: every line, the excess and
// the total equal a computation in big integers that knows the calendar only by
// local wall time.
func TestRandomCalendarsEqualABigIntegerOracle(t *testing.T) {
	rounds := 3000
	if testing.Short() {
		rounds = 300
	}
	if *long {
		rounds = 100_000
	}
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 5))
	for range rounds {
		cal := randomCalendar(t, rng)
		slots := 1 + rng.IntN(120)
		imp, exp := make([]int64, slots), make([]int64, slots)
		for i := range imp {
			imp[i], exp[i] = rng.Int64N(3_000_000), rng.Int64N(2)*rng.Int64N(2_000_000)
		}
		b, err := Compute(contract(cal, slots), both(slots, imp, exp))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := oracle(cal, imp, exp, b); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// oracle recomputes a bill from the calendar's public spec.
func oracle(cal *tariff.Calendar, imp, exp []int64, b Bill) error {
	sums := map[string]*big.Int{}
	rates := map[string]int64{}
	excess := int64(0)
	energy := int64(0)
	for i := range imp {
		band := bandAt(cal, monday+int64(i)*quarter)
		add := func(k string, e, rate int64) {
			if sums[k] == nil {
				sums[k] = new(big.Int)
			}
			sums[k].Add(sums[k], big.NewInt(e))
			rates[k] = rate
		}
		add(fmt.Sprint("i", band.Register, band.Import), imp[i], band.Import)
		add(fmt.Sprint("e", band.Register, band.Export), exp[i], band.Export)
		if band.AvailableW > 0 {
			excess += max(0, imp[i]-band.AvailableW*1000/4)
		}
		energy += imp[i] + exp[i]
	}
	total := new(big.Int)
	for k, sum := range sums {
		amount := roundHalfEven(new(big.Int).Mul(sum, big.NewInt(rates[k])), 1_000_000)
		if k[0] == 'e' {
			amount.Neg(amount)
		}
		total.Add(total, amount)
	}
	billed := int64(0)
	for _, l := range b.Lines {
		billed += l.Energy
	}
	moved := int64(0)
	for _, e := range b.Ends {
		moved += e.Closing - e.Opening
	}
	if total.Int64() != b.Total || excess != b.ExcessMWh || len(sums) != len(b.Lines) || billed != energy || moved != energy {
		return fmt.Errorf("total %d want %v, excess %d want %d, %d lines want %d, energy %d and %d want %d",
			b.Total, total, b.ExcessMWh, excess, len(b.Lines), len(sums), billed, moved, energy)
	}
	return nil
}

func bandAt(cal *tariff.Calendar, at int64) tariff.Band {
	s := cal.Spec()
	loc, err := time.LoadLocation(s.Zone)
	if err != nil {
		panic(err)
	}
	local := time.UnixMilli(at).In(loc)
	day := tariff.Weekday
	switch local.Weekday() {
	case time.Saturday:
		day = tariff.Saturday
	case time.Sunday:
		day = tariff.Sunday
	}
	minute := local.Hour()*60 + local.Minute()
	for _, b := range s.Days[day] {
		if minute >= b.FromMin && minute < b.ToMin {
			return b
		}
	}
	panic("calendar without a band")
}

// roundHalfEven divides with big integers only.
func roundHalfEven(n *big.Int, d int64) *big.Int {
	two := big.NewInt(2)
	q, r := new(big.Int).DivMod(n, big.NewInt(d), new(big.Int)) // r >= 0
	switch c := new(big.Int).Mul(r, two).Cmp(big.NewInt(d)); {
	case c > 0, c == 0 && q.Bit(0) == 1:
		q.Add(q, big.NewInt(1))
	}
	return q
}

func BenchmarkBill(b *testing.B) {
	cal := dayNight(b)
	bs := both(30*96, constant(30*96, 12_345), constant(30*96, 0))
	c := contract(cal, 30*96)
	for b.Loop() {
		if _, err := Compute(c, bs); err != nil {
			b.Fatal(err)
		}
	}
}
