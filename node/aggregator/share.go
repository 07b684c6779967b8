package aggregator

import (
	"errors"
	"fmt"
	"slices"

	"gridveil/ev/pool"
	"gridveil/ledger"
	"gridveil/node/ask"
	"gridveil/node/store"
	"gridveil/privacy/session"
)

// tree is the list of an event's lines, whose salted root the payment carries.
func (e *event) tree() *pool.Tree {
	leaves := make([][]byte, len(e.Lines))
	for i, l := range e.Lines {
		leaves[i] = l.Encode()
	}
	return pool.NewTree(leaves)
}

// shareNames are the payment's name among our entries, and the salt of its ref:
// the same after a crash, and nobody else's to guess.
func (a *Aggregator) shareNames(e *event) (id, salt ledger.Hash) {
	id = ledger.Salted(e.Hash, []byte("shares"))
	return id, ledger.Salted(ledger.Hash(a.flex.secret), id[:])
}

// shares are what a session earned in the pool: session.SettlerConfig.Shares.
// They are known once the session has settled, so that no instruction can bind it
// any more, every event that it was part of has ended, and what pays them is
// final. The caller may hold the desk.
func (a *Aggregator) shares(open [32]byte) (out []session.Share, err error) {
	if _, err := a.env.Store.Get(offeredKey(open)); errors.Is(err, store.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	over, err := a.flex.settled(open)
	if err != nil {
		return nil, err
	}
	w := a.book()
	if !over || w == nil {
		return nil, session.ErrNotYet
	}
	list, err := a.events()
	if err != nil {
		return nil, err
	}
	final := finalEnd(w)
	for _, e := range list {
		if !slices.ContainsFunc(e.Parts, func(p eventPart) bool { return p.Open == open }) || e.State == eventOver {
			continue
		}
		if e.State != eventPaid {
			return nil, session.ErrNotYet
		}
		i := slices.IndexFunc(e.Lines, func(l pool.Line) bool { return l.Open == open })
		if i < 0 || e.Lines[i].PaidMicro == 0 {
			continue
		}
		if e.PayIndex >= final {
			return nil, session.ErrNotYet
		}
		x, err := a.proveShare(e, i)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

// proveShare is line i of a paid event, with what proves it.
func (a *Aggregator) proveShare(e *event, i int) (session.Share, error) {
	l, tree := e.Lines[i], e.tree()
	_, salt := a.shareNames(e)
	proof, err := a.Proof(e.PayIndex)
	if err != nil {
		return session.Share{}, fmt.Errorf("prove a payment of shares: %w", err)
	}
	entry, err := a.Entry(e.PayIndex)
	if err != nil {
		return session.Share{}, err
	}
	return session.Share{Instruction: e.Hash, Delivered: l.DeliveredMWh, Permille: l.Availability, Paid: l.PaidMicro, Size: uint32(tree.Size()), Index: uint32(i),
		Root: tree.Root(), Salt: salt, Path: tree.Prove(i), Payment: ask.Proven{Entry: entry, Proof: proof.Encode()}.Bytes()}, nil
}
