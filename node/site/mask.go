package site

import (
	"errors"
	"fmt"
	"time"

	"gridveil/battery"
	"gridveil/node/gateway"
	"gridveil/node/web"
)

// pageCommands is how many commands the page lists.
const pageCommands = 12

// MaskPage is how well the battery of the house around g hides its load.
func MaskPage(h House, g *gateway.Gateway, now time.Time) web.Mask {
	s, ok := g.BatteryStatus()
	if !ok {
		return web.Mask{}
	}
	m := web.Mask{Battery: true, Model: s.Simulated, Policy: policyWords(s.Policy), Reason: s.Report.Reason, Shown: shown(s.Report), MostW: h.BatteryW, CanOrder: true}
	minutes := g.Curve(now.Add(-24 * time.Hour))
	midnight := now.UTC().Truncate(24 * time.Hour)
	var day Day
	for i, x := range minutes {
		m.Times, m.True, m.Metered = append(m.Times, x.At.Unix()), append(m.True, x.Load), append(m.Metered, x.Meter)
		if !x.At.Before(midnight) {
			day.add(x, length(minutes, i))
		}
	}
	m.Dial, m.DialNote = dial(s)
	m.DialKnown = s.Insight != nil
	for _, x := range s.Trouble {
		m.Trouble = append(m.Trouble, web.Warning{Title: x.Title, Text: x.Text, Next: x.Next})
	}
	m.Leaks, m.Account, m.CannotDo = leaks(s), account(s), CannotHide(h, day)
	for _, l := range s.Log[:min(pageCommands, len(s.Log))] {
		m.Commands = append(m.Commands, command(l))
	}
	if s.Ordered != nil && s.Until != nil {
		m.Asked = fmt.Sprintf("your command: the battery %s until %s UTC", BatteryWords(*s.Ordered), s.Until.UTC().Format("15:04"))
	}
	return m
}

// shown is the share of the account's time in which the meter showed the mask;
// negative before there is a block of it.
func shown(r gateway.MaskReport) float64 {
	if r.Mins < battery.Block.Minutes() {
		return -1
	}
	return max(0, 1-r.ExposedMins/r.Mins)
}

func leaks(s gateway.BatteryStatus) []web.Pair {
	r := s.Report
	if r.BoundBits <= 0 {
		return []web.Pair{{Name: "At most", Value: "nothing is proven of this policy"}}
	}
	out := []web.Pair{{Name: "At most", Value: fmt.Sprintf("%.1f bits a day: proven, for a home as the mask takes this one to be", r.BoundBits)}}
	if s.Insight == nil {
		return append(out, web.Pair{Name: "Measured", Value: "after four days: first the mask has to get to know this home"})
	}
	l := s.Insight.Leak
	out = append(out, web.Pair{Name: "Measured", Value: fmt.Sprintf("%.1f ± %.1f bits a day, last night, on a finer model of this home", l.Masked, l.Err)},
		web.Pair{Name: "Floor line", Value: fmt.Sprintf("%.1f bits a day: no battery of this size can do better on days like yours, were they independent", l.Floor)})
	if l.Doubtful {
		out = append(out, web.Pair{Name: "Doubt", Value: "what was measured is below the floor line, so the model does not fit this home: do not rely on it"})
	}
	return append(out, web.Pair{Name: "Exposed", Value: fmt.Sprintf("%.0f bits today, in %s", r.ExposedBits, Plural(r.ExposedSpans, "interval", "intervals"))})
}

// stopNames are the positions of the dial.
var stopNames = [battery.Stops]string{"0 private", "1", "2", "3", "4 thrifty"}

