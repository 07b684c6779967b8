package report

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"

	"gridveil/node/model"
)

var update = flag.Bool("update", false, "rewrite the vectors; say in the commit why bytes changed")

func FuzzReport(f *testing.F) {
	h, raw := vectorReport(f)
	f.Add(append(h.Encode(), raw...))
	f.Fuzz(func(t *testing.T, in []byte) {
		if m, err := DecodeMessage(in); err == nil && !bytes.Equal(m.Encode(), in) {
			t.Error("message is not bijective")
		}
		if len(in) < HeaderSize {
			return
		}
		h, err := DecodeHeader(in[:HeaderSize])
		if err != nil {
			return
		}
		if !bytes.Equal(h.Encode(), in[:HeaderSize]) {
			t.Error("header is not bijective")
		}
		b, err := DecodeBody(h, in[HeaderSize:])
		if err != nil {
			return
		}
		again, err := b.Encode(h.Slots)
		if err != nil || !bytes.Equal(again, in[HeaderSize:]) {
			t.Errorf("body is not bijective: %v", err)
		}
	})
}

func FuzzReply(f *testing.F) {
	_, key := testKeys(1)
	f.Add(Head{Seq: 1}.AckFor(ClassEnergy, model.SourceID{}, LevelHeld, 5, key).Encode())
	f.Add(RefusalFor(Header{Class: ClassEnergy, Seq: 3}, Busy, 0, 9, 5, key).Encode())
	f.Fuzz(func(t *testing.T, in []byte) {
		if r, err := DecodeReply(in); err == nil && !bytes.Equal(r.Encode(), in) {
			t.Error("reply is not bijective")
		}
	})
}

// vectorReport is the fixed report of testdata/vectors/report.txt.
func vectorReport(tb testing.TB) (Header, []byte) {
	tb.Helper()
	pub, key := testKeys(1)
	all := []Series{series(1, 4, nil), series(4, 4, func(r *model.Reading) {
		if r.Slot == 900_000 {
			r.Status, r.Flags, r.PQ = model.StatusLate, 1<<2, 3
		}
	})}
	all[1].Readings = all[1].Readings[:6] // three of four slots: a bitmap
	drafts, err := Build(bytes.NewReader(bytes.Repeat([]byte{0x5a}, 64)), profile, roster(2), window(4), all)
	if err != nil || len(drafts) != 1 {
		tb.Fatalf("Build: %v", err)
	}
	h, raw, err := drafts[0].header(SourceOf(pub))
	if err != nil {
		tb.Fatal(err)
	}
	h.Seq = 1
	h.Sign(key)
	return h, raw
}

func TestVectors(t *testing.T) {
	h, raw := vectorReport(t)
	_, key := testKeys(2)
	lines := []string{
		"# report of two meters, four slots; seed of the signing key 01 x 32, salt 5a x 32",
		"header: " + hex.EncodeToString(h.Encode()),
		"body: " + hex.EncodeToString(raw),
		"# final acknowledgement by the key 02 x 32",
		"ack: " + hex.EncodeToString(Head{}.Advance(h).AckFor(h.Class, h.Source, LevelFinal, 1_700_000_000_000, key).Encode()),
		"# refusal: resend from 1",
		"refusal: " + hex.EncodeToString(RefusalFor(h, FromSeq, 1, 0, 1_700_000_000_000, key).Encode()),
		"expect: header verifies, body decodes to 2 meters, 4 and 3 rows",
	}
	got := strings.Join(lines, "\n") + "\n"
	const path = "testdata/vectors/report.txt"
	if *update {
		os.MkdirAll("testdata/vectors", 0o755)
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != got {
		t.Errorf("bytes of a signed format changed (%v): got\n%s", err, got)
	}
	b, err := DecodeBody(h, raw)
	if err != nil || len(b.Meters) != 2 || len(b.Meters[0].Rows) != 4 || len(b.Meters[1].Rows) != 3 {
		t.Errorf("vector body: %+v, %v", b, err)
	}
	if err := CheckBody(h, b); err != nil {
		t.Error(err)
	}
}

func BenchmarkSeal(b *testing.B) {
	h, raw := vectorReport(b)
	day, _ := NewDayKey(nil, 0)
	for b.Loop() {
		if _, err := Seal(rand.Reader, h, raw, 0, day.Pub); err != nil {
			b.Fatal(err)
		}
	}
}
