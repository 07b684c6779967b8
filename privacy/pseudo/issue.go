package pseudo

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"gridveil/privacy"
)

const (
	// MaxDeck is the most certificates in one batch.
	MaxDeck = 64
	// MeterDeck is a meter's batch: one certificate for each day of a week.
	MeterDeck = 7
	// AnswerKept is how long a stored answer is repeated to the same request.
	AnswerKept = 24 * time.Hour

	reqHead = 2 + 16 + 4 + 16 + 1 + 16 // kind, version, contract, epoch, audience, n, nonce
	reqItem = 32 + 32 + 16 + 64        // spk, bpk, bsalt, enrol
)

var (
	// ErrContract says that no active contract has that handle and kind, or
	// that the request is not signed by its key. The reasons are not told
	// apart to the asker.
	ErrContract = errors.New("no such contract")
	// ErrBatch says that the batch has a wrong size or epoch, or a key that
	// is unusable or used before.
	ErrBatch = errors.New("batch is not acceptable")
	// ErrBatchTaken says that another batch was issued for this contract,
	// epoch and audience, or that the stored answer is older than AnswerKept.
	ErrBatchTaken = errors.New("batch already issued")
)

// Contract is what an issuer knows about one of its contracts or meters.
type Contract struct {
	Kind   CertKind
	LK     [32]byte // contract key (driver) or LFID key (meter), Ed25519
	Arg    uint16   // limit, one of Bands (driver) or zone (meter)
	Deck   int      // certificates per epoch: 16 or 64 (driver), MeterDeck (meter)
	Active bool
}

// Batch is the memory that one batch was issued. Answer is sealed to the asker
// and dropped by the store after Until.
type Batch struct {
	Request [32]byte // hash of the sealed request
	Answer  []byte
	Until   time.Time
}

// Book is the issuer's stored state.
type Book interface {
	Contract(handle [16]byte) (Contract, bool)
	Batch(handle [16]byte, epoch uint32, audience [16]byte) (Batch, bool)
	HasBillKey(bpk [32]byte) bool
}

// BillRow is all an issuer keeps of one pseudonym: whom to bill when a line
// with this bill key comes. Rows live 60 days after their epoch.
type BillRow struct {
	BPK      [32]byte
	Contract [16]byte
	Epoch    uint32
}

// Issuer is a utility's (or escrow's) issuing service for one key period.
type Issuer struct {
	Net       privacy.Net
	ID        [16]byte
	Key       ed25519.PrivateKey // signs certificates for a quarter
	Box       privacy.BoxKey     // opens requests for one day, then erased
	Committee [32]byte           // openers' public key Y
	Book      Book
}

// Issued is what one request leads to. Persist Batch and Rows in one
// transaction, then send Batch.Answer; keep nothing else of the request.
type Issued struct {
	Contract [16]byte
	Epoch    uint32
	Audience [16]byte
	Batch    Batch
	Rows     []BillRow // sorted by bill key, which is random; none for meters
	Repeated bool      // Batch was stored before: nothing to persist
}

// Issue answers a sealed batch request of a driver (kind KindBatchReq) or meter
// (KindMeterReq). The same request within AnswerKept gets the stored answer.
//
// Checks: contract key and state, batch size, epoch (this or the next), one
// batch per contract, epoch and audience, every key usable and new, every enrol
// signature. Errors: ErrEncoding or privacy.ErrOpen for bytes that are no
// request, ErrContract, ErrBatch, ErrBatchTaken.
func (is *Issuer) Issue(rnd io.Reader, kind privacy.Kind, box []byte, now time.Time) (*Issued, error) {
	pt, exporter, err := privacy.Open(is.Box, kind, is.Net, box)
	if err != nil {
		return nil, fmt.Errorf("batch request: %w", err)
	}
	req, err := parseReq(kind, pt)
	if err != nil {
		return nil, err
	}
	contract, ok := is.Book.Contract(req.contract)
	if !ok || !contract.Active || contract.Kind != kindOf(kind) ||
		!privacy.Verify(contract.LK[:], kind, is.Net, pt[:len(pt)-64], req.sig) {
		return nil, ErrContract
	}
	hash := sha256.Sum256(box)
	if old, ok := is.Book.Batch(req.contract, req.epoch, req.audience); ok {
		if old.Request != hash || len(old.Answer) == 0 || !now.Before(old.Until) {
			return nil, ErrBatchTaken
		}
		return &Issued{Contract: req.contract, Epoch: req.epoch, Audience: req.audience, Batch: old, Repeated: true}, nil
	}
	if err := is.checkBatch(req, contract, now); err != nil {
		return nil, err
	}
	return is.certify(rnd, req, contract, exporter, hash, now)
}

