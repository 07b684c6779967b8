package member

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// Limits of a bundle. Bundle and signatures travel in one trust register of at most 60 KiB.
const (
	MaxBundle    = 56 << 10 // leaves 4 KiB of the trust register for signatures
	MaxBundleSig = 4 << 10  // 16 signature lines are 2.6 KiB
	maxRootKeys  = 16
	maxOperators = 64
	maxCAs       = 4 // current, next, and room for a lost one
	maxZones     = 1024
	maxSeeds     = 8
	maxName      = 32 // of an operator or zone; part of the certificate's SAN
)

// Floors that a bundle may raise and never lower. They are what the words "private class" promise.
const (
	FloorHomes = 20
	FloorSet   = 8
)

// Bundle errors. Each is wrapped with what was found.
var (
	ErrBundle          = errors.New("network bundle is not valid")
	ErrBundleSignature = errors.New("network bundle is not signed by enough root keys")
	ErrBundleOld       = errors.New("network bundle is not newer than the installed one")
	ErrBundleOther     = errors.New("network bundle belongs to another network")
	ErrBundlePin       = errors.New("network bundle is not the one named by the invitation")
)

// NetworkID names a network; 16 random bytes drawn by its founder.
type NetworkID [16]byte

// String gives the id as 32 hexadecimal digits.
func (n NetworkID) String() string { return hex.EncodeToString(n[:]) }

// MarshalText gives the id as 32 lower-case hexadecimal digits.
func (n NetworkID) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (n *NetworkID) UnmarshalText(text []byte) error { return unhex(n[:], text) }

// RootKey is an Ed25519 public key that may sign bundles.
type RootKey [ed25519.PublicKeySize]byte

// MarshalText gives the key as 64 lower-case hexadecimal digits.
func (k RootKey) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(k[:])), nil }

// UnmarshalText is the inverse of MarshalText.
func (k *RootKey) UnmarshalText(text []byte) error { return unhex(k[:], text) }

func unhex(dst, text []byte) error {
	if len(text) != 2*len(dst) || strings.ToLower(string(text)) != string(text) {
		return fmt.Errorf("want %d lower-case hexadecimal digits, got %d characters", 2*len(dst), len(text))
	}
	_, err := hex.Decode(dst, text)
	return err
}

// DER is a certificate in its binary form; base64 in TOML.
type DER []byte

// MarshalText gives standard base64 with padding.
func (d DER) MarshalText() ([]byte, error) {
	return []byte(base64.StdEncoding.EncodeToString(d)), nil
}

// UnmarshalText is the inverse of MarshalText.
func (d *DER) UnmarshalText(text []byte) error {
	raw, err := base64.StdEncoding.Strict().DecodeString(string(text))
	*d = raw
	return err
}

// Operator is an organisation that issues certificates in the network.
type Operator struct {
	Name     string   `toml:"name"`                // lower-case letters, digits and dashes
	CA       []DER    `toml:"ca"`                  // its CA certificates, at most 4
	Roles    []Role   `toml:"roles"`               // the roles it may issue
	Zones    []string `toml:"zones,omitempty"`     // the zones it may issue for
	DSOZones []string `toml:"dso_zones,omitempty"` // the zones whose grid it runs
	Seeds    []string `toml:"seeds,omitempty"`     // multiaddrs where strangers may enrol
}

// Zone is one low-voltage area and the region whose relays serve it.
type Zone struct {
	Name   string `toml:"name"`
	Region uint16 `toml:"region"`
}

// Policy holds the numbers every member must agree on. Zero means the default.
type Policy struct {
	HomesEnrolled int   `toml:"homes_enrolled"`  // gateways with a certificate, as the operators count them
	MinHomes      int   `toml:"min_homes"`       // private classes need that many; default and least 20
	MinSet        int   `toml:"min_set"`         // class meter needs that Set; default and least 8
	PriceMinMicro int64 `toml:"price_min_micro"` // lowest believable price, millionths per kWh; may be negative
	PriceMaxMicro int64 `toml:"price_max_micro"` // highest believable price, millionths per kWh; default 5,000,000
	EpochMS       int64 `toml:"epoch_ms"`        // life of an onion key; default 1,200,000 (20 min)
	SlotMS        int64 `toml:"slot_ms"`         // mean time between a leaf's slots; default 30,000
	HopMS         int64 `toml:"hop_ms"`          // mean hold of a relay in class meter; default 30,000
	SessionUp     int   `toml:"session_up"`      // packets a session request may use; default 4
	SessionDown   int   `toml:"session_down"`    // packets a session answer may use; default 2
	Lab           bool  `toml:"lab"`             // class lab (no delay, no cover) is allowed
}

