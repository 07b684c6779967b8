package main

import (
	"fmt"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"gridveil/node"
)

func verifyCommand() *cobra.Command {
	var policy string
	var asJSON bool
	c := &cobra.Command{
		Use: "verify DIR", Short: "Verify an exported ledger from its files alone",
		Long: `Recomputes everything: each entry's form and signatures, every rule, balance, commitment,
blind note, netting, tile and cosignature, and every statement, journal and payment file.
No node, no database and no network are needed. Without --policy the export's own policy
is used, which vouches for itself only: get the policy file from somebody you trust.`,
		Example: "  gridveil verify ./day/export\n  gridveil verify ./export --policy utility.policy",
		Args:    oneArg("the folder of an export"),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := node.VerifyExport(args[0], policy)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), r)
			}
			out := c.OutOrStdout()
			fmt.Fprintf(out, "verified %s: %d entries in %d files\n", r.Origin, r.Entries, r.Files)
			fmt.Fprintf(out, "cosigned by %s\n", strings.Join(r.Cosigners, ", "))
			var names []string
			for n := range r.Balances {
				names = append(names, n)
			}
			sort.Strings(names)
			for _, n := range names {
				fmt.Fprintf(out, "  %-32s %s\n", n, r.Balances[n])
			}
			if !r.Trusted {
				fmt.Fprintln(c.ErrOrStderr(), "gridveil: hint: this used the export's own policy; compare it with --policy FILE from a party you trust")
			}
			return nil
		},
	}
	c.Flags().StringVar(&policy, "policy", "", "policy file: which log, which verifiers, how many of them")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}
