package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"rsc.io/qr"

	"gridveil/node"
	"gridveil/node/config"
	"gridveil/node/identity"
)

func initCommand() *cobra.Command {
	var role, name, pair, network, operator, zone string
	c := &cobra.Command{
		Use: "init", Short: "Prepare a data directory for a node",
		Long: "Writes gridveil.toml, which is yours from then on, and draws the node's keys (mode 0600).\nWith --pair the node also joins; with --network a founder's node gets its certificate.",
		Example: `  gridveil init --role gateway --data ~/gridveil --pair "gridveil:join?..."
  gridveil init --role utility --data /srv/uta --network ./net --operator utility-a`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !slices.Contains(config.Roles, role) {
				return usage("--role: want one of %s, got %q", strings.Join(config.Roles, ", "), role)
			}
			if pair != "" && network != "" {
				return usage("--pair and --network: a node joins by one of them")
			}
			if zone != "" && network == "" {
				return usage("--zone belongs to --network; a link brings the zone along")
			}
			if (network == "") != (operator == "") {
				return usage("--network and --operator belong together")
			}
			if network != "" { // before anything is written
				n, err := identity.OpenNetwork(network, operator)
				if err != nil {
					return err
				}
				if err := n.May(operator, role, zone); err != nil {
					return err
				}
			}
			if err := node.Init(data(c), role, name); err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "prepared %s for %s; edit %s, then `gridveil run --data %s`\n", data(c), article(role), config.FileName, data(c))
			switch {
			case pair != "":
				if err := join(c, pair, ""); err != nil {
					return fmt.Errorf("%w\nnext: %s is prepared; with a good link, `gridveil join LINK --data %s` goes on", err, data(c), data(c))
				}
				return nil
			case network != "":
				return node.Found(data(c), network, operator, zone)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&role, "role", "", "what the node does: "+strings.Join(config.Roles, ", "))
	f.StringVar(&name, "name", "", "shown on the node's own pages only")
	f.StringVar(&pair, "pair", "", "one-time link, as gridveil invite prints it")
	f.StringVar(&network, "network", "", "founder's network folder, with --operator")
	f.StringVar(&operator, "operator", "", "operator whose key certifies this node")
	f.StringVar(&zone, "zone", "", "zone of an ssn or gateway, with --network")
	_ = c.MarkFlagRequired("role") // the flag exists
	return c
}

func joinCommand() *cobra.Command {
	var seed string
	c := &cobra.Command{
		Use: "join LINK|CODE", Short: "Become a member of a network with a one-time link or code", Args: oneArg("the link or code that `gridveil invite` printed"),
		Long:    "Fetches this node's certificate from the member that printed the link. A link is good once, for\none device and 72 hours. The directory must have been prepared with `gridveil init`. A code alone is\nenough where the operator has installed network.toml and its signatures; it is asked at --seed, or at\nthe installed contacts.",
		Example: "  gridveil join \"gridveil:join?...\" --data ~/gridveil\n  gridveil join 8J4M-T2QK-... --seed /dns/uta.example/tcp/4100/p2p/12D3Koo... --data ~/gridveil",
		RunE:    func(c *cobra.Command, args []string) error { return join(c, args[0], seed) },
	}
	c.Flags().StringVar(&seed, "seed", "", "with a code: the node to enrol at, a multiaddr with /p2p/")
	return c
}

func join(c *cobra.Command, link, seed string) error {
	if err := node.Join(c.Context(), data(c), link, seed); err != nil {
		return err
	}
	fmt.Fprintln(c.ErrOrStderr(), "joined; start the node with: gridveil run --data", data(c))
	return nil
}

func runCommand() *cobra.Command {
	return &cobra.Command{
		Use: "run", Short: "Run the node", Args: noArgs,
		Long:    "Serves the node's role, its dashboard and the other commands until Ctrl-C or SIGTERM. Standard\noutput says where; the log goes to standard error, as JSON unless that is a terminal.",
		Example: "  gridveil run --data ~/gridveil",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.Load(data(c))
			if err != nil {
				return err
			}
			return node.Run(c.Context(), data(c), node.Options{Log: logger(c.ErrOrStderr(), cfg.Log.Level)}, func(n fmt.Stringer) {
				fmt.Fprintln(c.OutOrStdout(), n)
			})
		},
	}
}

// logger writes text for people and JSON for machines.
func logger(w io.Writer, level string) *slog.Logger {
	var l slog.Level
	if l.UnmarshalText([]byte(level)) != nil {
		l = slog.LevelInfo // the configuration was checked
	}
	opts := &slog.HandlerOptions{Level: l}
	if f, ok := w.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

func statusCommand() *cobra.Command {
	var asJSON bool
	var wait time.Duration
	c := &cobra.Command{
		Use: "status", Short: "Say how the running node is doing", Args: noArgs,
		Long:    "Role, key, neighbours and standing problems, each with what to do next.\nExit code 0: fine; 1: no node answers; 3: it runs with a standing fault.",
		Example: "  gridveil status --data ~/gridveil\n  gridveil status --wait 10s --json",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := node.AskStatus(c.Context(), data(c))
			for until := time.Now().Add(wait); err != nil && time.Now().Before(until) && c.Context().Err() == nil; {
				time.Sleep(200 * time.Millisecond) // nobody to wake us: the node is another process
				s, err = node.AskStatus(c.Context(), data(c))
			}
			if err != nil {
				return explain(c, err)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), s)
			}
			return printStatus(c.OutOrStdout(), s)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	c.Flags().DurationVar(&wait, "wait", 0, "wait so long for the node to answer")
	return c
}

