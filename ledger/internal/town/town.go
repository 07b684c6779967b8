// Package town runs a writer and its verifiers in one process, with handlers in
// place of a network and a clock that tests move. It is imported by tests only.
package town

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/store"
	"gridveil/ledger/verifier"
	"gridveil/ledger/writer"
)

// Small suits tests: the least memory, and segments that fill up.
var Small = store.Options{MemTableBytes: 1 << 20, SegmentBytes: 64 << 10, MinFree: -1}

// Clock is a clock that stands until it is moved.
type Clock struct {
	mu    sync.Mutex
	now   time.Time
	waits []wait
}

type wait struct {
	at time.Time
	ch chan time.Time
}

// NewClock stands at the start of the scene.
func NewClock() *Clock { return &Clock{now: time.UnixMilli(scene.Start).UTC()} }

// Now implements the Clock of writer and verifier.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// After implements the Clock of writer and verifier.
func (c *Clock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	if d <= 0 {
		ch <- c.now
		return ch
	}
	c.waits = append(c.waits, wait{c.now.Add(d), ch})
	return ch
}

// Move lets time pass.
func (c *Clock) Move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	var left []wait
	for _, w := range c.waits {
		if w.at.After(c.now) {
			left = append(left, w)
			continue
		}
		w.ch <- c.now
	}
	c.waits = left
}

// Fast runs with the wall clock, so many times as fast, from the start of the
// scene.
type Fast struct {
	Speed int
	once  sync.Once
	begin time.Time
}

// Now implements the Clock of writer and verifier.
func (f *Fast) Now() time.Time {
	f.once.Do(func() { f.begin = time.Now() })
	return time.UnixMilli(scene.Start).UTC().Add(time.Since(f.begin) * time.Duration(f.Speed))
}

// After implements the Clock of writer and verifier.
func (f *Fast) After(d time.Duration) <-chan time.Time { return time.After(d / time.Duration(f.Speed)) }

// Net carries requests to handlers by host name. Hosts may come and go.
type Net struct {
	mu    sync.Mutex
	hosts map[string]http.Handler
}

// Put makes a host answer; nil takes it off the net.
func (n *Net) Put(host string, h http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = map[string]http.Handler{}
	}
	n.hosts[host] = h
}

// RoundTrip implements http.RoundTripper.
func (n *Net) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	h := n.hosts[r.URL.Host]
	n.mu.Unlock()
	if h == nil {
		return nil, errors.New("host is down")
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	in.RequestURI, in.RemoteAddr = r.URL.RequestURI(), "192.0.2.1:1"
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, in)
	return rec.Result(), nil
}

// Town is one log with its witnesses.
type Town struct {
	TB     testing.TB
	Scene  *scene.Scene
	Dir    string
	Net    *Net
	Clock  writer.Clock
	Policy *ledger.Policy
	Store  store.Options // of every store
}

// New is a town without anybody running.
func New(tb testing.TB, s *scene.Scene) *Town {
	p := s.Policy()
	p.LogURL = "http://log"
	for i := range p.Witnesses {
		p.Witnesses[i].URL = "http://" + p.Witnesses[i].Name
	}
	return &Town{TB: tb, Scene: s, Dir: tb.TempDir(), Net: &Net{}, Clock: &Fast{Speed: 500}, Policy: p, Store: Small}
}

// WriterConfig is what Writer opens.
func (t *Town) WriterConfig() writer.Config {
	return writer.Config{Dir: filepath.Join(t.Dir, "log"), Store: t.Store, Machine: ledger.NewMoney(scene.Origin), LogKey: t.Scene.LogKey,
		ReceiptKey: t.Scene.Receipt, Policy: t.Policy, Transport: t.Net, Clock: t.Clock}
}

// VerifierConfig is what Verifier opens for a witness.
func (t *Town) VerifierConfig(name string) verifier.Config {
	return verifier.Config{Dir: filepath.Join(t.Dir, name), Store: t.Store, Machine: ledger.NewMoney(scene.Origin), Policy: t.Policy, Name: name,
		Key: t.Scene.Witness[name], Transport: t.Net, Clock: t.Clock, MaxBehind: 100 * 24 * time.Hour, MaxAhead: 100 * 24 * time.Hour}
}

// Run runs serve until stop is called, which waits for it and returns its error.
func (t *Town) Run(serve func(context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }() // waited for by stop
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() { cancel(); err = <-done })
		return err
	}
	t.TB.Cleanup(func() { stop() })
	return stop
}

// Writer opens the log, puts it on the net and runs it; stop ends and closes it.
func (t *Town) Writer(cfg writer.Config) (w *writer.Writer, stop func()) {
	t.TB.Helper()
	w, err := writer.Open(cfg)
	if err != nil {
		t.TB.Fatal(err)
	}
	t.Net.Put("log", w.Handler())
	halt := t.Run(w.Serve)
	var once sync.Once
	stop = func() {
		once.Do(func() {
			t.Net.Put("log", nil)
			halt()
			w.Close()
		})
	}
	t.TB.Cleanup(stop)
	return w, stop
}

// Verifier opens a witness and puts it on the net; stop closes it.
func (t *Town) Verifier(cfg verifier.Config) (v *verifier.Verifier, stop func()) {
	t.TB.Helper()
	v, err := verifier.Open(cfg)
	if err != nil {
		t.TB.Fatal(err)
	}
	t.Net.Put(cfg.Name, verifier.Handler(v))
	var once sync.Once
	stop = func() {
		once.Do(func() {
			t.Net.Put(cfg.Name, nil)
			v.Close()
		})
	}
	t.TB.Cleanup(stop)
	return v, stop
}

// Verifiers opens all witnesses.
func (t *Town) Verifiers() map[string]*verifier.Verifier {
	t.TB.Helper()
	out := map[string]*verifier.Verifier{}
	for _, w := range t.Policy.Witnesses {
		out[w.Name], _ = t.Verifier(t.VerifierConfig(w.Name))
	}
	return out
}

// Submit submits entries that must all be taken.
func (t *Town) Submit(w *writer.Writer, raw [][]byte) []writer.Result {
	t.TB.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	results := w.Submit(ctx, raw)
	for i, r := range results {
		if r.Err != nil {
			t.TB.Fatalf("entry %d: %v", i, r.Err)
		}
	}
	return results
}

// Final waits until so many entries are final.
func (t *Town) Final(w *writer.Writer, size uint64) {
	t.TB.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := w.WaitFinal(ctx, size); err != nil {
		t.TB.Fatalf("size %d does not become final: %v; %+v", size, err, w.Status())
	}
}

// Hash is the name under which witnesses serve the log.
func Hash() string {
	h := ledger.OriginHash(scene.Origin)
	return hex.EncodeToString(h[:])
}

// Copy copies the directory of a log.
func Copy(tb testing.TB, from, to string) {
	tb.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		tb.Fatal(err)
	}
}

// RAM is a temporary directory in memory, where the system has one: for tests
// that write much and take no sync for proof.
func RAM(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "gridveil-test-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
