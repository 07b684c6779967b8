package aggregator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/ledger/writer"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/party"
	"gridveil/node/store"
	"gridveil/privacy/committee"
	"gridveil/privacy/session"
)

// lawsuit is a case that this aggregator requested, until it has ended.
type lawsuit struct {
	ID       ledger.CaseID
	Body     *ledger.Dispute
	File     []byte          // for the openers
	Payer    []byte          // for the driver's utility
	Shown    map[string]bool // operators that hold their file
	Answer   []byte
	Asked    bool // to end it
	Finished bool
}

func lawsuitKey(id ledger.CaseID) []byte { return store.SpaceLedger.Key([]byte("suit"), id[:]) }

func recordKey(name [32]byte) []byte { return store.SpaceSession.Key([]byte{'r'}, name[:]) }

// Dispute asks what stands behind sessions (by their names, H(Open), or refs) and
// returns the case's id. The attempt is on the ledger before anybody is shown
// anything, and the drivers' wallets find their refs in it.
func (a *Aggregator) Dispute(names [][32]byte, asks ledger.CaseKind, reason ledger.Reason) (id ledger.CaseID, err error) {
	if len(names) < 1 || len(names) > ledger.MaxRefs {
		return id, fmt.Errorf("a case names 1 to %d sessions, not %d", ledger.MaxRefs, len(names))
	}
	if _, err := io.ReadFull(a.env.Rand, id[:]); err != nil {
		return id, fmt.Errorf("draw case: %w", err)
	}
	x := &lawsuit{ID: id, Body: &ledger.Dispute{Case: id, Asks: asks, Reason: reason}, Shown: map[string]bool{}}
	file := &party.CaseFile{Case: id}
	if _, err := io.ReadFull(a.env.Rand, file.Salt[:]); err != nil {
		return id, fmt.Errorf("draw salt: %w", err)
	}
	payer := &party.PayerFile{Case: id}
	for _, name := range names {
		if err := a.addSession(name, x.Body, file, payer); err != nil {
			return id, err
		}
	}
	x.Body.Evidence = file.Evidence()
	x.File, x.Payer = file.Bytes(), payer.Bytes()
	if err := a.keepSuit(x); err != nil {
		return id, err
	}
	a.nudge()
	return id, nil
}

// addSession puts one session into the files of a case.
func (a *Aggregator) addSession(name [32]byte, body *ledger.Dispute, file *party.CaseFile, payer *party.PayerFile) error {
	return a.withDesk(func(d *settle.Desk) error {
		ref, pays, ok := d.Ref(name)
		if !ok {
			if name, pays, ok = d.Find(name); !ok {
				return errors.New("no such session was settled here")
			}
			ref, _, _ = d.Ref(name)
		}
		if body.Utility != 0 && body.Utility != pays {
			return errors.New("the sessions of one case must have one payer")
		}
		f, err := d.File(name)
		if err != nil {
			return err
		}
		body.Utility = pays
		body.Refs = append(body.Refs, ref)
		s := party.CaseSession{Cert: f.Cert, Offer: f.Offer, Open: f.Open, Answer: f.Answer}
		if b, err := a.env.Store.Get(recordKey(name)); err == nil {
			r, err := session.ParseRecord(b)
			if err != nil {
				return fmt.Errorf("stored record: %w", err)
			}
			s.Record = &r
		}
		file.Sessions = append(file.Sessions, s)
		payer.Sessions = append(payer.Sessions, party.PayerSession{Cert: f.Cert, BPK: f.BPK})
		return nil
	})
}

func (a *Aggregator) keepSuit(x *lawsuit) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	return a.env.Store.Set(lawsuitKey(x.ID), b)
}

func (a *Aggregator) suits() (list []*lawsuit, err error) {
	err = a.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceLedger.Key([]byte("suit")), func(_, v []byte) error {
			x := new(lawsuit)
			if err := json.Unmarshal(v, x); err != nil {
				return fmt.Errorf("stored case: %w", err)
			}
			list = append(list, x)
			return nil
		})
	})
	return list, err
}

// EndCase ends a case of ours: its sessions are settled after all.
func (a *Aggregator) EndCase(id ledger.CaseID) error {
	list, err := a.suits()
	if err != nil {
		return err
	}
	for _, x := range list {
		if x.ID == id {
			x.Asked = true
			a.nudge()
			return a.keepSuit(x)
		}
	}
	return errors.New("this case was not requested here")
}

