package ledger

import (
	"crypto/ed25519"
	"fmt"

	"gridveil/ledger/internal/sigbatch"
)

const (
	evidenceMagic   = "GVX1"
	objectionDomain = "gridveil/objection/v1\x00"
)

// Objection is a verifier's refusal to cosign past an entry, published so that
// others can replay and judge.
type Objection struct {
	Origin  Hash // OriginHash of the log
	Index   uint64
	Leaf    Hash // of the entry that must be refused
	Code    Code // the rule it breaks
	Witness string
	Sig     [64]byte
}

func (o *Objection) head() []byte {
	var w encoder
	w.h32(o.Origin)
	w.u64(o.Index)
	w.h32(o.Leaf)
	w.u16(uint16(o.Code))
	w.str8(o.Witness)
	return w.b
}

// SignObjection fills Sig with the cosigner key of the witness.
func SignObjection(o Objection, key ed25519.PrivateKey) Objection {
	o.Sig = [64]byte(ed25519.Sign(key, append([]byte(objectionDomain), o.head()...)))
	return o
}

// Encode gives the objection as it is published.
func (o *Objection) Encode() []byte { return append(o.head(), o.Sig[:]...) }

// ParseObjection reads exactly one objection; it returns ErrMalformed.
func ParseObjection(b []byte) (Objection, error) {
	r := decoder{b: b}
	o := getObjection(&r)
	if !r.done() {
		return Objection{}, refuse(ErrMalformed, "objection")
	}
	return o, nil
}

func getObjection(r *decoder) Objection {
	o := Objection{Origin: r.h32(), Index: r.u64(), Leaf: r.h32(), Code: Code(r.u16()), Witness: r.str8()}
	copy(o.Sig[:], r.take(len(o.Sig)))
	return o
}

// Verify checks that a witness of the policy objects to its log.
func (o *Objection) Verify(policy *Policy) error {
	if o.Origin != OriginHash(policy.Log.Name()) {
		return refuse(ErrSignature, "objection is about another log")
	}
	for _, w := range policy.Witnesses {
		if w.Name == o.Witness && sigbatch.One(w.Key.pub[:], append([]byte(objectionDomain), o.head()...), o.Sig[:]) {
			return nil
		}
	}
	return refuse(ErrSignature, "objection of no witness of the policy")
}

// EvidenceKind numbers the ways to convict a log.
type EvidenceKind uint8

// Kinds of evidence. Source: design/ledger.md, 4.10.
const (
	TwoRoots     EvidenceKind = 1 // E1: checkpoints A and B of one size, different roots
	OtherHistory EvidenceKind = 2 // E2: B grew out of (size of A, Root), which is not A's root
	BrokenPledge EvidenceKind = 3 // E3: B holds another leaf where the receipt pledged one
	BadEntry     EvidenceKind = 4 // E4: a witness objects to an entry that is under B
)

// Evidence convinces a stranger who has the policy of the log. Fields that a
// kind does not need are empty.
type Evidence struct {
	Kind      EvidenceKind
	A, B      []byte // checkpoint notes
	Root      Hash   // E2
	Proof     []Hash // E2 consistency, E3 and E4 inclusion
	Receipt   Receipt
	Leaf      Hash // E3: what is at the index of the receipt
	Objection Objection
}

// Encode writes the evidence for publication.
func (e *Evidence) Encode() []byte {
	w := encoder{b: []byte(evidenceMagic)}
	w.u8(uint8(e.Kind))
	switch e.Kind {
	case TwoRoots:
		w.blob(e.A)
	case OtherHistory:
		w.blob(e.A)
		w.h32(e.Root)
	case BrokenPledge:
		w.raw(e.Receipt.Encode())
		w.h32(e.Leaf)
	case BadEntry:
		w.raw(e.Objection.Encode())
	}
	w.blob(e.B)
	w.u8(uint8(len(e.Proof)))
	for _, h := range e.Proof {
		w.h32(h)
	}
	return w.b
}

func (w *encoder) blob(b []byte) {
	w.u32(uint32(len(b)))
	w.raw(b)
}

func (r *decoder) blob() []byte {
	n := r.u32()
	r.want(n <= MaxCheckpoint)
	if r.bad {
		return nil
	}
	return r.take(int(n))
}

// ParseEvidence reads evidence strictly; it returns ErrMalformed. Check says
// whether it convicts.
func ParseEvidence(b []byte) (*Evidence, error) {
	r := decoder{b: b}
	if string(r.take(len(evidenceMagic))) != evidenceMagic {
		return nil, refuse(ErrMalformed, "not evidence")
	}
	e := &Evidence{Kind: EvidenceKind(r.enum(uint8(BadEntry)))}
	switch e.Kind {
	case TwoRoots:
		e.A = r.blob()
	case OtherHistory:
		e.A = r.blob()
		e.Root = r.h32()
	case BrokenPledge:
		e.Receipt, e.Leaf = getReceipt(&r), r.h32()
	case BadEntry:
		e.Objection = getObjection(&r)
	}
	e.B = r.blob()
	n := r.u8()
	r.want(n <= maxProofLines && (n == 0 || e.Kind != TwoRoots))
	for range n {
		e.Proof = append(e.Proof, r.h32())
	}
	if !r.done() {
		return nil, refuse(ErrMalformed, "evidence is not canonical")
	}
	return e, nil
}

// Check returns nil if the evidence convicts the log of the policy. Kind E3
// needs the receipt keys of the aggregator; E4 shows only that a witness objects
// to an entry of the log: whether it is right, replaying to it tells.
func (e *Evidence) Check(policy *Policy, receiptKeys ...Hash) error {
	b, _, err := policy.Open(e.B)
	if err != nil {
		return err
	}
	switch e.Kind {
	case TwoRoots, OtherHistory:
		a, _, err := policy.Open(e.A)
		if err != nil {
			return err
		}
		return e.checkRoots(a, b)
	case BrokenPledge:
		return e.checkPledge(policy.Log.Name(), b, receiptKeys)
	case BadEntry:
		if err := e.Objection.Verify(policy); err != nil {
			return err
		}
		return CheckInclusion(b, e.Objection.Index, e.Objection.Leaf, e.Proof)
	}
	return refuse(ErrMalformed, "evidence of kind %d", e.Kind)
}

func (e *Evidence) checkRoots(a, b Checkpoint) error {
	if e.Kind == TwoRoots {
		if a.Size != b.Size || a.Root == b.Root {
			return refuse(ErrSignature, "the checkpoints do not contradict each other")
		}
		return nil
	}
	if e.Root == a.Root || a.Size >= b.Size {
		return refuse(ErrSignature, "the checkpoints do not contradict each other")
	}
	a.Root = e.Root
	return CheckConsistency(a, b, e.Proof)
}

func (e *Evidence) checkPledge(origin string, b Checkpoint, keys []Hash) error {
	err := refuse(ErrSignature, "no receipt key of the aggregator is known")
	for _, k := range keys {
		if err = e.Receipt.Verify(origin, k); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	if e.Leaf == e.Receipt.Leaf {
		return refuse(ErrSignature, "the log holds what the receipt pledged")
	}
	return CheckInclusion(b, e.Receipt.Index, e.Leaf, e.Proof)
}

// String is a line for people.
func (k EvidenceKind) String() string {
	names := [...]string{"", "two roots for one size", "another history", "a broken receipt", "an entry that breaks a rule"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("evidence %d", uint8(k))
}
