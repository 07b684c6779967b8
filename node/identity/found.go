package identity

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"gridveil/ledger/durable"
	"gridveil/mesh/member"
)

// Plan is what the founders of a network agree on before it exists.
type Plan struct {
	Roots     int            `toml:"root_keys"`      // how many root keys; default 3
	Threshold int            `toml:"root_threshold"` // how many must sign a bundle; default 2
	Operators []PlanOperator `toml:"operators"`
	Zones     []member.Zone  `toml:"zones"`
	Policy    member.Policy  `toml:"policy"`
}

// PlanOperator is an organisation that certifies members.
type PlanOperator struct {
	Name     string        `toml:"name"`
	Roles    []member.Role `toml:"roles"`
	Zones    []string      `toml:"zones"`
	DSOZones []string      `toml:"dso_zones"`
}

// Example is a plan to start from: two utilities, an aggregator, an independent
// verifier and a municipal grid operator.
const Example = `# A gridveil network before it exists. Edit, then: gridveil network new --plan FILE --out DIR
root_keys = 3          # keep each with another organisation
root_threshold = 2     # so many must sign every change of the network

[[zones]]
name = "elm"
region = 1

[[operators]]
name = "utility-a"
roles = ["gateway", "ssn", "headend", "utility", "wallet"]
zones = ["elm"]
dso_zones = ["elm"]

[[operators]]
name = "utility-b"
roles = ["gateway", "ssn", "utility", "wallet"]
zones = ["elm"]

[[operators]]
name = "town-grid"
roles = ["ssn"]
zones = ["elm"]

[[operators]]
name = "evagg"
roles = ["aggregator"]

[[operators]]
name = "watchdog"
roles = ["verifier"]

[policy]
homes_enrolled = 0     # gateways with a certificate, as the operators count them
lab = false            # true allows class "lab": no delay and no cover, for trials
`

// ParsePlan decodes a plan strictly; errors name line and column.
func ParsePlan(name string, b []byte) (Plan, error) {
	p := Plan{Roots: 3, Threshold: 2}
	err := toml.NewDecoder(strings.NewReader(string(b))).DisallowUnknownFields().Decode(&p)
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		line, col := strict.Errors[0].Position()
		return p, fmt.Errorf("%s:%d:%d: unknown key %s", name, line, col, strings.Join(strict.Errors[0].Key(), "."))
	}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		line, col := de.Position()
		return p, fmt.Errorf("%s:%d:%d: %s", name, line, col, strings.TrimPrefix(de.Error(), "toml: "))
	}
	return p, err
}

// Network is a founded network: its bundle, and the secrets of its founders.
type Network struct {
	Bundle, Sig []byte
	Roots       []ed25519.PrivateKey
	CAs         map[string]member.CA
}

// Found draws keys and signs the first bundle. Everything random comes from rnd.
func Found(p Plan, now time.Time, rnd io.Reader) (*Network, error) {
	if p.Roots < 1 || p.Roots > 16 || p.Threshold < 1 || p.Threshold > p.Roots {
		return nil, fmt.Errorf("%d root keys of which %d sign: want 1 to 16, and a threshold among them", p.Roots, p.Threshold)
	}
	n := &Network{CAs: make(map[string]member.CA)}
	b := member.Bundle{Version: 1, RootThreshold: p.Threshold, Zones: p.Zones, Policy: p.Policy}
	if _, err := io.ReadFull(rnd, b.Network[:]); err != nil {
		return nil, fmt.Errorf("draw network id: %w", err)
	}
	for range p.Roots {
		pub, key, err := drawKey(rnd)
		if err != nil {
			return nil, err
		}
		n.Roots = append(n.Roots, key)
		b.RootKeys = append(b.RootKeys, member.RootKey(pub))
	}
	for _, o := range p.Operators {
		ca, err := member.NewCA(o.Name, now, rnd)
		if err != nil {
			return nil, fmt.Errorf("operator %s: %w", o.Name, err)
		}
		n.CAs[o.Name] = ca
		b.Operators = append(b.Operators, member.Operator{Name: o.Name, CA: []member.DER{ca.Certificate}, Roles: o.Roles, Zones: o.Zones, DSOZones: o.DSOZones})
	}
	raw, err := b.Encode()
	if err != nil {
		return nil, err
	}
	n.Bundle = raw
	for _, r := range n.Roots {
		n.Sig = member.SignBundle(raw, n.Sig, r)
	}
	return n, nil
}

