package member

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// ProtocolEnrol is the only protocol open to strangers, at seeds only.
const ProtocolEnrol = "/gridveil/enrol/1"

// Limits of an enrolment.
const (
	CodeLife      = 72 * time.Hour
	AnswerLife    = 24 * time.Hour // how long a lost answer is repeated to the same CSR
	MaxWrong      = 3              // wrong proofs that kill a code
	MaxEnrolments = 8              // strangers at once; the shell counts them
	MaxCSR        = 1 << 10
	MaxRequest    = enrolFixed + MaxCSR
	MaxSnapshot   = 1 << 20                                  // directory snapshot: 2048 registers of 470 B
	MaxAnswer     = MaxSnapshot + MaxBundle + 16<<10         // with bundle, signatures and chain
	MaxAnswers    = 16                                       // tries per code with one CSR; each has a fresh nonce
	enrolFixed    = 4 + idSize + nonceSize + 2 + sha256.Size // magic, invite id, nonce, CSR length, proof
	idSize        = 5
	secretSize    = 10
	nonceSize     = 32
)

// Enrolment errors.
var (
	ErrCode      = errors.New("invitation code is not valid")
	ErrEnrolment = errors.New("enrolment message is malformed")
)

// InviteID names an invitation in public.
type InviteID [idSize]byte

// Code is a one-time invitation as a person receives it.
type Code struct {
	ID     InviteID
	Secret [secretSize]byte
}

// NewCode draws a code from rnd.
func NewCode(rnd io.Reader) (Code, error) {
	var raw [idSize + secretSize]byte
	if _, err := io.ReadFull(rnd, raw[:]); err != nil {
		return Code{}, fmt.Errorf("draw invitation code: %w", err)
	}
	return codeOfBytes(raw[:]), nil
}

func codeOfBytes(raw []byte) Code {
	return Code{InviteID(raw[:idSize]), [secretSize]byte(raw[idSize:])}
}

// codeAlphabet is Crockford's base 32: no I, L, O or U, so that typed codes
// survive handwriting. ParseCode reads I and L as 1, O as 0.
const codeAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

const codeChars = 26 // 24 for 15 bytes, 2 check characters

// checkOf is 10 bits that catch a mistyped code before anything is sent.
func checkOf(raw []byte) uint16 {
	sum := sha256.Sum256(append([]byte("gridveil/code/1"), raw...))
	return binary.BigEndian.Uint16(sum[:]) >> 6
}

// String gives the 26 characters in groups: XXXXX-XXXXX-XXXXX-XXXXX-XXXXXX.
func (c Code) String() string {
	raw := append(c.ID[:], c.Secret[:]...)
	var chars []byte
	var bits uint32
	held := 0
	for _, x := range raw {
		bits, held = bits<<8|uint32(x), held+8
		for ; held >= 5; held -= 5 {
			chars = append(chars, codeAlphabet[bits>>(held-5)&31])
		}
	}
	check := checkOf(raw)
	chars = append(chars, codeAlphabet[check>>5], codeAlphabet[check&31])
	s := string(chars)
	return s[:5] + "-" + s[5:10] + "-" + s[10:15] + "-" + s[15:20] + "-" + s[20:]
}

// ParseCode reads a typed code; case, spaces and dashes do not matter. Errors
// wrap ErrCode and say what is wrong with the typing.
func ParseCode(typed string) (Code, error) {
	values, err := codeValues(typed)
	if err != nil {
		return Code{}, err
	}
	raw := make([]byte, 0, idSize+secretSize)
	var bits uint32
	held := 0
	for _, v := range values[:codeChars-2] {
		bits, held = bits<<5|uint32(v), held+5
		if held >= 8 {
			held -= 8
			raw = append(raw, byte(bits>>held))
		}
	}
	if uint16(values[24])<<5|uint16(values[25]) != checkOf(raw) {
		return Code{}, fmt.Errorf("%w: a character is wrong, compare it with the invitation", ErrCode)
	}
	return codeOfBytes(raw), nil
}

