package writer_test

import (
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/town"
)

// story is a log in which every kind of entry happens.
func story(t testing.TB, transfers int) *scene.Scene {
	t.Helper()
	s := scene.New(t, 1)
	s.Story(s.Do)
	s.Transfers(transfers)
	return s
}

func TestEntriesBecomeFinalUnderTheCosignaturesOfReplayingVerifiers(t *testing.T) {
	s := story(t, 600)
	tw := town.New(t, s)
	verifiers := tw.Verifiers()
	w, _ := tw.Writer(tw.WriterConfig())
	results := tw.Submit(w, s.Log)
	tw.Final(w, uint64(len(s.Log)))
	for i, r := range results {
		if r.Exists || r.Receipt.Index != uint64(i) || r.Receipt.Leaf != ledger.LeafHash(s.Log[i]) {
			t.Fatalf("entry %d: receipt %+v", i, r.Receipt)
		}
		if err := r.Receipt.Verify(scene.Origin, scene.Pub(s.Receipt)); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		if i%97 != 0 {
			continue
		}
		p, err := w.Proof(uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Verify(tw.Policy, r.Receipt.Leaf); err != nil {
			t.Errorf("proof of entry %d: %v", i, err)
		}
	}
	var want [32]byte
	w.Read(func(m ledger.Machine) { want = m.Hash() })
	if want != s.State.Hash() {
		t.Error("the writer's state is not the scene's")
	}
	for name, v := range verifiers {
		v.Read(func(m ledger.Machine) {
			if st := v.Status(); st.Cosigned == uint64(len(s.Log)) && m.Hash() != want {
				t.Errorf("%s cosigned another state", name)
			}
		})
	}
}
