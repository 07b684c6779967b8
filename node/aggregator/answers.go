package aggregator

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/node/ask"
	"gridveil/node/party"
	"gridveil/privacy"
	"gridveil/privacy/note"
	"gridveil/privacy/session"
)

// again is how long homes wait before they ask for what the ledger must finish
// first.
const again = time.Minute

// answer registers what homes and wallets may ask by onion.
func (a *Aggregator) answer() {
	for service, ops := range map[mesh.Service]map[ask.Op]func([]byte) ([]byte, error){
		mesh.EVAuth:    {ask.Authorise: a.take(privacy.KindAuthReq), ask.Lock: a.take(privacy.KindLock)},
		mesh.EVRecord:  {ask.Settle: a.take(privacy.KindSettle), ask.Flex: a.takeFlex},
		mesh.EVCollect: {ask.Collect: a.take(privacy.KindCollect, privacy.KindCollectInner), ask.Shares: a.take(privacy.KindShareAsk), ask.Issue: a.issue},
		mesh.Notes:     {ask.Denoms: a.denoms, ask.Swap: a.take(privacy.KindSwap)},
		mesh.Pass:      {ask.PassKey: a.passKey, ask.Passes: a.passes},
		mesh.Dispute:   {ask.Cases: a.cases, ask.Statement: a.statement, ask.Booked: a.booked},
	} {
		desk := &ask.Desk{Answer: func(op ask.Op, body []byte) ([]byte, error) {
			f, ok := ops[op]
			if !ok {
				return nil, &ask.RefusedError{Reason: "this service does not do that"}
			}
			return f(body)
		}}
		a.env.Onion.Handle(service, func(_ context.Context, req []byte) ([]byte, error) { return desk.Handle(req), nil })
	}
}

// take hands a message of one of the kinds to the desk.
func (a *Aggregator) take(kinds ...privacy.Kind) func([]byte) ([]byte, error) {
	return func(body []byte) (out []byte, err error) {
		ok := false
		for _, k := range kinds {
			ok = ok || len(body) > 0 && privacy.Kind(body[0]) == k
		}
		if !ok {
			return nil, &ask.RefusedError{Reason: "the body is no message of this operation"}
		}
		if kinds[0] == privacy.KindAuthReq {
			a.freshDesk()
		} else if !a.Read(func(*ledger.State) {}) {
			return nil, &ask.NotYetError{After: again} // without a ledger nothing is booked
		}
		err = a.withDesk(func(d *settle.Desk) (err error) {
			out, err = d.Take(a.env.Clock.Now(), body)
			return err
		})
		if err == nil && kinds[0] == privacy.KindSettle {
			if err = a.keepRecord(body); err == nil {
				err = a.keepProof(body)
			}
		}
		if kinds[0] != privacy.KindAuthReq {
			a.nudge()
		}
		switch {
		case errors.Is(err, settle.ErrWait), errors.Is(err, settle.ErrBusy), errors.Is(err, session.ErrNotYet):
			return nil, &ask.NotYetError{After: again}
		case errors.Is(err, session.ErrUnknown) && kinds[0] == privacy.KindSettle:
			return nil, &ask.NotYetError{After: again} // a host that was offline asks for authority first
		case err != nil && isFatal(err):
			a.env.Log.Error("message cannot be decided", "err", err)
			return nil, &ask.NotYetError{After: again}
		}
		return out, err
	}
}

// denoms gives a month's mint keys with their proof under a final checkpoint.
func (a *Aggregator) denoms(body []byte) ([]byte, error) {
	currency, epoch, err := ask.ParseDenomsBody(body)
	if err != nil {
		return nil, err
	}
	if currency != ask.Currency {
		return nil, &ask.RefusedError{Reason: "no notes of this currency"}
	}
	if epoch == 0 {
		epoch = note.Epoch(a.env.Clock.Now())
	}
	var index uint64
	known := false
	if !a.Read(func(s *ledger.State) { _, index, _, _, known = s.Denoms(0, epoch) }) || !known {
		return nil, &ask.NotYetError{After: again}
	}
	return a.proven(index)
}