func codeValues(typed string) ([]byte, error) {
	if len(typed) > 4*codeChars {
		return nil, fmt.Errorf("%w: too long", ErrCode)
	}
	readable := strings.NewReplacer(" ", "", "-", "", "I", "1", "L", "1", "O", "0").Replace(strings.ToUpper(typed))
	if len(readable) != codeChars {
		return nil, fmt.Errorf("%w: %d characters, want %d", ErrCode, len(readable), codeChars)
	}
	values := make([]byte, codeChars)
	for i, c := range []byte(readable) {
		at := strings.IndexByte(codeAlphabet, c)
		if at < 0 {
			return nil, fmt.Errorf("%w: character %d is not a digit or letter of a code", ErrCode, i+1)
		}
		values[i] = byte(at)
	}
	return values, nil
}

// Link is what a QR code carries: the code and everything needed to reach and
// recognise the network, so that nothing has to be installed before.
type Link struct {
	Code    Code
	Network NetworkID
	Bundle  [32]byte // SHA-256 of network.toml
	Seed    Key      // key of the node to enrol at
	Address string   // its multiaddr, without /p2p
}

// String gives "gridveil:join?c=CODE&n=NETWORK&b=BUNDLE&s=SEED&a=ADDRESS".
func (l Link) String() string {
	return fmt.Sprintf("gridveil:join?c=%s&n=%s&b=%s&s=%s&a=%s", l.Code, l.Network,
		base64.RawURLEncoding.EncodeToString(l.Bundle[:]), base64.RawURLEncoding.EncodeToString(l.Seed[:]), l.Address)
}

// ParseLink is the inverse of Link.String; surrounding space is allowed. Errors wrap ErrCode.
func ParseLink(text string) (Link, error) {
	text = strings.TrimSpace(text)
	rest, ok := strings.CutPrefix(text, "gridveil:join?")
	field := strings.Split(rest, "&")
	if !ok || len(text) > 1024 || len(field) != 5 {
		return Link{}, fmt.Errorf("%w: want a link that begins with gridveil:join?", ErrCode)
	}
	for i, key := range []string{"c=", "n=", "b=", "s=", "a="} {
		if field[i], ok = strings.CutPrefix(field[i], key); !ok {
			return Link{}, fmt.Errorf("%w: part %d of the link is not %s", ErrCode, i+1, key)
		}
	}
	code, err := ParseCode(field[0])
	if err != nil {
		return Link{}, err
	}
	l := Link{Code: code, Address: field[4]}
	bundle, err1 := base64.RawURLEncoding.Strict().DecodeString(field[2])
	seed, err2 := base64.RawURLEncoding.Strict().DecodeString(field[3])
	if err := errors.Join(l.Network.UnmarshalText([]byte(field[1])), err1, err2); err != nil || len(bundle) != 32 || len(seed) != 32 {
		return Link{}, fmt.Errorf("%w: network, bundle or seed of the link is damaged", ErrCode)
	}
	l.Bundle, l.Seed = [32]byte(bundle), Key(seed)
	// One text per link: what does not print the same was changed on the way.
	if !validAddress(l.Address) || l.String() != text {
		return Link{}, fmt.Errorf("%w: the link was changed on the way", ErrCode)
	}
	return l, nil
}

// Request asks for a certificate:
//
//	"GVR1" | invite id 5 | nonce 32 | CSR len u16 | CSR DER | HMAC-SHA256 32
type Request struct {
	Invite InviteID
	Nonce  [nonceSize]byte // fresh for every try
	CSR    []byte          // PKCS #10, DER, signed by the pledge's libp2p key
	Proof  [sha256.Size]byte
}

// Channel is what both ends of an enrolment know about their connection.
type Channel struct {
	Network NetworkID
	Pledge  Key // the stranger
	Seed    Key // the node it enrols at
}

