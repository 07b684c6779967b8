package demo

import (
	"slices"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/node/role"
)

// TestHomeThatIsSwitchedOffIsStillMetered moves the switch of one home and starts
// it again: no private packet leaves it, and every reading reaches its utility.
func TestHomeThatIsSwitchedOffIsStillMetered(t *testing.T) {
	if !*long {
		t.Skip("without -long the switch is tested in mesh/onion, node/site and cmd/gridveil")
	}
	st := newStreet(t, 6, 600, nil)
	home := st.Get("home-1")
	site := NewSite(st.Scene, nil)
	if err := site.SwitchMesh(t.Context(), "home-1", false); err != nil {
		t.Fatal(err)
	}
	st.restart("home-1")
	st.reached(Start.Add(time.Hour + 10*time.Minute))
	st.settled(Start.Add(time.Hour))
	n := home.Node()
	s := n.Onion.Stats()
	if _, off := n.Onion.Off(); !off || s.LoopsSent+s.Sent+s.Cover+s.Relayed > 0 {
		t.Errorf("off %v, and %+v left", off, s)
	}
	for _, p := range n.Host.Usage().Parts {
		if p.Name == "onion" && p.Total.Up > 0 || p.Name == "bulk" && p.Total.Up == 0 {
			t.Errorf("%s: %d bytes left", p.Name, p.Total.Up)
		}
	}
	if !slices.ContainsFunc(n.Status().Warnings, func(w role.Warning) bool { return w.Code == mesh.WarnOff }) {
		t.Error("status does not say that it is off")
	}
	if p, ok := site.Mesh(t.Context(), "home-1"); !ok || !p.Off {
		t.Errorf("the page does not say so: %+v", p)
	}
	if err := site.SwitchMesh(t.Context(), "home-1", true); err != nil {
		t.Fatal(err)
	}
	st.until(patience, "cover leaves again", func() bool { return n.Onion.Stats().LoopsSent > 0 })
	st.stop("home-1")
	if p, ok := site.Mesh(t.Context(), "home-1"); !ok || !p.Offline || len(p.Peers) > 0 {
		t.Errorf("stopped: %+v", p)
	}
	if err := site.SwitchMesh(t.Context(), "home-1", false); err == nil {
		t.Error("a stopped node was switched")
	}
	st.start("home-1")
	wantNoNames(t, st.Scene, st.log.text())
}