func (is *Issuer) checkBatch(req *batchReq, contract Contract, now time.Time) error {
	if len(req.items) != contract.Deck || !epochOpen(contract.Kind, req.epoch, now) {
		return fmt.Errorf("%d keys for epoch %d: %w", len(req.items), req.epoch, ErrBatch)
	}
	seen := make(map[[32]byte]bool, 2*len(req.items))
	for _, it := range req.items {
		keys := [][32]byte{it.spk, it.bpk}
		if contract.Kind == Meter {
			if it.bpk != ([32]byte{}) || it.bsalt != ([16]byte{}) {
				return fmt.Errorf("a meter has no bill key: %w", ErrBatch)
			}
			keys = keys[:1]
		}
		for _, k := range keys {
			if err := privacy.CheckKey(k[:]); err != nil || seen[k] {
				return fmt.Errorf("unusable or repeated key: %w", ErrBatch)
			}
			seen[k] = true
		}
		if contract.Kind == Driver && is.Book.HasBillKey(it.bpk) {
			return fmt.Errorf("bill key used before: %w", ErrBatch)
		}
	}
	return nil
}

// epochOpen reports whether a batch for the epoch may be asked for now: a driver
// for this week or the next, a meter for the seven days from a Monday that
// include today or follow this week. Weeks of meters begin on Mondays only, so
// that two batches never hold certificates of the same day.
func epochOpen(kind CertKind, epoch uint32, now time.Time) bool {
	this := Week(now)
	if kind == Meter {
		return epoch%MeterDeck == 0 && (epoch/MeterDeck == this || epoch/MeterDeck == this+1)
	}
	return epoch == this || epoch == this+1
}

// certify makes the certificates, seals the answer and forgets: s, spk, bsalt
// and the certificates exist only in this call.
func (is *Issuer) certify(rnd io.Reader, req *batchReq, contract Contract, ex privacy.Exporter, hash [32]byte, now time.Time) (*Issued, error) {
	pub := is.Key.Public().(ed25519.PublicKey)
	out := &Issued{Contract: req.contract, Epoch: req.epoch, Audience: req.audience}
	reply := replyHead(req.kind, req.epoch, len(req.items))
	for i, it := range req.items {
		h := head{kind: contract.Kind, arg: contract.Arg, issuer: is.ID, audience: req.audience,
			epoch: epochOf(contract.Kind, req.epoch, i), keyID: privacy.KeyID(privacy.UsePseudonym, pub), spk: it.spk}
		if contract.Kind == Driver {
			h.bcom = BillCommitment(it.bpk, it.bsalt)
			out.Rows = append(out.Rows, BillRow{it.bpk, req.contract, req.epoch})
		}
		c := h.cert()
		if !CheckEnrol(&c, is.Net, contract.LK, it.enrol) {
			return nil, fmt.Errorf("enrol signature %d: %w", i, ErrBatch)
		}
		if err := sealCapsule(rnd, &c, is.Committee, req.contract, it.enrol); err != nil {
			return nil, err
		}
		sig := privacy.Sign(is.Key, privacy.KindCert, is.Net, c[:sigAt])
		copy(c[sigAt:], sig[:])
		reply = append(reply, c[:]...)
	}
	slices.SortFunc(out.Rows, func(a, b BillRow) int { return bytes.Compare(a.BPK[:], b.BPK[:]) })
	answer, err := ex.Seal(rnd, privacy.KindBatchReply, reply)
	if err != nil {
		return nil, fmt.Errorf("seal certificates: %w", err)
	}
	out.Batch = Batch{Request: hash, Answer: answer, Until: now.Add(AnswerKept)}
	return out, nil
}

