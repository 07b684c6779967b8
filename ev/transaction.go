package ev

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"

	"gridveil/ev/internal/decimal"
)

// EventKind is what an OCPP message tells about a transaction.
type EventKind uint8

// The kinds of events.
const (
	Started EventKind = iota + 1 // StartTransaction, TransactionEvent Started
	Updated                      // TransactionEvent Updated
	Ended                        // StopTransaction, TransactionEvent Ended
	Values                       // MeterValues, also before the start and after the end
	Status                       // StatusNotification: of the connector, not of a transaction
)

// Sample is one sampled value as the station sent it; Fold does the arithmetic.
type Sample struct {
	At         int64  // UTC ms; zero means the time of the event
	Value      string // decimal text
	Measurand  string // empty means Energy.Active.Import.Register
	Context    string // "Transaction.Begin", "Sample.Periodic", ...
	Unit       string // empty means Wh, or the measurand's own unit
	Phase      string // empty means all phases
	Location   string // empty means Outlet
	Multiplier int    // OCPP 2.0.1: value x 10^Multiplier
}

// Event is one message of a station about one transaction, in the words common to OCPP 1.6 and 2.0.1.
type Event struct {
	Kind            EventKind
	At              int64  // time that the station gave, UTC ms
	Seq             int    // seqNo; zero where the protocol has none. It orders events of one At, nothing else
	Received        int64  // time of arrival, UTC ms; moves no bill
	Station         string // OCPP identity of the wallbox
	EVSE, Connector int
	TransactionID   string
	IDToken         string // the session's code, or what else started the transaction
	State           string // chargingState or connector status, verbatim
	Reason          string // triggerReason or stop reason, verbatim
	Offline         bool   // the station says that it was offline
	Samples         []Sample
	Raw             []byte // message payload as received, without RPC envelope: two events with equal bytes are one
}

// Reading is what an unsigned sample set says about one instant. The Has fields tell a missing value from zero.
type Reading struct {
	At                                     int64
	ImportMWh, ExportMWh                   int64 // registers
	PowerW                                 int64 // import minus export: charging is positive
	SoCPermille                            int64 // as the car claims; never used for money
	HasImport, HasExport, HasPower, HasSoC bool
}

// Transaction is everything that a set of events says about one OCPP transaction.
type Transaction struct {
	ID, Station        string
	EVSE, Connector    int
	IDToken            string
	HasStarted         bool
	StartedAt, EndedAt int64 // station time, UTC ms
	HasEnded           bool
	StopReason         string
	State              string    // the newest charging state
	Readings           []Reading // sorted by time, one per instant
	Signed             [][]byte  // OCMF texts, verbatim, distinct, in the order of the events that held them
	Events             int       // distinct events
	EndReceived        int64     // first arrival of Ended, zero before; not part of any bill
	Offline            bool      // some event was kept while the station was offline
}

// Fold makes one Transaction of a set of events, all of one transaction. It never fails and depends on the set only:
// order, repetition and time of arrival do not matter. Events with equal Raw are one. What cannot be read is left
// out: samples that are no numbers, of other measurands, of single phases where the sum is given too.
//
// Ended closes nothing: an Updated that arrives or is numbered after it still counts. Signed records are searched in
// all text of all events, see FindOCMF. Status events are ignored. Source: doc/design.md, OCPP.
func Fold(evs []Event) Transaction {
	evs = distinct(evs)
	var t Transaction
	points := map[int64]*point{}
	seen := map[[32]byte]bool{}
	for i := range evs {
		e := &evs[i]
		t.note(e)
		for _, s := range e.Samples {
			addSample(points, e, s)
		}
		for _, text := range FindOCMF(e.Raw) {
			if h := sha256.Sum256(text); !seen[h] {
				seen[h] = true
				t.Signed = append(t.Signed, text)
			}
		}
	}
	t.Readings = readings(points)
	return t
}

// distinct returns the set of events in their one order: by time, sequence number, then hash.
func distinct(evs []Event) []Event {
	type keyed struct {
		Event
		hash [32]byte
	}
	list := make([]keyed, 0, len(evs))
	for _, e := range evs {
		if e.Kind != Status {
			list = append(list, keyed{e, e.hash()})
		}
	}
	slices.SortFunc(list, func(a, b keyed) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Seq, b.Seq), bytes.Compare(a.hash[:], b.hash[:]),
			cmp.Compare(a.Received, b.Received))
	})
	out := make([]Event, 0, len(list))
	seen := make(map[[32]byte]bool, len(list))
	for _, k := range list {
		if !seen[k.hash] {
			seen[k.hash] = true
			out = append(out, k.Event)
		}
	}
	return out
}

// hash names the event by its bytes; an event made without bytes is named by its fields.
func (e Event) hash() [32]byte {
	if len(e.Raw) > 0 {
		return sha256.Sum256(append([]byte{byte(e.Kind)}, e.Raw...))
	}
	e.Received = 0
	b, err := json.Marshal(e)
	if err != nil {
		panic("ev: an Event has only plain fields: " + err.Error())
	}
	return sha256.Sum256(b)
}

// note takes over what one event says besides its samples. Earlier events win for identities, later for states.
func (t *Transaction) note(e *Event) {
	t.Events++
	t.ID, t.Station = cmp.Or(t.ID, e.TransactionID), cmp.Or(t.Station, e.Station)
	t.EVSE, t.Connector = cmp.Or(t.EVSE, e.EVSE), cmp.Or(t.Connector, e.Connector)
	t.IDToken = cmp.Or(t.IDToken, e.IDToken)
	t.Offline = t.Offline || e.Offline
	if e.State != "" {
		t.State = e.State
	}
	switch e.Kind {
	case Started:
		if !t.HasStarted {
			t.HasStarted, t.StartedAt = true, e.At
		}
	case Ended:
		t.HasEnded, t.EndedAt = true, e.At
		t.StopReason = cmp.Or(e.Reason, t.StopReason)
		if t.EndReceived == 0 || e.Received < t.EndReceived {
			t.EndReceived = e.Received
		}
	}
}

