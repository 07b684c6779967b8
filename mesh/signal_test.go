package mesh_test

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

// inbox collects what a node accepts of one kind.
type inbox struct {
	mu  sync.Mutex
	got []mesh.Envelope
	at  []time.Time
}

func (b *inbox) take(e mesh.Envelope) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got, b.at = append(b.got, e), append(b.at, time.Now())
}

func (b *inbox) has(body string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.got, func(e mesh.Envelope) bool { return string(e.Body) == body })
}

func (b *inbox) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.got)
}

// following starts a network in which every node collects a kind, keyed by node.
func following(t *testing.T, kind mesh.Kind, o meshtest.Options) (*meshtest.Network, func(*meshtest.Node) *inbox) {
	t.Helper()
	var mu sync.Mutex
	boxes := map[*meshtest.Node]*inbox{}
	of := func(d *meshtest.Node) *inbox {
		mu.Lock()
		defer mu.Unlock()
		if boxes[d] == nil {
			boxes[d] = &inbox{}
		}
		return boxes[d]
	}
	o.Ready = func(d *meshtest.Node) error {
		d.Host.Follow(kind, nil, of(d).take)
		return nil
	}
	return meshtest.Start(t, o), of
}

func TestAPriceReachesEveryBackboneMemberAndTheHomesOfItsZone(t *testing.T) {
	n, box := following(t, gossip.KindPrice, meshtest.Options{SSNs: 2, Homes: 4, Others: []member.Role{member.RoleUtility, member.RoleAggregator}})
	utility := n.Others[0].Host
	until := n.Clock.Now().Add(24 * time.Hour)
	if err := utility.Publish(gossip.KindPrice, gossip.ZoneKey("z1", 1), []byte("cheap at night"), until); err != nil {
		t.Fatal(err)
	}
	for _, d := range slices.Concat(n.SSNs, n.Others, []*meshtest.Node{n.Homes[0], n.Homes[2]}) {
		meshtest.Eventually(t, d.Member.Role.String()+" has the price", func() bool { return box(d).has("cheap at night") })
	}
	for _, d := range []*meshtest.Node{n.Homes[1], n.Homes[3]} {
		if box(d).len() > 0 {
			t.Error("a home of another zone was told")
		}
	}
	late := n.Add(member.RoleGateway, "z1")
	meshtest.Eventually(t, "a home that comes later has the price", func() bool { return box(late).has("cheap at night") })
	if d := box(n.Homes[0]).got[0]; d.Publisher != n.Others[0].Member.Key {
		t.Error("the publisher is not the utility")
	}
}

func TestWhoMayNotPublishIsRefusedWithAReason(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1, Others: []member.Role{member.RoleUtility}})
	until := n.Clock.Now().Add(time.Hour)
	if err := n.Homes[0].Host.Publish(gossip.KindPrice, 1, nil, until); !errors.Is(err, mesh.ErrNotAllowed) {
		t.Errorf("a home publishes: got %v, want ErrNotAllowed", err)
	}
	cases := []struct {
		name string
		from *meshtest.Node
		kind mesh.Kind
		key  uint64
		till time.Time
	}{
		{"a substation sets a price", n.SSNs[0], gossip.KindPrice, gossip.ZoneKey("z1", 1), until},
		{"a utility prices an unknown zone", n.Others[0], gossip.KindPrice, gossip.ZoneKey("z9", 1), until},
		{"a price for longer than two days", n.Others[0], gossip.KindPrice, gossip.ZoneKey("z1", 1), n.Clock.Now().Add(50 * time.Hour)},
		{"a price that has expired", n.Others[0], gossip.KindPrice, gossip.ZoneKey("z1", 1), n.Clock.Now().Add(-time.Hour)},
	}
	for _, c := range cases {
		if err := c.from.Host.Publish(c.kind, c.key, []byte("x"), c.till); !errors.Is(err, gossip.ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", c.name, err)
		}
	}
	err := errors.New("")
	for i := 0; i < 20 && !errors.Is(err, gossip.ErrRefused); i++ {
		err = n.Others[0].Host.Publish(gossip.KindPrice, gossip.ZoneKey("z1", uint32(i)), []byte("x"), until)
	}
	if !errors.Is(err, gossip.ErrRefused) {
		t.Error("twenty prices in one go were all accepted, want four a minute")
	}
}

