package demo

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/node/gateway"
	"gridveil/node/site"
	"gridveil/node/web"
)

// heard is what everybody but the homes is told of a day: every register that any node
// accepts from the mesh, and what the nodes that are no homes answer and count. Beside
// it stands what must not be in it.
type heard struct {
	mu        sync.Mutex
	registers view
	known     map[[32]byte]bool // that stand in registers
	ofHomes   int               // registers that a home published
	others    int
	answers   view // pages, JSON, CSV and metrics of other roles
	own       view // what the homes answer themselves, to their own people
	metrics   view // of every node, the homes too
	secrets   map[string][]byte
}

// hear begins to listen to every node of s.
func hear(s *Scene) *heard {
	h := &heard{secrets: map[string][]byte{}, known: map[[32]byte]bool{}}
	for _, m := range s.Members {
		n := m.Node()
		if n == nil {
			continue
		}
		for _, k := range gossip.Kinds() {
			n.Host.Follow(k, nil, func(e mesh.Envelope) {
				h.mu.Lock()
				defer h.mu.Unlock()
				if h.others++; n.Host.Self().Role == member.RoleGateway && e.Publisher == n.Host.Self().Key {
					h.ofHomes++
				}
				raw := e.Encode()
				if sum := sha256.Sum256(raw); !h.known[sum] { // everybody hears the same
					h.known[sum] = true
					h.registers.add(raw)
					h.registers.add(e.Body)
				}
			})
		}
	}
	return h
}

// notice remembers charge, level and true load of every masked home as they are now.
func (h *heard) notice(s *Scene) {
	for _, m := range s.Of(member.RoleGateway) {
		n := m.Node()
		if n == nil {
			continue
		}
		g := n.Role.(*gateway.Gateway)
		b, ok := g.BatteryStatus()
		if !ok {
			continue
		}
		if own, err := json.Marshal(b); err == nil { // as `gridveil battery status --json` answers
			h.own.add(own)
		}
		now := s.Clock.Now().Format("15:04")
		h.secret(fmt.Sprintf("charge of %s at %s", m.Name, now), b.Stored)
		h.secret(fmt.Sprintf("level of %s at %s", m.Name, now), b.Level)
		h.secret(fmt.Sprintf("true load of %s until %s", m.Name, now), b.Report.LoadWh)
	}
}

// secret keeps a value in the forms in which it could stand somewhere: as JSON writes
// it, as a page rounds it to a thousandth, and as eight bytes. Short numbers are
// somebody else's too.
func (h *heard) secret(what string, v float64) {
	text := strconv.FormatFloat(v, 'g', -1, 64)
	if len(text) < 10 {
		return
	}
	bits := math.Float64bits(v)
	h.secrets[what] = []byte(text)
	h.secrets[what+", bytes"] = binary.BigEndian.AppendUint64(nil, bits)
	h.secrets[what+", bytes backwards"] = binary.LittleEndian.AppendUint64(nil, bits)
	if text = strconv.FormatFloat(v, 'f', 5, 64); len(text) >= 10 {
		h.secrets[what+", rounded"] = []byte(text)
	}
}

// ask reads everything that the nodes' own dashboards answer.
func (h *heard) ask(t *testing.T, s *Scene) {
	t.Helper()
	for _, m := range s.Members {
		n := m.Node()
		if n == nil {
			continue
		}
		pages, ok := site.For(n.Env, n.Role)
		if !ok {
			t.Errorf("%s has no pages", m.Name)
			continue
		}
		into := &h.answers
		if m.Role == member.RoleGateway {
			into = &h.own
		}
		srv := quietServer(t, pages)
		for _, path := range ownPages {
			for _, format := range []string{"", "?format=json", "?format=csv"} {
				into.add(answer(srv, path+format))
			}
		}
		h.metrics.add(answer(srv, "/metrics"))
		for name, text := range pages.Live(context.Background()) {
			into.add([]byte(name + "=" + text))
		}
	}
}

// ownPages are those that the sites of all roles have between them.
var ownPages = []string{"/", "/energy", "/sessions", "/guests", "/ledger", "/ledger/0", "/money", "/disputes", "/alarms", "/privacy", "/mesh", "/party/self"}

func quietServer(t *testing.T, pages web.Site) http.Handler {
	t.Helper()
	h, err := web.New(pages, nil)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func answer(h http.Handler, path string) []byte {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+path, nil)
	h.ServeHTTP(w, r)
	return w.Body.Bytes()
}

// found lists the secrets that stand in v.
func (h *heard) found(v *view) (out []string) {
	for what, value := range h.secrets {
		if v.holds(value) {
			out = append(out, what)
		}
	}
	return out
}

// wantNothing fails for each secret that anybody was told, and shows that it would.
func (h *heard) wantNothing(t *testing.T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.secrets) < 200 || h.others == 0 || h.answers.raw.Len() < 10_000 || h.metrics.raw.Len() < 10_000 {
		t.Fatalf("the search is blind: %d secrets, %d registers, %d bytes of answers, %d of metrics", len(h.secrets), h.others, h.answers.raw.Len(), h.metrics.raw.Len())
	}
	t.Logf("%d secrets; %d registers heard, %d of homes; %d kB of answers, %d kB of metrics", len(h.secrets), h.others, h.ofHomes, h.answers.raw.Len()>>10, h.metrics.raw.Len()>>10)
	for where, v := range map[string]*view{"registers": &h.registers, "answers of other roles": &h.answers, "metrics": &h.metrics} {
		for _, what := range h.found(v) {
			t.Errorf("the %s hold the %s", where, what)
		}
	}
	if len(h.found(&h.own)) == 0 {
		t.Error("not even the homes themselves answer what stays there: the search is blind")
	}
	var what string
	for what = range h.secrets {
		break
	}
	var leaky gossip.Envelope // a planted leak, as a home could publish one
	leaky.Body = append([]byte("a sheet of keys "), h.secrets[what]...)
	h.registers.add(leaky.Encode())
	if len(h.found(&h.registers)) == 0 {
		t.Errorf("a register that holds the %s is not found", what)
	}
	h.answers.add([]byte(`{"next":"` + string(h.secrets[what]) + `"}`))
	if len(h.found(&h.answers)) == 0 {
		t.Errorf("an answer that holds the %s is not found", what)
	}
}

// during lets act happen and notices meanwhile what stays at home.
func (h *heard) during(ctx context.Context, s *Scene, act func(context.Context) error) error {
	done := make(chan error, 1)
	go func() { done <- act(ctx) }() // awaited here
	for at := s.Clock.Now(); ; {
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Millisecond):
		}
		if now := s.Clock.Now(); now.Sub(at) >= time.Hour {
			h.notice(s)
			at = now
		}
	}
}
