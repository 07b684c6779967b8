package purse

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/node/ask"
	"gridveil/node/store"
	"gridveil/privacy/leak"
	"gridveil/privacy/note"
	"gridveil/privacy/session"
)

// Pauses between tries: short while an answer is being made, long and random
// while nobody answers, so that a returning network meets no crowd.
const (
	retryMin = time.Minute
	retryMax = 6 * time.Minute
	idle     = 15 * time.Minute
)

// errWait says that a step must be tried again after a time.
type errWait struct{ after time.Duration }

func (e *errWait) Error() string { return fmt.Sprintf("wait %v", e.after) }

// Serve moves notes until ctx ends. With the operators away it waits; only a
// broken store is an error.
func (p *Purse) Serve(ctx context.Context) error {
	for {
		pause, err := p.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("notes: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-p.cfg.Clock.After(pause):
		}
	}
}

// round does everything that is due and says when something will be.
func (p *Purse) round(ctx context.Context) (pause time.Duration, err error) {
	pause = idle
	for _, step := range []func(context.Context) error{p.prepare, p.collectDue, p.finishOps, p.swapDue, p.redeemDue, p.forgetOld, p.proveDue} {
		err := step(ctx)
		var wait *errWait
		if errors.As(err, &wait) {
			pause = min(pause, wait.after)
			continue
		}
		if err != nil {
			return 0, err
		}
	}
	return max(pause, time.Second), nil
}

// ask sends one request; everything but an answer or a refusal becomes a wait.
func (p *Purse) ask(ctx context.Context, s mesh.Service, op ask.Op, body []byte, utility bool) ([]byte, error) {
	var answer []byte
	err := error(nil)
	if utility {
		u, uerr := p.cfg.Operators.Utility(p.cfg.Operator)
		if err = uerr; err == nil {
			answer, err = p.cfg.Operators.Ask(ctx, u.Key, s, op, body)
		}
	} else {
		a, aerr := p.cfg.Operators.Aggregator()
		if err = aerr; err == nil {
			answer, err = p.cfg.Operators.Ask(ctx, a.Key, s, op, body)
		}
	}
	var later *ask.NotYetError
	var no *ask.RefusedError
	switch {
	case err == nil, errors.As(err, &no):
		return answer, err
	case errors.As(err, &later):
		return nil, &errWait{max(later.After, time.Second)}
	}
	return nil, &errWait{p.random(retryMin, retryMax)}
}

// random is uniform in [from, to).
func (p *Purse) random(from, to time.Duration) time.Duration {
	var b [8]byte
	if _, err := io.ReadFull(p.cfg.Rand, b[:]); err != nil {
		return to
	}
	return from + time.Duration(binary.BigEndian.Uint64(b[:])%uint64(to-from))
}

// prepare learns the ledger's name, the month's keys and the own account.
func (p *Purse) prepare(ctx context.Context) error {
	if err := p.nameLedger(); err != nil {
		return err
	}
	if _, err := p.month(ctx, note.Epoch(p.cfg.Clock.Now())); err != nil {
		return err
	}
	p.mu.Lock()
	known := p.state.HasAccount || p.cfg.Operator == ""
	p.mu.Unlock()
	if known {
		return nil
	}
	b, err := p.ask(ctx, mesh.Notes, ask.Account, binary.BigEndian.AppendUint16(nil, ask.Currency), true)
	if err != nil {
		return waiting(err, retryMax)
	}
	a, err := ask.ParseAccount(b)
	if err != nil {
		return &errWait{retryMax}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Account, p.state.HasAccount = a, true
	return p.update()
}

// waiting turns a refusal of something that should work into a wait.
func waiting(err error, after time.Duration) error {
	var no *ask.RefusedError
	if errors.As(err, &no) {
		return &errWait{after}
	}
	return err
}

func (p *Purse) nameLedger() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wallet != nil {
		return nil
	}
	origin, err := p.cfg.Operators.Origin()
	if err != nil {
		return &errWait{p.random(retryMin, retryMax)}
	}
	p.wallet, p.state.Origin = note.NewWallet(p.seed, origin), origin
	return p.update()
}

