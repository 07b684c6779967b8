package privacy

import (
	"crypto/ed25519"
	"crypto/sha256"
)

// Signature is an Ed25519 signature.
type Signature [ed25519.SignatureSize]byte

// signedBytes is "gridveil/1/" kind 0x00 net body. The zero byte ends the
// name, so no kind's name can run into the network or the body.
func signedBytes(k Kind, net Net, body []byte) []byte {
	b := make([]byte, 0, 48+len(body))
	b = append(b, prefix(k, net)...)
	return append(b, body...)
}

// prefix separates domains in signed bytes and in HPKE info alike.
func prefix(k Kind, net Net) []byte {
	b := append([]byte("gridveil/1/"), k.String()...)
	b = append(b, 0)
	return append(b, net[:]...)
}

// Sign signs body as a message of kind k in network net with Ed25519.
// It panics if priv is not an Ed25519 private key, as crypto/ed25519 does.
func Sign(priv ed25519.PrivateKey, k Kind, net Net, body []byte) Signature {
	return Signature(ed25519.Sign(priv, signedBytes(k, net, body)))
}

// Verify reports whether sig is pub's signature over body as a message of kind
// k in network net. A pub of wrong length is simply false. Small-order keys are
// refused where they enter the system, by [CheckKey], not here.
func Verify(pub []byte, k Kind, net Net, body []byte, sig Signature) bool {
	return len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, signedBytes(k, net, body), sig[:])
}

// Hash is H(m) of a signed message: SHA-256 over its signed bytes and its
// signature. Later messages name earlier ones by it.
func Hash(k Kind, net Net, body []byte, sig Signature) [32]byte {
	return sha256.Sum256(append(signedBytes(k, net, body), sig[:]...))
}
