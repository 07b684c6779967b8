package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/tile"
)

// pledges are n receipts that a log gives at once.
func pledges(n int) (list []ledger.Receipt) {
	for i := range uint64(n) {
		list = append(list, ledger.Receipt{Origin: ledger.OriginHash(scene.Origin), Index: 3 + i, Leaf: h(byte(i)), Party: 2, Seq: 4 + i, Ms: 5})
	}
	return list
}

func TestReceipts(t *testing.T) {
	s := scene.New(t, 1)
	pub := scene.Pub(s.Receipt)
	for _, n := range []int{1, 2, 5} {
		for _, r := range ledger.SignReceipts(s.Receipt, pledges(n)...) {
			b := r.Encode()
			if n == 1 && len(b) != 168 {
				t.Fatalf("a receipt signed alone has %d bytes, want 168", len(b))
			}
			back, err := ledger.ParseReceipt(b)
			if err != nil || !bytes.Equal(back.Encode(), b) || back.Verify(scene.Origin, pub) != nil {
				t.Fatalf("receipt %d of %d, round trip: %v", r.Pos, n, err)
			}
			for i := range b {
				bad := bytes.Clone(b)
				bad[i] ^= 1
				if back, err := ledger.ParseReceipt(bad); err == nil && back.Verify(scene.Origin, pub) == nil {
					t.Fatalf("receipt %d of %d with byte %d changed verifies", r.Pos, n, i)
				}
				if _, err := ledger.ParseReceipt(b[:i]); !errors.Is(err, ledger.ErrMalformed) {
					t.Fatalf("receipt %d of %d cut to %d bytes: got %v", r.Pos, n, i, err)
				}
			}
			if _, err := ledger.ParseReceipt(append(b, 0)); !errors.Is(err, ledger.ErrMalformed) {
				t.Errorf("a byte more: got %v", err)
			}
			if r.Verify("other", pub) == nil || r.Verify(scene.Origin, scene.Pub(s.LogKey)) == nil {
				t.Error("receipt verifies for another log or key")
			}
		}
	}
}

// TestReceiptsShareASignature compares the path of each receipt with the one that
// x/mod gives for the same leaves, at all shapes of small trees and at the limit.
func TestReceiptsShareASignature(t *testing.T) {
	s := scene.New(t, 1)
	pub := scene.Pub(s.Receipt)
	sizes := []int{255, 256, 257, 1023, ledger.MaxReceipts}
	for n := range 40 {
		sizes = append(sizes, 1+n)
	}
	for _, n := range sizes {
		list := ledger.SignReceipts(s.Receipt, pledges(n)...)
		var tree tile.Hashes
		for _, r := range list {
			if err := tree.Append(tlog.RecordHash(r.Encode()[:100])); err != nil {
				t.Fatal(err)
			}
		}
		for i, r := range list {
			want, err := tlog.ProveRecord(int64(n), int64(i), &tree)
			if err != nil {
				t.Fatal(err)
			}
			same := slices.EqualFunc(want, r.Path, func(a tlog.Hash, b ledger.Hash) bool { return ledger.Hash(a) == b })
			if int(r.Of) != n || int(r.Pos) != i || !same {
				t.Fatalf("receipt %d of %d says %d of %d, or has another path than x/mod's", i, n, r.Pos, r.Of)
			}
			if err := r.Verify(scene.Origin, pub); err != nil || r.Sig != list[0].Sig {
				t.Fatalf("receipt %d of %d: %v", i, n, err)
			}
			if size := len(r.Encode()); size > ledger.MaxReceiptSize {
				t.Fatalf("receipt %d of %d has %d bytes", i, n, size)
			}
		}
	}
	over := ledger.SignReceipts(s.Receipt, pledges(ledger.MaxReceipts+1)...)
	last := over[ledger.MaxReceipts]
	if last.Of != 1 || last.Sig == over[0].Sig || last.Verify(scene.Origin, pub) != nil {
		t.Error("the receipt above the limit has no signature of its own")
	}
	if list := ledger.SignReceipts(s.Receipt); len(list) != 0 {
		t.Error("receipts out of nothing")
	}
}

