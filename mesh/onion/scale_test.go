package onion_test

import (
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

// TestANeighbourhoodOfTwentyFiveHomesPassesTheFloor runs the demo's network with its real classes: 33 hosts in one
// process, class meter in slots with cover, floors in force.
func TestANeighbourhoodOfTwentyFiveHomesPassesTheFloor(t *testing.T) {
	if testing.Short() {
		t.Skip("33 hosts for ten seconds: left out with -short")
	}
	n := meshtest.Start(t, meshtest.Options{SSNs: 3, Homes: 25, Speed: 300, Onion: true, Ready: market,
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
		meshtest.Eventually(t, "the published numbers reach the floor", func() bool { return h.Onion.Status(mesh.Meter).Err == nil })
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
