package ledger

import (
	"crypto/ed25519"
	"encoding/binary"

	"gridveil/ledger/internal/sigbatch"
)

const (
	receiptDomain = "gridveil/receipt/v1\x00"
	receiptHead   = 100 // what the signature covers

	// ReceiptSize is the length of an encoded receipt.
	ReceiptSize = receiptHead + 64
)

// Receipt is the writer's promise that an entry is in the log within
// Params.MergeDelayMs of Ms. It is sent only after the entry is durable.
type Receipt struct {
	Origin Hash // OriginHash of the log
	Index  uint64
	Leaf   Hash
	Party  PartyID // author of the entry
	Seq    uint64
	Ms     uint64 // UTC ms of the writer's clock
	Key    KeyID  // of a receipt key of the aggregator
	Sig    [64]byte
}

func (r *Receipt) head() []byte {
	b := make([]byte, 0, ReceiptSize)
	b = append(b, r.Origin[:]...)                         // 0
	b = binary.BigEndian.AppendUint64(b, r.Index)         // 32
	b = append(b, r.Leaf[:]...)                           // 40
	b = binary.BigEndian.AppendUint32(b, uint32(r.Party)) // 72
	b = binary.BigEndian.AppendUint64(b, r.Seq)           // 76
	b = binary.BigEndian.AppendUint64(b, r.Ms)            // 84
	return append(b, r.Key[:]...)                         // 92
}

// SignReceipt fills Key and Sig of r with the writer's receipt key.
func SignReceipt(r Receipt, key ed25519.PrivateKey) Receipt {
	r.Key = KeyIDOf(UseReceipt, Hash(key.Public().(ed25519.PublicKey)))
	r.Sig = [64]byte(ed25519.Sign(key, append([]byte(receiptDomain), r.head()...)))
	return r
}

// Encode gives the 164 bytes of the receipt.
func (r *Receipt) Encode() []byte { return append(r.head(), r.Sig[:]...) }

// ParseReceipt reads exactly ReceiptSize bytes; it returns ErrMalformed.
func ParseReceipt(b []byte) (Receipt, error) {
	if len(b) != ReceiptSize {
		return Receipt{}, refuse(ErrMalformed, "receipt has %d bytes, want %d", len(b), ReceiptSize)
	}
	d := decoder{b: b}
	r := Receipt{Origin: d.h32(), Index: d.u64(), Leaf: d.h32(), Party: PartyID(d.u32()), Seq: d.u64(), Ms: d.u64()}
	copy(r.Key[:], d.take(len(r.Key)))
	copy(r.Sig[:], d.take(len(r.Sig)))
	return r, nil
}

// Verify checks that pub, a receipt key of the aggregator, signed the receipt
// for this origin. It returns ErrSignature.
func (r *Receipt) Verify(origin string, pub Hash) error {
	if r.Origin != OriginHash(origin) || r.Key != KeyIDOf(UseReceipt, pub) {
		return refuse(ErrSignature, "receipt is of another log or key")
	}
	if !sigbatch.One(pub[:], append([]byte(receiptDomain), r.head()...), r.Sig[:]) {
		return refuse(ErrSignature, "receipt")
	}
	return nil
}
