package verifier

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"golang.org/x/mod/sumdb/tlog"

	"gridveil/ledger"
)

// Observe judges a checkpoint that was pulled or heard from others: a larger one
// is followed and cosigned, a smaller one compared with our copy. Evidence comes
// if it contradicts what we hold; it is kept and published, and we cosign no
// more.
func (v *Verifier) Observe(ctx context.Context, msg []byte) (*ledger.Evidence, error) {
	return v.observe(ctx, msg, v.home, true)
}

// Look fetches the newest checkpoint that is served under a URL prefix, and
// judges it by the tiles that are served there: the log's own (empty means the
// one of the policy), a mirror's, or a verifier's with its /<sha256(origin)>.
// One larger than our copy is replayed and cosigned if adopt, else it must only
// be a tree that ours grows into. It returns the note as it was served, and
// ErrAbsent where there is none.
func (v *Verifier) Look(ctx context.Context, prefix string, adopt bool) (note []byte, err error) {
	from := v.home
	if prefix != "" {
		from.url = prefix
	}
	note, err = from.checkpoint(ctx)
	if err != nil {
		if prefix == "" && !errors.Is(err, ErrAbsent) {
			v.mark(err)
		}
		return nil, err
	}
	_, err = v.observe(ctx, note, from, adopt)
	return note, err
}

// Accusation fetches the evidence against the log that is served under a URL
// prefix, nil if there is none. Convict judges it.
func (v *Verifier) Accusation(ctx context.Context, prefix string) (*ledger.Evidence, error) {
	from := v.home
	from.url = prefix
	b, err := from.get(ctx, noteEvidence, maxEvidence)
	if errors.Is(err, ErrAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return ledger.ParseEvidence(b)
}

// observe judges a checkpoint that was shown by whoever serves from.
func (v *Verifier) observe(ctx context.Context, msg []byte, from source, adopt bool) (*ledger.Evidence, error) {
	c, err := v.openNote(msg)
	if err != nil {
		return nil, err
	}
	if err := v.lock(ctx); err != nil {
		return nil, err
	}
	defer v.unlock()
	v.from = from
	size, _ := v.store.Signed()
	switch {
	case c.Size > size && !adopt:
		return nil, v.growsInto(ctx, c, msg)
	case c.Size > size || c.Size == size && size > 0 && v.renew():
		_, err := v.advance(ctx, c, msg)
		return v.Status().Evidence, err
	}
	root, err := v.store.RootAt(c.Size)
	if err == nil && root != c.Root {
		err = fmt.Errorf("%w: our copy has another root at size %d", ledger.ErrFork, c.Size)
		v.mark(err)
		if failed := v.judge(ctx, c, msg); failed != nil {
			return nil, failed
		}
	} else if err == nil && v.stopped(c) == nil {
		v.mark(nil)
	}
	return v.Status().Evidence, err
}

// growsInto checks that the tree of a larger checkpoint grew out of ours.
func (v *Verifier) growsInto(ctx context.Context, c ledger.Checkpoint, msg []byte) error {
	size, root := v.store.Size()
	if size == 0 || size > c.Size {
		return nil // what we hold of it is not all proved yet
	}
	own := ledger.Checkpoint{Origin: c.Origin, Size: size, Root: root}
	proof, err := ledger.ProveConsistency(size, c.Size, v.tree(ctx, c))
	if err != nil {
		return fmt.Errorf("tiles of the checkpoint of size %d: %w", c.Size, err)
	}
	if ledger.CheckConsistency(own, c, proof) == nil {
		return nil
	}
	err = fmt.Errorf("%w: the tree of size %d did not grow out of our copy of size %d", ledger.ErrFork, c.Size, size)
	v.mark(err)
	return errors.Join(err, v.judge(ctx, c, msg))
}

// renew says whether our cosignature is old.
func (v *Verifier) renew() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.cfg.RenewEvery > 0 && v.cfg.Clock.Now().Sub(v.signed) >= v.cfg.RenewEvery
}

