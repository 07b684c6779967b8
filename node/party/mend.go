package party

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"gridveil/ledger"
	"gridveil/ledger/verifier"
	"gridveil/mesh/member"
	"gridveil/node/clock"
	"gridveil/node/control"
	"gridveil/node/keys"
	"gridveil/node/role"
)

const (
	mendPeriod = 5 * time.Second  // between tries, on the wall clock like every wait for a peer
	askSize    = 15 * time.Second // for a peer's checkpoint
)

// ErrWhole means that there is nothing to repair.
var ErrWhole = errors.New("this node's copy of the ledger is whole: nothing to repair")

// MendCall is the request of `gridveil ledger repair`.
type MendCall struct {
	From string `json:"from"` // URL prefix, or the peer ID of a member that holds a copy
}

// Mended is the answer to a MendCall.
type Mended struct {
	Origin  string `json:"origin"`
	Entries uint64 `json:"entries"` // that the copy holds now
	From    string `json:"from"`    // URL prefix of the copy that was replayed
}

// Mender repairs a damaged ledger from a peer: by itself from those that are
// known, and from the one that the operator names.
type Mender struct {
	Clock     clock.Clock
	Log       *slog.Logger
	Warn      *role.Board
	Dir       keys.Directory
	Transport http.RoundTripper // to members' doors; other URLs use http.DefaultTransport

	mu      sync.Mutex
	pending bool // damaged: calls are taken
	calls   chan mendCall
}

type mendCall struct {
	from string
	done chan mendResult // of one
}

type mendResult struct {
	mended Mended
	err    error
}

// NewMender registers the command `gridveil ledger repair` of a node.
func NewMender(env *role.Env, rt http.RoundTripper) *Mender {
	m := &Mender{Clock: env.Clock, Log: env.Log, Warn: env.Warn, Dir: env.Dir, Transport: rt}
	m.commands(env.Control)
	return m
}

func (m *Mender) commands(c *control.Server) {
	m.calls = make(chan mendCall)
	c.Handle("ledger-repair", func(ctx context.Context, in json.RawMessage) (any, error) {
		var q MendCall
		if err := json.Unmarshal(in, &q); err != nil || q.From == "" {
			return nil, errors.New("want {from}: a URL or peer ID")
		}
		return m.command(ctx, q.From)
	})
}

// command hands a peer to Mend and waits for what comes of it.
func (m *Mender) command(ctx context.Context, from string) (Mended, error) {
	m.mu.Lock()
	pending := m.pending
	m.mu.Unlock()
	if !pending {
		return Mended{}, ErrWhole
	}
	call := mendCall{from, make(chan mendResult, 1)}
	select {
	case m.calls <- call:
	case <-ctx.Done():
		return Mended{}, ctx.Err()
	}
	select {
	case r := <-call.done:
		return r.mended, r.err
	case <-ctx.Done(): // the repair goes on
		return Mended{}, ctx.Err()
	}
}

