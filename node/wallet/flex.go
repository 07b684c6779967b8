package wallet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/ev"
	"gridveil/ev/guest"
	"gridveil/ev/ocmf"
	"gridveil/ev/pool"
	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/node/ask"
	"gridveil/node/store"
	"gridveil/node/wallet/purse"
	"gridveil/node/web"
	"gridveil/privacy/leak"
	"gridveil/privacy/session"
)

// pooled is what a trip has to do with the aggregator's pool.
type pooled struct {
	Signed int           // offers that this driver signed
	AskAt  int64         // when to ask next what they earned, UTC ms; 0 for never
	Earned []poolEarning // by event
	Due    int64         // millionths, what is collected for all of them
	Paid   bool          // its notes are here
}

// poolEarning is one flexibility event that the car was part of.
type poolEarning struct {
	Delivered, Paid int64 // mWh, millionths
}

// flexAhead is how far ahead an offer's first slot may lie: two gates, and a
// quarter of an hour for clocks.
const flexAhead = 45 * time.Minute

// errAssent wraps the reason why an offer is not signed.
var errAssent = errors.New("offer to the pool is not signed")

// assent signs what the host wants to offer to the pool, if it stays within what
// the driver agreed to. The signature is durable before it leaves: it is counted,
// so that the wallet asks later what came of it.
func (w *Wallet) assent(t *trip, raw []byte) ([]guest.Message, error) {
	f, err := guest.ParseFlex(raw)
	if err != nil {
		return nil, err
	}
	now := w.env.Clock.Now()
	a, err := t.agreed()
	if err != nil {
		return nil, err
	}
	if err := a.judge(f, [8]byte(w.env.Net), now, w.ops.Lag()); err != nil {
		return nil, err
	}
	f.SignDriver(t.driver.Key(), [8]byte(w.env.Net))
	m := guest.Assent{From: f.From, Sig: f.DriverSig}.Message()
	if t.rec.Pool.Signed == 0 {
		t.tell(now, t.rec.State, "the aggregator may move the car's power within your wishes; what that earns is yours")
	}
	t.rec.Pool.Signed++
	if err := w.change(t, w.leaves(leak.FlexAssent, leak.HostHome, t.driver.Session(), len(m.Body))); err != nil {
		return nil, err
	}
	return []guest.Message{m}, nil
}

// agreed is what a driver's wishes and a session's terms leave to the pool.
type agreed struct {
	Options
	open  [32]byte
	hpk   [32]byte // the host's key
	meter [32]byte // hash of its meter's key
	maxW  int64
	sells bool           // the offer allows discharging
	had   session.Energy // acknowledged so far
	spent int64          // millionths, likewise
	cap   int64          // the most that the session may cost now
	price int64          // the dearest kWh into the car, with the fee
}

// agreed gathers it; the session must run.
func (t *trip) agreed() (a agreed, err error) {
	if t.driver == nil || t.driver.Phase() != session.Running {
		return a, fmt.Errorf("%w: the session does not run", errAssent)
	}
	d, err := t.deal(t.offer)
	if err != nil {
		return a, err
	}
	key, err := ocmf.NewKey(t.rec.Meter)
	if err != nil {
		return a, err
	}
	return agreed{Options: t.rec.Options, open: t.driver.Session(), hpk: t.offer.HPK, meter: key.Hash(), maxW: int64(t.offer.MaxPower) * 100,
		sells: t.offer.Mode&session.ModeDischarge != 0, had: t.driver.Last().Energy, spent: t.driver.Last().Cum, cap: t.cap(), price: max(d.Grid, d.Res) + d.Fee.PerKWhIn}, nil
}

