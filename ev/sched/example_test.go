package sched_test

import (
	"fmt"

	"gridveil/ev/sched"
)

func Example() {
	slots := []sched.Slot{
		{MaxMWh: 2_000_000, SurplusMWh: 500_000, FeedIn: 80_000, Grid: 320_000},
		{MaxMWh: 2_000_000, FeedIn: 80_000, Grid: 190_000},
	}
	plan, err := sched.Make(slots, 1_500_000)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(plan.Shares, plan.Lambda, plan.Check(slots, 1_500_000))

	plan.Shares[0].Grid, plan.Shares[1].Grid = 1_000_000, 0 // a dearer plan from elsewhere
	fmt.Println(plan.Check(slots, 1_500_000))
	// Output:
	// [{500000 0} {0 1000000}] 190000 <nil>
	// sched: the plan is not the cheapest one: slot 0
}
