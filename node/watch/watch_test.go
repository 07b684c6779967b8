package watch

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/node/ask"
	"gridveil/node/keys"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/store/storetest"
	"gridveil/privacy"
)

// copyOf stands for a node's own copy of the ledger.
type copyOf struct {
	mu        sync.Mutex
	open      bool
	heard     int
	convicted *ledger.Evidence
	finds     *ledger.Evidence
}

func (c *copyOf) Checkpoint(context.Context, []byte) (*ledger.Evidence, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open {
		return nil, party.ErrNoLedger
	}
	c.heard++
	return c.finds, nil
}

func (c *copyOf) Convict(_ context.Context, e *ledger.Evidence) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open {
		return party.ErrNoLedger
	}
	c.convicted = e
	return nil
}

// town is a network whose nodes watch.
type town struct {
	*meshtest.Network
	t     *testing.T
	envs  map[*meshtest.Node]*role.Env
	stops map[*meshtest.Node]func() // of their watches
	own   *copyOf                   // of the verifier
	log   ed25519.PrivateKey
}

func newTown(t *testing.T) *town {
	t.Helper()
	w := &town{t: t, envs: map[*meshtest.Node]*role.Env{}, stops: map[*meshtest.Node]func(){}, own: &copyOf{}}
	var mu sync.Mutex
	w.Network = meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1, Others: []member.Role{member.RoleAggregator, member.RoleVerifier},
		Ready: func(d *meshtest.Node) error {
			mu.Lock()
			defer mu.Unlock()
			if stop := w.stops[d]; stop != nil {
				stop()
			}
			env, err := w.env(d)
			if err != nil {
				return err
			}
			var judge Judge
			if d.Member.Role == member.RoleVerifier {
				judge = w.own
			}
			watch := New(env, judge)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- watch.Serve(ctx) }() // ended by stop
			w.stops[d] = sync.OnceFunc(func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
			t.Cleanup(w.stops[d])
			return nil
		}})
	agg, verifier := w.Others[0], w.Others[1]
	now := w.Clock.Now()
	for d, uses := range map[*meshtest.Node][]keys.Use{agg: {keys.Log}, verifier: {keys.Cosign}} {
		sheet, err := w.envs[d].Keys.Sheet(now, 1, uses...)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.envs[d].Dir.Publish(sheet, now); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if w.log, err = w.envs[agg].Keys.Signer(keys.Log, now); err != nil {
		t.Fatal(err)
	}
	return w
}

// env makes or finds a node's surroundings; a restarted node keeps its store.
func (w *town) env(d *meshtest.Node) (*role.Env, error) {
	dir := w.t.TempDir()
	mk, err := store.LoadOrCreateKey(filepath.Join(dir, "store.key"))
	if err != nil {
		return nil, err
	}
	var st *store.Store
	if old := w.envs[d]; old != nil {
		st = old.Store
	} else if st, err = store.Open(filepath.Join(dir, "store"), mk, store.Options{}); err != nil {
		return nil, err
	} else {
		w.t.Cleanup(func() { st.Close() })
	}
	w.envs[d] = &role.Env{Clock: d.Net.Clock, Log: slog.New(slog.DiscardHandler), Warn: role.NewBoard(), Store: st, Host: d.Host,
		Keys: keys.NewRing(st, rand.Reader, privacy.SuiteX25519), Dir: keys.Directory{Host: d.Host}}
	return w.envs[d], nil
}

func (w *town) origin() string {
	return ask.LedgerOrigin(w.Bundle.Network, meshtest.Market)
}

// checkpoint is what the log says about a size; history tells its roots apart.
func (w *town) checkpoint(size uint64, history byte) []byte {
	w.t.Helper()
	note, err := ledger.SignCheckpoint(ledger.Checkpoint{Origin: w.origin(), Size: size, Root: ledger.Hash{history, byte(size)}}, ledger.LogSigner(w.origin(), w.log))
	if err != nil {
		w.t.Fatal(err)
	}
	return note
}

