package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node"
)

func storeCommand() *cobra.Command {
	check := &cobra.Command{
		Use: "check", Short: "Read the whole store and verify every value", Args: noArgs,
		Long: "Re-hashes every commit and opens every value, through the running node or, if none runs, by itself.\nExit code 0: sound; 1: damaged or not readable.",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := node.CheckStore(c.Context(), data(c)); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "the store is sound")
			return nil
		},
	}
	var yes bool
	accept := &cobra.Command{
		Use: "accept", Short: "Go on with a damaged store, without what was lost", Args: noArgs,
		Long: `A node whose disk lost or altered records does not start: nothing may be decided on such a store.
A backup of the data directory brings everything back. Without one, this command lets the node start
again on what is left, or on an empty store where nothing can be opened; the old one stays beside it.

What was lost stays lost: readings that had not left, messages that waited, notes of money. One-time
certificates that were used may be used again and then link two sessions; let a wallet's week pass
before you charge. Copy the data directory first, and stop the node.`,
		Example: "  gridveil store accept --yes --data ~/gridveil",
		RunE: func(c *cobra.Command, _ []string) error {
			if !yes {
				return errors.New("nothing was changed: this gives up what the store lost for good\nnext: read `gridveil help store accept`, copy the data directory, then say --yes")
			}
			found, aside, err := node.AcceptDamage(data(c), time.Now())
			switch {
			case err != nil:
				return err
			case found == nil:
				fmt.Fprintln(c.OutOrStdout(), "the store opens as it is; nothing was changed")
			case aside != "":
				fmt.Fprintf(c.OutOrStdout(), "set aside as %s: %v\nthe node begins with an empty store\n", aside, found)
			default:
				fmt.Fprintf(c.OutOrStdout(), "accepted: %v\nthe node starts without it\n", found)
			}
			return nil
		},
	}
	accept.Flags().BoolVar(&yes, "yes", false, "give up what was lost")
	return group("store", "The node's database", check, accept)
}