// Mend repairs the log of cfg, which must be closed, for which cause is why it
// must be. peers are URL prefixes of copies; the one with the largest is asked
// first. It returns nil once the log is whole and no sooner, or when ctx ends.
func (m *Mender) Mend(ctx context.Context, cfg verifier.Config, cause error, peers []string) error {
	w := role.Warning{Code: "ledger-damaged", Severity: role.Fault, Title: "This node's copy of the ledger is damaged",
		Text: "What it held cannot be trusted: " + cause.Error() + ". Nothing is signed until the copy is whole.",
		Next: "Nothing, if others can be reached: the copy is refilled from them. Else name one: gridveil ledger repair --from PEER."}
	m.Warn.Raise(w, m.Clock.Now())
	m.setPending(true)
	defer m.setPending(false)
	for {
		for _, p := range m.largestFirst(ctx, cfg, peers) {
			if _, err := m.try(ctx, cfg, p); err == nil {
				m.Warn.Clear(w.Code)
				return nil
			}
		}
		select {
		case call := <-m.calls:
			var r mendResult
			prefix, err := m.prefix(cfg, call.from)
			if r.err = err; err == nil {
				r.mended, r.err = m.try(ctx, cfg, prefix)
			}
			call.done <- r
			if r.err == nil {
				m.Warn.Clear(w.Code)
				return nil
			}
		case <-time.After(mendPeriod):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Mender) setPending(b bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending = b
}

// try repairs from one peer.
func (m *Mender) try(ctx context.Context, cfg verifier.Config, peer string) (Mended, error) {
	money := ledger.NewMoney(cfg.Policy.Log.Name())
	cfg.Machine = money
	cfg.Transport = m.route(peer)
	if err := verifier.Repair(ctx, cfg, peer); err != nil {
		m.Log.Warn("ledger not repaired from this peer", "err", err)
		return Mended{}, err
	}
	m.Log.Warn("ledger was damaged and refilled from a peer")
	return Mended{Origin: cfg.Policy.Log.Name(), Entries: money.Size(), From: peer}, nil
}

// route is how a URL is reached: over the mesh if it is a member's door.
func (m *Mender) route(url string) http.RoundTripper {
	host, _, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	if name, _, ok := strings.Cut(host, "."); ok {
		if _, err := peer.Decode(name); err == nil {
			return m.Transport
		}
	}
	return http.DefaultTransport
}

// prefix is where a peer serves its copy of a log: from is the prefix itself or
// a member's peer ID.
func (m *Mender) prefix(cfg verifier.Config, from string) (string, error) {
	if strings.HasPrefix(from, "http://") || strings.HasPrefix(from, "https://") {
		return strings.TrimSuffix(from, "/"), nil
	}
	id, err := peer.Decode(from)
	if err != nil {
		return "", fmt.Errorf("%q is neither a URL nor a peer ID; `gridveil members` lists them", from)
	}
	if log, ok := m.Dir.One(member.RoleAggregator, ""); ok && log.Member.Peer == id {
		return URL(log.Member, LogDoor), nil
	}
	return CopyURL("http://"+id.String()+"."+WitnessDoor, cfg.Policy.Log.Name()), nil
}

// CopyURL is where the cosigner with that URL serves its copy of a log.
func CopyURL(url, origin string) string {
	hash := ledger.OriginHash(origin)
	return url + "/" + hex.EncodeToString(hash[:])
}

// largestFirst asks the peers how much they hold, and drops those that do not
// answer.
func (m *Mender) largestFirst(ctx context.Context, cfg verifier.Config, peers []string) []string {
	sizes := map[string]uint64{}
	for _, p := range peers {
		c, err := m.newest(ctx, cfg, p)
		if err != nil {
			m.Log.Debug("peer shows no copy of the ledger", "err", err)
			continue
		}
		sizes[p] = c.Size
	}
	list := slices.DeleteFunc(slices.Clone(peers), func(p string) bool { return sizes[p] == 0 })
	slices.SortStableFunc(list, func(a, b string) int { return cmp.Compare(sizes[b], sizes[a]) })
	return list
}

// newest is the checkpoint that a peer serves.
func (m *Mender) newest(ctx context.Context, cfg verifier.Config, url string) (c ledger.Checkpoint, err error) {
	ctx, cancel := context.WithTimeout(ctx, askSize)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/checkpoint", nil)
	if err != nil {
		return c, err
	}
	resp, err := (&http.Client{Transport: m.route(url)}).Do(req)
	if err != nil {
		return c, err
	}
	defer resp.Body.Close()
	msg, err := io.ReadAll(io.LimitReader(resp.Body, ledger.MaxCheckpoint))
	if err != nil || resp.StatusCode != http.StatusOK {
		return c, errors.Join(err, fmt.Errorf("checkpoint: status %d", resp.StatusCode))
	}
	c, _, err = cfg.Policy.Open(msg)
	return c, err
}
