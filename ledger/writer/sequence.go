package writer

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/store"
)

// group is some entries on their way into the log together.
type group struct {
	lists    [][]*job      // by submitter
	verified chan struct{} // closed when the checks are done
	taken    chan struct{} // closed when its turn to be committed has come
}

func newGroup(lists ...[]*job) *group {
	return &group{lists, make(chan struct{}), make(chan struct{})}
}

func (g *group) refuse(err error) {
	for _, list := range g.lists {
		for _, j := range list {
			j.answer(Result{Err: err})
		}
	}
}

// check gathers groups and verifies their signatures while those before are being
// committed: one on all processors if no other waits, else one on each.
func (w *Writer) check(ctx context.Context, groups chan<- *group) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots, lane := make(chan struct{}, runtime.GOMAXPROCS(0)), make(chan struct{}, 1)
	for {
		lists, more, err := w.intake.gather(ctx, w.store.GroupBytes())
		if err != nil {
			return err
		}
		g := newGroup()
		for _, list := range lists {
			if w.intake.suspect(list) {
				wg.Go(func() { w.examine(ctx, list, lane, groups) })
			} else {
				g.lists = append(g.lists, list)
			}
		}
		if len(g.lists) == 0 {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			g.refuse(w.refusal())
			return ctx.Err()
		}
		processors := cap(slots)
		if more || len(slots) > 1 {
			processors = 1
		}
		wg.Go(func() {
			w.verify(g, processors)
			close(g.verified)
			<-slots
		})
		if !w.hand(ctx, g, groups) {
			return ctx.Err()
		}
		if more {
			continue
		}
		select { // what comes meanwhile makes one group and not many small ones
		case <-g.taken:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hand puts a group into the sequence, or refuses it when ctx ends.
func (w *Writer) hand(ctx context.Context, g *group, groups chan<- *group) bool {
	select {
	case groups <- g:
		return true
	case <-ctx.Done():
		<-g.verified
		g.refuse(w.refusal())
		return false
	}
}

// examine looks for the bad signatures of a suspect's batch, beside the others'
// groups, one suspect at a time.
func (w *Writer) examine(ctx context.Context, list []*job, lane chan struct{}, groups chan<- *group) {
	g := newGroup(list)
	select {
	case lane <- struct{}{}:
	case <-ctx.Done():
		g.refuse(w.refusal())
		return
	}
	start := time.Now()
	w.store.Check(pending(list))
	took := time.Since(start)
	<-lane
	bad := slices.ContainsFunc(list, func(j *job) bool { return errors.Is(j.Err, ledger.ErrSignature) })
	close(g.verified)
	if w.hand(ctx, g, groups) {
		w.intake.judge(list, bad, took)
	}
}

// verify checks a group in one batch. If that fails, each submitter's part is a
// batch of its own, and who sent a bad one is a suspect: its entries go back into
// its queue, to be examined in time that is not the others'.
func (w *Writer) verify(g *group, processors int) {
	var all []*store.Pending
	for _, list := range g.lists {
		all = append(all, pending(list)...)
	}
	if w.store.Holds(all, processors) {
		return
	}
	kept := g.lists[:0]
	for _, list := range g.lists {
		if len(g.lists) > 1 && w.store.Holds(pending(list), processors) {
			kept = append(kept, list)
		} else {
			w.intake.giveBack(list)
		}
	}
	g.lists = kept
}

func pending(list []*job) []*store.Pending {
	out := make([]*store.Pending, len(list))
	for i, j := range list {
		out[i] = &j.Pending
	}
	return out
}

// sequence applies and commits groups and answers their submitters.
func (w *Writer) sequence(ctx context.Context, groups <-chan *group) error {
	for {
		select {
		case g := <-groups:
			close(g.taken)
			<-g.verified
			if err := w.commit(g); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// commit makes a group durable. Its error is fatal.
func (w *Writer) commit(g *group) error {
	n := 0
	for _, part := range g.lists {
		n += len(part)
	}
	list, jobs := make([]*store.Pending, 0, n), make([]*job, 0, n)
	for _, part := range g.lists {
		for _, j := range part {
			list, jobs = append(list, &j.Pending), append(jobs, j)
		}
	}
	first, err := w.steps.Take(list)
	if err != nil {
		g.refuse(err)
		if errors.Is(err, ledger.ErrBusy) {
			return nil
		}
		return err
	}
	w.grown.fire()
	w.answer(jobs, first)
	return w.store.Snapshot()
}

// answer signs the receipts of a committed group, all at once.
func (w *Writer) answer(jobs []*job, next uint64) {
	origin, ms := ledger.OriginHash(w.origin), uint64(w.cfg.Clock.Now().UnixMilli())
	kept := make([]*job, 0, len(jobs))
	list := make([]ledger.Receipt, 0, len(jobs))
	for _, j := range jobs {
		index := next
		var exists *ledger.ExistsError
		switch {
		case j.Err == nil:
			next++
		case errors.As(j.Err, &exists):
			index = exists.Index
		case errors.Is(j.Err, ledger.ErrWindow) && w.sealed():
			j.answer(Result{Err: fmt.Errorf("%w: the log is sealed; the one that goes on takes the same bytes", ledger.ErrBusy)})
			continue
		default:
			j.answer(Result{Err: j.Err})
			continue
		}
		party, seq := j.Item.Author()
		kept = append(kept, j)
		list = append(list, ledger.Receipt{Origin: origin, Index: index, Leaf: j.Leaf, Party: ledger.PartyID(party), Seq: seq, Ms: ms})
	}
	for i, r := range ledger.SignReceipts(w.cfg.ReceiptKey, list...) {
		kept[i].answer(Result{Receipt: r, Exists: kept[i].Err != nil})
	}
}

// Post appends entries of the log's own party. build runs while nothing else,
// not even a tick, takes the party's next number; it reads that number inside
// Read, signs the entries, may collect the signatures of others, and stores the
// bytes if they must survive. The log time is brought up to date before.
func (w *Writer) Post(ctx context.Context, build func(ctx context.Context) ([][]byte, error)) ([]Result, error) {
	select {
	case w.own <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-w.own }()
	if w.stale() {
		if err := w.postTick(ctx); err != nil {
			return nil, err
		}
	}
	raw, err := build(ctx)
	if err != nil {
		return nil, err
	}
	return w.Submit(ctx, raw), nil
}

// Tick moves the log time to now even without traffic, so that a rule that waits
// for log time can go on.
func (w *Writer) Tick(ctx context.Context) error {
	select {
	case w.own <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-w.own }()
	return w.postTick(ctx)
}

// stale reports whether a tick is due.
func (w *Writer) stale() bool {
	return w.cfg.Tick != nil && w.Size() > 0 && w.untilTick() <= 0 && !w.sealed()
}

// sealed reports whether nothing can follow in this log, not even a tick.
func (w *Writer) sealed() (yes bool) {
	w.Read(func(m ledger.Machine) { yes = ledger.Sealed(m) != "" })
	return yes
}

// untilTick is the time until the log time is TickEvery behind.
func (w *Writer) untilTick() (d time.Duration) {
	w.Read(func(m ledger.Machine) { d = m.LogTime().Add(w.cfg.TickEvery).Sub(w.cfg.Clock.Now()) })
	return d
}

// postTick appends a tick; the own number must be held.
func (w *Writer) postTick(ctx context.Context) error {
	if w.cfg.Tick == nil {
		return nil
	}
	var raw []byte
	var err error
	w.Read(func(m ledger.Machine) { raw, err = w.cfg.Tick(m, w.cfg.Clock.Now()) })
	if err != nil {
		return fmt.Errorf("make tick: %w", err)
	}
	if raw == nil {
		return nil
	}
	r := w.Submit(ctx, [][]byte{raw})[0]
	if r.Err == nil {
		w.ticked.Store(r.Receipt.Index + 1)
	}
	return r.Err
}

// traffic reports whether entries came since the newest tick.
func (w *Writer) traffic() bool { return w.Size() > w.ticked.Load() && !w.sealed() }

// freshen ticks if the log time is behind and the own number is free.
func (w *Writer) freshen(ctx context.Context) error {
	if !w.stale() {
		return nil
	}
	select {
	case w.own <- struct{}{}:
	default:
		return nil // whoever holds it has ticked
	}
	defer func() { <-w.own }()
	return w.postTick(ctx)
}

// ticks moves the log time every TickEvery while entries come.
func (w *Writer) ticks(ctx context.Context) error {
	if w.cfg.Tick == nil {
		return nil
	}
	for {
		grown := w.grown.next()
		var err error
		if !w.traffic() {
			err = wait(ctx, grown)
		} else if d := w.untilTick(); d > 0 {
			err = wait(ctx, w.cfg.Clock.After(d))
		} else if refused := w.freshen(ctx); refused != nil && ctx.Err() == nil {
			w.cfg.Log.Warn("tick refused", "err", refused)
			err = wait(ctx, time.After(tickRetry))
		} else if w.stale() { // somebody else has the own number
			err = wait(ctx, time.After(ownPause))
		}
		if err := errors.Join(err, w.store.Err()); err != nil {
			return err
		}
	}
}

// Pauses on the wall clock.
const (
	tickRetry = time.Second          // a refused tick is an operator's problem, not worth a busy loop
	ownPause  = 5 * time.Millisecond // for the entry before to become durable
)

// MoneyTick makes the ticks of a settlement ledger: entries of party 1, signed
// with its entry key.
func MoneyTick(origin string, key ed25519.PrivateKey) func(ledger.Machine, time.Time) ([]byte, error) {
	return func(m ledger.Machine, now time.Time) ([]byte, error) {
		s := m.(*ledger.Money).State
		if s.Size() == 0 || now.UnixMilli() <= s.LogTime().UnixMilli() {
			return nil, nil
		}
		e, err := ledger.NewEntry(1, s.NextSeq(1), s.NextTick(uint64(now.UnixMilli())))
		if err != nil {
			return nil, err
		}
		if err := ledger.Sign(e, origin, key); err != nil {
			return nil, err
		}
		return e.Bytes(), nil
	}
}
