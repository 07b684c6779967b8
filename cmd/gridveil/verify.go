package main

import (
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gridveil/node"
	"gridveil/node/site"
)

func verifyCommand() *cobra.Command {
	var policy, meterKey, network string
	var receiptKeys []string
	var asJSON bool
	c := &cobra.Command{
		Use: "verify DIR... | EVIDENCE | STATEMENT | RECORDS", Short: "Verify an exported ledger, evidence, a month's statement or signed meter records, from files alone",
		Long: `Recomputes everything: each entry's form and signatures, every rule, balance, commitment,
blind note, netting, tile and cosignature, and every statement, journal and payment file.
No node, no database and no network are needed. Without --policy the export's own policy
is used, which vouches for itself only: get the policy file from somebody you trust.

Of several folders each must be of the log that goes on where the one before was sealed: the
final checkpoint, its quorum and everything that is carried over are compared.

Of a file of evidence, as a verifier keeps them, it says whether it convicts the log of the
policy, and of what. Evidence of a broken receipt needs the receipt key of the aggregator.

Of a month's statement, as a host or driver prints it with --signed --json, it recomputes each
session: who signed the prices before the first Wh and the result, what the meter signed, energy
and amounts; with --policy also whether entries of the ledger cover the notes. That a meter's key
is the meter's, its label tells.

Of evidence of a meter's reports or of an alarm, as gridveil meter evidence and gridveil alarm
evidence write it, it says what was signed, and by which key. With --network, the network's rules from
somebody you trust, it also says as whom the network certified that key. Whether the certificate was
revoked, and whether there are other reports, no file can say.

Of signed meter records, as the XML file that charging stations and portals hand to customers or as
one OCMF record in a text file, it says of each whether its signature verifies, and how much energy
each session's records prove. Without --meter-key the key that came with a record is used, which
vouches for itself only: the meter's label shows the right one.`,
		Example: "  gridveil verify ./day/export\n  gridveil verify ./export --policy utility.policy\n  gridveil verify E1-300.gvx --policy utility.policy\n  gridveil verify june.json --policy utility.policy\n  gridveil verify reports.json --network network.toml\n  gridveil verify charging.xml --meter-key 3059301306072A8648CE3D...",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("want the folder of an export, or a file: evidence, a statement in JSON or signed meter records")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if node.IsMeterEvidence(args[0]) {
				return verifyMeterEvidence(c, args[0], network, asJSON)
			}
			if network != "" {
				return usage("--network is for evidence of a meter's reports or of an alarm, and %s is none", args[0])
			}
			if strings.HasSuffix(args[0], ".json") {
				return verifyStatement(c, args[0], policy, asJSON)
			}
			if info, err := os.Stat(args[0]); err == nil && info.Mode().IsRegular() {
				if node.IsSignedRecords(args[0]) {
					return verifyRecords(c, args[0], meterKey, asJSON)
				}
				if policy == "" {
					return usage("evidence is judged by the policy of its log: want --policy FILE")
				}
				return verifyEvidence(c, args[0], policy, receiptKeys, asJSON)
			}
			if len(args) > 1 {
				return verifyShards(c, args, policy, asJSON)
			}
			r, err := node.VerifyExport(args[0], policy)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), r)
			}
			printExport(c, r)
			return nil
		},
	}
	c.Flags().StringVar(&policy, "policy", "", "policy file: which log, which verifiers, how many of them")
	c.Flags().StringArrayVar(&receiptKeys, "receipt-key", nil, "for evidence of a broken receipt: the aggregator's receipt key, 64 hex digits")
	c.Flags().StringVar(&meterKey, "meter-key", "", "for signed meter records: the key on the meter's label, in hex or base64")
	c.Flags().StringVar(&network, "network", "", "for evidence of reports or of an alarm: network.toml, its signatures beside it, or their folder")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func verifyShards(c *cobra.Command, dirs []string, policy string, asJSON bool) error {
	list, err := node.VerifyShards(dirs, policy)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), list)
	}
	for _, r := range list {
		printExport(c, r)
	}
	return nil
}

func printExport(c *cobra.Command, r node.LedgerReport) {
	out := c.OutOrStdout()
	fmt.Fprintf(out, "verified %s: %d entries in %d files\n", r.Origin, r.Entries, r.Files)
	if r.After != "" {
		fmt.Fprintf(out, "goes on from %s\n", r.After)
	}
	if r.Sealed != "" {
		fmt.Fprintf(out, "sealed, goes on as %s\n", r.Sealed)
	}
	fmt.Fprintf(out, "cosigned by %s\n", strings.Join(r.Cosigners, ", "))
	var names []string
	for n := range r.Balances {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		fmt.Fprintf(out, "  %-32s %s\n", n, r.Balances[n])
	}
	if !r.Trusted {
		fmt.Fprintln(c.ErrOrStderr(), "gridveil: hint: this used the export's own policy; compare it with --policy FILE from a party you trust")
	}
}

