package member

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Certificate limits and lives.
const (
	MaxChain       = 3                   // leaf, intermediate, CA
	MaxCertificate = 2048                // one DER; an Ed25519 leaf is 450 B
	MemberLife     = 90 * 24 * time.Hour // renewed at 2/3, on the open connection
	CALife         = 10 * 365 * 24 * time.Hour
	backdate       = 5 * time.Minute // a new certificate is valid at once on a clock that is a little slow
)

// Certificate errors. ErrCertificate is wrapped with the reason.
var (
	ErrCertificate = errors.New("certificate does not belong to this network")
	ErrExpired     = errors.New("certificate has expired or is not valid yet")
	ErrRevoked     = errors.New("certificate was revoked by its operator")
	ErrRole        = errors.New("operator may not issue this role or zone")
)

// Key is an Ed25519 public key: the identity of a member.
type Key [ed25519.PublicKeySize]byte

// KeyOf extracts the Ed25519 key inside a peer id.
func KeyOf(id peer.ID) (Key, error) {
	pub, err := id.ExtractPublicKey()
	if err != nil {
		return Key{}, fmt.Errorf("peer id holds no key: %w", err)
	}
	if pub.Type() != crypto.Ed25519 {
		return Key{}, errors.New("peer id is not of an Ed25519 key")
	}
	raw, err := pub.Raw()
	if err != nil {
		return Key{}, fmt.Errorf("peer id holds no key: %w", err)
	}
	return Key(raw), nil
}

// Peer gives the libp2p peer id of k.
func (k Key) Peer() (peer.ID, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(k[:])
	if err != nil {
		return "", err
	}
	return peer.IDFromPublicKey(pub)
}

// Member is what a verified certificate says.
type Member struct {
	Peer     peer.ID
	Key      Key // the key inside Peer
	Role     Role
	Zone     string // "" for roles without one
	Operator string
	Serial   string // lower-case hexadecimal
	NotAfter time.Time
	CertHash [32]byte // SHA-256 of the leaf's DER
	CA       [32]byte // SHA-256 of the public key of the bundle CA that the chain ends in
}

// MayPublishZone reports whether the member's operator runs or issues for zone.
func (b *Bundle) MayPublishZone(m Member, zone string) bool {
	o, known := b.Operator(m.Operator)
	return known && slices.Contains(o.Zones, zone)
}

// IsDSO reports whether the member's operator runs the grid of zone.
func (b *Bundle) IsDSO(m Member, zone string) bool {
	o, known := b.Operator(m.Operator)
	return known && slices.Contains(o.DSOZones, zone)
}

// Verify checks a certificate chain, leaf first, against the bundle at now and
// returns the member. Revocation is a separate question (Revocations.Revoked).
// Errors wrap ErrCertificate, ErrExpired or ErrRole.
func (b *Bundle) Verify(chain [][]byte, now time.Time) (Member, error) {
	if len(chain) == 0 || len(chain) > MaxChain {
		return Member{}, fmt.Errorf("%w: chain of %d certificates, want 1 to %d", ErrCertificate, len(chain), MaxChain)
	}
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		if len(der) > MaxCertificate {
			return Member{}, fmt.Errorf("%w: certificate %d has %d bytes, at most %d are allowed", ErrCertificate, i, len(der), MaxCertificate)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return Member{}, fmt.Errorf("%w: certificate %d: %w", ErrCertificate, i, err)
		}
		certs[i] = c
	}
	m, err := b.readLeaf(certs[0])
	if err != nil {
		return Member{}, err
	}
	ca, err := b.findIssuer(certs, now)
	if err != nil {
		return Member{}, err
	}
	o := b.Operators[ca.operator]
	m.Operator, m.CA = o.Name, sha256.Sum256(ca.cert.RawSubjectPublicKeyInfo)
	return m, checkGrant(o, m.Role, m.Zone)
}

