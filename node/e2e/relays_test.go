package e2e

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/onion"
	"gridveil/node/identity"
)

var long = flag.Bool("long", false, "run the long versions of the tests")

// guest is a node that runs inside the test, with an identity that the town gave it.
type guest struct {
	id    *identity.Identity
	host  *mesh.Host
	onion *onion.Onion
}

// join runs the citizen of that name inside the test. prepare has given it its folder.
func (w *town) join(name string, handle func(*onion.Onion)) *guest {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatalf("%s: %v", name, err)
		}
	}
	id, err := identity.Load(w.path(name), time.Now())
	must(err)
	key, err := crypto.UnmarshalEd25519PrivateKey(id.Key)
	must(err)
	c := mesh.Config{Bundle: id.Bundle, Sig: id.Sig, Chain: id.Chain, SaveChain: func([][]byte) error { return nil }}
	if id.Member.Role.Backbone() {
		c.Listen = []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/0")}
	}
	for _, text := range w.contact {
		info, err := peer.AddrInfoFromString(text)
		must(err)
		c.Parents = append(c.Parents, *info)
	}
	store := meshtest.NewStore()
	g := &guest{id: id}
	g.host, err = mesh.New(c, key, store)
	must(err)
	g.onion, err = onion.New(g.host, onion.Config{Store: store})
	must(err)
	if handle != nil {
		handle(g.onion)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.host.Serve(ctx) }) // how it ends is no matter of this test
	wg.Go(func() { _ = g.onion.Serve(ctx) })
	w.t.Cleanup(func() { cancel(); wg.Wait() })
	return g
}

// held asks a relay how many packets it holds now.
func held(page string) (int, error) {
	resp, err := http.Get("http://" + page + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "gridveil_mesh_hold_packets "); ok {
			return strconv.Atoi(rest)
		}
	}
	return 0, errors.New("no gridveil_mesh_hold_packets among the metrics")
}

// records counts how often each was handled, and how its call ended.
type records struct {
	mu    sync.Mutex
	done  map[string]int
	ended map[string]error
}

// keepAsking sends one record after another until ctx ends, and notes how each call ended.
func (r *records) keepAsking(ctx context.Context, t *testing.T, g *guest, agg member.Key, name string) {
	for i := 0; ctx.Err() == nil; i++ {
		record := fmt.Sprintf("record %d of %s", i, name)
		_, err := g.onion.Call(t.Context(), agg, mesh.Session, mesh.EVAuth, []byte(record))
		r.mu.Lock()
		r.ended[record] = err
		r.mu.Unlock()
		if err != nil && !errors.Is(err, mesh.ErrUnacked) {
			time.Sleep(100 * time.Millisecond) // nothing can be sent until the relay is back
		}
	}
}

// judge wants each acknowledged record handled once, none twice, and each other one's error to say what is known.
func (r *records) judge(t *testing.T) (acked, unknown, kept int) {
	for record, err := range r.ended {
		times := r.done[record]
		switch {
		case times > 1:
			t.Errorf("%s was handled %d times", record, times)
		case err == nil && times != 1:
			t.Errorf("%s is acknowledged and was handled %d times", record, times)
		case err == nil:
			acked++
		case errors.Is(err, mesh.ErrUnacked):
			unknown++
		case errors.Is(err, mesh.ErrFewRelays), errors.Is(err, mesh.ErrOffline), errors.Is(err, mesh.ErrStaleDirectory):
			if kept++; times > 0 {
				t.Errorf("%s was handled although its call says that nothing was sent: %v", record, err)
			}
		default:
			t.Errorf("%s: %v", record, err)
		}
	}
	return acked, unknown, kept
}

// TestRelaysThatAreKilledWhileTheyHoldPackets kills real relay processes, each guard of some homes and middle or exit for
// the others, at a moment when its own metric says that it holds packets.
func TestRelaysThatAreKilledWhileTheyHoldPackets(t *testing.T) {
	if testing.Short() {
		t.Skip("real processes for ten seconds: left out with -short")
	}
	const homes, each = 4, 2 // and calls of one home at a time
	relays := []string{"ssn-elm", "ssn-oak", "ssn-mill"}
	pages := map[string]string{}
	var cast []citizen
	for i, name := range relays {
		pages[name] = "127.0.0.1:" + freePort(t)
		cast = append(cast, citizen{name: name, role: "ssn", operator: []string{"northgrid", "southpower", "towngrid"}[i],
			zone: strings.TrimPrefix(name, "ssn-"), founder: true, web: pages[name]})
	}
	w := newTown(t, cast)
	w.foundAs(strings.Replace(plan, "homes_enrolled = 1", "homes_enrolled = 25", 1)) // class session meets its floor
	w.settle()
	w.prepare(citizen{name: "evagg", role: "aggregator", operator: "evagg", founder: true})
	w.contact = w.contact[:len(relays)] // everybody's parents
	r := &records{done: map[string]int{}, ended: map[string]error{}}
	agg := w.join("evagg", func(o *onion.Onion) {
		o.Handle(mesh.EVAuth, func(_ context.Context, body []byte) ([]byte, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.done[string(body)]++
			return []byte("ok"), nil
		})
	})
	var guests []*guest
	for i := range homes {
		name := fmt.Sprintf("home-%d", i+1)
		w.prepare(citizen{name: name, role: "gateway", operator: "northgrid", zone: "elm", founder: true})
		guests = append(guests, w.join(name, nil))
	}
	ready := func() {
		for i, g := range guests {
			eventually(t, 60*time.Second, func() string {
				if err := g.onion.Status(mesh.Session).Err; err != nil {
					return fmt.Sprintf("home %d: %v", i+1, err)
				}
				if _, ok := g.onion.SealKey(agg.id.Member.Key); !ok || g.onion.Health().Guards < 2 {
					return fmt.Sprintf("home %d knows no aggregator, or has no guards", i+1)
				}
				return ""
			})
		}
	}
	ready()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i, g := range guests {
		for k := range each {
			wg.Go(func() { r.keepAsking(ctx, t, g, agg.id.Member.Key, fmt.Sprintf("caller %d of home %d", k+1, i+1)) })
		}
	}
	victims := relays[:1]
	if *long {
		victims = append(append([]string{}, relays...), relays...)
	}
	for _, name := range victims {
		var n int
		eventually(t, 60*time.Second, func() string {
			var err error
			if n, err = held(pages[name]); err != nil || n < 3 {
				return fmt.Sprintf("%s holds %d packets, %v", name, n, err)
			}
			w.p(name).kill()
			return ""
		})
		id, err := identity.Load(w.path(name), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		guarded := 0
		for _, g := range guests {
			for _, x := range g.onion.Guards() {
				if x == id.Member.Peer {
					guarded++
				}
			}
		}
		t.Logf("%s held %d packets when it was killed; guard of %d of %d homes", name, n, guarded, homes)
		w.p(name).start()
		ready()
		r.mu.Lock()
		before := len(r.ended)
		r.mu.Unlock()
		eventually(t, 60*time.Second, func() string { // calls that were under way have ended, and others follow
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.ended) < before+2*homes*each {
				return "calls do not end"
			}
			return ""
		})
	}
	cancel()
	wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	acked, unknown, kept := r.judge(t)
	var retries uint64
	for _, g := range guests {
		retries += g.onion.Stats().Retries
	}
	t.Logf("%d records acknowledged, %d with unknown outcome, %d refused before sending; %d retries", acked, unknown, kept, retries)
	if acked == 0 || retries == 0 {
		t.Error("nothing was acknowledged, or no packet was lost with the relays")
	}
}