// drawKey makes a key from 32 bytes of rnd, so that a seeded demonstration
// founds the same network every time.
func drawKey(rnd io.Reader) (ed25519.PublicKey, ed25519.PrivateKey, error) {
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(rnd, seed[:]); err != nil {
		return nil, nil, fmt.Errorf("draw key: %w", err)
	}
	key := ed25519.NewKeyFromSeed(seed[:])
	return key.Public().(ed25519.PublicKey), key, nil
}

// Save writes the network into dir: network.toml(.sig), root-<i>.key, and a
// folder for each operator with its ca.key. The folder must be empty or new.
func (n *Network) Save(dir string) error {
	if list, err := os.ReadDir(dir); err == nil && len(list) > 0 {
		return fmt.Errorf("%s is not empty: a network's keys are never overwritten", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make network folder: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(dir, BundleFile), n.Bundle); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, SignatureFile), n.Sig); err != nil {
		return err
	}
	for i, r := range n.Roots {
		if err := writeKey(filepath.Join(dir, fmt.Sprintf("root-%d.key", i+1)), r); err != nil {
			return err
		}
	}
	for name, ca := range n.CAs {
		sub := filepath.Join(dir, "operators", name)
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return fmt.Errorf("make operator folder: %w", err)
		}
		if err := writeKey(filepath.Join(sub, CAFile), ca.Key); err != nil {
			return err
		}
	}
	return nil
}

// Certify gives the node in dir its first certificate straight from an
// operator's CA, as founders do for their own nodes; others join by code. keep
// also leaves the CA key there, so that the node can certify others.
func Certify(dir string, n *Network, operator string, role member.Role, zone string, contacts []string, keep bool, now time.Time, rnd io.Reader) error {
	ca, ok := n.CAs[operator]
	if !ok {
		return fmt.Errorf("no operator %q in this network", operator)
	}
	key, err := Key(dir, rnd)
	if err != nil {
		return err
	}
	b, err := member.OpenBundle(n.Bundle, n.Sig, nil)
	if err != nil {
		return err
	}
	chain, err := ca.IssueMember(member.Grant{Network: b.Network, Key: member.Key(key.Public().(ed25519.PublicKey)), Role: role, Zone: zone}, now, rnd)
	if err != nil {
		return fmt.Errorf("issue certificate: %w", err)
	}
	if _, err := b.Verify(chain, now); err != nil {
		return fmt.Errorf("operator %s cannot certify a %s in zone %q: %w", operator, role, zone, err)
	}
	if keep {
		if err := writeKey(filepath.Join(dir, CAFile), ca.Key); err != nil {
			return err
		}
	}
	return Install(dir, n.Bundle, n.Sig, chain, contacts)
}

// May says why operator cannot certify a node of a role in a zone, if it cannot.
func (n *Network) May(operator, roleName, zone string) error {
	b, err := member.OpenBundle(n.Bundle, n.Sig, nil)
	if err != nil {
		return err
	}
	op, _ := b.Operator(operator)
	r, err := member.ParseRole(roleName)
	if err != nil {
		return err
	}
	if !slices.Contains(op.Roles, r) {
		return fmt.Errorf("operator %s cannot certify the role %s, only %v", operator, r, op.Roles)
	}
	if zoned := r == member.RoleGateway || r == member.RoleSSN; zoned && !slices.Contains(op.Zones, zone) {
		return fmt.Errorf("role %s needs a zone of operator %s: want --zone with one of %s, got %q", r, operator, strings.Join(op.Zones, ", "), zone)
	} else if !zoned && zone != "" {
		return fmt.Errorf("role %s has no zone: leave --zone out", r)
	}
	return nil
}

// OpenNetwork reads what Save wrote, or the part of one operator.
func OpenNetwork(dir, operator string) (*Network, error) {
	n := &Network{CAs: make(map[string]member.CA)}
	var err error
	if n.Bundle, err = os.ReadFile(filepath.Join(dir, BundleFile)); err != nil {
		return nil, fmt.Errorf("network folder: %w", err)
	}
	if n.Sig, err = os.ReadFile(filepath.Join(dir, SignatureFile)); err != nil {
		return nil, fmt.Errorf("network folder: %w", err)
	}
	b, err := member.OpenBundle(n.Bundle, n.Sig, nil)
	if err != nil {
		return nil, err
	}
	ca, err := readCA(filepath.Join(dir, "operators", operator), b, operator)
	if err != nil {
		return nil, err
	}
	if ca == nil {
		return nil, fmt.Errorf("no key of operator %q in %s: want %s", operator, dir, filepath.Join("operators", operator, CAFile))
	}
	n.CAs[operator] = *ca
	return n, nil
}
