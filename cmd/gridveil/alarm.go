package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gridveil/node"
)

func alarmCommand() *cobra.Command {
	var asJSON bool
	list := &cobra.Command{
		Use: "list", Short: "List the newest alarms and events, newest first", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var all []node.Alarm
			if err := ask(c, "alarms", nil, &all); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), all)
			}
			return printAlarms(c.OutOrStdout(), all)
		},
	}
	list.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	ack := &cobra.Command{
		Use: "ack ID", Short: "Say that somebody takes care of an alarm", Args: oneArg("an alarm's id, or at least its first four digits"),
		RunE: func(c *cobra.Command, args []string) error {
			var id string
			if err := ask(c, "alarm-ack", args[0], &id); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "alarm %.8s is taken care of\n", id)
			return nil
		},
	}
	return group("alarm", "Alarms and events of this node", list, ack, alarmEvidence())
}

func printAlarms(w io.Writer, all []node.Alarm) error {
	if len(all) == 0 {
		fmt.Fprintln(w, "no alarms")
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "id\tat\turgency\twhat\ttaken care of")
	for _, a := range all {
		what, acked := a.Kind, ""
		if a.Restored {
			what += ", over"
		}
		if a.Detail != "" {
			what += ": " + a.Detail
		}
		if a.AckedAt != nil {
			acked = a.AckedAt.Local().Format("2 Jan 15:04")
		} else if a.Class == "alarm" {
			acked = "no"
		}
		fmt.Fprintf(t, "%.8s\t%s\tP%d\t%s\t%s\n", a.ID, a.At.Local().Format("2 Jan 15:04:05"), a.Priority, what, acked)
	}
	return t.Flush()
}