// Epoch, Slot and Hop give the policy's times as durations.
func (p Policy) Epoch() time.Duration { return time.Duration(p.EpochMS) * time.Millisecond }

// Slot is the mean time between a leaf's slots.
func (p Policy) Slot() time.Duration { return time.Duration(p.SlotMS) * time.Millisecond }

// Hop is the mean hold of a relay in class meter.
func (p Policy) Hop() time.Duration { return time.Duration(p.HopMS) * time.Millisecond }

// Bundle is the parsed network.toml. It is read-only after OpenBundle or Replace.
type Bundle struct {
	Network       NetworkID  `toml:"network"`
	Version       uint64     `toml:"version"` // grows with every change; 1 or more
	RootKeys      []RootKey  `toml:"root_keys"`
	RootThreshold int        `toml:"root_threshold"` // how many distinct root keys must sign
	Operators     []Operator `toml:"operators"`
	Zones         []Zone     `toml:"zones"`
	Policy        Policy     `toml:"policy"`

	raw   []byte
	roots *x509.CertPool
	cas   []issuer
}

// issuer is one CA certificate of one operator.
type issuer struct {
	operator int
	cert     *x509.Certificate
}

// ParseBundle decodes network.toml strictly and checks it, without signatures.
// Errors name line and column and wrap ErrBundle.
func ParseBundle(raw []byte) (*Bundle, error) {
	if len(raw) > MaxBundle {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrBundle, len(raw), MaxBundle)
	}
	b := &Bundle{raw: bytes.Clone(raw)}
	dec := toml.NewDecoder(bytes.NewReader(raw)).DisallowUnknownFields()
	if err := dec.Decode(b); err != nil {
		return nil, tomlError(err)
	}
	b.Policy.fillDefaults()
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	return b, nil
}

// tomlError turns go-toml's errors into file:line:column lines.
func tomlError(err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		first := unknown.Errors[0]
		row, col := first.Position()
		return fmt.Errorf("%w: network.toml:%d:%d: unknown key %s", ErrBundle, row, col, strings.Join(first.Key(), "."))
	}
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		row, col := wrong.Position()
		return fmt.Errorf("%w: network.toml:%d:%d: %w", ErrBundle, row, col, wrong)
	}
	return fmt.Errorf("%w: network.toml: %w", ErrBundle, err)
}

// Encode gives the TOML text of a bundle that a founder filled in, after the
// same checks as ParseBundle.
func (b *Bundle) Encode() ([]byte, error) {
	raw, err := toml.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	if _, err := ParseBundle(raw); err != nil {
		return nil, err
	}
	return raw, nil
}

// OpenBundle parses an installed bundle and its signature file. A bundle that
// arrives with an invitation is also compared with pin, the SHA-256 in the
// invitation; nil means that the file was installed by hand.
func OpenBundle(raw, sig []byte, pin *[32]byte) (*Bundle, error) {
	if pin != nil && sha256.Sum256(raw) != *pin {
		return nil, ErrBundlePin
	}
	b, err := ParseBundle(raw)
	if err != nil {
		return nil, err
	}
	if err := b.checkSignatures(raw, sig); err != nil {
		return nil, err
	}
	return b, nil
}

// Replace opens a newer bundle of the same network: its version must be higher
// and the root keys of the bundle held now must have signed it, k of n. So a
// lost CA or root key is replaced by the remaining ones, and one key alone
// changes nothing. When root keys change, the new ones must sign too, as in any
// bundle.
func (b *Bundle) Replace(raw, sig []byte) (*Bundle, error) {
	next, err := OpenBundle(raw, sig, nil)
	if err != nil {
		return nil, err
	}
	if next.Network != b.Network {
		return nil, ErrBundleOther
	}
	if next.Version <= b.Version {
		return nil, fmt.Errorf("%w: version %d, installed %d", ErrBundleOld, next.Version, b.Version)
	}
	if err := b.checkSignatures(raw, sig); err != nil {
		return nil, err
	}
	return next, nil
}

// Raw gives the exact bytes that the root keys signed. The caller must not change them.
func (b *Bundle) Raw() []byte { return b.raw }

// Hash is the SHA-256 of the exact bytes, as printed in invitations.
func (b *Bundle) Hash() [32]byte { return sha256.Sum256(b.raw) }

// Tag is the network's name in topics and envelopes: the first 8 bytes of its id.
func (b *Bundle) Tag() [8]byte { return [8]byte(b.Network[:8]) }

// Operator finds an operator by name.
func (b *Bundle) Operator(name string) (Operator, bool) {
	i := slices.IndexFunc(b.Operators, func(o Operator) bool { return o.Name == name })
	if i < 0 {
		return Operator{}, false
	}
	return b.Operators[i], true
}

