package utility

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"gridveil/ev/tariff"
	"gridveil/mesh/member"
	"gridveil/node/metering"
	"gridveil/node/model"
	"gridveil/node/store"
)

// Plan names a household tariff.
type Plan string

// Plans that this utility offers.
const (
	PlanFlat     Plan = "flat"
	PlanDayNight Plan = "day-night"
)

// Contract is a household's: which gateway, which usage point, which plan. A name
// and an address belong to the utility's customer system, not here.
type Contract struct {
	Gateway    member.Key         `json:"gateway"`
	UsagePoint model.UsagePoint   `json:"usage_point"`
	Plan       Plan               `json:"plan"`
	State      model.ReadingState `json:"state"`
	Masked     bool               `json:"masked"`
	LimitW     int64              `json:"limit_w"`
	ReadS      int64              `json:"read_period_s"`
	ReportS    int64              `json:"report_period_s"`
	From       int64              `json:"from"` // UTC ms
	Placed     bool               `json:"placed"`
}

// Tariffs of the two plans, millionths of EUR per kWh.
const (
	currencyEUR   = 978
	flatRate      = 320_000
	dayRate       = 360_000
	nightRate     = 240_000
	feedInRate    = 100_000
	dayFromMinute = 6 * 60
	dayToMinute   = 22 * 60
	zoneName      = "Europe/Berlin"
)

// calendar of a plan.
func (p Plan) calendar() (*tariff.Calendar, error) {
	switch p {
	case PlanFlat:
		return tariff.Flat(currencyEUR, zoneName, flatRate, feedInRate)
	case PlanDayNight:
		return tariff.DayNight(currencyEUR, zoneName, dayFromMinute, dayToMinute, dayRate, nightRate, feedInRate, nil)
	}
	return nil, fmt.Errorf("unknown plan %q: want %s or %s", p, PlanFlat, PlanDayNight)
}

func (c Contract) reference() metering.Reference {
	return metering.Reference{Gateway: c.Gateway, UsagePoint: c.UsagePoint, State: c.State, Masked: c.Masked, LimitMW: c.LimitW * 1000,
		ReadPeriod: time.Duration(c.ReadS) * time.Second, ReportPeriod: time.Duration(c.ReportS) * time.Second}
}

// NewContract is what opens a contract for a gateway; zero values mean 15 min,
// 1 h, 17 250 W, import and export, flat.
type NewContract struct {
	Gateway      member.Key
	Plan         Plan
	Masked       bool
	LimitW       int64
	Read, Report time.Duration
}

// Open makes a contract durable and sends it to the head-end. A gateway that has
// one keeps its usage point; the other terms are replaced.
func (u *Utility) Open(n NewContract) (Contract, error) {
	if n.Plan == "" {
		n.Plan = PlanFlat
	}
	if _, err := n.Plan.calendar(); err != nil {
		return Contract{}, err
	}
	or := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	or(&n.Read, 15*time.Minute)
	or(&n.Report, time.Hour)
	if n.LimitW == 0 {
		n.LimitW = 17_250
	}
	if model.CheckPeriod(n.Read) != nil || n.Report < n.Read || n.Report%n.Read != 0 {
		return Contract{}, fmt.Errorf("read period %v and report period %v: the first divides a day, the second is a multiple of it", n.Read, n.Report)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	c := Contract{Gateway: n.Gateway, Plan: n.Plan, State: model.ReadImportExport, Masked: n.Masked, LimitW: n.LimitW,
		ReadS: int64(n.Read / time.Second), ReportS: int64(n.Report / time.Second), From: u.env.Clock.Now().UnixMilli()}
	if held := u.contracts[n.Gateway]; held != nil {
		c.UsagePoint, c.From = held.UsagePoint, held.From
	} else if _, err := io.ReadFull(u.env.Rand, c.UsagePoint[:]); err != nil {
		return Contract{}, fmt.Errorf("draw usage point: %w", err)
	}
	if err := u.save(&c); err != nil {
		return Contract{}, err
	}
	select {
	case u.placed <- struct{}{}:
	default: // already poked
	}
	return c, nil
}

// save keeps a contract. The caller holds mu.
func (u *Utility) save(c *Contract) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := u.env.Store.Set(store.SpaceOrder.Key([]byte("contract"), c.Gateway[:]), b); err != nil {
		return fmt.Errorf("keep contract: %w", err)
	}
	u.contracts[c.Gateway], u.byPoint[c.UsagePoint] = c, c
	return nil
}

func (u *Utility) loadContracts() error {
	return u.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceOrder.Key([]byte("contract")), func(_, v []byte) error {
			c := new(Contract)
			if err := json.Unmarshal(v, c); err != nil {
				return fmt.Errorf("stored contract: %w", err)
			}
			u.contracts[c.Gateway], u.byPoint[c.UsagePoint] = c, c
			return nil
		})
	})
}

