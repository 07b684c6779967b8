// Package watchtest serves small logs over real sockets as a test shapes them:
// sound ones, ones with an entry that breaks a rule, and second histories. It is
// imported by tests only.
package watchtest

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/ledger/store"
	"gridveil/ledger/writer"
)

// Origin of every log, Start its first tick.
const (
	Origin = "watch.test/ledger"
	Start  = 1772409600000
)

// Key is a key by number; 1 is the aggregator's, 2 the log's, 3 for receipts, 4
// and more are witnesses.
func Key(n byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(append(make([]byte, 31), n)) }

// Pub is its public half.
func Pub(n byte) ledger.Hash { return ledger.Hash(Key(n).Public().(ed25519.PublicKey)) }

// Witnesses of the policy, two of which make its quorum.
var Witnesses = []string{"uta", "utb", "utc"}

// Policy of the log.
func Policy() *ledger.Policy {
	var list []ledger.Witness
	for i, name := range Witnesses {
		list = append(list, ledger.Witness{Name: name, Key: ledger.WitnessKey(name+".test", Pub(byte(4+i)))})
	}
	p := ledger.NewPolicy(ledger.LogKey(Origin, Pub(2)), list...)
	p.Groups[0].K = 2
	return p
}

// Entries is a log of n entries: genesis, a receipt key, then ticks, every
// second until at and then every three.
func Entries(tb testing.TB, n, at int) (list [][]byte) {
	tb.Helper()
	s := ledger.New(Origin)
	do := func(body ledger.Body, receipt bool) {
		e, err := ledger.NewEntry(1, s.NextSeq(1), body)
		if err == nil {
			err = ledger.Sign(e, Origin, Key(1))
		}
		if err == nil && receipt {
			err = ledger.SignAs(e, Origin, ledger.UseReceipt, Key(3))
		}
		if err == nil {
			_, err = s.Apply(e)
		}
		if err != nil {
			tb.Fatal(err)
		}
		list = append(list, e.Bytes())
	}
	do(&ledger.Genesis{Rules: 1, Origin: Origin, Network: "test", Params: ledger.DefaultParams(), Currencies: []ledger.Currency{{ISO4217: 978, Exp: 2}},
		Parties: []ledger.Party{{Party: 1, Role: ledger.Aggregator, Name: "Operator", Pub: Pub(1)}}}, false)
	do(&ledger.Key{Add: true, Use: ledger.UseReceipt, Pub: Pub(3)}, true)
	ms := uint64(Start)
	for len(list) < n {
		if ms += 1000; len(list) >= at {
			ms += 2000
		}
		do(s.NextTick(ms), false)
	}
	return list
}

// Sealed is a log of n entries that ends in favour of next, its export in dir,
// and the first entry of the log that goes on, with one tick more.
func Sealed(tb testing.TB, n int, next, dir string) (list, goesOn [][]byte) {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	list = Entries(tb, n-1, n)
	s := ledger.New(Origin)
	for _, raw := range list {
		e, err := ledger.Parse(raw)
		must(err)
		_, err = s.Apply(e)
		must(err)
	}
	do := func(body ledger.Body) []byte {
		e, err := ledger.NewEntry(1, s.NextSeq(1), body)
		must(err)
		must(ledger.Sign(e, Origin, Key(1)))
		_, err = s.Apply(e)
		must(err)
		return e.Bytes()
	}
	list = append(list, do(&ledger.Seal{Next: next}))
	l := Serve(tb, list)
	note := l.Show(n, "uta", "utb")
	_, err := export.Archive(dir, memory{list, note}, export.Config{Policy: Policy()})
	must(err)
	carried, err := s.Carry()
	must(err)
	s, err = ledger.Succeed(Origin, next, carried)
	must(err)
	goesOn = append(goesOn, do(s.NewShard(s.Params(), note)))
	return list, append(goesOn, do(s.NextTick(uint64(s.LogTime().UnixMilli())+1000)))
}

// memory is a log as an export reads it.
type memory struct {
	log  [][]byte
	note []byte
}

func (m memory) Checkpoint() ([]byte, error) { return m.note, nil }

func (m memory) Bundle(n uint64, width int) (b []byte, err error) {
	for _, raw := range m.log[n*256:][:width] {
		b = ledger.AppendBundle(b, raw)
	}
	return b, nil
}