// verifyRecords prints each record and what each session's records prove. A record
// that does not verify makes the command fail.
func verifyRecords(c *cobra.Command, file, key string, asJSON bool) error {
	s, err := node.VerifyRecords(file, key)
	if err != nil {
		return err
	}
	if asJSON {
		if err := printJSON(c.OutOrStdout(), s); err != nil {
			return err
		}
	} else {
		printRecords(c.OutOrStdout(), s)
	}
	if !s.Sound() {
		return &exitError{exitFailed}
	}
	if !s.Confirmed && !asJSON {
		fmt.Fprintln(c.ErrOrStderr(), "gridveil: hint: this used the keys that came with the records; compare them with the meter's label, or give that with --meter-key")
	}
	return nil
}

func printRecords(w io.Writer, s node.SignedRecords) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "session\tmeter\tpage\tlast reading\tkey\tverdict")
	for _, v := range s.Values {
		at := ""
		if !v.To.IsZero() {
			at = v.To.Local().Format("2 Jan 2006 15:04:05")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", v.Transaction, v.Meter, v.Page, at, v.Key, v.Verdict)
	}
	_ = t.Flush() // a terminal that is gone needs no answer
	for _, x := range s.Charged {
		name := "session"
		if x.Transaction != "" {
			name += " " + x.Transaction
		}
		if x.Billable {
			fmt.Fprintf(w, "%s: %s into the car, %s out of it; %s\n", name, site.Energy(x.ImportMWh), site.Energy(x.ExportMWh), x.Verdict)
		} else {
			fmt.Fprintf(w, "%s: %s\n", name, x.Verdict)
		}
	}
}

func verifyStatement(c *cobra.Command, file, policy string, asJSON bool) error {
	j, err := node.VerifyStatement(file, policy)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), j)
	}
	out, open := c.OutOrStdout(), 0
	fmt.Fprintf(out, "statement of a %s, %s: %d sessions proved, %d only shown\n", j.Of, j.Month, j.Proved, j.Unproved)
	for _, s := range j.Sessions {
		open += s.Open
		printJudged(out, s)
	}
	if len(j.Unsettled) > 0 {
		fmt.Fprintf(out, "signed and never settled, in no sum: %d\n", len(j.Unsettled))
	}
	for _, s := range j.Unsettled {
		printJudged(out, s)
	}
	if j.Proved+open > 0 && policy == "" {
		fmt.Fprintln(c.ErrOrStderr(), "gridveil: hint: the ledger's entries were not looked at; name its policy with --policy FILE")
	}
	return nil
}

func printJudged(out io.Writer, s node.JudgedSession) {
	fmt.Fprintf(out, "  %s  %.3f kWh in, %.3f kWh out, paid %s EUR, earned %s EUR: %s\n", s.ID, float64(s.InMWh)/1e6, float64(s.OutMWh)/1e6, exactEuros(s.Paid), exactEuros(s.Earned), s.Agreed)
	if s.Proved {
		fmt.Fprintf(out, "           agreed before the first Wh, EUR per kWh: roof %s, grid %s, to the house %s, to the grid %s\n", exactEuros(s.Prices.Roof), exactEuros(s.Prices.Grid), exactEuros(s.Prices.House), exactEuros(s.Prices.Export))
		fmt.Fprintf(out, "           meter key %s\n", s.MeterKey)
	}
	if s.OnLedger {
		fmt.Fprintln(out, "           an entry of the ledger stands for exactly this")
	}
	if s.Notes > 0 {
		fmt.Fprintln(out, "           its notes are covered by the ledger")
	}
}

// exactEuros is an amount in millionths to a hundredth of a cent, as prices are.
func exactEuros(v int64) string {
	return strings.TrimSuffix(fmt.Sprintf("%.4f", float64(v)/1e6), "00")
}

func verifyEvidence(c *cobra.Command, file, policy string, keys []string, asJSON bool) error {
	v, err := node.VerifyEvidence(file, policy, keys)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), v)
	}
	out := c.OutOrStdout()
	fmt.Fprintf(out, "%s convicts %s: %s\n", v.Kind, v.Log, v.Shows)
	fmt.Fprintf(out, "checkpoints of %s entries, signed by the log\n", strings.Trim(strings.ReplaceAll(fmt.Sprint(v.Sizes), " ", " and "), "[]"))
	if v.Index != nil {
		fmt.Fprintf(out, "entry %d, leaf %s\n", *v.Index, v.Leaf)
	}
	if v.By != "" {
		fmt.Fprintf(out, "%s objects: %s; replaying the log up to there shows whether it is right\n", v.By, v.Reason)
	}
	return nil
}
