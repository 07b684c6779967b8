package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node"
)

func benchCommand() *cobra.Command {
	var asJSON bool
	var each time.Duration
	c := &cobra.Command{
		Use: "mesh", Short: "Measure the mesh on this machine, each part beside its yardstick", Args: noArgs,
		Long: `Runs on loopback and needs no network. What counts is the ratio to the yardstick of the same
run: it says the same on a fast and on a slow machine. The goals are those of the design.`,
		Example: "  gridveil bench mesh\n  gridveil bench mesh --json --time 5s",
		RunE: func(c *cobra.Command, _ []string) error {
			if each <= 0 {
				return usage("--time: want more than 0")
			}
			out := c.OutOrStdout()
			if asJSON {
				var all []node.Measurement
				if err := node.BenchMesh(c.Context(), each, func(m node.Measurement) { all = append(all, m) }); err != nil {
					return err
				}
				return printJSON(out, all)
			}
			const row = "%-26s %10s  %-22s %10s  %8s  %-8s %s\n"
			fmt.Fprintf(out, row, "what", "ours", "yardstick", "takes", "ratio", "goal", "")
			return node.BenchMesh(c.Context(), each, func(m node.Measurement) {
				goal, verdict := fmt.Sprintf("<= %g", m.Goal), "missed"
				if m.AtLeast {
					goal = fmt.Sprintf(">= %g", m.Goal)
				}
				if m.Met {
					verdict = "met"
				}
				fmt.Fprintf(out, row, m.Name, micro(m.OursNS), m.Yardstick, micro(m.YardNS), fmt.Sprintf("%.2f", m.Ratio), goal, verdict)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON array, once all is measured")
	c.Flags().DurationVar(&each, "time", time.Second, "about how long each part is measured")
	return group("bench", "Measure this machine", c)
}

// micro prints nanoseconds as microseconds.
func micro(ns float64) string { return fmt.Sprintf("%.1f us", ns/1e3) }