// WithoutState is a tick after list[:at], signed, that opens a day with a wrong
// state hash.
func WithoutState(tb testing.TB, list [][]byte, at int) []byte {
	tb.Helper()
	s := ledger.New(Origin)
	for _, raw := range list[:at] {
		e, err := ledger.Parse(raw)
		if err == nil {
			_, err = s.Apply(e)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	e, err := ledger.NewEntry(1, s.NextSeq(1), &ledger.Tick{Ms: Start + 48*3600*1000, State: ledger.Hash{1}})
	if err == nil {
		err = ledger.Sign(e, Origin, Key(1))
	}
	if err != nil {
		tb.Fatal(err)
	}
	return e.Bytes()
}

// Log is a server of a log that checks nothing of what it is given.
type Log struct {
	URL string

	tb testing.TB
	w  *writer.Writer
	at string // origin

	mu   sync.Mutex
	note []byte
	deaf bool
}

// Fetch asks a page of a node under test and gives status and body.
func Fetch(tb testing.TB, method, url string) (status int, body string) {
	tb.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		tb.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// Serve serves the entries over HTTP on loopback. No checkpoint is shown before
// Show.
func Serve(tb testing.TB, entries [][]byte) *Log { return ServeAs(tb, Origin, entries) }

// ServeAs is Serve for a log of another origin with the same key.
func ServeAs(tb testing.TB, origin string, entries [][]byte) *Log {
	tb.Helper()
	w, err := writer.Open(writer.Config{Dir: tb.TempDir(), Store: store.Options{MemTableBytes: 1 << 20, SegmentBytes: 1 << 20, MinFree: -1}, Machine: &blind{},
		LogKey: Key(2), ReceiptKey: Key(3), CheckpointEvery: time.Millisecond, Policy: ledger.NewPolicy(ledger.LogKey(Origin, Pub(2)))})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	done := make(chan error, 1)
	go func() { done <- w.Serve(ctx) }() // waited for below
	for len(entries) > 0 {
		n := min(len(entries), ledger.MaxRequestEntries)
		for _, r := range w.Submit(ctx, entries[:n]) {
			if r.Err != nil {
				tb.Fatal(r.Err)
			}
		}
		entries = entries[n:]
	}
	if err := w.WaitFinal(ctx, w.Size()); err != nil {
		tb.Fatal(err)
	}
	cancel()
	<-done
	l := &Log{tb: tb, w: w, at: origin}
	s := httptest.NewServer(l)
	l.URL = s.URL
	tb.Cleanup(func() { s.Close(); w.Close() })
	return l
}

// Door serves logs of one ledger as an aggregator does: each under the hash of its
// origin, and the newest at the root too.
type Door struct {
	URL string

	mu   sync.Mutex
	logs []*Log
}

// NewDoor serves a ledger's first log.
func NewDoor(tb testing.TB, first *Log) *Door {
	d := &Door{logs: []*Log{first}}
	s := httptest.NewServer(d)
	d.URL = s.URL
	tb.Cleanup(s.Close)
	return d
}

// Add serves one more log, the newest.
func (d *Door) Add(l *Log) {
	d.mu.Lock()
	d.logs = append(d.logs, l)
	d.mu.Unlock()
}

// ServeHTTP implements http.Handler.
func (d *Door) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	logs := d.logs
	d.mu.Unlock()
	for _, l := range logs {
		h := ledger.OriginHash(l.at)
		if prefix := "/" + hex.EncodeToString(h[:]); strings.HasPrefix(r.URL.Path, prefix+"/") {
			http.StripPrefix(prefix, l).ServeHTTP(rw, r)
			return
		}
	}
	logs[len(logs)-1].ServeHTTP(rw, r)
}

// ServeHTTP implements http.Handler.
func (l *Log) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	note, deaf := l.note, l.deaf
	l.mu.Unlock()
	switch {
	case deaf:
		http.Error(rw, "closed", http.StatusServiceUnavailable)
	case r.URL.Path == "/checkpoint" && note == nil:
		http.NotFound(rw, r)
	case r.URL.Path == "/checkpoint":
		rw.Write(note)
	default:
		l.w.Handler().ServeHTTP(rw, r)
	}
}

// Deaf makes the log answer nothing, or again.
func (l *Log) Deaf(yes bool) {
	l.mu.Lock()
	l.deaf = yes
	l.mu.Unlock()
}

// Put shows these bytes as the checkpoint.
func (l *Log) Put(note []byte) {
	l.mu.Lock()
	l.note = note
	l.mu.Unlock()
}

// Show shows the checkpoint of the first size entries, signed by the log and
// some witnesses.
func (l *Log) Show(size int, witnesses ...string) []byte {
	l.tb.Helper()
	root, err := l.w.RootAt(uint64(size))
	if err != nil {
		l.tb.Fatal(err)
	}
	msg, err := ledger.SignCheckpoint(ledger.Checkpoint{Origin: l.at, Size: uint64(size), Root: root}, signers(l.at, witnesses)...)
	if err != nil {
		l.tb.Fatal(err)
	}
	l.Put(msg)
	return msg
}

func signers(origin string, witnesses []string) []note.Signer {
	out := []note.Signer{ledger.LogSigner(origin, Key(2))}
	for i, name := range Witnesses {
		for _, w := range witnesses {
			if w == name {
				out = append(out, ledger.Cosigner(name+".test", Key(byte(4+i)), time.UnixMilli(Start)))
			}
		}
	}
	return out
}

// blind is a machine that takes everything.
type blind struct{ n uint64 }

type blindItem []byte

func (b blindItem) Bytes() []byte                         { return b }
func (b blindItem) Leaf() ledger.Hash                     { return ledger.LeafHash(b) }
func (b blindItem) Author() (uint32, uint64)              { return 1, 0 }
func (*blind) Parse(raw []byte) (ledger.Item, error)      { return blindItem(raw), nil }
func (*blind) Checks(ledger.Item) ([]ledger.Check, error) { return nil, nil }
func (m *blind) Apply(ledger.Item) error                  { m.n++; return nil }
func (*blind) Hash() [32]byte                             { return [32]byte{} }
func (m *blind) Size() uint64                             { return m.n }
func (*blind) LogTime() time.Time                         { return time.Time{} }
func (*blind) Bucket() uint32                             { return 0 }
func (m *blind) Snapshot() []byte                         { return binary.BigEndian.AppendUint64(nil, m.n) }
func (m *blind) Restore(b []byte) error                   { m.n = binary.BigEndian.Uint64(b); return nil }
func (m *blind) Save() ([]byte, []ledger.Used)            { return m.Snapshot(), nil }
func (m *blind) Load(b []byte, _ func(func(ledger.Window, []byte) error) error) error {
	return m.Restore(b)
}
