package signal_test

import (
	"fmt"

	"gridveil/ev/signal"
)

// An authentic control that asks for more than the owner offered is refused by name.
func ExamplePlausible() {
	own := signal.Own{Now: 1_700_000_000_000, ClockSure: true, EnvelopeLo: 0, EnvelopeHi: 7_000}
	c := &signal.Control{From: own.Now, To: own.Now + 900_000, SetW: 11_000}
	v := signal.Plausible(c, own)
	fmt.Println(v.OK(), v.Reason)
	c.SetW = 5_000
	fmt.Println(signal.Plausible(c, own).OK())
	// Output:
	// false outside the offered envelope
	// true
}
