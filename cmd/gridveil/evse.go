package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func evseCommand() *cobra.Command {
	var gift bool
	charge := &cobra.Command{
		Use: "charge", Short: "Charge the own car, or a guest's as a gift", Args: noArgs,
		Example: "  gridveil evse charge --data ~/gridveil\n  gridveil evse charge --gift --data ~/gridveil",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := ask(c, "charge", map[string]bool{"gift": gift}, nil, "gateway"); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "asked for: the car charges once it is plugged in; `gridveil evse stop` ends it")
			return nil
		},
	}
	charge.Flags().BoolVar(&gift, "gift", false, "a guest's car: nobody pays, and it is counted apart")
	return group("evse", "The wallbox of this home", evseList(), evseAccept(), charge, &cobra.Command{
		Use: "stop", Short: "End what charges now", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := ask(c, "stop-charge", struct{}{}, nil, "gateway"); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "stopping")
			return nil
		},
	}, &cobra.Command{
		Use: "card TOKEN", Short: "Let a card of the household start the own car's charge", Args: oneArg("the card's number, as the wallbox reads it"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := ask(c, "card-add", map[string]string{"token": args[0]}, nil, "gateway"); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "the card starts the own car's charge from now on")
			return nil
		},
	})
}

// standing is whether the owner lets a wallbox charge.
type standing int

var standings = map[standing]string{1: "waits to be accepted", 3: "refused"}

// station is the part of a wallbox that a list shows.
type station struct {
	ID, Version, Vendor, Model string
	Standing                   standing
	Online                     bool
}

func evseList() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "List the wallboxes that are known or ask to be connected", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var all []station
			if err := ask(c, "evse-list", nil, &all, "gateway"); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), all)
			}
			return printStations(c.OutOrStdout(), all)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printStations(w io.Writer, all []station) error {
	if len(all) == 0 {
		fmt.Fprintln(w, "no wallbox has connected yet")
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "wallbox\tmade by\tOCPP\tstate")
	for _, s := range all {
		state := "not connected"
		if s.Online {
			state = "connected"
		}
		if word := standings[s.Standing]; word != "" {
			state += ", " + word
		}
		fmt.Fprintf(t, "%s\t%s %s\t%s\t%s\n", s.ID, s.Vendor, s.Model, s.Version, state)
	}
	return t.Flush()
}

func evseAccept() *cobra.Command {
	return &cobra.Command{
		Use: "accept ID", Short: "Let a wallbox charge here, and give it a password", Args: oneArg("a wallbox, as `gridveil evse list` names it"),
		RunE: func(c *cobra.Command, args []string) error {
			var out struct {
				Password string `json:"password"`
			}
			if err := ask(c, "evse-accept", map[string]string{"id": args[0]}, &out, "gateway"); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), out.Password)
			fmt.Fprintln(c.ErrOrStderr(), "accepted: the wallbox was given this password; type it in if it does not take it by itself")
			return nil
		},
	}
}
