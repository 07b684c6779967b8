package demo

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/gateway"
	"gridveil/node/headend"
	"gridveil/node/identity"
	"gridveil/node/report"
	"gridveil/node/ssn"
	"gridveil/node/utility"
	"gridveil/privacy/committee"
)

// street is a scene with only the nodes of metering: substations, head-end, both
// utilities and the homes, which have contracts.
type street struct {
	*Scene
	t   *testing.T
	log *logBook
	ctx context.Context
	u   *utility.Utility
}

// patience bounds a wait of a test, in wall time: the machine may be busy.
const patience = 60 * time.Second

// newStreet builds and starts a street; before, if not nil, may change it
// between the two. The clock runs at speed once everybody is up.
func newStreet(t *testing.T, homes int, speed float64, before func(*street)) *street {
	t.Helper()
	book := new(logBook)
	s, err := Build(Options{Homes: homes, Speed: speed, Seed: 7, Dir: t.TempDir() + "/scene", Log: slog.New(book.handler())})
	if err != nil {
		t.Fatal(err)
	}
	st := &street{Scene: s, t: t, log: book}
	s.Members = slices.DeleteFunc(s.Members, func(m *Member) bool {
		return m.Role == member.RoleWallet || m.Role == member.RoleAggregator || m.Role == member.RoleVerifier
	})
	if before != nil {
		before(st)
	}
	st.open()
	return st
}

// open starts everybody, with a committee and a contract for each home.
func (st *street) open() {
	st.t.Helper()
	ctx, cancel := context.WithCancel(st.t.Context())
	st.ctx = ctx
	done := make(chan error, 1)
	st.Clock.SetSpeed(1)                      // nothing is missed while the nodes open
	go func() { done <- st.Clock.Run(ctx) }() // the cleanup waits for it
	st.t.Cleanup(func() {
		st.Clock.SetSpeed(HeldForStop)
		if err := st.StopAll(); err != nil {
			st.t.Errorf("stop: %v", err)
		}
		cancel()
		<-done
	})
	pub, _, err := committee.Deal(st.reader("openers"))
	if err != nil {
		st.t.Fatal(err)
	}
	for _, m := range st.Members {
		if err := st.Run(ctx, m); err != nil {
			st.t.Fatal(err)
		}
		if u, ok := m.Node().Role.(*utility.Utility); ok {
			if err := u.Install(pub); err != nil {
				st.t.Fatal(err)
			}
		}
	}
	st.u = st.Get("utility-a").Node().Role.(*utility.Utility)
	for _, m := range st.Of(member.RoleGateway) {
		if _, err := st.u.Open(utility.NewContract{Gateway: m.Node().Host.Self().Key}); err != nil {
			st.t.Fatal(err)
		}
	}
	st.Clock.SetSpeed(st.Speed)
}

// HeldForStop is the speed at which a street is taken down.
const HeldForStop = 20

// until waits for cond, and fails with what and why.
func (st *street) until(patience time.Duration, what string, cond func() bool) {
	st.t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			st.dump()
			st.t.Fatalf("%s: not within %v; it is %v in the street", what, patience, st.Clock.Now())
		}
		time.Sleep(20 * time.Millisecond) // polls nodes that run for themselves
	}
}

// dump shows what a failed wait needs.
func (st *street) dump() {
	for _, m := range st.Members {
		n := m.Node()
		if n == nil {
			st.t.Logf("%s is stopped", m.Name)
			continue
		}
		for _, w := range n.Warn.Standing(st.Clock.Now()) {
			st.t.Logf("%s: %s: %s", m.Name, w.Code, w.Text)
		}
		switch r := n.Role.(type) {
		case *ssn.SSN:
			st.t.Logf("%s: %+v", m.Name, r.Counters())
			for _, o := range r.Sums() {
				st.t.Logf("%s: %v of %d homes from %s: %d mWh %v", m.Name, o.Quantity, o.Homes, o.From.Format("15:04"), o.MWh, o.Err)
			}
		case *headend.Headend:
			st.t.Logf("%s: %+v", m.Name, r.Counters())
		case *gateway.Gateway:
			w, taken, refused, err := r.SumReports()
			st.t.Logf("%s: sum reports waiting %d, taken %d, refused %d, %v", m.Name, w, taken, refused, err)
		}
	}
	if os.Getenv("GRIDVEIL_DEBUG") != "" {
		st.t.Logf("%s", st.log.text())
	}
}

