package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node"
)

func batteryCommand() *cobra.Command {
	return group("battery", "The home's battery, and what one can hide of a household's load", append(batteryHome(), batterySim(), batteryScore(), batteryLeak(), batteryParties(), batteryLimit(), batteryPareto(), batteryReport(), batteryStudy())...)
}

func batterySim() *cobra.Command {
	var b node.BatterySim
	c := &cobra.Command{
		Use: "sim", Short: "Mask a recorded household and score the result", Args: noArgs,
		Example: "  gridveil battery sim --in home.csv --policy veil --cap 5000 --power 3000 --learn 4 --out masked.csv",
		RunE: func(c *cobra.Command, _ []string) error {
			r, report, err := b.Run(c.Context())
			if err != nil {
				return err
			}
			return printJSON(c.OutOrStdout(), map[string]any{"policy": report.Policy, "bound_bits_day": report.BoundBits, "exposed_min": report.ExposedMins, "score": r})
		},
	}
	f := c.Flags()
	f.StringVar(&b.In, "in", "", "CSV: time,load_w[,<appliance>_w]")
	f.StringVar(&b.Out, "out", "", "CSV to write: time,load_w,meter_w,soc_wh")
	f.StringVar(&b.Policy, "policy", "veil", strings.Join(node.BatteryPolicies(), ", "))
	f.Float64Var(&b.Capacity, "cap", 5000, "capacity in Wh")
	f.Float64Var(&b.Power, "power", 3000, "inverter limit in W")
	f.IntVar(&b.Stop, "stop", 0, "dial of veil: 0 private to 4 thrifty, at the tariff that runs are scored with")
	f.IntVar(&b.Learn, "learn", 4, "days that are learned from and not scored")
	f.Uint64Var(&b.Seed, "seed", 1, "seed of a random policy")
	_ = c.MarkFlagRequired("in") // the flag exists
	return c
}

func batteryScore() *cobra.Command {
	var capacity float64
	c := &cobra.Command{
		Use: "score FILE", Short: "Score a masked trace", Args: oneArg("a CSV file: time,load_w,meter_w,soc_wh"),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := node.BatteryScore(args[0], capacity)
			if err != nil {
				return err
			}
			return printJSON(c.OutOrStdout(), r)
		},
	}
	c.Flags().Float64Var(&capacity, "cap", 5000, "capacity in Wh, for cycles")
	return c
}

