package session_test

import (
	"fmt"

	"gridveil/privacy/internal/world"
	"gridveil/privacy/session"
)

// A guest charges 7.345 kWh at a stranger's house and everybody gets what is
// theirs: the host its earnings, the aggregator its fee, the driver's utility a
// bill line without a place.
func Example() {
	w, err := world.New(world.Config{Seed: "example", Drivers: 1, Homes: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := w.Session(world.Plan{Energy: session.Energy{Grid: 2_732_663, Res: 4_612_337}})
	if err != nil {
		fmt.Println(err)
		return
	}
	bill, err := w.Bill()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("session is", r.Host.Phase())
	fmt.Println("host earns", r.Host.Due(session.PartyHost))
	fmt.Println("utility bills", bill["utb0"].Pay, "for", bill["utb0"].Energy, "mWh")
	// Output:
	// session is done
	// host earns 1700000
	// utility bills 1810000 for 7300000 mWh
}
