package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node"
)

func walletCommand() *cobra.Command {
	return group("wallet", "Charge at strangers' wallboxes", walletPay(), sessionsCommand("wallet", "List this wallet's sessions"),
		statementCommand("wallet", "wallet", "Print a month's sessions, for your books or an employer who pays for charging"))
}

func walletPay() *cobra.Command {
	var q struct {
		Link        string  `json:"link"`
		Band        uint16  `json:"band"`
		WantKWh     float64 `json:"want_kwh"`
		GiveKWh     float64 `json:"give_kwh"`
		ShowUtility bool    `json:"show_utility"`
		Fixed       bool    `json:"fixed"`
		FloorKWh    float64 `json:"floor_kwh"`
		Departure   int64   `json:"departure"`
		GiveFrom    int64   `json:"give_from"`
		OnCall      bool    `json:"on_call"`
	}
	var until, from string
	c := &cobra.Command{
		Use: "pay LINK", Short: "Charge at the wallbox of a host's link", Args: oneArg("the link of the host's Guest page"),
		Long: `Opens a session at the wallbox behind LINK: shows who pays what, burns one pseudonym, and
goes on by itself until the receipt is there. Nothing can cost more than --band.`,
		Example: "  gridveil wallet pay http://192.0.2.7:8480/g/... --band 20 --want 15",
		RunE: func(c *cobra.Command, args []string) error {
			q.Link = args[0]
			if until != "" {
				at, err := instant("--until", until)
				if err != nil {
					return err
				}
				q.Departure = at.UnixMilli()
			}
			if from != "" {
				at, err := instant("--give-from", from)
				if err != nil {
					return err
				}
				q.GiveFrom = at.UnixMilli()
			}
			var out struct {
				Session string `json:"session"`
			}
			if err := ask(c, "pay", q, &out, "wallet"); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), out.Session)
			fmt.Fprintln(c.ErrOrStderr(), "the session has begun; `gridveil wallet sessions` shows how it goes")
			return nil
		},
	}
	f := c.Flags()
	f.Uint16Var(&q.Band, "band", 20, "the most that the session may cost, in whole EUR")
	f.Float64Var(&q.WantKWh, "want", 0, "kWh wanted; 0 charges until the car is full or unplugged")
	f.Float64Var(&q.GiveKWh, "give", 0, "kWh that the house may take out of the car")
	f.StringVar(&from, "give-from", "", "when the house may begin to take energy out of the car, RFC 3339")
	f.BoolVar(&q.OnCall, "give-on-call", false, "the house may take energy out of the car only when the grid operator asks for it and pays")
	f.StringVar(&until, "until", "", "when the car leaves, RFC 3339; until then the cheapest hours are taken, and the aggregator may pay for moving them")
	f.Float64Var(&q.FloorKWh, "floor", 0, "kWh that must be in by then, whatever they cost")
	f.BoolVar(&q.Fixed, "fixed", false, "the aggregator may not move the car's power, even for pay")
	f.BoolVar(&q.ShowUtility, "show-utility", false, "with everybody else away: let the host learn your utility, so that it can trust you")
	return c
}

// sessionRow is the part of a session that a list shows.
type sessionRow struct {
	ID      string
	Begin   time.Time
	State   string
	Case    string
	KWhIn   float64
	KWhOut  float64
	Total   string
	Refused string
}

// sessionsCommand lists the sessions of a wallet or of a host.
func sessionsCommand(role, short string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "sessions", Short: short, Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var all []sessionRow
			if err := ask(c, "sessions", nil, &all, role); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), all)
			}
			return printSessions(c.OutOrStdout(), all)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// statementCommand prints a month of a wallet or of a host.
func statementCommand(noun, role, short string) *cobra.Command {
	var month, format string
	var signed, asJSON bool
	c := &cobra.Command{
		Use: "statement", Short: short, Args: noArgs,
		Long: `Lists the sessions that ended in a month of this machine's time zone. Text, CSV and JSON come from
one query. With --signed every session carries the records that its meter signed, byte for byte, and
the meter's key, so that an employer or a tax office can verify them with any OCMF program; a meter's
key also tells where the car was. With --signed --json it carries what host and driver signed as well,
and gridveil verify recomputes it from the file alone. The column "ledger" says whether an entry of the ledger was found
to cover the notes that a session brought; with --signed --json these proofs are printed as well, for
an auditor who knows the ledger's policy. Nodes forget sessions after a few months: print them in time.

Exit code 0: printed; 1: the node cannot answer.`,
		Example: fmt.Sprintf("  gridveil %s statement --month 2026-06\n  gridveil %s statement --month 2026-06 --format csv > june.csv\n  gridveil %s statement --month 2026-06 --signed --json > june.json", noun, noun, noun),
		RunE: func(c *cobra.Command, _ []string) error {
			if month == "" {
				month = time.Now().AddDate(0, 0, -time.Now().Day()).Format("2006-01")
			}
			if asJSON {
				format = "json"
			}
			var s node.MonthStatement
			if err := ask(c, "month", map[string]any{"month": month, "signed": signed}, &s, role); err != nil {
				return err
			}
			return printAs(c.OutOrStdout(), format, s.Text, s.CSV, s.JSON)
		},
	}
	f := c.Flags()
	f.StringVar(&month, "month", "", "year and month, such as 2026-06; the last one if left out")
	f.StringVar(&format, "format", "text", "text, csv or json")
	f.BoolVar(&signed, "signed", false, "with the records that the meters signed")
	f.BoolVar(&asJSON, "json", false, "the same as --format json")
	return c
}

func printSessions(w io.Writer, all []sessionRow) error {
	if len(all) == 0 {
		fmt.Fprintln(w, "no sessions yet")
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "session\tbegin\tcharged\tgiven\ttotal\tstate")
	for _, s := range all {
		state := s.State
		if s.Refused != "" {
			state = "refused: " + s.Refused
		}
		fmt.Fprintf(t, "%s\t%s\t%.3f kWh\t%.3f kWh\t%s\t%s\n", s.ID, s.Begin.Local().Format("2 Jan 15:04"), s.KWhIn, s.KWhOut, s.Total, state)
	}
	return t.Flush()
}

func guestCommand() *cobra.Command {
	var gateway string
	link := &cobra.Command{
		Use: "link", Short: "Print the link that lets a guest charge here", Args: noArgs,
		Example: "  gridveil guest link --data ~/gridveil",
		Long:    "The link is good for today: it names this gateway, the wallbox and the key of its guest door.\nWhoever is in your network can use it; nobody can pay at your cost with it.",
		RunE: func(c *cobra.Command, _ []string) error {
			var out struct {
				Link string `json:"link"`
			}
			if err := ask(c, "guest-link", map[string]string{"gateway": gateway}, &out, "gateway"); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), out.Link)
			return nil
		},
	}
	link.Flags().StringVar(&gateway, "gateway", "", "this gateway's address as guests reach it; default: the guest door's")
	return group("guest", "Be a host of strangers' cars", link, sessionsCommand("gateway", "List the cars that charged here"),
		statementCommand("guest", "gateway", "Print a month's sessions at this wallbox, for the books or an employer who pays for charging at home"))
}