// judge refuses an offer that is not of this session, or that could take more out
// of the car, put more into it, leave less in it or cost more than agreed.
func (a agreed) judge(f *pool.Flex, net [8]byte, now time.Time, lag time.Duration) error {
	switch {
	case a.Fixed:
		return fmt.Errorf("%w: the driver wants the car left alone", errAssent)
	case f.Open != a.open:
		return fmt.Errorf("%w: it is of another session", errAssent)
	case f.VerifyHost(a.hpk[:], net) != nil:
		return fmt.Errorf("%w: the host's signature does not verify", errAssent)
	case f.From <= now.UnixMilli() || f.From > now.Add(flexAhead+lag).UnixMilli():
		return fmt.Errorf("%w: it is for another time", errAssent)
	case f.Meter.Key != a.meter:
		return fmt.Errorf("%w: it names another meter", errAssent)
	}
	for k, e := range f.Envelopes {
		least := int64(0)
		if end := f.From + int64(k+1)*pool.SlotMS; a.GiveMWh > 0 && a.sells && end > a.GiveFrom {
			least = -a.maxW
		}
		if a.OnCall && e.BaselineW < 0 {
			return fmt.Errorf("%w: it takes energy out of the car unasked", errAssent)
		}
		if int64(e.BaselineW)-int64(e.UpW) < least || int64(e.BaselineW)+int64(e.DownW) > a.maxW {
			return fmt.Errorf("%w: its power is not what was agreed", errAssent)
		}
	}
	end := f.From + pool.Slots*pool.SlotMS
	later := (max(0, f.From-now.UnixMilli()) + max(0, a.Departure-end)) * a.maxW / 3600
	switch {
	case f.MinMWh < -max(0, a.GiveMWh-a.had.Out):
		return fmt.Errorf("%w: it takes more out of the car than was agreed", errAssent)
	case a.WantMWh > 0 && f.MaxMWh > max(0, a.WantMWh-a.had.In()), a.WantMWh == 0 && a.GiveMWh > 0 && f.MaxMWh > 0:
		return fmt.Errorf("%w: it puts more into the car than was wanted", errAssent)
	case a.FloorMWh > 0 && a.Departure > 0 && a.had.In()+later+f.MinMWh < a.FloorMWh:
		return fmt.Errorf("%w: it leaves less in the car than must be there by the departure", errAssent)
	case max(0, f.MaxMWh)/1000*a.price/1000+a.spent > a.cap:
		return fmt.Errorf("%w: it may cost more than was agreed", errAssent)
	}
	return nil
}

// Rhythm of asking what a session earned: pay follows an event by hours.
const (
	sharesLook  = 10 * time.Minute
	sharesRetry = time.Hour
)

// plansShares has the wallet ask, from a random time on, what a finished session
// earned in the pool.
func (w *Wallet) plansShares(t *trip, now time.Time) {
	if t.rec.Pool.Signed > 0 && t.rec.Pool.AskAt == 0 {
		t.rec.Pool.AskAt = now.Add(w.jitter(collectWithin)).UnixMilli()
	}
}