func printStatus(w io.Writer, s node.Status) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(t, "role\t%s", s.Role)
	if s.Operator != "" {
		fmt.Fprintf(t, " of %s", s.Operator)
	}
	fmt.Fprintln(t)
	if s.Zone != "" {
		fmt.Fprintf(t, "zone\t%s\n", s.Zone)
	}
	if s.Key != "" {
		fmt.Fprintf(t, "key\t%s\n", s.Key)
	}
	if s.Cluster != "" {
		fmt.Fprintf(t, "cluster\tthis machine %s\n", s.Cluster)
	}
	fmt.Fprintf(t, "up\t%s\n", s.Uptime)
	if s.Onion == nil { // a machine that stands by
		return t.Flush()
	}
	var peers []string
	for role, n := range s.Peers {
		peers = append(peers, fmt.Sprintf("%d %s", n, role))
	}
	sort.Strings(peers)
	if len(peers) == 0 {
		peers = []string{"none: nobody is connected now"}
	}
	fmt.Fprintf(t, "peers\t%s\n", strings.Join(peers, ", "))
	if s.Onion["meter"] == s.Onion["session"] {
		fmt.Fprintf(t, "private classes\t%v\n", s.Onion["meter"])
	} else {
		fmt.Fprintf(t, "private classes\tmeter %v, session %v\n", s.Onion["meter"], s.Onion["session"])
	}
	fmt.Fprintf(t, "memory\t%.0f MB\n", s.MemoryMB)
	if err := t.Flush(); err != nil {
		return err
	}
	fault := false
	for _, w2 := range s.Warnings {
		fmt.Fprintf(w, "\n%s: %s\n  %s\n", w2.Severity, w2.Title, w2.Text)
		if w2.Next != "" {
			fmt.Fprintf(w, "  next: %s\n", w2.Next)
		}
		fault = fault || w2.Severity == "fault"
	}
	if fault {
		return &exitError{exitDegraded}
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func inviteCommand() *cobra.Command {
	var role, zone string
	var asJSON, asQR bool
	c := &cobra.Command{
		Use: "invite", Short: "Open a one-time code for a new member", Args: noArgs,
		Long:    "Asks the running node, which must be one that certifies others: the first of its operator.\nThe link that it prints is good for one device and 72 hours; `gridveil join` takes it. With --qr it\nis drawn as a QR code as well, to be scanned from the screen.",
		Example: "  gridveil invite --role gateway --zone elm --data /srv/uta\n  gridveil invite --role gateway --zone elm --qr --data /srv/uta",
		RunE: func(c *cobra.Command, _ []string) error {
			inv, err := node.Invite(c.Context(), data(c), role, zone)
			if err != nil {
				return explain(c, err)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), inv)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s\n", inv.Link)
			if asQR {
				drawn, err := drawQR(inv.Link)
				if err != nil {
					return err
				}
				fmt.Fprint(c.ErrOrStderr(), drawn)
			}
			fmt.Fprintf(c.ErrOrStderr(), "code %s for one %s, good until %s and for one device only\n", inv.Code, inv.Role, inv.Expires.Local().Format("2 Jan 15:04"))
			return nil
		},
	}
	c.Flags().StringVar(&role, "role", "", "role of the new member")
	c.Flags().StringVar(&zone, "zone", "", "zone, for a gateway or an ssn")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	c.Flags().BoolVar(&asQR, "qr", false, "draw the link as a QR code as well, on standard error")
	c.MarkFlagsMutuallyExclusive("json", "qr")
	_ = c.MarkFlagRequired("role") // the flag exists
	return c
}

// quiet is the margin that a QR code needs, in modules.
const quiet = 4

// drawQR draws text for a terminal, two rows of modules per line: dark modules
// are left blank and light ones filled, as on a dark screen.
func drawQR(text string) (string, error) {
	c, err := qr.Encode(text, qr.L)
	if err != nil {
		return "", fmt.Errorf("draw QR code: %w", err)
	}
	var b strings.Builder
	for y := -quiet; y < c.Size+quiet; y += 2 {
		for x := -quiet; x < c.Size+quiet; x++ {
			switch upper, lower := c.Black(x, y), c.Black(x, y+1); {
			case upper && lower:
				b.WriteByte(' ')
			case upper:
				b.WriteRune('▄')
			case lower:
				b.WriteRune('▀')
			default:
				b.WriteRune('█')
			}
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}

func configCommand() *cobra.Command {
	return group("config", "Check and explain the configuration", &cobra.Command{
		Use: "check", Short: "Report every mistake in gridveil.toml with its place", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := config.Load(data(c)); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "gridveil.toml is fine")
			return nil
		},
	}, &cobra.Command{
		Use: "keys", Short: "List every key that gridveil.toml may have", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for _, k := range config.Keys() {
				fmt.Fprintln(c.OutOrStdout(), k)
			}
			return nil
		},
	})
}
