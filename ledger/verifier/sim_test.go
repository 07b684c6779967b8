package verifier_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/verifier"
)

var long = flag.Bool("long", false, "run the long versions of the tests")

// What the log of a simulated town does from some checkpoint on.
const (
	honest        = iota
	splitView     // some verifiers are shown another history
	rollback      // everybody is shown an older log, which then grows otherwise
	doublePrimary // two machines with one key go on from the same entry, in turn
	lyingWitness  // a verifier signs both halves of a split view and shows each half its own
	slander       // a verifier signs nonsense about a log that is honest
	faults
)

var faultNames = [faults]string{"honest", "split view", "rollback", "double primary", "lying witness", "slander"}

// bound is how many checkpoint intervals may pass before evidence is there.
const bound = 2

// simTown is a log, its second history, and four verifiers, each of which sees
// the one that the log shows it.
type simTown struct {
	*town.Town
	t     *testing.T
	rnd   *rand.Rand
	kind  int
	names []string
	all   map[string]*verifier.Verifier
	views map[string]*string // host that "log" means for a verifier
	logs  map[string]*fakeLog
	sizes map[string]int // of the two histories
	fork  int            // entries that they share
	liar  string
}

// view carries requests to the log to the history that its owner is shown.
type view struct {
	net  *town.Net
	host *string
}

func (v view) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == "log" {
		r = r.Clone(r.Context())
		r.URL.Host = *v.host
	}
	return v.net.RoundTrip(r)
}

func newSim(t *testing.T, seed uint64, kind int) *simTown {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, uint64(kind)))
	shared := 20 + rnd.IntN(80)
	history := func(other bool) [][]byte {
		s := scene.New(t, seed).Begin()
		s.Transfers(shared)
		if other {
			s.Bytes32()
		}
		s.Transfers(250)
		return s.Log
	}
	s := scene.New(t, seed)
	s.Witness["fourth"] = s.Key()
	tw := town.New(t, s)
	w := ledger.Witness{Name: "fourth", Key: ledger.WitnessKey("fourth.test", scene.Pub(s.Witness["fourth"])), URL: "http://fourth"}
	p := ledger.NewPolicy(tw.Policy.Log, append(tw.Policy.Witnesses, w)...)
	p.LogURL = tw.Policy.LogURL
	tw.Policy = p
	sim := &simTown{Town: tw, t: t, rnd: rnd, kind: kind, all: map[string]*verifier.Verifier{}, views: map[string]*string{}, fork: shared + 2,
		logs: map[string]*fakeLog{"log-a": newLog(t, tw, history(false)), "log-b": newLog(t, tw, history(true))}, sizes: map[string]int{}}
	for host, l := range sim.logs {
		tw.Net.Put(host, l)
	}
	for _, w := range p.Witnesses {
		host := "log-a"
		sim.views[w.Name] = &host
		cfg := tw.VerifierConfig(w.Name)
		cfg.Transport = view{tw.Net, sim.views[w.Name]}
		sim.all[w.Name], _ = tw.Verifier(cfg)
		sim.names = append(sim.names, w.Name)
	}
	sim.liar = sim.names[rnd.IntN(len(sim.names))]
	return sim
}

// begin makes the log go wrong. Both histories are where the first one is.
func (s *simTown) begin() {
	s.sizes["log-b"] = max(s.sizes["log-a"], s.fork+1+s.rnd.IntN(20))
	half := s.names[:1+s.rnd.IntN(len(s.names)-1)]
	switch s.kind {
	case splitView:
		for _, name := range half {
			*s.views[name] = "log-b"
		}
	case lyingWitness:
		for _, name := range half {
			*s.views[name] = "log-b"
		}
		s.Net.Put(s.liar, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // to each what it sees already, but one
			s.logs[[]string{"log-a", "log-b"}[s.rnd.IntN(2)]].ServeHTTP(w, r)
		}))
	case rollback:
		s.sizes["log-b"] = s.fork + 1 + s.rnd.IntN(20)
		for _, name := range s.names {
			*s.views[name] = "log-b"
		}
	case slander:
		s.Net.Put(s.liar, http.HandlerFunc(s.slander))
	}
}

