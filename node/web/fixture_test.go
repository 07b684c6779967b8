package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gridveil/node/monthly"
)

// fixture is a small neighbourhood with every state that a page can show.
type fixture struct {
	empty  bool
	warned bool // of the battery too, above the page
}

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

var deadInverter = Warning{Severity: "problem", Title: "The battery cannot be used", Text: "It does not answer.", Next: "Check that the inverter is on."}

func (f fixture) Meta(context.Context) Meta {
	m := Meta{Title: "Elm Street neighbourhood", Role: "demo", Now: noon, Speed: 240, Banners: []Banner{{"Simulated hardware", "Meters, wallboxes, batteries and roofs on this page are models. Nodes, stores, signatures and the network are real."}}}
	if !f.empty {
		m.Warnings = []Warning{{"problem", "The aggregator cannot be reached", "Sessions start on trust and wait to be settled. Nothing is lost.", "Nothing to do; it is tried again every minute.", noon}}
	}
	if f.warned {
		m.Warnings = append(m.Warnings, deadInverter)
	}
	return m
}

func (f fixture) Overview(context.Context) Overview {
	if f.empty {
		return Overview{Headline: "Waiting for the first reading."}
	}
	o := Overview{Headline: "All is well: 25 homes metered, 2 cars charging, every account sums to 0.",
		Figures: []Figure{{"homes", "Homes metered", "25", "of 25", ""}, {"sessions", "Sessions today", "7", "", "2 refused"}, {"settled", "Settled", "38.20", "EUR", "all final"}, {"onion", "Onion packets", "18 204", "", "0 lost"}},
		Verify:  "gridveil verify demo/export"}
	zones := []string{"elm", "oak", "mill"}
	for z, name := range zones {
		cx := 18 + float64(z)*32
		o.Nodes = append(o.Nodes, Node{ID: "ssn-" + name, Kind: "ssn", Name: name, Label: name, Wide: Place{cx * 10, 350}, Tall: Place{cx * 4.2, 290}, State: "idle", Text: "Substation of " + name})
		for i := range 8 {
			a := math.Pi * (0.1 + 0.8*float64(i)/7)
			id := fmt.Sprintf("home-%d", z*8+i+1)
			n := Node{ID: id, Kind: "home", Name: "Home " + id, Label: id[5:], Wide: Place{cx*10 - 130*math.Cos(a), 372 + 180*math.Sin(a)}, Tall: Place{cx*4.2 - 50*math.Cos(a), 300 + 150*math.Sin(a)}, State: []string{"idle", "charging", "solar", "discharging", "offline", "alarm", "idle", "idle"}[i], Text: "A home"}
			if i%2 == 0 {
				n.Features = []string{"pv", "battery"}
			}
			if i == 1 || i == 3 {
				n.Features = append(n.Features, "evse")
			}
			o.Nodes = append(o.Nodes, n)
			o.Edges = append(o.Edges, Edge{ID: id, From: id, To: "ssn-" + name, Kind: "report", Level: i % 3})
		}
		o.Edges = append(o.Edges, Edge{ID: "up-" + name, From: "ssn-" + name, To: "headend", Kind: "report", Level: 2})
	}
	o.Nodes = append(o.Nodes, Node{ID: "headend", Kind: "headend", Name: "head-end", Label: "head-end", Wide: Place{280, 192}, Tall: Place{120, 130}, Text: "Collects"},
		Node{ID: "uta", Kind: "utility", Name: "utility A", Label: "utility A", Wide: Place{120, 72}, Tall: Place{60, 50}, Text: "Bills the homes"}, Node{ID: "utb", Kind: "utility", Name: "utility B", Label: "utility B", Wide: Place{380, 60}, Tall: Place{200, 50}, Text: "Bills the drivers"},
		Node{ID: "evagg", Kind: "aggregator", Name: "EVAGG", Label: "EVAGG", Wide: Place{680, 132}, Tall: Place{300, 130}, State: "offline", Text: "Settles"}, Node{ID: "watch", Kind: "verifier", Name: "watchdog", Label: "watchdog", Wide: Place{900, 72}, Tall: Place{360, 50}, Text: "Replays"})
	o.Edges = append(o.Edges, Edge{ID: "bill", From: "headend", To: "uta", Kind: "report", Level: -1}, Edge{ID: "cosign", From: "evagg", To: "watch", Kind: "ledger", Level: 3}, Edge{ID: "onion1", From: "ssn-elm", To: "evagg", Kind: "onion", Quiet: true, Level: 2}, Edge{ID: "alarm1", From: "ssn-mill", To: "headend", Kind: "alarm", Level: 4})
	o.Events = []Event{{noon, "session", "A car arrives at home 2", "/sessions/7F3A-92"}, {noon.Add(-time.Minute), "refused", "A forged meter record is refused: signature does not verify", "/sessions/0000-01"}, {noon.Add(-2 * time.Minute), "ledger", "Checkpoint 118 signed by 3 of 3", "/ledger"}}
	return o
}