// Held is everything that convicts the log: evidence of two histories or of a
// broken receipt, and the evidence of an entry that breaks a rule.
func (v *Verifier) Held() (list []*ledger.Evidence, err error) {
	for _, name := range []string{noteEvidence, noteBadEntry} {
		b, err := v.store.Note(name)
		if err != nil {
			return nil, err
		}
		if b == nil {
			continue
		}
		e, err := ledger.ParseEvidence(b)
		if err != nil {
			return nil, fmt.Errorf("stored %s: %w", name, err)
		}
		list = append(list, e)
	}
	return list, nil
}

// CheckReceipt compares a receipt of the log with our copy: nil without error
// means that the log holds what it pledged. It returns ErrSignature if the log
// did not give the receipt, and ErrBusy while our copy ends below its index.
// Where the log holds another entry we keep the evidence and cosign no more.
func (v *Verifier) CheckReceipt(ctx context.Context, r ledger.Receipt) (*ledger.Evidence, error) {
	if err := v.lock(ctx); err != nil {
		return nil, err
	}
	defer v.unlock()
	size, note := v.store.Published()
	if r.Index >= size {
		return nil, fmt.Errorf("%w: our copy has %d entries, the receipt is for entry %d", ledger.ErrBusy, size, r.Index)
	}
	var keys []ledger.Hash
	v.Read(func(m ledger.Machine) {
		if money, ok := m.(*ledger.Money); ok {
			keys = money.State.ActiveKeys(1, ledger.UseReceipt)
		}
	})
	known := false
	for _, k := range keys {
		known = known || r.Verify(v.origin, k) == nil
	}
	if !known {
		return nil, fmt.Errorf("%w: no receipt key on the log has signed this receipt", ledger.ErrSignature)
	}
	raw, err := v.store.Entry(r.Index)
	if err != nil {
		return nil, err
	}
	e := &ledger.Evidence{Kind: ledger.BrokenPledge, B: note, Receipt: r, Leaf: ledger.LeafHash(raw)}
	if e.Leaf == r.Leaf {
		return nil, nil
	}
	c, err := v.openNote(note)
	if err != nil {
		return nil, err
	}
	if e.Proof, err = v.store.ProveInclusion(r.Index, c); err != nil {
		return nil, err
	}
	return e, v.keep(e)
}

// judge looks for evidence against the log after a checkpoint that contradicts
// our copy. Finding none is no error: the other side may have sent a wrong proof.
func (v *Verifier) judge(ctx context.Context, c ledger.Checkpoint, msg []byte) error {
	for _, known := range v.heldNotes() {
		e := v.compare(ctx, known, c, msg)
		if e == nil || e.Check(v.cfg.Policy) != nil {
			continue
		}
		return v.keep(e)
	}
	return nil
}

// keep publishes evidence; we cosign no more.
func (v *Verifier) keep(e *ledger.Evidence) error {
	if err := v.store.PutNote(noteEvidence, e.Encode()); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.evidence = e
	v.failed = fmt.Errorf("%w: %s", ledger.ErrFork, e.Kind)
	v.cfg.Log.Error("log shows two histories", "log", v.origin, "evidence", e.Kind.String())
	return nil
}

// Convict takes evidence that others found and stops cosigning if it holds.
// receiptKeys are those of the log's writer, for a broken receipt. It returns
// ErrSignature if the evidence convicts nobody, and ErrKind for an objection:
// that we judge by replaying.
func (v *Verifier) Convict(ctx context.Context, e *ledger.Evidence, receiptKeys ...ledger.Hash) error {
	if e.Kind == ledger.BadEntry {
		return fmt.Errorf("%w: an objection is judged by replaying", ledger.ErrKind)
	}
	if err := e.Check(v.cfg.Policy, receiptKeys...); err != nil {
		return err
	}
	if err := v.lock(ctx); err != nil {
		return err
	}
	defer v.unlock()
	return v.keep(e)
}

