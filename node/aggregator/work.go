package aggregator

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/ledger/writer"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/keys"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/commit"
	"gridveil/privacy/note"
	"gridveil/privacy/session"
)

const (
	roundPeriod = 30 * time.Second // of the settlement loop, when nothing wakes it
	maxGroup    = 500              // entries of one group: their bytes fit one update of the store
	overdueFor  = 7 * 24 * time.Hour

	forgetPeriod = time.Hour
	forgetPause  = 10 * time.Second // on the wall clock
)

// work is the settlement loop: found or register, publish keys, plan, post,
// finish, close.
func (a *Aggregator) work(ctx context.Context, w *writer.Writer) error {
	for ctx.Err() == nil {
		if err := a.round(ctx, w); err != nil && ctx.Err() == nil {
			if isFatal(err) {
				return err
			}
			a.env.Log.Debug("settlement goes on later", "err", err)
		}
		a.pause(ctx, roundPeriod, a.wake)
	}
	return nil
}

// isFatal says that our own store or ledger failed, so that nothing may follow.
func isFatal(err error) bool {
	return errors.Is(err, store.ErrStopped) || errors.Is(err, store.ErrClosed) || errors.Is(err, ledger.ErrDamaged)
}

// round does everything that can be done now. Its parts are independent: one
// that fails is tried again and does not keep the others.
func (a *Aggregator) round(ctx context.Context, w *writer.Writer) error {
	if w.Size() == 0 {
		begin := a.found
		if a.shards.Open().No > 1 {
			begin = a.beginShard
		}
		if err := begin(ctx, w); err != nil {
			return err
		}
	}
	var errs []error
	for _, part := range []func(context.Context, *writer.Writer) error{a.register, a.moveTime, a.publishKeys, a.finish, a.settle, a.pursue, a.closeGates, a.runEvents, a.housekeep} {
		if ctx.Err() != nil {
			return nil
		}
		errs = append(errs, part(ctx, w))
	}
	return errors.Join(errs...)
}

// moveTime ticks when the node's clock is in another bucket than the log: what
// waits for a day to pass must not wait for traffic.
func (a *Aggregator) moveTime(ctx context.Context, w *writer.Writer) error {
	stale := false
	now := a.env.Clock.Now()
	a.Read(func(s *ledger.State) {
		stale = s.LogTime().IsZero() || uint64(now.UnixMilli())/s.Params().BucketMs > uint64(s.Bucket())
	})
	if !stale {
		return nil
	}
	return w.Tick(ctx)
}

// publishKeys puts the keys on the ledger that others must find there: our
// receipt key and the mint keys of each month.
func (a *Aggregator) publishKeys(ctx context.Context, w *writer.Writer) error {
	receipt, err := a.env.Keys.Signer(keys.Receipt, a.env.Clock.Now())
	if err != nil {
		return err
	}
	pub := ledger.Hash(receipt.Public().(ed25519.PublicKey))
	has := false
	a.Read(func(s *ledger.State) { has = len(s.ActiveKeys(1, ledger.UseReceipt)) > 0 })
	if !has {
		_, err := a.enterOne(ctx, w, ledger.Salted(pub, []byte("receipt key")), &ledger.Key{Add: true, Use: ledger.UseReceipt, Pub: pub},
			func(_ context.Context, e *ledger.Entry) (*ledger.Entry, error) {
				return e, ledger.SignAs(e, a.origin, ledger.UseReceipt, receipt)
			})
		if err != nil {
			return fmt.Errorf("register receipt key: %w", err)
		}
	}
	for _, epoch := range a.mints.known() {
		if err := a.publishMonth(ctx, w, epoch); err != nil {
			return err
		}
	}
	var least uint64
	a.Read(func(s *ledger.State) { least = s.Params().MinBatch })
	usual := ledger.DefaultParams().MinBatch
	a.env.Warn.Set(least < usual, role.Warning{Code: "small-batches", Severity: role.Notice, Title: "Sums of few sessions are opened",
		Text: fmt.Sprintf("This ledger opens what sessions cost together from %d on, instead of %d. Who reads it may guess single sessions.", least, usual),
		Next: "This is right for a demonstration. A real network founds its ledger with ledger.min_batch = 32."}, a.env.Clock.Now())
	return a.publishWeeks(ctx, w)
}

