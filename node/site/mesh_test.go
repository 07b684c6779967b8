package site

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/route"
	"gridveil/node/config"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/web"
)

func TestRefusalsSayWhatIsMissingAndWhatToDo(t *testing.T) {
	at := time.Date(2026, 6, 15, 8, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		fact         string
		st           route.Status
		reason, next string
	}{
		{"it may leave", route.Status{}, "", ""},
		{"switched off", route.Status{Err: mesh.ErrOff}, "switched off on this node", "gridveil mesh on"},
		{"too few homes", route.Status{Err: &route.SmallSetError{}, Homes: 12, MinHomes: 20, MinSet: 8}, "12 homes take part in this network; there must be 20.", "as soon as 8 more homes have joined"},
		{"one home is missing", route.Status{Err: &route.SmallSetError{}, Homes: 19, MinHomes: 20}, "19 homes take part", "as soon as 1 more home has joined"},
		{"a crowd that is thin", route.Status{Err: &route.SmallSetError{}, Homes: 30, MinHomes: 20, Set: 5.04, MinSet: 8}, "could come from 5.0 homes only; there must be 8", "more cover"},
		{"too few relays", route.Status{Err: &route.FewRelaysError{}, Relays: 2}, "needs 3 relays on its way; 2 known", "another substation"},
		{"no list yet", route.Status{Err: &route.StaleDirectoryError{}}, "not heard of any relay yet", "Internet connection"},
		{"an old list", route.Status{Err: &route.StaleDirectoryError{Since: at}}, "is of 15 Jun 08:00, and it may be at most 2 h old", "clock of this machine"},
		{"no class lab here", route.Status{Err: route.ErrLabClass}, "This network does not allow class lab.", ""},
	} {
		reason, next := Refusal(c.st)
		if !strings.Contains(reason, c.reason) || !strings.Contains(next, c.next) || (c.reason == "") != (reason == "") {
			t.Errorf("%s: %q %q, want %q %q", c.fact, reason, next, c.reason, c.next)
		}
	}
}

func TestOwnFloorsSayWhatTheyDo(t *testing.T) {
	for _, c := range []struct {
		fact         string
		own, network int
		want         string
	}{
		{"none set", 0, 8, ""},
		{"below the network's", 5, 8, "mesh.min_set = 5 changes nothing: the network asks for 8, and it only raises."},
		{"the network's", 8, 8, "mesh.min_set = 8 changes nothing: the network asks for 8, and it only raises."},
		{"above it", 9, 8, "mesh.min_set raises the network's floor of 8 to 9."},
	} {
		if got := OwnFloor("mesh.min_set", c.own, c.network); got != c.want {
			t.Errorf("%s: %q, want %q", c.fact, got, c.want)
		}
	}
}