func TestTwoContentsUnderOneVersionBecomePublicEvidence(t *testing.T) {
	n, box := following(t, gossip.KindAlarm, meshtest.Options{SSNs: 2, Homes: 1, Others: []member.Role{member.RoleUtility}})
	liar := n.Others[0]
	raw, err := liar.Key.Raw()
	if err != nil {
		t.Fatal(err)
	}
	// Prime injects registers as a neighbour could.
	inject := func(d *meshtest.Node, body string) {
		e := mesh.Envelope{Kind: gossip.KindPrice, Network: n.Bundle.Tag(), Key: gossip.ZoneKey("z1", 1), Version: 7, Issued: n.Clock.Now(),
			Expires: n.Clock.Now().Add(time.Hour), CertHash: liar.Member.CertHash, Body: []byte(body)}
		if err := e.Sign(ed25519.PrivateKey(raw)); err != nil {
			t.Fatal(err)
		}
		env := e.Encode()
		snapshot := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 0, 0}, uint32(len(env)))
		if _, err := d.Host.Prime(append(snapshot, env...)); err != nil {
			t.Fatal(err)
		}
	}
	inject(n.SSNs[0], "dear")
	inject(n.SSNs[1], "cheap")
	inject(n.SSNs[0], "cheap")
	for _, d := range []*meshtest.Node{n.SSNs[0], n.SSNs[1], n.Homes[0]} {
		meshtest.Eventually(t, d.Member.Role.String()+" has the evidence", func() bool { return box(d).len() > 0 })
		a, b, err := gossip.ParseEvidence(box(d).got[0].Body)
		if err != nil || a.Publisher != liar.Member.Key || b.Publisher != liar.Member.Key {
			t.Errorf("evidence does not name the liar: %v", err)
		}
	}
}

func TestVersionsSurviveARestart(t *testing.T) {
	n, box := following(t, gossip.KindPrice, meshtest.Options{SSNs: 1, Others: []member.Role{member.RoleUtility}})
	key, until := gossip.ZoneKey("z1", 1), n.Clock.Now().Add(10*time.Hour)
	if err := n.Others[0].Host.Publish(gossip.KindPrice, key, []byte("new"), until); err != nil {
		t.Fatal(err)
	}
	meshtest.Eventually(t, "the substation has the price", func() bool { return box(n.SSNs[0]).has("new") })
	n.Others[0].Stop()
	n.SSNs[0].Restart()
	held := n.SSNs[0].Host.Registers(gossip.KindPrice)
	if len(held) != 1 || string(held[0].Body) != "new" {
		t.Fatalf("after the restart the substation holds %d prices", len(held))
	}
}

func TestAControlSignalReachesAHomeWithinASecond(t *testing.T) {
	n, box := following(t, gossip.KindControl, meshtest.Options{SSNs: 3, Homes: 3, Others: []member.Role{member.RoleAggregator}, Speed: 1})
	agg := n.Others[0].Host
	meshtest.Eventually(t, "gossip flows", func() bool {
		agg.Publish(gossip.KindControl, 1, []byte("first"), n.Clock.Now().Add(time.Minute))
		time.Sleep(100 * time.Millisecond)
		return box(n.Homes[0]).len() > 0 && box(n.Homes[1]).len() > 0 && box(n.Homes[2]).len() > 0
	})
	time.Sleep(4 * gossip.Heartbeat)          // at the start, gossip loses what is published before its mesh stands
	signals, pace := 100, 20*time.Millisecond // five times what one publisher may send for long
	if *mesh.Long {
		signals, pace = 1000, 100*time.Millisecond
	}
	sent := make(map[uint64]time.Time, signals)
	for i := range uint64(signals) {
		time.Sleep(pace)
		sent[1000+i] = time.Now()
		if err := agg.Publish(gossip.KindControl, 1000+i, make([]byte, 256), n.Clock.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range n.Homes {
		b := box(h)
		meshtest.Eventually(t, "all signals arrive", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			seen := 0
			for _, e := range b.got {
				if e.Key >= 1000 {
					seen++
				}
			}
			return seen == signals
		})
		var took []time.Duration
		b.mu.Lock()
		for i, e := range b.got {
			if e.Key >= 1000 {
				took = append(took, b.at[i].Sub(sent[e.Key]))
			}
		}
		b.mu.Unlock()
		slices.Sort(took)
		p99 := took[len(took)*99/100]
		t.Logf("aggregator to home: %d signals, median %v, P99 %v, slowest %v", len(took), took[len(took)/2], p99, took[len(took)-1])
		if p99 > time.Second {
			t.Errorf("P99 %v, want at most 1s", p99)
		}
	}
}