// publishWeeks commits to the keys that sign host passes, and to the fees that
// the terms of a week name.
func (a *Aggregator) publishWeeks(ctx context.Context, w *writer.Writer) error {
	for _, x := range a.mints.weeks() {
		key, err := ask.WeekKey{Zone: x.Zone, Week: x.Week, Modulus: x.Public().Modulus(), Fees: a.fees}.Bytes()
		if err != nil {
			return err
		}
		ref := ledger.Hash(sha256.Sum256(append([]byte("gridveil/week/v1\x00"), key...)))
		if has, err := a.env.Store.Get(weekKey(ref)); err == nil && has != nil {
			continue
		}
		if _, err := a.enterOne(ctx, w, ledger.Salted(ref, []byte("week key")), &ledger.Anchor{Topic: ledger.TopicKeyList, Ref: ref}, nil); err != nil {
			return fmt.Errorf("anchor a week's keys: %w", err)
		}
		if err := a.env.Store.Set(weekKey(ref), []byte{1}); err != nil {
			return err
		}
	}
	return nil
}

func weekKey(ref ledger.Hash) []byte { return store.SpaceLedger.Key([]byte("week"), ref[:]) }

func (a *Aggregator) publishMonth(ctx context.Context, w *writer.Writer, epoch uint32) error {
	known := false
	a.Read(func(s *ledger.State) { _, _, _, _, known = s.Denoms(0, epoch) })
	m := a.mints.month(epoch)
	issueTo, redeemTo, swapTo := note.Windows(epoch)
	if known || m == nil || !a.env.Clock.Now().Before(issueTo) {
		return nil
	}
	ms := func(t time.Time) uint64 { return uint64(t.UnixMilli()) - 1 }
	d := &ledger.Denoms{Epoch: epoch, IssueTo: ms(issueTo), RedeemTo: ms(redeemTo), SwapTo: ms(swapTo)}
	for i, k := range m.Denoms().Keys {
		d.Keys = append(d.Keys, ledger.DenomKey{Minor: 1 << i, N: k.Modulus()})
	}
	_, err := a.enterOne(ctx, w, ledger.Salted(ledger.Hash{}, fmt.Appendf(nil, "denoms %d", epoch)), d, nil)
	if err != nil {
		return fmt.Errorf("publish mint keys: %w", err)
	}
	return nil
}

// finish tells the desk what is final, and gives it new keys.
func (a *Aggregator) finish(_ context.Context, w *writer.Writer) error {
	if err := a.refreshDesk(); err != nil {
		return err
	}
	return a.withDesk(func(d *settle.Desk) error { return d.Final(a.env.Clock.Now(), finalEnd(w)) })
}

// view is what the desk reads of the ledger. Each look is at a durable state;
// only this loop and the ticks change it in between.
type view struct{ a *Aggregator }

func (v view) Bucket() (b uint32) {
	v.a.Read(func(s *ledger.State) { b = s.Bucket() })
	return b
}

func (v view) OpenBucket(cur uint8, payer, grid ledger.PartyID) (b uint32) {
	v.a.Read(func(s *ledger.State) { b = s.OpenBucket(cur, payer, grid) })
	return b
}

func (v view) Unsettled(cur uint8, payer, grid ledger.PartyID, to uint32) (n uint64, oldest uint32, sum commit.Sum) {
	v.a.Read(func(s *ledger.State) { n, oldest, sum = s.Unsettled(cur, payer, grid, to) })
	return n, oldest, sum
}

func (v view) Session(ref ledger.Hash) (index uint64, state ledger.CDRState) {
	v.a.Read(func(s *ledger.State) { index, state = s.Session(ref) })
	return index, state
}

func (v view) Params() (p ledger.Params) {
	v.a.Read(func(s *ledger.State) { p = s.Params() })
	return p
}

// settle carries out what the desk plans: own entries in groups, settle entries
// one by one with their payers.
func (a *Aggregator) settle(ctx context.Context, w *writer.Writer) error {
	var orders []settle.Order
	err := a.withDesk(func(d *settle.Desk) (err error) {
		orders, err = d.Plan(a.env.Clock.Now(), view{a})
		return err
	})
	if err != nil {
		return err
	}
	var own []settle.Order
	var errs []error
	for _, o := range orders {
		if o.Payer == 0 {
			own = append(own, o)
			continue
		}
		if err := a.settleWith(ctx, w, o); err != nil {
			errs = append(errs, err)
			a.env.Log.Debug("payer has not signed yet", "err", err)
		}
	}
	for len(own) > 0 {
		n := min(len(own), maxGroup)
		if err := a.postOrders(ctx, w, own[:n]); err != nil {
			return errors.Join(append(errs, err)...)
		}
		own = own[n:]
	}
	return errors.Join(errs...)
}