// FirstCA gives the SHA-256 of the public key of the CA that an operator issues under now: the first of its list.
func (b *Bundle) FirstCA(operator string) (ca [32]byte, known bool) {
	for _, c := range b.cas {
		if b.Operators[c.operator].Name == operator {
			return sha256.Sum256(c.cert.RawSubjectPublicKeyInfo), true
		}
	}
	return ca, false
}

// Region gives the region whose relays serve zone.
func (b *Bundle) Region(zone string) (uint16, bool) {
	i := slices.IndexFunc(b.Zones, func(z Zone) bool { return z.Name == zone })
	if i < 0 {
		return 0, false
	}
	return b.Zones[i].Region, true
}

func (p *Policy) fillDefaults() {
	setDefault(&p.MinHomes, FloorHomes)
	setDefault(&p.MinSet, FloorSet)
	setDefault(&p.PriceMaxMicro, 5_000_000)
	setDefault(&p.EpochMS, 1_200_000)
	setDefault(&p.SlotMS, 30_000)
	setDefault(&p.HopMS, 30_000)
	setDefault(&p.SessionUp, 4)
	setDefault(&p.SessionDown, 2)
}

func setDefault[T int | int64](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

func (p Policy) check() error {
	if p.HomesEnrolled < 0 || p.HomesEnrolled > 1<<24 {
		return fmt.Errorf("policy.homes_enrolled %d: want 0 to %d", p.HomesEnrolled, 1<<24)
	}
	if p.MinHomes < FloorHomes || p.MinSet < FloorSet {
		return fmt.Errorf("policy.min_homes %d, min_set %d: floors may be raised, not lowered below %d and %d",
			p.MinHomes, p.MinSet, FloorHomes, FloorSet)
	}
	if p.PriceMinMicro > p.PriceMaxMicro {
		return fmt.Errorf("policy.price_min_micro %d is above price_max_micro %d", p.PriceMinMicro, p.PriceMaxMicro)
	}
	ranges := []struct {
		key            string
		value, min, to int64
	}{
		{"epoch_ms", p.EpochMS, 600_000, 86_400_000}, // shorter than twice the key margin would leave gaps
		{"slot_ms", p.SlotMS, 1_000, 600_000},
		{"hop_ms", p.HopMS, 1, 60_000}, // mean; a single hold is cut at 10 min
		{"session_up", int64(p.SessionUp), 1, 8},
		{"session_down", int64(p.SessionDown), 1, 8},
	}
	for _, r := range ranges {
		if r.value < r.min || r.value > r.to {
			return fmt.Errorf("policy.%s %d: want %d to %d", r.key, r.value, r.min, r.to)
		}
	}
	return nil
}

// check validates what TOML cannot and fills the certificate pool.
func (b *Bundle) check() error {
	if b.Network == (NetworkID{}) {
		return errors.New("network is missing")
	}
	if b.Version == 0 || b.Version >= 1<<63 {
		return errors.New("version must be 1 or more")
	}
	if err := b.checkRoots(); err != nil {
		return err
	}
	if err := b.checkZones(); err != nil {
		return err
	}
	if len(b.Operators) == 0 || len(b.Operators) > maxOperators {
		return fmt.Errorf("%d operators: want 1 to %d", len(b.Operators), maxOperators)
	}
	b.roots, b.cas = x509.NewCertPool(), nil
	names := map[string]bool{}
	for i, o := range b.Operators {
		if names[o.Name] {
			return fmt.Errorf("operator %q is listed twice", o.Name)
		}
		names[o.Name] = true
		if err := b.checkOperator(i, o); err != nil {
			return fmt.Errorf("operator %q: %w", o.Name, err)
		}
	}
	return b.Policy.check()
}

func (b *Bundle) checkRoots() error {
	n := len(b.RootKeys)
	if n == 0 || n > maxRootKeys || b.RootThreshold < 1 || b.RootThreshold > n {
		return fmt.Errorf("%d root_keys with root_threshold %d: want 1 to %d keys and a threshold up to their number",
			n, b.RootThreshold, maxRootKeys)
	}
	seen := map[RootKey]bool{}
	for i, k := range b.RootKeys {
		if seen[k] {
			return fmt.Errorf("root_keys[%d] is listed twice", i)
		}
		seen[k] = true
	}
	return nil
}

func (b *Bundle) checkZones() error {
	if len(b.Zones) > maxZones {
		return fmt.Errorf("%d zones: at most %d", len(b.Zones), maxZones)
	}
	seen := map[string]bool{}
	for _, z := range b.Zones {
		if !validName(z.Name) || seen[z.Name] {
			return fmt.Errorf("zone %q: want a new name of 1 to %d lower-case letters, digits or dashes", z.Name, maxName)
		}
		seen[z.Name] = true
	}
	return nil
}

func (b *Bundle) checkOperator(i int, o Operator) error {
	if !validName(o.Name) {
		return fmt.Errorf("want a name of 1 to %d lower-case letters, digits or dashes", maxName)
	}
	if len(o.CA) == 0 || len(o.CA) > maxCAs {
		return fmt.Errorf("%d ca certificates: want 1 to %d", len(o.CA), maxCAs)
	}
	if len(o.Roles) == 0 {
		return errors.New("roles are missing")
	}
	if len(o.Seeds) > maxSeeds {
		return fmt.Errorf("%d seeds: at most %d", len(o.Seeds), maxSeeds)
	}
	for _, s := range o.Seeds {
		if !validAddress(s) {
			return fmt.Errorf("seed %q: want a multiaddr such as /ip4/192.0.2.1/tcp/4100", s)
		}
	}
	for _, z := range slices.Concat(o.Zones, o.DSOZones) {
		if _, known := b.Region(z); !known {
			return fmt.Errorf("zone %q is not listed in [[zones]]", z)
		}
	}
	for j, der := range o.CA {
		if err := b.addCA(i, der); err != nil {
			return fmt.Errorf("ca[%d]: %w", j, err)
		}
	}
	return nil
}

func (b *Bundle) addCA(operator int, der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("is not a CA certificate")
	}
	for _, other := range b.cas {
		if bytes.Equal(other.cert.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo) && other.operator != operator {
			return errors.New("key belongs to another operator's CA")
		}
	}
	b.roots.AddCert(cert)
	b.cas = append(b.cas, issuer{operator, cert})
	return nil
}