// findIssuer builds the chain and returns the bundle CA that it ends in.
func (b *Bundle) findIssuer(certs []*x509.Certificate, now time.Time) (issuer, error) {
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	found, err := certs[0].Verify(x509.VerifyOptions{
		Roots: b.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return issuer{}, fmt.Errorf("%w (valid until %s)", ErrExpired, certs[0].NotAfter.UTC().Format(time.RFC3339))
	}
	if err != nil {
		return issuer{}, fmt.Errorf("%w: chain does not end in a CA of the bundle", ErrCertificate)
	}
	for _, path := range found {
		root := path[len(path)-1]
		for _, ca := range b.cas {
			if len(path) <= MaxChain && bytes.Equal(ca.cert.Raw, root.Raw) {
				return ca, nil
			}
		}
	}
	return issuer{}, fmt.Errorf("%w: chain is longer than %d", ErrCertificate, MaxChain)
}

// readLeaf takes key, role, zone and peer from a leaf certificate; nothing is trusted yet.
func (b *Bundle) readLeaf(c *x509.Certificate) (Member, error) {
	pub, ok := c.PublicKey.(ed25519.PublicKey)
	if !ok || c.IsCA {
		return Member{}, fmt.Errorf("%w: want a leaf with an Ed25519 key", ErrCertificate)
	}
	if len(c.URIs) != 1 || len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses) > 0 {
		return Member{}, fmt.Errorf("%w: want exactly one URI name", ErrCertificate)
	}
	m := Member{Key: Key(pub), Serial: hex.EncodeToString(c.SerialNumber.Bytes()), NotAfter: c.NotAfter.UTC(), CertHash: sha256.Sum256(c.Raw)}
	var err error
	if m.Peer, err = m.Key.Peer(); err != nil {
		return Member{}, fmt.Errorf("%w: key: %w", ErrCertificate, err)
	}
	if m.Role, m.Zone, err = parseName(c.URIs[0].String(), b.Network, m.Peer); err != nil {
		return Member{}, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	if c.NotAfter.Sub(c.NotBefore) > MemberLife {
		return Member{}, fmt.Errorf("%w: valid for longer than %s", ErrCertificate, MemberLife)
	}
	return m, nil
}

// name builds the URI that a certificate carries.
func name(network NetworkID, role Role, zone string, id peer.ID) string {
	return fmt.Sprintf("gridveil:%s/%s/%s/%s", network, role, zone, id)
}

// parseName is the inverse of name for a known network and peer.
func parseName(uri string, network NetworkID, id peer.ID) (Role, string, error) {
	part := strings.Split(uri, "/")
	if len(part) != 4 {
		return 0, "", errors.New("name is not gridveil:network/role/zone/peer")
	}
	role, err := ParseRole(part[1])
	if err != nil {
		return 0, "", err
	}
	zone := part[2]
	if uri != name(network, role, zone, id) {
		return 0, "", errors.New("name is of another network or key")
	}
	if zone != "" && !validName(zone) {
		return 0, "", errors.New("zone in the name is malformed")
	}
	return role, zone, nil
}

// checkGrant says whether operator o may issue role in zone.
func checkGrant(o Operator, role Role, zone string) error {
	switch {
	case !slices.Contains(o.Roles, role):
		return fmt.Errorf("%w: operator %s does not issue role %s", ErrRole, o.Name, role)
	case zone == "" && role.needsZone():
		return fmt.Errorf("%w: role %s needs a zone", ErrRole, role)
	case zone != "" && role == RoleWallet:
		return fmt.Errorf("%w: a wallet has no zone", ErrRole)
	case zone != "" && !slices.Contains(o.Zones, zone):
		return fmt.Errorf("%w: operator %s does not issue for that zone", ErrRole, o.Name)
	}
	return nil
}

// CA is an issuing key and its certificate. It signs member certificates and revocation lists.
type CA struct {
	Certificate []byte // DER
	Key         ed25519.PrivateKey
}

// NewCA makes a self-signed CA for an operator, valid for ten years from now.
// The 32-byte seed of its key and the serial come from rnd.
func NewCA(operator string, now time.Time, rnd io.Reader) (CA, error) {
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(rnd, seed[:]); err != nil {
		return CA{}, fmt.Errorf("draw CA key: %w", err)
	}
	key := ed25519.NewKeyFromSeed(seed[:])
	serial, err := drawSerial(rnd)
	if err != nil {
		return CA{}, err
	}
	cert := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "gridveil CA " + operator},
		NotBefore: now.Add(-backdate).UTC(), NotAfter: now.Add(CALife).UTC(),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rnd, cert, cert, key.Public(), key)
	if err != nil {
		return CA{}, fmt.Errorf("make CA certificate: %w", err)
	}
	return CA{Certificate: der, Key: key}, nil
}

// Grant says what a new certificate states about its holder.
type Grant struct {
	Network NetworkID
	Key     Key
	Role    Role
	Zone    string // "" where the role has none
}

// IssueMember signs a member certificate: 90 days from now, a wallet's one day.
// The result is the chain to hand out, leaf first, without the bundle's own CA.
func (ca CA) IssueMember(g Grant, now time.Time, rnd io.Reader) ([][]byte, error) {
	missing, surplus := g.Zone == "" && g.Role.needsZone(), g.Zone != "" && g.Role == RoleWallet
	if !g.Role.Valid() || missing || surplus || g.Zone != "" && !validName(g.Zone) {
		return nil, fmt.Errorf("%w: role %s with zone %q", ErrRole, g.Role, g.Zone)
	}
	issuing, err := x509.ParseCertificate(ca.Certificate)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: own CA: %w", err)
	}
	id, err := g.Key.Peer()
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	serial, err := drawSerial(rnd)
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(name(g.Network, g.Role, g.Zone, id))
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	from := now.Add(-backdate).UTC().Truncate(time.Second) // X.509 keeps whole seconds
	leaf := &x509.Certificate{
		SerialNumber: serial, NotBefore: from, NotAfter: from.Add(MemberLife), URIs: []*url.URL{uri},
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rnd, leaf, issuing, ed25519.PublicKey(g.Key[:]), ca.Key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	return [][]byte{der}, nil
}

// RenewAt is when a member should ask for its next certificate: at 2/3 of its life.
func (m Member) RenewAt() time.Time { return m.NotAfter.Add(-MemberLife / 3) }

// drawSerial makes a positive serial of 120 random bits (RFC 5280 allows 20 octets).
func drawSerial(rnd io.Reader) (*big.Int, error) {
	raw := make([]byte, 16)
	if _, err := io.ReadFull(rnd, raw[1:]); err != nil {
		return nil, fmt.Errorf("draw serial: %w", err)
	}
	raw[0] = 1 // never zero and always the same length
	return new(big.Int).SetBytes(raw), nil
}
