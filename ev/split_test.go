package ev_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"gridveil/ev"
	"gridveil/ev/tariff"
)

// exampleDeal is the example of the design: prices in millionths of EUR per kWh, a fee of 15_000 per kWh.
func exampleDeal(t testing.TB, direct bool) ev.Deal {
	t.Helper()
	fee := ev.FeeSheet{Currency: 978, PerKWhIn: 15_000, PerKWhOut: 15_000}
	h, err := fee.Hash()
	if err != nil {
		t.Fatal(err)
	}
	return ev.Deal{Terms: ev.Terms{Price: ev.PerSource, PExport: 80_000, FeeSheet: h}, Grid: 320_000, Res: 180_000,
		Out: 260_000, Direct: direct, Fee: fee, Minor: ev.MinorEUR}
}

func TestWhoPaysWhomInTheFiveCases(t *testing.T) {
	in, out := int64(7_345_000), int64(5_200_000)
	for _, c := range []struct {
		name   string
		flow   ev.Flow
		direct bool
		want   ev.Shares
	}{
		{"1 roof only", ev.Flow{Res: in}, false, ev.Shares{Host: 1_320_000, Fee: 110_000, Total: 1_430_000}},
		{"2 grid only, host is reimbursed", ev.Flow{Grid: in}, false, ev.Shares{Host: 2_350_000, Fee: 110_000, Total: 2_460_000}},
		{"2d grid only, direct", ev.Flow{Grid: in}, true, ev.Shares{Grid: 2_350_000, Fee: 110_000, Total: 2_460_000}},
		{"3 mixed", ev.Flow{Res: 4_612_337, Grid: 2_732_663}, false, ev.Shares{Host: 1_700_000, Fee: 110_000, Total: 1_810_000}},
		{"3d mixed, direct", ev.Flow{Res: 4_612_337, Grid: 2_732_663}, true,
			ev.Shares{Host: 830_000, Grid: 870_000, Fee: 110_000, Total: 1_810_000}},
		{"4 discharge into the house", ev.Flow{Home: out}, false,
			ev.Shares{HostOwes: 1_350_000, Driver: 1_350_000, Fee: 70_000, Total: 70_000}},
		{"5 discharge into the grid", ev.Flow{Export: out}, false,
			ev.Shares{HostOwes: 410_000, Driver: 410_000, Fee: 70_000, Total: 70_000}},
		{"5d discharge into the grid, direct", ev.Flow{Export: out}, true,
			ev.Shares{Driver: 410_000, Grid: -410_000, Fee: 70_000, Total: 70_000}},
		{"earnings and debts of a host are netted first", ev.Flow{Res: in, Home: out}, false,
			ev.Shares{HostOwes: 20_000, Driver: 20_000, Fee: 180_000, Total: 180_000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ev.Split([]ev.Flow{c.flow}, exampleDeal(t, c.direct))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("shares (-want +got):\n%s", d)
			}
			if !got.Balanced() {
				t.Errorf("%+v does not balance", got)
			}
		})
	}
}

// Every payee's exact claim is rounded down once, so cutting a session into other intervals moves no cent.
func TestSplitConservesMoneyAndIgnoresHowIntervalsAreCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := exampleDeal(nilTB{}, rapid.Bool().Draw(t, "direct"))
		price := rapid.Map(rapid.Int64Range(0, 400), func(n int64) int64 { return n * ev.PriceStep })
		d.Grid, d.Res, d.Out = price.Draw(t, "grid"), price.Draw(t, "res"), price.Draw(t, "out")
		d.Terms.PExport = price.Draw(t, "export")
		energy := rapid.Int64Range(0, 50_000_000)
		whole := ev.Flow{Res: energy.Draw(t, "r"), Grid: energy.Draw(t, "g"), Home: energy.Draw(t, "h"), Export: energy.Draw(t, "x")}
		a := ev.Flow{Res: whole.Res / 3, Grid: whole.Grid / 2, Home: whole.Home / 5, Export: whole.Export}
		b := ev.Flow{Res: whole.Res - a.Res, Grid: whole.Grid - a.Grid, Home: whole.Home - a.Home}
		one, err := ev.Split([]ev.Flow{whole}, d)
		if err != nil {
			t.Fatal(err)
		}
		two, err := ev.Split([]ev.Flow{b, a}, d)
		if err != nil {
			t.Fatal(err)
		}
		if one != two {
			t.Fatalf("one interval %+v, two intervals %+v", one, two)
		}
		if !one.Balanced() || one.Host > 0 && one.HostOwes > 0 {
			t.Fatalf("%+v does not balance or is not netted", one)
		}
		for _, v := range []int64{one.Host, one.HostOwes, one.Driver, one.Fee, one.Total, max(one.Grid, -one.Grid)} {
			if v < 0 || v%ev.MinorEUR != 0 {
				t.Fatalf("%+v holds a broken cent", one)
			}
		}
	})
}

