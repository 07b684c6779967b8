package pool_test

import (
	"fmt"

	"gridveil/ev/pool"
)

// The operator buys 9 kW; three cars share it, and what they earn.
func Example() {
	parts, shortfall, err := pool.Dispatch(9_000, []pool.Member{
		{CapW: 2_000, Weight: pool.WeightOf(11_000, 1000)},
		{CapW: 11_000, Weight: pool.WeightOf(11_000, 1000)},
		{CapW: 11_000, Weight: pool.WeightOf(11_000, 500)}})
	fmt.Println(parts, shortfall, err)

	lines := []pool.Line{
		{DeliveredMWh: 5_200_000, Availability: 1000},
		{DeliveredMWh: 3_100_000, Availability: 950},
		{DeliveredMWh: 4_700_000, Availability: 800}}
	paid, kept, err := pool.Pay(lines, 10_000_000, 125, 10_000)
	fmt.Println(lines[0].PaidMicro, lines[1].PaidMicro, lines[2].PaidMicro, paid, kept, err)
	// Output:
	// [2000 4667 2333] 0 <nil>
	// 3820000 2170000 2760000 8750000 1250000 <nil>
}