// pursue brings our cases forward: enter, show the files, fetch the answer, end.
func (a *Aggregator) pursue(ctx context.Context, w *writer.Writer) error {
	list, err := a.suits()
	if err != nil {
		return err
	}
	var errs []error
	for _, x := range list {
		if x.Finished {
			continue
		}
		if err := a.pursueOne(ctx, w, x); err != nil {
			errs = append(errs, fmt.Errorf("case: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (a *Aggregator) pursueOne(ctx context.Context, w *writer.Writer, x *lawsuit) error {
	var c ledger.Case
	known := false
	a.Read(func(s *ledger.State) { c, known = s.Case(x.ID) })
	if !known {
		r, err := a.enterOne(ctx, w, ledger.Salted(ledger.Hash{}, append([]byte("dispute"), x.ID[:]...)), x.Body, nil)
		if r.final {
			a.env.Log.Warn("dispute refused by the ledger", "err", err)
			x.Finished = true
			return a.keepSuit(x)
		}
		return err
	}
	if c.Ended != 0 {
		x.Finished = true
		return a.keepSuit(x)
	}
	if c.Index >= finalEnd(w) {
		return nil
	}
	if x.Asked {
		_, err := a.enterOne(ctx, w, ledger.Salted(ledger.Hash{}, append([]byte("end"), x.ID[:]...)), &ledger.End{Case: x.ID, Outcome: ledger.Release}, nil)
		return err
	}
	if x.Body.Asks == ledger.CaseHold {
		return nil
	}
	if err := a.show(ctx, x); err != nil {
		return err
	}
	if c.Answered && x.Answer == nil {
		return a.fetchAnswer(ctx, x)
	}
	return nil
}

// show hands the case file to every seat, and the payer's file to the payer.
func (a *Aggregator) show(ctx context.Context, x *lawsuit) error {
	var parties []ledger.Party
	a.Read(func(s *ledger.State) { parties = s.Parties() })
	changed := false
	for _, p := range parties {
		if x.Shown[p.Name] || p.Party == 1 {
			continue
		}
		op, file := party.OpFile, x.File
		if p.Party == x.Body.Utility {
			op, file = party.OpPayer, x.Payer
		} else if !p.Approver {
			continue
		}
		if err := a.tell(ctx, p.Name, op, file); err != nil {
			a.env.Log.Debug("case file not taken yet", "err", err)
			continue
		}
		x.Shown[p.Name], changed = true, true
	}
	if !changed {
		return nil
	}
	return a.keepSuit(x)
}

// tell calls every node of an operator that may hold a seat; one that takes it
// suffices.
func (a *Aggregator) tell(ctx context.Context, operator string, op byte, body []byte) error {
	last := error(ask.ErrNoOperator)
	for _, r := range []member.Role{member.RoleUtility, member.RoleVerifier, member.RoleSSN} {
		for _, h := range a.env.Dir.All(r, operator) {
			call, cancel := context.WithTimeout(ctx, callTimeout)
			_, err := party.Call(call, a.env.Host, h.Member.Peer, mesh.Opener, op, body)
			cancel()
			if err == nil {
				return nil
			}
			last = err
		}
	}
	return last
}

// fetchAnswer gets the payer's answer and compares it with the ledger.
func (a *Aggregator) fetchAnswer(ctx context.Context, x *lawsuit) error {
	c, err := a.caseBook().Get(x.ID)
	if err != nil || c.Answer == nil {
		return err // its entry is not final yet
	}
	payer, _, err := a.payer(x.Body.Utility)
	if err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	b, err := party.Call(call, a.env.Host, payer.Member.Peer, mesh.Opener, party.OpAnswer, x.ID[:])
	if err != nil {
		return err
	}
	answer, err := party.ParseAnswer(b)
	if err != nil {
		return err
	}
	if answer.Case != x.ID || answer.Hash() != *c.Answer {
		return errors.New("the utility's answer is not the one that it put on the ledger")
	}
	x.Answer = b
	return a.keepSuit(x)
}

func (a *Aggregator) caseBook() party.CaseBook { return party.CaseBook{Store: a.env.Store} }

var watchedKey = store.SpaceLedger.Key([]byte("final"))

// rememberEvery is how many entries may be looked at again after a restart.
const rememberEvery = 1000

// watchEntries notes final entries that concern cases and events, in order.
func (a *Aggregator) watchEntries(ctx context.Context, w *writer.Writer) error {
	b, err := a.env.Store.Get(watchedKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("place in the ledger: %w", err)
	}
	from, _ := store.GetU64(b)
	base := baseOf(w)
	if from > base && from == finalEnd(w) {
		if err := a.cross(ctx, w); err != nil { // the process ended right before
			return err
		}
	}
	book := a.caseBook()
	err = w.Watch(ctx, max(from, base)-base, func(own uint64, raw []byte) error {
		index := base + own
		e, err := ledger.Parse(raw)
		if err != nil {
			return err
		}
		var now time.Time
		a.Read(func(s *ledger.State) { now = s.LogTime() })
		if err := book.Take(index, e, now); err != nil {
			return err
		}
		switch b := e.Body().(type) {
		case *ledger.Transfer:
			err = a.takeTransfer(b)
		case *ledger.Seal:
			if err := a.env.Store.Set(watchedKey, store.U64(index+1)); err != nil {
				return err
			}
			return a.cross(ctx, w)
		case *ledger.Dispute, *ledger.Approve, *ledger.Partial, *ledger.Result, *ledger.End:
		default:
			if index%rememberEvery != 0 {
				return nil // replaying a few entries after a restart is cheaper than a write for each
			}
		}
		a.nudge()
		return errors.Join(err, a.env.Store.Set(watchedKey, store.U64(index+1)))
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Cases are the cases of the ledger in words, newest first, with the answers to
// our own.
func (a *Aggregator) Cases() ([]party.CaseView, error) {
	list, err := a.caseBook().All()
	if err != nil {
		return nil, err
	}
	suits, err := a.suits()
	if err != nil {
		return nil, err
	}
	need := uint64(0)
	names := map[ledger.PartyID]string{}
	a.Read(func(s *ledger.State) {
		need = s.Params().K
		for _, p := range s.Parties() {
			names[p.Party] = p.Name
		}
	})
	var out []party.CaseView
	for _, c := range slices.Backward(list) {
		v := c.View(names, need)
		for _, x := range suits {
			if x.ID == c.ID && x.Answer != nil {
				v.Answer = answerWords(x.Answer)
			}
		}
		out = append(out, v)
	}
	return out, nil
}

func answerWords(b []byte) string {
	x, err := party.ParseAnswer(b)
	if err != nil {
		return "the stored answer cannot be read"
	}
	text := ""
	for i, f := range x.Findings {
		if i > 0 {
			text += "; "
		}
		text += f.String()
	}
	return text
}

// cases lists the sessions that open cases name, for wallets to look for theirs.
func (a *Aggregator) cases([]byte) ([]byte, error) {
	list, err := a.caseBook().All()
	if err != nil {
		return nil, &ask.NotYetError{After: again}
	}
	var out []ask.OpenCase
	for _, c := range list {
		if c.Ended != 0 {
			continue
		}
		for _, ref := range c.Refs {
			out = append(out, ask.OpenCase{Ref: ref, ID: c.ID, Kind: c.Asks, Reason: c.Reason, Opened: uint64(c.Opened)})
		}
	}
	return ask.CasesAnswer(out), nil
}

// statement takes a driver's word in a case and hands it to the seats.
func (a *Aggregator) statement(body []byte) ([]byte, error) {
	x, err := committee.ParseStatement(body)
	if err != nil {
		return nil, err
	}
	c, err := a.caseBook().Get(x.Case)
	if errors.Is(err, store.ErrNotFound) || err == nil && (c.Ended != 0 || !slices.Contains(c.Refs, ledger.Hash(x.Ref))) {
		return nil, &ask.RefusedError{Reason: "no open case names this session"}
	}
	if err != nil {
		return nil, &ask.NotYetError{After: again}
	}
	err = a.withDesk(func(d *settle.Desk) error {
		name, _, ok := d.Find(x.Ref)
		if !ok {
			return &ask.RefusedError{Reason: "no such session here"}
		}
		f, err := d.File(name)
		if err != nil {
			return err
		}
		if !x.Verify(a.env.Net, &f.Cert) {
			return &ask.RefusedError{Reason: "the statement is not signed by the session's driver"}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := party.KeepStatement(a.env.Store, x); err != nil {
		return nil, &ask.NotYetError{After: again}
	}
	a.env.Host.Go(func(ctx context.Context) { a.spread(ctx, c, body) })
	return nil, nil
}

// spread hands a statement to the seats that are reachable now; one that is not
// votes without it.
func (a *Aggregator) spread(ctx context.Context, c *party.CaseRecord, statement []byte) {
	var parties []ledger.Party
	a.Read(func(s *ledger.State) { parties = s.Parties() })
	for _, p := range parties {
		if p.Approver && p.Party != c.Utility && p.Party != 1 {
			if err := a.tell(ctx, p.Name, party.OpStatement, statement); err != nil {
				a.env.Log.Debug("statement not taken", "err", err)
			}
		}
	}
}

// keepRecord keeps what a session's Settle says, for a case about it.
func (a *Aggregator) keepRecord(msg []byte) error {
	x, err := session.ParseSettle(msg)
	if err != nil {
		return err
	}
	key := recordKey(x.Record.Open)
	until := a.env.Clock.Now().Add(2 * session.KeepFor)
	return a.env.Store.Update(func(tx *store.Tx) error {
		if has, err := tx.Has(key); err != nil || has {
			return err
		}
		if err := tx.Set(key, x.Record.Bytes()); err != nil {
			return err
		}
		return tx.Set(store.SpaceSession.Key([]byte{'f'}, store.U64(uint64(until.UnixMilli())), x.Record.Open[:]), nil)
	})
}

// forgetRecords drops records whose time is over.
func (a *Aggregator) forgetRecords() error {
	now := uint64(a.env.Clock.Now().UnixMilli())
	prefix := store.SpaceSession.Key([]byte{'f'})
	return a.env.Store.Update(func(tx *store.Tx) error {
		n := 0
		return tx.Each(prefix, func(k, _ []byte) error {
			at, ok := store.GetU64(k[len(prefix) : len(prefix)+8])
			if n++; !ok || at > now || n > forgetBatch {
				return store.ErrStop
			}
			if err := tx.Delete(k); err != nil {
				return err
			}
			return tx.Delete(recordKey([32]byte(k[len(prefix)+8:])))
		})
	})
}
