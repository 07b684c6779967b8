package ev_test

import (
	"fmt"

	"gridveil/ev"
)

// A session of 2 kWh: half of it while the sun shone.
func ExampleNewBill() {
	fee := ev.FeeSheet{Currency: 978, PerKWhIn: 15_000, PerKWhOut: 15_000}
	sheet, err := fee.Hash()
	if err != nil {
		fmt.Println(err)
		return
	}
	deal := ev.Deal{Terms: ev.Terms{Policy: ev.EVFirst, Price: ev.PerSource, PExport: 80_000, FeeSheet: sheet},
		Grid: 320_000, Res: 180_000, Out: 260_000, Fee: fee, Minor: ev.MinorEUR}
	series := ev.Series{
		PV:     []ev.Mark{{At: 0}, {At: 300_000, MWh: 1_000_000}, {At: 600_000, MWh: 1_000_000}},
		Import: []ev.Mark{{At: 0}, {At: 300_000, MWh: 0}, {At: 600_000, MWh: 1_000_000}},
		EVIn:   []ev.Mark{{At: 0}, {At: 300_000, MWh: 998_000}, {At: 600_000, MWh: 1_996_000}},
	}
	intervals, err := ev.Align(series, 0, 600_000, 300_000)
	if err != nil {
		fmt.Println(err)
		return
	}
	const signed, step = 2_000_000, 1_000 // from ocmf.Check
	bill, err := ev.NewBill(intervals, signed, 0, step, deal, &ev.Lots{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("roof %d, grid %d mWh\n", bill.Energy.Res, bill.Energy.Grid)
	fmt.Printf("host %d, fee %d, total %d\n", bill.Shares.Host, bill.Shares.Fee, bill.Shares.Total)
	// Output:
	// roof 1000000, grid 1000000 mWh
	// host 500000, fee 30000, total 530000
}
