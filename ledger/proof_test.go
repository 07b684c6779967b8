package ledger_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/edwards25519"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/tile"
)

func unhex(t *testing.T, s string) (v [32]byte) {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	copy(v[:], b)
	return v
}

func addPoints(t *testing.T, a, b [32]byte) [32]byte {
	t.Helper()
	p, err := new(edwards25519.Point).SetBytes(a[:])
	if err != nil {
		t.Fatal(err)
	}
	q, err := new(edwards25519.Point).SetBytes(b[:])
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(p.Add(p, q).Bytes())
}

// tree is a tree of n leaves; a different seed from index fork on makes another
// history.
func tree(t testing.TB, n, fork int, seed byte) *tile.Hashes {
	t.Helper()
	var h tile.Hashes
	for i := range n {
		leaf := [32]byte{byte(i), byte(i >> 8)}
		if i >= fork {
			leaf[31] = seed
		}
		if err := h.Append(leaf); err != nil {
			t.Fatal(err)
		}
	}
	return &h
}

func root(t testing.TB, h *tile.Hashes, n uint64) [32]byte {
	t.Helper()
	r, err := h.Root(n)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestProofsOfAllSizes(t *testing.T) {
	h := tree(t, 40, 40, 0)
	for size := uint64(1); size <= 40; size++ {
		c := ledger.Checkpoint{Size: size, Root: root(t, h, size)}
		for i := range size {
			p, err := ledger.ProveInclusion(size, i, h)
			if err != nil {
				t.Fatal(err)
			}
			leaf := [32]byte{byte(i)}
			if err := ledger.CheckInclusion(c, i, leaf, p); err != nil {
				t.Errorf("entry %d of %d: %v", i, size, err)
			}
			if err := ledger.CheckInclusion(c, (i+1)%size, leaf, p); err == nil && size > 1 {
				t.Errorf("entry %d of %d passes at another index", i, size)
			}
		}
		for old := uint64(1); old <= size; old++ {
			p, err := ledger.ProveConsistency(old, size, h)
			if err != nil {
				t.Fatal(err)
			}
			a := ledger.Checkpoint{Size: old, Root: root(t, h, old)}
			if err := ledger.CheckConsistency(a, c, p); err != nil {
				t.Errorf("%d to %d: %v", old, size, err)
			}
			a.Root[0] ^= 1
			if err := ledger.CheckConsistency(a, c, p); err == nil {
				t.Errorf("%d to %d: another old root passes", old, size)
			}
		}
	}
	if err := ledger.CheckConsistency(ledger.Checkpoint{Root: ledger.EmptyRoot()}, ledger.Checkpoint{Size: 1, Root: root(t, h, 1)}, nil); !errors.Is(err, ledger.ErrMalformed) {
		t.Errorf("from size 0: got %v", err)
	}
}

// TestVectorsOfRFC6962 runs the proofs of transparency-dev/merkle, good and bad.
func TestVectorsOfRFC6962(t *testing.T) {
	dir := os.Getenv("GRIDVEIL_CONFORMANCE")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "conformance")
	}
	files, err := filepath.Glob(filepath.Join(dir, "merkle-rfc6962", "*.json"))
	if err != nil || len(files) == 0 {
		t.Skip("no conformance vectors beside the repository: set GRIDVEIL_CONFORMANCE")
	}
	ran := 0
	for _, file := range files {
		var v struct {
			LeafIdx, TreeSize, Size1, Size2 uint64
			Root, LeafHash, Root1, Root2    string
			Proof                           []string
			WantErr                         bool
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		bad := false
		hash := func(s string) (h [32]byte) {
			raw, err := base64.StdEncoding.DecodeString(s)
			bad = bad || err != nil || len(raw) != 32
			copy(h[:], raw)
			return h
		}
		var proof [][32]byte
		for _, p := range v.Proof {
			proof = append(proof, hash(p))
		}
		switch {
		case strings.HasPrefix(name, "inclusion_"):
			c := ledger.Checkpoint{Size: v.TreeSize, Root: hash(v.Root)}
			err = ledger.CheckInclusion(c, v.LeafIdx, hash(v.LeafHash), proof)
		case strings.HasPrefix(name, "consistency_"):
			a, b := ledger.Checkpoint{Size: v.Size1, Root: hash(v.Root1)}, ledger.Checkpoint{Size: v.Size2, Root: hash(v.Root2)}
			err = ledger.CheckConsistency(a, b, proof)
		default:
			continue // subtrees are of another specification
		}
		ran++
		if got := err != nil || bad; got != v.WantErr {
			t.Errorf("%s: refused %v, want %v", name, got, v.WantErr)
		}
	}
	t.Logf("%d vectors", ran)
}

