package report

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// leaf is salt || segment, salted so that a neighbour's leaf hash cannot be
// tried against guessed readings.
func leaf(seed [32]byte, ordinal uint32, segment []byte) []byte {
	m := hmac.New(sha256.New, seed[:])
	m.Write(binary.BigEndian.AppendUint32(nil, ordinal))
	return append(m.Sum(nil)[:16:16], segment...)
}

// tree holds the stored hashes of a small tlog tree in memory.
type tree []tlog.Hash

func (t tree) ReadHashes(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for i, x := range at {
		if x < 0 || x >= int64(len(t)) {
			return nil, errors.New("hash index outside the tree")
		}
		out[i] = t[x]
	}
	return out, nil
}

func buildTree(leaves []tlog.Hash) (tree, error) {
	t := make(tree, 0, 2*len(leaves))
	for i, h := range leaves {
		more, err := tlog.StoredHashesForRecordHash(int64(i), h, t)
		if err != nil {
			return nil, fmt.Errorf("build report tree: %w", err)
		}
		t = append(t, more...)
	}
	return t, nil
}

// Leaves are the leaf hashes of b in meter order, 32 bytes per meter: all that
// has to be kept to prove a customer's segment later.
func (b Body) Leaves(slots uint16) ([]tlog.Hash, error) {
	_, segments, err := b.encode(slots)
	if err != nil {
		return nil, err
	}
	out := make([]tlog.Hash, len(segments))
	for i, s := range segments {
		out[i] = tlog.RecordHash(leaf(b.Seed, b.Meters[i].Ordinal, s))
	}
	return out, nil
}

// Root is the RFC 6962 root over the salted segments.
func (b Body) Root(slots uint16) ([32]byte, error) {
	leaves, err := b.Leaves(slots)
	if err != nil {
		return [32]byte{}, err
	}
	return rootOf(leaves)
}

func rootOf(leaves []tlog.Hash) ([32]byte, error) {
	t, err := buildTree(leaves)
	if err != nil {
		return [32]byte{}, err
	}
	root, err := tlog.TreeHash(int64(len(leaves)), t)
	return [32]byte(root), err
}

// Evidence shows one customer what was reported about its meter, without any
// neighbour: header, salted segment and Merkle path.
type Evidence struct {
	Header Header
	Index  int64
	Leaf   []byte // salt 16 || segment
	Path   []tlog.Hash
}

// Prove makes the evidence of the meter with the ordinal.
func Prove(h Header, b Body, ordinal uint32) (Evidence, error) {
	leaves, err := b.Leaves(h.Slots)
	if err != nil {
		return Evidence{}, err
	}
	_, segments, err := b.encode(h.Slots)
	if err != nil {
		return Evidence{}, err
	}
	t, err := buildTree(leaves)
	if err != nil {
		return Evidence{}, err
	}
	for i, m := range b.Meters {
		if m.Ordinal != ordinal {
			continue
		}
		path, err := tlog.ProveRecord(int64(len(leaves)), int64(i), t)
		return Evidence{Header: h, Index: int64(i), Leaf: leaf(b.Seed, ordinal, segments[i]), Path: path}, err
	}
	return Evidence{}, fmt.Errorf("%w: meter is not in the report", ErrInvalidReport)
}

// Check verifies the path against the header's root; the caller verifies the
// header's signature.
func (e Evidence) Check() error {
	err := tlog.CheckRecord(e.Path, int64(e.Header.Meters), tlog.Hash(e.Header.Root), e.Index, tlog.RecordHash(e.Leaf))
	if err != nil {
		return fmt.Errorf("%w: evidence does not lead to the signed root", ErrInvalidReport)
	}
	return nil
}

// CheckBody re-computes the root of an opened body against its header.
func CheckBody(h Header, b Body) error {
	root, err := b.Root(h.Slots)
	if err != nil {
		return err
	}
	if root != h.Root || int(h.Meters) != len(b.Meters) || int(h.Channels) != len(b.Columns) {
		return fmt.Errorf("%w: content does not match the signed root", ErrInvalidReport)
	}
	return nil
}
