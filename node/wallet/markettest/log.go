package markettest

import (
	"encoding/binary"

	"golang.org/x/mod/sumdb/tlog"

	"gridveil/ledger"
	"gridveil/node/ask"
	"gridveil/privacy/note"
	"gridveil/privacy/session"
)

// prove puts an entry into a log of its own and proves it.
func (m *Market) prove(body ledger.Body) ask.Proven { return m.ProveAt(0, body) }

// ProveAt is body as the last entry, with that number, of a log of its own.
func (m *Market) ProveAt(index uint64, body ledger.Body) ask.Proven {
	e := must(ledger.NewEntry(1, 1, body))
	if err := ledger.Sign(e, Origin, m.keys.record); err != nil {
		panic(err)
	}
	var hashes hashList
	for i := range index {
		hashes = append(hashes, must(tlog.StoredHashes(int64(i), []byte("another entry"), hashes))...)
	}
	hashes = append(hashes, must(tlog.StoredHashesForRecordHash(int64(index), tlog.Hash(e.Leaf()), hashes))...)
	c := ledger.Checkpoint{Origin: Origin, Size: index + 1, Root: ledger.Hash(must(tlog.TreeHash(int64(index)+1, hashes)))}
	msg := must(ledger.SignCheckpoint(c, ledger.LogSigner(Origin, m.keys.log), ledger.Cosigner("market.test/witness", m.keys.witness, m.clock.Now())))
	p := ledger.Proof{Index: index, Hashes: must(ledger.ProveInclusion(index+1, index, hashes)), Checkpoint: msg}
	return ask.Proven{Entry: e.Bytes(), Proof: p.Encode()}
}

// hashList is the stored hashes of a small log.
type hashList []tlog.Hash

// ReadHashes implements tlog.HashReader.
func (l hashList) ReadHashes(indexes []int64) (out []tlog.Hash, err error) {
	for _, i := range indexes {
		out = append(out, l[i])
	}
	return out, nil
}

// Back is an answer to a claim without notes, backed by an issue entry of its own that the
// market shows when it is asked for its number.
func (m *Market) Back(request [32]byte, minor uint16) session.Collected {
	c := session.Collected{Request: request, Issue: 7 + uint64(len(m.issues)), Salt: [32]byte{'s', byte(len(m.issues))}}
	leaf := append([]byte("gridveil/claim/v1\x00"), c.Salt[:]...)
	leaf = binary.BigEndian.AppendUint32(append(leaf, request[:]...), uint32(minor))
	c.Proof = binary.BigEndian.AppendUint32(make([]byte, 4), 1) // leaf 0 of 1
	m.issues[c.Issue] = m.ProveAt(c.Issue, &ledger.Issue{Epoch: note.Epoch(Epoch), Claims: 1, Root: ledger.Hash(tlog.RecordHash(leaf)), Counts: []uint32{uint32(minor)}})
	return c
}
