package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gridveil/node/party"
)

func caseCommand() *cobra.Command {
	return group("case", "Disputes: cases that hold, compare or open sessions", caseList(), caseVote(), caseOpen())
}

func caseList() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "List the cases of the ledger, newest first", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var all []party.CaseView
			if err := ask(c, "cases", nil, &all, "aggregator", "utility", "verifier"); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), all)
			}
			return printCases(c.OutOrStdout(), all)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printCases(w io.Writer, all []party.CaseView) error {
	if len(all) == 0 {
		fmt.Fprintln(w, "no cases")
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "case\topened\tasks to\tbecause of\tby\tapproved by\tstate")
	for _, x := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.ID, x.Opened.Local().Format("2 Jan 15:04"), x.Kind, x.Reason, x.Requester, strings.Join(x.Approvals, ", "), x.State)
	}
	return t.Flush()
}

func caseVote() *cobra.Command {
	var no bool
	c := &cobra.Command{
		Use: "vote CASE", Short: "Approve a case from an opener's seat, or refuse it", Args: oneArg("the name of a case, as `gridveil case list` shows it"),
		Long:    "For nodes with ledger.opener = true. A vote is an entry of the ledger; nobody can take it back.",
		Example: "  gridveil case vote 5d0c... --data /srv/watchdog\n  gridveil case vote 5d0c... --no --data /srv/watchdog",
		RunE: func(c *cobra.Command, args []string) error {
			if err := ask(c, "vote", map[string]any{"case": args[0], "yes": !no}, nil, "utility", "verifier"); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "the vote goes onto the ledger")
			return nil
		},
	}
	c.Flags().BoolVar(&no, "no", false, "refuse")
	return c
}

func caseOpen() *cobra.Command {
	var kind, reason string
	c := &cobra.Command{
		Use: "open SESSION...", Short: "Ask the openers about one session, or two to be compared", Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("want the names of sessions")
			}
			return nil
		},
		Long:    "The aggregator files the case; it is public on the ledger, and the driver is warned before anything is opened.",
		Example: "  gridveil case open 7f3a... --kind open --reason billing --data /srv/evagg",
		RunE: func(c *cobra.Command, args []string) error {
			var id string
			if err := ask(c, "dispute", map[string]any{"Sessions": args, "Kind": kind, "Reason": reason}, &id, "aggregator"); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), id)
			return nil
		},
	}
	c.Flags().StringVar(&kind, "kind", "open", "hold, link or open")
	c.Flags().StringVar(&reason, "reason", "", "safety, billing, payment, meter or \"lawful order\"")
	_ = c.MarkFlagRequired("reason") // the flag exists
	return c
}
