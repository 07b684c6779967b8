package report

import (
	"bytes"
	"crypto/rand"
	"errors"
	"reflect"
	"testing"
)

// signedReport is a signed report of n meters, ordinals 1, 4, 7 and so on.
func signedReport(t testing.TB, n int) (Header, Body) {
	t.Helper()
	pub, key := testKeys(1)
	var all []Series
	for i := range n {
		all = append(all, series(uint32(i*3+1), 4, nil))
	}
	drafts, err := Build(rand.Reader, profile, roster(n), window(4), all)
	if err != nil {
		t.Fatal(err)
	}
	h, _, err := drafts[0].header(SourceOf(pub))
	if err != nil {
		t.Fatal(err)
	}
	h.Seq = 1
	h.Sign(key)
	return h, drafts[0].Body
}

// TestEvidenceShowsOneCustomerOnly: what is handed out of a meter says all of that
// meter, and holds neither bytes nor place nor salt of a neighbour.
func TestEvidenceShowsOneCustomerOnly(t *testing.T) {
	for _, n := range []int{1, 2, 7} {
		h, b := signedReport(t, n)
		_, segments, err := b.encode(h.Slots)
		if err != nil {
			t.Fatal(err)
		}
		leaves, err := b.leaves(h.Slots, false)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range b.Meters {
			e, err := Prove(h, b, m.Ordinal)
			if err != nil {
				t.Fatal(err)
			}
			raw := e.Encode()
			back, err := DecodeEvidence(raw)
			if err != nil || !reflect.DeepEqual(back.Header, h) || !bytes.Equal(back.Encode(), raw) {
				t.Fatalf("%d meters, meter %d: %v", n, m.Ordinal, err)
			}
			one, err := back.Body()
			if err != nil || !reflect.DeepEqual(one.Meters, []Meter{m}) || !reflect.DeepEqual(one.Columns, b.Columns) {
				t.Errorf("%d meters: evidence says %+v, %v; the report %+v", n, one, err, m)
			}
			if bytes.Contains(raw, b.Seed[:]) {
				t.Error("evidence holds the seed of all salts")
			}
			for j := range b.Meters {
				if j != i && (bytes.Contains(raw, segments[j]) || bytes.Contains(raw, leaves[j][:saltSize])) {
					t.Errorf("evidence of meter %d holds segment or salt of meter %d", m.Ordinal, b.Meters[j].Ordinal)
				}
			}
		}
		if _, err := Prove(h, b, 2); !errors.Is(err, ErrInvalidReport) {
			t.Errorf("evidence of a meter that is not in the report: %v", err)
		}
	}
}

// TestNoFlippedBitOfEvidenceIsTaken: each lies under the signature, in the path, in
// the leaf or in the shape.
func TestNoFlippedBitOfEvidenceIsTaken(t *testing.T) {
	pub, _ := testKeys(1)
	h, b := signedReport(t, 7)
	e, err := Prove(h, b, 7)
	if err != nil {
		t.Fatal(err)
	}
	raw := e.Encode()
	for i := range len(raw) * 8 {
		bad := bytes.Clone(raw)
		bad[i/8] ^= 1 << (i % 8)
		if e, err := DecodeEvidence(bad); err == nil && e.Header.Verify(pub) == nil {
			t.Errorf("bit %d of byte %d flipped: taken", i%8, i/8)
		}
	}
	for _, cut := range []int{0, HeaderSize, HeaderSize + 5, len(raw) - 1} {
		if _, err := DecodeEvidence(raw[:cut]); !errors.Is(err, ErrInvalidReport) {
			t.Errorf("cut to %d bytes: %v", cut, err)
		}
	}
	if _, err := DecodeEvidence(make([]byte, MaxEvidence+1)); !errors.Is(err, ErrInvalidReport) {
		t.Errorf("one byte above the limit: %v", err)
	}
}

// TestTheRootHoldsTheChannels: whoever stores a report cannot make import into
// export or shift a decimal point afterwards.
func TestTheRootHoldsTheChannels(t *testing.T) {
	h, b := signedReport(t, 2)
	if err := CheckBody(h, b); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Column){
		"another channel": func(c *Column) { c.Channel++ },
		"another scale":   func(c *Column) { c.Scale-- },
	} {
		other := b
		other.Columns = append([]Column(nil), b.Columns...)
		change(&other.Columns[0])
		if err := CheckBody(h, other); err == nil {
			t.Errorf("%s: the body still fits the signed root", name)
		}
	}
}

// TestAReportOfTheFirstLayoutIsTakenAndProvesNothing: one that waited in a home
// while the programs were exchanged.
func TestAReportOfTheFirstLayoutIsTakenAndProvesNothing(t *testing.T) {
	pub, key := testKeys(1)
	h, b := signedReport(t, 2)
	var err error
	h.First = true
	if h.Root, err = b.root(h.Slots, true); err != nil {
		t.Fatal(err)
	}
	h.Sign(key)
	back, err := DecodeHeader(h.Encode())
	if err != nil || back != h || back.Verify(pub) != nil || string(h.Encode()[:4]) != "GVR1" {
		t.Fatalf("header of the first layout: %+v, %v", back, err)
	}
	if err := CheckBody(back, b); err != nil {
		t.Error(err)
	}
	back.First = false
	if back.Verify(pub) == nil {
		t.Error("a signature of the first layout verifies as one of the second")
	}
	if _, err := Prove(h, b, 1); !errors.Is(err, ErrInvalidReport) {
		t.Errorf("evidence of the first layout: %v", err)
	}
}

func FuzzEvidence(f *testing.F) {
	for _, n := range []int{1, 3} {
		h, b := signedReport(f, n)
		e, err := Prove(h, b, 1)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(e.Encode())
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		e, err := DecodeEvidence(in)
		if err != nil {
			return
		}
		if !bytes.Equal(e.Encode(), in) {
			t.Error("evidence is not bijective")
		}
		b, err := e.Body()
		if err != nil {
			t.Fatal(err)
		}
		Readings(e.Header, b)
	})
}
