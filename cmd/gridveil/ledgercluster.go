package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gridveil/node"
)

// clusterCommand is an aggregator on several machines.
func clusterCommand() *cobra.Command {
	return group("cluster", "The machines that are one aggregator", clusterKey(), clusterStatus(), clusterAdd(), clusterRemove())
}

func clusterKey() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "key", Short: "Print this machine's key, and make it if there is none", Args: noArgs,
		Long: `Each machine of a cluster has a key of its own, cluster.key in its data directory. What this prints,
with the machine's address behind it, is one line of ledger.cluster.members. The node need not run.

Exit code 0: printed; 1: the key cannot be read or made.`,
		Example: "  gridveil ledger cluster key --data /srv/evagg",
		RunE: func(c *cobra.Command, _ []string) error {
			key, err := node.MachineKey(data(c))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]string{"key": key})
			}
			fmt.Fprintln(c.OutOrStdout(), key)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func clusterStatus() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "Say which machine leads and how far each of the others is", Args: noArgs,
		Long: `Any machine of the cluster answers, whether it leads or stands by.

Exit code 0: a majority answers and one of them leads; 1: the node cannot answer; 3: nothing can be
taken, since too few machines answer or nobody leads.`,
		Example: "  gridveil ledger cluster status --data /srv/evagg\n  gridveil ledger cluster status --json --data /srv/evagg",
		RunE:    func(c *cobra.Command, _ []string) error { return askCluster(c, "cluster-status", nil, asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func clusterAdd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "add KEY ADDRESS", Short: "Let another machine take part",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usage("want the key and the address of a machine, got %d arguments", len(args))
			}
			return nil
		},
		Long: `Run it on the machine that leads. The new machine is prepared and started before: a copy of the node's
folder without cluster.key and the folder cluster, and with its own ledger.cluster.address. It then
takes over what the others have; "status" says how far it is.

Exit code 0: it is a member; 1: it is not, and the error says why; 3: it is, and too few machines answer.`,
		Example: "  gridveil ledger cluster add 5d0c7a... d.example.org:7090 --data /srv/evagg",
		RunE: func(c *cobra.Command, args []string) error {
			return askCluster(c, "cluster-add", map[string]string{"ID": args[0], "Address": args[1]}, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func clusterRemove() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "remove KEY|ADDRESS", Short: "Take a machine out for good", Args: oneArg("the key or the address of a machine"),
		Long: `Run it on the machine that leads; the beginning of the key is enough. Three machines are the least: add
another one before. A machine that was taken out comes back only with a new key.

Exit code 0: it is out; 1: it is not, and the error says why; 3: it is, and too few machines answer.`,
		Example: "  gridveil ledger cluster remove b.example.org:7090 --data /srv/evagg",
		RunE: func(c *cobra.Command, args []string) error {
			return askCluster(c, "cluster-remove", map[string]string{"ID": args[0]}, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

// askCluster prints how the cluster is after a command.
func askCluster(c *cobra.Command, name string, in any, asJSON bool) error {
	var s node.ClusterStatus
	if err := node.AskCluster(c.Context(), data(c), name, in, &s); err != nil {
		return explain(c, err, "aggregator")
	}
	if asJSON {
		if err := printJSON(c.OutOrStdout(), s); err != nil {
			return err
		}
	} else {
		printCluster(c.OutOrStdout(), s)
	}
	if !s.Quorate() {
		return &exitError{exitDegraded}
	}
	return nil
}

func printCluster(w io.Writer, s node.ClusterStatus) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(t, "machine\tkey\tentries\tchanges\t\n")
	for _, m := range s.Members {
		here := ""
		if m.This {
			here = " (this machine)"
		}
		if m.Answers {
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s%s\n", m.Address, m.Key[:8], m.Entries, m.Changes, m.Standing, here)
		} else {
			fmt.Fprintf(t, "%s\t%s\t\t\t%s\n", m.Address, m.Key[:8], m.Standing)
		}
	}
	_ = t.Flush() // a terminal that is gone needs no answer
	if s.Next != "" {
		fmt.Fprintf(w, "next: %s\n", s.Next)
	}
}
