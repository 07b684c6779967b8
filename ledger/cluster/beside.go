package cluster

import (
	"errors"
	"fmt"
	"io"
	"time"

	"gridveil/ledger"
)

// Beside is a state that the members keep in step with the log, as one more kind
// of proposal: whoever leads proposes each of its changes by Commit, and every
// member makes it by Apply. All methods but Position are called one at a time.
type Beside interface {
	// Position is the number of the newest change and a digest of all of them. It is
	// unknown for a state that is not in step with the others'.
	Position() (n uint64, digest ledger.Hash, known bool)
	// Found makes the present state the one that the others take over.
	Found() error
	// Apply makes a change durable that follows the present position. Its error
	// stops this member.
	Apply(change []byte) error
	// Dump writes the state with its position, Load replaces the state by a dump.
	// A Load that fails leaves no position.
	Dump(w io.Writer) error
	Load(r io.Reader) error
}

// Commit has a change of the state beside the log decided on, which follows the
// position n and digest; it returns once the change is applied here. Its error is
// a writer.NotLeaderError if the lead was lost, after which the change may count or
// not, ErrBusy if another change came first, and else fatal.
func (n *Node) Commit(at uint64, digest ledger.Hash, change []byte) error {
	p := proposal{kind: kindBeside, size: at, root: digest, note: change}
	if len(change) > maxChange {
		return fmt.Errorf("%w: change of %d bytes", ledger.ErrLimit, len(change))
	}
	_, err := n.propose(p.encode())
	return err
}

// applyBeside makes a change here if it follows what this member has. A larger
// position means that it was applied before, or came too late.
func (n fsm) applyBeside(p *proposal) error {
	if n.cfg.Beside == nil {
		return fmt.Errorf("%w: a change beside the ledger, which this member does not keep", ledger.ErrMalformed)
	}
	if err := n.keepUp(func() error { return n.reachBeside(p.size, p.root) }); err != nil {
		return err
	}
	if at, _, _ := n.cfg.Beside.Position(); at > p.size {
		return errLate
	}
	return n.cfg.Beside.Apply(p.note)
}

// reachBeside brings the state beside the log at least to a position.
func (n *Node) reachBeside(at uint64, digest ledger.Hash) error {
	if n.cfg.Beside == nil {
		return nil
	}
	if own, _, known := n.cfg.Beside.Position(); !known || own < at {
		if err := n.catchUpBeside(at); err != nil {
			return err
		}
	}
	if own, d, _ := n.cfg.Beside.Position(); own == at && d != digest {
		return fmt.Errorf("%w: members have different states beside the ledger after %d changes", ledger.ErrFork, at)
	}
	return nil
}

// catchUpBeside takes over the state of another member.
func (n *Node) catchUpBeside(at uint64) error {
	var errs []error
	for _, m := range n.members() {
		if m.ID == string(n.self) {
			continue
		}
		err := n.fetchBeside(m, at)
		if err == nil {
			n.log.Info("the state beside the ledger was taken over from another member")
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, fmt.Errorf("%w: no member sends what stands beside the ledger", ledger.ErrBusy))...)
}

// retryFetch is the pause before others are asked again for what is missing here,
// on the wall clock.
const retryFetch = 500 * time.Millisecond

// keepUp repeats a step that needs another member until one answers. Nothing else
// is applied meanwhile.
func (n *Node) keepUp(step func() error) error {
	for told := false; ; told = true {
		err := step()
		if err == nil || !errors.Is(err, ledger.ErrBusy) {
			return err
		}
		if !told {
			n.log.Warn("this member lacks what the others have, and waits for one that sends it", "err", err)
		}
		select {
		case <-n.closing:
			return err
		case <-time.After(retryFetch):
		}
	}
}

// inStep takes over the state beside the log if this member never had it, or lost
// it on the way: such a one does not lead.
func (n *Node) inStep() error {
	n.turn.Lock()
	defer n.turn.Unlock()
	if n.cfg.Beside == nil {
		return nil
	}
	if _, _, known := n.cfg.Beside.Position(); known {
		return nil
	}
	return n.catchUpBeside(0)
}

// mark says how far this member is.
func (n *Node) mark() (*proposal, error) {
	if err := n.store().Err(); err != nil {
		return nil, err
	}
	p := &proposal{kind: kindMark}
	p.size, p.root = n.size()
	p.signed, p.sroot = n.signed()
	if p.borders = n.crossed(); len(p.borders) > 0 {
		p.kind = kindFar
	}
	_, p.note = n.store().Published()
	if n.cfg.Beside != nil {
		var known bool
		if p.beside, p.digest, known = n.cfg.Beside.Position(); !known {
			return nil, fmt.Errorf("%w: what stands beside the ledger is not in step here", ledger.ErrBusy)
		}
	}
	return p, nil
}

// reach brings this member at least as far as a mark says: the state beside the
// log comes last, so that a position means that everything is here.
func (n *Node) reach(p *proposal) error {
	if err := n.reachBorder(p.borders); err != nil {
		return err
	}
	if own, _ := n.size(); own < p.size {
		if err := n.catchUp(p.size, p.root); err != nil {
			return err
		}
	}
	if err := n.applySeal(p.signed, p.sroot); err != nil {
		return err
	}
	if base := n.base(); len(p.note) > 0 && (base == 0 || p.size > base) { // else it is of a shard before
		// A note in a mark is final for a size that is not above the mark's.
		c, _, err := n.cfg.Writer.Policy.Open(p.note)
		if err == nil {
			err = n.applyPublish(base+c.Size, p.note)
		}
		if err != nil {
			return err
		}
	}
	return n.reachBeside(p.beside, p.digest)
}
