package party

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridveil/ledger"
	lstore "gridveil/ledger/store"
	"gridveil/ledger/verifier"
	"gridveil/ledger/writer"
	"gridveil/node/clock"
	"gridveil/node/control"
	"gridveil/node/role"
)

var smallLog = lstore.Options{MemTableBytes: 1 << 20, SegmentBytes: 64 << 10, MinFree: -1}

// foundLog runs a log of one entry until the test ends, and gives its URL.
func foundLog(t *testing.T, log ed25519.PrivateKey) (policy *ledger.Policy, url string) {
	t.Helper()
	policy = ledger.NewPolicy(ledger.LogKey(origin, ledger.Hash(log.Public().(ed25519.PublicKey))))
	w, err := writer.Open(writer.Config{Dir: t.TempDir(), Store: smallLog, Machine: ledger.NewMoney(origin), LogKey: log, ReceiptKey: draw(t), Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Serve(ctx) }() // waited for in Cleanup
	t.Cleanup(func() { stop(); <-ended; w.Close() })
	a, u := draw(t), draw(t)
	g := &ledger.Genesis{Rules: 1, Origin: origin, Network: "test", Params: ledger.DefaultParams(), Currencies: []ledger.Currency{{ISO4217: 978, Exp: 2}},
		Parties: []ledger.Party{{Party: 1, Role: ledger.Aggregator, Name: "evagg", Pub: ledger.Hash(a.Public().(ed25519.PublicKey))},
			{Party: 2, Role: ledger.Utility, Name: "northgrid", Pub: ledger.Hash(u.Public().(ed25519.PublicKey))}}}
	e, err := ledger.NewEntry(1, 1, g)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []ed25519.PrivateKey{a, u} {
		if err := ledger.Sign(e, origin, k); err != nil {
			t.Fatal(err)
		}
	}
	patient, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if r := w.Submit(patient, [][]byte{e.Bytes()}); r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	if err := w.WaitFinal(patient, 1); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(w.Handler())
	t.Cleanup(s.Close)
	return policy, s.URL
}

// damagedLog is a directory whose log Open refuses.
func damagedLog(t *testing.T) (dir string, cause error) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "ledger")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "HEAD"), make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	_, cause = lstore.Open(dir, ledger.NewMoney(origin), smallLog)
	if !errors.Is(cause, ledger.ErrDamaged) {
		t.Fatalf("got %v", cause)
	}
	return dir, cause
}

func whole(t *testing.T, dir string) {
	t.Helper()
	s, err := lstore.Open(dir, ledger.NewMoney(origin), smallLog)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if size, _ := s.Size(); size != 1 {
		t.Errorf("the repaired log has %d entries", size)
	}
}

func TestADamagedLedgerIsRefilledFromThePeersThatAreKnown(t *testing.T) {
	policy, url := foundLog(t, draw(t))
	dir, cause := damagedLog(t)
	m := &Mender{Clock: clock.Wall{}, Log: slog.New(slog.DiscardHandler), Warn: role.NewBoard(), Transport: http.DefaultTransport}
	cfg := verifier.Config{Dir: dir, Store: smallLog, Policy: policy}
	nobody := httptest.NewServer(http.NotFoundHandler())
	defer nobody.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.Mend(ctx, cfg, cause, []string{nobody.URL, url}); err != nil {
		t.Fatal(err)
	}
	whole(t, dir)
	if list := m.Warn.Standing(time.Now()); len(list) != 0 {
		t.Errorf("warnings after the repair: %v", list)
	}
}

// TestTheOperatorNamesThePeer runs what `gridveil ledger repair --from` calls.
func TestTheOperatorNamesThePeer(t *testing.T) {
	policy, url := foundLog(t, draw(t))
	dir, cause := damagedLog(t)
	home := t.TempDir()
	server := control.NewServer(home)
	m := &Mender{Clock: clock.Wall{}, Log: slog.New(slog.DiscardHandler), Warn: role.NewBoard(), Transport: http.DefaultTransport}
	m.commands(server)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx) }() // waited for below
	defer func() { cancel(); <-served }()
	var got Mended
	call := func(from string) error {
		for { // until the socket is there
			err := control.Call(ctx, home, "ledger-repair", MendCall{from}, &got)
			if !errors.Is(err, control.ErrNotRunning) || ctx.Err() != nil {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if err := call(url); err == nil || err.Error() != ErrWhole.Error() {
		t.Errorf("repair of a whole copy: got %v", err)
	}
	mended := make(chan error, 1)
	go func() { // waited for below
		mended <- m.Mend(ctx, verifier.Config{Dir: dir, Store: smallLog, Policy: policy}, cause, nil)
	}()
	for from, want := range map[string]string{"nobody": "neither a URL nor a peer ID", "http://127.0.0.1:1": "refused"} {
		err := call(from)
		for err != nil && err.Error() == ErrWhole.Error() && ctx.Err() == nil { // Mend has not begun
			time.Sleep(10 * time.Millisecond)
			err = call(from)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("repair from %s: got %v", from, err)
		}
	}
	if err := call(url + "/"); err != nil {
		t.Fatal(err)
	}
	if err := <-mended; err != nil {
		t.Fatal(err)
	}
	if want := (Mended{Origin: origin, Entries: 1, From: url}); got != want {
		t.Errorf("the command says %+v, want %+v", got, want)
	}
	whole(t, dir)
}

// TestTheLargestCopyIsAskedFirst keeps a repaired log from being told again
// that a cosigner knows a larger one.
func TestTheLargestCopyIsAskedFirst(t *testing.T) {
	log := draw(t)
	policy := ledger.NewPolicy(ledger.LogKey(origin, ledger.Hash(log.Public().(ed25519.PublicKey))))
	serve := func(size uint64) string {
		msg, err := ledger.SignCheckpoint(ledger.Checkpoint{Origin: origin, Size: size, Root: ledger.Hash{byte(size)}}, ledger.LogSigner(origin, log))
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(msg) }))
		t.Cleanup(s.Close)
		return s.URL
	}
	small, large, middle := serve(5), serve(9), serve(7)
	m := &Mender{Log: slog.New(slog.DiscardHandler), Transport: http.DefaultTransport}
	got := m.largestFirst(t.Context(), verifier.Config{Policy: policy}, []string{small, "http://127.0.0.1:1", large, middle})
	if strings.Join(got, " ") != strings.Join([]string{large, middle, small}, " ") {
		t.Errorf("asked in the order %v", got)
	}
}
