package battery

import "time"

// Session is a car that is plugged in: how much it needs, until when, and what the
// wallbox can give it. It is what ev knows, for simulations; in a house ev decides.
type Session struct {
	Start, End time.Time
	Need       WattHours
	Max, Step  Watts
}

// leastMargin is the time before a departure in which nothing may be left open.
const leastMargin = 10 * time.Minute

// Feasible tells whether the car can be full when it leaves.
func (s Session) Feasible() bool {
	return s.Need <= WattHours(float64(s.Max)*(s.End.Sub(s.Start)-leastMargin).Hours())
}

// State is the plan and the slack at a time, when left is still needed: even charging
// until the departure, any power between, and full power without slack as soon as only
// that will do.
func (s Session) State(now time.Time, dt time.Duration, left WattHours) EVState {
	until := s.End.Sub(now)
	if now.Before(s.Start) || until <= 0 || left <= 0 {
		return EVState{Plugged: !now.Before(s.Start) && until > 0}
	}
	most := min(s.Max, Watts(float64(left)/dt.Hours()))
	if until <= leastMargin+dt || float64(left) >= float64(s.Max)*(until-leastMargin-dt).Hours() {
		return EVState{Plugged: true, Plan: most, Lo: most, Hi: most, Step: s.Step}
	}
	plan := min(most, Watts(float64(left)/until.Hours()))
	return EVState{Plugged: true, Plan: plan, Hi: most, Step: s.Step}
}
