package battery

import "time"

// EVState is the plugged-in car as ev sees it for this step: its plan, and the
// slack within which the mask may move it.
type EVState struct {
	Plugged            bool
	Plan, Lo, Hi, Step Watts // Step zero: any power from Lo to Hi
	// Drawn is what the car draws now, where it needs a while to follow what it is
	// asked to: until then the battery acts on what flows. Nil: it follows at once.
	Drawn *Watts
}

// Obs is what a policy may see: the present and the past, never the future.
type Obs struct {
	Time       time.Time
	Dt         time.Duration
	Load       Watts // house without car, minus PV; negative when the roof gives more
	PrevMeter  Watts // mean meter power of the last step
	PrevEV     Watts // mean car power of the last step
	MinMeter   Watts // least and greatest meter power that the battery can reach now;
	MaxMeter   Watts // filled in by the Governor
	E          WattHours
	EV         EVState
	Price      float64       // currency per kWh
	Stale      time.Duration // age of the newest reading
	Commanded  *Watts        // battery power that operator, aggregator or owner asks for
	PrevActual Watts         // battery power measured over the last step
	Grid       *GridLimit    // what the operator of the grid allows the battery now
}

// drawn is what the car draws in this step, when it is asked to draw asked.
func (o *Obs) drawn(asked Watts) Watts {
	if o.EV.Drawn == nil {
		return asked
	}
	return *o.EV.Drawn
}

// Policy chooses the meter power to aim at. It may keep state.
type Policy interface {
	Name() string
	Target(Obs) Watts
}

// None leaves the load as it is.
type None struct{}

// Name is "none".
func (None) Name() string { return "none" }

// Target is the load itself.
func (None) Target(o Obs) Watts { return o.Load + o.EV.Plan }

// Hold repeats the last meter value as long as it can (Kalogridis 2010).
type Hold struct{ started bool }

// Name is "hold".
func (*Hold) Name() string { return "hold" }

// Target is the last meter power without the car, plus the car's plan.
func (h *Hold) Target(o Obs) Watts {
	if !h.started {
		h.started = true
		return o.Load + o.EV.Plan
	}
	return o.PrevMeter - o.PrevEV + o.EV.Plan
}
