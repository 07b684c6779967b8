package pseudo

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"gridveil/privacy"
)

// ErrNoPseudonym says that a deck is empty or not valid now; the NoPseudonymError
// around it says when the next one can be had.
var ErrNoPseudonym = errors.New("no pseudonym left")

// NoPseudonymError wraps ErrNoPseudonym.
type NoPseudonymError struct{ Next time.Time } // first moment of the next epoch

func (e *NoPseudonymError) Error() string {
	return fmt.Sprintf("%v: the next deck is valid from %s", ErrNoPseudonym, e.Next.Format(time.RFC3339))
}

func (e *NoPseudonymError) Unwrap() error { return ErrNoPseudonym }

// Profile is what a wallet (or meter) knows of its contract and issuer.
type Profile struct {
	Net       privacy.Net
	Kind      CertKind
	Contract  [16]byte
	LK        ed25519.PrivateKey
	Arg       uint16 // limit, or the meter's zone
	Deck      int    // certificates per batch
	Issuer    [16]byte
	IssuerKey [32]byte      // from the ledger
	Suite     privacy.Suite // of IssueBox
	IssueBox  []byte        // the issuer's HPKE key of the day
}

// Pending is a batch asked for and not yet answered. Persist its Bytes before
// the box leaves and send the same box until the answer comes.
type Pending struct {
	Epoch    uint32
	Audience [16]byte
	Box      []byte // the sealed request
	exporter privacy.Exporter
	kind     CertKind
	keys     []keySet
}

type keySet struct {
	ssk, bsk [32]byte // Ed25519 seeds
	bsalt    [16]byte
}

// NewBatch makes the key pairs of one deck and the sealed request for their
// certificates. For a meter epoch is the first of seven days, a Monday, and
// audience the zone's DSO. It returns ErrBatch for a deck size no issuer takes.
func NewBatch(rnd io.Reader, p Profile, audience [16]byte, epoch uint32) (*Pending, error) {
	if p.Deck < 1 || p.Deck > MaxDeck {
		return nil, fmt.Errorf("deck of %d: %w", p.Deck, ErrBatch)
	}
	pending := &Pending{Epoch: epoch, Audience: audience, kind: p.Kind, keys: make([]keySet, p.Deck)}
	req := &batchReq{kind: p.reqKind(), contract: p.Contract, epoch: epoch, audience: audience, items: make([]batchItem, p.Deck)}
	if _, err := io.ReadFull(rnd, req.nonce[:]); err != nil {
		return nil, fmt.Errorf("read nonce: %w", err)
	}
	for i := range req.items {
		k := &pending.keys[i]
		if err := k.draw(rnd, p.Kind); err != nil {
			return nil, err
		}
		c := p.head(k, audience, epochOf(p.Kind, epoch, i)).cert()
		req.items[i] = batchItem{spk: k.spk(), bpk: k.bpk(), bsalt: k.bsalt, enrol: privacy.Sign(p.LK, privacy.KindEnrol, p.Net, c.head())}
	}
	body := req.body()
	sig := privacy.Sign(p.LK, req.kind, p.Net, body)
	var err error
	pending.Box, pending.exporter, err = privacy.Seal(rnd, p.Suite, p.IssueBox, req.kind, p.Net, append(body, sig[:]...))
	if err != nil {
		return nil, fmt.Errorf("seal batch request: %w", err)
	}
	return pending, nil
}

func (p Profile) reqKind() privacy.Kind {
	if p.Kind == Meter {
		return privacy.KindMeterReq
	}
	return privacy.KindBatchReq
}

func (p Profile) head(k *keySet, audience [16]byte, epoch uint32) head {
	h := head{kind: p.Kind, arg: p.Arg, issuer: p.Issuer, audience: audience, epoch: epoch,
		keyID: privacy.KeyID(privacy.UsePseudonym, p.IssuerKey[:]), spk: k.spk()}
	if p.Kind == Driver {
		h.bcom = BillCommitment(k.bpk(), k.bsalt)
	}
	return h
}

// draw leaves the bill key zero for meters, which are not billed by it.
func (k *keySet) draw(rnd io.Reader, kind CertKind) error {
	parts := [][]byte{k.ssk[:], k.bsk[:], k.bsalt[:]}
	if kind == Meter {
		parts = parts[:1]
	}
	for _, b := range parts {
		if _, err := io.ReadFull(rnd, b); err != nil {
			return fmt.Errorf("read key seed: %w", err)
		}
	}
	return nil
}

func (k *keySet) spk() [32]byte { return public(k.ssk) }

