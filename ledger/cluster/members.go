package cluster

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"gridveil/ledger"
)

// MaxMembers is the most voters of a cluster: a sixth makes every group slower and
// saves from no more losses than five do.
const MaxMembers = 5

// Member is one machine of a cluster.
type Member struct {
	ID      string // its public key, 64 hex digits: see ID
	Address string // host and port that the others connect to
}

// ID names a member by its Ed25519 public key.
func ID(pub ed25519.PublicKey) string { return hex.EncodeToString(pub) }

func (m Member) check() error {
	if b, err := hex.DecodeString(m.ID); err != nil || len(b) != ed25519.PublicKeySize || m.ID != strings.ToLower(m.ID) {
		return fmt.Errorf("ledger cluster: member ID %q is no public key of 64 hex digits", m.ID)
	}
	if _, _, err := net.SplitHostPort(m.Address); err != nil {
		return fmt.Errorf("ledger cluster: address of member %s: want host:port: %w", m.short(), err)
	}
	return nil
}

func (m Member) short() string { return m.ID[:min(8, len(m.ID))] }

// members lists the voters as far as this member knows, else those of its Config.
func (n *Node) members() []Member {
	var out []Member
	if r := n.raft.Load(); r != nil {
		if f := r.GetConfiguration(); f.Error() == nil {
			for _, s := range f.Configuration().Servers {
				out = append(out, Member{string(s.ID), string(s.Address)})
			}
		}
	}
	if len(out) == 0 {
		return n.cfg.Members
	}
	return out
}

// member reports whether a key is that of a member, now or in the Config: a
// machine that was away may meet one that was added meanwhile, and the reverse.
func (n *Node) member(id raft.ServerID) bool {
	is := func(m Member) bool { return raft.ServerID(m.ID) == id }
	return slices.ContainsFunc(n.members(), is) || slices.ContainsFunc(n.cfg.Members, is)
}

// at reports whether the member with a key is to be found at an address.
func (n *Node) at(id raft.ServerID, addr raft.ServerAddress) bool {
	is := func(m Member) bool { return m == Member{string(id), string(addr)} }
	return slices.ContainsFunc(n.members(), is) || slices.ContainsFunc(n.cfg.Members, is)
}

// Status is what an operator sees of a cluster from one of its members.
type Status struct {
	Self    string // ID
	Leader  string // ID, empty while there is none
	State   string // Leader, Follower, Candidate or Shutdown
	Term    uint64 // grows with every election
	Members []Member
	Size    uint64    // durable here, over all shards
	Signed  uint64    // over all shards
	Applied time.Time // when this member took something last, zero if not since it started
	Err     error     // why this member stopped
}

// Status describes the cluster as this member sees it.
func (n *Node) Status() Status {
	r := n.raft.Load()
	s := Status{Self: string(n.self), State: r.State().String(), Term: r.CurrentTerm(), Members: n.members(), Err: n.store().Err()}
	_, leader := r.LeaderWithID()
	s.Leader = string(leader)
	s.Size, _ = n.size()
	s.Signed, _ = n.signed()
	if at := n.took.Load(); at != 0 {
		s.Applied = time.Unix(0, at)
	}
	return s
}

// Add lets another machine take part; only the leader can. It is to be started
// before with a Config in which it is not a founding member. It returns
// ErrLimit above MaxMembers and a writer.NotLeaderError.
func (n *Node) Add(m Member) error {
	if err := m.check(); err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(n.members()), func(x Member) bool { return x.ID == m.ID })
	if len(others) >= MaxMembers {
		return fmt.Errorf("%w: a cluster has at most %d members; remove one before", ledger.ErrLimit, MaxMembers)
	}
	return n.changed(n.raft.Load().AddVoter(raft.ServerID(m.ID), raft.ServerAddress(m.Address), 0, n.cfg.ElectionTimeout))
}

// Remove takes a machine out; only the leader can. It returns ErrLimit when fewer
// than three would be left, and a writer.NotLeaderError.
func (n *Node) Remove(id string) error {
	const least = 3
	list := n.members()
	if !slices.ContainsFunc(list, func(m Member) bool { return m.ID == id }) {
		return fmt.Errorf("ledger cluster: %s is no member", Member{ID: id}.short())
	}
	if len(list) <= least {
		return fmt.Errorf("%w: a cluster has at least %d members; add one before", ledger.ErrLimit, least)
	}
	return n.changed(n.raft.Load().RemoveServer(raft.ServerID(id), 0, n.cfg.ElectionTimeout))
}

func (n *Node) changed(f raft.Future) error {
	switch err := f.Error(); {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost):
		return n.refusal()
	default:
		return fmt.Errorf("change the cluster: %w", err)
	}
}
