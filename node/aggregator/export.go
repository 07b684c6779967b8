package aggregator

import (
	"context"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/node/party"
	"gridveil/node/role"
)

// newClerk answers questions about the ledger that this node writes.
func (a *Aggregator) newClerk() *party.Clerk {
	return &party.Clerk{Home: a.env.Config.Dir, Me: func() ledger.PartyID { return 1 }, Copy: a.copy, Prove: a.Proof, Now: a.env.Clock.Now, Accounts: a.accounts}
}

// Export writes archive, statements, journals and payment files of the final
// ledger into a folder; see party.Clerk.Export.
func (a *Aggregator) Export(dir string) (export.Report, error) { return a.clerk.Export(dir) }

// exports writes the export folder from time to time, if that is configured.
func (a *Aggregator) exports(ctx context.Context) error {
	every := a.env.Config.Ledger.Export.D()
	if every == 0 {
		return nil
	}
	w := role.Warning{Code: "export-failed", Severity: role.Problem, Title: "The ledger's export cannot be written", Next: "Make room on the disk, or look at the message and export by hand: gridveil ledger export."}
	for {
		a.pause(ctx, every, nil)
		if ctx.Err() != nil {
			return nil
		}
		if _, err := a.Export(""); err != nil && ctx.Err() == nil {
			w.Text = err.Error()
			a.env.Warn.Raise(w, a.env.Clock.Now())
			continue
		}
		a.env.Warn.Clear(w.Code)
	}
}