// NewRequest makes the request of a pledge: a CSR for its key and the proof
// that it holds the code's secret, bound to this network, pledge and seed.
func NewRequest(c Code, pledge ed25519.PrivateKey, network NetworkID, seed Key, rnd io.Reader) (Request, error) {
	r := Request{Invite: c.ID}
	if _, err := io.ReadFull(rnd, r.Nonce[:]); err != nil {
		return Request{}, fmt.Errorf("draw enrolment nonce: %w", err)
	}
	var err error
	if r.CSR, err = x509.CreateCertificateRequest(rnd, &x509.CertificateRequest{}, pledge); err != nil {
		return Request{}, fmt.Errorf("make certificate request: %w", err)
	}
	ch := Channel{network, Key(pledge.Public().(ed25519.PublicKey)), seed}
	r.Proof = r.proof(c.Secret, ch)
	return r, nil
}

// proof is HMAC-SHA256(secret, "gridveil/enrol/1" | network | pledge | seed | nonce | SHA-256(CSR)).
func (r Request) proof(secret [secretSize]byte, ch Channel) [sha256.Size]byte {
	mac := hmac.New(sha256.New, secret[:])
	csr := sha256.Sum256(r.CSR)
	for _, part := range [][]byte{[]byte("gridveil/enrol/1"), ch.Network[:], ch.Pledge[:], ch.Seed[:], r.Nonce[:], csr[:]} {
		mac.Write(part)
	}
	return [sha256.Size]byte(mac.Sum(nil))
}

// checkCSR says whether the CSR is signed by the pledge's own key.
func (r Request) checkCSR(pledge Key) error {
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return fmt.Errorf("%w: certificate request: %w", ErrEnrolment, err)
	}
	pub, ok := csr.PublicKey.(ed25519.PublicKey)
	if !ok || !bytes.Equal(pub, pledge[:]) || csr.CheckSignature() != nil {
		return fmt.Errorf("%w: certificate request is not signed by the connection's key", ErrEnrolment)
	}
	return nil
}

// Encode gives the wire form.
func (r Request) Encode() ([]byte, error) {
	if len(r.CSR) == 0 || len(r.CSR) > MaxCSR {
		return nil, fmt.Errorf("%w: certificate request of %d bytes, want 1 to %d", ErrEnrolment, len(r.CSR), MaxCSR)
	}
	b := append(make([]byte, 0, enrolFixed+len(r.CSR)), "GVR1"...)
	b = append(append(b, r.Invite[:]...), r.Nonce[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.CSR)))
	b = append(b, r.CSR...)
	return append(b, r.Proof[:]...), nil
}

// ParseRequest is the inverse of Encode.
func ParseRequest(raw []byte) (Request, error) {
	if len(raw) <= enrolFixed || len(raw) > MaxRequest || string(raw[:4]) != "GVR1" {
		return Request{}, fmt.Errorf("%w: request of %d bytes or wrong first word", ErrEnrolment, len(raw))
	}
	r := Request{Invite: InviteID(raw[4:]), Nonce: [nonceSize]byte(raw[4+idSize:])}
	size := int(binary.BigEndian.Uint16(raw[4+idSize+nonceSize:]))
	if len(raw) != enrolFixed+size {
		return Request{}, fmt.Errorf("%w: certificate request of %d bytes in a message of %d", ErrEnrolment, size, len(raw))
	}
	at := enrolFixed - sha256.Size
	r.CSR = bytes.Clone(raw[at : at+size])
	r.Proof = [sha256.Size]byte(raw[at+size:])
	return r, nil
}

// Answer hands a pledge everything to join:
//
//	"GVA1" | refusal u8 | if 0: {len u32, bytes} of bundle, signatures, snapshot | n u8 {len u16, DER}*
type Answer struct {
	Refusal  Refusal
	Chain    [][]byte // certificates, leaf first
	Bundle   []byte   // network.toml
	Sig      []byte   // network.toml.sig
	Snapshot []byte   // directory registers; opaque here, checked like any other
}

// Refusal is why an enrolment was refused; 0 means it was not.
type Refusal uint8

// Refusals.
const (
	RefusedNot     Refusal = 0
	RefusedUnknown Refusal = 1 // no such code, a wrong proof, or killed by wrong proofs
	RefusedExpired Refusal = 2
	RefusedUsed    Refusal = 3
	RefusedBusy    Refusal = 4
	RefusedRequest Refusal = 5 // malformed, or for another key than the connection's
)

