package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node/gateway"
	"gridveil/node/signal"
	"gridveil/node/ssn"
	"gridveil/node/utility"
)

func signalsCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "signals", Short: "Prices and limits that this home was sent, and what it made of them", Args: noArgs,
		Long:    "Prices that hold now and later, the limit of the grid if there is one, and the newest signals,\neach accepted or refused with its reason. A running gateway answers.",
		Example: "  gridveil signals --data ~/gridveil\n  gridveil signals tariff day-night --data ~/gridveil",
		RunE: func(c *cobra.Command, _ []string) error {
			var s gateway.SignalStatus
			if err := ask(c, "signals", nil, &s, "gateway"); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), s)
			}
			return printSignals(c.OutOrStdout(), s)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.AddCommand(&cobra.Command{
		Use: "tariff NAME", Short: "Say which tariff the household's contract has: flat or day-night", Args: oneArg("flat or day-night"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := ask(c, "tariff", args[0], nil, "gateway"); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "the contract's tariff is %s: its prices are followed from now on\n", args[0])
			return nil
		},
	})
	return c
}

func printSignals(w io.Writer, s gateway.SignalStatus) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	if len(s.Prices) == 0 {
		fmt.Fprintln(t, "no prices are known: the contract's tariff counts")
	}
	for _, p := range s.Prices {
		peak := ""
		if p.Critical {
			peak = "critical peak"
		}
		fmt.Fprintf(t, "%s to %s\t%.3f per kWh\t%s\n", p.From.Local().Format("2 Jan 15:04"), p.To.Local().Format("2 Jan 15:04"), float64(p.Micro)/1e6, peak)
	}
	if l := s.Limit; l != nil {
		fmt.Fprintf(t, "\nlimit of the grid, by the %s until %s\timport %s, export %s\n", l.By, l.Until.Local().Format("15:04"), watts(l.ImportMaxW), watts(l.ExportMaxW))
	}
	if len(s.History) > 0 {
		fmt.Fprintln(t)
	}
	for _, e := range s.History {
		verdict := "accepted"
		if !e.Accepted {
			verdict = "refused: " + e.Reason
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", e.At.Local().Format("2 Jan 15:04:05"), e.Text, verdict)
	}
	return t.Flush()
}

func watts(w int64) string {
	if w >= signal.Unlimited {
		return "free"
	}
	return fmt.Sprintf("at most %d W", w)
}

func gridCommand() *cobra.Command {
	var l ssn.GridLimit
	var length time.Duration
	limit := &cobra.Command{
		Use: "limit", Short: "Limit what each home of this substation's zone may draw or feed in", Args: noArgs,
		Long:    "Publishes a signed network state. Homes follow it as far as the law lets them be limited:\na wallbox keeps 4.2 kW (s.14a EnWG). Without --import and --export an earlier limit is lifted.",
		Example: "  gridveil grid limit --import 4200 --for 1h --data /srv/ssn-elm",
		RunE: func(c *cobra.Command, _ []string) error {
			l.Until = time.Now().Add(length).UnixMilli()
			if err := ask(c, "grid-limit", l, nil, "ssn"); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "import %s, export %s, until %s\n", watts(l.ImportMaxW), watts(l.ExportMaxW), time.UnixMilli(l.Until).Format("15:04:05"))
			return nil
		},
	}
	f := limit.Flags()
	f.Int64Var(&l.ImportMaxW, "import", signal.Unlimited, "most that a home may draw, in W")
	f.Int64Var(&l.ExportMaxW, "export", signal.Unlimited, "most that a home may feed in, in W")
	f.DurationVar(&length, "for", time.Hour, "how long, at most 24h")
	f.Lookup("import").DefValue, f.Lookup("export").DefValue = "free", "free"
	return group("grid", "The network of a substation's zone", limit)
}

func priceCommand() *cobra.Command {
	var p utility.Peak
	var plan, from, to string
	event := &cobra.Command{
		Use: "event", Short: "Announce a critical peak: another price for some hours", Args: noArgs,
		Example: "  gridveil price event --plan flat --from 2026-06-15T17:00:00Z --to 2026-06-15T19:00:00Z --price 900000 --data /srv/uta",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := instant("--from", from)
			if err != nil {
				return err
			}
			b, err := instant("--to", to)
			if err != nil {
				return err
			}
			p.Plan, p.From, p.To = utility.Plan(plan), a.UnixMilli(), b.UnixMilli()
			if err := ask(c, "price-event", p, nil, "utility"); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "announced: %.3f per kWh from %s to %s\n", float64(p.Import)/1e6, a.Local().Format("2 Jan 15:04"), b.Local().Format("15:04"))
			return nil
		},
	}
	f := event.Flags()
	f.StringVar(&plan, "plan", string(utility.PlanFlat), "flat or day-night")
	f.StringVar(&from, "from", "", "begin on the hour, RFC 3339; three hours of notice are needed")
	f.StringVar(&to, "to", "", "end on the hour, RFC 3339")
	f.Int64Var(&p.Import, "price", 0, "millionths per kWh")
	_ = event.MarkFlagRequired("from") // the flags exist
	_ = event.MarkFlagRequired("to")
	_ = event.MarkFlagRequired("price")
	return group("price", "A utility's prices", event)
}

// instant reads a time of the command line.
func instant(flag, text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, usage("%s: want RFC 3339 such as 2026-06-01T00:00:00Z, got %q", flag, text)
	}
	return t, nil
}
