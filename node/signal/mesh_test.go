package signal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	grid "gridveil/ev/signal"
	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/node/store"
)

// home collects what the mesh hands to a house, and keeps the bytes for a replay.
type home struct {
	mu  sync.Mutex
	got []gossip.Envelope
}

func (h *home) take(e gossip.Envelope) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.got = append(h.got, e)
}

func (h *home) of(k gossip.Kind) (out []gossip.Envelope) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.got {
		if e.Kind == k {
			out = append(out, e)
		}
	}
	return out
}

func TestSignalsThroughARealMesh(t *testing.T) {
	h := &home{}
	n := meshtest.Start(t, meshtest.Options{SSNs: 2, Homes: 1, Others: []member.Role{member.RoleUtility, member.RoleAggregator}, Ready: func(d *meshtest.Node) error {
		Guard(d.Host)
		if d.Member.Role == member.RoleGateway {
			for _, k := range kinds {
				d.Host.Follow(k, nil, h.take)
			}
		}
		return nil
	}})
	st := openStore(t, t.TempDir(), store.MasterKey{1})
	b, err := OpenBook(Config{Store: st, Rand: rand.Reader, Zone: "z1", Operator: meshtest.Market, Hi: 5_000_000})
	if err != nil {
		t.Fatal(err)
	}
	k := SessionKey([32]byte{7}, [32]byte{1})
	expect(t, b, k, nil)
	now := n.Clock.Now().Truncate(time.Hour)
	utility, pool, ssns, gateway := n.Others[0].Host, n.Others[1].Host, n.SSNs, n.Homes[0]

	price, _ := prices(now, 320_000, 320_000, 320_000).Encode()
	dear, _ := prices(now, 9_000_000).Encode()
	state, _ := (&grid.NetState{Zone: ZoneNumber("z1"), From: now.UnixMilli(), To: now.Add(time.Hour).UnixMilli(), ImportMaxW: 6_000}).Encode()
	for _, c := range []struct {
		name string
		from *mesh.Host
		kind gossip.Kind
		key  uint64
		body []byte
		ok   bool
	}{
		{"a utility's price", utility, gossip.KindPrice, PriceKey("z1", Flat, false), price, true},
		{"a substation's price", ssns[0].Host, gossip.KindPrice, PriceKey("z1", Flat, false), price, false},
		{"a price of nine euros", utility, gossip.KindPrice, PriceKey("z1", DayNight, false), dear, false},
		{"a substation's state", ssns[0].Host, gossip.KindNetState, NetStateKey("z1"), state, true},
		{"the state of a zone by another zone's substation", ssns[1].Host, gossip.KindNetState, NetStateKey("z1"), state, false},
		{"an aggregator's state", pool, gossip.KindNetState, NetStateKey("z1"), state, false},
		{"a substation's control", ssns[0].Host, gossip.KindControl, k.Tag(0), make([]byte, SealedSize), false},
		{"a control of odd size", pool, gossip.KindControl, k.Tag(0), make([]byte, 255), false},
	} {
		err := c.from.Publish(c.kind, c.key, c.body, n.Clock.Now().Add(ControlLife))
		if c.ok && err != nil || !c.ok && !errors.Is(err, gossip.ErrRefused) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	pst := openStore(t, t.TempDir(), store.MasterKey{2})
	sender := &Sender{Host: pool, Store: pst, Rand: rand.Reader}
	if err := sender.Send(k, level(n.Clock.Now(), 5_000), n.Clock.Now()); err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		meshtest.Eventually(t, "the home has a "+kind.String(), func() bool { return len(h.of(kind)) > 0 })
	}
	c := h.of(gossip.KindControl)[0]
	if v, mine, err := b.Control(c, sure, n.Clock.Now()); !mine || !v.OK() || err != nil {
		t.Errorf("control: %v %v %v", v.Reason, mine, err)
	}
	for _, kind := range kinds[:2] {
		e := h.of(kind)[0]
		from, err := gateway.Host.Publisher(e)
		if err != nil {
			t.Fatal(err)
		}
		if v, mine, err := b.Take(e, from, sure, n.Clock.Now()); !mine || !v.OK() || err != nil {
			t.Errorf("%v: %v %v %v", kind, v.Reason, mine, err)
		}
	}

	gateway.Restart()
	old := c.Encode()
	if taken, err := gateway.Host.Prime(append(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 0, 0}, uint32(len(old))), old...)); taken > 0 {
		t.Errorf("a control replayed after a restart was taken: %d, %v", taken, err)
	}
	if _, mine, _ := b.Control(c, sure, n.Clock.Now()); mine {
		t.Error("a control replayed past the mesh was followed")
	}
}
