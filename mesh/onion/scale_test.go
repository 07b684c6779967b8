package onion_test

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/route"
)

// TestANeighbourhoodOfTwentyFiveHomesPassesTheFloor runs the demo's network with its real classes: 33 hosts in one
// process, class meter in slots with cover, floors in force.
func TestANeighbourhoodOfTwentyFiveHomesPassesTheFloor(t *testing.T) {
	if testing.Short() {
		t.Skip("33 hosts for ten seconds: left out with -short")
	}
	n := meshtest.Start(t, meshtest.Options{SSNs: 3, Homes: 25, Speed: 300, Patient: true, Onion: true, Ready: market,
		Others: []member.Role{member.RoleHeadend, member.RoleUtility, member.RoleUtility, member.RoleVerifier, member.RoleAggregator},
		Policy: member.Policy{SlotMS: 23_000, HopMS: 60_000}})
	n.AwaitDirectory()
	agg := n.Others[4]
	var ms runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&ms)
	t.Logf("33 hosts: %d goroutines, %.1f MB heap", runtime.NumGoroutine(), float64(ms.HeapAlloc)/1e6)
	if ms.HeapAlloc > 33*3<<20 {
		t.Errorf("heap of 33 hosts is %d bytes, want at most 3 MiB each", ms.HeapAlloc)
	}
	_, err := n.Homes[0].Onion.Call(t.Context(), agg.Member.Key, mesh.Meter, mesh.EVRecord, nil)
	if early := n.Clock.Now().Before(meshtest.Epoch.Add(10 * time.Minute)); early && !errors.Is(err, mesh.ErrSmallSet) {
		t.Errorf("before any relay has published its traffic: got %v, want ErrSmallSet", err)
	}
	var wg sync.WaitGroup
	for _, h := range n.Homes {
		meshtest.EventuallyWithin(t, 5*time.Minute, "the published numbers reach the floor", func() bool { return h.Onion.Status(mesh.Meter).Err == nil })
		wg.Go(func() {
			if _, err := h.Onion.Call(t.Context(), agg.Member.Key, mesh.Meter, mesh.EVRecord, make([]byte, 1500)); err != nil {
				t.Errorf("class meter: %v", err)
			}
			if _, err := h.Onion.Call(t.Context(), agg.Member.Key, mesh.Session, mesh.EVAuth, make([]byte, 700)); err != nil {
				t.Errorf("class session: %v", err)
			}
		})
	}
	wg.Wait()
	var sent, back uint64
	for _, h := range n.Homes {
		st := h.Onion.Stats()
		sent, back = sent+st.LoopsReturned+st.LoopsLost, back+st.LoopsReturned
	}
	if back*10 < sent*9 {
		t.Errorf("%d of %d loops came back, want nine in ten", back, sent)
	}
	t.Logf("loops back %d of %d judged; smallest set %.1f", back, sent, n.Homes[0].Onion.Status(mesh.Meter).Set)
}

// TestTwelveHomesRefuseAndSayWhy runs a town below the floor of homes: nothing private leaves, however long one waits,
// and everybody is told the numbers. Cover goes on.
func TestTwelveHomesRefuseAndSayWhy(t *testing.T) {
	const homes = 12
	n := meshtest.Start(t, meshtest.Options{SSNs: 3, Homes: homes, Speed: 300, Onion: true, Ready: market,
		Others: []member.Role{member.RoleUtility, member.RoleAggregator}, Policy: member.Policy{SlotMS: 10_000, HopMS: 30_000}})
	n.AwaitDirectory()
	agg := n.Others[1]
	refused := func(when string) {
		for i, h := range n.Homes {
			for class, service := range map[mesh.Class]mesh.Service{mesh.Meter: mesh.EVRecord, mesh.Session: mesh.EVAuth} {
				_, err := h.Onion.Call(t.Context(), agg.Member.Key, class, service, []byte("a session"))
				var small *route.SmallSetError
				if !errors.As(err, &small) || small.Homes != homes || small.MinHomes != 20 {
					t.Errorf("%s: home %d in class %s: got %v, want a refusal with %d of 20 homes", when, i+1, class, err, homes)
				} else if !strings.Contains(err.Error(), "12 of at least 20") {
					t.Errorf("%s: %q does not say how many homes there are and must be", when, err)
				}
				if st := h.Onion.Status(class); !errors.Is(st.Err, mesh.ErrSmallSet) || st.Homes != homes || st.MinHomes != 20 {
					t.Errorf("%s: home %d shows %+v for class %s", when, i+1, st, class)
				}
			}
			if !slices.ContainsFunc(h.Host.Warnings(), func(w mesh.Warning) bool { return w.Code == mesh.WarnSmallSet }) {
				t.Errorf("%s: home %d does not warn", when, i+1)
			}
		}
	}
	refused("at the start")
	loops := func() (back uint64) {
		for _, h := range n.Homes {
			back += h.Onion.Stats().LoopsReturned
		}
		return back
	}
	// Relays have then published their traffic: above the floor of homes this is enough to be served.
	meshtest.Eventually(t, "cover goes on for twenty minutes", func() bool {
		return loops() > 5*homes && n.Clock.Now().After(meshtest.Epoch.Add(20*time.Minute))
	})
	refused("after twenty minutes")
	for i, h := range n.Homes {
		if st := h.Onion.Stats(); st.Sent+st.Cover > 0 {
			t.Errorf("home %d sent %d private packets", i+1, st.Sent+st.Cover)
		}
	}
	if got := agg.Onion.Stats().Received; got > 0 {
		t.Errorf("the aggregator received %d requests", got)
	}
}
