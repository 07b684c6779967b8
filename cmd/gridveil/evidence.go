package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node"
	"gridveil/node/evidence"
)

func meterEvidence() *cobra.Command {
	var from, to, out string
	var asJSON bool
	c := &cobra.Command{
		Use: "evidence [USAGEPOINT]", Short: "Write what proves a meter's reports to outsiders into a file",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("want a usage point, or at least its first four digits, and nothing else, got %d arguments", len(args))
			}
			return nil
		},
		Long: `Writes the reports of one meter that overlap the span, as its gateway signed them, with the
gateway's key and the network's certificate of it. The file shows nothing of any other meter. Whoever
gets it needs no node: gridveil verify FILE --network network.toml.

Ask the head-end that collects the meter, or the home's own gateway, which needs no usage point and
keeps what it reported for 400 days. A report counts as soon as the head-end has acknowledged it.`,
		Example: "  gridveil meter evidence 3f9a --from 2026-06-01T00:00:00Z --to 2026-07-01T00:00:00Z --out reports.json --data /srv/headend\n  gridveil meter evidence --from 2026-06-01T00:00:00Z --to 2026-07-01T00:00:00Z --out mine.json --data ./home",
		RunE: func(c *cobra.Command, args []string) error {
			a, err := instant("--from", from)
			if err != nil {
				return err
			}
			b, err := instant("--to", to)
			if err != nil {
				return err
			}
			if !b.After(a) {
				return usage("--to: want an instant after --from")
			}
			q := evidence.Query{From: a, To: b}
			if len(args) == 1 {
				q.UsagePoint = args[0]
			}
			j, err := node.MeterEvidence(c.Context(), data(c), q, out)
			if err != nil {
				return explain(c, err, "headend", "gateway")
			}
			return printWritten(c, j, out, asJSON)
		},
	}
	f := c.Flags()
	f.StringVar(&from, "from", "", "start, RFC 3339")
	f.StringVar(&to, "to", "", "end, RFC 3339")
	outFlags(c, &out, &asJSON)
	_ = c.MarkFlagRequired("from") // the flags exist
	_ = c.MarkFlagRequired("to")
	return c
}

func alarmEvidence() *cobra.Command {
	var out string
	var asJSON bool
	c := &cobra.Command{
		Use: "evidence ID", Short: "Write what proves an alarm to outsiders into a file", Args: oneArg("an alarm's id, or at least its first four digits"),
		Long: `Writes the event as the device signed it, with the device's key and the network's certificate of
it. Of an event that was sealed for the head-end, the head-end and the utility add the key of this one
box, so that an outsider reads it too; a home's own file shows kind, code and time.

Whoever gets the file needs no node: gridveil verify FILE --network network.toml.`,
		Example: "  gridveil alarm evidence 5d0c --out alarm.json --data /srv/uta",
		RunE: func(c *cobra.Command, args []string) error {
			j, err := node.AlarmEvidence(c.Context(), data(c), args[0], out)
			if err != nil {
				return explain(c, err)
			}
			return printWritten(c, j, out, asJSON)
		},
	}
	outFlags(c, &out, &asJSON)
	return c
}

func outFlags(c *cobra.Command, out *string, asJSON *bool) {
	c.Flags().StringVar(out, "out", "", "file to write")
	c.Flags().BoolVar(asJSON, "json", false, "print what the file shows as one JSON object")
	_ = c.MarkFlagRequired("out") // the flag exists
}

// printWritten says what a new file proves, and what an outsider will miss in it.
func printWritten(c *cobra.Command, j node.JudgedEvidence, file string, asJSON bool) error {
	if asJSON {
		return printJSON(c.OutOrStdout(), j)
	}
	if j.Event != nil {
		fmt.Fprintf(c.OutOrStdout(), "event %.8s is in %s\n", j.Event.ID, file)
	} else {
		fmt.Fprintf(c.OutOrStdout(), "%s in %s\n", reportsOf(j), file)
	}
	if !j.Shown {
		fmt.Fprintln(c.ErrOrStderr(), "gridveil: hint: no certificate of the key is known here, so the file proves the key's words and not whose key it is")
	}
	return nil
}

func reportsOf(j node.JudgedEvidence) string {
	first, last := j.Reports[0].Number, j.Reports[len(j.Reports)-1].Number
	if len(j.Reports) == 1 {
		return fmt.Sprintf("1 report, number %d,", first)
	}
	return fmt.Sprintf("%d reports, number %d to %d,", len(j.Reports), first, last)
}

