package store

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// link is one record of the commit chain: what commit n wrote and the hash of
// the commit before it. Its bytes are kept under spaceCommit || n.
type link struct {
	n       uint64
	restart bool // starts a new chain after accepted damage
	prev    [32]byte
	entries []linkEntry // ascending by key
}

type linkEntry struct {
	key  []byte
	gone bool     // deleted
	hash [32]byte // SHA-256 of the sealed value, zero when gone
}

const (
	linkVersion = 1
	linkHeader  = 1 + 1 + 8 + 32 + 4
)

var errLink = errors.New("malformed commit record")

func (l link) encode() []byte {
	b := make([]byte, 0, linkHeader+len(l.entries)*64)
	b = append(b, linkVersion, flagByte(l.restart))
	b = binary.BigEndian.AppendUint64(b, l.n)
	b = append(b, l.prev[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.entries)))
	for _, e := range l.entries {
		b = append(b, flagByte(e.gone))
		b = binary.BigEndian.AppendUint16(b, uint16(len(e.key)))
		b = append(b, e.key...)
		if !e.gone {
			b = append(b, e.hash[:]...)
		}
	}
	return b
}

func flagByte(on bool) byte {
	if on {
		return 1
	}
	return 0
}

// hash is what the next commit and the head slot name.
func (l link) hash() [32]byte {
	return sha256.Sum256(append([]byte("gridveil/store/commit/v1\x00"), l.encode()...))
}

func decodeLink(b []byte) (link, error) {
	if len(b) < linkHeader || b[0] != linkVersion || b[1] > 1 {
		return link{}, errLink
	}
	l := link{restart: b[1] == 1, n: binary.BigEndian.Uint64(b[2:]), prev: [32]byte(b[10:42])}
	count := binary.BigEndian.Uint32(b[42:])
	b = b[linkHeader:]
	for range count {
		if len(b) < 3 || b[0] > 1 {
			return link{}, errLink
		}
		e := linkEntry{gone: b[0] == 1}
		size := int(binary.BigEndian.Uint16(b[1:]))
		b = b[3:]
		if size > len(b) {
			return link{}, errLink
		}
		e.key, b = b[:size], b[size:]
		if !e.gone {
			if len(b) < 32 {
				return link{}, errLink
			}
			e.hash, b = [32]byte(b[:32]), b[32:]
		}
		l.entries = append(l.entries, e)
	}
	if len(b) != 0 {
		return link{}, fmt.Errorf("%w: %d bytes too many", errLink, len(b))
	}
	return l, nil
}

func linkKey(n uint64) []byte { return spaceCommit.Key(U64(n)) }
