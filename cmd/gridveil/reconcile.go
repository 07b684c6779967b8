package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"gridveil/node"
	"gridveil/node/party"
)

func ledgerReconcile() *cobra.Command {
	var file string
	var overdue, post, yes, asJSON bool
	c := &cobra.Command{
		Use: "reconcile", Short: "Compare a bank statement with the payments that the ledger expects", Args: noArgs,
		Long: `Reads a statement (camt.053) or notification (camt.054) of this operator's bank and matches its
bookings with the payments of all closes, by EndToEndId, amount and currency. With --post, what
arrived is entered as paid and what was sent back, once its grace time is over, as failed; the
same file again enters nothing more. Bookings that are not of the ledger stay in this command.

Exit code 0: done; 1: the file cannot be read or the node refuses; 2: the command line is wrong.`,
		Example: "  gridveil ledger reconcile --statement camt053.xml --data /srv/uta\n  gridveil ledger reconcile --statement camt053.xml --post --yes --data /srv/uta\n  gridveil ledger reconcile --statement camt053.xml --overdue --json --data /srv/uta",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := node.ReadStatement(file)
			if err != nil {
				return err
			}
			run := func(post bool) (r party.Reconciliation, err error) {
				q := map[string]any{"statement": s, "overdue": overdue, "post": post}
				return r, ask(c, "reconcile", q, &r, "utility", "aggregator", "verifier")
			}
			r, err := run(false)
			if err != nil {
				return err
			}
			if !asJSON {
				printReconciliation(c.OutOrStdout(), r)
			}
			if post && r.Proposals > 0 {
				if !yes && !confirmed(c, fmt.Sprintf("Enter %d of these on the ledger?", r.Proposals)) {
					return fmt.Errorf("nothing was entered\nnext: answer y, or give --yes where nobody can be asked")
				}
				if r, err = run(true); err != nil {
					return err
				}
				if !asJSON {
					printEntered(c.OutOrStdout(), r)
				}
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), r)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&file, "statement", "", "file of the bank: camt.053 or camt.054, at most 64 MiB")
	f.BoolVar(&overdue, "overdue", false, "also propose as failed what is due, not in this file, and beyond its grace time")
	f.BoolVar(&post, "post", false, "enter the proposals on the ledger, after a question")
	f.BoolVar(&yes, "yes", false, "with --post: do not ask")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	_ = c.MarkFlagRequired("statement") // the flag exists
	return c
}

// confirmed asks the person at the terminal; nobody there means no.
func confirmed(c *cobra.Command, question string) bool {
	if f, ok := c.InOrStdin().(*os.File); ok && !isatty.IsTerminal(f.Fd()) {
		return false
	}
	fmt.Fprint(c.ErrOrStderr(), question+" [y/N] ")
	answer, _ := bufio.NewReader(c.InOrStdin()).ReadString('\n') // an end without a line is no
	return strings.EqualFold(strings.TrimSpace(answer), "y")
}

func printReconciliation(w io.Writer, r party.Reconciliation) {
	fmt.Fprintf(w, "%s, settlement day %d, %s\n", r.Operator, r.Day, r.Message)
	if len(r.Rows) == 0 {
		fmt.Fprintln(w, "nothing is due to this operator, and the statement names no payment of the ledger")
	} else {
		t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		fmt.Fprintln(t, "result\tclose\tpayment\tfrom\tdue\tbooked\tline\tproposed\t")
		for _, x := range r.Rows {
			number := func(n int) string {
				if n == 0 {
					return "-"
				}
				return fmt.Sprint(n)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Verdict, number(int(x.Period)), number(int(x.No)), dash(x.Payer), dash(x.Due), dash(x.Booked), number(x.Line), dash(x.Entry), x.Text)
		}
		_ = t.Flush() // the writer below fails on the next line too
	}
	fmt.Fprintf(w, "%d proposed; %d other bookings in the file\n", r.Proposals, r.Others)
}

func printEntered(w io.Writer, r party.Reconciliation) {
	for _, x := range r.Rows {
		if x.Entry != "" {
			fmt.Fprintf(w, "%s: close %d, payment %d: %s\n", x.Entry, x.Period, x.No, x.State)
		}
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
