package ledger

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// Limits of a request.
const (
	MaxRequestEntries = 1024
	MaxRequest        = 4 << 20 // bytes
)

// AddCheckpoint is the body of POST /add-checkpoint. Source: C2SP tlog-witness.
type AddCheckpoint struct {
	Old        uint64 // size that the witness is thought to have cosigned
	Proof      []Hash // consistency from Old, empty if Old is 0
	Checkpoint []byte // the note
}

// Encode writes the body.
func (r *AddCheckpoint) Encode() []byte {
	b := fmt.Appendf(nil, "old %d\n", r.Old)
	b = append(appendHashes(b, r.Proof), '\n')
	return append(b, r.Checkpoint...)
}

// ParseAddCheckpoint reads the body strictly; it returns ErrMalformed.
func ParseAddCheckpoint(b []byte) (*AddCheckpoint, error) {
	if len(b) > maxProofFile {
		return nil, refuse(ErrMalformed, "request of %d bytes, the most is %d", len(b), maxProofFile)
	}
	head, checkpoint, ok := bytes.Cut(b, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	text, has := strings.CutPrefix(lines[0], "old ")
	old, err := parseSize(text)
	if !ok || !has || err != nil {
		return nil, refuse(ErrMalformed, "request does not start with an old size line")
	}
	proof, err := parseHashes(lines[1:])
	if err != nil {
		return nil, err
	}
	return &AddCheckpoint{Old: old, Proof: proof, Checkpoint: checkpoint}, nil
}

// AppendBundle frames an entry for POST /entries and for C2SP entry bundles:
// u16 length, then the entry.
func AppendBundle(b, entry []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(entry))), entry...)
}

// ParseBundle splits a bundle of at most limit entries. The entries share b. It
// returns ErrMalformed if a frame is cut or empty, or there are more.
func ParseBundle(b []byte, limit int) ([][]byte, error) {
	var out [][]byte
	for len(b) > 0 {
		if len(b) < 2 {
			return nil, refuse(ErrMalformed, "bundle is cut after %d entries", len(out))
		}
		n := int(binary.BigEndian.Uint16(b))
		if n == 0 || len(b) < 2+n {
			return nil, refuse(ErrMalformed, "bundle is cut after %d entries", len(out))
		}
		if len(out) == limit {
			return nil, refuse(ErrMalformed, "bundle of more than %d entries", limit)
		}
		out = append(out, b[2:2+n:2+n])
		b = b[2+n:]
	}
	return out, nil
}
