package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"gridveil/node/demo"
)

func demoCommand() *cobra.Command {
	var o demo.Options
	var once, asJSON, verbose bool
	c := &cobra.Command{
		Use: "demo", Short: "Run a neighbourhood on this machine",
		Long: `Founds a network, starts its homes, substations, head-end, utilities, aggregator, verifier and
drivers in one process on loopback, and lets days go by on an accelerated clock. Hosts, stores,
websockets, signatures and the ledger are real; meters, wallboxes, batteries and roofs are
simulated and say so on screen. Nothing leaves this machine.

Without --once it shows a dashboard and goes on until Ctrl-C. With --once it runs one day as
fast as the nodes keep up and exits 0 only when every invariant holds. --data names a new
folder that is kept; without it a temporary one is removed at the end.`,
		Example: "  gridveil demo\n  gridveil demo --once --json\n  gridveil demo --once --traces ../shared/data --data ./day\n  gridveil verify ./day/export",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !once && (asJSON || c.Flags().Changed("hours")) {
				return usage("--json and --hours belong to --once")
			}
			if o.Homes == 0 || o.Hours == 0 || o.Speed == 0 {
				return usage("--homes, --hours and --speed: want more than 0")
			}
			if c.Flags().Changed("data") {
				o.Dir = data(c)
			}
			if verbose {
				o.Log = slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelInfo}))
			}
			if once && !c.Flags().Changed("speed") {
				o.Speed = demo.OnceSpeed
			}
			o.Talk = c.ErrOrStderr()
			if !once {
				o.Talk = c.OutOrStdout()
				return demo.Live(c.Context(), o)
			}
			s, err := demo.Once(c.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				if err := printJSON(c.OutOrStdout(), s); err != nil {
					return err
				}
			} else {
				fmt.Fprint(c.OutOrStdout(), s)
			}
			if broken := s.Broken(); len(broken) > 0 {
				return fmt.Errorf("%d invariants do not hold: %v", len(broken), broken)
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&once, "once", false, "run one day as fast as the nodes keep up, print a summary and exit")
	f.BoolVar(&asJSON, "json", false, "with --once: print the summary as one JSON object")
	f.BoolVar(&verbose, "verbose", false, "show what the nodes log")
	f.IntVar(&o.Homes, "homes", 25, "number of homes; below 20 the private classes refuse and class lab is used")
	f.IntVar(&o.Hours, "hours", 24, "length of the day with --once")
	f.Uint64Var(&o.Seed, "seed", 1, "the same seed gives the same bills, to the millionth of a euro")
	f.Float64Var(&o.Speed, "speed", demo.LiveSpeed, "how much faster than real time")
	f.StringVar(&o.Traces, "traces", "", "folder with home_*.csv: household loads instead of generated ones")
	f.StringVar(&o.Ledger, "ledger", "", "address at which the ledger is served to gridveil verifier; without --once a free port is taken")
	f.StringVar(&o.Listen, "listen", "127.0.0.1:7080", "address of the dashboard")
	return c
}
