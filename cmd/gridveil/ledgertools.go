package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node"
	"gridveil/node/party"
)

// followers are the roles that have a copy of the ledger.
var followers = []string{"utility", "aggregator", "verifier"}

func ledgerStatus() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "Say how far the ledger is final, who signed it when, and what this operator owes", Args: noArgs,
		Long: `Exit code 0: the ledger is sound; 1: the node cannot answer; 3: the ledger contradicts itself or
its accounts do not sum to zero.`,
		Example: "  gridveil ledger status --data /srv/uta\n  gridveil ledger status --json --data /srv/uta",
		RunE: func(c *cobra.Command, _ []string) error {
			var s party.LedgerStatus
			if err := ask(c, "ledger-status", nil, &s, followers...); err != nil {
				return err
			}
			if asJSON {
				if err := printJSON(c.OutOrStdout(), s); err != nil {
					return err
				}
			} else {
				printLedgerStatus(c.OutOrStdout(), s)
			}
			if !s.Sound() {
				return &exitError{exitDegraded}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func printLedgerStatus(w io.Writer, s party.LedgerStatus) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(t, "ledger\t%s\nentries\t%d, of which %d are final\n", s.Origin, s.Size, s.Final)
	if !s.LogTime.IsZero() {
		fmt.Fprintf(t, "log time\t%s, settlement day %d\n", s.LogTime.Local().Format("2 Jan 15:04:05"), s.Day)
	}
	for _, x := range s.Shards {
		fmt.Fprintf(t, "shard %d\t%s: %s\n", x.No, x.Origin, x.Text())
	}
	fmt.Fprintf(t, "quorum\t%s\n", s.Quorum)
	for _, c := range s.Cosigners {
		state := "has not signed the newest checkpoint"
		if c.OK {
			state = "signed " + (time.Duration(c.Age) * time.Second).String() + " ago"
		}
		fmt.Fprintf(t, "  %s\t%s\n", c.Name, state)
	}
	if s.Party == 0 {
		fmt.Fprintf(t, "operator\tnot registered yet\n")
	} else {
		fmt.Fprintf(t, "operator\t%s, party %d\nopen\t%s\ndue by bank\t%s\n", s.Name, s.Party, s.Open, s.Due)
	}
	fmt.Fprintf(t, "waiting\t%d own entries\nsum of all\t%d\n", s.Waiting, s.SumMicro)
	if s.Contradictions > 0 {
		fmt.Fprintf(t, "FORK\tthe log contradicts itself; the evidence is at this node's witness door\n")
	}
	_ = t.Flush() // a terminal that is gone needs no answer
}

func ledgerVerify() *cobra.Command {
	var archive, policy, proof, leaf string
	var asJSON bool
	c := &cobra.Command{
		Use: "verify", Short: "Replay the ledger of a node or of an export, or check one proof", Args: noArgs,
		Long: `Without flags the running node replays its own copy of the final ledger from the first entry:
every signature, rule, balance and the root; after a seal, that of the log that grows, while those
before it are files for ` + "`gridveil verify`" + `. With --archive the files of an export are verified as
by ` + "`gridveil verify`" + `. With --proof one downloaded .tlog-proof is checked against an entry's leaf hash.

Exit code 0: everything holds; 1: something does not, and the error names the first bad entry.`,
		Example: "  gridveil ledger verify --data /srv/uta\n  gridveil ledger verify --archive ./export --policy utility.policy\n  gridveil ledger verify --proof entry-17.tlog-proof --leaf 5d0c... --policy utility.policy",
		RunE: func(c *cobra.Command, _ []string) error {
			if proof != "" && archive != "" {
				return usage("--archive and --proof exclude each other")
			}
			if proof != "" {
				return verifyProof(c, proof, leaf, policy, asJSON)
			}
			var r node.LedgerReport
			var err error
			if archive != "" {
				r, err = node.VerifyExport(archive, policy)
			} else {
				err = ask(c, "ledger-verify", nil, &r, followers...)
			}
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), r)
			}
			fmt.Fprintf(c.OutOrStdout(), "verified %s: %d entries, root %s\ncosigned by %s\n", r.Origin, r.Entries, r.Root, strings.Join(r.Cosigners, ", "))
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&archive, "archive", "", "folder of an export, instead of the running node")
	f.StringVar(&policy, "policy", "", "policy file, for --archive and --proof")
	f.StringVar(&proof, "proof", "", "a .tlog-proof file")
	f.StringVar(&leaf, "leaf", "", "with --proof: the entry's leaf hash, 64 hexadecimal digits")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func verifyProof(c *cobra.Command, file, leaf, policy string, asJSON bool) error {
	r, err := node.VerifyProof(file, leaf, policy)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), r)
	}
	fmt.Fprintf(c.OutOrStdout(), "entry %d is in %s, under a checkpoint of %d entries\ncosigned by %s\n", r.Index, r.Origin, r.Size, strings.Join(r.Cosigners, ", "))
	return nil
}

