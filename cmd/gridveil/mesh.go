package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gridveil/node"
)

func meshCommand() *cobra.Command {
	var asJSON bool
	show := func(c *cobra.Command, s node.MeshStatus) error {
		if asJSON {
			return printJSON(c.OutOrStdout(), s)
		}
		return printMesh(c.OutOrStdout(), s)
	}
	status := &cobra.Command{
		Use: "status", Short: "Say whether private messages leave, and what waits", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var s node.MeshStatus
			if err := ask(c, "mesh", nil, &s); err != nil {
				return err
			}
			return show(c, s)
		},
	}
	status.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	move := func(use, short, long string, on bool) *cobra.Command {
		return &cobra.Command{
			Use: use, Short: short, Long: long, Args: noArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				s, err := node.SwitchMesh(c.Context(), data(c), on)
				if err != nil {
					return explain(c, err)
				}
				fmt.Fprintln(c.OutOrStdout(), s.Summary)
				return nil
			},
		}
	}
	return group("mesh", "Private messages and relaying of this node", status,
		move("off", "Stop private messages and relaying of this node", "Nothing private leaves this node any more and it passes on no packets of others, also after a restart.\nWhat should leave waits here. Alarms, meter reports and the car at this house go on.", false),
		move("on", "Turn them on again", "What waited leaves by and by.", true))
}

// crowd says among how many homes messages of a class hide, and how many are asked for.
func crowd(c node.MeshClass) string {
	switch {
	case c.MinSet > 0:
		return fmt.Sprintf(": could come from %.1f homes (at least %d), %d take part (at least %d)", c.Set, c.MinSet, c.Homes, c.MinHomes)
	case c.MinHomes > 0:
		return fmt.Sprintf(": %d homes take part (at least %d)", c.Homes, c.MinHomes)
	}
	return ""
}

func printMesh(w io.Writer, s node.MeshStatus) error {
	fmt.Fprintln(w, s.Summary)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	state := "on"
	if s.Off && s.OffSince != nil {
		state = "off since " + s.OffSince.Local().Format("2 Jan 15:04")
	}
	fmt.Fprintf(t, "switch\t%s\n", state)
	for _, c := range s.Classes {
		if c.Open {
			fmt.Fprintf(t, "%s\tleave%s\n", c.Name, crowd(c))
		} else {
			fmt.Fprintf(t, "%s\twait: %s %s\n", c.Name, c.Reason, c.Next)
		}
	}
	fmt.Fprintf(t, "connected\t%d, %d relays known\n", s.Peers, s.Relays)
	fmt.Fprintf(t, "packets\t%d own, %d cover, %d passed on for others\n", s.Packets.Own, s.Packets.Cover, s.Packets.Relayed)
	if r := s.Relay; r != nil {
		switch {
		case !r.Chosen:
			fmt.Fprintln(t, "relays for others\tno")
		case r.On:
			fmt.Fprintf(t, "relays for others\tyes: %d packets today, %d %% of today's data\n", r.PacketsToday, r.SharePercent)
		default:
			fmt.Fprintf(t, "relays for others\tnot now: %s\n", r.Reason)
		}
	}
	limit := ""
	if s.Today.CapBytes > 0 {
		limit = fmt.Sprintf(" of at most %.0f each", megabytes(s.Today.CapBytes))
	}
	fmt.Fprintf(t, "data today\t%.1f MB sent, %.1f MB received%s\n", megabytes(s.Today.UpBytes), megabytes(s.Today.DownBytes), limit)
	if len(s.Waiting) == 0 {
		fmt.Fprintf(t, "waiting\tnothing\n")
	}
	for _, q := range s.Waiting {
		since := ""
		if q.Since != nil {
			since = " since " + q.Since.Local().Format("2 Jan 15:04")
		}
		fmt.Fprintf(t, "waiting\t%d%s: %s\n", q.Count, since, q.What)
	}
	return t.Flush()
}

// megabytes is bytes in the unit of mesh.daily_mb, 2^20.
func megabytes(n int64) float64 { return float64(n) / (1 << 20) }