func (w *town) publish(d *meshtest.Node, k gossip.Kind, key uint64, body []byte) error {
	return d.Host.Publish(k, key, body, w.Clock.Now().Add(time.Hour))
}

func TestTwoHistoriesOfTheLedgerAreToldToEverybody(t *testing.T) {
	w := newTown(t)
	agg, verifier := w.Others[0], w.Others[1]
	key := gossip.OriginKey(w.origin())
	everybody := slices.Concat(w.SSNs, w.Others, w.Homes)
	for size := uint64(5); size < 8; size++ {
		if err := w.publish(agg, gossip.KindCheckpoint, key, w.checkpoint(size, 1)); err != nil {
			t.Fatal(err)
		}
	}
	w.own.mu.Lock()
	w.own.open = true // it waited for its copy until now
	w.own.mu.Unlock()
	meshtest.Eventually(t, "the verifier holds them against its copy", func() bool {
		w.own.mu.Lock()
		defer w.own.mu.Unlock()
		return w.own.heard > 0
	})
	for _, d := range everybody {
		if w.envs[d].LedgerForked() {
			t.Fatalf("%v accuses an honest ledger", d.Member.Role)
		}
	}
	// Of the three sizes a backbone member has heard all; the second history is shown once.
	if err := w.publish(agg, gossip.KindCheckpoint, key, w.checkpoint(7, 2)); err != nil {
		t.Fatal(err)
	}
	for _, d := range everybody {
		meshtest.Eventually(t, "everybody is warned: "+d.Member.Role.String(), w.envs[d].LedgerForked)
		meshtest.Eventually(t, "the evidence is kept", func() bool { _, err := w.envs[d].Store.Get(evidenceKey); return err == nil })
	}
	meshtest.Eventually(t, "the verifier's copy is told", func() bool {
		w.own.mu.Lock()
		defer w.own.mu.Unlock()
		return w.own.convicted != nil
	})
	if len(verifier.Host.Registers(gossip.KindAlarm)) == 0 {
		t.Error("no evidence was published")
	}
}

func TestEvidenceOfOneVerifierIsEnoughForAHome(t *testing.T) {
	w := newTown(t)
	home, verifier := w.Homes[0], w.Others[1]
	meshtest.Eventually(t, "the home knows the ledger's key", func() bool {
		_, err := party.Policy(w.envs[home].Dir)
		return err == nil
	})
	x := &ledger.Evidence{Kind: ledger.TwoRoots, A: w.checkpoint(9, 1), B: w.checkpoint(9, 2)}
	body := append([]byte(gossip.PublicMark), x.Encode()...)
	if err := w.publish(verifier, gossip.KindAlarm, 1, body); err != nil {
		t.Fatal(err)
	}
	meshtest.Eventually(t, "the home is warned", w.envs[home].LedgerForked)
	home.Restart()
	meshtest.Eventually(t, "and again after a restart", w.envs[home].LedgerForked)

	// Another key of the log means another ledger: the evidence is of the old one.
	agg := w.Others[0]
	now := w.Clock.Now()
	ring := keys.NewRing(storetest.Open(t), rand.Reader, privacy.SuiteX25519)
	sheet, err := ring.Sheet(now, 2, keys.Log)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.envs[agg].Dir.Publish(sheet, now); err != nil {
		t.Fatal(err)
	}
	env := w.envs[home]
	meshtest.Eventually(t, "the home hears of the new key", func() bool {
		p, err := party.Policy(env.Dir)
		return err == nil && p.Log.Pub() != ledger.Hash(w.log.Public().(ed25519.PublicKey))
	})
	if err := env.Store.Update(func(tx *store.Tx) error { return tx.Delete(store.SpaceLedger.Key([]byte("policy"))) }); err != nil { // as the operators have agreed
		t.Fatal(err)
	}
	meshtest.EventuallyWithin(t, time.Minute, "the warning ends", func() bool { return !env.LedgerForked() })
}

