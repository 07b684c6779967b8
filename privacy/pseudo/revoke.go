package pseudo

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"gridveil/privacy"
)

const (
	// revocationStep is the multiple to which a list is filled with random
	// digests, so that its length tells little.
	revocationStep = 64
	// MaxRevoked bounds one list: 1000 contracts with full decks.
	MaxRevoked = 64_000

	revocationHead = 2 + 16 + 8 + 4 // kind, version, issuer, time, n
)

// RevocationDigest is SHA-256("gridveil-rev" bpk epoch): it revokes one bill
// key without telling those who do not hold it.
func RevocationDigest(bpk [32]byte, epoch uint32) [32]byte {
	b := append([]byte("gridveil-rev"), bpk[:]...)
	return sha256.Sum256(binary.BigEndian.AppendUint32(b, epoch))
}

// Revocation is an issuer's signed list of bill keys that may not open any more
// sessions. A later list of the same issuer replaces it.
type Revocation struct {
	Issuer  [16]byte
	Issued  time.Time // milliseconds
	digests [][32]byte
}

// Has reports whether the list revokes the bill key.
func (r *Revocation) Has(bpk [32]byte, epoch uint32) bool {
	_, found := slices.BinarySearchFunc(r.digests, RevocationDigest(bpk, epoch), compareDigests)
	return found
}

func compareDigests(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) }

// NewRevocation signs a list of the given rows, which must be unbilled, filled
// with random digests to a multiple of 64 and sorted, and seals it to the
// aggregator: a billed key in it would let the aggregator look up old sessions.
// It returns ErrBatch above MaxRevoked.
func NewRevocation(rnd io.Reader, net privacy.Net, issuer [16]byte, key ed25519.PrivateKey, rows []BillRow, now time.Time,
	suite privacy.Suite, to []byte) ([]byte, error) {
	if len(rows) > MaxRevoked {
		return nil, fmt.Errorf("%d revocations: %w", len(rows), ErrBatch)
	}
	digests := make([][32]byte, 0, len(rows)+revocationStep)
	for _, r := range rows {
		digests = append(digests, RevocationDigest(r.BPK, r.Epoch))
	}
	for len(digests) == 0 || len(digests)%revocationStep != 0 {
		var fill [32]byte
		if _, err := io.ReadFull(rnd, fill[:]); err != nil {
			return nil, fmt.Errorf("read filler: %w", err)
		}
		digests = append(digests, fill)
	}
	slices.SortFunc(digests, compareDigests)
	b := append([]byte{byte(privacy.KindRevocation), privacy.Version}, issuer[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(now.UnixMilli()))
	b = binary.BigEndian.AppendUint32(b, uint32(len(digests)))
	for _, d := range digests {
		b = append(b, d[:]...)
	}
	sig := privacy.Sign(key, privacy.KindRevocation, net, b)
	box, _, err := privacy.Seal(rnd, suite, to, privacy.KindRevocation, net, append(b, sig[:]...))
	if err != nil {
		return nil, fmt.Errorf("seal revocations: %w", err)
	}
	return box, nil
}

// OpenRevocation opens and checks a list. issuerKey is the key registered for
// the issuer the list must name. It returns privacy.ErrOpen, ErrEncoding,
// ErrIssuer or ErrSignature.
func OpenRevocation(box []byte, key privacy.BoxKey, net privacy.Net, from IssuerKey) (*Revocation, error) {
	pt, _, err := privacy.Open(key, privacy.KindRevocation, net, box)
	if err != nil {
		return nil, fmt.Errorf("revocation list: %w", err)
	}
	r, err := parseRevocation(pt)
	if err != nil {
		return nil, err
	}
	if r.Issuer != from.Issuer {
		return nil, ErrIssuer
	}
	end := len(pt) - 64
	if !privacy.Verify(from.Pub[:], privacy.KindRevocation, net, pt[:end], privacy.Signature(pt[end:])) {
		return nil, fmt.Errorf("revocation list: %w", ErrSignature)
	}
	return r, nil
}

func parseRevocation(b []byte) (*Revocation, error) {
	if len(b) < revocationHead+64 || b[0] != byte(privacy.KindRevocation) || b[1] != privacy.Version {
		return nil, fmt.Errorf("revocation list: %w", ErrEncoding)
	}
	ms, n := binary.BigEndian.Uint64(b[18:]), binary.BigEndian.Uint32(b[26:])
	if n == 0 || n%revocationStep != 0 || n > MaxRevoked || ms > 1<<62 || len(b) != revocationHead+int(n)*32+64 {
		return nil, fmt.Errorf("revocation list of %d: %w", n, ErrEncoding)
	}
	r := &Revocation{Issuer: [16]byte(b[2:]), Issued: time.UnixMilli(int64(ms)).UTC(), digests: make([][32]byte, n)}
	for i := range r.digests {
		r.digests[i] = [32]byte(b[revocationHead+i*32:])
		if i > 0 && compareDigests(r.digests[i-1], r.digests[i]) >= 0 {
			return nil, fmt.Errorf("revocation list is not sorted: %w", ErrEncoding)
		}
	}
	return r, nil
}
