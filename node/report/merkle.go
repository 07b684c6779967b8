package report

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// leaf is salt || content, salted so that a neighbour's leaf hash cannot be
// tried against guessed readings.
func leaf(seed [32]byte, ordinal uint32, content []byte) []byte {
	m := hmac.New(sha256.New, seed[:])
	m.Write(binary.BigEndian.AppendUint32(nil, ordinal))
	return append(m.Sum(nil)[:saltSize:saltSize], content...)
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

// leaves are the salted leaves of b in meter order. Each stands for itself: salt
// 16 || columns || segment whose step is the ordinal. Leaves of the first layout are
// salt || segment as it lies in the body.
func (b Body) leaves(slots uint16, first bool) (out [][]byte, err error) {
	raw, segments, err := b.encode(slots)
	if err != nil {
		return nil, err
	}
	columns := raw[seedSize : seedSize+columnSize*len(b.Columns)]
	for i := range b.Meters {
		content := segments[i]
		if !first {
			if content, err = b.appendSegment(bytes.Clone(columns), &b.Meters[i], 0, slots); err != nil {
				return nil, err
			}
		}
		out = append(out, leaf(b.Seed, b.Meters[i].Ordinal, content))
	}
	return out, nil
}

// Root is the RFC 6962 root over the salted leaves.
func (b Body) Root(slots uint16) ([32]byte, error) { return b.root(slots, false) }

func (b Body) root(slots uint16, first bool) ([32]byte, error) {
	leaves, err := b.leaves(slots, first)
	if err != nil {
		return [32]byte{}, err
	}
	return rootOf(hashes(leaves))
}

func hashes(leaves [][]byte) []tlog.Hash {
	out := make([]tlog.Hash, len(leaves))
	for i, l := range leaves {
		out[i] = tlog.RecordHash(l)
	}
	return out
}

func rootOf(leaves []tlog.Hash) ([32]byte, error) {
	t, err := buildTree(leaves)
	if err != nil {
		return [32]byte{}, err
	}
	root, err := tlog.TreeHash(int64(len(leaves)), t)
	return [32]byte(root), err
}

// CheckBody re-computes the root of an opened body against its header.
func CheckBody(h Header, b Body) error {
	root, err := b.root(h.Slots, h.First)
	if err != nil {
		return err
	}
	if root != h.Root || int(h.Meters) != len(b.Meters) || int(h.Channels) != len(b.Columns) {
		return fmt.Errorf("%w: content does not match the signed root", ErrInvalidReport)
	}
	return nil
}
