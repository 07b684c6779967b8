package mix

import (
	"io"
	"time"
)

// DecoyMean is the mean time between two decoys of a leaf: four a day.
const DecoyMean = 24 * time.Hour / 4

// Decoys is a leaf's Poisson schedule of decoy bursts of class session. Like Slots it depends on nothing that the leaf
// has to say. The zero value has no decoy before Start.
type Decoys struct{ slots Slots }

// Start draws the first decoy after now.
func (d *Decoys) Start(now time.Time, rnd io.Reader) error { return d.slots.Start(now, DecoyMean, rnd) }

// Next is the time of the coming decoy.
func (d *Decoys) Next() time.Time { return d.slots.Next() }

// Take reports whether a decoy has come by now, and draws the one after now: several that a sleeping machine has missed
// are one, because so many bursts at its start would be its own mark.
func (d *Decoys) Take(now time.Time, rnd io.Reader) (bool, error) {
	if next := d.slots.Next(); next.IsZero() || now.Before(next) {
		return false, nil
	}
	return true, d.Start(now, rnd)
}