// serveShares asks for every session that offered something what came of it.
func (w *Wallet) serveShares(ctx context.Context) error {
	for {
		next := sharesLook
		for _, t := range w.sharesDue() {
			after, err := w.askShares(ctx, t)
			if err != nil && ctx.Err() == nil {
				w.env.Log.Debug("shares of the pool not known yet", "err", err)
			}
			if after > 0 {
				next = min(next, after)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.env.Clock.After(next):
		}
	}
}

func (w *Wallet) sharesDue() (list []*trip) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.env.Clock.Now().UnixMilli()
	for _, t := range w.trips {
		if t.driver != nil && t.rec.Pool.AskAt > 0 && t.rec.Pool.AskAt <= now {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(a, b *trip) int { return int(a.rec.Begun - b.rec.Begun) })
	return list
}

// askShares asks once; after says when the next try is planned, 0 for none.
func (w *Wallet) askShares(ctx context.Context, t *trip) (after time.Duration, err error) {
	w.mu.Lock()
	now := w.env.Clock.Now()
	msg, err := t.driver.AskShares()
	if err == nil {
		err = w.env.Store.Update(w.leaves(leak.ShareAsk, leak.Aggregator, t.driver.Session(), len(msg)))
	}
	w.mu.Unlock()
	if err != nil {
		return sharesRetry, err
	}
	got, err := w.fetchShares(ctx, t, msg)
	w.mu.Lock()
	defer w.mu.Unlock()
	var later *ask.NotYetError
	var no *ask.RefusedError
	switch {
	case errors.As(err, &later):
		after = max(later.After, time.Minute) + w.jitter(sharesLook)
	case errors.As(err, &no) && now.Sub(time.UnixMilli(t.rec.Begun)) > session.LateFor:
		return 0, w.noShares(t)
	case err != nil:
		after = sharesRetry/2 + w.jitter(sharesRetry)
	default:
		return 0, w.takeShares(t, now, got)
	}
	t.rec.Pool.AskAt = now.Add(after).UnixMilli()
	return after, errors.Join(err, w.change(t))
}

func (w *Wallet) noShares(t *trip) error {
	t.rec.Pool.AskAt = 0
	return w.change(t)
}

// fetchShares asks the aggregator and checks the answer against the ledger.
func (w *Wallet) fetchShares(ctx context.Context, t *trip, msg []byte) (s session.Shares, err error) {
	agg, err := w.ops.Aggregator()
	if err != nil {
		return s, err
	}
	b, err := w.ops.Ask(ctx, agg.Key, mesh.EVCollect, ask.Shares, msg)
	if err != nil {
		return s, err
	}
	w.mu.Lock()
	s, err = t.driver.OpenShares(b)
	w.mu.Unlock()
	if err != nil || len(s.List) == 0 {
		return s, err
	}
	policy, err := w.ops.Policy()
	if err != nil {
		return s, err
	}
	for _, x := range s.List {
		if err := checkShare(s.Session, x, policy); err != nil {
			return s, err
		}
	}
	return s, nil
}

// checkShare checks that a final entry of the ledger pays the list in which the
// share is a line of this session.
func checkShare(open [32]byte, x session.Share, policy *ledger.Policy) error {
	leaf := pool.Line{Open: open, DeliveredMWh: x.Delivered, Availability: x.Permille, PaidMicro: x.Paid}.Encode()
	if err := pool.CheckProof(x.Root, int(x.Size), int(x.Index), leaf, x.Path); err != nil {
		return fmt.Errorf("share of the pool: %w", err)
	}
	p, err := ask.ParseProven(x.Payment)
	if err != nil {
		return err
	}
	e, err := p.Open(policy)
	if err != nil {
		return fmt.Errorf("payment of shares: %w", err)
	}
	pay, ok := e.Body().(*ledger.Transfer)
	if !ok || pay.Purpose != ledger.PurposeHousehold || pay.Ref != ledger.Salted(x.Salt, x.Root[:]) || pay.X < x.Paid {
		return fmt.Errorf("%w: the entry does not pay this list", session.ErrEvidence)
	}
	return nil
}

// takeShares keeps what was earned and claims its notes, in one step. The caller
// holds mu.
func (w *Wallet) takeShares(t *trip, now time.Time, s session.Shares) error {
	t.rec.Pool.AskAt, t.rec.Pool.Due = 0, s.Sum()
	for _, x := range s.List {
		t.rec.Pool.Earned = append(t.rec.Pool.Earned, poolEarning{Delivered: x.Delivered, Paid: x.Paid})
	}
	if t.rec.Pool.Due < ev.MinorEUR {
		return w.change(t)
	}
	t.tell(now, t.rec.State, fmt.Sprintf("the grid operator paid for what the car did on its instruction: EUR %s", money(t.rec.Pool.Due)[4:]))
	e := w.purse.Edit()
	e.Add(t.poolClaim(), now.Add(w.jitter(collectWithin)))
	err := w.change(t, func(tx *store.Tx) error { return e.Write(tx) })
	e.Close(err)
	return err
}

func (t *trip) poolClaim() purse.Claim {
	c := t.claim()
	c.Party, c.Minor = session.PartyPool, uint16(t.rec.Pool.Due/ev.MinorEUR)
	return c
}

// PoolPayee is who a session page names for pay from the pool.
const PoolPayee = "the driver, from the grid operator"

// payees is the line of a session's page that the pool adds, if it paid.
func (p pooled) payees() []web.Payee {
	if p.Due == 0 {
		return nil
	}
	var sum int64
	for _, e := range p.Earned {
		sum += e.Delivered
	}
	how := "through the aggregator's pool, in blind notes that are on their way"
	if p.Paid {
		how = "through the aggregator's pool, in blind notes; redeemed at the driver's utility"
	}
	return []web.Payee{{Who: PoolPayee, For: fmt.Sprintf("%.3f kWh moved on the grid operator's instruction", float64(sum)/ev.MWhPerKWh), Paid: money(p.Due), How: how}}
}

// PoolPay sums up what this driver's sessions earned in the pool, and what of it
// is here in notes, millionths.
func (w *Wallet) PoolPay() (due, collected int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.trips {
		due += t.rec.Pool.Due
		if t.rec.Pool.Paid {
			collected += t.rec.Pool.Due
		}
	}
	return due, collected
}
