package gateway

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"gridveil/node/evidence"
	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/store"
)

// evidenceKept is how long a home keeps what proves its own reports: a year's bill,
// and a month to object to it.
const evidenceKept = 400 * 24 * time.Hour

// ownPoint is the usage point of the house's meter, as the order in force names it;
// zero while there is none.
func (m *metering) ownPoint() (up model.UsagePoint) {
	if o := m.currentOrder(); o != nil {
		if e, ok := o.Roster.Find(ordinal); ok {
			up = e.UsagePoint
		}
	}
	return up
}

// keepEvidence keeps what proves a report that the head-end has, under a name that
// no order changes.
func (m *metering) keepEvidence(tx *store.Tx, h report.Header, b report.Body) error {
	return evidence.Keep(tx, model.UsagePoint{}, h, b, ordinal)
}

func (m *metering) forgetEvidence(tx *store.Tx, now time.Time) (int, error) {
	return evidence.Forget(tx, model.UsagePoint{}, now.Add(-evidenceKept), forgetBatch)
}

// Evidence collects what proves the house's own reports that overlap from..to, as far
// as the head-end has acknowledged them. Its error says why there is none.
func (g *Gateway) Evidence(from, to time.Time) (out evidence.Reported, err error) {
	m := g.metered
	if m == nil {
		return out, errors.New("this home has no meter\nnext: set meter.source in gridveil.toml; then start the node again")
	}
	up := m.ownPoint()
	out = evidence.Reported{Key: m.self, Chain: m.env.Host.Chain(), UsagePoint: up[:]}
	err = m.env.Store.View(func(tx *store.Tx) error {
		out.Reports, _, err = evidence.Collect(tx, model.UsagePoint{}, report.SourceOf(m.self), from, to)
		return err
	})
	return out, err
}

// proofCommands are what `gridveil meter evidence` asks a running gateway.
func (g *Gateway) proofCommands() {
	g.env.Control.Handle("meter-evidence", func(_ context.Context, in json.RawMessage) (any, error) {
		var q evidence.Query
		if err := json.Unmarshal(in, &q); err != nil {
			return nil, errors.New("want {usage_point, from, to}")
		}
		r, err := g.Evidence(q.From, q.To)
		if err == nil && !strings.HasPrefix(hex.EncodeToString(r.UsagePoint), q.UsagePoint) {
			return nil, errors.New("this home's meter has another usage point\nnext: leave the usage point out")
		}
		return r, err
	})
}