func ledgerProof() *cobra.Command {
	var archive string
	var asJSON bool
	c := &cobra.Command{
		Use: "proof INDEX", Short: "Print the .tlog-proof that an entry is in the final ledger", Args: oneArg("the index of an entry"),
		Long:    "The proof convinces whoever has the ledger's policy file, without this node: see `gridveil ledger verify`.\n\nExit code 0: printed; 1: the entry is not final or the node cannot answer.",
		Example: "  gridveil ledger proof 17 --data /srv/uta > entry-17.tlog-proof\n  gridveil ledger proof 17 --archive ./export",
		RunE: func(c *cobra.Command, args []string) error {
			index, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil {
				return usage("want the index of an entry, from 0, got %q", args[0])
			}
			var text string
			if archive != "" {
				text, err = node.ArchivedProof(archive, index)
			} else {
				err = ask(c, "proof", index, &text, followers...)
			}
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]any{"index": index, "proof": text})
			}
			fmt.Fprint(c.OutOrStdout(), text)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&archive, "archive", "", "folder of an export, instead of the running node")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func ledgerStatement() *cobra.Command {
	var archive, currency, format string
	var asJSON bool
	c := &cobra.Command{
		Use: "statement PARTY [PERIOD]", Short: "Print what moved on an operator's books between two closes", Args: cobra.RangeArgs(1, 2),
		Long: `PARTY is a number, an operator's name, or "households" for the common books; PERIOD ends with the
close of that number and is the open one if it is left out. Text, JSON and CSV come from one query.

Exit code 0: printed; 1: there is no such statement or the node cannot answer.`,
		Example: "  gridveil ledger statement northgrid 3 --data /srv/uta\n  gridveil ledger statement households --format csv --data /srv/uta\n  gridveil ledger statement 2 1 --archive ./export --json",
		RunE: func(c *cobra.Command, args []string) error {
			period := uint64(0)
			if len(args) > 1 {
				var err error
				if period, err = strconv.ParseUint(args[1], 10, 32); err != nil || period == 0 {
					return usage("want the number of a period, from 1, got %q", args[1])
				}
			}
			if asJSON {
				format = "json"
			}
			var s node.LedgerStatement
			var err error
			if archive != "" {
				s, err = node.ArchivedStatement(archive, args[0], uint32(period), currency)
			} else {
				err = ask(c, "statement", map[string]any{"party": args[0], "period": period, "currency": currency}, &s, followers...)
			}
			if err != nil {
				return err
			}
			return printAs(c.OutOrStdout(), format, s.Text, s.CSV, s.JSON)
		},
	}
	f := c.Flags()
	f.StringVar(&archive, "archive", "", "folder of an export, instead of the running node")
	f.StringVar(&currency, "currency", "", "code such as EUR; the ledger's first one if left out")
	f.StringVar(&format, "format", "text", "text, csv or json")
	f.BoolVar(&asJSON, "json", false, "the same as --format json")
	return c
}

// printAs prints one of three forms of the same thing.
func printAs(w io.Writer, format string, text, csv func() []byte, json func() ([]byte, error)) error {
	var b []byte
	var err error
	switch format {
	case "text":
		b = text()
	case "csv":
		b = csv()
	case "json":
		b, err = json()
	default:
		return usage("--format: want text, csv or json, got %q", format)
	}
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

func ledgerBackup() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "backup DIR", Short: "Write the whole ledger of a running node into a new folder", Args: oneArg("a new folder"),
		Long: `Writes the final part as an export, the entries behind it, and which root both replay to. The node
goes on meanwhile. An aggregator's backup holds the operators' bank accounts: keep it like a key.

Exit code 0: written and replayed; 1: it failed, and the folder is not a backup.`,
		Example: "  gridveil ledger backup /media/usb/ledger-2026-06-16 --data /srv/evagg",
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			var h node.BackupHead
			if err := ask(c, "ledger-backup", dir, &h, followers...); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), h)
			}
			fmt.Fprintf(c.OutOrStdout(), "wrote %d entries of %s, %d of them final, root %s\n", h.Size, h.Origin, h.Final, h.Root)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func ledgerRestore() *cobra.Command {
	var check, asJSON bool
	var policy string
	c := &cobra.Command{
		Use: "restore DIR --check", Short: "Prove that a backup replays to the root that it states", Args: oneArg("the folder of a backup"),
		Long: `Verifies every entry, signature, rule and file of a backup and compares the root. It needs no node
and changes nothing. A damaged copy is refilled from its peers by the node itself; where no peer is
left, serve the folder archive of a backup over HTTP and name it to ` + "`gridveil ledger repair --from`" + `.

Exit code 0: the backup is whole; 1: it is not, and the error names the file or entry.`,
		Example: "  gridveil ledger restore /media/usb/ledger-2026-06-16 --check\n  gridveil ledger restore ./backup --check --policy utility.policy --json",
		RunE: func(c *cobra.Command, args []string) error {
			if !check {
				return usage("give --check: a backup is only checked here")
			}
			if _, err := os.Stat(args[0]); err != nil {
				return err
			}
			h, err := node.CheckBackup(args[0], policy)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), h)
			}
			fmt.Fprintf(c.OutOrStdout(), "whole: %d entries of %s, %d of them final, root %s\n", h.Size, h.Origin, h.Final, h.Root)
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&check, "check", false, "replay the backup and compare its root")
	f.StringVar(&policy, "policy", "", "policy file; without one that of the backup vouches for itself")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}
