package aggregator_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/node/aggregator"
	"gridveil/node/store"
	"gridveil/node/store/storetest"
)

// sessionValues are what the aggregator's store holds in its space of sessions.
func sessionValues(st *store.Store) (out map[string][]byte, err error) {
	out = map[string][]byte{}
	err = st.View(func(tx *store.Tx) error {
		return tx.Each([]byte{byte(store.SpaceSession)}, func(k, v []byte) error {
			out[string(k)] = v
			return nil
		})
	})
	return out, err
}

// TestASessionsPayloadGoesAndItsProofStays has a session settled; once its time is
// over, the aggregator drops what it knows of it, and two months later nothing of it can
// be opened, in no copy either. The entry on the ledger says nothing, and its proof and
// the export that holds it are as good as before.
func TestASessionsPayloadGoesAndItsProofStays(t *testing.T) {
	s := newScene(t, "bucket = \"5m\"\n")
	x := moveIn(s)
	before := must(sessionValues(s.places["evagg"].node.Store))
	v := x.drive(trip{grid: 30_000_000})
	s.eventually("a cosigned settlement", func() bool {
		l := s.evagg().Ledger(0)
		return s.kinds()[ledger.KindSettle] == 1 && l.CosignedSize == l.Size
	})
	name := v.host.Session()
	index := uint64(0)
	for i := uint64(0); i < s.evagg().Ledger(0).Size; i++ {
		if e, err := s.entryOf(i); err == nil && e.Kind() == ledger.KindCDR {
			index = i
		}
	}
	if index == 0 {
		t.Fatal("no entry of a session")
	}
	proof, entry := must(s.evagg().Proof(index)), must(s.entryOf(index))
	policy := must(s.operators("home").Policy())
	dir := filepath.Join(t.TempDir(), "export")
	must(s.evagg().Export(dir))

	s.halt("evagg")
	at := filepath.Join(s.places["evagg"].dir, "store")
	key := must(store.LoadKey(filepath.Join(s.places["evagg"].dir, "store.key")))
	copied := filepath.Join(t.TempDir(), "copy")
	s.must(os.CopyFS(copied, os.DirFS(at)))
	now := s.clock.Now()
	st := must(store.Open(at, key, store.Options{Now: func() time.Time { return now }}))
	marks := map[string][]byte{}
	for k, v := range must(sessionValues(st)) {
		// Shorter ones are counters and the session's name, which the chain of commits names too.
		if old, had := before[k]; len(v) > 32 && (!had || !bytes.Equal(old, v)) {
			marks[fmt.Sprintf("%.12q", k)] = v
		}
	}
	shown := func(dir string) (names []string) {
		values, blobs := storetest.Thief(t, dir, at, key)
		if blobs == 0 {
			t.Errorf("no value in %s", dir)
		}
		for name, mark := range marks {
			for _, v := range values {
				if bytes.Contains(v, mark) {
					names = append(names, name)
					break
				}
			}
		}
		return names
	}
	if names := shown(copied); len(names) < 3 {
		t.Fatalf("only %q is in the copy of the day: this test could not fail", names)
	}
	now = now.Add(130 * 24 * time.Hour)
	err := aggregator.ForgetAll(st, now)
	for range 65 {
		now = now.Add(24 * time.Hour)
		err = errors.Join(err, st.Maintain(t.Context()))
	}
	s.must(errors.Join(err, st.Check(t.Context()), st.Close()))
	for what, dir := range map[string]string{"copy of the day": copied, "store": at} {
		if names := shown(dir); len(names) != 0 {
			t.Errorf("the %s shows %q", what, names)
		}
	}

	if _, err := proof.Verify(policy, entry.Leaf()); err != nil {
		t.Errorf("the proof of the day: %v", err)
	}
	if _, err := export.Verify(dir, policy); err != nil {
		t.Errorf("the export of the day: %v", err)
	}
	s.run("evagg")
	s.eventually("the same proof from the running ledger", func() bool { e, err := s.entryOf(index); return err == nil && e.Leaf() == entry.Leaf() })
	if bytes.Contains(entry.Bytes(), name[:]) {
		t.Error("the entry on the ledger names the session")
	}
}
