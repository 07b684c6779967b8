package verifier

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"gridveil/ledger"
)

// turnTimeout is how long a request waits for the one before, on the wall clock.
const turnTimeout = 10 * time.Second

// refusal is an answer of the witness protocol other than 200.
type refusal struct {
	status int
	size   uint64 // for 409
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(status int, err error) error { return &refusal{status: status, err: err} }

// AddCheckpoint judges a checkpoint that the log submits and answers with our
// cosignature line. Source: C2SP tlog-witness, add-checkpoint.
func (v *Verifier) AddCheckpoint(ctx context.Context, req *ledger.AddCheckpoint) ([]byte, error) {
	c, err := v.openNote(req.Checkpoint)
	if err != nil {
		return nil, err
	}
	if req.Old > c.Size {
		return nil, refuse(http.StatusBadRequest, fmt.Errorf("%w: old size %d is above the checkpoint's %d", ledger.ErrMalformed, req.Old, c.Size))
	}
	if err := v.lock(ctx); err != nil {
		return nil, err
	}
	defer v.unlock()
	if own, _ := v.store.Signed(); req.Old != own {
		return nil, &refusal{http.StatusConflict, own, fmt.Errorf("the newest cosigned size is %d", own)}
	}
	if err := v.consistent(req, c); err != nil {
		v.mark(err)
		return nil, errors.Join(err, v.judge(ctx, c, req.Checkpoint))
	}
	return v.advance(ctx, c, req.Checkpoint)
}

// openNote reads a checkpoint of our log: 403 if the log did not sign it, 422 if
// it is of size 0 with the root of something, else 400.
func (v *Verifier) openNote(msg []byte) (ledger.Checkpoint, error) {
	c, _, err := ledger.OpenCheckpoint(msg, v.cfg.Policy.Log)
	switch {
	case errors.Is(err, ledger.ErrSignature):
		return c, refuse(http.StatusForbidden, err)
	case err != nil && strings.HasPrefix(string(msg), v.origin+"\n0\n"):
		return c, refuse(http.StatusUnprocessableEntity, err)
	case err != nil:
		return c, refuse(http.StatusBadRequest, err)
	case c.Origin != v.origin:
		return c, refuse(http.StatusNotFound, fmt.Errorf("%w: this log is not followed here", ledger.ErrMalformed))
	}
	return c, nil
}

// consistent checks the proof of a request whose old size is ours.
func (v *Verifier) consistent(req *ledger.AddCheckpoint, c ledger.Checkpoint) error {
	size, root := v.store.Signed()
	own := ledger.Checkpoint{Origin: v.origin, Size: size, Root: root}
	var err error
	switch {
	case size == 0 && len(req.Proof) > 0:
		err = fmt.Errorf("%w: a proof from size 0", ledger.ErrMalformed)
	case size == 0:
	case size == c.Size && root != c.Root:
		err = fmt.Errorf("%w: size %d was cosigned with another root", ledger.ErrFork, size)
	default:
		err = ledger.CheckConsistency(own, c, req.Proof)
	}
	if err != nil {
		return refuse(http.StatusUnprocessableEntity, err)
	}
	return nil
}

// advance replays up to c, cosigns it and publishes the note. Our turn is held.
func (v *Verifier) advance(ctx context.Context, c ledger.Checkpoint, msg []byte) (lines []byte, err error) {
	defer func() { v.mark(err) }()
	if err := v.stopped(c); err != nil {
		return nil, err
	}
	if err := v.catchUp(ctx, c, msg); err != nil {
		return nil, err
	}
	if own, _ := v.store.Signed(); c.Size > own {
		if err := v.fresh(); err != nil {
			return nil, errors.Join(err, v.store.PutNote(notePending, msg))
		}
		// From here on the size is ours: a crash now answers 409 with it.
		if _, err := v.store.SealAt(c.Size); err != nil {
			return nil, err
		}
	}
	lines, err = ledger.Cosign(msg, ledger.Cosigner(v.me.Name(), v.cfg.Key, v.cfg.Clock.Now()))
	if err != nil || c.Size == 0 {
		return lines, err
	}
	note, err := ledger.MergeCosignatures(msg, lines, v.cfg.Policy.Keys()...)
	if err != nil {
		// A third party's line is wrong: that is no reason to refuse the log.
		note, err = ledger.MergeCosignatures(msg, lines, v.cfg.Policy.Log, v.me)
	}
	if err != nil {
		return nil, err
	}
	if err := v.store.Publish(c.Size, note); err != nil {
		return nil, err
	}
	v.mu.Lock()
	v.signed = v.cfg.Clock.Now()
	v.mu.Unlock()
	return lines, nil
}

// stopped refuses to go on after evidence or an objection.
func (v *Verifier) stopped(c ledger.Checkpoint) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.evidence != nil:
		return refuse(http.StatusServiceUnavailable, fmt.Errorf("%w: %s", ledger.ErrFork, v.evidence.Kind))
	case v.blocked && c.Size > v.objection.Index:
		return refuse(http.StatusUnprocessableEntity, fmt.Errorf("%w: we object to entry %d", v.objection.Code.Err(), v.objection.Index))
	}
	return nil
}

// catchUp brings the store to c and proves that it has the same root there.
func (v *Verifier) catchUp(ctx context.Context, c ledger.Checkpoint, msg []byte) error {
	err := v.follow(ctx, c, msg)
	var bad *badEntry
	switch {
	case errors.As(err, &bad):
		return refuse(http.StatusUnprocessableEntity, errors.Join(err, v.object(ctx, bad, c, msg)))
	case errors.Is(err, errOther):
		return refuse(http.StatusUnprocessableEntity, errors.Join(err, v.judge(ctx, c, msg)))
	case err != nil:
		return refuse(http.StatusServiceUnavailable, err)
	}
	root, err := v.store.RootAt(c.Size)
	if err != nil {
		return err
	}
	if root != c.Root {
		err := fmt.Errorf("%w: size %d was replayed with another root", ledger.ErrFork, c.Size)
		return refuse(http.StatusUnprocessableEntity, errors.Join(err, v.judge(ctx, c, msg)))
	}
	return v.withdraw(c)
}

// fresh checks the newest tick against our clock. A log that states no time is
// not asked for it, nor is one that is sealed: nothing can follow, so nothing is
// kept back, and its cosigners may come late.
func (v *Verifier) fresh() error {
	var at time.Time
	sealed := false
	v.store.Read(func(m ledger.Machine) { at, sealed = m.LogTime(), ledger.Sealed(m) != "" })
	if at.IsZero() || sealed {
		return nil
	}
	d := v.cfg.Clock.Now().Sub(at)
	if d > v.cfg.MaxBehind || -d > v.cfg.MaxAhead {
		return refuse(http.StatusServiceUnavailable, fmt.Errorf("%w: newest tick is %s behind our clock, allowed is %s behind to %s ahead; compare the clocks",
			ledger.ErrWindow, d.Round(time.Second), v.cfg.MaxBehind, v.cfg.MaxAhead))
	}
	return nil
}

// lock waits for our turn: 503 after turnTimeout.
func (v *Verifier) lock(ctx context.Context) error {
	late := time.NewTimer(turnTimeout)
	defer late.Stop()
	select {
	case v.turn <- struct{}{}:
		v.from = v.home
		return nil
	case <-late.C:
		return refuse(http.StatusServiceUnavailable, fmt.Errorf("%w: another checkpoint is being replayed", ledger.ErrBusy))
	case <-ctx.Done():
		return refuse(http.StatusServiceUnavailable, ctx.Err())
	}
}

func (v *Verifier) unlock() { <-v.turn }