func batteryLeak() *cobra.Command {
	var capacity, power float64
	var asJSON bool
	c := &cobra.Command{
		Use: "leak FILE", Short: "What a masked trace leaks, in bits per day",
		Long: `Solves the kernel of the file's own demand and rates it under a model of the home that knows
more than the kernel does. "masked" is by model; "forced" counts apart what no model of a mask
covers: the minutes in which the battery stood at a limit of power or charge.`,
		Example: "  gridveil battery leak masked.csv\n  gridveil battery leak --cap 13500 --power 5000 --json masked.csv",
		Args:    oneArg("a CSV file: time,load_w,meter_w,soc_wh"),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := node.BatteryLeak(c.Context(), args[0], capacity, power)
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			if asJSON {
				return printJSON(out, l)
			}
			fmt.Fprintf(out, "masked  %6.2f bits a day by model (standard error %.2f)\n", l.Masked, l.Err)
			fmt.Fprintf(out, "bound   %6.2f bits a day for the chain that the kernel was solved for\n", l.Bound)
			fmt.Fprintf(out, "floor   %6.2f bits a day: no battery of this size does better on independent days\n", l.Floor)
			fmt.Fprintf(out, "forced  %6.2f bits a day: %.1f times, %.0f minutes, %.0f Wh\n", l.ForcedBits, l.ForcedSpans, l.ForcedMinutes, l.ForcedWh)
			if l.Doubtful {
				fmt.Fprintln(c.ErrOrStderr(), "gridveil: hint: masked is below the floor: the model does not fit this home, trust the floor")
			}
			return nil
		},
	}
	c.Flags().Float64Var(&capacity, "cap", 5000, "capacity in Wh")
	c.Flags().Float64Var(&power, "power", 3000, "inverter limit in W")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func batteryParties() *cobra.Command {
	var b node.BatteryParties
	var asJSON bool
	c := &cobra.Command{
		Use: "parties FILE", Short: "How much each party learns of a recorded home, in bits a day",
		Long: `Rates each day of the file for every party that a home deals with: utility, head-end,
substation, the neighbourhood's sum, aggregator, guests, verifiers, a stranger on the line.
A figure is an upper bound on the mutual information with what the party reads, as a mean over
the days: the length of a code for the meter's energies at the period at which they are
reported, the values that the fields of a day's messages can take, or the entropy of a sum
shared by its homes. "nothing" has no field or a test behind it; "no figure" says why. Where
the file has meter_w, the meter is rated; with soc_wh also its mask, by model. The Privacy
page of a home shows the same figures of its own day.`,
		Example: "  gridveil battery parties home.csv\n  gridveil battery parties --period 24h --homes 100 --sessions 1 --json home.csv",
		Args:    oneArg("a CSV file: time,load_w[,meter_w,soc_wh]"),
		RunE: func(c *cobra.Command, args []string) error {
			b.In = args[0]
			p, err := b.Run(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), p)
			}
			return writeParties(c.OutOrStdout(), p)
		},
	}
	f := c.Flags()
	f.DurationVar(&b.Period, "period", 15*time.Minute, "time between reported readings")
	f.Float64Var(&b.Step, "step", 1, "step of the meter's register in Wh")
	f.IntVar(&b.Homes, "homes", 20, "homes of the neighbourhood's sum, 0 for none")
	f.IntVar(&b.Sessions, "sessions", 0, "guests' cars a day, an hour each")
	f.IntVar(&b.Learn, "learn", 4, "days that are learned from and not rated")
	f.BoolVar(&b.Lab, "lab", false, "a trial network without cover traffic")
	f.Float64Var(&b.Capacity, "cap", 5000, "capacity in Wh of the battery in a masked file")
	f.Float64Var(&b.Power, "power", 3000, "its inverter limit in W")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func writeParties(w io.Writer, p node.PartyFigures) error {
	fmt.Fprintf(w, "bits a day at most, mean of %d days, readings every %s\n", p.Days, p.Period)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "party\tof the load\tof charging\trests on")
	for _, l := range p.Parties {
		load := l.Load.Words
		if l.Load.ModelWords != "" {
			load += ", " + l.Load.ModelWords
		}
		rests := l.Load.Basis
		if l.Charging.Basis != rests {
			rests += "; " + l.Charging.Basis
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", l.Party, load, l.Charging.Words, rests)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "of load and charging together a party learns at most the sum of its two figures")
	return err
}

func batteryLimit() *cobra.Command {
	var p, check string
	var b node.BatteryProof
	var asJSON bool
	c := &cobra.Command{
		Use: "limit", Short: "What every mask with a given store tells at least, and the proof", Args: noArgs,
		Long: `With --p: the least leakage of independent demand with that law. With --in: what every mask
tells of a recorded household at least, by a model of it (` + strings.Join(node.BatteryModels(), ", ") + `), whatever its memory and its
chance: masks that draw a block's meter level from the past and keep a block's greatest demand
in reserve, or, with --ahead, that know the block's demand. The store is ideal and counts in
whole quanta. --out writes the certificate, --check reads one and computes from it alone what
it proves. "reached" is the proven bound of a kernel: the best mask lies between the two.`,
		Example: "  gridveil battery limit --p .5,.5 --cap 3\n  gridveil battery limit --in home.csv --model R15 --out proof.json\n  gridveil battery limit --check proof.json",
		RunE: func(c *cobra.Command, _ []string) error {
			given := 0
			for _, v := range []string{p, b.In, check} {
				if v != "" {
					given++
				}
			}
			switch {
			case given != 1:
				return usage("want one of --p, --in and --check")
			case check != "":
				return checkProof(c, check, asJSON)
			case b.In != "":
				return proveLimit(c, b, asJSON)
			}
			return lawLimit(c, p, b.Quanta, asJSON)
		},
	}
	f := c.Flags()
	f.StringVar(&p, "p", "", "law of the demand, comma separated")
	f.StringVar(&b.In, "in", "", "CSV: time,load_w")
	f.StringVar(&check, "check", "", "certificate to check")
	f.IntVar(&b.Quanta, "cap", 0, "store size in quanta; with --in 0 is the model's own")
	f.StringVar(&b.Model, "model", "R15", strings.Join(node.BatteryModels(), ", "))
	f.BoolVar(&b.Ahead, "ahead", false, "masks know a block's demand when they choose its level")
	f.IntVar(&b.Depth, "depth", 2, "meter levels that the proof looks back at, 1 to 4; each more takes many times as long")
	f.StringVar(&b.Out, "out", "", "file to write the certificate to")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func lawLimit(c *cobra.Command, p string, quanta int, asJSON bool) error {
	var law []float64
	for _, s := range strings.Split(p, ",") {
		v, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
		if err != nil {
			return usage("--p: %q is not a probability", s)
		}
		law = append(law, v)
	}
	bits, certified, err := node.BatteryLimit(law, quanta)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), map[string]float64{"bits_sample": bits, "certified_bits_sample": certified})
	}
	fmt.Fprintf(c.OutOrStdout(), "%.5f bits per sample (certified above %.5f)\n", bits, certified)
	return nil
}

