// Package identity keeps who a node is: its key, the network it belongs to, its
// certificate and, on nodes that certify others, the operator's CA.
//
// Files of a data directory, all written atomically and readable by the node's
// own user only:
//
//	node.key           the libp2p Ed25519 key, PKCS #8 PEM
//	network.toml(.sig) the network's bundle and its root signatures
//	certificate.pem    the node's certificate chain, leaf first
//	contacts           multiaddrs that the node was enrolled through, one a line
//	ca.key             the operator's CA key, on nodes that certify others
//	cluster.key        this machine's key among those that are one aggregator
package identity

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gridveil/ledger/durable"
	"gridveil/mesh/member"
)

// File names inside a data directory.
const (
	KeyFile         = "node.key"
	BundleFile      = "network.toml"
	SignatureFile   = "network.toml.sig"
	CertificateFile = "certificate.pem"
	ContactsFile    = "contacts"
	CAFile          = "ca.key"
	MachineFile     = "cluster.key"
)

// ErrNotEnrolled means that the node has a key but no certificate yet.
var ErrNotEnrolled = errors.New("this node belongs to no network yet")

// Identity is a node's membership.
type Identity struct {
	Key      ed25519.PrivateKey
	Bundle   *member.Bundle
	Sig      []byte   // root signatures of the bundle
	Chain    [][]byte // DER, leaf first
	Member   member.Member
	Contacts []string
	CA       *member.CA // nil on nodes that certify nobody
}

// Key loads the node's key, or makes one.
func Key(dir string, rnd io.Reader) (ed25519.PrivateKey, error) {
	return loadOrDraw(filepath.Join(dir, KeyFile), rnd)
}

// MachineKey loads this machine's key in a cluster, or makes one. It is not copied
// with the rest of the directory: each machine has its own.
func MachineKey(dir string, rnd io.Reader) (ed25519.PrivateKey, error) {
	return loadOrDraw(filepath.Join(dir, MachineFile), rnd)
}

func loadOrDraw(path string, rnd io.Reader) (ed25519.PrivateKey, error) {
	key, err := readKey(path)
	if !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	if _, key, err = drawKey(rnd); err != nil {
		return nil, err
	}
	return key, writeKey(path, key)
}

// Newest gives the bundle that counts for a node with an installed one: it may
// have accepted a newer one since, whose CAs issued its certificate.
type Newest func(installed *member.Bundle, sig []byte) (*member.Bundle, []byte, error)

// Load is LoadNewest under the installed bundle.
func Load(dir string, now time.Time) (*Identity, error) {
	return LoadNewest(dir, now, func(b *member.Bundle, sig []byte) (*member.Bundle, []byte, error) { return b, sig, nil })
}

