package aggregator

import (
	"context"
	"errors"
	"fmt"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/ledger/writer"
	"gridveil/node/role"
)

// blockSize is how many entries one bundle of an export holds (C2SP tlog-tiles).
const blockSize = 256

// final is the ledger's final part as a source of exports.
type final struct {
	w    *writer.Writer
	note []byte
}

// Checkpoint implements export.Source.
func (f final) Checkpoint() ([]byte, error) { return f.note, nil }

// Bundle implements export.Source.
func (f final) Bundle(n uint64, width int) (b []byte, err error) {
	for i := range uint64(width) {
		raw, err := f.w.Entry(n*blockSize + i)
		if err != nil {
			return nil, err
		}
		b = ledger.AppendBundle(b, raw)
	}
	return b, nil
}

// Export writes archive, statements, journals and payment files of the final
// ledger into a folder; "" means export in the data directory. `gridveil verify`
// judges the folder by its files alone.
func (a *Aggregator) Export(dir string) (export.Report, error) {
	if dir == "" {
		dir = a.env.Config.Path("export")
	}
	w := a.book()
	if w == nil {
		return export.Report{}, errNoBook
	}
	_, note := w.Final()
	if note == nil {
		return export.Report{}, errors.New("no part of the ledger is final yet; try again when its cosigners are here")
	}
	accounts, err := a.accounts()
	if err != nil {
		return export.Report{}, err
	}
	a.bookMu.RLock()
	policy := a.policy
	a.bookMu.RUnlock()
	a.exporting.Lock() // one at a time: they replace one folder
	defer a.exporting.Unlock()
	r, err := export.Archive(dir, final{w, note}, export.Config{Policy: policy, Accounts: accounts})
	if err != nil {
		return r, fmt.Errorf("export: %w", err)
	}
	return r, nil
}

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
