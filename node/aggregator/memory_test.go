package aggregator

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"gridveil/ev/settle"
	"gridveil/node/store"
	"gridveil/node/store/storetest"
)

// TestMemoryKeepsWhatAMapKeeps compares the desk's memory with a map, over small
// and large commits, deletions and values around the size of a piece.
func TestMemoryKeepsWhatAMapKeeps(t *testing.T) {
	st := storetest.Open(t)
	m, err := openMemory(st)
	if err != nil {
		t.Fatal(err)
	}
	model := map[string][]byte{}
	rapid.Check(t, func(rt *rapid.T) {
		var list []settle.Write
		for range rapid.IntRange(1, 6).Draw(rt, "writes") {
			key := []byte(fmt.Sprintf("k%d", rapid.IntRange(0, 9).Draw(rt, "key")))
			size := rapid.SampledFrom([]int{-1, 0, 1, pieceBytes - 1, pieceBytes, pieceBytes + 1, 3 * pieceBytes, smallBytes + 1}).Draw(rt, "size")
			w := settle.Write{Key: key}
			if size >= 0 {
				w.Value = bytes.Repeat([]byte{byte(len(list)) + 1}, size)
			}
			list = append(list, w)
		}
		if err := m.Commit(list); err != nil {
			rt.Fatal(err)
		}
		for _, w := range list {
			delete(model, string(w.Key))
			if w.Value != nil {
				model[string(w.Key)] = w.Value
			}
		}
		seen := 0
		err := m.Scan([]byte("k"), func(k, v []byte) bool {
			seen++
			if !bytes.Equal(v, model[string(k)]) {
				rt.Errorf("scan: %s has %d bytes, want %d", k, len(v), len(model[string(k)]))
			}
			return true
		})
		if err != nil || seen != len(model) {
			rt.Errorf("scan: %d of %d values: %v", seen, len(model), err)
		}
		for k, want := range model {
			if got := m.Get([]byte(k)); got == nil || !bytes.Equal(got, want) {
				rt.Errorf("get %s: %d bytes, want %d", k, len(got), len(want))
			}
		}
	})
}

// TestInterruptedCommitIsCarriedOut ends the process between writing a large
// commit down and carrying it out, and again in the middle of that.
func TestInterruptedCommitIsCarriedOut(t *testing.T) {
	st := storetest.Open(t)
	m, err := openMemory(st)
	if err != nil {
		t.Fatal(err)
	}
	var list []settle.Write
	for i := range 2*smallCount + 7 {
		list = append(list, settle.Write{Key: fmt.Appendf(nil, "b%04d", i), Value: bytes.Repeat([]byte{byte(i)}, 400), Until: time.Unix(0, 0)})
	}
	list = append(list, settle.Write{Key: []byte("large"), Value: bytes.Repeat([]byte("x"), 5*pieceBytes)})
	n, err := m.writeDown(list)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Get([]byte("b0000")); got != nil {
		t.Fatal("a commit that was only written down is visible")
	}
	if err := st.Update(func(tx *store.Tx) error { return m.apply(tx, list[:10]) }); err != nil { // as far as a crash got
		t.Fatal(err)
	}
	if n < 2 {
		t.Fatalf("%d pieces; the test wants a large commit", n)
	}
	m, err = openMemory(st)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range list {
		if !bytes.Equal(m.Get(w.Key), w.Value) {
			t.Fatalf("%s is lost", w.Key)
		}
	}
	if has, _ := st.Get(markKey); has != nil {
		t.Error("the mark stays")
	}
}

func TestForgottenValuesAreThoseWhoseLastTimeIsOver(t *testing.T) {
	m, err := openMemory(storetest.Open(t))
	if err != nil {
		t.Fatal(err)
	}
	day := time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)
	for _, w := range []settle.Write{
		{Key: []byte("soon"), Value: []byte("a"), Until: day},
		{Key: []byte("renewed"), Value: []byte("a"), Until: day},
		{Key: []byte("renewed"), Value: []byte("b"), Until: day.AddDate(0, 0, 9)},
		{Key: []byte("never"), Value: []byte("a")},
	} {
		if err := m.Commit([]settle.Write{w}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		at   time.Time
		want string
	}{{day, "soon renewed never "}, {day.AddDate(0, 0, 2), "renewed never "}, {day.AddDate(0, 0, 11), "never "}} {
		for more := true; more; {
			if more, err = m.Forget(c.at); err != nil {
				t.Fatal(err)
			}
		}
		got := ""
		for _, k := range []string{"soon", "renewed", "never"} {
			if m.Get([]byte(k)) != nil {
				got += k + " "
			}
		}
		if got != c.want {
			t.Errorf("at %v: %q, want %q", c.at, got, c.want)
		}
	}
}

func FuzzParsePlan(f *testing.F) {
	f.Add([]byte{0, 1, 'k', 0, 0, 0, 2, 'v', 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parsePlan(b) }) // must not panic
}
