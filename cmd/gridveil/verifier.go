package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node"
	"gridveil/node/verifier"
)

// defaultWatch is where a verifier keeps its copy if --data says nothing.
const defaultWatch = "gridveil-verifier"

func verifierCommand() *cobra.Command {
	var o node.WatchOptions
	var once, asJSON, verbose bool
	c := &cobra.Command{
		Use: "verifier", Short: "Follow and check a ledger from outside, by its log and a policy file",
		Long: `Fetches every entry of the log, replays it, recomputes every balance, and holds the
cosignatures against the policy file, which says which log and which witnesses are meant. It
needs no membership, sends nothing but requests for files and opens no door unless --page or
--serve say so. What it checked is kept in --data and survives any end of the program; it goes
on from there.

Of an entry that breaks a rule it names the index. Two histories, a broken receipt or such an
entry give a file of evidence in the folder evidence of --data, which anybody judges with
` + "`gridveil verify FILE --policy POLICY`" + `. A second history is found by comparing: witnesses
with a URL in the policy are asked, and every --peer.

A log that is sealed is checked to its end; then the next one is followed, which must begin with that
end and with what was carried over, and the sealed one becomes flat files in --data. A policy that
names a later log is followed from the ledger's first one.

With --serve it is a mirror: it serves the whole copy, signed with its own key, so that others
need not ask the log. Its key is printed with --once and on the page; it is the line "witness"
of a policy.

With --once exit code 0: sound; 1: the log is convicted, or its evidence cannot be kept; 3: it
could not be checked now, or the quorum has not signed.`,
		Example: "  gridveil verifier --log http://log.example.org:7081 --policy utility.policy --page 127.0.0.1:7090\n" +
			"  gridveil verifier --log http://log.example.org:7081 --policy utility.policy --once --json   # for cron\n" +
			"  gridveil verifier --policy utility.policy --serve 0.0.0.0:7082                              # a mirror",
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Every < time.Second {
				return usage("--every: want 1s or more, got %v", o.Every)
			}
			if once && (o.Page != "" || o.Serve != "") {
				return usage("--page and --serve belong to a verifier that goes on, not to --once")
			}
			o.Dir = defaultWatch
			if c.Flags().Changed("data") {
				o.Dir = data(c)
			}
			o.Logger = slog.New(slog.DiscardHandler)
			if verbose {
				o.Logger = logger(c.ErrOrStderr(), "info")
			}
			if once {
				return watchOnce(c, o, asJSON)
			}
			told := teller(c.OutOrStdout(), o.Dir, asJSON)
			return node.RunWatch(c.Context(), o, func(page, mirror string) {
				if page != "" {
					fmt.Fprintf(c.ErrOrStderr(), "page      %s\n", page)
				}
				if mirror != "" {
					fmt.Fprintf(c.ErrOrStderr(), "mirror    %s\n", mirror)
				}
			}, told)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Log, "log", "", "where the log is served: URL or multiaddr; without it the policy's log line says so")
	f.StringVar(&o.Policy, "policy", "", "policy file: which log, which witnesses, how many of them")
	f.StringArrayVar(&o.Peers, "peer", nil, "another place that serves the log's checkpoint and tiles, such as a mirror; may be repeated")
	f.StringArrayVar(&o.Receipts, "receipt", nil, "file with a receipt of the log, which must have kept it; may be repeated")
	f.StringVar(&o.After, "after", "", "begin with a later log than the ledger's first: the folder with the export of the sealed one before it")
	f.DurationVar(&o.Every, "every", time.Minute, "time between two looks")
	f.StringVar(&o.Page, "page", "", "loopback address of a page that shows what was checked")
	f.StringVar(&o.Serve, "serve", "", "address at which the copy is served as a mirror")
	f.BoolVar(&once, "once", false, "look once and exit")
	f.BoolVar(&asJSON, "json", false, "print one JSON object; without --once one on each change, a line each")
	f.BoolVar(&verbose, "verbose", false, "show what happens on the way")
	_ = c.MarkFlagRequired("policy") // the flag exists
	return c
}

func watchOnce(c *cobra.Command, o node.WatchOptions, asJSON bool) error {
	r, err := node.WatchOnce(c.Context(), o)
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(c.OutOrStdout(), r)
	} else {
		printReport(c.OutOrStdout(), o.Dir, r)
	}
	switch {
	case err != nil:
		return err
	case r.Verdict.Convicts():
		return &exitError{exitFailed}
	case r.Verdict != verifier.Sound:
		return &exitError{exitDegraded}
	}
	return nil
}

// printReport writes what a look found, for people.
func printReport(w io.Writer, dir string, r verifier.Report) {
	fmt.Fprintf(w, "%s: %s\n", r.Verdict, r.Text)
	fmt.Fprintf(w, "log       %s at %s\n", r.Origin, r.Log)
	fmt.Fprintf(w, "copy      %d entries, root %.16s, state %.16s\n", r.Entries, r.Root, r.State)
	if !r.LogTime.IsZero() {
		fmt.Fprintf(w, "log time  %s\n", r.LogTime.Local().Format("2 Jan 2006 15:04:05"))
	}
	for _, x := range r.Shards {
		fmt.Fprintf(w, "before    %s: %s\n", x.Origin, x)
	}
	if r.Sealed != "" {
		fmt.Fprintf(w, "sealed    goes on as %s\n", r.Sealed)
	}
	for _, x := range r.Cosigned {
		fmt.Fprintf(w, "signed    %s, %s\n", x.Name, x.At.Local().Format("2 Jan 2006 15:04:05"))
	}
	for _, p := range r.Peers {
		fmt.Fprintf(w, "peer      %s: %s\n", p.URL, p.Text)
	}
	for _, p := range r.Receipts {
		fmt.Fprintf(w, "receipt   %s, entry %d: %s\n", p.Name, p.Index, p.Text)
	}
	for _, f := range r.Evidence {
		fmt.Fprintf(w, "evidence  %s%cevidence%c%s: %s\n", dir, os.PathSeparator, os.PathSeparator, f.Name, f.Kind)
	}
	if f := r.Failed; f != nil && r.Verdict == verifier.Sound {
		fmt.Fprintf(w, "failed    the last time %s: %s\n", f.At.Local().Format("2 Jan 2006 15:04:05"), f.Text)
	}
	fmt.Fprintf(w, "own key   %s\n", r.Key)
}

// teller prints a report when what it says has changed.
func teller(w io.Writer, dir string, asJSON bool) func(verifier.Report) {
	var last, origin string
	return func(r verifier.Report) {
		now := fmt.Sprint(r.Origin, r.Verdict, r.Text, r.Entries, r.Peers, r.Evidence)
		if now == last {
			return
		}
		last = now
		if asJSON {
			_ = json.NewEncoder(w).Encode(r) // nobody reads any more
			return
		}
		if origin != "" && origin != r.Origin {
			fmt.Fprintf(w, "%s  %s is sealed; the ledger goes on as %s\n", r.Looked.Local().Format("15:04:05"), origin, r.Origin)
		}
		origin = r.Origin
		fmt.Fprintf(w, "%s  %s\n", r.Looked.Local().Format("15:04:05"), r.Text)
		for _, f := range r.Evidence {
			fmt.Fprintf(w, "          evidence %s%cevidence%c%s: %s\n", dir, os.PathSeparator, os.PathSeparator, f.Name, f.Kind)
		}
	}
}