func TestWhatIsNoEvidenceIsRefused(t *testing.T) {
	w := newTown(t)
	agg, verifier := w.Others[0], w.Others[1]
	x := &ledger.Evidence{Kind: ledger.TwoRoots, A: w.checkpoint(9, 1), B: w.checkpoint(9, 1)} // accuses nobody
	harmless := append([]byte(gossip.PublicMark), x.Encode()...)
	for name, err := range map[string]error{
		"a checkpoint under another log's key": w.publish(agg, gossip.KindCheckpoint, 1, w.checkpoint(3, 1)),
		"no checkpoint":                        w.publish(agg, gossip.KindCheckpoint, 1, []byte("x")),
		"an alarm that says something else":    w.publish(verifier, gossip.KindAlarm, 1, []byte("GVP1 the grid is down")),
		"an alarm without a mark":              w.publish(verifier, gossip.KindAlarm, 1, x.Encode()),
	} {
		if !errors.Is(err, gossip.ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", name, err)
		}
	}
	if err := w.publish(verifier, gossip.KindAlarm, 2, harmless); err != nil {
		t.Fatal(err)
	}
	until := w.Clock.Now().Add(5 * time.Minute)
	meshtest.Eventually(t, "time goes by", func() bool { return w.Clock.Now().After(until) })
	for d, env := range w.envs {
		if env.LedgerForked() {
			t.Errorf("%v believes what proves nothing", d.Member.Role)
		}
	}
}

func TestAMemberThatContradictsItselfIsNamed(t *testing.T) {
	w := newTown(t)
	agg := w.Others[0]
	now := w.Clock.Now()
	var envelopes []gossip.Envelope
	raw, err := agg.Key.Raw()
	if err != nil {
		t.Fatal(err)
	}
	for _, history := range []byte{1, 2} {
		e := gossip.Envelope{Kind: gossip.KindCheckpoint, Key: gossip.OriginKey(w.origin()), Version: 7, Network: w.Bundle.Tag(), Issued: now, Expires: now.Add(time.Hour),
			CertHash: agg.Member.CertHash, Body: w.checkpoint(4, history)}
		if err := e.Sign(raw); err != nil {
			t.Fatal(err)
		}
		envelopes = append(envelopes, e)
	}
	body, err := gossip.EncodeEvidence(&envelopes[0], &envelopes[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := w.publish(w.Others[1], gossip.KindAlarm, 3, body); err != nil {
		t.Fatal(err)
	}
	env := w.envs[w.Homes[0]]
	const want = "It signed two contents under one version: a node (aggregator) of market. Each node keeps the one that it saw first."
	meshtest.Eventually(t, "homes are told too, and who it is once its certificate is there", func() bool {
		all := env.Warn.Standing(w.Clock.Now())
		return slices.ContainsFunc(all, func(x role.Warning) bool { return x.Code == "register-fork" && x.Text == want })
	})
}

func FuzzBodies(f *testing.F) {
	note, err := ledger.SignCheckpoint(ledger.Checkpoint{Origin: "log.example/1", Size: 3, Root: ledger.Hash{1}},
		ledger.LogSigner("log.example/1", ed25519.NewKeyFromSeed(make([]byte, 32))))
	if err != nil {
		f.Fatal(err)
	}
	x := &ledger.Evidence{Kind: ledger.TwoRoots, A: note, B: note}
	f.Add(note)
	f.Add(append([]byte(gossip.PublicMark), x.Encode()...))
	f.Fuzz(func(t *testing.T, body []byte) {
		checkCheckpoint(gossip.Envelope{Kind: gossip.KindCheckpoint, Key: gossip.OriginKey("log.example/1"), Body: body})
		if v := checkAlarm(gossip.Envelope{Kind: gossip.KindAlarm, Body: body}); v.Action == gossip.Accept {
			if x, err := parseFork(body); err == nil && string(x.Encode()) != string(body[len(gossip.PublicMark):]) {
				t.Error("evidence of a log has two encodings")
			}
		}
	})
}
