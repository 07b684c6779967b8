package site

import (
	"fmt"
	"time"

	"gridveil/node/bill"
	"gridveil/node/config"
	"gridveil/node/gateway"
	"gridveil/node/web"
)

// House is what a house has: the pages' sentences depend on it.
type House struct {
	BatteryWh, BatteryW int // usable capacity and power; zero without battery
	Roof, Hosts         bool
	Simulated           bool
	ReadPeriod          time.Duration
	ReportPeriod        time.Duration
}

// HouseOf reads a house from its configuration.
func HouseOf(c *config.Config) House {
	h := House{BatteryWh: c.Battery.CapacityWh, Roof: c.PV.PeakW > 0, Hosts: c.Hosts(), Simulated: c.Meter.Source != "p1",
		ReadPeriod: c.Meter.ReadPeriod.D(), ReportPeriod: c.Meter.ReportPeriod.D()}
	if h.BatteryWh > 0 {
		h.BatteryW = c.Battery.PowerW
	}
	return h
}

// EnergyPage is the load page of the house around g, without its bill.
func EnergyPage(ref web.HomeRef, h House, g *gateway.Gateway, now time.Time) web.Energy {
	e := web.Energy{Home: ref, Simulated: h.Simulated, HasBattery: h.BatteryWh > 0, HasRoof: h.Roof, Hosts: h.Hosts}
	minutes := g.Curve(now.Add(-24 * time.Hour))
	midnight := now.UTC().Truncate(24 * time.Hour)
	var day Day
	for i, m := range minutes {
		e.Times = append(e.Times, m.At.Unix())
		e.True, e.Metered = append(e.True, m.Load), append(e.Metered, m.Meter)
		e.PV, e.Battery, e.EV = append(e.PV, m.PV), append(e.Battery, m.Battery), append(e.EV, m.Car)
		if !m.At.Before(midnight) {
			day.add(m, length(minutes, i))
		}
	}
	e.TrueKWh, e.MeterKWh, e.ExportKWh = day.TrueWh/1000, day.MeterWh/1000, day.ExportWh/1000
	e.Now = Flows(h, g)
	if r, ok := g.Mask(); ok {
		e.Masking = web.Masking{Policy: policyWords(r.Policy), BoundBits: r.BoundBits, ExposedMins: r.ExposedMins, Reason: r.Reason}
	}
	e.Masking.Cannot = CannotHide(h, day)
	return e
}

// Flows are the present powers of a house.
func Flows(h House, g *gateway.Gateway) web.Flows {
	m, inv, ok := g.Now()
	if !ok {
		return web.Flows{}
	}
	f := web.Flows{Load: m.Load, Meter: m.Meter, PV: m.PV, Battery: m.Battery, EV: m.Car}
	if h.BatteryWh > 0 {
		f.SoCPct = float64(inv.Stored) / float64(h.BatteryWh) * 100
	}
	return f
}

// Day is what a house's own curve says of a day so far.
type Day struct {
	TrueWh, MeterWh, ExportWh float64
	PeakW                     float64 // highest load without car
	CarPeakW                  float64
	SunWh                     float64
}

// length is how long minute i of a curve stands: until the next, a gap counts
// as one minute.
func length(all []gateway.Minute, i int) time.Duration {
	if i+1 < len(all) {
		if d := all[i+1].At.Sub(all[i].At); d > 0 && d < 5*time.Minute {
			return d
		}
	}
	return time.Minute
}

func (d *Day) add(m gateway.Minute, dt time.Duration) {
	h := dt.Hours()
	d.TrueWh += m.Load * h
	d.MeterWh += max(m.Meter, 0) * h
	d.ExportWh += max(-m.Meter, 0) * h
	d.SunWh += m.PV * h
	d.PeakW = max(d.PeakW, m.Load)
	d.CarPeakW = max(d.CarPeakW, m.Car, -m.Car)
}

// policyWords explains a masking policy in a few words, with its name.
func policyWords(policy string) string {
	words := map[string]string{
		"veil": "veil: the meter follows a drawn staircase that hardly depends on the house", "hold": "hold: the meter stays where it is as long as it can",
		"ls2": "ls2: the meter shows whole multiples of the battery's power", "lkm": "lkm: the meter follows a learned random chain", "none": "none: the meter shows the house",
	}
	if w, ok := words[policy]; ok {
		return w
	}
	return policy
}