func (k *keySet) bpk() [32]byte {
	if k.bsk == ([32]byte{}) {
		return [32]byte{}
	}
	return public(k.bsk)
}

func public(seed [32]byte) [32]byte {
	return [32]byte(ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey))
}

// Finish opens the issuer's answer and checks every certificate: it must be
// exactly the one asked for, signed, with a proven capsule. It returns
// privacy.ErrOpen, ErrEncoding, ErrSignature or ErrProof; the pending batch can
// be tried again with another answer.
func (b *Pending) Finish(p Profile, answer []byte) (*Deck, error) {
	pt, err := b.exporter.Open(privacy.KindBatchReply, answer)
	if err != nil {
		return nil, fmt.Errorf("batch reply: %w", err)
	}
	want := replyHead(p.reqKind(), b.Epoch, len(b.keys))
	if len(pt) != len(want)+len(b.keys)*CertSize || string(pt[:len(want)]) != string(want) {
		return nil, fmt.Errorf("batch reply: %w", ErrEncoding)
	}
	keys := IssuerKeys{}
	if err := keys.Add(p.Issuer, p.IssuerKey); err != nil {
		return nil, err
	}
	d := &Deck{Kind: b.kind, Epoch: b.Epoch, Audience: b.Audience}
	for i := range b.keys {
		k := &b.keys[i]
		c := Cert(pt[len(want)+i*CertSize:])
		asked := p.head(k, b.Audience, epochOf(b.kind, b.Epoch, i)).cert()
		if string(c.head()) != string(asked.head()) {
			return nil, fmt.Errorf("certificate %d is not the one asked for: %w", i, ErrEncoding)
		}
		if err := VerifySignature(&c, p.Net, keys); err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i, err)
		}
		if err := CheckCapsule(&c); err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i, err)
		}
		d.cards = append(d.cards, card{*k, c})
	}
	return d, nil
}

// Deck is a wallet's certificates of one week and audience, or a meter's of
// one week's days.
type Deck struct {
	Kind     CertKind
	Epoch    uint32
	Audience [16]byte
	cards    []card
}

type card struct {
	keySet
	cert Cert
}

// Left is how many pseudonyms the deck still holds.
func (d *Deck) Left() int { return len(d.cards) }

// Pseudonym is one certificate with its secret keys.
type Pseudonym struct {
	SSK   ed25519.PrivateKey // session key (driver) or one-day key (meter)
	BSK   ed25519.PrivateKey // bill key, nil for meters
	BSalt [16]byte
	Cert  Cert
}

// String names no key.
func (Pseudonym) String() string { return "pseudonym" }

// GoString names no key.
func (Pseudonym) GoString() string { return "pseudonym" }

// Take removes one pseudonym that is valid at now and gives it away. Persist
// the deck's Bytes (and the pseudonym where its session keeps its state) before
// the first message under it leaves: a pseudonym is used once, and a crash must
// not bring it back. It returns a NoPseudonymError if there is none.
func (d *Deck) Take(now time.Time) (Pseudonym, error) {
	for i := len(d.cards) - 1; i >= 0; i-- {
		c := d.cards[i]
		from, to := Window(d.Kind, c.cert.Epoch())
		if now.Before(from) || !now.Before(to) {
			continue
		}
		d.cards = slices.Delete(d.cards, i, i+1) // also zeroes the secret keys
		p := Pseudonym{SSK: ed25519.NewKeyFromSeed(c.ssk[:]), BSalt: c.bsalt, Cert: c.cert}
		if d.Kind == Driver {
			p.BSK = ed25519.NewKeyFromSeed(c.bsk[:])
		}
		return p, nil
	}
	current := Week(now)
	if d.Kind == Meter {
		current = Day(now)
	}
	next, _ := Window(d.Kind, current+1)
	return Pseudonym{}, &NoPseudonymError{Next: next}
}

// Stored forms: "GVB1" a pending batch, "GVD1" a deck. Both are secret.
const (
	pendingMagic, deckMagic = "GVB1", "GVD1"
	storedHead              = 4 + 1 + 4 + 16 + 1
	keySetSize              = 32 + 32 + 16
	maxBox                  = 1 << 16
)

func storedHeader(magic string, kind CertKind, epoch uint32, audience [16]byte, n int) []byte {
	b := append([]byte(magic), byte(kind))
	b = binary.BigEndian.AppendUint32(b, epoch)
	b = append(b, audience[:]...)
	return append(b, byte(n))
}

