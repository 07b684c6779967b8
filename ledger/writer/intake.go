package writer

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/store"
)

// Limits of the intake.
const (
	maxQueue      = 4096 // entries of one submitter that wait
	maxSubmitters = 4096 // four times the parties a log may have
	minQuota      = 256  // entries examined at once of whoever sends bad signatures
	suspectShare  = 20   // one of so many parts of the time may go into checking a suspect
	maxRest       = 3 * time.Second
	untilJudged   = time.Hour // no other turn before
)

// Result answers one submitted entry.
type Result struct {
	Receipt ledger.Receipt // valid if Err is nil
	Exists  bool           // the entry was in the log before: the receipt is for its old index
	Err     error          // an error of package ledger; see design/ledger.md, section 5
}

// job is one entry on its way to a receipt.
type job struct {
	store.Pending
	queue *queue
	batch *batch
	pos   int
}

func (j *job) answer(r Result) { j.batch.answer(j.pos, r) }

// batch is one call of Submit.
type batch struct {
	mu      sync.Mutex
	results []Result
	left    int
	done    chan struct{}
}

func (b *batch) answer(pos int, r Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.results[pos] = r
	if b.left--; b.left == 0 {
		close(b.done)
	}
}

// queue holds what one submitter sent.
type queue struct {
	name  string
	jobs  []*job
	quota int       // entries it may have in one group; below MaxGroup it is a suspect
	rest  time.Time // a suspect has no turn before
}

// intake holds the queues of all submitters: one who floods or sends bad
// signatures delays nobody else.
type intake struct {
	mu      sync.Mutex
	queues  map[string]*queue
	turn    []*queue // those with jobs, in the order in which they are served
	wake    chan struct{}
	stopped func() error // nil while entries are taken
}

func (in *intake) init() { in.queues, in.wake = map[string]*queue{}, make(chan struct{}, 1) }

// accept takes entries again.
func (in *intake) accept() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.stopped = nil
}

// refused is why entries are not taken, nil if they are.
func (in *intake) refused() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.stopped == nil {
		return nil
	}
	return in.stopped()
}

// Submit hands in entries and returns a receipt or error for each, in order,
// once they are durable. Entries of one author must come in the order of their
// numbers. If ctx ends first, the entries without an answer have its error and
// may still be taken: send the same bytes again.
func (w *Writer) Submit(ctx context.Context, raw [][]byte) []Result {
	return w.SubmitAs(ctx, "", raw)
}

// SubmitAs is Submit for a sender that the transport has authenticated, whose
// queue and limits apply.
func (w *Writer) SubmitAs(ctx context.Context, submitter string, raw [][]byte) []Result {
	b := &batch{results: make([]Result, len(raw)), left: len(raw), done: make(chan struct{})}
	if len(raw) == 0 {
		return b.results
	}
	jobs, room := make([]*job, 0, len(raw)), make([]job, len(raw))
	for i, r := range raw {
		p, err := w.store.Parse(r)
		if err != nil {
			b.answer(i, Result{Err: err})
			continue
		}
		room[i] = job{Pending: *p, batch: b, pos: i}
		jobs = append(jobs, &room[i])
	}
	w.intake.add(submitter, jobs)
	select {
	case <-b.done:
		return b.results
	case <-ctx.Done():
		return b.abandon(ctx.Err())
	}
}

// abandon gives the answers so far; the rest have err.
func (b *batch) abandon(err error) []Result {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := slices.Clone(b.results)
	for i := range out {
		if out[i].Err == nil && out[i].Receipt.Of == 0 {
			out[i].Err = err
		}
	}
	return out
}

// add queues jobs of a submitter; those that do not fit are answered ErrBusy.
func (in *intake) add(name string, jobs []*job) {
	in.mu.Lock()
	defer in.mu.Unlock()
	q := in.open(name)
	for _, j := range jobs {
		switch {
		case in.stopped != nil:
			j.answer(Result{Err: in.stopped()})
			continue
		case q == nil:
			j.answer(Result{Err: fmt.Errorf("%w: %d others are being served", ledger.ErrBusy, maxSubmitters)})
			continue
		case len(q.jobs) >= maxQueue:
			j.answer(Result{Err: fmt.Errorf("%w: %d entries are waiting", ledger.ErrBusy, maxQueue)})
			continue
		}
		j.queue = q
		if len(q.jobs) == 0 {
			in.turn = append(in.turn, q)
		}
		q.jobs = append(q.jobs, j)
	}
	if len(in.turn) > 0 {
		in.rouse()
	}
}

// rouse wakes gather.
func (in *intake) rouse() {
	select {
	case in.wake <- struct{}{}:
	default: // it is awake
	}
}

