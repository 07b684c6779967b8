package party

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/keys"
	"gridveil/node/store"
)

// Doors are the names of the byte-stream listeners that HTTP travels to.
const (
	LogDoor     = "ledger"  // at the aggregator: writer.Handler
	WitnessDoor = "witness" // at everybody who cosigns: verifier.Handler
)

const (
	idleConns   = 2
	idleTimeout = 30 * time.Second
	headTimeout = 10 * time.Second
	readTimeout = time.Minute // of a request with 4 MiB of entries
)

// URL is the prefix of a door at a member: Transport dials it over the mesh.
func URL(m mesh.Member, door string) string { return "http://" + m.Peer.String() + "." + door }

// Transport carries HTTP/1.1 to the doors of other backbone members.
func Transport(h *mesh.Host) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, fmt.Errorf("door %q: %w", addr, err)
			}
			name, door, _ := strings.Cut(host, ".")
			id, err := peer.Decode(name)
			if err != nil {
				return nil, fmt.Errorf("door %q names no member: %w", addr, err)
			}
			return h.Dial(ctx, id, door)
		},
		DisableCompression: true, MaxIdleConnsPerHost: idleConns, IdleConnTimeout: idleTimeout,
	}
}

// Door serves HTTP to backbone members; what it serves may change or be absent.
type Door struct{ now atomic.Pointer[http.Handler] }

// Open serves h from now on; nil closes the door for a while.
func (d *Door) Open(h http.Handler) {
	if h == nil {
		d.now.Store(nil)
		return
	}
	d.now.Store(&h)
}

// ServeHTTP implements http.Handler.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := d.now.Load()
	if h == nil {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "the ledger is not open here yet", http.StatusServiceUnavailable)
		return
	}
	(*h).ServeHTTP(w, r)
}

// Serve answers at the listener until ctx ends.
func (d *Door) Serve(ctx context.Context, l net.Listener) error {
	return ServeHTTP(ctx, l, d)
}

// ServeHTTP answers requests about the ledger at l until ctx ends.
func ServeHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: headTimeout, ReadTimeout: readTimeout}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // what was under way is asked for again
	defer stop()
	if err := s.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("ledger door: %w", err)
	}
	return nil
}

// MeshOnly reports whether a URL names a door that only members of the mesh can
// reach.
func MeshOnly(prefix string) bool {
	u, err := url.Parse(prefix)
	if err != nil {
		return false
	}
	name, door, _ := strings.Cut(u.Host, ".")
	_, err = peer.Decode(name)
	return err == nil && (door == LogDoor || door == WitnessDoor)
}

// Public is a policy for those who are no members: without URLs that they cannot
// reach.
func Public(p *ledger.Policy) *ledger.Policy {
	q := *p
	q.Witnesses = slices.Clone(p.Witnesses)
	if MeshOnly(q.LogURL) {
		q.LogURL = ""
	}
	for i := range q.Witnesses {
		if MeshOnly(q.Witnesses[i].URL) {
			q.Witnesses[i].URL = ""
		}
	}
	return &q
}

var policyKey = store.SpaceLedger.Key([]byte("policy"))

// KnownPolicy is the network's policy as far as this node ever saw it: a cosigner
// that is away for a week must not lower the quorum. It is kept in the store; a
// cosigner leaves by a policy file (ledger.policy).
func KnownPolicy(st *store.Store, d keys.Directory) (*ledger.Policy, error) {
	now, err := Policy(d)
	old, held := KeptPolicy(st)
	if errors.Is(held, store.ErrNotFound) {
		if err != nil {
			return nil, err
		}
		return now, KeepPolicy(st, now)
	}
	if held != nil {
		return nil, held
	}
	if err != nil || now.Log.Pub() != old.Log.Pub() {
		return old, nil
	}
	if next := extend(old, now); next != nil {
		return next, KeepPolicy(st, next)
	}
	return old, nil
}

// KeptPolicy is what KeepPolicy kept; its error wraps store.ErrNotFound if that is
// nothing.
func KeptPolicy(st *store.Store) (*ledger.Policy, error) {
	b, err := st.Get(policyKey)
	if err != nil {
		return nil, fmt.Errorf("stored policy: %w", err)
	}
	p, err := ledger.ParsePolicy(b)
	if err != nil {
		return nil, fmt.Errorf("stored policy: %w", err)
	}
	return p, nil
}

// KeepPolicy makes a policy the one that KnownPolicy goes on from.
func KeepPolicy(st *store.Store, p *ledger.Policy) error {
	if err := st.Set(policyKey, []byte(p.String())); err != nil {
		return fmt.Errorf("keep policy: %w", err)
	}
	return nil
}

// extend is old with the cosigners that now has beyond it, nil if there are none.
func extend(old, now *ledger.Policy) *ledger.Policy {
	list, changed := slices.Clone(old.Witnesses), old.LogURL != now.LogURL
	for _, w := range now.Witnesses {
		i := slices.IndexFunc(list, func(x ledger.Witness) bool { return x.Name == w.Name })
		switch {
		case i < 0:
			list, changed = append(list, w), true
		case list[i].Key.Pub() != w.Key.Pub() || list[i].URL != w.URL:
			list[i], changed = w, true
		}
	}
	if !changed {
		return nil
	}
	next := ledger.NewPolicy(old.Log, list...)
	next.LogURL = now.LogURL
	return next
}

// Policy is the network's policy (ask.Policy) with the doors of log and
// witnesses.
func Policy(d keys.Directory) (*ledger.Policy, error) {
	p, err := ask.Policy(d)
	if err != nil {
		return nil, err
	}
	if log, ok := d.One(member.RoleAggregator, ""); ok {
		p.LogURL = URL(log.Member, LogDoor)
	}
	for _, r := range []member.Role{member.RoleUtility, member.RoleVerifier} {
		for _, h := range d.All(r, "") {
			for i := range p.Witnesses {
				if p.Witnesses[i].Name == ask.WitnessName(h.Member) {
					p.Witnesses[i].URL = URL(h.Member, WitnessDoor)
				}
			}
		}
	}
	return p, nil
}
