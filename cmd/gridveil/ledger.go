package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gridveil/node"
	"gridveil/node/party"
	"gridveil/node/web"
)

func ledgerCommand() *cobra.Command {
	var asJSON bool
	show := &cobra.Command{
		Use: "show", Short: "Show size, quorum and newest entries of the ledger as this node has it", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var l web.Ledger
			if err := ask(c, "ledger", nil, &l, "aggregator", "utility", "verifier"); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), l)
			}
			return printLedger(c.OutOrStdout(), l)
		},
	}
	show.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	exportCmd := &cobra.Command{
		Use: "export", Short: "Write the ledger into the node's export folder", Args: noArgs,
		Long:    "What is written can be judged anywhere with `gridveil verify`, without this node. Payment files are written\nby the aggregator alone: it knows the operators' bank accounts.\n\nExit code 0: written; 1: nothing is final yet, or the folder cannot be written.",
		Example: "  gridveil ledger export --data /srv/evagg\n  gridveil ledger export --json --data /srv/uta",
		RunE: func(c *cobra.Command, _ []string) error {
			var r node.LedgerReport
			if err := ask(c, "export", nil, &r, followers...); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), r)
			}
			fmt.Fprintf(c.OutOrStdout(), "exported %d entries of %s\n", r.Entries, r.Origin)
			return nil
		},
	}
	exportCmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return group("ledger", "The network's ledger", ledgerStatus(), show, ledgerVerify(), ledgerProof(), ledgerStatement(), ledgerReconcile(), repairCommand(), ledgerBackup(), ledgerRestore(), exportCmd, clusterCommand())
}

func repairCommand() *cobra.Command {
	var q party.MendCall
	var asJSON bool
	c := &cobra.Command{
		Use: "repair", Short: "Refill a damaged copy of the ledger from a peer", Args: noArgs,
		Long: "A node whose ledger is damaged asks the peers it knows by itself; this names one more. Everything is verified as it is\n" +
			"replayed, and a copy that is smaller or other than what was signed here is refused. The damaged files are kept beside.\n\n" +
			"Exit code 0: whole again; 1: there is nothing to repair, or this peer's copy will not do.",
		Example: "  gridveil ledger repair --from 12D3KooWQq3i2oLkbRv4vGq8TnYhMZ8d4vFhQ5jtPSrKXk1Zs7yT\n  gridveil ledger repair --from https://mirror.example/log --json",
		RunE: func(c *cobra.Command, _ []string) error {
			var r party.Mended
			if err := ask(c, "ledger-repair", q, &r, "aggregator", "utility", "verifier"); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), r)
			}
			fmt.Fprintf(c.OutOrStdout(), "the ledger is whole again: %d entries of %s from %s; `gridveil ledger show` shows it\n", r.Entries, r.Origin, r.From)
			return nil
		},
	}
	c.Flags().StringVar(&q.From, "from", "", "`URL` prefix of a copy, or the peer ID of a member that has one")
	_ = c.MarkFlagRequired("from") // the flag exists
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func printLedger(w io.Writer, l web.Ledger) error {
	if l.Size == 0 {
		fmt.Fprintln(w, "no entries yet: the aggregator founds the ledger once it met the utilities and verifiers")
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(t, "ledger\t%s\nentries\t%d, of which %d are final\nquorum\t%s\n", l.Origin, l.Size, l.CosignedSize, l.Quorum)
	for _, e := range l.Entries {
		fmt.Fprintf(t, "%d\t%s\t%s\n", e.Index, e.Kind, e.Text)
	}
	return t.Flush()
}