// point collects the samples of one instant: value of all phases, or the phases apart.
type point struct {
	total map[string]int64
	phase map[string]map[string]int64
}

const (
	importRegister = "Energy.Active.Import.Register"
	exportRegister = "Energy.Active.Export.Register"
	importPower    = "Power.Active.Import"
	exportPower    = "Power.Active.Export"
	stateOfCharge  = "SoC"
)

// scales say how many decimal digits a unit has above ours: mWh, W, permille.
var scales = map[string]map[string]int{
	importRegister: {"": 3, "Wh": 3, "kWh": 6},
	exportRegister: {"": 3, "Wh": 3, "kWh": 6},
	importPower:    {"": 0, "W": 0, "kW": 3},
	exportPower:    {"": 0, "W": 0, "kW": 3},
	stateOfCharge:  {"": 1, "Percent": 1, "%": 1},
}

func addSample(points map[int64]*point, e *Event, s Sample) {
	measurand := cmp.Or(s.Measurand, importRegister)
	scale, known := scales[measurand][s.Unit]
	if !known || s.Location != "" && s.Location != "Outlet" && measurand != stateOfCharge {
		return
	}
	if s.Multiplier < -12 || s.Multiplier > 12 {
		return
	}
	v, err := decimal.Floor(s.Value, scale+s.Multiplier)
	if err != nil || v > maxMWh || v < -maxMWh {
		return
	}
	at := cmp.Or(s.At, e.At)
	p := points[at]
	if p == nil {
		p = &point{total: map[string]int64{}, phase: map[string]map[string]int64{}}
		points[at] = p
	}
	p.set(measurand, strings.TrimSuffix(s.Phase, "-N"), v)
}

// set keeps the largest of contradicting values of one instant: registers only rise.
func (p *point) set(measurand, phase string, v int64) {
	into := p.total
	if phase != "" {
		if phase != "L1" && phase != "L2" && phase != "L3" {
			return
		}
		into = p.phase[measurand]
		if into == nil {
			into = map[string]int64{}
			p.phase[measurand] = into
		}
		measurand = phase
	}
	if old, ok := into[measurand]; !ok || v > old {
		into[measurand] = v
	}
}

func (p *point) get(measurand string) (sum int64, ok bool) {
	if v, ok := p.total[measurand]; ok {
		return v, true
	}
	for _, v := range p.phase[measurand] {
		sum, ok = sum+v, true
	}
	return sum, ok
}

// readings returns what one event says about its instants.
func (e Event) readings() []Reading {
	points := map[int64]*point{}
	for _, s := range e.Samples {
		addSample(points, &e, s)
	}
	return readings(points)
}

func readings(points map[int64]*point) []Reading {
	out := make([]Reading, 0, len(points))
	for at, p := range points {
		r := Reading{At: at}
		r.ImportMWh, r.HasImport = p.get(importRegister)
		r.ExportMWh, r.HasExport = p.get(exportRegister)
		in, hasIn := p.get(importPower)
		exp, hasOut := p.get(exportPower)
		r.PowerW, r.HasPower = in-exp, hasIn || hasOut
		r.SoCPermille, r.HasSoC = p.get(stateOfCharge)
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Reading) int { return cmp.Compare(a.At, b.At) })
	return out
}

// Limits of what is kept of one transaction.
const (
	MaxEvents     = 20_000
	MaxEventBytes = 8 << 20
)

// Thin drops samples between interval marks, step ms apart, once a transaction exceeds MaxEvents or MaxEventBytes.
// Started, Ended and every event that holds a signed record stay, and of the others the first at or after each
// mark. The rest of the set decides alone what stays, so that thinning twice, or in parts, changes no bill.
func Thin(evs []Event, step int64) []Event {
	size := 0
	for _, e := range evs {
		size += len(e.Raw)
	}
	if len(evs) <= MaxEvents && size <= MaxEventBytes || step <= 0 {
		return evs
	}
	var out []Event
	last := int64(-1)
	for _, e := range distinct(evs) {
		mark := e.At / step
		switch {
		case e.Kind == Started || e.Kind == Ended || bytes.Contains(e.Raw, []byte("OCMF")) || len(FindOCMF(e.Raw)) > 0:
			out = append(out, e)
		case mark != last:
			last = mark
			out = append(out, e)
		}
	}
	return out
}

// Times of the end of a transaction. Source: doc/design.md, OCPP.
const (
	settleAfterEnd    = 5_000   // ms after Ended once begin and end records are there
	settleAfterDry    = 60_000  // ms after the station's queue ran dry
	settleAtTheLatest = 600_000 // ms after Ended, whatever the station does
)

// ClosesAt returns the time from which no more events of the transaction are awaited, zero while it has not ended.
// complete says that signed begin and end records are there; dryAt is when the station's queue last ran dry, zero if
// it has not since Ended.
func (t Transaction) ClosesAt(complete bool, dryAt int64) int64 {
	switch {
	case !t.HasEnded:
		return 0
	case complete:
		return t.EndReceived + settleAfterEnd
	case dryAt != 0:
		return min(dryAt+settleAfterDry, t.EndReceived+settleAtTheLatest)
	}
	return t.EndReceived + settleAtTheLatest
}