// month gives the mint keys of a month, from the store or, proven by the
// ledger's cosigners, from the aggregator.
func (p *Purse) month(ctx context.Context, epoch uint32) (ask.Month, error) {
	p.mu.Lock()
	m, ok := p.months[epoch]
	p.mu.Unlock()
	if ok {
		return m, nil
	}
	b, err := p.ask(ctx, mesh.Notes, ask.Denoms, ask.DenomsBody(ask.Currency, epoch), false)
	if err != nil {
		return m, waiting(err, retryMax)
	}
	proven, err := ask.ParseProven(b)
	if err == nil {
		m, err = p.judgeMonth(proven, epoch)
	}
	if err != nil {
		p.cfg.Log.Warn("mint keys refused", "err", err)
		return m, &errWait{retryMax}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.months[epoch] = m
	return m, p.update(func(tx *store.Tx) error { return tx.Set(monthKey(epoch), proven.Entry) })
}

// judgeMonth accepts keys only from a checkpoint with its quorum: a mint that
// shows each wallet its own keys could tell their notes apart.
func (p *Purse) judgeMonth(proven ask.Proven, epoch uint32) (ask.Month, error) {
	policy, err := p.cfg.Operators.Policy()
	if err != nil {
		return ask.Month{}, err
	}
	e, err := proven.Open(policy)
	if err != nil {
		return ask.Month{}, err
	}
	m, err := ask.MonthOf(e, ask.Currency)
	if err == nil && m.Denoms.Epoch != epoch {
		err = fmt.Errorf("keys of month %d instead of %d", m.Denoms.Epoch, epoch)
	}
	return m, err
}

// collectDue works on every claim whose time has come.
func (p *Purse) collectDue(ctx context.Context) error {
	pause := idle
	for _, j := range p.jobs() {
		err := p.collect(ctx, j)
		var wait *errWait
		if errors.As(err, &wait) {
			pause = min(pause, wait.after)
			continue
		}
		if err != nil {
			return err
		}
	}
	return &errWait{pause}
}

func (p *Purse) jobs() []job {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.state.Jobs)
}

func (p *Purse) find(c Claim) *job {
	for i := range p.state.Jobs {
		if p.state.Jobs[i].Claim == c {
			return &p.state.Jobs[i]
		}
	}
	return nil
}

func (p *Purse) collect(ctx context.Context, j job) error {
	if left := time.UnixMilli(j.At).Sub(p.cfg.Clock.Now()); left > 0 {
		return &errWait{left}
	}
	m, err := p.month(ctx, note.Epoch(p.cfg.Clock.Now()))
	if err != nil {
		return err
	}
	if j.Msg == nil {
		if j, err = p.request(j.Claim, m); err != nil {
			return err
		}
	} else if m, err = p.month(ctx, j.Epoch); err != nil {
		return err
	}
	answer, err := p.ask(ctx, mesh.EVCollect, ask.Collect, j.Msg, false)
	var no *ask.RefusedError
	if errors.As(err, &no) {
		p.cfg.Log.Warn("claim of notes refused", "reason", no.Reason)
		return p.again(j)
	}
	if err != nil {
		return err
	}
	return p.take(j, m, answer)
}

// request makes a claim's request, durable before it leaves. First the wallet's
// operation is stored, which alone decides the blinded row; then the message.
func (p *Purse) request(c Claim, m ask.Month) (job, error) {
	row, made, err := p.blindRow(c, m)
	if err != nil {
		return job{}, err
	}
	msg, err := p.cfg.Claims.Request(c, made.Epoch, *row)
	if err != nil {
		p.cfg.Log.Warn("claim of notes cannot be made", "err", err)
		return job{}, &errWait{retryMax}
	}
	kind := leak.CollectHost
	if c.Party == session.PartyDriver || c.Party == session.PartyPool {
		kind = leak.CollectBoxed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	j := p.find(c)
	if j == nil {
		return job{}, &errWait{retryMin}
	}
	j.Msg = msg
	made = *j
	return made, p.update(p.left(kind, leak.Aggregator, msg))
}

func (p *Purse) blindRow(c Claim, m ask.Month) (*note.Row, job, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	j := p.find(c)
	if j == nil || p.wallet == nil {
		return nil, job{}, &errWait{retryMin}
	}
	if j.Op == 0 {
		op, err := p.wallet.Collect(m.Denoms, c.Minor)
		if err != nil {
			return nil, job{}, errors.Join(err, p.load())
		}
		j.Op, j.Epoch = op.ID, op.Epoch
		if err := p.update(); err != nil {
			return nil, job{}, err
		}
		j = p.find(c)
	}
	month, ok := p.months[j.Epoch]
	if !ok {
		return nil, job{}, &errWait{retryMin}
	}
	rows, err := p.wallet.Rows(j.Op, month.Denoms)
	if err != nil {
		return nil, job{}, err
	}
	return rows[0], *j, nil
}

// left is the journal's entry for a message, for the update that lets it leave.
func (p *Purse) left(m leak.Message, to leak.Role, msg []byte) func(*store.Tx) error {
	return func(tx *store.Tx) error {
		return p.cfg.Journal(tx, leak.Entry{Message: m, To: to, Bytes: uint32(len(msg)), At: p.cfg.Clock.Now()})
	}
}

// again gives a refused claim a new request once its month's keys are no longer
// used for signing; until then the same bytes are offered again.
func (p *Purse) again(j job) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wallet != nil && j.Epoch != note.Epoch(p.cfg.Clock.Now()) {
		if held := p.find(j.Claim); held != nil {
			if err := p.wallet.Abort(held.Op); err != nil && !errors.Is(err, note.ErrOp) {
				return err
			}
			held.Op, held.Epoch, held.Msg = 0, 0, nil
			if err := p.update(); err != nil {
				return err
			}
		}
	}
	return &errWait{retryMax}
}