func (f fixture) Homes(context.Context) []HomeRef {
	return []HomeRef{{"home-1", "Home 1"}, {"home-2", "Home 2"}}
}

func (f fixture) Energy(_ context.Context, home string) (Energy, bool) {
	if home != "home-1" && home != "home-2" {
		return Energy{}, false
	}
	e := Energy{Home: HomeRef{home, "Home"}}
	if f.empty {
		return e, true
	}
	for m := range 720 {
		x := 200 + 80*math.Sin(float64(m)/20)
		if m%97 < 12 {
			x += 1900
		}
		pv := math.Max(0, 4000*math.Sin(float64(m-300)/420*math.Pi))
		e.Times = append(e.Times, noon.Add(time.Duration(m-720)*time.Minute).Unix())
		e.True = append(e.True, x)
		e.Metered = append(e.Metered, 600+100*float64(m/5%4))
		e.PV, e.Battery, e.EV = append(e.PV, pv), append(e.Battery, x-600), append(e.EV, 0)
	}
	e.TrueKWh, e.MeterKWh = 6.21, 6.48
	e.Now = Flows{Load: 2143, Meter: 702, PV: 3120, Battery: 1441, SoCPct: 62}
	e.Masking = Masking{Policy: "veil", BoundBits: 9.3, ExposedMins: 14, Cannot: []string{"Energy: the month's total is exact.", "Peaks above 3 kW."}}
	e.Bill = []BillLine{{"Taken from the grid, day", "4.120 kWh", "0.3200", "EUR 1.32", "1318400"}}
	e.HasBattery, e.HasRoof, e.Hosts = true, true, true
	e.BillTotal = "EUR 1.32"
	return e, true
}

