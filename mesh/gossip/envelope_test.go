package gossip

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata/vectors; say in the commit why bytes changed")

func TestNamesAreStable(t *testing.T) {
	if got := KindControl.Topic([8]byte{0xab}); got != "/gridveil/ab00000000000000/control" {
		t.Errorf("topic %s", got)
	}
	if Kind(0).Valid() || Kind(8).Valid() || Kind(9).String() != "kind(9)" {
		t.Error("kinds are 1 to 7")
	}
	if ZoneKey("north", 1) == ZoneKey("south", 1) || ZoneKey("north", 1)+1 != ZoneKey("north", 2) {
		t.Error("zone keys")
	}
	e := Envelope{Key: ZoneKey("north", 7)}
	if !e.InZone("north") || e.InZone("south") {
		t.Error("InZone")
	}
	if KindDirectory.MaxLife(KeySeal) <= KindDirectory.MaxLife(KeyOnion) {
		t.Error("seal keys live longer than onion keys")
	}
}

func TestEnvelopeVector(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	e := Envelope{Kind: KindPrice, Network: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, Key: 0x1122334455667788, Version: 9, Issued: begin,
		Expires: begin.Add(time.Hour), CertHash: [32]byte{0xcc}, Body: []byte("a price")}
	if err := e.Sign(key); err != nil {
		t.Fatal(err)
	}
	id := e.ID()
	got := fmt.Sprintf("seed: %x\nenvelope: %x\nid: %x\nmessage id: %x\n", bytes.Repeat([]byte{7}, 32), e.Encode(), id, MessageID(e.Encode()))
	path := filepath.Join("testdata", "vectors", "envelope.txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if again, err := ParseEnvelope(e.Encode()); err != nil || fmt.Sprint(again) != fmt.Sprint(e) || !again.Verify() {
		t.Errorf("ParseEnvelope: %v", err)
	}
}

func FuzzParseEnvelope(f *testing.F) {
	e := Envelope{Kind: KindPrice, Issued: begin, Expires: begin, Body: []byte("x")}
	if err := e.Sign(ed25519.NewKeyFromSeed(make([]byte, 32))); err != nil {
		f.Fatal(err)
	}
	f.Add(e.Encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		if e, err := ParseEnvelope(raw); err == nil && !bytes.Equal(e.Encode(), raw) {
			t.Error("encodes to other bytes")
		}
	})
}

func FuzzParseEvidence(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	a := Envelope{Kind: KindPrice, Issued: begin, Expires: begin, Body: []byte("x")}
	b := Envelope{Kind: KindPrice, Issued: begin, Expires: begin, Body: []byte("y")}
	raw, err := evidence(key, &a, &b)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, b, err := ParseEvidence(raw)
		if err != nil {
			return
		}
		if again, err := EncodeEvidence(&a, &b); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("encodes to other bytes (%v)", err)
		}
	})
}

func evidence(key ed25519.PrivateKey, a, b *Envelope) ([]byte, error) {
	if err := errors.Join(a.Sign(key), b.Sign(key)); err != nil {
		return nil, err
	}
	return EncodeEvidence(a, b)
}

func FuzzParseDigest(f *testing.F) {
	f.Add(EncodeDigest([]Have{{KindPrice, ID{1}, 2}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if d, err := ParseDigest(raw); err == nil && !bytes.Equal(EncodeDigest(d), raw) {
			t.Error("encodes to other bytes")
		}
	})
}