// take holds the notes of an answer and plans their swap.
func (p *Purse) take(j job, m ask.Month, answer []byte) error {
	c, err := p.cfg.Claims.Open(j.Claim, answer)
	if err != nil {
		p.cfg.Log.Warn("answer to a claim refused", "err", err)
		return &errWait{retryMax}
	}
	request, err := p.cfg.Claims.Name(j.Claim, j.Msg)
	if err != nil {
		p.cfg.Log.Warn("own claim cannot be read", "err", err) // the notes are held, their proof will not fit
	}
	if err := p.hold(j, m, request, c); err != nil {
		return err
	}
	p.cfg.Claims.Collected(j.Claim, c.Issue)
	return nil
}

func (p *Purse) hold(j job, m ask.Month, request [32]byte, c session.Collected) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.find(j.Claim) == nil {
		return nil
	}
	if err := p.wallet.Finish(j.Op, m.Denoms, []*note.Row{&c.Row}); err != nil {
		p.cfg.Log.Warn("notes refused", "err", err)
		return &errWait{retryMax}
	}
	p.state.Jobs = slices.DeleteFunc(p.state.Jobs, func(x job) bool { return x.Claim == j.Claim })
	if err := p.planSwap(); err != nil {
		return errors.Join(err, p.load())
	}
	return p.update(p.plansProof(j.Claim, request, c))
}

// planSwap draws the time of the next swap. The caller holds mu.
func (p *Purse) planSwap() error {
	if p.state.SwapAt != 0 {
		return nil
	}
	d, err := note.SwapDelay(p.cfg.Rand)
	if err == nil {
		p.state.SwapAt = p.cfg.Clock.Now().Add(d).UnixMilli()
	}
	return err
}

// swapDue begins a swap when its time has come.
func (p *Purse) swapDue(ctx context.Context) error {
	p.mu.Lock()
	at := p.state.SwapAt
	p.mu.Unlock()
	if at == 0 {
		return nil
	}
	if left := time.UnixMilli(at).Sub(p.cfg.Clock.Now()); left > 0 {
		return &errWait{left}
	}
	m, err := p.month(ctx, note.Epoch(p.cfg.Clock.Now()))
	if err != nil {
		return err
	}
	if err := p.beginSwap(m, 0); err != nil {
		return err
	}
	return p.finishOps(ctx)
}

// beginSwap makes a swap's operation durable; want asks for one exact amount.
func (p *Purse) beginSwap(m ask.Month, want uint16) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if want == 0 {
		p.state.SwapAt = 0
	}
	op, err := p.wallet.Swap(p.cfg.Clock.Now(), m.Denoms, want, uint32(ledger.EarnedAccount(m.Cur)))
	if errors.Is(err, note.ErrNothing) || errors.Is(err, note.ErrChange) {
		return p.update()
	}
	if err != nil {
		return errors.Join(err, p.load())
	}
	r, err := p.wallet.SwapRequest(op.ID, m.Denoms)
	if err != nil {
		return errors.Join(err, p.load())
	}
	return p.update(p.left(leak.Swap, leak.Aggregator, r.Bytes()))
}

