package onion_test

import (
	"bytes"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/mesh/onion"
)

// lines collects log output of several nodes.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func TestLogsAndErrorsNameNobody(t *testing.T) {
	var out lines
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n, agg := lab(t, 2, meshtest.Options{
		Config:  func(_ *meshtest.Node, c *mesh.Config) { c.Log = log },
		OnionOf: func(_ *meshtest.Node, c *onion.Config) { c.Log = log },
	})
	home, ssn := n.Homes[0], n.SSNs[0]
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	_, err := home.Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.EVRecord, []byte("fail"))
	note(err)
	_, err = home.Host.Call(t.Context(), n.Homes[1].Member.Peer, mesh.Probe, nil)
	note(err)
	ssn.Stop()
	_, err = home.Host.Call(t.Context(), ssn.Member.Peer, mesh.Probe, nil)
	note(err)
	_, err = home.Host.Stream(t.Context(), ssn.Member.Peer, "/gridveil/onion/1")
	note(err)
	stranger := meshtest.Found(t, meshtest.Options{SSNs: 1, Config: func(_ *meshtest.Node, c *mesh.Config) {
		c.Log, c.Parents = log, n.Parents(n.SSNs[1].Member)
	}}).Add(member.RoleGateway, "z1")
	meshtest.Eventually(t, "the stranger is refused", func() bool {
		_, err = stranger.Host.Call(t.Context(), n.SSNs[1].Member.Peer, mesh.Probe, nil)
		return errors.Is(err, mesh.ErrNotMember) || stranger.Host.Metrics().Drops[mesh.DropHello] > 0
	})
	note(err)
	text := errors.Join(errs...).Error()
	out.mu.Lock()
	text += out.b.String()
	out.mu.Unlock()
	for _, secret := range []string{"12D3Koo", "127.0.0.1", "/ip4/", "z1"} {
		if i := strings.Index(text, secret); i >= 0 {
			t.Errorf("%q stands in a log or error: ...%s...", secret, text[max(0, i-80):min(len(text), i+80)])
		}
	}
}

func TestAStoppedNetworkLeavesNoGoroutines(t *testing.T) {
	before := runtime.NumGoroutine()
	n, agg := lab(t, 2, meshtest.Options{})
	if _, err := n.Homes[0].Onion.Call(t.Context(), agg.Member.Key, mesh.Lab, mesh.EVRecord, nil); err != nil {
		t.Fatal(err)
	}
	for _, d := range append(append(n.Homes, n.SSNs...), n.Others...) {
		d.Stop()
	}
	var left int
	meshtest.Eventually(t, "goroutines end", func() bool {
		left = runtime.NumGoroutine() - before
		return left <= 0
	})
}
