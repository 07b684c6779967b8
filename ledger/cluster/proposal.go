package cluster

import (
	"encoding/binary"
	"fmt"

	"gridveil/ledger"
	"gridveil/ledger/store"
)

// Kinds of proposals.
const (
	kindGroup   = 1 // entries to apply at a size
	kindSeal    = 2 // a state that may be signed
	kindPublish = 3 // a final checkpoint
	kindMark    = 4 // how far a member is: of a snapshot, and of who begins to lead
	kindBeside  = 5 // a change of the state beside the log
	kindCross   = 6 // the sealed log is done and the next one begins
	kindFar     = 7 // a mark of a member that crossed borders
)

const magic = "GVCL"

// maxProposal is a full group with its frames and the fields before it.
const maxProposal = ledger.MaxRequest + 2*store.MaxGroup + 64

// maxChange is the largest change of the state beside the log in bytes.
const maxChange = 4 << 20

// proposal is what the members agree on, one raft entry each.
type proposal struct {
	kind    byte
	size    uint64      // entries of all shards before a group, or of the state; the number before a change beside the log
	root    ledger.Hash // of the shard's log there, or the digest at that number
	entries [][]byte    // of a group
	signed  uint64      // of a mark, over all shards
	sroot   ledger.Hash // at the signed size
	beside  uint64      // of a mark
	digest  ledger.Hash // at that number of changes
	note    []byte      // of a final checkpoint, or a change
	borders []Border    // of a mark that are behind it, oldest first; of a crossing the one
}

// encode is "GVCL" kind:u8 size:u64 root[32], then the framed entries of a group,
// the note of a publication, a change, a border, or signed:u64 root[32] beside:u64
// digest[32] and the note of a mark; that of a member beyond borders has their
// number:u8 and the borders before the note.
func (p *proposal) encode() []byte {
	b := append([]byte(magic), p.kind)           // 0
	b = binary.BigEndian.AppendUint64(b, p.size) // 5
	b = append(b, p.root[:]...)                  // 13
	switch p.kind {
	case kindGroup:
		for _, e := range p.entries { // 45
			b = ledger.AppendBundle(b, e)
		}
	case kindCross:
		b = p.borders[0].encode(b) // 45
	case kindMark, kindFar:
		b = binary.BigEndian.AppendUint64(b, p.signed) // 45
		b = append(b, p.sroot[:]...)                   // 53
		b = binary.BigEndian.AppendUint64(b, p.beside) // 85
		b = append(b, p.digest[:]...)                  // 93
		if p.kind == kindFar {
			b = append(b, byte(len(p.borders))) // 125
			for _, x := range p.borders {
				b = x.encode(b)
			}
		}
	}
	return append(b, p.note...) // 45, or 125 of a mark without borders
}

// parseProposal reads exactly what encode writes; it returns ErrMalformed.
func parseProposal(b []byte) (*proposal, error) {
	const fixed, markFixed = 45, 125
	bad := fmt.Errorf("%w: proposal of %d bytes", ledger.ErrMalformed, len(b))
	if len(b) < fixed || len(b) > maxProposal || string(b[:4]) != magic {
		return nil, bad
	}
	p := &proposal{kind: b[4], size: binary.BigEndian.Uint64(b[5:]), root: ledger.Hash(b[13:45])}
	if p.size > 1<<62 {
		return nil, bad
	}
	rest := b[fixed:]
	switch p.kind {
	case kindGroup:
		var err error
		if p.entries, err = ledger.ParseBundle(rest, store.MaxGroup); err != nil || len(p.entries) == 0 {
			return nil, bad
		}
	case kindSeal:
		if len(rest) != 0 {
			return nil, bad
		}
	case kindPublish:
		if len(rest) == 0 || len(rest) > ledger.MaxCheckpoint {
			return nil, bad
		}
		p.note = rest
	case kindBeside:
		p.note = rest
	case kindCross:
		x, rest, ok := parseBorder(rest)
		if !ok || len(rest) > 0 || x.End != p.size {
			return nil, bad
		}
		p.borders = []Border{x}
	case kindMark, kindFar:
		if len(b) < markFixed {
			return nil, bad
		}
		p.signed, p.sroot = binary.BigEndian.Uint64(b[45:]), ledger.Hash(b[53:85])
		p.beside, p.digest, p.note = binary.BigEndian.Uint64(b[85:]), ledger.Hash(b[93:markFixed]), b[markFixed:]
		if p.kind == kindFar {
			var ok bool
			if p.borders, p.note, ok = parseBorders(p.note); !ok {
				return nil, bad
			}
		}
		if p.signed > p.size || len(p.note) > ledger.MaxCheckpoint {
			return nil, bad
		}
	default:
		return nil, bad
	}
	return p, nil
}
