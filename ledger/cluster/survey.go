package cluster

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"gridveil/ledger"
)

// Standing is how one member does, as asked over its link.
type Standing struct {
	Member
	Answers bool
	Heard   time.Time // when it answered last, zero if never since this member started
	Leads   bool
	Term    uint64
	Size    uint64 // entries of all shards that are durable there
	Signed  uint64
	Beside  uint64 // changes of the state beside the log
	InStep  bool   // false while it takes over what the others have
}

// Pace of asking the other members, on the wall clock.
const (
	watchEvery = 5 * time.Second
	askTimeout = 2 * time.Second
)

// heard is the newest survey, and when each member answered last.
type heard struct {
	mu   sync.Mutex
	at   map[string]time.Time
	list []Standing
}

// note keeps a survey and fills in the times of the answers.
func (h *heard) note(list []Standing, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at == nil {
		h.at = map[string]time.Time{}
	}
	for i := range list {
		if list[i].Answers {
			h.at[list[i].ID] = now
		}
		list[i].Heard = h.at[list[i].ID]
	}
	h.list = slices.Clone(list)
}

// Known is what the newest survey found, at most some seconds old; nil before the
// first one. It asks nobody.
func (n *Node) Known() []Standing {
	n.heard.mu.Lock()
	defer n.heard.mu.Unlock()
	return slices.Clone(n.heard.list)
}

// watch asks the others from time to time, so that their last answers are known.
// The channel is closed when it has ended, with ctx.
func (n *Node) watch(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	go func() { // waited for by Serve
		defer close(done)
		for ctx.Err() == nil {
			n.Survey(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(watchEvery):
			}
		}
	}()
	return done
}

// Survey asks every member how it does; it takes two seconds at most.
func (n *Node) Survey(ctx context.Context) []Standing {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	list := n.members()
	out := make([]Standing, len(list))
	var wg sync.WaitGroup
	for i, m := range list {
		wg.Go(func() {
			s, err := n.standing(), error(nil)
			if raft.ServerID(m.ID) != n.self {
				s, err = n.ask(ctx, m)
			}
			s.Member, s.Answers = m, err == nil
			out[i] = s
		})
	}
	wg.Wait()
	n.heard.note(out, time.Now())
	return out
}

// Behind is how many entries and changes the furthest member has beyond one that
// answers.
func Behind(list []Standing, s Standing) uint64 {
	var entries, changes uint64
	for _, x := range list {
		entries, changes = max(entries, x.Size), max(changes, x.Beside)
	}
	return entries - s.Size + changes - s.Beside
}

// standing is how this member does.
func (n *Node) standing() (s Standing) {
	s.Size, _ = n.size()
	s.Signed, _ = n.signed()
	s.InStep = true
	if n.cfg.Beside != nil {
		s.Beside, _, s.InStep = n.cfg.Beside.Position()
	}
	if r := n.raft.Load(); r != nil {
		s.Leads, s.Term = r.State() == raft.Leader, r.CurrentTerm()
	}
	return s
}

const standingSize = 4*8 + 1

// encode is term:u64 size:u64 signed:u64 beside:u64 flags:u8, of which bit 0 says
// that it leads and bit 1 that it is in step.
func (s Standing) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, s.Term)
	b = binary.BigEndian.AppendUint64(b, s.Size)
	b = binary.BigEndian.AppendUint64(b, s.Signed)
	b = binary.BigEndian.AppendUint64(b, s.Beside)
	flags := byte(0)
	if s.Leads {
		flags |= 1
	}
	if s.InStep {
		flags |= 2
	}
	return append(b, flags)
}

// parseStanding reads exactly what encode writes; it returns ErrMalformed.
func parseStanding(b []byte) (s Standing, err error) {
	if len(b) != standingSize || b[32] > 3 {
		return s, fmt.Errorf("%w: standing of %d bytes", ledger.ErrMalformed, len(b))
	}
	return Standing{Term: binary.BigEndian.Uint64(b), Size: binary.BigEndian.Uint64(b[8:]), Signed: binary.BigEndian.Uint64(b[16:]),
		Beside: binary.BigEndian.Uint64(b[24:]), Leads: b[32]&1 != 0, InStep: b[32]&2 != 0}, nil
}

func (n *Node) ask(ctx context.Context, m Member) (s Standing, err error) {
	conn, err := n.link.dial(ctx, raft.ServerAddress(m.Address), protoStanding)
	if err != nil {
		return s, err
	}
	defer conn.Close() // everything was read, or nothing more is wanted
	if err := conn.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return s, err
	}
	b := make([]byte, standingSize)
	if _, err := io.ReadFull(conn, b); err != nil {
		return s, err
	}
	return parseStanding(b)
}

func (n *Node) serveStanding(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return err
	}
	_, err := conn.Write(n.standing().encode())
	return err
}
