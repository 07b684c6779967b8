package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func flexibilityCommand() *cobra.Command {
	return group("flexibility", "What cars can give to the grid, and what operators pay for it", certifyMeter(), meterCert(), instruct(), flexBids(), flexEvents())
}

func certifyMeter() *cobra.Command {
	q := struct {
		Key  string `json:"key"`
		Zone string `json:"zone"`
		MaxW uint32 `json:"max_w"`
	}{}
	c := &cobra.Command{
		Use: "certify-meter KEY", Short: "State that a wallbox's meter stands in a zone of this utility's grid", Args: oneArg("the meter's public key, as its label or evse.meter_key has it"),
		Long:    "Prints a certificate. Only sessions behind a certified meter can offer flexibility: its signature is what\ndelivery is proved by.",
		Example: "  gridveil flexibility certify-meter 3059301306... --zone elm --max-w 11000 --data /srv/uta",
		RunE: func(c *cobra.Command, args []string) error {
			q.Key = args[0]
			var cert string
			if err := ask(c, "certify-meter", q, &cert, "utility"); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), cert)
			fmt.Fprintln(c.ErrOrStderr(), "at the home: `gridveil flexibility meter-cert CERTIFICATE`")
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&q.Zone, "zone", "", "zone of the grid in which the meter stands")
	f.Uint32Var(&q.MaxW, "max-w", 11_000, "the most power behind it, in W")
	_ = c.MarkFlagRequired("zone") // the flag exists
	return c
}

func meterCert() *cobra.Command {
	var remove bool
	c := &cobra.Command{
		Use: "meter-cert CERTIFICATE", Short: "Offer guests' sessions at this home's wallbox to the aggregator's pool", Args: cobra.ArbitraryArgs,
		Long: "Takes the grid operator's certificate over the meter that evse.meter_key names. From then on the house offers,\nwithin what each driver agrees to, how far a session may be moved; drivers are paid for it. The aggregator then\nlearns the meter's key, and of sessions that were moved the signed readings.",
		RunE: func(c *cobra.Command, args []string) error {
			cert := ""
			switch {
			case len(args) == 1 && !remove:
				cert = args[0]
			case len(args) == 0 && remove:
			default:
				return usage("want a certificate, or --remove")
			}
			return ask(c, "meter-cert", map[string]string{"cert": cert}, nil, "gateway")
		},
	}
	c.Flags().BoolVar(&remove, "remove", false, "offer nothing any more")
	return c
}

func instruct() *cobra.Command {
	q := struct {
		Zone     string    `json:"zone"`
		From     time.Time `json:"from"`
		To       time.Time `json:"to"`
		Watts    int64     `json:"watts"`
		PayMicro int64     `json:"pay_micro"`
	}{}
	var from, to string
	c := &cobra.Command{
		Use: "instruct", Short: "Buy a change of power in a zone of this utility's grid", Args: noArgs,
		Example: "  gridveil flexibility instruct --zone elm --from 2026-06-15T21:30:00Z --to 2026-06-15T22:00:00Z --watts 4000 --pay 600000 --data /srv/uta",
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if q.From, err = instant("--from", from); err != nil {
				return err
			}
			if q.To, err = instant("--to", to); err != nil {
				return err
			}
			var hash string
			if err := ask(c, "instruct", q, &hash, "utility"); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), hash)
			fmt.Fprintln(c.ErrOrStderr(), "signed; it goes to the aggregator as soon as that can be reached. `gridveil flexibility events` shows what becomes of it")
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&q.Zone, "zone", "", "zone of the grid")
	f.StringVar(&from, "from", "", "begin on a quarter of an hour, RFC 3339")
	f.StringVar(&to, "to", "", "end on a quarter of an hour, RFC 3339")
	f.Int64Var(&q.Watts, "watts", 0, "change of power: positive takes consumption back, negative adds it")
	f.Int64Var(&q.PayMicro, "pay", 0, "millionths of a euro for full delivery; less is paid in proportion")
	for _, name := range []string{"zone", "from", "to", "watts", "pay"} {
		_ = c.MarkFlagRequired(name) // the flags exist
	}
	return c
}

// flexEvent is what aggregator and utility both say of an event.
type flexEvent struct {
	Zone      string    `json:"zone"`
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	W         int64     `json:"w"`
	Sessions  int       `json:"sessions"`
	Delivered int64     `json:"delivered_mwh"`
	Paid      int64     `json:"paid_micro"`
	State     string    `json:"state"`
	Why       string    `json:"why"`
}

func flexEvents() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "events", Short: "List the flexibility events of an aggregator or a utility", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if asJSON {
				var all any
				if err := ask(c, "flexibility", nil, &all, "aggregator", "utility"); err != nil {
					return err
				}
				return printJSON(c.OutOrStdout(), all)
			}
			var all []flexEvent
			if err := ask(c, "flexibility", nil, &all, "aggregator", "utility"); err != nil {
				return err
			}
			return printFlexEvents(c.OutOrStdout(), all)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printFlexEvents(w io.Writer, all []flexEvent) error {
	if len(all) == 0 {
		fmt.Fprintln(w, "no flexibility was bought yet")
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "zone\tfrom\tto\tpower\tdelivered\tpaid\tstate")
	for _, e := range all {
		state := e.State
		if e.Why != "" {
			state += ": " + e.Why
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%+d W\t%.3f kWh\t%.2f EUR\t%s\n", e.Zone, e.From.Local().Format("2 Jan 15:04"), e.To.Local().Format("15:04"), e.W, float64(e.Delivered)/1e6, float64(e.Paid)/1e6, state)
	}
	return t.Flush()
}

func flexBids() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "bids", Short: "List what an aggregator's pool offers grid operators now", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var all []struct {
				Zone  string    `json:"zone"`
				From  time.Time `json:"from"`
				UpW   int64     `json:"up_w"`
				DownW int64     `json:"down_w"`
			}
			if err := ask(c, "bids", nil, &all, "aggregator"); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), all)
			}
			if len(all) == 0 {
				fmt.Fprintln(c.OutOrStdout(), "nothing that the market's minimum allows to be offered")
				return nil
			}
			t := tabwriter.NewWriter(c.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(t, "zone\tquarter of an hour from\tcan take back\tcan add")
			for _, b := range all {
				fmt.Fprintf(t, "%s\t%s\t%d W\t%d W\n", b.Zone, b.From.Local().Format("2 Jan 15:04"), b.UpW, b.DownW)
			}
			return t.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