// dial says what each position means for this home.
func dial(s gateway.BatteryStatus) (out []web.DialStop, note string) {
	for i, name := range stopNames {
		d := web.DialStop{Name: name, Chosen: i == s.Dial}
		if in := s.Insight; in != nil && i < len(in.Stops) {
			x := in.Stops[i]
			d.Bits, d.Money = fmt.Sprintf("%.1f bits a day", x.Bits), Money(int64(x.Cost*microPerUnit), Euro)
			d.Loss, d.Cycle = fmt.Sprintf("%.2f kWh a day", x.Loss/1000), fmt.Sprintf("%.2f full cycles a day", x.Cycles)
		}
		out = append(out, d)
	}
	switch {
	case s.Policy != "veil":
		note = "The dial is one of the policy veil; this mask has none."
	case s.Insight == nil:
		note = "What each stop means is known after four days of this home's own demand; a choice counts from then."
	case s.Insight.Flat:
		note = "Your price is the same all day, so a thriftier mask saves nothing: every stop is the private one."
	default:
		note = "Tried out last night on this home's own newest days with your prices. The shape that prices give the meter is the same for everybody and tells nothing about you; no price raises the bound above 2.5 times that of stop 0."
	}
	return out, note
}

func account(s gateway.BatteryStatus) []web.Pair {
	r := s.Report
	out := []web.Pair{{Name: "Exposed", Value: fmt.Sprintf("%.0f min, %.2f kWh beyond the mask", r.ExposedMins, r.ExposedWh/1000)}}
	if r.CommandedMins > 0 {
		out = append(out, web.Pair{Name: "Under a command", Value: fmt.Sprintf("%.0f min of them", r.CommandedMins)})
	}
	if r.StaleMins > 0 {
		out = append(out, web.Pair{Name: "Without a reading", Value: fmt.Sprintf("%.0f min of them", r.StaleMins)})
	}
	out = append(out, web.Pair{Name: "House", Value: fmt.Sprintf("%.2f kWh, car and roof apart", r.LoadWh/1000)}, web.Pair{Name: "Meter", Value: fmt.Sprintf("%.2f kWh", r.MeterWh/1000)})
	if c := s.Car; c != nil {
		out = append(out, web.Pair{Name: "Car", Value: carWords(*c)})
	}
	return out
}

// carWords says how a charging car helped the mask, and why it does not now.
func carWords(c gateway.MaskedCar) string {
	words := "did not have to help the battery in the last 24 hours"
	if c.Times > 0 {
		words = fmt.Sprintf("helped the battery %s, %.0f min, in the last 24 hours", Plural(c.Times, "time", "times"), c.Mins)
	}
	if c.Alone != "" {
		words += "; now left alone: " + c.Alone
	}
	return words
}

func command(l gateway.OrderLine) web.Command {
	c := web.Command{From: l.From, By: l.By, Asked: l.Asked(), Over: l.Over, Decided: fmt.Sprintf("%.0f of %.0f min", l.Decided, l.Minutes), Price: Money(int64(l.Cost*microPerUnit), Euro)}
	if l.Winner != "" {
		c.Decided += ", else the " + l.Winner
	}
	switch {
	case l.InWh >= 1 && l.OutWh >= 1:
		c.Energy = fmt.Sprintf("%.2f kWh in, %.2f kWh out", l.InWh/1000, l.OutWh/1000)
	case l.OutWh >= 1:
		c.Energy = fmt.Sprintf("%.2f kWh out", l.OutWh/1000)
	default:
		c.Energy = fmt.Sprintf("%.2f kWh in", l.InWh/1000)
	}
	return c
}

// OrderBattery has the battery of g do what its owner asks.
func OrderBattery(g *gateway.Gateway, now time.Time, o web.BatteryOrder) error {
	w := battery.Watts(o.W)
	switch o.Do {
	case "release":
		return g.Release()
	case "discharge":
	case "charge":
		w = -w
	case "stop":
		w = 0
	default:
		return errors.New("A battery charges, discharges or rests.")
	}
	if o.Do != "stop" && o.W <= 0 {
		return errors.New("The power must be above 0 W; to let the battery rest there is a button.")
	}
	return g.Order(w, now.Add(o.For))
}
