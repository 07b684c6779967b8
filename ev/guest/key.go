package guest

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// ErrPin says that whoever answered does not hold the key in the link.
var ErrPin = errors.New("the gateway that answered is not the one in the link: its key changes every day; scan the QR code on the host's Guest page again")

const day = 24 * time.Hour

// dayKey derives the door's key of one UTC day. Derived, not drawn: a gateway
// that restarts in the middle of a session comes back with the key that the
// wallet has pinned.
func dayKey(seed [32]byte, n int64) (ed25519.PrivateKey, error) {
	info := binary.BigEndian.AppendUint64([]byte("gridveil/door/v1\x00"), uint64(n))
	s, err := hkdf.Key(sha256.New, seed[:], nil, string(info), ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive door key: %w", err)
	}
	return ed25519.NewKeyFromSeed(s), nil
}

// doorKey is a certificate with the hash that links hold.
type doorKey struct {
	day  int64
	cert tls.Certificate
	spki [32]byte
}

// newDoorKey makes the certificate of one day. It names nobody: the wallet
// looks at nothing but the key.
func newDoorKey(seed [32]byte, n int64) (doorKey, error) {
	key, err := dayKey(seed, n)
	if err != nil {
		return doorKey{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "guest"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return doorKey{}, fmt.Errorf("make door certificate: %w", err)
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return doorKey{}, fmt.Errorf("encode door key: %w", err)
	}
	return doorKey{day: n, cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, spki: sha256.Sum256(pub)}, nil
}

// serverName carries the first bytes of the pin in the handshake, so that the
// door can present yesterday's key to a wallet whose session runs over
// midnight. The pin is no secret: it is on the host's wall.
func serverName(spki [32]byte) string { return hex.EncodeToString(spki[:8]) + ".door.gridveil" }

// pinned is the client's TLS configuration: exactly this key, nothing else.
func pinned(spki [32]byte) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: serverName(spki),
		NextProtos: []string{"http/1.1"},
		// There is no authority to verify against; VerifyConnection runs on
		// every handshake and demands the pinned key.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo) != spki {
				return ErrPin
			}
			return nil
		},
	}
}
