package writer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gridveil/ledger"
)

// round is one checkpoint on its way to its quorum.
type round struct {
	checkpoint ledger.Checkpoint
	note       []byte
	cosigners  []string
	final      bool
}

// complete reports whether nobody is left to ask.
func (r *round) complete(n int) bool { return len(r.cosigners) == n }

// Pauses between attempts, by the clock; each is at least retryPause long on the
// wall, or an accelerated clock would make a dead witness a busy loop.
const (
	firstRetry = 2 * time.Second
	lastRetry  = time.Minute
	retryPause = 50 * time.Millisecond
)

// checkpoints signs a checkpoint each CheckpointEvery if the log has grown, and
// asks the witnesses for their cosignatures until all have given them or the log
// has grown again. Its error is fatal.
func (w *Writer) checkpoints(ctx context.Context) error {
	r, err := w.resume()
	if err != nil {
		return err
	}
	retry := firstRetry
	for {
		// A log that is not final needs a fresh tick when its witnesses come back,
		// one that only ticks does not.
		if w.traffic() || !r.final {
			if err := w.freshen(ctx); err != nil && ctx.Err() == nil {
				w.cfg.Log.Warn("tick refused", "err", err)
			}
		}
		if w.Size() > r.checkpoint.Size {
			if r, err = w.open(); err != nil {
				return err
			}
			retry = firstRetry
		}
		if err := errors.Join(w.collect(ctx, r), w.store.Err()); err != nil {
			return err
		}
		if err := w.pause(ctx, r, retry); err != nil {
			return err
		}
		retry = min(2*retry, lastRetry)
	}
}

// resume takes up the last signed state: it may have been signed and not
// published when the process ended.
func (w *Writer) resume() (*round, error) {
	size, root := w.store.Signed()
	c, msg := w.Final()
	if c.Size == size && size > 0 {
		_, cosigners, err := w.cfg.Policy.Open(msg)
		return &round{c, msg, cosigners, true}, err
	}
	if size == 0 {
		return &round{final: true}, nil
	}
	return w.sign(ledger.Checkpoint{Origin: w.origin, Size: size, Root: root})
}

// open seals the durable log and signs it.
func (w *Writer) open() (*round, error) {
	size, root, err := w.steps.Seal()
	if err != nil {
		return nil, err
	}
	return w.sign(ledger.Checkpoint{Origin: w.origin, Size: size, Root: root})
}

func (w *Writer) sign(c ledger.Checkpoint) (*round, error) {
	msg, err := ledger.SignCheckpoint(c, w.signer)
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint of size %d: %w", c.Size, err)
	}
	return &round{checkpoint: c, note: msg}, nil
}

// collect asks the witnesses that have not cosigned yet. It publishes the
// checkpoint as soon as it is final, and once more if others cosigned shortly
// after.
func (w *Writer) collect(ctx context.Context, r *round) error {
	if r.checkpoint.Size == 0 {
		return nil
	}
	if err := w.settle(r); err != nil {
		return err
	}
	answers, stop := w.askAll(ctx, r)
	defer stop()
	published := len(r.cosigners)
	var late <-chan time.Time
	for {
		if r.final && late == nil {
			late = time.After(stragglers)
		}
		select {
		case a, more := <-answers:
			if more {
				if err := w.count(r, a); err != nil {
					return err
				}
				continue
			}
		case <-late:
		}
		if r.final && len(r.cosigners) > published {
			return w.publish(r)
		}
		return ctx.Err()
	}
}

// count adds the cosignature of a witness.
func (w *Writer) count(r *round, a answer) error {
	if a.err != nil {
		return w.store.Err() // the witness may have shown that this store is damaged
	}
	msg, err := ledger.MergeCosignatures(r.note, a.lines, w.cfg.Policy.Keys()...)
	if err != nil {
		w.note(a.witness, 0, err)
		return nil
	}
	_, cosigners, err := w.cfg.Policy.Open(msg)
	if err != nil {
		return fmt.Errorf("own checkpoint of size %d: %w", r.checkpoint.Size, err)
	}
	r.note, r.cosigners = msg, cosigners
	return w.settle(r)
}

// settle publishes the checkpoint if it has just become final.
func (w *Writer) settle(r *round) error {
	if r.final || !w.cfg.Policy.Final(r.cosigners) {
		return nil
	}
	if err := w.publish(r); err != nil {
		return err
	}
	r.final = true
	w.settled.fire()
	w.cfg.Log.Debug("checkpoint final", "size", r.checkpoint.Size)
	return nil
}

// publish makes a final checkpoint the one that is served (W8, W9).
func (w *Writer) publish(r *round) error {
	if err := w.steps.Publish(r.checkpoint.Size, r.note); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.final = final{r.checkpoint, r.note, r.cosigners}
	return nil
}

// pause waits for the next thing to do: CheckpointEvery at least, then growth, or
// the time to ask absent witnesses again. Growth cuts the latter short only if
// the round is final: an absent quorum is not found by asking more often.
func (w *Writer) pause(ctx context.Context, r *round, retry time.Duration) error {
	if err := wait(ctx, w.cfg.Clock.After(w.cfg.CheckpointEvery)); err != nil {
		return err
	}
	grown := w.grown.next()
	if w.Size() > r.checkpoint.Size && r.final {
		return nil
	}
	if r.complete(len(w.witnesses)) {
		return wait(ctx, grown)
	}
	again := w.cfg.Clock.After(retry)
	if err := wait(ctx, time.After(retryPause)); err != nil {
		return err
	}
	if !r.final {
		return wait(ctx, again)
	}
	select {
	case <-again:
		return nil
	case <-grown:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait returns at the event, or with an error when ctx ends.
func wait[T any](ctx context.Context, event <-chan T) error {
	select {
	case <-event:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