// epochOf is the epoch of the i-th certificate: drivers' all share the week,
// meters' count the days up from the request's.
func epochOf(kind CertKind, epoch uint32, i int) uint32 {
	if kind == Meter {
		return epoch + uint32(i)
	}
	return epoch
}

func kindOf(k privacy.Kind) CertKind {
	if k == privacy.KindMeterReq {
		return Meter
	}
	return Driver
}

// head is a certificate's first 116 bytes, which wallet and issuer build alike.
type head struct {
	kind             CertKind
	arg              uint16
	issuer, audience [16]byte
	epoch            uint32
	keyID            [8]byte
	spk, bcom        [32]byte
}

func (h head) cert() Cert {
	var c Cert
	copy(c[:], magic)
	c[schemeAt], c[kindAt] = scheme, byte(h.kind)
	binary.BigEndian.PutUint16(c[argAt:], h.arg)
	copy(c[issuerAt:], h.issuer[:])
	copy(c[audienceAt:], h.audience[:])
	binary.BigEndian.PutUint32(c[epochAt:], h.epoch)
	copy(c[keyIDAt:], h.keyID[:])
	copy(c[spkAt:], h.spk[:])
	copy(c[bcomAt:], h.bcom[:])
	return c
}

// batchReq is { kind version contract16 epoch4 audience16 n1 nonce16
// {spk32 bpk32 bsalt16 enrol64}*n sigLK64 }.
type batchReq struct {
	kind     privacy.Kind
	contract [16]byte
	epoch    uint32
	audience [16]byte
	nonce    [16]byte
	items    []batchItem
	sig      privacy.Signature
}

type batchItem struct {
	spk, bpk [32]byte
	bsalt    [16]byte
	enrol    privacy.Signature
}

// body is everything the contract key signs.
func (r *batchReq) body() []byte {
	b := make([]byte, 0, reqHead+reqItem*len(r.items)+64)
	b = append(b, byte(r.kind), privacy.Version)
	b = append(b, r.contract[:]...)
	b = binary.BigEndian.AppendUint32(b, r.epoch)
	b = append(b, r.audience[:]...)
	b = append(b, byte(len(r.items)))
	b = append(b, r.nonce[:]...)
	for i := range r.items {
		it := &r.items[i]
		b = append(b, it.spk[:]...)
		b = append(b, it.bpk[:]...)
		b = append(b, it.bsalt[:]...)
		b = append(b, it.enrol[:]...)
	}
	return b
}

func parseReq(kind privacy.Kind, b []byte) (*batchReq, error) {
	if len(b) < reqHead || privacy.Kind(b[0]) != kind || b[1] != privacy.Version {
		return nil, fmt.Errorf("batch request: %w", ErrEncoding)
	}
	if kind != privacy.KindBatchReq && kind != privacy.KindMeterReq {
		return nil, fmt.Errorf("%v is no batch request: %w", kind, ErrEncoding)
	}
	n := int(b[38])
	if n < 1 || n > MaxDeck || len(b) != reqHead+n*reqItem+64 {
		return nil, fmt.Errorf("batch request of %d keys in %d bytes: %w", n, len(b), ErrEncoding)
	}
	r := &batchReq{kind: kind, contract: [16]byte(b[2:]), epoch: binary.BigEndian.Uint32(b[18:]),
		audience: [16]byte(b[22:]), nonce: [16]byte(b[39:]), items: make([]batchItem, n), sig: privacy.Signature(b[len(b)-64:])}
	for i := range r.items {
		p := b[reqHead+i*reqItem:]
		r.items[i] = batchItem{[32]byte(p), [32]byte(p[32:]), [16]byte(p[64:]), privacy.Signature(p[80:])}
	}
	return r, nil
}

// replyHead begins { kind version reqkind epoch4 n1 Cert*n }.
func replyHead(req privacy.Kind, epoch uint32, n int) []byte {
	b := make([]byte, 0, 8+n*CertSize)
	b = append(b, byte(privacy.KindBatchReply), privacy.Version, byte(req))
	b = binary.BigEndian.AppendUint32(b, epoch)
	return append(b, byte(n))
}