var refusalText = [...]string{
	"enrolled",
	"the code is not known here: compare it with the invitation, or ask for a new one",
	"the code is older than 72 hours: ask for a new one",
	"the code was used already: if that was not you, tell the operator at once",
	"the seed is busy: try again in a minute",
	"the request was damaged: try again",
}

// String says what happened and what to do.
func (r Refusal) String() string {
	if int(r) >= len(refusalText) {
		return fmt.Sprintf("refusal %d", uint8(r))
	}
	return refusalText[r]
}

// Encode gives the wire form.
func (a Answer) Encode() ([]byte, error) {
	b := append([]byte("GVA1"), byte(a.Refusal))
	if a.Refusal != RefusedNot {
		return b, nil
	}
	if len(a.Bundle) == 0 || len(a.Bundle) > MaxBundle || len(a.Sig) > MaxBundleSig || len(a.Snapshot) > MaxSnapshot {
		return nil, fmt.Errorf("%w: bundle %d, signatures %d or snapshot %d bytes are over their limit", ErrEnrolment, len(a.Bundle), len(a.Sig), len(a.Snapshot))
	}
	for _, part := range [][]byte{a.Bundle, a.Sig, a.Snapshot} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	if len(a.Chain) == 0 || len(a.Chain) > MaxChain {
		return nil, fmt.Errorf("%w: %d certificates, want 1 to %d", ErrEnrolment, len(a.Chain), MaxChain)
	}
	b = append(b, byte(len(a.Chain)))
	for _, der := range a.Chain {
		if len(der) == 0 || len(der) > MaxCertificate {
			return nil, fmt.Errorf("%w: certificate of %d bytes", ErrEnrolment, len(der))
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(der)))
		b = append(b, der...)
	}
	return b, nil
}

// ParseAnswer is the inverse of Encode.
func ParseAnswer(raw []byte) (Answer, error) {
	if len(raw) < 5 || len(raw) > MaxAnswer || string(raw[:4]) != "GVA1" || int(raw[4]) >= len(refusalText) {
		return Answer{}, fmt.Errorf("%w: answer of %d bytes or wrong first word", ErrEnrolment, len(raw))
	}
	a := Answer{Refusal: Refusal(raw[4])}
	b := raw[5:]
	if a.Refusal != RefusedNot {
		if len(b) > 0 {
			return Answer{}, fmt.Errorf("%w: a refusal carries nothing", ErrEnrolment)
		}
		return a, nil
	}
	limits := []int{MaxBundle, MaxBundleSig, MaxSnapshot}
	for i, dst := range []*[]byte{&a.Bundle, &a.Sig, &a.Snapshot} {
		if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(min(limits[i], len(b)-4)) {
			return Answer{}, fmt.Errorf("%w: part %d of the answer is cut or too long", ErrEnrolment, i)
		}
		size := int(binary.BigEndian.Uint32(b))
		*dst, b = bytes.Clone(b[4:4+size]), b[4+size:]
	}
	var err error
	if a.Chain, b, err = parseChain(b); err != nil || len(b) > 0 || len(a.Bundle) == 0 {
		return Answer{}, fmt.Errorf("%w: certificates of the answer", ErrEnrolment)
	}
	return a, nil
}

// Accept checks an answer against the pledge's own key and, for a link, the
// bundle hash in it; it returns the bundle and the membership to store.
func (a Answer) Accept(pledge Key, pin *[32]byte, now time.Time) (*Bundle, Member, error) {
	if a.Refusal != RefusedNot {
		return nil, Member{}, fmt.Errorf("%w: %s", ErrCode, a.Refusal)
	}
	b, err := OpenBundle(a.Bundle, a.Sig, pin)
	if err != nil {
		return nil, Member{}, err
	}
	m, err := b.Verify(a.Chain, now)
	if err != nil {
		return nil, Member{}, err
	}
	if m.Key != pledge {
		return nil, Member{}, fmt.Errorf("%w: the seed sent a certificate for another key", ErrCertificate)
	}
	return b, m, nil
}
