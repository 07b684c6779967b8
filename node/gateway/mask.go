package gateway

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	mrand "math/rand/v2"
	"sync"
	"time"

	"gridveil/battery"
	"gridveil/node/clock"
	"gridveil/node/plant"
	"gridveil/node/role"
	"gridveil/node/store"
)

// mask drives the battery: one decision per step of the house.
type mask struct {
	env *role.Env

	mu   sync.Mutex
	ctl  *battery.Controller
	plan battery.EVState
}

const demandState = "demand"

func newMask(ctx context.Context, env *role.Env, spec battery.Spec, prior battery.Prior) (*mask, error) {
	var seed [32]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("draw mask seed: %w", err)
	}
	if env.Rand != rand.Reader { // a demonstration repeats its masks with everything else
		if _, err := env.Rand.Read(seed[:]); err != nil {
			return nil, fmt.Errorf("draw mask seed: %w", err)
		}
	}
	history, err := loadDemand(env.Store)
	if err != nil {
		return nil, err
	}
	ctl, err := battery.NewController(ctx, battery.Config{Spec: spec, Policy: env.Config.Battery.Policy, Prior: prior, History: history,
		Rand: mrand.New(mrand.NewChaCha8(seed))})
	if err != nil {
		return nil, fmt.Errorf("battery: %w", err)
	}
	return &mask{env: env, ctl: ctl}, nil
}

// step decides what the battery does for the rest of a minute, from what flows now.
func (m *mask) step(f plant.Flow) battery.Watts {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := battery.Obs{Time: f.At.Add(plant.Reaction), Dt: plant.Step, Load: battery.Watts(f.Load - f.PV), PrevMeter: battery.Watts(f.Last.MeterW),
		PrevEV: battery.Watts(f.Last.CarW), E: f.Stored, EV: m.plan, PrevActual: battery.Watts(f.Last.BatteryW)}
	o.EV.Plan = battery.Watts(f.Car)
	o.EV.Lo, o.EV.Hi = o.EV.Plan, o.EV.Plan // the wallbox keeps its plan
	return m.ctl.Step(o).Battery
}

// today is the day's account for the local page.
func (m *mask) today() battery.Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ctl.Today()
}

// nightly is when, after midnight UTC, a mask learns: between two minutes, so that
// it is certain which one is masked last as before.
const nightly = 2*time.Hour + 30*time.Second

// serve learns the home's own chain every night and starts a new account.
func (m *mask) serve(ctx context.Context) error {
	for clock.Until(ctx, m.env.Clock, clock.Next(m.env.Clock.Now(), 24*time.Hour).Add(nightly)) {
		if err := m.night(ctx); err != nil && ctx.Err() == nil {
			m.env.Log.Warn("masking kernel not renewed; the old one stays", "err", err)
		}
	}
	return nil
}

func (m *mask) night(ctx context.Context) error {
	m.mu.Lock()
	m.ctl.Day()
	history := m.ctl.Snapshot()
	m.mu.Unlock()
	if err := saveDemand(m.env.Store, history); err != nil {
		return err
	}
	k, err := battery.Lesson(ctx, m.env.Config.Battery.Policy, m.ctlSpec(), history)
	if err != nil || k == nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ctl.Install(*k)
	return nil
}

func (m *mask) ctlSpec() battery.Spec {
	s, _ := batterySpec(m.env.Config.Battery.CapacityWh, m.env.Config.Battery.PowerW)
	return s
}

func saveDemand(st *store.Store, wh []float64) error {
	b := make([]byte, 0, 4*len(wh))
	for _, v := range wh {
		b = binary.BigEndian.AppendUint32(b, math.Float32bits(float32(v)))
	}
	return st.Set(store.SpaceBattery.Key([]byte(demandState)), b)
}

func loadDemand(st *store.Store) ([]float64, error) {
	b, err := st.Get(store.SpaceBattery.Key([]byte(demandState)))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load demand history: %w", err)
	}
	var out []float64
	for ; len(b) >= 4; b = b[4:] {
		out = append(out, float64(math.Float32frombits(binary.BigEndian.Uint32(b))))
	}
	return out, nil
}