func (f fixture) rows() []SessionRow {
	if f.empty {
		return nil
	}
	return []SessionRow{{ID: "7F3A-92", Begin: noon, Host: "Home 2", State: "paid", Case: "mixed", KWhIn: 7.345, Total: "EUR 1.81"},
		{ID: "0000-01", Begin: noon, Host: "Home 2", Case: "refused", Refused: "meter signature does not verify"}}
}
func (f fixture) Sessions(context.Context) []SessionRow { return f.rows() }
func (f fixture) Session(_ context.Context, id string) (Session, bool) {
	for _, r := range f.rows() {
		if r.ID == id {
			entry := uint64(17)
			return Session{SessionRow: r, End: noon, Entry: &entry, Steps: []Event{{noon, "session", "opened by a wallet", ""}, {noon, "session", "authorised", ""}},
				Intervals: []Interval{{Start: noon, FromPV: .5, FromGrid: .2, Amount: "EUR 0.15"}}, Terms: []Pair{{"solar", "EUR 0.1800 per kWh"}, {"band", "EUR 10"}},
				Payees: []Payee{{"host", "solar energy", "830220.66", "EUR 0.83", "notes"}}, Claims: []monthly.Claim{{For: "energy into the car", Minor: 83, Issue: 17, Proved: true, Verdict: "proved on the ledger"}}, OCMF: []Reading{{`OCMF|{"FV":"1.0"}|{"SD":"00"}`, "signature verifies", true, "a1b2-c3d4"}},
				Parties: []Knows{{"Uta", "nothing", "that a car was there", "no message of the session reaches it"}}}, true
		}
	}
	return Session{}, false
}
func (f fixture) Guests(_ context.Context, home string) (Guests, bool) {
	g := Guests{Home: HomeRef{home, "Home"}, Closed: "No guests can charge here: this home has no wallbox."}
	if !f.empty && home == "home-1" {
		g = Guests{Home: g.Home, Link: "http://192.168.178.20:8480/g/AQEg-wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f", Terms: []Pair{{"energy from the car, used here", "EUR 0.2600 per kWh"}, {"aggregator away", "guests charge on trust, for EUR 10.00 at the most"}}}
	}
	return g, home == "home-1" || home == "home-2"
}
func (f fixture) Ledger(context.Context, uint64) Ledger {
	l := Ledger{Origin: "evagg.example/demo", Quorum: "no verifier yet"}
	if f.empty {
		return l
	}
	older := uint64(10)
	return Ledger{Origin: "evagg.example/demo", Size: 118, CosignedSize: 118, Quorum: "3 of 3 verifiers", Checkpoint: "evagg.example/demo\n118\nabc=\n\n— evagg sig\n", Older: &older,
		Cosigners: []Cosigner{{Name: "northgrid.gridveil/utility-a56ed588", Operator: "northgrid", Size: 118, At: noon, OK: true, Text: "replayed and signed"}}, Balances: []Balance{{"utility B", "owed or owes", "EUR -1.81", "-1.810000"}}, Entries: []EntryRow{{17, "cdr", "evagg", "a session of utility B's customer, sealed", true}}}
}
func (f fixture) Find(_ context.Context, leaf string) (uint64, bool) { return 17, leaf == "00ff00ff" }
func (f fixture) Money(context.Context) Money {
	if f.empty {
		return Money{}
	}
	ended := uint64(90)
	return Money{Known: true, Simulated: true, Keeps: true, Operator: "northgrid", Facts: []Pair{{"the settlement day began", "16 Jun 2026 18:00"}, {"close 5 in EUR is due", "17 Jun 2026 00:00"}},
		Balances: []Balance{{"northgrid", "open", "EUR -1.81", "-1.810000"}, {"northgrid", "due", "EUR 6.40", "6.400000"}},
		Next:     []Payment{{Payer: "southpower", Payee: "northgrid", Amount: "EUR 0.27", Exact: "0.270000"}},
		Payments: []Payment{{Period: 4, No: 1, Payer: "southpower", Payee: "northgrid", Amount: "EUR 6.40", Exact: "6.400000", State: "due", EndToEnd: "GVABCDEFGHIJKLMNOP-1", Close: 110},
			{Period: 3, No: 2, Payer: "southpower", Payee: "evagg", Amount: "EUR 0.40", Exact: "0.400000", State: "due", Overdue: true, EndToEnd: "GVABCDEFGHIJKLMNOQ-2", Close: 80},
			{Period: 2, No: 1, Payer: "southpower", Payee: "evagg", Amount: "EUR 0.40", Exact: "0.400000", State: "failed", EndToEnd: "GVABCDEFGHIJKLMNOR-1", Close: 70, Ended: &ended},
			{Period: 1, No: 1, Payer: "southpower", Payee: "evagg", Amount: "EUR 0.60", Exact: "0.600000", State: "paid", EndToEnd: "GVABCDEFGHIJKLMNOS-1", Close: 60, Ended: &ended}},
		Files: []MoneyFile{{"EUR-4-4.xml", "southpower", 4, 1432}}}
}
func (f fixture) PaymentFile(_ context.Context, name string) ([]byte, bool) {
	return []byte("<Document/>"), name == "EUR-4-4.xml"
}
func (f fixture) Disputes(context.Context) Disputes {
	if f.empty {
		return Disputes{}
	}
	return Disputes{Known: true, Need: 3, Notice: "3 days", Limit: "14 days", Cases: []Dispute{
		{ID: "5d0c5d0c5d0c5d0c5d0c5d0c5d0c5d0c", Kind: "open", Reason: "billing", Requester: "evagg", Utility: "southpower", Sessions: 1, Opened: noon, Notice: noon.Add(72 * time.Hour), Expires: noon.Add(336 * time.Hour),
			Approvals: []string{"watchdog", "towngrid"}, Against: []string{"consumers"}, State: "waits for approvals, 2 of 3", Index: 40, Vote: "may approve or refuse", Statement: "I charged there, and the meter ran too fast."},
		{ID: "77aa77aa77aa77aa77aa77aa77aa77aa", Kind: "hold", Reason: "meter", Requester: "evagg", Utility: "southpower", Sessions: 2, Opened: noon, State: "ended; its sessions are settled", Ended: true, Index: 12}}}
}
func (f fixture) Entry(_ context.Context, i uint64) (Entry, bool) {
	return Entry{EntryRow: EntryRow{i, "cdr", "evagg", "a sealed session", true}, At: noon, Leaf: "00ff", Fields: []Pair{{"ref", "abcd"}}, Raw: "47564531"}, i == 17
}
func (f fixture) Alarms(context.Context) []AlarmRow {
	if f.empty {
		return nil
	}
	return []AlarmRow{{ID: "a1", At: noon, Priority: "P0 at once", Kind: "voltage lost", Device: "meter of home 4", Text: "Phase 1 below 160 V.", DeliveredMs: 412, Class: "alarm"}}
}
func (f fixture) Left(_ context.Context, home string) (Left, bool) {
	l := Left{Home: HomeRef{home, "Home"}, Day: "1 June 2026", Stays: []string{"The true load of any minute."}}
	if !f.empty {
		l.Lines = []LeftLine{{What: "meter report", To: "your utility (northgrid)", As: "3C9A-41", Why: "your meter's registers", Count: 12, Bytes: 18_204, Learns: "contract, registers and day", Bits: 96, Last: noon}}
		about := 9.3
		l.Told = []ToldLine{{"your utility", ToldFigure{Words: "612.4 bits", ModelWords: "about 9.3 by model", Basis: "a code's length", Rests: "the registers' energies of each report's slots, faults and single readings; by the model of the mask, which needs four days", Model: &about},
			ToldFigure{Words: "nothing", Basis: "no field for it", Rests: "no message to it has a field for it"}},
			{"a stranger on your line", ToldFigure{Words: "nothing", Basis: "a test", Rests: "the line carries the same whether you are at home or not", Test: "TestAStrangerOnTheLineCannotTellABusyHomeFromAnIdleOne"},
				ToldFigure{Words: "no figure", Basis: "no figure", Rests: "the network has no cover traffic: who talks when can be seen"}}}
	} else {
		l.NotTold = "The figures need the readings of the last days, and the store did not give them."
	}
	return l, home == "home-1" || home == "home-2"
}
func (f fixture) Mask(ctx context.Context, home string) (Mask, bool) {
	if f.empty || home == "home-2" {
		return Mask{}, true
	}
	e, _ := f.Energy(ctx, home)
	m := Mask{Battery: true, Model: true, Policy: "veil: the meter follows a drawn staircase that hardly depends on the house", Times: e.Times, True: e.True, Metered: e.Metered, Shown: .976, MostW: 3000, CanOrder: true,
		Dial: []DialStop{{"0 private", "9.3 bits a day", "EUR 2.51", "0.42 kWh a day", "0.95 full cycles a day", true}, {"1", "9.7 bits a day", "EUR 2.44", "0.42 kWh a day", "0.95 full cycles a day", false}, {Name: "4 thrifty"}}, DialNote: "Tried out last night.",
		Trouble: []Warning{deadInverter}, DialKnown: true,
		Leaks: []Pair{{"At most", "9.3 bits a day: proven, for a home as the mask takes this one to be"}}, Account: []Pair{{"Exposed", "14 min, 0.31 kWh beyond the mask"}, {"House", "6.21 kWh, car and roof apart"}, {"Meter", "6.48 kWh"}},
		CannotDo: []string{"How much you use in all: the meter counts every watt-hour, 6.48 kWh today, and the bill needs it.", "More than 3.00 kW at once: that is all the battery gives."},
		Commands: []Command{{noon, "you", "take 2000 W", "20 of 31 min, else the grid operator", "0.67 kWh in", "EUR 0.21", false}, {noon.Add(-time.Hour), "grid operator", "at most 0 W of charging from the grid", "11 of 11 min", "0.00 kWh in", "EUR 0.00", true}}}
	if asked.Load() != nil && asked.Load().(BatteryOrder).Do != "release" {
		m.Asked = "your command: the battery rests until 13:00 UTC"
	}
	return m, true
}

