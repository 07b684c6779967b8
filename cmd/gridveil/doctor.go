package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"gridveil/node"
)

func doctorCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "doctor", Short: "Check this node and say what to do about what is wrong", Args: noArgs,
		Long: `Checks the clock against what neighbours say, each neighbour with its round trip, certificate,
list of relays, private classes, lost test packets, the day's data and the store. Of a node that
does not run, what files and addresses tell.
Exit code 0: nothing is broken, though there may be warnings; 1: there is nothing to check; 3: something is broken.`,
		Example: "  gridveil doctor --data ~/gridveil\n  gridveil doctor --json",
		RunE: func(c *cobra.Command, _ []string) error {
			found, err := node.Doctor(c.Context(), data(c))
			if err != nil {
				return explain(c, err)
			}
			if asJSON {
				err = printJSON(c.OutOrStdout(), found)
			} else {
				err = printCheckup(c.OutOrStdout(), found)
			}
			if err == nil && found.Sick() {
				return &exitError{exitDegraded}
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func printCheckup(w io.Writer, c node.Checkup) error {
	const column = 25 // state and check
	for _, f := range c.Findings {
		text := strings.ReplaceAll(f.Text, "\n", "\n"+strings.Repeat(" ", column))
		if _, err := fmt.Fprintf(w, "%-8s %-15s %s\n", f.State, f.Check, text); err != nil {
			return err
		}
		if f.Next != "" {
			fmt.Fprintf(w, "%*snext: %s\n", column, "", f.Next)
		}
	}
	return nil
}
