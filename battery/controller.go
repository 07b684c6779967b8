package battery

import (
	"context"
	"math"
	"math/rand/v2"
	"time"

	"gridveil/battery/kernel"
)

// historyBlocks is how much demand is remembered for the chain: 28 days.
const historyBlocks = 28 * daily

// exposedFrom is the measured difference, in watts, from which a step counts as
// exposed. Less is what an inverter needs to follow a change of load.
const exposedFrom = releaseFloor

// minHistory is how much is needed before the home's own chain is trusted.
const minHistory = 4 * 288

// Controller is the whole of a home's masking: policy, governor, memory and
// accounts. It is not safe for concurrent use.
type Controller struct {
	gov    Governor
	policy Policy
	veil   *Veil // nil unless the policy is veil

	history []float64 // block demands in Wh, oldest first
	block   time.Time
	day     Report
	reason  string
	shown   Watts // of the house alone, what the mask wanted to show in the last step
	cause   Cause // that decided the last step; empty before the first
	obeyed  bool  // a command stood in the last step
	exposed exposure
	last    time.Time // of the last step
}

// Report is one day's account, for the household's own privacy page.
type Report struct {
	Policy        string
	BoundBits     float64 // proven bound of the kernel, bits per day; 0 without one
	ExposedMins   float64 // minutes in which the meter did not show the mask's level: a forced peak, a command, a silent meter
	ExposedWh     float64 // by how much, measured
	CommandedMins float64 // of them under a command
	StaleMins     float64 // of them without a reading
	ExposedSpans  int     // into how many intervals the exposed minutes fall
	ExposedBits   float64 // what they told by model: when they were and how much
	LoadWh        float64
	MeterWh       float64
	Reason        string // why another policy runs than was asked for; empty if none
}

// Config is what a Controller is made from.
type Config struct {
	Spec      Spec
	Policy    string  // one of Policies; any other is veil
	YearlyKWh float64 // asked at set-up; zero means 3500
	// Prior gives the kernel of an unobserved home; nil solves one. A process
	// with many equal homes shares it.
	Prior Prior
	// History holds block demands in Wh known from before, oldest first: of five
	// minutes for veil, of LKMPeriod for lkm, of twice that
	// for lkm30.
	History []float64
	// Learned is the home's own kernel when it is known already; nil starts with
	// the prior.
	Learned *Learned
	// Rand is used by the controller alone; its seed must not be stored.
	Rand *rand.Rand
}

// NewController checks the specification and makes the policy. A battery too
// small for veil runs hold and the report says so.
func NewController(ctx context.Context, c Config) (*Controller, error) {
	if err := c.Spec.Check(); err != nil {
		return nil, err
	}
	if c.YearlyKWh <= 0 {
		c.YearlyKWh = 3500
	}
	ctl := &Controller{gov: Governor{Spec: c.Spec}}
	if ctl.policy = baseline(c); ctl.policy == nil {
		if err := ctl.startVeil(ctx, c); err != nil {
			return nil, err
		}
	}
	ctl.day.Policy = ctl.policy.Name()
	return ctl, nil
}

func (c *Controller) startVeil(ctx context.Context, cfg Config) error {
	if l := cfg.Learned; l != nil {
		c.veil = NewVeil(cfg.Spec, l.Plan, l.Kernel, cfg.Rand)
		c.policy = c.veil
		c.Restore(cfg.History)
		return nil
	}
	plan, err := PlanFor(cfg.Spec, nil, cfg.YearlyKWh)
	if err != nil {
		c.policy, c.reason = &Hold{}, err.Error()
		return nil
	}
	prior := cfg.Prior
	if prior == nil {
		prior = SolvePrior
	}
	k, err := prior(ctx, plan, cfg.YearlyKWh)
	if err != nil {
		return err
	}
	c.veil = NewVeil(cfg.Spec, plan, k, cfg.Rand)
	c.policy = c.veil
	c.Restore(cfg.History)
	return nil
}