// asked is what the fixture's battery was asked for last.
var asked atomic.Value

func (f fixture) OrderBattery(_ context.Context, home string, o BatteryOrder) error {
	if home != "home-1" {
		return errors.New("This home has no battery.")
	}
	asked.Store(o)
	return nil
}

// dialled is the fixture's dial.
var dialled atomic.Int64

func (f fixture) TurnDial(_ context.Context, home string, stop int) error {
	if home != "home-1" {
		return errors.New("This home has no battery.")
	}
	dialled.Store(int64(stop))
	return nil
}

func (f fixture) Party(_ context.Context, id string) (Party, bool) {
	return Party{Node: Node{ID: id, Kind: "utility", Name: "utility A", Text: "Bills the homes"}, Sees: []Pair{{"readings", "metered energy"}}, Never: []string{"That a car was there: no message is addressed to it."}, Recent: []Event{{noon, "node", "a bill", ""}}}, id == "uta"
}
func (f fixture) Members(context.Context) []HomeRef {
	return []HomeRef{{"home-1", "Home 1"}, {"home-2", "Home 2"}, {"ssn-elm", "Elm substation"}, {"home-3", "Home 3"}}
}

// Mesh is a home that waits, one that is switched off, a substation, and one offline.
func (f fixture) Mesh(_ context.Context, id string) (Mesh, bool) {
	m := Mesh{Node: HomeRef{id, "Home"}, Headline: "Private messages wait: 12 homes take part in this network; there must be 20.", Leaf: true}
	switch id {
	case "home-1":
	case "home-2":
		m.Off, m.OffSince, m.Headline = true, noon, "Private messages are switched off. What should leave waits here; metering, alarms and charging go on."
	case "ssn-elm":
		m.Leaf, m.Headline = false, "This node is connected to 2 neighbours and does its part."
	case "home-3":
		return Mesh{Node: m.Node, Offline: true, Headline: "Home 3 is offline: nothing leaves it now."}, true
	default:
		return Mesh{}, false
	}
	if f.empty {
		m.Headline = "Nobody is connected. What should leave waits here."
		return m, true
	}
	m.Peers = []Peer{{"substation", "northgrid", true, noon, 12}, {"substation", "southgrid", true, noon, -1}, {"head-end", "northgrid", false, noon, 140}}
	m.Packets = Packets{Own: 40, Cover: 2840, Relayed: 0, Dropped: 2}
	m.Traffic = MeshTraffic{Up: 7_340_032, Down: 9_437_184, Cap: 30 << 20, Parts: []MeshPart{{"Alarms and urgent news", 2048, 512}, {"Meter reports", 104_000, 0}, {"Private packets and cover", 6_291_456, 6_291_456}}}
	m.Routes = []Pair{{"List of relays", "12 min old; older than 2 h is not used"}, {"Relays", "3, of 3 operators"}, {"First relays (guards)", "2 of 2 connected"}, {"Test packets", "4 % of the last hour's did not come back"}, {"Avoided now", "none"}}
	m.Waiting = []Waiting{{"Charging records for the aggregator", 3, noon}, {"Packets of them that wait for their turn", 2, time.Time{}}}
	if m.Leaf {
		m.Classes = []MeshClass{{"Slow messages", "records, notes, the neighbourhood's sum: minutes", 7.8, 8, 12, 20, false, "12 homes take part in this network; there must be 20.", "Nothing to do here: messages leave as soon as 8 more homes have joined.", "mesh.min_homes = 5 changes nothing: the network asks for 20, and it only raises."},
			{"Quick messages", "a car asks to charge: a second", 7.8, 0, 12, 20, true, "", "", ""}}
		m.Relaying = Relaying{Shown: true, Chosen: !m.Off, On: !m.Off, Packets: 4321, Share: 61}
		m.Decoys = Decoys{Shown: true, On: !m.Off, Sent: 23}
	}
	return m, true
}

// switched is what the fixture was asked to switch last.
var switched atomic.Value

func (f fixture) SwitchMesh(_ context.Context, id string, on bool) error {
	if id != "home-1" {
		return errors.New("This node is offline. Try again when it runs.")
	}
	switched.Store(fmt.Sprint(id, on))
	return nil
}

func (f fixture) Metrics() prometheus.Gatherer {
	if f.empty {
		return nil
	}
	r := prometheus.NewRegistry()
	r.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "gridveil_mesh_rcmgr_blocked_total", Help: "Refused."}))
	return r
}

func (f fixture) Live(context.Context) map[string]string {
	return map[string]string{"headline": "Live headline", "node-home-1-state": "charging", "events": "session\t12:01\tA car leaves home 2\t/sessions/7F3A-92"}
}
func (f fixture) Proof(_ context.Context, w io.Writer, i uint64) error {
	if i != 17 {
		return errors.New("not final")
	}
	_, err := io.WriteString(w, "c2sp.org/tlog-proof@v1\n")
	return err
}