func proveLimit(c *cobra.Command, b node.BatteryProof, asJSON bool) error {
	p, err := b.Run(c.Context())
	if err != nil {
		return err
	}
	out := c.OutOrStdout()
	if asJSON {
		return printJSON(out, p)
	}
	class := "draws a block's level from the past"
	if p.Ahead {
		class = "knows a block's demand"
	}
	fmt.Fprintf(out, "model    %s: blocks of %.0f min, %d levels of %.0f Wh, a battery of %d quanta\n", p.Model, p.Minutes, p.Levels, p.Quantum, p.Quanta)
	fmt.Fprintf(out, "demand   %6.2f bits a day: a meter without battery\n", p.Demand)
	fmt.Fprintf(out, "proven   %6.2f bits a day: no mask that %s tells less\n", p.Proven, class)
	fmt.Fprintf(out, "reached  %6.2f bits a day, at most, by a kernel\n", p.Reached)
	if b.Out != "" {
		fmt.Fprintf(out, "written  %s; `gridveil battery limit --check` checks it\n", b.Out)
	}
	return nil
}

func checkProof(c *cobra.Command, path string, asJSON bool) error {
	p, err := node.CheckBatteryProof(path)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), p)
	}
	fmt.Fprintf(c.OutOrStdout(), "proven: every mask of these %d states with a store of %d quanta tells at least %.6f bits a block\n", p.Levels, p.Store, p.Bits)
	return nil
}

// gridFlags are what every comparison over recorded homes can be told.
func gridFlags(c *cobra.Command, b *node.BatteryGrid, policies []string, stops []int, capacities, powers []float64, seeds int) {
	f := c.Flags()
	f.StringVar(&b.Traces, "traces", "", "folder of recorded households: CSV files with time,load_w[,<appliance>_w]")
	f.StringVar(&b.Out, "out", ".", "folder to write to")
	f.StringSliceVar(&b.Policies, "policies", policies, "policies to compare")
	f.IntSliceVar(&b.Stops, "stops", stops, "stops of veil's dial, 0 private to 4 thrifty")
	f.Float64SliceVar(&b.Capacities, "caps", capacities, "capacities in Wh")
	f.Float64SliceVar(&b.Powers, "powers", powers, "inverter limits in W")
	f.IntVar(&b.Seeds, "seeds", seeds, "runs of each random policy")
	f.Uint64Var(&b.Seed, "seed", 1, "the first seed")
	f.IntVar(&b.Learn, "learn", 4, "days that are learned from and not scored")
	_ = c.MarkFlagRequired("traces") // the flag exists
	b.Told = func(format string, args ...any) {
		fmt.Fprintf(c.ErrOrStderr(), "gridveil: "+format+"\n", args...)
	}
}

