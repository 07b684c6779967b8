package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sort"

	"gridveil/privacy"
)

const (
	entryMagic = "GVE1"
	entryHead  = 19     // magic, kind, party, seq, body length
	sigSize    = 8 + 64 // key id and signature

	// MaxEntry is the largest entry in bytes: bundles frame entries with a u16.
	MaxEntry = 65535
	// MaxSigs is the most signatures of one entry: genesis is signed by each of
	// its parties, an approver's registration by k+2.
	MaxSigs = 8
)

// entryDomain separates entry signatures from everything else a key may sign.
const entryDomain = "gridveil/entry/v1\x00"

// KeyID is the short name of a public key in a signature.
type KeyID [8]byte

// Use says what a registered key may sign.
type Use = privacy.Use

// Uses of a registered key, as on the wire.
const (
	UseEntry     = privacy.UseEntry     // entries of the log
	UseReceipt   = privacy.UseReceipt   // receipts of the writer
	UsePseudonym = privacy.UsePseudonym // certificates of a utility's pseudonym issuer
)

// KeyIDOf is SHA-256("gridveil/key/v1\0" || use || pub)[:8].
func KeyIDOf(use Use, pub Hash) KeyID { return privacy.KeyID(use, pub[:]) }

// Signature is one signature of an entry.
type Signature struct {
	Key KeyID
	Sig [64]byte
}

// Entry is one parsed entry. It is immutable except through Sign; the bytes it
// was parsed from are kept, because they are what is hashed and stored.
type Entry struct {
	party PartyID
	seq   uint64
	body  Body
	sigs  []Signature
	raw   []byte // as on the wire
	leaf  Hash   // of raw
	head  int    // length of raw before the signature count
}

// NewEntry encodes an entry of the author with its next sequence number. It is
// complete only after Sign. It returns ErrMalformed if the body is out of its
// ranges or too long.
func NewEntry(author PartyID, seq uint64, body Body) (*Entry, error) {
	var w encoder
	body.put(&w)
	if len(w.b) > MaxEntry-entryHead-1-MaxSigs*sigSize {
		return nil, refuse(ErrMalformed, "body of %s has %d bytes", body.Kind(), len(w.b))
	}
	b := make([]byte, 0, entryHead+len(w.b)+1+2*sigSize)
	b = append(b, entryMagic...)                         // 0 magic
	b = append(b, uint8(body.Kind()))                    // 4 kind
	b = binary.BigEndian.AppendUint32(b, uint32(author)) // 5 party
	b = binary.BigEndian.AppendUint64(b, seq)            // 9 seq
	b = binary.BigEndian.AppendUint16(b, uint16(len(w.b)))
	b = append(b, w.b...)
	again, err := parseBody(body.Kind(), w.b)
	if err != nil {
		return nil, err
	}
	e := &Entry{party: author, seq: seq, body: again, head: len(b)}
	e.set(append(b, 0))
	return e, nil
}

// Parse reads one entry strictly: exactly one encoding exists for each entry,
// and Bytes returns b. The entry keeps b, which must not change afterwards.
// It returns ErrMalformed or ErrKind and never panics. An entry may still lack
// signatures of other parties; Checks decides whether the set is right.
func Parse(b []byte) (*Entry, error) {
	if len(b) < entryHead+1+sigSize || len(b) > MaxEntry {
		return nil, refuse(ErrMalformed, "%d bytes, want %d to %d", len(b), entryHead+1+sigSize, MaxEntry)
	}
	if string(b[:4]) != entryMagic {
		return nil, refuse(ErrMalformed, "starts with %q, want %q", b[:4], entryMagic)
	}
	head := entryHead + int(binary.BigEndian.Uint16(b[17:]))
	if head >= len(b) {
		return nil, refuse(ErrMalformed, "body longer than the entry")
	}
	n := int(b[head])
	if n < 1 || n > MaxSigs || len(b) != head+1+n*sigSize {
		return nil, refuse(ErrMalformed, "%d signatures in %d bytes", n, len(b)-head-1)
	}
	e := &Entry{party: PartyID(binary.BigEndian.Uint32(b[5:])), seq: binary.BigEndian.Uint64(b[9:]), head: head}
	if e.party == 0 || e.seq == 0 {
		return nil, refuse(ErrMalformed, "author and sequence number count from 1")
	}
	var err error
	if e.body, err = parseBody(Kind(b[4]), b[entryHead:head]); err != nil {
		return nil, err
	}
	e.sigs, err = parseSigs(b[head+1:])
	e.set(b)
	return e, err
}