// TestReceiptsOfOneGroupAreNotExchangeable is what a dishonest holder may try
// with receipts that are all true.
func TestReceiptsOfOneGroupAreNotExchangeable(t *testing.T) {
	s := scene.New(t, 1)
	pub := scene.Pub(s.Receipt)
	list := ledger.SignReceipts(s.Receipt, pledges(6)...)
	other := ledger.SignReceipts(s.Receipt, pledges(7)...)
	for name, change := range map[string]func(r *ledger.Receipt){
		"the index of a neighbour":          func(r *ledger.Receipt) { r.Index = list[1].Index },
		"the path of a neighbour":           func(r *ledger.Receipt) { r.Path = list[1].Path },
		"the place of a neighbour":          func(r *ledger.Receipt) { r.Pos = 1 },
		"the path from another group":       func(r *ledger.Receipt) { r.Path = other[0].Path },
		"the signature of another group":    func(r *ledger.Receipt) { r.Sig = other[0].Sig },
		"another count, path as long":       func(r *ledger.Receipt) { r.Of = 7 },
		"alone, with the group's signature": func(r *ledger.Receipt) { r.Of, r.Path = 1, nil },
		"a hash too few":                    func(r *ledger.Receipt) { r.Path = r.Path[:2] },
		"a hash too many":                   func(r *ledger.Receipt) { r.Path = append(r.Path, h(1)) },
		"a place that does not exist":       func(r *ledger.Receipt) { r.Pos = 6 },
		"a group of none":                   func(r *ledger.Receipt) { r.Of, r.Pos, r.Path = 0, 0, nil },
		"a group above the limit":           func(r *ledger.Receipt) { r.Of = ledger.MaxReceipts + 1 },
	} {
		r := list[0]
		r.Path = slices.Clone(r.Path)
		if err := r.Verify(scene.Origin, pub); err != nil {
			t.Fatal(err)
		}
		change(&r)
		if err := r.Verify(scene.Origin, pub); !errors.Is(err, ledger.ErrSignature) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// A hash inside the tree is no receipt's leaf: the signature over a subtree's
	// root is not what the log gave.
	two := ledger.SignReceipts(s.Receipt, pledges(2)...)[0]
	if two.Of, two.Pos, two.Path = 2, 0, list[0].Path[:1]; two.Verify(scene.Origin, pub) != nil {
		t.Error("the same two receipts have another root")
	}
	if two.Sig = list[0].Sig; two.Verify(scene.Origin, pub) == nil {
		t.Error("the group's signature holds for a part of its tree")
	}
}

// receiptVector lists a receipt signed alone and the five of a group.
func receiptVector() (text string, all []ledger.Receipt) {
	seed := h(0x53)
	key := ed25519.NewKeyFromSeed(seed[:])
	all = append(ledger.SignReceipts(key, pledges(1)...), ledger.SignReceipts(key, pledges(5)...)...)
	text = fmt.Sprintf("origin: %s\nreceipt key: %x\n", scene.Origin, key.Public())
	for _, r := range all {
		text += fmt.Sprintf("receipt %d of %d: %x\n", r.Pos, r.Of, r.Encode())
	}
	return text + "expect: each parses, bytes equal, verifies\n", all
}

func TestReceiptVector(t *testing.T) {
	file := filepath.Join("testdata", "vectors", "receipt.txt")
	text, _ := receiptVector()
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		t.Errorf("receipts differ from %s", file)
	}
}

func FuzzReceipt(f *testing.F) {
	_, all := receiptVector()
	seed := h(0x53)
	pub := scene.Pub(ed25519.NewKeyFromSeed(seed[:]))
	for _, r := range all {
		f.Add(r.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ledger.ParseReceipt(b)
		if err != nil {
			if !errors.Is(err, ledger.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(r.Encode(), b) {
			t.Fatal("a second encoding of a receipt")
		}
		given := slices.ContainsFunc(all, func(x ledger.Receipt) bool { return bytes.Equal(x.Encode(), b) })
		if err := r.Verify(scene.Origin, pub); (err == nil) != given {
			t.Fatalf("a receipt that was given: %v; it verifies: %v", given, err)
		}
	})
}
