package route

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/mix"
	"gridveil/mesh/packet"
)

func TestKeysRegistersAreChecked(t *testing.T) {
	good := Keys{Flags: FlagRelay, Epoch: 7, Keys: []mix.PublicKey{{ID: 1}, {ID: 2}}, Leaves: 15, LeafFrames: 300, Addresses: []string{"/ip4/192.0.2.1/tcp/4100"}}
	body, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseKeys(body)
	if err != nil || fmt.Sprint(again) != fmt.Sprint(good) {
		t.Fatalf("ParseKeys: %v, %v", again, err)
	}
	six := good
	six.Keys = nil
	for i := range MaxKeys {
		six.Keys = append(six.Keys, mix.PublicKey{ID: uint16(i)})
	}
	if body, err := six.Encode(); err != nil || len(body) > 294 {
		t.Errorf("a full register has %d bytes (%v); with its envelope it should be about 470", len(body), err)
	}
	for fact, change := range map[string]func(k *Keys){
		"no keys":               func(k *Keys) { k.Keys = nil },
		"seven keys":            func(k *Keys) { k.Keys = make([]mix.PublicKey, MaxKeys+1) },
		"one key id twice":      func(k *Keys) { k.Keys = []mix.PublicKey{{ID: 1}, {ID: 1}} },
		"an unknown flag":       func(k *Keys) { k.Flags = 8 },
		"an exact leaf number":  func(k *Keys) { k.Leaves = 16 },
		"an address of nothing": func(k *Keys) { k.Addresses = []string{""} },
		"seven addresses":       func(k *Keys) { k.Addresses = make([]string, MaxAddresses+1) },
	} {
		bad := good
		change(&bad)
		if _, err := bad.Encode(); !errors.Is(err, ErrKeys) {
			t.Errorf("%s: %v", fact, err)
		}
	}
	if FloorLeaves(19) != 15 || FloorLeaves(4) != 0 || FloorLeaves(1<<20) != 65535 {
		t.Error("FloorLeaves")
	}
}

func TestTheDirectoryForgetsWhatExpired(t *testing.T) {
	w := newTown()
	w.ssns(t, 3, "a")
	if err := w.dir.PutKeys(member.Member{Role: member.RoleGateway}, nil, start, start); !errors.Is(err, ErrKeys) {
		t.Errorf("a gateway enters the directory: %v", err)
	}
	later := start.Add(3 * time.Hour)
	s := w.dir.Snapshot(later)
	if len(s.Relays()) != 0 || !s.Fresh.IsZero() {
		t.Errorf("%d expired relays are offered", len(s.Relays()))
	}
	if n, known := s.Node(packet.NodeKey{1}); !known || n.SealKey == nil || n.Recipient() {
		t.Error("the seal key of a member goes with its onion keys")
	}
	w.dir.Sweep(start.Add(25 * time.Hour))
	if len(w.dir.nodes) != 0 {
		t.Errorf("%d members stay for ever", len(w.dir.nodes))
	}
}

func TestTheDirectoryForgetsWhoseCertificateEnded(t *testing.T) {
	w := newTown()
	w.node(t, 1, member.RoleSSN, "a", FlagRelay|FlagRecipient, 20, 1000)
	old, next := member.Member{Key: member.Key{2}, Role: member.RoleSSN, CertHash: [32]byte{1}, NotAfter: start.Add(time.Hour)},
		member.Member{Key: member.Key{2}, Role: member.RoleSSN, CertHash: [32]byte{2}, NotAfter: start.Add(2 * time.Hour)}
	k := Keys{Flags: FlagRelay, Epoch: mix.EpochAt(start, epoch), Keys: []mix.PublicKey{{ID: 1}}}
	body, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	put := func(signer member.Member) {
		t.Helper()
		if err := w.dir.PutKeys(signer, body, start, start.Add(2*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	end := map[[32]byte]error{}
	prune := func() []packet.NodeKey { return w.dir.Prune(func(cert [32]byte) error { return end[cert] }) }
	put(old)
	if gone := prune(); len(gone) != 0 || len(w.dir.Snapshot(start).Relays()) != 2 {
		t.Errorf("%d members are gone without reason", len(gone))
	}
	put(next)
	if err := w.dir.PutSeal(old, make([]byte, packet.SealKeySize), start.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	end[old.CertHash] = member.ErrExpired
	prune()
	if n, known := w.dir.Snapshot(start).Node(packet.NodeKey{2}); !known || !n.Relay() || n.SealKey != nil || n.Member.CertHash != next.CertHash {
		t.Error("a renewed member lost what its new certificate signed, or kept what the old one did")
	}
	end[next.CertHash] = member.ErrRevoked
	if gone := prune(); len(gone) != 1 || gone[0] != (packet.NodeKey{2}) {
		t.Errorf("revoked: %x", gone)
	}
	if _, known := w.dir.Snapshot(start).Node(packet.NodeKey{2}); known {
		t.Error("a revoked member is still there")
	}
	if len(w.dir.Snapshot(start).Relays()) != 1 {
		t.Error("another member went with it")
	}
}

func FuzzKeysAreBijective(f *testing.F) {
	k := Keys{Flags: 3, Epoch: 7, Keys: []mix.PublicKey{{ID: 1}}, Leaves: 15, Addresses: []string{"/dns4/x/tcp/1"}}
	body, err := k.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, raw []byte) {
		k, err := ParseKeys(raw)
		if err != nil {
			return
		}
		if again, err := k.Encode(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("encodes to other bytes (%v)", err)
		}
	})
}