// finishOps asks for the outcome of every swap and redeem that has begun.
func (p *Purse) finishOps(ctx context.Context) error {
	p.mu.Lock()
	var ops []note.Op
	if p.wallet != nil {
		ops = p.wallet.Ops()
	}
	p.mu.Unlock()
	pause := idle
	for _, o := range ops {
		var err error
		switch o.Kind {
		case note.OpSwap:
			err = p.finishSwap(ctx, o)
		case note.OpRedeem:
			err = p.finishRedeem(ctx, o)
		}
		var wait *errWait
		if errors.As(err, &wait) {
			pause = min(pause, wait.after)
		} else if err != nil {
			return err
		}
	}
	return &errWait{pause}
}

func (p *Purse) finishSwap(ctx context.Context, o note.Op) error {
	m, err := p.month(ctx, o.Epoch)
	if err != nil {
		return err
	}
	p.mu.Lock()
	r, err := p.wallet.SwapRequest(o.ID, m.Denoms)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	answer, err := p.ask(ctx, mesh.Notes, ask.Swap, r.Bytes(), false)
	if err != nil {
		return waiting(err, retryMax) // a refused swap stays: its notes may be on the ledger
	}
	rows, err := note.ParseRowsReply(answer)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		err = p.wallet.Finish(o.ID, m.Denoms, rows)
	}
	if errors.Is(err, note.ErrOp) {
		return nil
	}
	if err != nil {
		p.cfg.Log.Warn("answer to a swap refused", "err", err)
		return &errWait{retryMax}
	}
	if p.state.RedeemAt == 0 {
		d, err := note.RedeemDelay(p.cfg.Rand)
		if err != nil {
			return errors.Join(err, p.load())
		}
		p.state.RedeemAt = p.cfg.Clock.Now().Add(d).UnixMilli()
	}
	return p.update()
}

// redeemDue hands full steps to the own utility when their time has come.
func (p *Purse) redeemDue(ctx context.Context) error {
	p.mu.Lock()
	at, known := p.state.RedeemAt, p.state.HasAccount
	p.mu.Unlock()
	if at == 0 || !known {
		return nil
	}
	if left := time.UnixMilli(at).Sub(p.cfg.Clock.Now()); left > 0 {
		return &errWait{left}
	}
	for {
		more, err := p.beginRedeem()
		if err != nil || !more {
			return err
		}
		if err := p.finishOps(ctx); err != nil {
			return err
		}
	}
}

func (p *Purse) beginRedeem() (more bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.ContainsFunc(p.wallet.Ops(), func(o note.Op) bool { return o.Kind == note.OpRedeem }) {
		return false, nil // one at a time: a step that waits tells nothing of the next
	}
	op, err := p.wallet.RedeemStep(p.cfg.Clock.Now(), ask.Currency, uint32(p.state.Account), p.cfg.Contract[:])
	if errors.Is(err, note.ErrNothing) {
		p.state.RedeemAt = 0
		return false, p.update()
	}
	if err != nil {
		return false, errors.Join(err, p.load())
	}
	r, err := p.wallet.RedeemRequest(op.ID)
	if err != nil {
		return false, errors.Join(err, p.load())
	}
	return true, p.update(p.left(leak.Redeem, leak.OwnUtility, r.Bytes()))
}

func (p *Purse) finishRedeem(ctx context.Context, o note.Op) error {
	p.mu.Lock()
	r, err := p.wallet.RedeemRequest(o.ID)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err := p.ask(ctx, mesh.Notes, ask.Redeem, ask.RedeemBody(p.cfg.Contract, r.Bytes()), true); err != nil {
		return waiting(err, retryMax) // kept: the notes may be on the ledger already
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.wallet.Done(o.ID); err != nil {
		return nil // ended before
	}
	p.state.Redeemed += note.RedeemStep
	return p.update()
}

// Change asks for a swap that leaves exactly want minor units to pay with.
func (p *Purse) Change(want uint16) error {
	p.mu.Lock()
	m, ok := p.months[note.Epoch(p.cfg.Clock.Now())]
	ready := ok && p.wallet != nil && !slices.ContainsFunc(p.wallet.Ops(), func(o note.Op) bool { return o.Kind == note.OpSwap })
	p.mu.Unlock()
	if !ready {
		return nil
	}
	defer p.poke()
	return p.beginSwap(m, want)
}
