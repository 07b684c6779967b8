package cluster

import (
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"

	"gridveil/ledger"
	"gridveil/ledger/store"
	"gridveil/ledger/writer"
)

// steps are what the writer of a leader does in place of its store's own steps:
// it proposes, and returns once a majority holds the proposal and this member has
// applied it.
type steps struct{ *Node }

// Take implements writer.Steps.
func (n steps) Take(list []*store.Pending) (first uint64, err error) {
	if err := errors.Join(n.store().Err(), n.store().Room()); err != nil {
		return 0, err
	}
	p := proposal{kind: kindGroup}
	var sent []*store.Pending
	for _, x := range list {
		if x.Err == nil {
			sent, p.entries = append(sent, x), append(p.entries, x.Item.Bytes())
		}
	}
	p.size, p.root = n.size()
	first = p.size - n.base()
	if len(sent) == 0 {
		return first, nil
	}
	data := p.encode()
	n.hand.put(data, sent)
	defer n.hand.take(data)
	out, err := n.propose(data)
	if err != nil {
		return 0, err
	}
	for i, err := range out.refused {
		sent[i].Err = err
	}
	return first, nil
}

// Seal implements writer.Steps.
func (n steps) Seal() (size uint64, root ledger.Hash, err error) {
	size, root = n.store().Size()
	return size, root, n.seal(size, root)
}

// seal lets a majority know a state before it is signed.
func (n *Node) seal(size uint64, root ledger.Hash) error {
	_, err := n.propose((&proposal{kind: kindSeal, size: n.base() + size, root: root}).encode())
	return err
}

// Publish implements writer.Steps.
func (n steps) Publish(size uint64, note []byte) error {
	root, err := n.store().RootAt(size)
	if err != nil {
		return err
	}
	_, err = n.propose((&proposal{kind: kindPublish, size: n.base() + size, root: root, note: note}).encode())
	return err
}

// Leads implements writer.Cluster: it asks a majority.
func (n steps) Leads() error {
	if err := n.raft.Load().VerifyLeader().Error(); err != nil {
		return n.Refusal()
	}
	return nil
}

// Refusal implements writer.Cluster.
func (n steps) Refusal() error { return n.refusal() }

func (n *Node) refusal() error {
	if err := n.store().Err(); err != nil {
		return err
	}
	e := &writer.NotLeaderError{}
	if r := n.raft.Load(); r != nil {
		if _, id := r.LeaderWithID(); id != n.self {
			e.Leader = string(id)
		}
	}
	return e
}

// propose hands a proposal to the members and returns what applying it gave. Its
// error is a NotLeaderError if the lead was lost, after which the proposal may
// count or not, and else fatal.
func (n *Node) propose(data []byte) (*outcome, error) {
	f := n.raft.Load().Apply(data, 0)
	if err := f.Error(); err != nil {
		if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) || errors.Is(err, raft.ErrRaftShutdown) ||
			errors.Is(err, raft.ErrLeadershipTransferInProgress) || errors.Is(err, raft.ErrAbortedByRestore) {
			return nil, n.refusal()
		}
		return nil, n.fatal(fmt.Errorf("propose: %w", err))
	}
	out := f.Response().(*outcome)
	return out, out.err
}

// hand passes the checked entries of a group from the leader's writer to its own
// apply, so that they are not parsed and verified twice.
type hand struct {
	mu   sync.Mutex
	data []byte // the proposal, by identity
	list []*store.Pending
}

func (h *hand) put(data []byte, list []*store.Pending) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.data, h.list = data, list
}

// take gives the entries of this very proposal, nil if they came from elsewhere.
func (h *hand) take(data []byte) []*store.Pending {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.data) == 0 || &h.data[0] != &data[0] {
		return nil
	}
	list := h.list
	h.data, h.list = nil, nil
	return list
}
