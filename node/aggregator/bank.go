package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/mesh"
	"gridveil/node/party"
)

// Teller compares this operator's bank statements with the ledger that it writes.
func (a *Aggregator) Teller() *party.Teller {
	return &party.Teller{Env: a.env, Key: a.entry, Copy: a.copy, Me: func() ledger.PartyID { return 1 },
		Enter: func(ctx context.Context, id [32]byte, body ledger.Body) (string, error) {
			w := a.book()
			if w == nil {
				return "", errNoBook
			}
			r, err := a.enterOne(ctx, w, id, body, nil)
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("entry %d", r.index), nil
		}}
}

// failedAgain is when a payee may ask again while the ledger is not open here.
const failedAgain = time.Minute

// takeFailed signs an operator's entry that puts a payment to it back on the open
// books, if the ledger's rules allow it now. No bank is asked: who wrongly says
// that nothing came is contradicted by the payer's own statement, which carries
// the payment's id.
func (a *Aggregator) takeFailed(from mesh.Member, b []byte) ([]byte, error) {
	e, err := ledger.Parse(b)
	if err != nil {
		return nil, err
	}
	body, ok := e.Body().(*ledger.Failed)
	if !ok {
		return nil, party.ErrCall
	}
	open := a.Read(func(s *ledger.State) { err = mayFail(s, from.Operator, e, body) })
	if !open {
		return nil, &mesh.BusyError{After: failedAgain}
	}
	if err != nil {
		return nil, err
	}
	if err := ledger.Sign(e, a.origin, a.entry); err != nil {
		return nil, err
	}
	a.env.Log.Warn("a payment between operators did not arrive", "period", body.Period, "payment", body.No)
	return e.Bytes(), nil
}

// mayFail says whether an operator may put a payment back on the open books.
func mayFail(s *ledger.State, operator string, e *ledger.Entry, f *ledger.Failed) error {
	for _, p := range s.Payments(f.Cur) {
		if p.Period != f.Period || p.No != f.No {
			continue
		}
		switch {
		case p.Payee != e.Party() || s.Parties()[p.Payee-1].Name != operator:
			return errors.New("only the payee may say that a payment did not arrive")
		case p.State != ledger.PayDue:
			return fmt.Errorf("the payment is entered as %s", p.State)
		case uint64(s.Bucket()) < p.Grace:
			return fmt.Errorf("the payment may still arrive until %s", time.UnixMilli(int64(p.Grace*s.Params().BucketMs)).UTC().Format(time.RFC3339))
		}
		return nil
	}
	return errors.New("no such payment")
}

// PaymentFiles are the payment files of all final closes, as an export holds
// them.
func (a *Aggregator) PaymentFiles() ([]export.PaymentFile, error) {
	c, ok := a.copy()
	if !ok {
		return nil, errNoBook
	}
	closes, err := c.Closings()
	if err != nil {
		return nil, err
	}
	accounts, err := a.accounts()
	if err != nil {
		return nil, err
	}
	var files []export.PaymentFile
	a.Read(func(s *ledger.State) {
		b := &export.Book{Origin: s.Origin(), State: s, Closes: closes}
		files, err = b.Payments(accounts)
	})
	return files, err
}
