package gateway

import (
	"fmt"
	"slices"
	"time"

	"gridveil/node/store"
	"gridveil/privacy/agg"
)

// Neighbourhood is what the zone's node learned of this home's zone, for the
// page: a sum over many homes, and nothing of one.
type Neighbourhood struct {
	Zone     string
	Quantity agg.Quantity
	From     time.Time // and 15 minutes from there
	Homes    int
	MWh      int64
	Floor    int // homes that a sum must have
	// Leader and Helper are the operators that hold one share each.
	Leader, Helper string
	Mine           string // what became of this home's own report
	Text           string
}

// Neighbourhood gives the newest result of each quantity that is summed.
func (g *Gateway) Neighbourhood() ([]Neighbourhood, error) {
	if g.sums == nil {
		return nil, nil
	}
	var out []Neighbourhood
	for _, q := range []agg.Quantity{agg.Import, agg.Export} {
		n, ok, err := g.sums.view(q)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, n)
		}
	}
	return out, nil
}

var (
	sumWords   = map[agg.Quantity]string{agg.Import: "drew from the grid", agg.Export: "fed into the grid"}
	stateWords = []string{"waits to leave", "is on its way", "is in the sum's list", "came too late"}
)

func (s *sums) view(q agg.Quantity) (n Neighbourhood, ok bool, err error) {
	s.mu.Lock()
	r, ok := s.results[q]
	t, known := s.tasks[r.Task]
	s.mu.Unlock()
	if !ok || !known {
		return n, false, nil
	}
	sum, err := r.Signed(s.env.Net, &t)
	if err != nil {
		return n, false, err
	}
	n = Neighbourhood{Zone: s.env.Host.Self().Zone, Quantity: q, From: agg.Begin(r.Interval), Homes: int(r.N), MWh: int64(sum) * int64(t.Unit), Floor: int(t.MinBatch),
		Mine: "was not made"}
	for _, h := range []struct {
		key [32]byte
		to  *string
	}{{t.Leader, &n.Leader}, {t.Helper, &n.Helper}} {
		if m, ok := s.server(h.key); ok {
			*h.to = m.Member.Operator
		}
	}
	err = s.env.Store.View(func(tx *store.Tx) error {
		raw, err := tx.Get(sumSpace(sumReports, u32(r.Interval), t.ID[:]))
		if err != nil {
			return nil // no report of that interval
		}
		rec, err := parseSumRecord(raw)
		if err == nil {
			n.Mine = stateWords[rec.state]
		}
		return err
	})
	n.Text = fmt.Sprintf("Your neighbourhood node learned that %d homes together %s %.3f kWh in the quarter hour from %s. It did not learn yours.",
		n.Homes, sumWords[q], float64(n.MWh)/1e6, n.From.Format("15:04"))
	return n, true, err
}

// SumReports counts this home's reports of the last day by what became of them.
func (g *Gateway) SumReports() (waiting, taken, refused int, err error) {
	if g.sums == nil {
		return 0, 0, 0, nil
	}
	var all []byte
	err = g.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(sumSpace(sumReports), func(_, v []byte) error {
			r, err := parseSumRecord(v)
			all = append(all, r.state)
			return err
		})
	})
	for _, state := range slices.All(all) {
		switch state {
		case sumTaken:
			taken++
		case sumRefused:
			refused++
		default:
			waiting++
		}
	}
	return waiting, taken, refused, err
}