// booked gives a session's entry with its proof, to whoever knows its ref.
func (a *Aggregator) booked(body []byte) ([]byte, error) {
	if len(body) != 32 {
		return nil, &ask.RefusedError{Reason: "want the ref of a session"}
	}
	var index uint64
	state := ledger.CDRUnknown
	a.Read(func(s *ledger.State) { index, state = s.Session(ledger.Hash(body)) })
	if state == ledger.CDRUnknown {
		return nil, &ask.NotYetError{After: again}
	}
	return a.proven(index)
}

// issue gives an issue entry with its proof, to whoever was told its number.
func (a *Aggregator) issue(body []byte) ([]byte, error) {
	index, err := ask.ParseIssueBody(body)
	if err != nil {
		return nil, err
	}
	raw, err := a.Entry(index)
	if err != nil {
		return nil, &ask.NotYetError{After: again}
	}
	if e, err := ledger.Parse(raw); err != nil || e.Kind() != ledger.KindIssue {
		return nil, &ask.RefusedError{Reason: "the entry with this number is no issue of notes"}
	}
	return a.proven(index)
}

// proven is an entry with its proof, once it is final.
func (a *Aggregator) proven(index uint64) ([]byte, error) {
	proof, err := a.Proof(index)
	if errors.As(err, new(*party.NotFinalError)) || errors.Is(err, ledger.ErrBusy) || errors.Is(err, errNoBook) {
		return nil, &ask.NotYetError{After: again} // not final yet
	}
	if err != nil {
		return nil, err
	}
	entry, err := a.Entry(index)
	if err != nil {
		return nil, err
	}
	return ask.Proven{Entry: entry, Proof: proof.Encode()}.Bytes(), nil
}

// passKey gives a zone's key of a week and the fees.
func (a *Aggregator) passKey(body []byte) ([]byte, error) {
	week, zone, err := ask.ParseWeekBody(body)
	if err != nil {
		return nil, err
	}
	x, err := a.mints.pass(zone, week)
	if err != nil {
		return nil, err
	}
	return ask.WeekKey{Zone: x.Zone, Week: x.Week, Modulus: x.Public().Modulus(), Fees: a.fees}.Bytes()
}

// passes signs a gateway's passes of a week.
func (a *Aggregator) passes(body []byte) ([]byte, error) {
	r, err := ask.ParsePassRequest(body)
	if err != nil {
		return nil, err
	}
	signed, err := a.mints.signPasses(r)
	if err != nil {
		return nil, err
	}
	return signed.Bytes(), nil
}

// commands are what `gridveil ledger`, `gridveil case` and others ask a running
// aggregator.
func (a *Aggregator) commands() {
	c := a.env.Control
	c.Handle("ledger", func(context.Context, json.RawMessage) (any, error) { return a.Ledger(0), nil })
	c.Handle("reconcile", a.Teller().Command)
	c.Handle("ledger-seal", a.seal)
	c.Handle("cases", func(context.Context, json.RawMessage) (any, error) { return a.Cases() })
	c.Handle("dispute", func(_ context.Context, in json.RawMessage) (any, error) {
		var q struct {
			Sessions     []string
			Kind, Reason string
		}
		if err := json.Unmarshal(in, &q); err != nil {
			return nil, errors.New("want {sessions, kind, reason}")
		}
		kind, ok1 := party.ParseCaseKind(q.Kind)
		reason, ok2 := party.ParseReason(q.Reason)
		if !ok1 || !ok2 {
			return nil, errors.New("kind: hold, link or open; reason: safety, billing, payment, meter or lawful order")
		}
		var names [][32]byte
		for _, text := range q.Sessions {
			b, err := hex.DecodeString(text)
			if err != nil || len(b) != 32 {
				return nil, errors.New("sessions: want names or refs of 64 hexadecimal digits")
			}
			names = append(names, [32]byte(b))
		}
		id, err := a.Dispute(names, kind, reason)
		return hex.EncodeToString(id[:]), err
	})
	c.Handle("end-case", func(_ context.Context, in json.RawMessage) (any, error) {
		var text string
		if err := json.Unmarshal(in, &text); err != nil {
			return nil, errors.New("want the name of a case")
		}
		id, err := party.ParseCaseID(text)
		if err != nil {
			return nil, err
		}
		return nil, a.EndCase(id)
	})
	c.Handle("bids", func(context.Context, json.RawMessage) (any, error) { return a.Bids() })
	c.Handle("flexibility", func(context.Context, json.RawMessage) (any, error) { return a.Events() })
	a.clerk.Commands(c)
}