// heldNotes are the checkpoints that the log signed and our copy agrees with.
func (v *Verifier) heldNotes() (list [][]byte) {
	if _, note := v.store.Published(); note != nil {
		list = append(list, note)
	}
	if note, err := v.store.Note(notePending); err == nil && note != nil {
		list = append(list, note)
	}
	return list
}

// compare makes evidence of the checkpoint c and one that we hold, nil if they
// do not contradict each other as far as can be shown.
func (v *Verifier) compare(ctx context.Context, held []byte, c ledger.Checkpoint, msg []byte) *ledger.Evidence {
	k, _, err := ledger.OpenCheckpoint(held, v.cfg.Policy.Log)
	if err != nil || k.Size == 0 || c.Size == 0 {
		return nil
	}
	e := &ledger.Evidence{Kind: ledger.OtherHistory, A: held, B: msg}
	small, large, tree := k, c, v.tree(ctx, c)
	switch {
	case k.Size == c.Size:
		return &ledger.Evidence{Kind: ledger.TwoRoots, A: held, B: msg}
	case k.Size > c.Size:
		e.A, e.B = msg, held
		small, large, tree = c, k, v.store.Hashes(k.Size, k.Root)
	}
	old, err := tlog.TreeHash(int64(small.Size), tree)
	if err != nil {
		return nil
	}
	e.Root = ledger.Hash(old)
	if e.Proof, err = ledger.ProveConsistency(small.Size, large.Size, tree); err != nil {
		return nil
	}
	return e
}

// object publishes our refusal of an entry under c.
func (v *Verifier) object(ctx context.Context, bad *badEntry, c ledger.Checkpoint, msg []byte) error {
	o := ledger.SignObjection(ledger.Objection{Origin: ledger.OriginHash(v.origin), Index: bad.index, Leaf: bad.leaf,
		Code: ledger.CodeOf(bad.err), Witness: v.cfg.Name}, v.cfg.Key)
	if err := v.store.PutNote(noteObjection, o.Encode()); err != nil {
		return err
	}
	v.mu.Lock()
	v.objection, v.blocked = &o, true
	v.mu.Unlock()
	v.cfg.Log.Error("entry of the log must be refused", "log", v.origin, "index", bad.index, "err", bad.err)
	e := ledger.Evidence{Kind: ledger.BadEntry, Objection: o, B: msg}
	var err error
	if e.Proof, err = ledger.ProveInclusion(c.Size, bad.index, v.tree(ctx, c)); err != nil {
		return fmt.Errorf("prove the bad entry: %w", err)
	}
	return v.store.PutNote(noteBadEntry, e.Encode())
}

// withdraw drops an objection of an earlier run to an entry that was accepted
// now: the program has changed.
func (v *Verifier) withdraw(c ledger.Checkpoint) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.objection == nil || v.objection.Index >= c.Size {
		return nil
	}
	v.objection, v.blocked = nil, false
	if err := v.store.PutNote(noteObjection, nil); err != nil {
		return err
	}
	return v.store.PutNote(noteBadEntry, nil)
}

// loadCase reads evidence and objection of earlier runs.
func (v *Verifier) loadCase() error {
	b, err := v.store.Note(noteEvidence)
	if err != nil {
		return err
	}
	if b != nil {
		if v.evidence, err = ledger.ParseEvidence(b); err != nil {
			return fmt.Errorf("stored evidence: %w", err)
		}
	}
	if b, err = v.store.Note(noteObjection); err != nil || b == nil {
		return err
	}
	o, err := ledger.ParseObjection(b)
	if err != nil {
		return fmt.Errorf("stored objection: %w", err)
	}
	v.objection = &o
	return nil
}

// served writes a kept value, 404 if there is none.
func (v *Verifier) served(w http.ResponseWriter, name string) {
	b, err := v.store.Note(name)
	if err != nil {
		http.Error(w, "it cannot be read", http.StatusServiceUnavailable)
		return
	}
	if b == nil {
		http.Error(w, "there is none", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(b) // the client is gone if this fails
}