// nilTB lets helpers for testing.TB run inside rapid; a failure there is a bug of the test.
type nilTB struct{ testing.TB }

func (nilTB) Helper()           {}
func (nilTB) Fatal(args ...any) { panic(args) }

func TestDealsThatDoNotHoldTogetherAreRefused(t *testing.T) {
	for name, change := range map[string]func(*ev.Deal){
		"odd price that marks a host":      func(d *ev.Deal) { d.Grid = 320_001 },
		"price beyond 32 bits":             func(d *ev.Deal) { d.Res = 1 << 33 },
		"negative price":                   func(d *ev.Deal) { d.Out = -5000 },
		"another fee sheet":                func(d *ev.Deal) { d.Fee.PerKWhIn++ },
		"single price that is not single":  func(d *ev.Deal) { d.Terms.Price = ev.SinglePrice },
		"calendar prices without calendar": func(d *ev.Deal) { d.Terms.Price = ev.CalendarPrice; d.Terms.Calendar = [32]byte{1} },
		"flat amount in a metered session": func(d *ev.Deal) { d.Terms.Flat = 10_000 },
		"no minor unit":                    func(d *ev.Deal) { d.Minor = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			d := exampleDeal(t, false)
			change(&d)
			if _, err := ev.Split(nil, d); !errors.Is(err, ev.ErrTerms) {
				t.Errorf("got %v, want ErrTerms", err)
			}
		})
	}
}

func TestFlatSessionCostsItsAmountWhateverFlowed(t *testing.T) {
	d := exampleDeal(t, false)
	d.Fee.PerSession = 250_000
	d.Terms.FeeSheet, _ = d.Fee.Hash()
	d.Terms.Kind, d.Terms.Flat = ev.FlatFee, 5_000_000
	got, err := ev.Split([]ev.Flow{{Grid: 99_000_000}}, d)
	if err != nil {
		t.Fatal(err)
	}
	if want := (ev.Shares{Host: 5_000_000, Fee: 250_000, Total: 5_250_000}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestCalendarPricesFollowTheSignedCalendarOnly(t *testing.T) {
	cal, err := tariff.DayNight(978, "Europe/Rome", 480, 1200, 300_000, 200_000, 90_000, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := exampleDeal(t, false)
	d.Terms.Price, d.Terms.Calendar, d.Calendar = ev.CalendarPrice, cal.Hash(), cal
	noon := int64(1_718_100_000_000) // Tuesday 2024-06-11 12:00 in Rome
	got, err := ev.Split([]ev.Flow{{From: noon, To: noon + 1, Grid: 1_000_000}, {From: noon + 12*3_600_000, To: noon + 12*3_600_000 + 1, Grid: 1_000_000}}, d)
	if err != nil {
		t.Fatal(err)
	}
	if got.Host != 500_000 {
		t.Errorf("a kWh by day and one by night: got %d, want 500000", got.Host)
	}
	later, _ := tariff.DayNight(978, "Europe/Rome", 480, 1200, 990_000, 990_000, 0, nil)
	d.Calendar = later
	if _, err := ev.Split(nil, d); !errors.Is(err, ev.ErrTerms) {
		t.Errorf("a later calendar: got %v, want ErrTerms", err)
	}
}

func TestDriverAcceptsOnlySharesThatFollowFromEnergyAndPrices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := exampleDeal(nilTB{}, rapid.Bool().Draw(t, "direct"))
		d.Out = rapid.SampledFrom([]int64{80_000, 260_000, 40_000}).Draw(t, "out")
		energy := rapid.Int64Range(0, 20_000_000)
		f := ev.Flow{Res: energy.Draw(t, "r"), Grid: energy.Draw(t, "g"), Home: energy.Draw(t, "h"), Export: energy.Draw(t, "x")}
		band := rapid.SampledFrom([]int64{1_000_000, 10_000_000, 80_000_000}).Draw(t, "band")
		s, err := ev.Split([]ev.Flow{f}, d)
		if err != nil {
			t.Fatal(err)
		}
		s = s.Cap(band, 40_000_000)
		e := ev.Energy{Grid: f.Grid, Res: f.Res, Out: f.Home + f.Export}
		if err := ev.CheckShares(e, s, d, band, 40_000_000); err != nil {
			t.Fatalf("honest shares %+v: %v", s, err)
		}
		bad := s
		bad.Fee += ev.MinorEUR
		bad.Total += ev.MinorEUR
		if err := ev.CheckShares(e, bad, d, band, 40_000_000); !errors.Is(err, ev.ErrShares) {
			t.Fatalf("a fee one cent too high: got %v, want ErrShares", err)
		}
	})
}

func TestCapTakesFromTheHostBeforeItsUtility(t *testing.T) {
	s := ev.Shares{Host: 300_000, Grid: 900_000, Fee: 100_000, Total: 1_300_000}
	got := s.Cap(800_000, 0)
	if want := (ev.Shares{Grid: 700_000, Fee: 100_000, Total: 800_000}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