// LoadNewest reads the identity in dir. It gives ErrNotEnrolled when there is no
// certificate, and says what to do when files are damaged or do not fit. newest
// is asked once everything is read and before anything is verified.
func LoadNewest(dir string, now time.Time, newest Newest) (*Identity, error) {
	key, err := readKey(filepath.Join(dir, KeyFile))
	if err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	chainPEM, err := os.ReadFile(filepath.Join(dir, CertificateFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w\nnext: ask your operator for a link and run `gridveil join LINK --data %s`", ErrNotEnrolled, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	id := &Identity{Key: key}
	if id.Chain, err = parseChain(chainPEM); err != nil {
		return nil, fmt.Errorf("%s: %w", CertificateFile, err)
	}
	if id.Bundle, id.Sig, err = readBundle(dir); err != nil {
		return nil, err
	}
	if id.Bundle, id.Sig, err = newest(id.Bundle, id.Sig); err != nil {
		return nil, err
	}
	if id.Member, err = id.Bundle.Verify(id.Chain, now); err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	if !slices.Equal(id.Member.Key[:], key.Public().(ed25519.PublicKey)) {
		return nil, fmt.Errorf("%s is for another key than %s: join again with a new code", CertificateFile, KeyFile)
	}
	id.Contacts = Contacts(dir)
	if id.CA, err = readCA(dir, id.Bundle, id.Member.Operator); err != nil {
		return nil, err
	}
	return id, nil
}

// Install writes what an enrolment or a founder gave. The certificate comes
// last: until it is there the node is not enrolled.
func Install(dir string, bundle, sig []byte, chain [][]byte, contacts []string) error {
	if _, err := member.OpenBundle(bundle, sig, nil); err != nil {
		return fmt.Errorf("network bundle: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{BundleFile, bundle}, {SignatureFile, sig},
		{ContactsFile, []byte(strings.Join(contacts, "\n") + "\n")},
		{CertificateFile, encodeChain(chain)},
	} {
		if err := durable.WriteFile(filepath.Join(dir, f.name), f.data); err != nil {
			return err
		}
	}
	return nil
}

// Installed gives the network bundle of a node that is not enrolled yet, as its
// operator put it there; the error is fs.ErrNotExist when there is none.
func Installed(dir string) (*member.Bundle, error) {
	b, _, err := readBundle(dir)
	return b, err
}

// Contacts gives the multiaddrs that are installed in dir; none without the file.
func Contacts(dir string) []string { return readLines(filepath.Join(dir, ContactsFile)) }

// SaveChain replaces the certificate after a renewal.
func SaveChain(dir string, chain [][]byte) error {
	return durable.WriteFile(filepath.Join(dir, CertificateFile), encodeChain(chain))
}

// ReadChain gives the installed certificate as it stands on disk.
func ReadChain(dir string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, CertificateFile)) }

// TakeChain installs a certificate that another machine with the same node key
// got, if it ends later than the installed one.
func TakeChain(dir string, file []byte) error {
	end := func(file []byte) (time.Time, error) {
		chain, err := parseChain(file)
		if err != nil {
			return time.Time{}, err
		}
		leaf, err := x509.ParseCertificate(chain[0])
		if err != nil {
			return time.Time{}, err
		}
		return leaf.NotAfter, nil
	}
	theirs, err := end(file)
	if err != nil {
		return fmt.Errorf("certificate of the cluster: %w", err)
	}
	own, err := ReadChain(dir)
	if err == nil {
		if at, bad := end(own); bad == nil && !theirs.After(at) {
			return nil
		}
	}
	return durable.WriteFile(filepath.Join(dir, CertificateFile), file)
}

// SaveBundle replaces the network bundle by a newer one. Wherever a crash falls,
// the signatures on disk are those of the bundle on disk.
func SaveBundle(dir string, raw, sig []byte) error {
	if _, err := member.OpenBundle(raw, sig, nil); err != nil {
		return err
	}
	old, err := os.ReadFile(filepath.Join(dir, SignatureFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("network bundle signatures: %w", err)
	}
	// Lines over other bytes do not count, so both bundles verify with both sets of lines.
	if both := slices.Concat(sig, old); len(both) <= member.MaxBundleSig {
		if err := durable.WriteFile(filepath.Join(dir, SignatureFile), both); err != nil {
			return err
		}
	}
	if err := durable.WriteFile(filepath.Join(dir, BundleFile), raw); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, SignatureFile), sig)
}

// ReadBundle reads a network's rules, for whoever is no member: the path of
// network.toml, with its signatures beside it in network.toml.sig, or the folder of
// both. That they are the right network's, the reader knows from where it got them.
func ReadBundle(path string) (*member.Bundle, error) {
	if filepath.Base(path) == BundleFile {
		path = filepath.Dir(path)
	}
	b, _, err := readBundle(path)
	return b, err
}

func readBundle(dir string) (*member.Bundle, []byte, error) {
	raw, err := os.ReadFile(filepath.Join(dir, BundleFile))
	if err != nil {
		return nil, nil, fmt.Errorf("network bundle: %w", err)
	}
	sig, err := os.ReadFile(filepath.Join(dir, SignatureFile))
	if err != nil {
		return nil, nil, fmt.Errorf("network bundle signatures: %w", err)
	}
	b, err := member.OpenBundle(raw, sig, nil)
	return b, sig, err
}

// readCA loads the CA key in dir, if any, with the certificate of the bundle
// that belongs to it.
func readCA(dir string, b *member.Bundle, operator string) (*member.CA, error) {
	key, err := readKey(filepath.Join(dir, CAFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("CA key: %w", err)
	}
	op, _ := b.Operator(operator)
	for _, der := range op.CA {
		cert, err := x509.ParseCertificate(der)
		if err == nil && key.Public().(ed25519.PublicKey).Equal(cert.PublicKey) {
			return &member.CA{Certificate: der, Key: key}, nil
		}
	}
	return nil, fmt.Errorf("%s belongs to no CA of operator %s in %s\nnext: put the key of a CA that it names there, or move the file away: the node then certifies nobody", CAFile, operator, BundleFile)
}

func readKey(path string) (ed25519.PrivateKey, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it", path, fi.Mode().Perm())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s holds no PEM private key", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := k.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s holds no Ed25519 key", path)
	}
	return key, nil
}

func writeKey(path string, key ed25519.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func encodeChain(chain [][]byte) []byte {
	var out []byte
	for _, der := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

func parseChain(data []byte) ([][]byte, error) {
	var chain [][]byte
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			chain = append(chain, block.Bytes)
		}
		data = rest
	}
	if len(chain) == 0 || len(chain) > member.MaxChain {
		return nil, fmt.Errorf("holds %d certificates, want 1 to %d", len(chain), member.MaxChain)
	}
	return chain, nil
}

func readLines(path string) []string {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil // a founder's node has no contacts
	}
	return strings.Fields(string(data))
}