// postOrders enters orders that need no other signature and tells the desk.
func (a *Aggregator) postOrders(ctx context.Context, w *writer.Writer, list []settle.Order) error {
	jobs := make([]job, len(list))
	for i, o := range list {
		jobs[i] = job{id: o.ID, body: o.Body}
	}
	results, err := a.enter(ctx, w, jobs)
	if err != nil {
		return err
	}
	again := false
	for i, o := range list {
		if err := a.report(o, results[i]); err != nil {
			return err
		}
		again = again || results[i].err == nil
	}
	if again {
		a.nudge() // what was posted may be settled now
	}
	return nil
}

// report tells the desk how an order fared and forgets its bytes.
func (a *Aggregator) report(o settle.Order, r outcome) error {
	var err error
	switch {
	case r.err == nil:
		err = a.withDesk(func(d *settle.Desk) error { return d.Posted(o.ID, r.index) })
	case !r.final:
		return nil // the same order again
	default:
		err = a.withDesk(func(d *settle.Desk) error { return d.Refused(o.ID, r.err) })
		a.env.Log.Warn("order refused by the ledger", "kind", o.Body.Kind().String(), "err", r.err)
	}
	if err != nil && !errors.Is(err, settle.ErrOrder) {
		a.env.Warn.Raise(role.Warning{Code: "settlement-stuck", Severity: role.Problem, Title: "An entry cannot be made",
			Text: "The ledger refused an entry that puts a refused session right: " + err.Error() + ".",
			Next: "Look at the case on the ledger page; the operators concerned must agree."}, a.env.Clock.Now())
		return nil
	}
	return a.env.Store.Update(func(tx *store.Tx) error { return tx.Delete(rawKey(o.ID)) })
}

// settleWith has a payer check the lines behind a sum and sign the entry.
func (a *Aggregator) settleWith(ctx context.Context, w *writer.Writer, o settle.Order) error {
	body, ok := o.Body.(*ledger.Settle)
	if !ok {
		return fmt.Errorf("order of kind %v has a payer", o.Body.Kind())
	}
	payer, key, err := a.payer(o.Payer)
	if err != nil {
		return a.waitFor(o.Payer, err)
	}
	rejects, err := a.propose(ctx, payer, body, o.Batch)
	if err != nil {
		return a.waitFor(o.Payer, err)
	}
	if len(rejects) > 0 {
		a.env.Log.Warn("payer refuses lines", "lines", len(rejects))
		a.nudge()
		return a.withDesk(func(d *settle.Desk) error { return d.Rejected(o.ID, key, rejects) })
	}
	r, err := a.enterOne(ctx, w, o.ID, body, func(ctx context.Context, e *ledger.Entry) (*ledger.Entry, error) {
		return a.cosigned(ctx, payer.Member, e)
	})
	if err != nil && r.err == nil {
		return a.waitFor(o.Payer, err)
	}
	a.settled(o.Payer)
	a.nudge()
	return a.report(o, r)
}