// Contracts lists all contracts, by usage point.
func (u *Utility) Contracts() []Contract {
	u.mu.Lock()
	defer u.mu.Unlock()
	var out []Contract
	for _, c := range u.contracts {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Contract) int { return slices.Compare(a.UsagePoint[:], b.UsagePoint[:]) })
	return out
}

func (u *Utility) unplaced() []Contract {
	var out []Contract
	for _, c := range u.Contracts() {
		if !c.Placed {
			out = append(out, c)
		}
	}
	return out
}

func (u *Utility) markPlaced(c Contract) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	held := u.contracts[c.Gateway]
	if held == nil || held.reference() != c.reference() {
		return nil // changed meanwhile: it is placed again
	}
	next := *held
	next.Placed = true
	return u.save(&next)
}

// contractOf finds the contract of a usage point.
func (u *Utility) contractOf(up model.UsagePoint) (Contract, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	c, ok := u.byPoint[up]
	if !ok {
		return Contract{}, false
	}
	return *c, true
}

// openRequest is what `gridveil contract open` sends.
type openRequest struct {
	Key     string `json:"key"` // the gateway's member key, hexadecimal
	Plan    Plan   `json:"plan"`
	Masked  bool   `json:"masked"`
	LimitW  int64  `json:"limit_w"`
	ReadS   int64  `json:"read_period_s"`
	ReportS int64  `json:"report_period_s"`
}

func (q openRequest) contract() (NewContract, error) {
	b, err := hex.DecodeString(q.Key)
	if err != nil || len(b) != 32 {
		return NewContract{}, errors.New("key: want the gateway's member key, 64 hexadecimal digits\nnext: `gridveil status` on the gateway shows it")
	}
	return NewContract{Gateway: member.Key(b), Plan: q.Plan, Masked: q.Masked, LimitW: q.LimitW,
		Read: time.Duration(q.ReadS) * time.Second, Report: time.Duration(q.ReportS) * time.Second}, nil
}

// commands are what `gridveil contract`, `bill` and `meter read` ask a running
// utility.
func (u *Utility) commands() {
	u.env.Control.Handle("open-contract", func(_ context.Context, in json.RawMessage) (any, error) {
		var q openRequest
		if err := json.Unmarshal(in, &q); err != nil {
			return nil, errors.New("want {key, plan, masked, limit_w, read_period_s, report_period_s}")
		}
		n, err := q.contract()
		if err != nil {
			return nil, err
		}
		return u.Open(n)
	})
	u.handleEdit()
	u.env.Control.Handle("contracts", func(context.Context, json.RawMessage) (any, error) { return u.Contracts(), nil })
	u.env.Control.Handle("bill", func(_ context.Context, in json.RawMessage) (any, error) {
		var q struct {
			UsagePoint string `json:"usage_point"`
			From, To   int64
			Estimate   bool
		}
		if err := json.Unmarshal(in, &q); err != nil {
			return nil, errors.New("want {usage_point, from, to, estimate}")
		}
		c, err := u.find(q.UsagePoint)
		if err != nil {
			return nil, err
		}
		if q.Estimate {
			return u.EstimatedBill(c.UsagePoint, time.UnixMilli(q.From), time.UnixMilli(q.To))
		}
		return u.Bill(c.UsagePoint, time.UnixMilli(q.From), time.UnixMilli(q.To))
	})
	u.env.Control.Handle("read-meter", func(ctx context.Context, in json.RawMessage) (any, error) {
		var prefix string
		if err := json.Unmarshal(in, &prefix); err != nil {
			return nil, errors.New("want a usage point")
		}
		c, err := u.find(prefix)
		if err != nil {
			return nil, err
		}
		return u.ReadMeter(ctx, c.UsagePoint)
	})
}

// find resolves the beginning of a usage point's hexadecimal name.
func (u *Utility) find(prefix string) (Contract, error) {
	var hit []Contract
	for _, c := range u.Contracts() {
		if name := fmt.Sprintf("%x", c.UsagePoint[:]); len(prefix) >= 4 && len(name) >= len(prefix) && name[:len(prefix)] == prefix {
			hit = append(hit, c)
		}
	}
	if len(hit) != 1 {
		return Contract{}, fmt.Errorf("%d usage points begin with %q: give at least four digits that name one", len(hit), prefix)
	}
	return hit[0], nil
}

// PointOf is the usage point of a gateway's contract.
func (u *Utility) PointOf(gateway member.Key) (model.UsagePoint, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	c, ok := u.contracts[gateway]
	if !ok {
		return model.UsagePoint{}, false
	}
	return c.UsagePoint, true
}