func verifyMeterEvidence(c *cobra.Command, file, network string, asJSON bool) error {
	j, err := node.VerifyMeterEvidence(file, network)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), j)
	}
	out := c.OutOrStdout()
	if j.Event != nil {
		printEvent(out, *j.Event)
	} else if err := printReports(out, j); err != nil {
		return err
	}
	printHolder(out, j, network != "")
	printUnsigned(out, j.Unsigned)
	if j.Shown && network == "" {
		fmt.Fprintln(c.ErrOrStderr(), "gridveil: hint: the certificate was not looked at; name the network's rules, from somebody you trust, with --network network.toml")
	}
	return nil
}

// clockTime is an instant for people, to the second.
func clockTime(t time.Time) string { return t.Local().Format("2 Jan 2006 15:04:05") }

func printReports(w io.Writer, j node.JudgedEvidence) error {
	fmt.Fprintf(w, "%s signed by one key about one meter\n", reportsOf(j))
	switch {
	case j.Gaps > 0:
		fmt.Fprintf(w, "numbers left out between them: %d\n", j.Gaps)
	case len(j.Reports) > 1:
		fmt.Fprintln(w, "each follows the one before it: none is left out between them")
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "number\tfrom\tto\tchannel\tvalues\tfirst\tlast\tunit\tremarks")
	for _, r := range j.Reports {
		remarks := ""
		if r.Simulated {
			remarks = "simulated meter"
		}
		if r.Restarted {
			remarks = joined(remarks, "begins a new chain")
		}
		for _, v := range lines(r.Values) {
			fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", r.Number, clockTime(r.From), clockTime(r.To), v.first.Channel, v.n, v.first.Value, v.last.Value, v.first.Unit, remarks)
		}
	}
	return t.Flush()
}

func joined(a, b string) string {
	if a == "" {
		return b
	}
	return a + ", " + b
}

// line is one channel of one report.
type line struct {
	first, last evidence.Value
	n           int
}

func lines(values []evidence.Value) (out []line) {
	at := map[string]int{}
	for _, v := range values {
		i, ok := at[v.Channel]
		if !ok {
			i = len(out)
			at[v.Channel], out = i, append(out, line{first: v})
		}
		out[i].last = v
		out[i].n++
	}
	return out
}

func printEvent(w io.Writer, e evidence.Raise) {
	what := e.Kind
	if e.Restored {
		what += ", over"
	}
	if e.Warning {
		what += ", a warning"
	}
	fmt.Fprintf(w, "event %.8s: %s, P%d, code %d-%d-%d\n", e.ID, what, e.Priority, e.Profile, e.Log, e.Code)
	fmt.Fprintf(w, "raised %s by the device's clock, which was sure to %v; the device's event number %d\n", clockTime(e.At), time.Duration(e.Unc)*time.Millisecond, e.Number)
	if e.Count > 1 {
		fmt.Fprintf(w, "stands for %d events\n", e.Count)
	}
	if e.Simulated {
		fmt.Fprintln(w, "from a simulated meter")
	}
	switch {
	case e.Sealed:
		fmt.Fprintln(w, "its detail is sealed and not shown")
	case e.Detail != "":
		fmt.Fprintf(w, "detail: %s\n", e.Detail)
	}
}

func printHolder(w io.Writer, j node.JudgedEvidence, asked bool) {
	fmt.Fprintf(w, "key %s\n", j.Key)
	switch h := j.Holder; {
	case h != nil:
		where := ""
		if h.Zone != "" {
			where = ", zone " + h.Zone
		}
		fmt.Fprintf(w, "network %s certified it as %s of operator %s%s, from %s to %s\n", h.Network, h.Role, h.Operator, where, clockTime(h.From), clockTime(h.Until))
		if !h.Covers {
			fmt.Fprintln(w, "not for all of the time that was signed about: this certificate was issued or ended between")
		}
	case asked || !j.Shown:
		fmt.Fprintln(w, "whose key it is, is not shown: the file holds no certificate")
	default:
		fmt.Fprintln(w, "whose key it is, the certificate in the file says; it was not looked at")
	}
}

// printUnsigned prints what nobody signed, as such.
func printUnsigned(w io.Writer, u evidence.Unsigned) {
	say := func(what, text string) { fmt.Fprintf(w, "not proved, said by who made the file: %s %s\n", what, text) }
	if u.UsagePoint != "" {
		say("usage point", u.UsagePoint)
	}
	if u.Received != nil {
		say("received", clockTime(*u.Received))
	}
	if u.Detail != "" {
		say("detail:", u.Detail)
	}
}
