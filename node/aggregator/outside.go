package aggregator

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/writer"
	"gridveil/node/clock"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/node/web"
)

// mirrorPeriod is the time between two looks at mirrors, mirrorLate how old a
// mirror's newest signature may be: it renews it every 10 minutes.
const (
	mirrorPeriod = time.Minute
	mirrorLate   = time.Hour
)

// serveOutside serves the log over plain HTTP, for reading alone, until ctx
// ends.
func (a *Aggregator) serveOutside(ctx context.Context, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("ledger.http: %w\nnext: choose another address, or remove the key", err)
	}
	at := "http://" + l.Addr().String()
	a.outside.Store(&at)
	a.env.Log.Info("ledger served over http", "address", l.Addr().String())
	return party.ServeHTTP(ctx, l, a.readingDoor())
}

func (a *Aggregator) readingDoor() http.Handler {
	return ReadingDoor(&a.door, func() *ledger.Policy {
		a.bookMu.RLock()
		defer a.bookMu.RUnlock()
		return a.policy
	})
}

// Outside is where the log is served over plain HTTP, empty if it is not.
func (a *Aggregator) Outside() string {
	if at := a.outside.Load(); at != nil {
		return *at
	}
	return ""
}

// ReadingDoor answers GET and nothing else: entries come over the mesh, where
// their sender is known. It serves log, and at /policy the policy of the log, nil
// while that is not known.
func ReadingDoor(log http.Handler, policy func() *ledger.Policy) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { answerOutside(rw, r, log, policy()) })
}

func answerOutside(rw http.ResponseWriter, r *http.Request, log http.Handler, policy *ledger.Policy) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		rw.Header().Set("Allow", "GET, HEAD")
		http.Error(rw, "this door is for reading", http.StatusMethodNotAllowed)
		return
	}
	if r.URL.Path != "/policy" {
		log.ServeHTTP(rw, r)
		return
	}
	if policy == nil {
		http.Error(rw, "the ledger is not open here yet", http.StatusServiceUnavailable)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(rw, "# As this log's own aggregator states it: compare it with the policy of a party you trust.\n%s", party.Public(policy))
}

// mirror is one public copy of the log.
type mirror struct {
	key ledger.VerifierKey
	url string

	size   uint64
	signed time.Time
	err    error // why it does not count
}

type mirrors struct {
	mu   sync.Mutex
	list []mirror
}

func (m *mirrors) get() []mirror {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.list)
}

func (m *mirrors) set(list []mirror) {
	m.mu.Lock()
	m.list = list
	m.mu.Unlock()
}

// watchMirrors looks at the configured mirrors from time to time.
func (a *Aggregator) watchMirrors(ctx context.Context) error {
	var list []mirror
	for _, text := range a.env.Config.Ledger.Mirrors {
		key, at, _ := strings.Cut(text, " ")
		k, err := ledger.ParseVerifierKey(key)
		if err != nil {
			return fmt.Errorf("ledger.mirrors: %w", err)
		}
		list = append(list, mirror{key: k, url: strings.TrimRight(at, "/")})
	}
	if len(list) == 0 {
		return nil
	}
	a.mirrors.set(slices.Clone(list))
	warn := role.Warning{Code: "ledger-not-mirrored", Severity: role.Notice, Title: "No mirror holds the newest part of the ledger",
		Text: "Outsiders and repairs depend on this node alone.", Next: "Look at the mirrors of ledger.mirrors: the ledger's page says what is wrong with each.", After: 10 * time.Minute}
	client := &http.Client{Timeout: callTimeout}
	for {
		for i := range list {
			a.lookAtMirror(ctx, client, &list[i])
		}
		if ctx.Err() != nil {
			return nil
		}
		a.mirrors.set(slices.Clone(list))
		now := a.env.Clock.Now()
		_, fresh := mirrored(list)
		a.env.Warn.Set(!fresh, warn, now)
		if !clock.Sleep(ctx, clock.Wall{}, mirrorPeriod) {
			return nil
		}
	}
}

// lookAtMirror learns how much of the log a mirror holds: what it shows must be
// ours at that size, and signed by it.
func (a *Aggregator) lookAtMirror(ctx context.Context, client *http.Client, m *mirror) {
	w := a.book()
	if w == nil {
		m.err = errNoBook
		return
	}
	note, err := (&writer.Client{URL: m.url, HTTP: client}).Checkpoint(ctx)
	if err != nil {
		m.err = err
		return
	}
	c, n, err := ledger.OpenCheckpoint(note, m.key)
	if err != nil {
		m.err = err
		return
	}
	root, err := w.RootAt(c.Size)
	switch {
	case err != nil:
		m.err = err
	case c.Origin != a.origin || root != c.Root:
		m.err = fmt.Errorf("%w: the mirror has another root at size %d", ledger.ErrFork, c.Size)
	default:
		m.size, m.err = c.Size, nil
		for _, s := range n.Sigs {
			if at, err := ledger.CosignedAt(s); err == nil {
				m.signed = at
			}
		}
	}
}

// mirrored is how many entries the best mirror holds, and whether one of them
// has looked lately.
func mirrored(list []mirror) (size uint64, fresh bool) {
	for _, m := range list {
		if m.err == nil {
			size = max(size, m.size)
			fresh = fresh || time.Since(m.signed) < mirrorLate
		}
	}
	return size, fresh
}

// mirrorFacts is what the ledger's page says of its mirrors.
func (a *Aggregator) mirrorFacts() (out []web.Pair) {
	if at := a.Outside(); at != "" {
		out = append(out, web.Pair{Name: "served to everybody at", Value: at})
	}
	list := a.mirrors.get()
	if len(list) == 0 {
		return out
	}
	size, _ := mirrored(list)
	out = append(out, web.Pair{Name: "mirrored", Value: fmt.Sprintf("%d entries", size)})
	for _, m := range list {
		text := fmt.Sprintf("%d entries, signed %s ago", m.size, time.Since(m.signed).Round(time.Second))
		if m.err != nil {
			text = strings.ReplaceAll(m.err.Error(), "\n", "; ")
		} else if m.signed.IsZero() {
			text = "not looked at yet"
		}
		out = append(out, web.Pair{Name: "mirror " + m.key.Name(), Value: text})
	}
	return out
}
