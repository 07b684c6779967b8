package cluster

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"gridveil/ledger"
	"gridveil/ledger/store"
)

// outcome is what applying a proposal gave on this member.
type outcome struct {
	refused []error // of each entry of a group; nil where it was taken
	err     error   // the proposal came too late, or this member has stopped
}

// errLate says that another leader's group took the place; whoever sends the same
// bytes again learns what became of them.
var errLate = fmt.Errorf("%w: the lead changed meanwhile", ledger.ErrBusy)

// fsm applies what the members agreed on, one proposal at a time.
type fsm struct{ *Node }

// Apply implements raft.FSM. The state is a function of the proposals alone, so
// every member takes and refuses the same entries. An error that is its own stops
// this member: the raft log brings it up to date when it opens again.
func (n fsm) Apply(l *raft.Log) any {
	defer n.wake()
	n.turn.Lock()
	defer n.turn.Unlock()
	if err := n.store().Err(); err != nil {
		return &outcome{err: err}
	}
	p, err := parseProposal(l.Data)
	if err != nil {
		return &outcome{err: n.fatal(err)}
	}
	var out outcome
	switch p.kind {
	case kindGroup:
		out = n.applyGroup(p, n.hand.take(l.Data))
	case kindSeal:
		out.err = n.applySeal(p.size, p.root)
	case kindPublish:
		out.err = n.applyPublish(p.size, p.note)
	case kindCross:
		out.err = n.applyCross(p.borders[0])
	case kindMark, kindFar:
		out.err = n.keepUp(func() error { return n.reach(p) })
	case kindBeside:
		out.err = n.applyBeside(p)
	default:
		out.err = fmt.Errorf("%w: proposal of kind %d", ledger.ErrMalformed, p.kind)
	}
	if out.err != nil && !errors.Is(out.err, errLate) {
		out.err = n.fatal(out.err) // a border ends this member's log as well
	}
	if out.err == nil {
		n.took.Store(time.Now().UnixNano())
	}
	return &out
}

// applyGroup takes a group if the log has the size at which it was closed. A
// smaller size of the group means that it was applied before a restart, or that
// another leader's came first: either way this one does not count here nor
// elsewhere.
func (n fsm) applyGroup(p *proposal, list []*store.Pending) outcome {
	size, root := n.size()
	switch {
	case p.size < size:
		return outcome{err: errLate}
	case p.size == size && size > 0 && size == n.base() && p.root != root: // of the log before: this one is empty
		return outcome{err: errLate}
	case p.size > size:
		return outcome{err: fmt.Errorf("%w: the raft log goes on at entry %d, this store has %d", ledger.ErrDamaged, p.size, size)}
	case p.root != root:
		return outcome{err: fmt.Errorf("%w: members have different roots at size %d", ledger.ErrFork, size)}
	}
	list, err := n.take(p.entries, list)
	if err != nil {
		return outcome{err: err}
	}
	refused := make([]error, len(list))
	for i, x := range list {
		refused[i] = x.Err
	}
	return outcome{refused: refused}
}

// take is the commit path of every member. List holds the entries if they are
// checked already.
func (n *Node) take(raw [][]byte, list []*store.Pending) ([]*store.Pending, error) {
	if list == nil {
		for _, r := range raw {
			x, err := n.store().Parse(r)
			if err != nil {
				return nil, err
			}
			list = append(list, x)
		}
		n.store().Check(list)
	}
	if _, err := n.store().Take(list); err != nil {
		return nil, err
	}
	return list, n.store().Snapshot()
}

// applySeal reads back and records a state that may be signed from now on. One of
// a shard before has been.
func (n *Node) applySeal(size uint64, root ledger.Hash) error {
	base := n.base()
	if base > 0 && size <= base {
		return nil
	}
	size -= base
	if signed, _ := n.store().Signed(); size > signed {
		sealed, err := n.store().SealAt(size)
		if err == nil && sealed != root {
			err = fmt.Errorf("%w: members have different roots at size %d", ledger.ErrFork, size)
		}
		return err
	}
	own, err := n.store().RootAt(size)
	if err == nil && own != root {
		err = fmt.Errorf("%w: members have different roots at size %d", ledger.ErrFork, size)
	}
	return err
}

// applyPublish stores a final checkpoint. An older one comes again after a
// restart.
func (n *Node) applyPublish(size uint64, note []byte) error {
	base := n.base()
	if base > 0 && size <= base {
		return nil
	}
	size -= base
	if published, _ := n.store().Published(); size < published {
		return nil
	}
	return n.store().Publish(size, note)
}

// Snapshot implements raft.FSM. The store is durable by itself, so a snapshot only
// says how far it is; who lacks entries fetches them from another member.
func (n fsm) Snapshot() (raft.FSMSnapshot, error) {
	p, err := n.mark()
	if err != nil {
		return nil, err
	}
	return mark(p.encode()), nil
}

// mark is a snapshot for raft.
type mark []byte

// Persist implements raft.FSMSnapshot.
func (m mark) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(m); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (mark) Release() {}

// Restore implements raft.FSM: it brings the store at least as far as the mark
// says.
func (n fsm) Restore(r io.ReadCloser) error {
	b, err := io.ReadAll(io.LimitReader(r, maxProposal+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("read cluster snapshot: %w", err)
	}
	p, err := parseProposal(b)
	if err == nil && p.kind != kindMark && p.kind != kindFar {
		err = fmt.Errorf("%w: snapshot of kind %d", ledger.ErrMalformed, p.kind)
	}
	if err == nil {
		n.turn.Lock()
		if err = n.reach(p); errors.Is(err, ErrBorder) {
			err = n.fatal(err)
		}
		n.turn.Unlock()
	}
	n.wake()
	return err
}
