package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node"
	"gridveil/node/identity"
)

func networkCommand() *cobra.Command {
	var plan, out string
	founding := &cobra.Command{
		Use: "new", Short: "Draw the keys of a new network and sign its first bundle", Args: noArgs,
		Example: "  gridveil network plan > plan.toml\n  gridveil network new --plan plan.toml --out ./net",
		RunE: func(c *cobra.Command, _ []string) error {
			b, err := os.ReadFile(plan)
			if err != nil {
				return fmt.Errorf("plan: %w\nnext: write one with `gridveil network plan > %s` and edit it", err, plan)
			}
			p, err := identity.ParsePlan(plan, b)
			if err != nil {
				return err
			}
			n, err := identity.Found(p, time.Now(), rand.Reader)
			if err != nil {
				return err
			}
			if err := n.Save(out); err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "founded in %s: hand operators/NAME/ca.key to each operator, keep the root keys apart and offline\n", out)
			return nil
		},
	}
	founding.Flags().StringVar(&plan, "plan", "", "plan file, as gridveil network plan prints one")
	founding.Flags().StringVar(&out, "out", "", "new folder for bundle and keys")
	_ = founding.MarkFlagRequired("plan") // the flags exist
	_ = founding.MarkFlagRequired("out")
	openers := &cobra.Command{
		Use: "openers FOLDER", Short: "Deal the key with which a quorum can open one disputed pseudonym", Args: oneArg("the network folder that `gridveil network new` made"),
		Long: `Writes committee.pub, which every utility needs to issue pseudonyms, and one opener-N.share for
each seat. Hand each share to another organisation, which keeps it as opener.share in the data
directory of a node with ledger.opener = true; then delete the shares here.`,
		RunE: func(c *cobra.Command, args []string) error {
			n, err := node.DealOpeners(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "dealt %d seats in %s: hand out the shares, then delete them here\n", n, args[0])
			return nil
		},
	}
	return group("network", "Found a network and change its rules", founding, openers, networkShow(), networkEdit(), networkSign(), networkPublish(), &cobra.Command{
		Use: "plan", Short: "Print an example plan", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			fmt.Fprint(c.OutOrStdout(), identity.Example)
			return nil
		},
	})
}

// version is set by the release build.
var version = "development"

func versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: noArgs, Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), "gridveil", version) }}
}
