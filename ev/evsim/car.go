package evsim

// Car is an electric vehicle at the cable. All fields are set by the caller
// before Plug and belong to the wallbox until Unplug.
type Car struct {
	CapacityMWh   int64 // usable battery
	EnergyMWh     int64 // in the battery now
	TargetMWh     int64 // the car stops charging here; zero means CapacityMWh
	ReserveMWh    int64 // the car does not discharge below
	MaxChargeW    int64 // at the plug
	MaxDischargeW int64 // at the plug; zero: the car cannot discharge
	// LossPermille is lost between plug and battery, in each direction.
	LossPermille int64
}

// charge says how much of offered watts the car takes over ms milliseconds.
func (c *Car) charge(offered, ms int64) int64 {
	w := min(offered, c.MaxChargeW)
	room := c.target() - c.EnergyMWh
	if room <= 0 || w <= 0 {
		return 0
	}
	full := room * 1000 / (1000 - c.loss()) // mWh at the plug
	return min(w, full*msPerHour/(ms*1000))
}

// discharge says how much of wanted watts the car gives over ms milliseconds.
func (c *Car) discharge(wanted, ms int64) int64 {
	w := min(wanted, c.MaxDischargeW)
	left := c.EnergyMWh - c.ReserveMWh
	if left <= 0 || w <= 0 {
		return 0
	}
	have := left * (1000 - c.loss()) / 1000
	return min(w, have*msPerHour/(ms*1000))
}

// move books energy at the plug, positive into the car.
func (c *Car) move(mwh int64) {
	if mwh >= 0 {
		c.EnergyMWh += mwh * (1000 - c.loss()) / 1000
		return
	}
	c.EnergyMWh += mwh * 1000 / (1000 - c.loss())
	c.EnergyMWh = max(0, c.EnergyMWh)
}

func (c *Car) target() int64 {
	if c.TargetMWh > 0 {
		return min(c.TargetMWh, c.CapacityMWh)
	}
	return c.CapacityMWh
}

// loss is LossPermille kept where the arithmetic holds.
func (c *Car) loss() int64 { return min(max(c.LossPermille, 0), 500) }

func (c *Car) permille() int64 {
	if c.CapacityMWh <= 0 {
		return 0
	}
	return c.EnergyMWh * 1000 / c.CapacityMWh
}