func batteryPareto() *cobra.Command {
	var b node.BatteryGrid
	var asJSON bool
	c := &cobra.Command{
		Use: "pareto", Short: "Bill against privacy, for policies, dials and batteries", Args: noArgs,
		Long: `Runs every policy, stop of the dial, capacity and power over recorded households and writes
pareto.csv (one line a run), pareto.md (means over homes), cost.svg (the bill against what the
meter tells, with the dial as a line) and capacity.svg (what a larger battery hides, with the
floor). Bars go from the least to the greatest home. Equal seeds give equal bytes. A run that
was broken off goes on where it stopped.`,
		Example: "  gridveil battery pareto --traces DIR --out results\n  gridveil battery pareto --traces DIR --policies veil,hold --caps 5000 --powers 3000 --json",
		RunE: func(c *cobra.Command, _ []string) error {
			means, err := b.Pareto(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), means)
			}
			return node.WriteBatteryMeans(c.OutOrStdout(), means)
		},
	}
	gridFlags(c, &b, node.BatteryPolicies(), []int{0, 1, 2, 3, 4}, []float64{2000, 5000, 13500}, []float64{1500, 3000, 5000, 10000}, 1)
	c.Flags().BoolVar(&asJSON, "json", false, "print the means as JSON")
	return c
}

func batteryReport() *cobra.Command {
	var b node.BatteryReport
	var asJSON bool
	c := &cobra.Command{
		Use: "report", Short: "One HTML page on what a battery hides of one home", Args: noArgs,
		Long: `Writes a file that needs no network: a day of load, meter and stored energy, every policy's
figures, the bill against privacy with the dial, how well detectors tell nights on which a
car was charged, and, experimental, days on which a resident car was driven when it charges
amounts that hide them. Without --sessions the car's sessions are made up from the seed.`,
		Example: "  gridveil battery report --in home.csv --out report.html\n  gridveil battery report --in home.csv --sessions sessions.csv --cap 13500 --json",
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := b.Run(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), p)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: %d policies and dials, %d tests with a car\n", b.Out, len(p.Means), len(p.EV))
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&b.In, "in", "", "CSV: time,load_w[,<appliance>_w]")
	f.StringVar(&b.Out, "out", "report.html", "file to write")
	f.StringVar(&b.Sessions, "sessions", "", "charging sessions: CSV user,start,end,kwh,duration_h")
	f.Float64Var(&b.Capacity, "cap", 5000, "capacity in Wh")
	f.Float64Var(&b.Power, "power", 3000, "inverter limit in W")
	f.IntVar(&b.Learn, "learn", 4, "days that are learned from and not scored")
	f.Uint64Var(&b.Seed, "seed", 1, "seed of every draw")
	f.BoolVar(&asJSON, "json", false, "print the figures as JSON too")
	_ = c.MarkFlagRequired("in") // the flag exists
	return c
}

func batteryStudy() *cobra.Command {
	var b node.BatteryGrid
	var asJSON bool
	c := &cobra.Command{
		Use: "study", Short: "The figures of this project's claims, on any recorded homes", Args: noArgs,
		Long: `Runs every policy over recorded households with five seeds, 5 and 13.5 kWh, 3 and 5 kW, rates
them on models of the homes, and writes study.csv and study.md. No constant depends on a home;
--json has, beside each mean, the worst one when any one home is left out. One thread; a run
that was broken off goes on where it stopped.`,
		Example: "  gridveil battery study --traces DIR --out results\n  gridveil battery study --traces DIR --seeds 1 --caps 5000 --powers 3000",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := b.Study(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), s)
			}
			return s.Write(c.OutOrStdout())
		},
	}
	gridFlags(c, &b, node.BatteryPolicies(), []int{0}, []float64{5000, 13500}, []float64{3000, 5000}, 5)
	c.Flags().BoolVar(&asJSON, "json", false, "print the study as JSON")
	return c
}
