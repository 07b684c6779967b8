package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node"
)

func membersCommand() *cobra.Command {
	var asJSON, all bool
	c := &cobra.Command{
		Use: "members", Short: "List the certificates that this node gave out", Args: noArgs,
		Long: `Asks the running node, which must be one that certifies others. Below the list stands how many
homes hold a good certificate of it: its part of homes_enrolled in the network's rules.`,
		Example: "  gridveil members --data /srv/uta\n  gridveil members --all --json --data /srv/uta",
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := node.AskMembers(c.Context(), data(c))
			if err != nil {
				return explain(c, err)
			}
			if !all {
				kept := m.Issued[:0]
				for _, i := range m.Issued {
					if i.Good(m.Now) {
						kept = append(kept, i)
					}
				}
				m.Issued = kept
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), m)
			}
			return printMembers(c.OutOrStdout(), m)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	c.Flags().BoolVar(&all, "all", false, "also those that were revoked, or ended within 30 days")
	return c
}

func printMembers(w io.Writer, m node.Members) error {
	if len(m.Issued) > 0 {
		t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		fmt.Fprintln(t, "serial\trole\tzone\tkey\tissued\tends\tstate")
		for _, i := range m.Issued {
			state := "good"
			switch {
			case !i.RevokedAt.IsZero():
				state = "revoked " + day(i.RevokedAt)
				if i.Reason != "" {
					state += ": " + i.Reason
				}
			case !i.Good(m.Now):
				state = "ended"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%.16s\t%s\t%s\t%s\n", i.Serial, i.Role, i.Zone, i.Key, day(i.At), day(i.End), state)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "homes with a good certificate of %s: %d; of all operators, as the network's rules say: %d\n", m.Operator, m.Homes, m.Enrolled)
	return err
}

func day(t time.Time) string { return t.Local().Format(time.DateOnly) }

func revokeCommand() *cobra.Command {
	var reason string
	var asJSON bool
	c := &cobra.Command{
		Use: "revoke MEMBER...", Short: "Take members' certificates back, everywhere and at once", Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("want serials or keys of members, or at least their first eight digits")
			}
			return nil
		},
		Long: `Signs the list of what this node's CA took back, with all certificates of these members in it, and
publishes it through the running node. Every member cuts them off within a minute. It cannot be
undone: who should come back enrols again with a new code. The reason stays in this node's store.`,
		Example: "  gridveil revoke 01c25d9e0b --reason \"gateway stolen\" --data /srv/uta",
		RunE: func(c *cobra.Command, args []string) error {
			r, err := node.Revoke(c.Context(), data(c), args, reason)
			if err != nil {
				return explain(c, err)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), r)
			}
			for _, i := range r.Revoked {
				fmt.Fprintf(c.OutOrStdout(), "revoked %s, a certificate of %s\n", i.Serial, article(i.Role.String()))
			}
			when := "published: every member that is connected cuts them off within a minute"
			if !r.Published {
				when = "this node cuts them off now; a list went out less than a minute ago, this one follows by itself"
			}
			fmt.Fprintf(c.ErrOrStderr(), "list %d %s\n", r.Number, when)
			return nil
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for your own records")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	_ = c.MarkFlagRequired("reason") // the flag exists
	return c
}
