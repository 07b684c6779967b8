package signal

import (
	"encoding/hex"
	"slices"
	"time"

	"gridveil/ev"
	grid "gridveil/ev/signal"
)

// Price is the price of one stretch of time.
type Price struct {
	From, To    time.Time
	MicroPerKWh int64
	Critical    bool // an announced critical peak
}

// Limit is what the operator of the grid allows this home now.
type Limit struct {
	ImportMaxW, ExportMaxW int64 // Unlimited means no limit that way
	State                  grid.State
	Until                  time.Time
	By                     string // role of the strictest publisher
}

// Set is the power that the aggregator asks of one session now.
type Set struct {
	W           int64 // charging positive
	Lo, Hi      int64 // the envelope that the owner offered
	From, Until time.Time
	Instruction [32]byte
}

// Signals is what holds at one instant. Its zero value says that nobody outside
// wants anything: the home's default plan.
type Signals struct {
	At     time.Time
	Prices []Price // from At on, by time, without overlap
	Limit  *Limit  // nil: nothing that still holds
	Sets   map[[32]byte]Set
}

// PriceAt gives the signalled price at t; ok is false where none holds, and then
// the household's own tariff counts.
func (s Signals) PriceAt(t time.Time) (micro int64, ok bool) {
	for _, p := range s.Prices {
		if !t.Before(p.From) && t.Before(p.To) {
			return p.MicroPerKWh, true
		}
	}
	return 0, false
}

// Fill enters what holds into rows 2 and 4 of ev.Resolve for the session open.
// Rows 1 and 3, wiring and owner, are the home's own and always win.
func (s Signals) Fill(d *ev.Demand, open [32]byte) {
	if l := s.Limit; l != nil {
		d.HasGridLimit, d.GridLimitW, d.GridExportW, d.Par14a = true, l.ImportMaxW, l.ExportMaxW, true
	}
	if c, ok := s.Sets[open]; ok {
		d.HasControl, d.ControlW, d.EnvelopeLo, d.EnvelopeHi = true, c.W, c.Lo, c.Hi
	}
}

// Signals gives what holds at now.
func (b *Book) Signals(now time.Time) Signals {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Signals{At: now, Prices: b.prices(now), Limit: b.limit(now), Sets: b.sets(now)}
}

// prices cuts what is known into stretches of one price. Where a critical peak
// stands, it counts; of two vectors the newer one.
func (b *Book) prices(now time.Time) []Price {
	var known []*held
	var edges []int64
	at := now.UnixMilli()
	for _, h := range b.held {
		p, ok := h.body.(*grid.Price)
		if !ok || !b.current(h, now) {
			continue
		}
		known = append(known, h)
		for i := range len(p.Prices) + 1 {
			if t := p.From + int64(i*p.StepS)*1000; t > at {
				edges = append(edges, t)
			}
		}
	}
	slices.SortFunc(known, func(a, b *held) int { return a.before(b) })
	slices.Sort(edges)
	var out []Price
	for _, to := range slices.Compact(edges) {
		if micro, critical, ok := priceAt(known, at); ok {
			if n := len(out); n > 0 && out[n-1].MicroPerKWh == micro && out[n-1].Critical == critical && out[n-1].To.UnixMilli() == at {
				out[n-1].To = utc(to)
			} else {
				out = append(out, Price{utc(at), utc(to), micro, critical})
			}
		}
		at = to
	}
	return out
}

// priceAt asks vectors in the order of [held.before]; the last one that covers t
// counts.
func priceAt(known []*held, t int64) (micro int64, critical, ok bool) {
	for _, h := range known {
		p := h.body.(*grid.Price)
		if i := (t - p.From) / (int64(p.StepS) * 1000); t >= p.From && i < int64(len(p.Prices)) {
			micro, critical, ok = p.Prices[i], p.Kind == grid.CriticalPeak, true
		}
	}
	return micro, critical, ok
}

// limit is the strictest of what substation and grid operator say.
func (b *Book) limit(now time.Time) *Limit {
	var l *Limit
	at := now.UnixMilli()
	for _, h := range b.held {
		n, ok := h.body.(*grid.NetState)
		if !ok || !b.current(h, now) || at < n.From || at >= n.To {
			continue
		}
		if l == nil {
			l = &Limit{ImportMaxW: Unlimited, ExportMaxW: Unlimited, Until: utc(n.To), By: h.By}
		}
		if n.ImportMaxW < l.ImportMaxW || n.ExportMaxW < l.ExportMaxW {
			l.By = h.By
		}
		l.ImportMaxW, l.ExportMaxW = min(l.ImportMaxW, n.ImportMaxW), min(l.ExportMaxW, n.ExportMaxW)
		l.State = max(l.State, n.State)
		if until := utc(n.To); until.Before(l.Until) {
			l.Until = until
		}
	}
	return l
}

func (b *Book) sets(now time.Time) map[[32]byte]Set {
	out := map[[32]byte]Set{}
	at := now.UnixMilli()
	for open, l := range b.lines {
		if l.Set != nil && at >= l.Set.From && at < l.Set.To {
			out[open] = Set{W: l.Set.W, Lo: l.Set.Lo, Hi: l.Set.Hi, From: utc(l.Set.From), Until: utc(l.Set.To), Instruction: l.Set.Instruction}
		}
	}
	return out
}

func utc(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// Event is one signal that was judged, for the page.
type Event struct {
	At       time.Time `json:"at"`
	Kind     string    `json:"kind"` // price, netstate, control
	Accepted bool      `json:"accepted"`
	Reason   string    `json:"reason,omitempty"` // why it was refused
	Text     string    `json:"text"`             // what it asked for
	Hash     string    `json:"hash"`             // H(signal), of the whole register
}

// History lists the newest judged signals, newest first.
func (b *Book) History() []Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Event
	for _, r := range b.history {
		out = append(out, Event{At: utc(r.At), Kind: r.Kind, Accepted: r.Reason == grid.None, Reason: reasonText(r.Reason), Text: r.Text, Hash: hex.EncodeToString(r.Hash[:])})
	}
	slices.Reverse(out)
	return out
}

func reasonText(r grid.Reason) string {
	if r == grid.None {
		return ""
	}
	return r.String()
}

// Refusals lists the signals that were not followed, oldest first, in the form
// that a session's host signs.
func (b *Book) Refusals() []grid.Refusal {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []grid.Refusal
	for _, r := range b.history {
		if r.Reason != grid.None {
			out = append(out, grid.Refusal{Signal: r.Hash, Reason: r.Reason, At: r.At})
		}
	}
	return out
}
