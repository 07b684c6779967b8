package party

import (
	"bytes"
	"crypto/ed25519"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"gridveil/ledger"
	"gridveil/node/store"
)

// liar is a log whose writer answers with receipts and then does as it likes.
type liar struct {
	t            *testing.T
	log, receipt ed25519.PrivateKey
	leaves       []ledger.Hash
	hashes       []tlog.Hash
}

// ReadHashes implements tlog.HashReader.
func (l *liar) ReadHashes(indexes []int64) (out []tlog.Hash, err error) {
	for _, i := range indexes {
		out = append(out, l.hashes[i])
	}
	return out, nil
}

func (l *liar) append(leaf ledger.Hash) {
	l.t.Helper()
	more, err := tlog.StoredHashesForRecordHash(int64(len(l.leaves)), tlog.Hash(leaf), l)
	if err != nil {
		l.t.Fatal(err)
	}
	l.hashes, l.leaves = append(l.hashes, more...), append(l.leaves, leaf)
}

func (l *liar) pledge(index uint64, leaf ledger.Hash, ms uint64) ledger.Receipt {
	return ledger.SignReceipts(l.receipt, ledger.Receipt{Origin: ledger.OriginHash(origin), Index: index, Leaf: leaf, Party: 2, Seq: 1, Ms: ms})[0]
}

// copy is what a follower has of the log, final up to a size.
func (l *liar) copy(final uint64) pledged {
	n := int64(len(l.leaves))
	return pledged{size: uint64(n), final: final,
		leaf: func(index uint64) (ledger.Hash, error) { return l.leaves[index], nil },
		prove: func(index uint64) (*ledger.Proof, error) {
			root, err := tlog.TreeHash(n, l)
			if err != nil {
				return nil, err
			}
			path, err := tlog.ProveRecord(n, int64(index), l)
			if err != nil {
				return nil, err
			}
			msg, err := ledger.SignCheckpoint(ledger.Checkpoint{Origin: origin, Size: uint64(n), Root: ledger.Hash(root)}, ledger.LogSigner(origin, l.log))
			p := &ledger.Proof{Index: index, Checkpoint: msg}
			for _, h := range path {
				p.Hashes = append(p.Hashes, ledger.Hash(h))
			}
			return p, err
		}}
}

func newBook(t *testing.T) receipts {
	t.Helper()
	dir := t.TempDir()
	key, err := store.LoadOrCreateKey(filepath.Join(dir, "store.key"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(filepath.Join(dir, "store"), key, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return receipts{st}
}

func keep(t *testing.T, b receipts, r ledger.Receipt) {
	t.Helper()
	if err := b.store.Update(func(tx *store.Tx) error { return b.put(tx, r) }); err != nil {
		t.Fatal(err)
	}
}

// TestALyingWriterIsConvictedByItsReceipt puts another entry where a receipt
// pledged ours: what the submitter kept convinces a stranger.
func TestALyingWriterIsConvictedByItsReceipt(t *testing.T) {
	l := &liar{t: t, log: draw(t), receipt: draw(t)}
	b := newBook(t)
	ours, other := ledger.Hash{1}, ledger.Hash{2}
	l.append(ledger.Hash{9})
	keep(t, b, l.pledge(1, ours, 1000))
	l.append(other)
	l.append(ours) // too late: the receipt named a place
	e, late, err := b.check(l.copy(3), func(ledger.Receipt) bool { return true })
	if err != nil || late != 0 || e == nil {
		t.Fatalf("got %v, %d late, %v; want evidence", e, late, err)
	}
	stranger, err := ledger.ParseEvidence(e.Encode())
	if err != nil {
		t.Fatal(err)
	}
	policy := ledger.NewPolicy(ledger.LogKey(origin, ledger.Hash(l.log.Public().(ed25519.PublicKey))))
	if err := stranger.Check(policy, ledger.Hash(l.receipt.Public().(ed25519.PublicKey))); err != nil {
		t.Errorf("a stranger is not convinced: %v", err)
	}
	if err := stranger.Check(policy, ledger.Hash(draw(t).Public().(ed25519.PublicKey))); err == nil {
		t.Error("a receipt of another key convicted the log")
	}
	if list, err := b.all(); err != nil || len(list) != 1 || !bytes.Equal(list[0].Encode(), e.Receipt.Encode()) {
		t.Errorf("the receipt is gone: %v, %v", list, err)
	}
}

func TestReceiptsAreKeptUntilTheirEntriesAreFinal(t *testing.T) {
	l := &liar{t: t, log: draw(t), receipt: draw(t)}
	b := newBook(t)
	ours := ledger.Hash{1}
	keep(t, b, l.pledge(1, ours, 1000))
	check := func(final uint64, over bool, kept, overdue int) {
		t.Helper()
		e, late, err := b.check(l.copy(final), func(ledger.Receipt) bool { return over })
		if err != nil || e != nil || late != overdue {
			t.Errorf("got %v, %d late, %v; want %d late", e, late, err, overdue)
		}
		if list, err := b.all(); err != nil || len(list) != kept {
			t.Errorf("%d receipts kept, %v; want %d", len(list), err, kept)
		}
	}
	check(0, false, 1, 0) // not there, and it need not be yet
	check(0, true, 1, 1)  // a silent writer
	l.append(ledger.Hash{9})
	l.append(ours)
	check(1, true, 1, 0) // there, not final
	check(2, true, 0, 0)
	check(2, true, 0, 0)
}