// CannotHide says what this battery cannot hide, with the home's own figures.
func CannotHide(h House, d Day) []string {
	if h.BatteryWh == 0 {
		return nil
	}
	power, capacity := float64(h.BatteryW), float64(h.BatteryWh)
	out := []string{fmt.Sprintf("How much you use in all: the meter counts every watt-hour, %.2f kWh today, and the bill needs it.", d.MeterWh/1000)}
	peak := fmt.Sprintf("More than %s at once: that is all the battery gives.", Watts(power))
	if d.PeakW > power {
		peak += fmt.Sprintf(" Today the house asked for up to %s.", Watts(d.PeakW))
	} else if d.PeakW > 0 {
		peak += fmt.Sprintf(" Today's highest load was %s, within its reach.", Watts(d.PeakW))
	}
	out = append(out, peak)
	hours := time.Duration(capacity / 2000 * float64(time.Hour)).Round(time.Minute)
	out = append(out, fmt.Sprintf("Long heavy use: a full battery of %.1f kWh carries 2 kW for %s, then the meter has to follow.", capacity/1000, Span(hours)))
	if h.Hosts {
		out = append(out, carSentence(power, d), visitSentence(capacity))
	}
	out = append(out, "What is faster than the inverter: for a second to ten an edge shows to somebody who reads this meter's own port, not in the values that are reported.",
		"That a mask runs: everybody may know it. Twice the capacity would leave about a quarter of what still leaks.")
	if h.Roof {
		out = append(out, fmt.Sprintf("The sun: %.1f kWh came from the roof today; what is fed into the grid shows the weather.", d.SunWh/1000))
	}
	return out
}

func carSentence(power float64, d Day) string {
	s := "That a car charges: an 11 kW wallbox draws several times what the battery gives"
	if d.CarPeakW > power {
		return s + fmt.Sprintf("; today it drew up to %s. Whose car it was, nobody sees.", Watts(d.CarPeakW))
	}
	return s + ". Whose car it is, nobody sees."
}

// usualVisit is the energy of a typical evening's charge, Wh: the median of
// recorded sessions at homes.
const usualVisit = 12_200

// visitSentence sets one car's charge against the battery.
func visitSentence(capacity float64) string {
	if capacity < usualVisit {
		return fmt.Sprintf("That a car came at all: a usual evening's charge of 12.2 kWh is %.1f times this battery, so it shows whatever the mask does.", usualVisit/capacity)
	}
	return fmt.Sprintf("That a car came, in part: a usual evening's charge of 12.2 kWh is %.0f %% of this battery, so it shows in some nights and not in others.", 100*usualVisit/capacity)
}

// Bill adds what the utility computed to the page of a home.
func Bill(e *web.Energy, b bill.Bill) {
	for _, l := range b.Lines {
		e.Bill = append(e.Bill, web.BillLine{Text: lineText(l), Energy: Energy(l.Energy), Rate: Rate(l.Rate), Amount: Money(l.Amount, Euro), Exact: fmt.Sprint(l.Amount)})
	}
	for _, r := range b.Ends {
		e.BillEnds = append(e.BillEnds, web.Pair{Name: channelText(r.Channel.IsExport()), Value: Energy(r.Opening) + " to " + Energy(r.Closing)})
	}
	e.BillPeriod = period(b.From, b.To)
	e.BillTotal = Money(b.Total, Euro)
	e.BillNote = Plural(b.Slots, "signed reading", "signed readings") + ", none estimated."
	if b.Estimated > 0 {
		e.BillNote = fmt.Sprintf("%s, %d of them estimated.", Plural(b.Slots, "reading", "readings"), b.Estimated)
	}
}

func lineText(l bill.Line) string {
	s := channelText(l.Channel.IsExport())
	if l.Register.String() != "flat" {
		s += ", " + l.Register.String()
	}
	if l.Critical {
		s += ", critical peak"
	}
	if l.NoClock {
		s += ", at the flat rate for lack of a sure time"
	}
	return s
}

func channelText(export bool) string {
	if export {
		return "Fed into the grid"
	}
	return "Taken from the grid"
}

func period(from, to int64) string {
	a, b := time.UnixMilli(from).UTC(), time.UnixMilli(to).UTC()
	if a.Truncate(24 * time.Hour).Equal(b.Truncate(24 * time.Hour)) {
		return a.Format("2 Jan 15:04") + " to " + b.Format("15:04")
	}
	return a.Format("2 Jan 15:04") + " to " + b.Format("2 Jan 15:04")
}