// open finds or makes the queue of a submitter, nil if there are too many. Who
// was slowed and is gone makes room.
func (in *intake) open(name string) *queue {
	if q := in.queues[name]; q != nil {
		return q
	}
	if len(in.queues) >= maxSubmitters {
		maps.DeleteFunc(in.queues, func(_ string, q *queue) bool { return len(q.jobs) == 0 })
	}
	if len(in.queues) >= maxSubmitters {
		return nil
	}
	q := &queue{name: name, quota: store.MaxGroup}
	in.queues[name] = q
	return q
}

// gather waits for entries and takes the next group: at most MaxGroup entries
// and limit bytes, by turns from the submitters, one list for each. more says that
// it was full and others wait.
func (in *intake) gather(ctx context.Context, limit int) (group [][]*job, more bool, err error) {
	for {
		g, more, rested := in.collect(limit, time.Now())
		if len(g) > 0 {
			return g, more, nil
		}
		select {
		case <-in.wake:
		case <-rested:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// collect takes what is there. If only suspects wait that had their share of the
// time, rested tells when the next one has its turn.
func (in *intake) collect(limit int, now time.Time) (group [][]*job, more bool, rested <-chan time.Time) {
	in.mu.Lock()
	defer in.mu.Unlock()
	room, pause := store.MaxGroup, time.Duration(-1)
	for n := len(in.turn); n > 0 && room > 0; n-- {
		q := in.turn[0]
		if d := q.rest.Sub(now); d > 0 {
			if in.turn = append(in.turn[1:], q); pause < 0 || d < pause {
				pause = d
			}
			continue
		}
		taken := 0
		for taken < min(len(q.jobs), q.quota, room) {
			size := 2 + len(q.jobs[taken].Item.Bytes())
			if size > limit {
				room = 0 // the group is full
				break
			}
			limit -= size
			taken++
		}
		if taken > 0 {
			if q.quota < store.MaxGroup {
				q.rest = now.Add(untilJudged)
			}
			group = append(group, q.jobs[:taken:taken])
			q.jobs = q.jobs[taken:]
			room -= taken
		}
		in.turn = in.turn[1:]
		switch {
		case len(q.jobs) > 0:
			in.turn = append(in.turn, q)
		case q.quota == store.MaxGroup:
			delete(in.queues, q.name) // nothing to remember of it
		}
	}
	if len(group) == 0 && pause > 0 {
		rested = time.After(pause)
	}
	return group, room == 0 && len(in.turn) > 0, rested
}

// suspect reports whether the sender of a batch is held back.
func (in *intake) suspect(list []*job) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	q := in.queues[list[0].queue.name]
	return q != nil && q.quota < store.MaxGroup
}

// judge cuts the share of a suspect whose batch was bad to the least and doubles it
// with each batch that was not. Until it is whole again the submitter rests so long
// that examining it, which took so long, is a small part of the time.
func (in *intake) judge(list []*job, bad bool, took time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	q := in.current(list)
	q.quota = min(store.MaxGroup, q.quota*2)
	if bad {
		q.quota = minQuota
	}
	q.rest = time.Time{}
	if q.quota < store.MaxGroup {
		q.rest = time.Now().Add(min(suspectShare*took, maxRest))
	}
	in.rouse()
}

// giveBack puts a batch before the others of its submitter, who is a suspect from
// now on.
func (in *intake) giveBack(list []*job) {
	in.mu.Lock()
	defer in.mu.Unlock()
	q := in.current(list)
	q.quota = minQuota
	if in.stopped != nil {
		for _, j := range list {
			j.answer(Result{Err: in.stopped()})
		}
		return
	}
	if len(q.jobs) == 0 {
		in.turn = append(in.turn, q)
	}
	q.jobs = append(slices.Clone(list), q.jobs...)
	in.rouse()
}

// current is the queue of a batch's submitter, which may have been forgotten, or
// made anew, since the batch was taken from it.
func (in *intake) current(list []*job) *queue {
	q := list[0].queue
	if now := in.queues[q.name]; now != nil {
		return now
	}
	in.queues[q.name] = q
	return q
}

// slowed lists the submitters that are held back.
func (in *intake) slowed() (names []string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for name, q := range in.queues {
		if q.quota < store.MaxGroup {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// refuse answers everything that waits, and whatever comes, with a refusal. Who was
// a suspect is none when entries are taken again: its rest may have had no end.
func (in *intake) refuse(refusal func() error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.stopped = refusal
	for _, q := range in.turn {
		for _, j := range q.jobs {
			j.answer(Result{Err: refusal()})
		}
		q.jobs = nil
	}
	in.turn = nil
	clear(in.queues)
}