// Step observes, decides and accounts for the step that begins now.
func (c *Controller) Step(o Obs) Command {
	cmd := c.gov.Decide(o, c.policy)
	c.account(o, cmd)
	c.remember(o)
	return cmd
}

// account books the step that is over, with what the meter measured in it, and
// remembers what the one that begins is to show.
func (c *Controller) account(o Obs, cmd Command) {
	mins, hours := o.Dt.Minutes(), o.Dt.Hours()
	if mins <= 0 {
		return
	}
	house := o.PrevMeter - o.PrevEV
	jumped := !c.last.IsZero() && (o.Time.Sub(c.last)-o.Dt).Abs() > max(o.Dt, staleAfter)
	c.last = o.Time
	if c.cause != "" && c.cause != CauseStale && cmd.Cause != CauseStale && !bad(house) {
		miss := math.Abs(float64(house - c.shown))
		c.day.ExposedSpans += c.exposed.note(miss > float64(exposedFrom) || c.obeyed || jumped)
		if c.exposed.on {
			c.day.ExposedMins += mins
			c.day.ExposedWh += miss * hours
		}
		if c.obeyed {
			c.day.CommandedMins += mins
		}
		c.day.MeterWh += float64(o.PrevMeter) * hours
	}
	if cmd.Cause == CauseStale {
		c.day.ExposedSpans += c.exposed.note(true)
		c.day.StaleMins += mins
		c.day.ExposedMins += mins
	} else {
		c.day.LoadWh += float64(o.Load) * hours
	}
	c.shown, c.cause, c.obeyed = cmd.Predicted-cmd.Exposed-o.drawn(cmd.EV), cmd.Cause, o.Commanded != nil
}

// remember keeps the demand of whole blocks for the home's chain.
func (c *Controller) remember(o Obs) {
	if c.veil == nil {
		return
	}
	e, at, ok := c.veil.Demand()
	if at.Equal(c.block) {
		return
	}
	c.block = at
	if ok {
		c.history = append(c.history, e)
		if extra := len(c.history) - historyBlocks; extra > 0 {
			c.history = append(c.history[:0], c.history[extra:]...)
		}
	}
}

// Learned is a kernel with the plan it counts in.
type Learned struct {
	Plan   Plan
	Kernel *kernel.Kernel
}

// Lesson solves the kernel of a home's own chain from its block demands in Wh.
// It takes seconds and touches no controller, so a node runs it at night beside
// the mask. It gives nil before four days of history and for other policies.
func Lesson(ctx context.Context, policy string, s Spec, history []float64) (*Learned, error) {
	if policy != "veil" && policy != "" || len(history) < minHistory {
		return nil, nil
	}
	plan, err := PlanFor(s, history, 0)
	if err != nil {
		return nil, err
	}
	k, err := SolveFor(ctx, plan, history)
	if err != nil {
		return nil, err
	}
	return &Learned{plan, k}, nil
}

// Install runs a learned kernel from the next block on.
func (c *Controller) Install(l Learned) {
	if c.veil != nil {
		c.veil.Install(l.Plan, l.Kernel)
	}
}

// Day gives the account since the last call and starts a new one.
func (c *Controller) Day() Report {
	r := c.Today()
	c.exposed.over(r.ExposedSpans)
	c.day = Report{Policy: c.policy.Name()}
	return r
}

// Today is the account of the running day.
func (c *Controller) Today() Report {
	r := c.day
	r.Reason = c.reason
	if c.veil != nil {
		r.BoundBits = c.veil.Bound()
		r.ExposedBits = c.exposed.bits(r.ExposedSpans, c.veil.Plan.Mx)
	}
	return r
}

// Snapshot is what a node persists between starts: the block demands in Wh.
// The random seed is never part of it.
func (c *Controller) Snapshot() []float64 { return append([]float64(nil), c.history...) }

// Restore takes a Snapshot; values that are no energies are dropped.
func (c *Controller) Restore(history []float64) {
	c.history = c.history[:0]
	for _, e := range history {
		if e >= 0 && e < 100_000 {
			c.history = append(c.history, e)
		}
	}
}
