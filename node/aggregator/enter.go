package aggregator

import (
	"context"
	"errors"
	"fmt"

	"gridveil/ledger"
	"gridveil/ledger/writer"
	"gridveil/node/party"
	"gridveil/node/store"
)

// job is an own entry that is to be entered exactly once: id names it for ever.
type job struct {
	id   [32]byte
	body ledger.Body
}

// outcome of a job. With err set, final says that the ledger refused it for
// good; else the same job is entered again later.
type outcome struct {
	index uint64
	err   error
	final bool
}

// cosignFunc completes an entry that others must sign too.
type cosignFunc func(ctx context.Context, e *ledger.Entry) (*ledger.Entry, error)

func rawKey(id [32]byte) []byte { return store.SpaceLedger.Key([]byte("raw"), id[:]) }

// enter signs and posts jobs as one block. The signed bytes of each are stored
// under its id before they leave, and those same bytes are posted again until
// the ledger has answered; only when it shows that another entry has their
// number are they made anew.
func (a *Aggregator) enter(ctx context.Context, w *writer.Writer, jobs []job) ([]outcome, error) {
	return a.enterWith(ctx, w, jobs, nil)
}

// enterOne is enter for one job that may need further signatures. Its error is
// that of the outcome, if there is one.
func (a *Aggregator) enterOne(ctx context.Context, w *writer.Writer, id [32]byte, body ledger.Body, cosign cosignFunc) (outcome, error) {
	list, err := a.enterWith(ctx, w, []job{{id, body}}, cosign)
	if err != nil {
		return outcome{}, err
	}
	return list[0], list[0].err
}

func (a *Aggregator) enterWith(ctx context.Context, w *writer.Writer, jobs []job, cosign cosignFunc) ([]outcome, error) {
	var entries []*ledger.Entry
	results, err := w.Post(ctx, func(ctx context.Context) ([][]byte, error) {
		var next uint64
		w.Read(func(m ledger.Machine) { next = m.(*ledger.Money).State.NextSeq(1) })
		var err error
		if entries, err = a.prepare(next, jobs); err != nil {
			return nil, err
		}
		raw := make([][]byte, len(entries))
		for i, e := range entries {
			// A number that the log has passed is this entry's already or another's:
			// the ledger says which. To sign for it again would only bind the signer.
			if cosign != nil && e.Seq() >= next {
				if e, err = cosign(ctx, e); err != nil {
					return nil, err
				}
			}
			raw[i] = e.Bytes()
		}
		return raw, nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]outcome, len(jobs))
	for i, r := range results {
		if out[i], err = a.judge(w, entries[i], r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// prepare gives each job its signed entry: the stored one, or a new one with the
// next free number, made durable before it leaves. next is the log's next number.
func (a *Aggregator) prepare(next uint64, jobs []job) ([]*ledger.Entry, error) {
	free := next
	entries := make([]*ledger.Entry, len(jobs))
	var fresh []int
	for i, j := range jobs {
		e, err := a.stored(j)
		if err != nil {
			return nil, err
		}
		switch {
		case e != nil && e.Seq() < next: // in the log, or its number is another's
			entries[i] = e
			continue
		case e != nil && e.Seq() == free:
			entries[i] = e
		default: // never accepted: its number is not reached yet
			raw, err := a.sign(free, j.body)
			if err != nil {
				return nil, err
			}
			if entries[i], err = ledger.Parse(raw); err != nil {
				return nil, err
			}
			fresh = append(fresh, i)
		}
		free++
	}
	if len(fresh) == 0 {
		return entries, nil
	}
	err := a.env.Store.Update(func(tx *store.Tx) error {
		for _, i := range fresh {
			if err := tx.Set(rawKey(jobs[i].id), entries[i].Bytes()); err != nil {
				return err
			}
		}
		return nil
	})
	return entries, err
}

func (a *Aggregator) stored(j job) (*ledger.Entry, error) {
	raw, err := a.env.Store.Get(rawKey(j.id))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("stored entry: %w", err)
	}
	e, err := ledger.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("stored entry: %w", err)
	}
	return e, nil
}

// judge says what the ledger's answer to an entry means.
func (a *Aggregator) judge(w *writer.Writer, e *ledger.Entry, r writer.Result) (outcome, error) {
	var conflict *ledger.SeqConflictError
	switch {
	case r.Err == nil:
		return outcome{index: baseOf(w) + r.Receipt.Index}, nil
	case errors.As(r.Err, &conflict):
		raw, err := w.Entry(conflict.Index)
		if err != nil {
			return outcome{}, err
		}
		other, err := ledger.Parse(raw)
		if err != nil {
			return outcome{}, err
		}
		if _, err := party.Merge(e, other); err == nil {
			return outcome{index: baseOf(w) + conflict.Index}, nil // the same entry, with the payer's signature
		}
		return outcome{err: r.Err}, a.renew(e)
	case errors.Is(r.Err, ledger.ErrSeqGap), errors.Is(r.Err, ledger.ErrBusy), errors.Is(r.Err, ledger.ErrHalted),
		errors.Is(r.Err, context.Canceled), errors.Is(r.Err, context.DeadlineExceeded):
		return outcome{err: r.Err}, nil
	case errors.Is(r.Err, ledger.ErrSeqOld):
		index, ok, err := a.find(w, e)
		if err != nil || ok {
			return outcome{index: index}, err
		}
		return outcome{err: r.Err}, a.renew(e)
	}
	return outcome{err: r.Err, final: true}, a.renew(e)
}

// find looks for an entry of ours that is too old for the ledger to compare. It
// reads all shards backwards: this happens once, to bytes that waited very long,
// or whose answer was lost right before a border.
func (a *Aggregator) find(w *writer.Writer, e *ledger.Entry) (index uint64, ok bool, err error) {
	for i := baseOf(w) + w.Size(); i > 0; i-- {
		raw, err := a.Entry(i - 1)
		if err != nil {
			return 0, false, err
		}
		other, err := ledger.Parse(raw)
		if err != nil {
			return 0, false, err
		}
		if other.Party() != 1 || other.Seq() != e.Seq() {
			continue
		}
		_, err = party.Merge(e, other)
		return i - 1, err == nil, nil
	}
	return 0, false, nil
}

// renew forgets stored bytes whose number another entry has: the next try makes
// new ones.
func (a *Aggregator) renew(e *ledger.Entry) error {
	return a.env.Store.Update(func(tx *store.Tx) error {
		return tx.Each(store.SpaceLedger.Key([]byte("raw")), func(k, v []byte) error {
			if string(v) == string(e.Bytes()) {
				return tx.Delete(k)
			}
			return nil
		})
	})
}