// set makes b the bytes of e.
func (e *Entry) set(b []byte) { e.raw, e.leaf = b, LeafHash(b) }

func parseSigs(b []byte) ([]Signature, error) {
	sigs := make([]Signature, len(b)/sigSize)
	for i := range sigs {
		copy(sigs[i].Key[:], b[i*sigSize:])
		copy(sigs[i].Sig[:], b[i*sigSize+8:])
		if i > 0 && bytes.Compare(sigs[i-1].Key[:], sigs[i].Key[:]) >= 0 {
			return nil, refuse(ErrMalformed, "signatures are not in ascending order of key id")
		}
	}
	return sigs, nil
}

// Kind is the kind of the body.
func (e *Entry) Kind() Kind { return e.body.Kind() }

// Party is the author, who numbers its entries.
func (e *Entry) Party() PartyID { return e.party }

// Seq is the author's number of this entry, from 1.
func (e *Entry) Seq() uint64 { return e.seq }

// Body is the parsed body, one of the structs of this package; read only.
func (e *Entry) Body() Body { return e.body }

// Sigs lists the signatures in ascending order of key id; read only.
func (e *Entry) Sigs() []Signature { return e.sigs }

// Bytes is the entry as stored and hashed; read only.
func (e *Entry) Bytes() []byte { return e.raw }

// Author gives author and sequence number, the idempotent id of the entry.
func (e *Entry) Author() (party uint32, seq uint64) { return uint32(e.party), e.seq }

// Leaf is the RFC 6962 leaf hash SHA-256(0x00 || entry).
func (e *Entry) Leaf() Hash { return e.leaf }

// LeafHash is the RFC 6962 leaf hash of raw entry bytes.
func LeafHash(raw []byte) Hash {
	var buf [512]byte // most entries fit, and then nothing is allocated
	return sha256.Sum256(append(append(buf[:0], 0), raw...))
}

// signed returns what the signatures of e cover.
func (e *Entry) signed(originHash Hash) []byte {
	b := make([]byte, 0, len(entryDomain)+32+e.head)
	b = append(b, entryDomain...)
	b = append(b, originHash[:]...)
	return append(b, e.raw[:e.head]...)
}

// OriginHash is SHA-256 of a log's origin. Every signature of an entry covers that
// of the ledger's first log, so that an entry of one ledger is worth nothing in
// another.
func OriginHash(origin string) Hash { return sha256.Sum256([]byte(origin)) }

// Sign adds a signature of each entry key for the ledger whose first log has this
// origin (State.Ledger), keeping those already there, so an
// entry can travel from party to party. It returns ErrSigners if there would be
// more than MaxSigs.
func Sign(e *Entry, origin string, keys ...ed25519.PrivateKey) error {
	for _, k := range keys {
		if err := SignAs(e, origin, UseEntry, k); err != nil {
			return err
		}
	}
	return nil
}

// SignAs is Sign for a key of another use: a new receipt or pseudonym key signs
// its own registration.
func SignAs(e *Entry, origin string, use Use, key ed25519.PrivateKey) error {
	pub := Hash(key.Public().(ed25519.PublicKey))
	s := Signature{Key: KeyIDOf(use, pub), Sig: [64]byte(ed25519.Sign(key, e.signed(OriginHash(origin))))}
	i := sort.Search(len(e.sigs), func(i int) bool { return bytes.Compare(e.sigs[i].Key[:], s.Key[:]) >= 0 })
	sigs := append([]Signature(nil), e.sigs[:i]...)
	sigs = append(sigs, s)
	if i < len(e.sigs) && e.sigs[i].Key == s.Key {
		i++ // the same key signs again: the signature is replaced
	}
	sigs = append(sigs, e.sigs[i:]...)
	if len(sigs) > MaxSigs {
		return fmt.Errorf("%w: an entry holds at most %d signatures", ErrSigners, MaxSigs)
	}
	raw := append([]byte(nil), e.raw[:e.head]...)
	raw = append(raw, uint8(len(sigs)))
	for _, s := range sigs {
		raw = append(append(raw, s.Key[:]...), s.Sig[:]...)
	}
	e.sigs = sigs
	e.set(raw)
	return nil
}
