package packet

import (
	"bytes"
	"testing"
	"time"
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

func FuzzOpenAnswer(f *testing.F) {
	key, id := AnswerKey{1}, [16]byte{2}
	sealed, err := key.SealAnswer(id, []byte("done"), seeded(73))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(id[:], sealed)
	f.Add(id[:], sealed[:answerOverhead])
	f.Fuzz(func(t *testing.T, asked, raw []byte) {
		var other [16]byte
		copy(other[:], asked)
		if _, err := key.OpenAnswer(other, raw); (err == nil) != (other == id && bytes.Equal(raw, sealed)) {
			t.Errorf("opened: %t, changed: %t", err == nil, !bytes.Equal(raw, sealed))
		}
	})
}

func FuzzReplyKeysOpen(f *testing.F) {
	rnd := seeded(74)
	own, err := NewKey(1, rnd)
	if err != nil {
		f.Fatal(err)
	}
	block, keys, err := NewReplyBlock([]Hop{{Node: NodeKey{1}, KeyID: 1, Key: own.Public}}, ReplyID{5}, rnd)
	if err != nil {
		f.Fatal(err)
	}
	var came Packet
	if err := block.Use(&came, make([]byte, UserSize)); err != nil {
		f.Fatal(err)
	}
	if r, err := Unwrap(&came, own, memory{}); err != nil || r.Flag != FlagReply {
		f.Fatalf("unwrap: %+v, %v", r, err)
	}
	f.Add(uint16(0), []byte{})
	f.Add(uint16(500), []byte{1, 2, 3})
	f.Add(uint16(Size-1), []byte{0})
	f.Fuzz(func(t *testing.T, at uint16, foreign []byte) {
		p := came
		copy(p[int(at)%Size:], foreign)
		same := *p.payload() == *came.payload()
		if _, err := keys.Open(&p); (err == nil) != same {
			t.Errorf("opened: %t, unchanged: %t", err == nil, same)
		}
	})
}

// FuzzAssembler makes user bytes out of five bytes each: message, index, count, kind, and the length in 7-byte steps.
func FuzzAssembler(f *testing.F) {
	f.Add([]byte{1, 0, 2, 1, 255, 1, 1, 2, 1, 9})
	f.Add([]byte{1, 1, 2, 1, 9, 1, 0, 2, 2, 255, 1, 0, 2, 1, 255})
	f.Add([]byte{1, 0, 1, 3, 1, 2, 0, 0, 1, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		var a Assembler
		now := time.Unix(1_700_000_000, 0)
		for ; len(script) >= 5; script = script[5:] {
			user := make([]byte, UserSize)
			user[0], user[8], user[9], user[12] = script[0], script[1], script[2], script[3]
			size := min(int(script[4])*7, FragmentSize)
			user[10], user[11] = byte(size>>8), byte(size)
			w, err := a.Add(user, now)
			if err != nil && w != nil || len(a.partial) > MaxPartial {
				t.Fatalf("%v with %d unfinished messages", err, len(a.partial))
			}
			if w != nil && (len(w.Sealed) == 0 || Fragments(len(w.Sealed)) != int(script[2]) || w.ID != MessageID(user[:8]) || a.partial[w.ID] != nil) {
				t.Fatalf("a message of %d bytes in %d fragments", len(w.Sealed), script[2])
			}
			now = now.Add(time.Duration(script[4]) * time.Second)
		}
		if left := a.Expire(now.Add(PartialLife)); left > MaxPartial || len(a.partial) > 0 {
			t.Fatalf("%d messages outlive their time", len(a.partial))
		}
	})
}
