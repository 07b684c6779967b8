package ledger

import (
	"crypto/ed25519"
	"encoding/binary"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"gridveil/ledger/internal/sigbatch"
)

const (
	receiptDomain = "gridveil/receipt/v2\x00"
	receiptHead   = 100                    // what a leaf of the tree hashes
	receiptFixed  = receiptHead + 2*2 + 64 // without the path

	// MaxReceipts is how many receipts one signature covers at most.
	MaxReceipts = 1024

	// MaxReceiptSize is the largest encoded receipt in bytes: the path has 10
	// hashes. One that is signed alone has none and 168 bytes.
	MaxReceiptSize = receiptFixed + 10*32
)

// Receipt is the writer's promise that an entry is in the log within
// Params.MergeDelayMs of Ms. It is sent only after the entry is durable.
//
// Receipts given at once share a signature: it is over the root of an RFC 6962
// tree whose leaves are their first 100 bytes, and each carries its path. Every
// receipt stands for itself: nothing of the others is needed to verify it.
type Receipt struct {
	Origin Hash // OriginHash of the log
	Index  uint64
	Leaf   Hash
	Party  PartyID // author of the entry
	Seq    uint64
	Ms     uint64 // UTC ms of the writer's clock
	Key    KeyID  // of a receipt key of the aggregator

	Of, Pos uint16 // it is leaf Pos of Of, which is 1 to MaxReceipts
	Path    []Hash // inclusion proof, the leaf's neighbour first
	Sig     [64]byte
}

// head appends what the leaf of the receipt hashes.
func (r *Receipt) head(b []byte) []byte {
	b = append(b, r.Origin[:]...)                         // 0
	b = binary.BigEndian.AppendUint64(b, r.Index)         // 32
	b = append(b, r.Leaf[:]...)                           // 40
	b = binary.BigEndian.AppendUint32(b, uint32(r.Party)) // 72
	b = binary.BigEndian.AppendUint64(b, r.Seq)           // 76
	b = binary.BigEndian.AppendUint64(b, r.Ms)            // 84
	return append(b, r.Key[:]...)                         // 92
}

// receiptMessage is what a signature over n receipts covers. The count is in it,
// so that no receipt has a second place in the tree.
func receiptMessage(n uint16, root Hash) []byte {
	b := binary.BigEndian.AppendUint16([]byte(receiptDomain), n)
	return append(b, root[:]...)
}

// SignReceipts fills Key and all that belongs to the signature into the receipts
// of the list, with the writer's receipt key: one signature for each MaxReceipts
// of them. It returns the list.
func SignReceipts(key ed25519.PrivateKey, list ...Receipt) []Receipt {
	id := KeyIDOf(UseReceipt, Hash(key.Public().(ed25519.PublicKey)))
	var buf [receiptHead]byte
	for part := range slices.Chunk(list, MaxReceipts) {
		n := uint16(len(part))
		leaves := make([]tlog.Hash, n)
		for i := range part {
			r := &part[i]
			r.Key, r.Of, r.Pos = id, n, uint16(i)
			r.Path = make([]Hash, 0, pathLen(n, uint16(i)))
			leaves[i] = tlog.Hash(LeafHash(r.head(buf[:0])))
		}
		sig := [64]byte(ed25519.Sign(key, receiptMessage(n, Hash(growPaths(part, leaves)))))
		for i := range part {
			part[i].Sig = sig
		}
	}
	return list
}

// growPaths gives the root over leaves and adds to each receipt the hashes of its
// path below that root. tlog.ProveRecord gives the same for one leaf, and was 18
// times as slow for the 1024 of a group.
func growPaths(list []Receipt, leaves []tlog.Hash) tlog.Hash {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := leftOf(uint16(len(leaves)))
	left, right := growPaths(list[:k], leaves[:k]), growPaths(list[k:], leaves[k:])
	for i := range list {
		beside := left
		if i < int(k) {
			beside = right
		}
		list[i].Path = append(list[i].Path, Hash(beside))
	}
	return tlog.NodeHash(left, right)
}

