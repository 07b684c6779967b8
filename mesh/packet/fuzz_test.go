package packet

import (
	"bytes"
	"testing"
)

func FuzzUnwrapNeverAcceptsForeignBytes(f *testing.F) {
	rnd := seeded(70)
	key, err := NewKey(1, rnd)
	if err != nil {
		f.Fatal(err)
	}
	var p Packet
	hop := []Hop{{Node: NodeKey{1}, KeyID: 1, Key: key.Public}}
	if err := Build(&p, hop, FlagDeliver, make([]byte, UserSize), rnd); err != nil {
		f.Fatal(err)
	}
	original := p
	f.Add(p[:prefixSize+headerSize])
	f.Add([]byte{1, 1, 0, 1})
	f.Fuzz(func(t *testing.T, header []byte) {
		q := original
		copy(q[:prefixSize+headerSize], header)
		same := bytes.Equal(q[:prefixSize+headerSize], original[:prefixSize+headerSize])
		if _, err := Unwrap(&q, key, memory{}); err == nil != same {
			t.Errorf("accepted=%v, unchanged=%v", err == nil, same)
		}
	})
}

func FuzzRoutingIsBijective(f *testing.F) {
	good := Routing{Flag: FlagRelay, Next: NodeKey{1}, Delay: 1e9, keyID: 3}.encode()
	f.Add(good[:])
	last := Routing{Flag: FlagReply, Reply: ReplyID{4}}.encode()
	f.Add(last[:])
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) != routingSize {
			return
		}
		if r, err := decodeRouting(raw); err == nil && r.encode() != [routingSize]byte(raw) {
			t.Error("decodes to another encoding")
		}
	})
}

func FuzzFragmentIsBijective(f *testing.F) {
	pieces, err := Split(MessageID{1}, MessageReply, make([]byte, FragmentSize+5))
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range pieces {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		frag, err := ParseFragment(raw)
		if err != nil {
			return
		}
		if again, err := frag.Encode(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("encodes to other bytes (%v)", err)
		}
	})
}

func FuzzRequestIsBijective(f *testing.F) {
	rnd := seeded(71)
	for _, n := range []int{0, 1, 3} {
		b, err := sampleRequest(rnd, n, 10*n).encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := parseRequest(raw)
		if err != nil {
			return
		}
		if again, err := r.encode(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("encodes to other bytes (%v)", err)
		}
	})
}

func FuzzOpenRequest(f *testing.F) {
	rnd := seeded(72)
	key := mustSealKey(f, rnd)
	sealed, _, err := SealRequest(key.Public(), sampleRequest(rnd, 0, 5), rnd)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, _, err := key.OpenRequest(raw); err == nil && !bytes.Equal(raw, sealed) {
			t.Error("opens what nobody sealed")
		}
	})
}
