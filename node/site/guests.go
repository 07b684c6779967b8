package site

import (
	"gridveil/node/config"
	"gridveil/node/gateway"
	"gridveil/node/web"
)

// GuestsPage is today's link to a house's wallbox and what a guest is asked, or
// why no guest can charge now.
func GuestsPage(ref web.HomeRef, g *gateway.Gateway, h config.Hosting) web.Guests {
	v := web.Guests{Home: ref}
	link, err := g.GuestLink("")
	switch {
	case err != nil:
		v.Closed = "No guest can charge now: " + err.Error() + "."
	case !g.CanHost():
		v.Closed = "No guest can charge yet: this week's passes have not come from the aggregator. They are asked for again every few minutes; there is nothing to do."
	default:
		v.Link, v.Terms = link, guestTerms(h)
	}
	return v
}

// guestTerms says in words what a host's configuration asks of guests.
func guestTerms(h config.Hosting) []web.Pair {
	perKWh := func(micro int64) string { return "EUR " + Rate(micro) + " per kWh" }
	return []web.Pair{
		{Name: "own solar energy", Value: perKWh(h.PRes)},
		{Name: "energy from the grid", Value: perKWh(h.PGrid)},
		{Name: "energy from the car, used here", Value: perKWh(h.POut)},
		{Name: "energy from the car, fed in", Value: perKWh(h.PExport)},
		{Name: "solar energy goes to", Value: map[string]string{"ev-first": "the car first", "home-first": "the house first",
			"pro-rata": "car and house, in proportion to what they draw"}[h.Policy]},
		{Name: "aggregator away", Value: map[string]string{"trust": "guests charge on trust, for " + Money(h.TrustLimit, "EUR") + " at the most",
			"gift": "guests charge for nothing", "refuse": "no guest can start"}[h.OfflineGuest]},
		{Name: "phone away for 5 min", Value: map[string]string{"stop": "charging stops",
			"gift": "charging goes on for nothing", "unattended": "the meter's signature decides, up to the amount that the driver chose"}[h.OnCut]},
	}
}
