package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node/aggregator"
	"gridveil/node/control"
)

func ledgerSeal() *cobra.Command {
	var yes, asJSON bool
	c := &cobra.Command{
		Use: "seal", Short: "Close the year's log of a running aggregator and begin the next one", Args: noArgs,
		Long: `The log gets a last entry that names the one that goes on. Once the cosigners have signed its end, the
next log begins with that signed checkpoint and the hash of everything that is carried over: balances,
sessions that are not settled, notes that are out, open cases, open payments. Every node follows by
itself and checks this. The old log becomes flat files, which are read back and compared before its
database is removed; they are served and verified like before. It cannot be undone.

On several machines (doc/cluster.md) give it on the one that leads. All machines go on to the next log
at the same step, and the service is away for as long as when that machine is gone.

Exit code 0: the next log has begun; 1: refused, or nothing was answered at the terminal; 3: the log is
sealed and waits for its cosigners; give the command again to wait for them.`,
		Example: "  gridveil ledger seal --data /srv/evagg\n  gridveil ledger seal --yes --json --data /srv/evagg",
		RunE: func(c *cobra.Command, _ []string) error {
			var p aggregator.SealPlan
			if err := ask(c, "ledger-seal", aggregator.SealCall{}, &p, "aggregator"); err != nil {
				return err
			}
			if !asJSON {
				printSealPlan(c.OutOrStdout(), p)
			}
			if !p.Sealed && !yes && !confirmed(c, "Seal this log for good?") {
				return fmt.Errorf("nothing was sealed\nnext: answer y, or give --yes where nobody can be asked")
			}
			if err := sealAndAwait(c, &p); err != nil {
				return err
			}
			if asJSON {
				if err := printJSON(c.OutOrStdout(), p); err != nil {
					return err
				}
			} else if p.Begun {
				fmt.Fprintf(c.OutOrStdout(), "sealed; the ledger goes on as %s\n", p.Next)
			} else {
				fmt.Fprintf(c.OutOrStdout(), "sealed; %s begins once the quorum has signed the end (`gridveil ledger status` names who has not)\n", p.Next)
			}
			if !p.Begun {
				return &exitError{exitDegraded}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

// Of a cluster, whose machines all begin anew at a border.
const (
	sealPatience = 2 * time.Minute
	sealLook     = 500 * time.Millisecond
)

// sealAndAwait has the planned log sealed and waits until the next one has begun,
// or p says that it has not.
func sealAndAwait(c *cobra.Command, p *aggregator.SealPlan) error {
	call := aggregator.SealCall{Next: p.Next}
	several := p.Machines > 1
	err := ask(c, "ledger-seal", call, p, "aggregator")
	for deadline := time.Now().Add(sealPatience); several && !p.Begun && c.Context().Err() == nil && time.Now().Before(deadline); {
		var refused *control.Error
		if err != nil && errors.As(err, &refused) && !p.Sealed {
			return err // it answers, and has not sealed
		}
		select {
		case <-c.Context().Done():
		case <-time.After(sealLook):
		}
		err = ask(c, "ledger-seal", call, p, "aggregator")
	}
	if p.Sealed {
		return c.Context().Err()
	}
	return err
}

func printSealPlan(w io.Writer, p aggregator.SealPlan) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(t, "log\t%s, %d entries\ngoes on as\t%s\nsigned by\t%s\n", p.Origin, p.Entries, p.Next, p.Cosigners)
	fmt.Fprintf(t, "carried over\t%d sessions waiting to be settled, %d open cases, %d payments not confirmed, notes of %s\n", p.Waiting, p.Cases, p.Payments, p.Notes)
	fmt.Fprintf(t, "flat files\t%s\n", p.Files)
	if p.Machines > 1 {
		fmt.Fprintf(t, "machines\t%d, which all begin anew with the next log: nothing is taken for some seconds\n", p.Machines)
	}
	if p.Sealed {
		fmt.Fprintf(t, "state\tsealed already; the next log begins when the quorum has signed\n")
	}
	_ = t.Flush() // a terminal that is gone needs no answer
}
