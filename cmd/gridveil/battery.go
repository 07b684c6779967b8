package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"gridveil/node"
)

func batteryCommand() *cobra.Command {
	return group("battery", "The home's battery, and what one can hide of a household's load", append(batteryHome(), batterySim(), batteryScore(), batteryLimit())...)
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
	f.StringVar(&b.Policy, "policy", "veil", "veil, hold, ls2, lkm or none")
	f.Float64Var(&b.Capacity, "cap", 5000, "capacity in Wh")
	f.Float64Var(&b.Power, "power", 3000, "inverter limit in W")
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

func batteryLimit() *cobra.Command {
	var p string
	var quanta int
	c := &cobra.Command{
		Use: "limit", Short: "The least leakage of independent demand with an ideal store", Args: noArgs,
		Example: "  gridveil battery limit --p .5,.5 --cap 3",
		RunE: func(c *cobra.Command, _ []string) error {
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
			fmt.Fprintf(c.OutOrStdout(), "%.5f bits per sample (certified above %.5f)\n", bits, certified)
			return nil
		},
	}
	c.Flags().StringVar(&p, "p", "", "law of the demand, comma separated")
	c.Flags().IntVar(&quanta, "cap", 0, "store size in quanta")
	_ = c.MarkFlagRequired("p") // the flag exists
	return c
}