// envOf is the environment of a node of a test network.
func envOf(t *testing.T, d *meshtest.Node) *role.Env {
	t.Helper()
	dir := t.TempDir()
	mk, err := store.LoadOrCreateKey(filepath.Join(dir, "store.key"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(filepath.Join(dir, "store"), mk, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return &role.Env{Config: &config.Config{Name: "number 9", Role: d.Member.Role.String()}, Clock: d.Net.Clock, Log: slog.New(slog.DiscardHandler), Warn: role.NewBoard(),
		Store: st, Host: d.Host, Onion: d.Onion}
}

// identities are what must not be in a metric or on the page of a neighbour.
func identities(n *meshtest.Network) (out []string) {
	for _, d := range slices.Concat(n.SSNs, n.Others, n.Homes) {
		out = append(out, hex.EncodeToString(d.Member.Key[:4]), d.Member.Peer.String())
	}
	return out
}

// lab starts three substations, an aggregator and two homes that exchange loops.
func lab(t *testing.T) *meshtest.Network {
	t.Helper()
	n := meshtest.Start(t, meshtest.Options{SSNs: 3, Homes: 2, Onion: true, Others: []member.Role{member.RoleAggregator}, Policy: member.Policy{Lab: true}})
	n.AwaitDirectory()
	meshtest.Eventually(t, "loops come back", func() bool { return n.Homes[0].Onion.Stats().LoopsReturned > 0 })
	return n
}

func TestMeshPageOfHomeAndSubstation(t *testing.T) {
	n := lab(t)
	home, ssn := envOf(t, n.Homes[0]), envOf(t, n.SSNs[0])
	site := common{home, nil}
	if err := home.Store.Update(func(tx *store.Tx) error {
		return home.Store.Outbox("settle").PutTx(tx, store.Message{ID: []byte("1"), At: meshtest.Epoch})
	}); err != nil {
		t.Fatal(err)
	}
	p, ok := site.Mesh(t.Context(), site.Members(t.Context())[0].ID)
	if !ok || !p.Leaf || p.Off || len(p.Peers) != 3 || len(p.Classes) != 1 || !p.Classes[0].Open || p.Packets.Cover == 0 || p.Packets.Relayed != 0 || p.Traffic.Cap == 0 || p.Traffic.Up == 0 {
		t.Errorf("%+v", p)
	}
	for _, peer := range p.Peers {
		if peer.Role != "substation" || !strings.HasPrefix(peer.Operator, "dso") || !peer.Dialled || peer.Since.Before(meshtest.Epoch) || peer.RoundTripMs < 0 {
			t.Errorf("%+v", peer)
		}
	}
	if len(p.Waiting) == 0 || p.Waiting[0].Count != 1 || !p.Waiting[0].Since.Equal(meshtest.Epoch) {
		t.Errorf("waiting: %+v", p.Waiting)
	}
	if p, _ := (common{ssn, nil}).Mesh(t.Context(), "self"); p.Leaf || len(p.Classes) != 0 || p.Packets.Relayed == 0 || p.Traffic.Cap != 0 || !slices.ContainsFunc(p.Peers, func(x web.Peer) bool { return x.Role == "home" && !x.Dialled }) {
		t.Errorf("substation: %+v", p)
	}
	raw, err := json.Marshal([]any{p, MeshPage(site.self(), ssn, nil)})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range identities(n) {
		if strings.Contains(string(raw), id) {
			t.Errorf("the page names %s", id)
		}
	}
	if _, ok := site.Mesh(t.Context(), "other"); ok {
		t.Error("a node shows another's page")
	}
}

func TestSwitchOfThePageHoldsAndIsTold(t *testing.T) {
	n := lab(t)
	d := n.Homes[0]
	site := common{envOf(t, d), nil}
	if err := site.SwitchMesh(t.Context(), "other", false); err == nil {
		t.Error("a node switched another")
	}
	if err := site.SwitchMesh(t.Context(), "self", false); err != nil {
		t.Fatal(err)
	}
	p, _ := site.Mesh(t.Context(), "self")
	if !p.Off || p.OffSince.IsZero() || p.Classes[0].Open || !strings.Contains(p.Headline, "switched off") {
		t.Errorf("%+v", p)
	}
	if w := Warnings(site.env); len(w) == 0 || w[0].Title != "Private messages are switched off" {
		t.Errorf("warnings: %+v", w)
	}
	d.Store.Fail(errors.New("disk full"))
	if err := site.SwitchMesh(t.Context(), "self", true); err == nil || !strings.Contains(err.Error(), "could not be stored") {
		t.Errorf("a full disk: %v", err)
	}
	d.Store.Fail(nil)
	if p, _ := site.Mesh(t.Context(), "self"); !p.Off {
		t.Error("on, but not durably")
	}
}

// word is what a label of a metric may be: fixed words of the program.
var word = regexp.MustCompile(`^[a-z_]+(:[a-z-]+)?$`)

func TestMetricsNameNobody(t *testing.T) {
	n := lab(t)
	labels := map[string]bool{"cause": true, "verdict": true, "lane": true, "direction": true}
	seen := map[string]bool{}
	for _, d := range slices.Concat(n.SSNs, n.Others, n.Homes) {
		families, err := Metrics(envOf(t, d)).Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			seen[f.GetName()] = true
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if !labels[l.GetName()] || !word.MatchString(l.GetValue()) {
						t.Errorf("%s{%s=%q}: no fixed word", f.GetName(), l.GetName(), l.GetValue())
					}
				}
			}
			for _, id := range append(identities(n), "dso1", "z1", "number 9") {
				if strings.Contains(f.String(), id) {
					t.Errorf("%s names %s", f.GetName(), id)
				}
			}
		}
	}
	for _, want := range []string{"set", "loops_lost_ratio", "hold_packets", "gossip_total", "rcmgr_blocked_total", "bytes_total"} {
		if !seen["gridveil_mesh_"+want] {
			t.Errorf("no gridveil_mesh_%s", want)
		}
	}
}

func TestThrownAwayPacketsAreCountedByCause(t *testing.T) {
	n := lab(t)
	home := n.Homes[0].Onion
	env := envOf(t, n.Homes[0])
	counted := func() bool {
		families, err := Metrics(env).Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "gridveil_mesh_drop_total" && m.GetLabel()[0].GetValue() == "onion_off" && m.GetCounter().GetValue() > 0 {
					return true
				}
			}
		}
		return false
	}
	// Loops that are under way when the switch is moved come back and are thrown away.
	// If none was, it is moved again.
	settled := uint64(0)
	meshtest.EventuallyWithin(t, time.Minute, "a drop is counted", func() bool {
		st := home.Stats()
		since, off := home.Off()
		switch {
		case off && n.Clock.Now().Sub(since) > 10*time.Minute:
			settled = st.LoopsSent - st.LoopsReturned
			must(t, home.Switch(true))
		case !off && st.LoopsSent-st.LoopsReturned >= settled+2:
			must(t, home.Switch(false))
		}
		return counted()
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