// restart stops a member and starts it again from its store.
func (st *street) restart(name string) {
	st.t.Helper()
	m := st.Get(name)
	if err := m.Stop(); err != nil {
		st.t.Fatalf("stop %s: %v", name, err)
	}
	st.start(name)
}

func (st *street) start(name string) {
	st.t.Helper()
	if err := st.Run(st.ctx, st.Get(name)); err != nil {
		st.t.Fatalf("start %s: %v", name, err)
	}
	if name == "utility-a" {
		st.u = st.Get(name).Node().Role.(*utility.Utility)
	}
}

func (st *street) home(i int) *gateway.Gateway {
	return st.Get(fmt.Sprintf("home-%d", i)).Node().Role.(*gateway.Gateway)
}

func (st *street) substation(zone string) *ssn.SSN {
	return st.Get("ssn-" + zone).Node().Role.(*ssn.SSN)
}

// logBook collects every line that any node logs, at debug level.
type logBook struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *logBook) handler() slog.Handler {
	return slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug})
}

func (b *logBook) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// namesOf lists every way in which a log could name a home or a person: member
// and peer keys of leaves, handles, usage points, serials and store keys. Names
// given to nodes by the scene ("home-3") are the test's own.
func namesOf(s *Scene) (map[string]string, error) {
	names := map[string]string{}
	add := func(what string, raw []byte) {
		names[what+", hexadecimal"] = hex.EncodeToString(raw)
		names[what+", short"] = hex.EncodeToString(raw[:min(len(raw), 8)])
		names[what+", in capitals"] = fmt.Sprintf("%X", raw[:min(len(raw), 8)])
	}
	for _, m := range s.Members {
		if key, err := os.ReadFile(filepath.Join(m.Dir, "store.key")); err == nil {
			names["store key of "+m.Name] = string(bytes.TrimSpace(key))
			add("store key of "+m.Name, key)
		}
		if !m.Role.Leaf() {
			continue
		}
		id, err := identity.Load(m.Dir, s.Clock.Now())
		if err != nil {
			return nil, err
		}
		handle := report.SourceOf(id.Member.Key[:])
		names["peer id of "+m.Name] = id.Member.Peer.String()
		names["end of the peer id of "+m.Name] = id.Member.Peer.String()[40:]
		names["certificate of "+m.Name] = id.Member.Serial
		add("key of "+m.Name, id.Member.Key[:])
		add("handle of "+m.Name, handle[:])
		if n := m.Node(); n != nil {
			if g, ok := n.Role.(*gateway.Gateway); ok && g.Serial() != "" {
				names["meter of "+m.Name] = g.Serial()
			}
		}
	}
	for _, m := range s.Of(member.RoleUtility) {
		if n := m.Node(); n != nil {
			for _, c := range n.Role.(*utility.Utility).Contracts() {
				add("usage point", c.UsagePoint[:])
			}
		}
	}
	return names, nil
}

// wantNoNames fails for each name of a home or person that stands in a log.
func wantNoNames(t *testing.T, s *Scene, log string) {
	t.Helper()
	names, err := namesOf(s)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 5*len(s.Of(member.RoleGateway)) {
		t.Fatalf("the scan would be empty: %d names", len(names))
	}
	wantNoneOf(t, names, log)
}

// wantNoneOf fails for each of the names that stands in a log.
func wantNoneOf(t *testing.T, names map[string]string, log string) {
	t.Helper()
	if len(names) == 0 || len(log) == 0 {
		t.Fatalf("the scan would be empty: %d names, %d bytes of log", len(names), len(log))
	}
	for what, name := range names {
		if at := strings.Index(log, name); at >= 0 && len(name) >= 8 {
			line := log[max(0, at-200):min(len(log), at+100)]
			t.Errorf("the log holds the %s: …%s…", what, line)
		}
	}
}

// stopped is a Stop that a test expects to work.
func (st *street) stop(names ...string) {
	st.t.Helper()
	var all []error
	for _, n := range names {
		all = append(all, st.Get(n).Stop())
	}
	if err := errors.Join(all...); err != nil {
		st.t.Fatal(err)
	}
}
