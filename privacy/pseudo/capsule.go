package pseudo

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"gridveil/privacy"
	"gridveil/privacy/internal/curve"
)

// ErrCapsule says that a capsule does not open under the secret given.
var ErrCapsule = errors.New("capsule does not open")

const (
	linkInfo = "gridveil/link/1" // otherInfo of the proof of knowledge
	linkSize = 16 + 64           // contract, enrol
)

// sealCapsule fills capE, capC and PoK of a certificate whose head stands:
// capE = s*G, capC = AES-256-GCM(HKDF(s*Y, salt capE, "link"), contract enrol,
// aad = head), PoK = proof of s bound to the head. s is dropped.
func sealCapsule(rnd io.Reader, c *Cert, committee [32]byte, contract [16]byte, enrol privacy.Signature) error {
	y, err := curve.ParseElement(committee[:])
	if err != nil {
		return fmt.Errorf("committee key: %w", ErrEncoding)
	}
	s, err := curve.Scalar(rnd)
	if err != nil {
		return err
	}
	e := curve.MulBase(s)
	capE := curve.Bytes(e)
	copy(c[capEAt:], capE[:])
	aead := capsuleAEAD(curve.Bytes(curve.Mul(y, s)), capE)
	aead.Seal(c[capCAt:capCAt], make([]byte, aead.NonceSize()), append(contract[:], enrol[:]...), c.head())
	pok, err := curve.Prove(rnd, s, e, c.head(), []byte(linkInfo))
	if err != nil {
		return fmt.Errorf("prove capsule: %w", err)
	}
	copy(c[pokAt:], pok[:])
	return nil
}

// capsuleAEAD's key serves one capsule, so its nonce is zero.
func capsuleAEAD(shared, capE [32]byte) cipher.AEAD {
	key, err := hkdf.Key(sha256.New, shared[:], capE[:], "link", 32)
	if err != nil {
		panic("pseudo: HKDF refuses 32 bytes: " + err.Error()) // only possible beyond 255*32 bytes
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("pseudo: AES refuses 32 bytes: " + err.Error())
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("pseudo: GCM refuses AES: " + err.Error())
	}
	return aead
}

// CheckCapsule verifies that whoever made the certificate knew the capsule's
// secret for exactly this head: without it an issuer could wrap a stolen
// capsule in a fresh certificate and have it opened in a false case. Wallets
// check on receipt, openers before every partial. It returns ErrProof.
func CheckCapsule(c *Cert) error {
	e, err := curve.ParseElement(c[capEAt:capCAt])
	if err != nil {
		return fmt.Errorf("capsule point: %w", ErrProof)
	}
	if !curve.VerifyProof(e, [curve.ProofSize]byte(c[pokAt:]), c.head(), []byte(linkInfo)) {
		return ErrProof
	}
	return nil
}

// OpenCapsule reads the contract and the enrol signature with the shared point
// s*Y that a committee recovered. It returns ErrCapsule. Whether enrol is the
// contract's signature is for [CheckEnrol].
func OpenCapsule(c *Cert, shared [32]byte) (contract [16]byte, enrol privacy.Signature, err error) {
	aead := capsuleAEAD(shared, c.CapE())
	pt, err := aead.Open(nil, make([]byte, aead.NonceSize()), c[capCAt:pokAt], c.head())
	if err != nil || len(pt) != linkSize {
		return contract, enrol, ErrCapsule
	}
	return [16]byte(pt), privacy.Signature(pt[16:]), nil
}

// CheckEnrol reports whether enrol is the signature of contract key lk over the
// certificate's head: the driver asked for this very certificate.
func CheckEnrol(c *Cert, net privacy.Net, lk [32]byte, enrol privacy.Signature) bool {
	return privacy.Verify(lk[:], privacy.KindEnrol, net, c.head(), enrol)
}