// leftOf is how many of n leaves, at least 2, are in the left subtree: the
// largest power of two below n. Source: RFC 6962, 2.1.
func leftOf(n uint16) uint16 { return 1 << (bits.Len16(n-1) - 1) }

// pathLen is the number of hashes in the path of a leaf of n, pos below n.
func pathLen(n, pos uint16) (hashes int) {
	for ; n > 1; hashes++ {
		if k := leftOf(n); pos < k {
			n = k
		} else {
			n, pos = n-k, pos-k
		}
	}
	return hashes
}

// Encode gives the bytes of the receipt, 168 for one that was signed alone.
func (r *Receipt) Encode() []byte {
	b := r.head(make([]byte, 0, receiptFixed+len(r.Path)*32))
	b = binary.BigEndian.AppendUint16(b, r.Of)  // 100
	b = binary.BigEndian.AppendUint16(b, r.Pos) // 102
	for i := range r.Path {
		b = append(b, r.Path[i][:]...) // 104
	}
	return append(b, r.Sig[:]...)
}

// ParseReceipt reads exactly one receipt; it returns ErrMalformed.
func ParseReceipt(b []byte) (Receipt, error) {
	r, rest, err := CutReceipt(b)
	if err == nil && len(rest) > 0 {
		return Receipt{}, refuse(ErrMalformed, "%d bytes after a receipt", len(rest))
	}
	return r, err
}

// CutReceipt reads a receipt at the start of b and gives what follows it. It
// returns ErrMalformed.
func CutReceipt(b []byte) (Receipt, []byte, error) {
	d := decoder{b: b}
	r := getReceipt(&d)
	if d.bad {
		return Receipt{}, nil, refuse(ErrMalformed, "receipt is cut short, or its place among those signed with it does not exist")
	}
	return r, d.b, nil
}

func getReceipt(d *decoder) Receipt {
	r := Receipt{Origin: d.h32(), Index: d.u64(), Leaf: d.h32(), Party: PartyID(d.u32()), Seq: d.u64(), Ms: d.u64()}
	copy(r.Key[:], d.take(len(r.Key)))
	r.Of, r.Pos = d.u16(), d.u16()
	d.want(r.Of <= MaxReceipts && r.Pos < r.Of)
	if d.bad {
		return r
	}
	for range pathLen(r.Of, r.Pos) {
		r.Path = append(r.Path, d.h32())
	}
	copy(r.Sig[:], d.take(len(r.Sig)))
	return r
}

// Verify checks that pub, a receipt key of the aggregator, signed the receipt
// for this origin. It returns ErrSignature.
func (r *Receipt) Verify(origin string, pub Hash) error {
	if r.Origin != OriginHash(origin) || r.Key != KeyIDOf(UseReceipt, pub) {
		return refuse(ErrSignature, "receipt is of another log or key")
	}
	if r.Of > MaxReceipts || r.Pos >= r.Of || len(r.Path) != pathLen(r.Of, r.Pos) {
		return refuse(ErrSignature, "receipt %d of %d has a path of %d hashes", r.Pos, r.Of, len(r.Path))
	}
	root := rootOf(tlog.Hash(LeafHash(r.head(nil))), r.Of, r.Pos, r.Path)
	if !sigbatch.One(pub[:], receiptMessage(r.Of, Hash(root)), r.Sig[:]) {
		return refuse(ErrSignature, "receipt")
	}
	return nil
}

// rootOf is the root of the tree of n leaves in which the path leads up from the
// leaf at pos; the path has the length for it.
func rootOf(leaf tlog.Hash, n, pos uint16, path []Hash) tlog.Hash {
	if n == 1 {
		return leaf
	}
	k, last := leftOf(n), len(path)-1
	if pos < k {
		return tlog.NodeHash(rootOf(leaf, k, pos, path[:last]), tlog.Hash(path[last]))
	}
	return tlog.NodeHash(tlog.Hash(path[last]), rootOf(leaf, n-k, pos-k, path[:last]))
}
