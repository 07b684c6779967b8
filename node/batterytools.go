package node

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"gridveil/battery"
	"gridveil/battery/kernel"
	"gridveil/battery/score"
	"gridveil/battery/sim"
)

// BatterySim masks a recorded household and writes what its meter would show.
type BatterySim struct {
	In, Out  string // CSV files
	Policy   string
	Capacity float64 // Wh
	Power    float64 // W
	Learn    int     // days that are only learned from
	Seed     uint64
	Stop     int // of the dial, 0 private to 4 thrifty
}

// BatteryPolicies are the names that BatterySim knows.
func BatteryPolicies() []string { return battery.Policies }

// Run simulates and gives the figures of the scored days.
func (b BatterySim) Run(ctx context.Context) (score.Result, battery.Report, error) {
	tr, err := readTrace(b.In)
	if err != nil {
		return score.Result{}, battery.Report{}, err
	}
	run, err := sim.Simulate(ctx, tr, sim.Options{Policy: b.Policy, Capacity: battery.WattHours(b.Capacity), Power: battery.Watts(b.Power), Learn: b.Learn, Seed: b.Seed, Stop: b.Stop})
	if err != nil {
		return score.Result{}, battery.Report{}, fmt.Errorf("%s: %w", b.In, err)
	}
	if b.Out != "" {
		f, err := os.Create(b.Out)
		if err != nil {
			return score.Result{}, battery.Report{}, fmt.Errorf("write the masked trace: %w", err)
		}
		if err := writeAndClose(run, f); err != nil {
			return score.Result{}, battery.Report{}, fmt.Errorf("write the masked trace: %w", err)
		}
	}
	r, err := sim.Score(run.Trace, run.Meter, run.SoC, battery.WattHours(b.Capacity))
	return r, run.Report, err
}

func writeAndClose(run *sim.Run, f io.WriteCloser) error {
	err := run.Write(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func readTrace(path string) (sim.Trace, error) {
	f, err := os.Open(path)
	if err != nil {
		return sim.Trace{}, err
	}
	defer f.Close()
	tr, err := sim.Read(f)
	if err != nil {
		return tr, fmt.Errorf("%s: %w", path, err)
	}
	return tr, nil
}

// BatteryScore scores a file that BatterySim wrote.
func BatteryScore(path string, capacity float64) (score.Result, error) {
	tr, err := readTrace(path)
	if err != nil {
		return score.Result{}, err
	}
	if tr.Meter == nil {
		return score.Result{}, fmt.Errorf("%s has no column meter_w: write it with `gridveil battery sim`", path)
	}
	return sim.Score(tr, tr.Meter, tr.SoC, battery.WattHours(capacity))
}

// BatteryLimit is the least leakage of independent demand, bits per sample.
func BatteryLimit(p []float64, quanta int) (bits, certified float64, err error) {
	bits, certified, _, err = kernel.Limit(p, quanta, 1e-6)
	return bits, certified, err
}

// BatteryProof proves what every mask tells of a recorded household, by a model of it.
type BatteryProof struct {
	In     string // CSV file
	Model  string // one of BatteryModels
	Quanta int    // of the battery; 0: the model's own
	Ahead  bool   // masks may know a block's demand when they choose its level
	Depth  int    // how many meter levels the proof looks back at
	Out    string // file for the certificate, may be empty
}

// BatteryModels are the models that BatteryProof knows.
func BatteryModels() []string { return sim.YardstickNames() }

// Run looks for a proof.
func (b BatteryProof) Run(ctx context.Context) (sim.Proof, error) {
	at := slices.Index(BatteryModels(), b.Model)
	if at < 0 {
		return sim.Proof{}, fmt.Errorf("no model %q: want one of %s", b.Model, strings.Join(BatteryModels(), ", "))
	}
	tr, err := readTrace(b.In)
	if err != nil {
		return sim.Proof{}, err
	}
	p, c, err := sim.Yardsticks()[at].Prove(ctx, tr, b.Quanta, b.Ahead, kernel.CertifyOpts{Depth: b.Depth})
	if err != nil {
		return sim.Proof{}, fmt.Errorf("%s: %w", b.In, err)
	}
	if b.Out == "" {
		return p, nil
	}
	f, err := os.Create(b.Out)
	if err != nil {
		return sim.Proof{}, fmt.Errorf("write the certificate: %w", err)
	}
	err = c.Write(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return sim.Proof{}, fmt.Errorf("write the certificate: %w", err)
	}
	return p, nil
}

// BatteryCertificate is a certificate that was checked.
type BatteryCertificate struct {
	Bits   float64 `json:"bits_block"` // proven, per block
	Levels int     `json:"states"`     // of the demand's chain
	Store  int     `json:"store"`      // quanta that the masks may hold
	Depth  int     `json:"depth"`
}

// CheckBatteryProof checks a certificate that BatteryProof wrote, from the file alone.
func CheckBatteryProof(path string) (BatteryCertificate, error) {
	f, err := os.Open(path)
	if err != nil {
		return BatteryCertificate{}, err
	}
	defer f.Close()
	c, err := kernel.ReadCertificate(f)
	if err != nil {
		return BatteryCertificate{}, fmt.Errorf("%s: %w", path, err)
	}
	bits, err := c.Check()
	if err != nil {
		return BatteryCertificate{}, fmt.Errorf("%s: %w", path, err)
	}
	return BatteryCertificate{Bits: bits, Levels: len(c.Chain.Q), Store: c.Store, Depth: c.Depth}, nil
}

// BatteryLeakage is what `gridveil battery leak` tells of a masked recording.
type BatteryLeakage struct {
	Masked   float64 `json:"masked_bits_day"`       // by model, of the home's own kernel
	Err      float64 `json:"masked_standard_error"` // of Masked
	Bound    float64 `json:"bound_bits_day"`
	Floor    float64 `json:"floor_bits_day"`
	Doubtful bool    `json:"doubtful"` // Masked is below Floor
	// What the model leaves out: when the battery stood at a limit.
	ForcedSpans   float64 `json:"forced_spans_day"`
	ForcedMinutes float64 `json:"forced_min_day"`
	ForcedWh      float64 `json:"forced_wh_day"`
	ForcedBits    float64 `json:"forced_bits_day"`
}

// BatteryLeak rates a file that BatterySim wrote.
func BatteryLeak(ctx context.Context, path string, capacity, power float64) (BatteryLeakage, error) {
	tr, err := readTrace(path)
	if err != nil {
		return BatteryLeakage{}, err
	}
	if tr.Meter == nil || tr.SoC == nil {
		return BatteryLeakage{}, fmt.Errorf("%s has no columns meter_w and soc_wh: write it with `gridveil battery sim`", path)
	}
	l, f, err := sim.Leak(ctx, tr, battery.Reference(battery.WattHours(capacity), battery.Watts(power)))
	if err != nil {
		return BatteryLeakage{}, fmt.Errorf("%s: %w", path, err)
	}
	return BatteryLeakage{Masked: l.Masked, Err: l.Err, Bound: l.Bound, Floor: l.Floor, Doubtful: l.Doubtful,
		ForcedSpans: f.Spans, ForcedMinutes: f.Minutes, ForcedWh: f.Wh, ForcedBits: f.Bits}, nil
}