func TestTlogProofFile(t *testing.T) {
	s := scene.New(t, 1)
	h := tree(t, 9, 9, 0)
	hashes, err := ledger.ProveInclusion(9, 4, h)
	if err != nil {
		t.Fatal(err)
	}
	p := &ledger.Proof{Extra: []byte("case file"), Index: 4, Hashes: hashes, Checkpoint: s.Checkpoint(9, root(t, h, 9), "uta", "utb")}
	back, err := ledger.ParseProof(p.Encode())
	if err != nil || !bytes.Equal(back.Encode(), p.Encode()) {
		t.Fatalf("round trip: %v", err)
	}
	if c, err := back.Verify(s.Policy(), [32]byte{4}); err != nil || c.Size != 9 {
		t.Errorf("Verify: %v", err)
	}
	if _, err := back.Verify(s.Policy(), [32]byte{5}); !errors.Is(err, ledger.ErrSignature) {
		t.Errorf("another leaf: got %v", err)
	}
	p.Checkpoint = s.Checkpoint(9, root(t, h, 9), "uta")
	if _, err := p.Verify(s.Policy(), [32]byte{4}); !errors.Is(err, ledger.ErrSignature) {
		t.Errorf("without the quorum: got %v", err)
	}
	for _, text := range []string{"", "c2sp.org/tlog-proof@v1\n\n", "c2sp.org/tlog-proof@v1\nindex 04\n\nx", "c2sp.org/tlog-proof@v1\nextra \nindex 4\n\nx",
		"c2sp.org/tlog-proof@v2\nindex 4\n\nx", "c2sp.org/tlog-proof@v1\nindex 4\nAA==\n\nx"} {
		if _, err := ledger.ParseProof([]byte(text)); !errors.Is(err, ledger.ErrMalformed) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func FuzzProof(f *testing.F) {
	f.Add((&ledger.Proof{Extra: []byte{1}, Index: 4, Hashes: [][32]byte{h(1)}, Checkpoint: []byte("x\n")}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := ledger.ParseProof(b); err == nil && !bytes.Equal(p.Encode(), b) {
			t.Fatal("a second encoding of a proof")
		}
	})
}

// forks are the four ways to convict a log, each with its evidence.
func forks(t testing.TB, s *scene.Scene) (*ledger.Policy, []*ledger.Evidence) {
	p := s.Policy()
	one, two := tree(t, 20, 5, 1), tree(t, 20, 5, 2)
	old := s.Checkpoint(9, root(t, one, 9))
	consistency, err := ledger.ProveConsistency(9, 20, two)
	if err != nil {
		t.Fatal(err)
	}
	inclusion, err := ledger.ProveInclusion(20, 7, two)
	if err != nil {
		t.Fatal(err)
	}
	large := s.Checkpoint(20, root(t, two, 20))
	leaf := [32]byte{7}
	leaf[31] = 2
	pledges := make([]ledger.Receipt, 5)
	for i := range pledges {
		pledges[i] = ledger.Receipt{Origin: ledger.OriginHash(scene.Origin), Index: uint64(5 + i), Leaf: h(1)}
	}
	pledge := ledger.SignReceipts(s.Receipt, pledges...)[2]
	objection := ledger.SignObjection(ledger.Objection{Origin: ledger.OriginHash(scene.Origin), Index: 7, Leaf: leaf,
		Code: ledger.CodeOf(ledger.ErrOpening), Witness: "utb"}, s.Witness["utb"])
	return p, []*ledger.Evidence{
		{Kind: ledger.TwoRoots, A: old, B: s.Checkpoint(9, root(t, two, 9))},
		{Kind: ledger.OtherHistory, A: old, B: large, Root: root(t, two, 9), Proof: consistency},
		{Kind: ledger.BrokenPledge, B: large, Receipt: pledge, Leaf: leaf, Proof: inclusion},
		{Kind: ledger.BadEntry, B: large, Objection: objection, Proof: inclusion},
	}
}

// TestG4 is the part of guarantee G4 that every fork leaves transferable
// evidence: E1 to E4.
func TestG4EvidenceConvinces(t *testing.T) {
	s := scene.New(t, 1)
	policy, all := forks(t, s)
	pub := scene.Pub(s.Receipt)
	for _, e := range all {
		back, err := ledger.ParseEvidence(e.Encode())
		if err != nil || !bytes.Equal(back.Encode(), e.Encode()) {
			t.Errorf("%s: round trip: %v", e.Kind, err)
			continue
		}
		if err := back.Check(policy, pub); err != nil {
			t.Errorf("%s: %v", e.Kind, err)
		}
		b := e.Encode()
		for i := range b {
			bad := bytes.Clone(b)
			bad[i] ^= 0x01
			if back, err := ledger.ParseEvidence(bad); err == nil && back.Check(policy, pub) == nil && !bytes.Equal(back.Encode(), b) && !looseBase64(b, i) {
				t.Errorf("%s with byte %d changed still convicts", e.Kind, i)
			}
		}
	}
}

// looseBase64 reports whether byte i is the last character of a note's
// signature line, whose unused bits x/mod's decoder ignores.
func looseBase64(b []byte, i int) bool { return i+1 < len(b) && b[i+1] == '=' }

func TestG4HonestLogsAreNotConvicted(t *testing.T) {
	s := scene.New(t, 1)
	policy, all := forks(t, s)
	one := tree(t, 20, 5, 1)
	consistency, err := ledger.ProveConsistency(9, 20, one)
	if err != nil {
		t.Fatal(err)
	}
	honest := s.Checkpoint(9, root(t, one, 9))
	for name, e := range map[string]*ledger.Evidence{
		"one checkpoint twice":     {Kind: ledger.TwoRoots, A: honest, B: honest},
		"two sizes":                {Kind: ledger.TwoRoots, A: honest, B: s.Checkpoint(20, root(t, one, 20))},
		"honest growth":            {Kind: ledger.OtherHistory, A: honest, B: s.Checkpoint(20, root(t, one, 20)), Root: root(t, one, 9), Proof: consistency},
		"a proof of nothing":       {Kind: ledger.OtherHistory, A: honest, B: s.Checkpoint(20, root(t, one, 20)), Root: h(3), Proof: consistency},
		"a kept receipt":           {Kind: ledger.BrokenPledge, B: all[2].B, Receipt: receiptFor(s, all[2].Leaf), Leaf: all[2].Leaf, Proof: all[2].Proof},
		"an objection of nobody":   {Kind: ledger.BadEntry, B: all[3].B, Objection: ledger.SignObjection(all[3].Objection, s.LogKey), Proof: all[3].Proof},
		"evidence of no kind":      {Kind: 9, B: honest},
		"a checkpoint of a forger": {Kind: ledger.TwoRoots, A: honest, B: bytes.Replace(honest, []byte("\n9\n"), []byte("\n8\n"), 1)},
	} {
		if err := e.Check(policy, scene.Pub(s.Receipt)); err == nil {
			t.Errorf("%s convicts", name)
		}
	}
	if err := all[2].Check(policy); err == nil {
		t.Error("a receipt of an unknown key convicts")
	}
}

func receiptFor(s *scene.Scene, leaf [32]byte) ledger.Receipt {
	return ledger.SignReceipts(s.Receipt, ledger.Receipt{Origin: ledger.OriginHash(scene.Origin), Index: 7, Leaf: leaf})[0]
}

func TestTracker(t *testing.T) {
	s := scene.New(t, 1)
	one, two := tree(t, 30, 5, 1), tree(t, 30, 5, 2)
	at := func(h *tile.Hashes, n uint64) []byte { return s.Checkpoint(n, root(t, h, n)) }
	tr := ledger.NewTracker(s.Policy())
	see := func(name string, msg []byte, want ledger.VerdictKind) {
		t.Helper()
		if v, _ := tr.Observe(msg); v.Kind != want {
			t.Errorf("%s: got verdict %d (%v), want %d", name, v.Kind, v.Err, want)
		}
	}
	bridge := func(h *tile.Hashes, from, to uint64) ([32]byte, [][32]byte) {
		p, err := ledger.ProveConsistency(from, to, h)
		if err != nil {
			t.Fatal(err)
		}
		return root(t, h, from), p
	}
	see("noise", []byte("x"), ledger.Refused)
	see("another log", []byte("other.log\n1\n"), ledger.Refused)
	see("the first", at(one, 10), ledger.Advanced)
	see("the same", at(one, 10), ledger.Known)
	see("the empty tree", s.Checkpoint(0, ledger.EmptyRoot()), ledger.Older)
	see("a larger one", at(one, 20), ledger.Gap)
	{
		other := ledger.NewTracker(s.Policy()) // who never gets a proof convicts two roots of one size all the same
		for n := uint64(10); n <= 20; n++ {
			other.Observe(at(one, n))
		}
		if v, e := other.Observe(at(two, 17)); v.Kind != ledger.Fork || e.Kind != ledger.TwoRoots || e.Check(s.Policy()) != nil {
			t.Errorf("another root of an unproved size: got %d", v.Kind)
		}
	}
	oldRoot, proof := bridge(one, 10, 20)
	if v, _ := tr.Prove(at(one, 20), oldRoot, proof[1:]); v.Kind != ledger.Refused {
		t.Errorf("half a proof: got %d", v.Kind)
	}
	if v, _ := tr.Prove(at(one, 20), oldRoot, proof); v.Kind != ledger.Advanced {
		t.Errorf("a good proof: got %d %v", v.Kind, v.Err)
	}
	see("a smaller one", at(one, 7), ledger.Gap)
	oldRoot, proof = bridge(one, 7, 20)
	if v, _ := tr.Prove(at(one, 7), oldRoot, proof); v.Kind != ledger.Older {
		t.Errorf("a proved smaller one: got %d %v", v.Kind, v.Err)
	}
	if tr.Forked(scene.Origin) != nil {
		t.Fatal("an honest log is convicted")
	}
	oldRoot, proof = bridge(one, 7, 20) // the fork's smaller checkpoint against the known history
	v, e := tr.Prove(at(two, 7), oldRoot, proof)
	if v.Kind != ledger.Fork || e.Check(s.Policy()) != nil {
		t.Errorf("a smaller fork: got %d", v.Kind)
	}
	oldRoot, proof = bridge(two, 20, 25)
	v, e = tr.Prove(at(two, 25), oldRoot, proof)
	if v.Kind != ledger.Fork || e.Check(s.Policy()) != nil {
		t.Errorf("a larger fork: got %d", v.Kind)
	}
	v, e = tr.Observe(at(two, 20))
	if v.Kind != ledger.Fork || e.Check(s.Policy()) != nil || !errors.Is(v.Err, ledger.ErrFork) {
		t.Errorf("a fork of one size: got %d", v.Kind)
	}
	if c, msg := tr.Best(scene.Origin); c.Size != 20 || len(msg) == 0 || tr.Forked(scene.Origin) == nil {
		t.Error("after the fork the tracker forgot what it knew")
	}
}

func FuzzEvidence(f *testing.F) {
	s := scene.New(f, 1)
	_, all := forks(f, s)
	for _, e := range all {
		f.Add(e.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := ledger.ParseEvidence(b); err == nil && !bytes.Equal(e.Encode(), b) {
			t.Fatal("a second encoding of evidence")
		}
		if o, err := ledger.ParseObjection(b); err == nil && !bytes.Equal(o.Encode(), b) {
			t.Fatal("a second encoding of an objection")
		}
	})
}
