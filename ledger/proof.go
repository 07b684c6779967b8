package ledger

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	maxProofLines = 63 // a tree of 2^63 entries
	maxProofFile  = MaxCheckpoint + 64*64 + maxExtra
	maxExtra      = 4096 // base64 bytes of extra data in a .tlog-proof
	proofMagic    = "c2sp.org/tlog-proof@v1"
)

// CheckInclusion returns nil if proof shows that the leaf with this hash stands
// at index in the tree of c. Source: RFC 6962, 2.1.1.
func CheckInclusion(c Checkpoint, index uint64, leaf Hash, proof []Hash) error {
	if index >= c.Size || c.Size >= 1<<62 {
		return refuse(ErrMalformed, "index %d in a log of %d entries", index, c.Size)
	}
	if err := tlog.CheckRecord(hashes(proof), int64(c.Size), tlog.Hash(c.Root), int64(index), tlog.Hash(leaf)); err != nil {
		return refuse(ErrSignature, "inclusion proof of entry %d", index)
	}
	return nil
}

// CheckConsistency returns nil if proof shows that the tree of b grew out of the
// tree of a. A proof from size 0 says nothing and is refused. Source: RFC 6962,
// 2.1.2.
func CheckConsistency(a, b Checkpoint, proof []Hash) error {
	if a.Size == 0 || a.Size > b.Size || b.Size >= 1<<62 {
		return refuse(ErrMalformed, "consistency from size %d to %d", a.Size, b.Size)
	}
	if err := tlog.CheckTree(hashes(proof), int64(b.Size), tlog.Hash(b.Root), int64(a.Size), tlog.Hash(a.Root)); err != nil {
		return refuse(ErrSignature, "consistency proof from size %d to %d", a.Size, b.Size)
	}
	return nil
}

func hashes(proof []Hash) []tlog.Hash {
	out := make([]tlog.Hash, len(proof))
	for i := range proof {
		out[i] = tlog.Hash(proof[i])
	}
	return out
}

// ProveInclusion builds the proof of entry index in a tree of size entries from
// stored hashes.
func ProveInclusion(size, index uint64, r tlog.HashReader) ([]Hash, error) {
	if index >= size || size >= 1<<62 {
		return nil, refuse(ErrMalformed, "index %d in a log of %d entries", index, size)
	}
	p, err := tlog.ProveRecord(int64(size), int64(index), r)
	if err != nil {
		return nil, fmt.Errorf("prove entry %d: %w", index, err)
	}
	return plain(p), nil
}

// ProveConsistency builds the proof that the tree of size b grew out of that of
// size a, 0 < a <= b.
func ProveConsistency(a, b uint64, r tlog.HashReader) ([]Hash, error) {
	if a == 0 || a > b || b >= 1<<62 {
		return nil, refuse(ErrMalformed, "consistency from size %d to %d", a, b)
	}
	p, err := tlog.ProveTree(int64(b), int64(a), r)
	if err != nil {
		return nil, fmt.Errorf("prove growth from %d to %d: %w", a, b, err)
	}
	return plain(p), nil
}

func plain(p []tlog.Hash) []Hash {
	out := make([]Hash, len(p))
	for i := range p {
		out[i] = Hash(p[i])
	}
	return out
}

// Proof is a .tlog-proof: it shows offline that an entry is in a final
// checkpoint. Source: C2SP tlog-proof.
type Proof struct {
	Extra      []byte // opaque and not authenticated
	Index      uint64
	Hashes     []Hash
	Checkpoint []byte // the note, with its cosignatures
}

// Encode writes the file.
func (p *Proof) Encode() []byte {
	b := []byte(proofMagic + "\n")
	if len(p.Extra) > 0 {
		b = fmt.Appendf(b, "extra %s\n", base64.StdEncoding.EncodeToString(p.Extra))
	}
	b = fmt.Appendf(b, "index %d\n", p.Index)
	b = appendHashes(b, p.Hashes)
	b = append(b, '\n')
	return append(b, p.Checkpoint...)
}

func appendHashes(b []byte, list []Hash) []byte {
	for _, h := range list {
		b = append(base64.StdEncoding.AppendEncode(b, h[:]), '\n')
	}
	return b
}

// ParseProof reads a .tlog-proof strictly; Encode gives the same bytes. The
// checkpoint inside is checked by Verify only. It returns ErrMalformed.
func ParseProof(b []byte) (*Proof, error) {
	if len(b) > maxProofFile {
		return nil, refuse(ErrMalformed, "proof of %d bytes, the most is %d", len(b), maxProofFile)
	}
	head, checkpoint, ok := bytes.Cut(b, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !ok || lines[0] != proofMagic {
		return nil, refuse(ErrMalformed, "file does not start with %s", proofMagic)
	}
	p := &Proof{Checkpoint: checkpoint}
	lines = lines[1:]
	if text, has := strings.CutPrefix(first(lines), "extra "); has {
		extra, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil || len(extra) == 0 {
			return nil, refuse(ErrMalformed, "extra line of a proof")
		}
		p.Extra, lines = extra, lines[1:]
	}
	text, has := strings.CutPrefix(first(lines), "index ")
	index, err := parseSize(text)
	if !has || err != nil {
		return nil, refuse(ErrMalformed, "index line of a proof")
	}
	p.Index = index
	if p.Hashes, err = parseHashes(lines[1:]); err != nil {
		return nil, err
	}
	if !bytes.Equal(p.Encode(), b) {
		return nil, refuse(ErrMalformed, "proof is not canonical")
	}
	return p, nil
}

func first(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return lines[0]
}

// parseSize reads a decimal number without leading zeros.
func parseSize(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, refuse(ErrMalformed, "%q is no size", s)
	}
	return n, nil
}

func parseHashes(lines []string) ([]Hash, error) {
	if len(lines) > maxProofLines {
		return nil, refuse(ErrMalformed, "proof of %d lines, the most is %d", len(lines), maxProofLines)
	}
	var out []Hash
	for _, line := range lines {
		h, err := parseHash(line)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}

// Verify checks that the entry with this leaf hash is in the log of the policy
// under a checkpoint with its quorum, and returns that checkpoint.
func (p *Proof) Verify(policy *Policy, leaf Hash) (Checkpoint, error) {
	c, err := policy.OpenFinal(p.Checkpoint)
	if err != nil {
		return Checkpoint{}, err
	}
	return c, CheckInclusion(c, p.Index, leaf, p.Hashes)
}
