package battery

import "math"

// Watts is power; see the package comment for its signs.
type Watts float64

// WattHours is energy.
type WattHours float64

// Milli is the energy in mWh, rounded half away from zero.
func (e WattHours) Milli() int64 { return int64(math.Round(float64(e) * 1000)) }