// validName allows lower-case letters, digits and inner dashes.
func validName(s string) bool {
	if s == "" || len(s) > maxName || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// validAddress checks the shape only; the dialler parses the multiaddr.
func validAddress(s string) bool {
	if len(s) < 2 || len(s) > maxAddress || s[0] != '/' {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || strings.IndexByte(`"&?#%+`, c) >= 0 {
			return false
		}
	}
	return true
}

const maxAddress = 255 // a directory register gives an address one length byte

const sigWord = "gridveil-root" // first word of each line of network.toml.sig

// SignBundle signs the exact bytes and appends one line to sig, the contents of
// network.toml.sig so far (nil for the first signature).
func SignBundle(raw, sig []byte, root ed25519.PrivateKey) []byte {
	line := fmt.Sprintf("%s %x %s\n", sigWord, root.Public(), base64.StdEncoding.EncodeToString(ed25519.Sign(root, raw)))
	return append(bytes.Clone(sig), line...)
}

// checkSignatures wants enough root keys of b to have signed raw.
func (b *Bundle) checkSignatures(raw, sig []byte) error {
	signed, err := b.Signers(raw, sig)
	if err == nil && len(signed) < b.RootThreshold {
		err = fmt.Errorf("%w: %d of %d", ErrBundleSignature, len(signed), b.RootThreshold)
	}
	return err
}

// Signers gives the distinct root keys of b that signed raw; RootThreshold of
// them make it count. Lines of sig by other keys or over other bytes are skipped,
// malformed ones are ErrBundleSignature.
func (b *Bundle) Signers(raw, sig []byte) (map[RootKey]bool, error) {
	if len(sig) > MaxBundleSig {
		return nil, fmt.Errorf("%w: signature file has %d bytes, at most %d are allowed", ErrBundleSignature, len(sig), MaxBundleSig)
	}
	signed := map[RootKey]bool{}
	for line := range strings.Lines(string(sig)) {
		key, value, err := parseSigLine(line)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBundleSignature, err)
		}
		if slices.Contains(b.RootKeys, key) && ed25519.Verify(key[:], raw, value) {
			signed[key] = true
		}
	}
	return signed, nil
}

func parseSigLine(line string) (RootKey, []byte, error) {
	var key RootKey
	field := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	if len(field) != 3 || field[0] != sigWord {
		return key, nil, fmt.Errorf("signature line: want %q, a key and a signature", sigWord)
	}
	if err := key.UnmarshalText([]byte(field[1])); err != nil {
		return key, nil, fmt.Errorf("signature line: key: %w", err)
	}
	value, err := base64.StdEncoding.Strict().DecodeString(field[2])
	if err != nil {
		return key, nil, fmt.Errorf("signature line: signature: %w", err)
	}
	return key, value, nil
}