// slander answers with a checkpoint that the log never signed, and with evidence
// that is none.
func (s *simTown) slander(w http.ResponseWriter, r *http.Request) {
	l := s.logs["log-a"]
	forged := l.sign(l.at(s.sizes["log-a"]))
	fork := s.logs["log-b"]
	other := fork.at(s.sizes["log-a"])
	bad, err := ledger.SignCheckpoint(other, ledger.Cosigner(s.liar+".test", s.Scene.Witness[s.liar], s.Clock.Now()), ledger.LogSigner(scene.Origin, s.Scene.Witness[s.liar]))
	if err != nil {
		s.t.Error(err)
	}
	if bytes.HasSuffix([]byte(r.URL.Path), []byte("/evidence")) {
		w.Write((&ledger.Evidence{Kind: ledger.TwoRoots, A: forged, B: bad}).Encode())
		return
	}
	w.Write(bad)
}

// interval lets the log grow, publish, and everybody look.
func (s *simTown) interval(wrong bool) {
	ctx := context.Background()
	for _, host := range []string{"log-a", "log-b"} {
		if host == "log-b" && !wrong {
			continue
		}
		l := s.logs[host]
		s.sizes[host] = min(s.sizes[host]+1+s.rnd.IntN(30), len(l.entries))
		if host == "log-a" {
			s.sizes[host] = max(s.sizes[host], 3)
		}
		l.served = l.sign(l.at(s.sizes[host]))
	}
	if wrong && s.kind == doublePrimary {
		for _, name := range s.names {
			*s.views[name] = []string{"log-a", "log-b"}[s.rnd.IntN(2)]
		}
	}
	for _, name := range s.names {
		if _, err := s.all[name].Look(ctx, "", true); err != nil && !wrong {
			s.t.Fatalf("%s refuses an honest log: %v", name, err)
		}
	}
	for _, name := range s.names {
		for _, other := range s.names {
			if name == other {
				continue
			}
			prefix := "http://" + other + "/" + town.Hash()
			if s.kind == lyingWitness && wrong && other == s.liar {
				prefix = "http://" + other // it serves what it likes
			}
			_, _ = s.all[name].Look(ctx, prefix, false) // what it shows is judged by the evidence that comes of it
			if e, err := s.all[name].Accusation(ctx, prefix); err == nil && e != nil {
				_ = s.all[name].Convict(ctx, e) // slander convicts nobody
			}
		}
	}
}

// convictions are those whose evidence a stranger accepts who has the policy as
// text, and nothing else.
func (s *simTown) convictions() (n int) {
	s.t.Helper()
	policy, err := ledger.ParsePolicy([]byte(s.Policy.String()))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, name := range s.names {
		list, err := s.all[name].Held()
		if err != nil {
			s.t.Fatal(err)
		}
		for _, held := range list {
			e, err := ledger.ParseEvidence(held.Encode())
			if err == nil {
				err = e.Check(policy)
			}
			if err != nil {
				s.t.Errorf("evidence of %s convinces no stranger: %v", name, err)
			}
			n++
		}
	}
	return n
}

// TestG4AForkIsEvidenceWithinTwoCheckpoints is guarantee G4 for seeded towns: a
// log that shows two histories, however it comes to it, is convicted by evidence
// that a stranger accepts, within two checkpoint intervals; one that does not is
// never.
func TestG4AForkIsEvidenceWithinTwoCheckpoints(t *testing.T) {
	seeds := uint64(1)
	if *long {
		seeds = 40
	}
	for kind := range faults {
		for seed := range seeds {
			t.Run(fmt.Sprintf("%s/seed %d", faultNames[kind], seed), func(t *testing.T) {
				s := newSim(t, seed+1, kind)
				for range 1 + s.rnd.IntN(4) {
					s.interval(false)
				}
				// A fork needs a common beginning that everybody has seen.
				for s.sizes["log-a"] <= s.fork+40 && s.sizes["log-a"] < len(s.logs["log-a"].entries) {
					s.interval(false)
				}
				if n := s.convictions(); n > 0 {
					t.Fatalf("an honest log is convicted %d times", n)
				}
				s.begin()
				took := 0
				for took < 5 && s.convictions() == 0 {
					s.interval(true)
					took++
				}
				guilty := slices.Contains([]int{splitView, rollback, doublePrimary, lyingWitness}, kind)
				switch n := s.convictions(); {
				case !guilty && n > 0:
					t.Errorf("an honest log is convicted %d times", n)
				case guilty && (n == 0 || took > bound):
					t.Errorf("%d pieces of evidence after %d intervals", n, took)
				case guilty:
					s.interval(true) // evidence is passed on
					s.interval(true)
					for _, name := range s.names {
						if name != s.liar && s.all[name].Status().Evidence == nil {
							t.Errorf("%s has not heard of it", name)
						}
					}
				}
			})
		}
	}
}