// propose shows a payer the lines behind a sum and returns its refusals.
func (a *Aggregator) propose(ctx context.Context, payer keys.Holder, body *ledger.Settle, batch []byte) ([]session.LineReject, error) {
	draft, err := party.Draft(a.entry, body)
	if err != nil {
		return nil, err
	}
	bill, ok := payer.Sheet.At(keys.Bill, a.env.Clock.Now())
	if !ok {
		return nil, errors.New("the payer publishes no bill key")
	}
	box, _, err := privacy.Seal(a.env.Rand, privacy.SuiteX25519, bill, privacy.KindBillBatch, a.env.Net, batch)
	if err != nil {
		return nil, fmt.Errorf("seal bill lines: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := party.Call(ctx, a.env.Host, payer.Member.Peer, mesh.Lines, party.OpPropose, party.Proposal(draft, box))
	if err != nil {
		return nil, err
	}
	return party.ParseVerdict(answer)
}

// cosigned has a payer add its signature to a numbered entry.
func (a *Aggregator) cosigned(ctx context.Context, payer mesh.Member, e *ledger.Entry) (*ledger.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	b, err := party.Call(ctx, a.env.Host, payer.Peer, mesh.Lines, party.OpCosign, e.Bytes())
	if err != nil {
		return nil, err
	}
	signed, err := ledger.Parse(b)
	if err != nil {
		return nil, err
	}
	return party.Merge(e, signed)
}

// payer finds a utility's node and the key it signs with.
func (a *Aggregator) payer(id ledger.PartyID) (h keys.Holder, key [32]byte, err error) {
	name := ""
	a.Read(func(s *ledger.State) {
		for _, p := range s.Parties() {
			if p.Party == id {
				name = p.Name
			}
		}
		if list := s.ActiveKeys(id, ledger.UseEntry); len(list) > 0 {
			key = list[len(list)-1]
		}
	})
	h, ok := a.env.Dir.One(member.RoleUtility, name)
	if !ok {
		return h, key, errors.New("the payer's node is not in the directory now")
	}
	return h, key, nil
}

// waitFor notes that a payer does not answer; after a week that is a problem.
func (a *Aggregator) waitFor(id ledger.PartyID, cause error) error {
	a.mu.Lock()
	if a.overdue[id].IsZero() {
		a.overdue[id] = a.env.Clock.Now()
	}
	since := a.overdue[id]
	a.mu.Unlock()
	a.env.Warn.Raise(role.Warning{Code: "settlement-overdue", Severity: role.Problem, Title: "A utility does not sign its settlement",
		Text: "Its sessions are entered and nothing is posted for them until it signs; hosts wait for their notes.",
		Next: "Ask the utility whether its node runs and why it refuses.", After: 10 * time.Minute}, since)
	return fmt.Errorf("settlement with party %d: %w", id, cause)
}

func (a *Aggregator) settled(id ledger.PartyID) {
	a.mu.Lock()
	delete(a.overdue, id)
	left := len(a.overdue)
	a.mu.Unlock()
	if left == 0 {
		a.env.Warn.Clear("settlement-overdue")
	}
}

// housekeep does what comes with time: closes, lapses, forgetting.
func (a *Aggregator) housekeep(ctx context.Context, w *writer.Writer) error {
	err := errors.Join(a.close(ctx, w), a.lapse(ctx, w))
	if now := a.env.Clock.Now(); now.Sub(a.forgot) >= forgetPeriod && time.Since(a.forgotWall) >= forgetPause {
		a.forgot, a.forgotWall = now, time.Now()
		err = errors.Join(err, a.forget(), a.forgetRecords(), a.flex.forget(now.UnixMilli()))
	}
	return err
}

// close nets the operators' debts once a period is over.
func (a *Aggregator) close(ctx context.Context, w *writer.Writer) error {
	for cur := range currencies() {
		var body *ledger.Close
		a.Read(func(s *ledger.State) {
			period, due := s.LastClose(uint8(cur))
			if !s.LogTime().IsZero() && uint64(s.Bucket()) >= due {
				body = &ledger.Close{Period: period + 1, Cur: uint8(cur), Pays: s.Net(uint8(cur))}
			}
		})
		if body == nil || len(body.Pays) == 0 {
			continue // the period goes on until somebody owes a whole minor unit
		}
		// The netting is of the state right before it, so it is made anew for
		// each try and never kept.
		results, err := w.Post(ctx, func(context.Context) ([][]byte, error) {
			var raw []byte
			var err error
			w.Read(func(m ledger.Machine) {
				s := m.(*ledger.Money).State
				body.Pays = s.Net(uint8(cur))
				raw, err = a.sign(s.NextSeq(1), body)
			})
			return [][]byte{raw}, err
		})
		if err != nil {
			return fmt.Errorf("close: %w", err)
		}
		if results[0].Err != nil {
			return fmt.Errorf("close: %w", results[0].Err)
		}
		a.env.Log.Info("period closed", "period", body.Period, "payments", len(body.Pays))
	}
	return nil
}

func (a *Aggregator) sign(seq uint64, body ledger.Body) ([]byte, error) {
	e, err := ledger.NewEntry(1, seq, body)
	if err != nil {
		return nil, err
	}
	if err := ledger.Sign(e, a.origin, a.entry); err != nil {
		return nil, err
	}
	return e.Bytes(), nil
}

// lapse ends months whose notes can be neither redeemed nor swapped.
func (a *Aggregator) lapse(ctx context.Context, w *writer.Writer) error {
	for _, epoch := range a.mints.known() {
		due := false
		a.Read(func(s *ledger.State) {
			d, _, _, _, known := s.Denoms(0, epoch)
			due = known && !s.LogTime().IsZero() && uint64(s.LogTime().UnixMilli()) > d.SwapTo
		})
		if !due {
			continue
		}
		_, err := a.enterOne(ctx, w, ledger.Salted(ledger.Hash{}, fmt.Appendf(nil, "lapse %d", epoch)), &ledger.Lapse{Epoch: epoch}, nil)
		if err != nil && !errors.Is(err, ledger.ErrDuplicate) {
			return fmt.Errorf("lapse: %w", err)
		}
	}
	return nil
}

// forget drops what the desk no longer needs, a little each time.
func (a *Aggregator) forget() error {
	a.deskMu.Lock()
	defer a.deskMu.Unlock()
	_, err := a.memory.Forget(a.env.Clock.Now())
	return err
}