func (k *keySet) append(b []byte) []byte {
	b = append(b, k.ssk[:]...)
	b = append(b, k.bsk[:]...)
	return append(b, k.bsalt[:]...)
}

func parseKeySet(b []byte) keySet {
	return keySet{[32]byte(b), [32]byte(b[32:]), [16]byte(b[64:])}
}

// Bytes encodes the pending batch for the wallet's encrypted store.
func (b *Pending) Bytes() []byte {
	out := storedHeader(pendingMagic, b.kind, b.Epoch, b.Audience, len(b.keys))
	out = append(out, b.exporter[:]...)
	for i := range b.keys {
		out = b.keys[i].append(out)
	}
	return append(out, b.Box...)
}

// ParsePending is the inverse of Bytes.
func ParsePending(b []byte) (*Pending, error) {
	kind, epoch, audience, n, rest, err := parseStored(pendingMagic, b)
	if err != nil {
		return nil, err
	}
	if n < 1 || len(rest) <= 32+n*keySetSize || len(rest) > maxBox {
		return nil, fmt.Errorf("stored batch of %d bytes: %w", len(b), ErrEncoding)
	}
	p := &Pending{Epoch: epoch, Audience: audience, kind: kind, exporter: privacy.Exporter(rest), keys: make([]keySet, n)}
	for i := range p.keys {
		p.keys[i] = parseKeySet(rest[32+i*keySetSize:])
	}
	p.Box = append([]byte(nil), rest[32+n*keySetSize:]...)
	return p, nil
}

// Bytes encodes the deck for the wallet's encrypted store.
func (d *Deck) Bytes() []byte {
	out := storedHeader(deckMagic, d.Kind, d.Epoch, d.Audience, len(d.cards))
	for i := range d.cards {
		out = d.cards[i].append(out)
		out = append(out, d.cards[i].cert[:]...)
	}
	return out
}

// ParseDeck is the inverse of Bytes.
func ParseDeck(b []byte) (*Deck, error) {
	kind, epoch, audience, n, rest, err := parseStored(deckMagic, b)
	if err != nil {
		return nil, err
	}
	const size = keySetSize + CertSize
	if len(rest) != n*size {
		return nil, fmt.Errorf("stored deck of %d bytes: %w", len(b), ErrEncoding)
	}
	d := &Deck{Kind: kind, Epoch: epoch, Audience: audience}
	for i := range n {
		p := rest[i*size:]
		d.cards = append(d.cards, card{parseKeySet(p), Cert(p[keySetSize:])})
	}
	return d, nil
}

func parseStored(magic string, b []byte) (kind CertKind, epoch uint32, audience [16]byte, n int, rest []byte, err error) {
	if len(b) < storedHead || string(b[:4]) != magic || (b[4] != byte(Driver) && b[4] != byte(Meter)) || b[25] > MaxDeck {
		return 0, 0, audience, 0, nil, fmt.Errorf("stored batch or deck: %w", ErrEncoding)
	}
	return CertKind(b[4]), binary.BigEndian.Uint32(b[5:]), [16]byte(b[9:]), int(b[25]), b[storedHead:], nil
}

const pseudonymSize = keySetSize + CertSize

// Bytes encodes a taken pseudonym for its session's stored state. It is secret.
func (p *Pseudonym) Bytes() []byte {
	k := keySet{ssk: [32]byte(p.SSK.Seed()), bsalt: p.BSalt}
	if p.BSK != nil {
		k.bsk = [32]byte(p.BSK.Seed())
	}
	return append(k.append(make([]byte, 0, pseudonymSize)), p.Cert[:]...)
}

// ParsePseudonym is the inverse of Bytes.
func ParsePseudonym(b []byte) (Pseudonym, error) {
	if len(b) != pseudonymSize {
		return Pseudonym{}, fmt.Errorf("stored pseudonym of %d bytes: %w", len(b), ErrEncoding)
	}
	k := parseKeySet(b)
	c, err := ParseCert(b[keySetSize:])
	if err != nil {
		return Pseudonym{}, err
	}
	p := Pseudonym{SSK: ed25519.NewKeyFromSeed(k.ssk[:]), BSalt: k.bsalt, Cert: *c}
	if c.Kind() == Driver {
		p.BSK = ed25519.NewKeyFromSeed(k.bsk[:])
	} else if k.bsk != ([32]byte{}) || k.bsalt != ([16]byte{}) {
		return Pseudonym{}, fmt.Errorf("stored pseudonym of a meter with a bill key: %w", ErrEncoding)
	}
	return p, nil
}
