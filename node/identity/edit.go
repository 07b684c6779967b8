package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
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

// Files of a network folder beside those in force: the next bundle, until it is
// signed by enough root keys and published.
const (
	NextFile          = "next.toml"
	NextSignatureFile = "next.toml.sig"
)

// Edit is a change of a network's bundle. Root keys stay as they are.
type Edit struct {
	Homes           int      // homes enrolled, all operators together; negative leaves them
	AddOperators    Plan     // its operators and zones; each operator's CA is drawn into the folder
	RemoveOperators []string // by name: their members are cut off
	AddCA           []string // operators that get one more CA, drawn into the folder
	RemoveCA        []string // by the beginning of a fingerprint, 8 digits or more: its members are cut off
}

// Fingerprint names a CA: the SHA-256 of its public key, of which 16 digits are shown.
func Fingerprint(der []byte) string {
	ca, err := member.CAOf(der)
	if err != nil {
		return "unreadable" // a parsed bundle holds none
	}
	return hex.EncodeToString(ca[:8])
}

// EditNetwork writes the next bundle of the network folder dir: the one in force,
// or an edited one that is not yet published, with the change. Signatures that it
// had are dropped. It returns the bundle in force and the next one.
func EditNetwork(dir string, e Edit, now time.Time, rnd io.Reader) (old, next *member.Bundle, err error) {
	if old, next, err = ReadNext(dir); err != nil {
		return nil, nil, err
	}
	if next == nil {
		if next, err = member.ParseBundle(old.Raw()); err != nil {
			return nil, nil, err
		}
	}
	next.Version = old.Version + 1
	keys, err := e.apply(next, now, rnd)
	if err != nil {
		return nil, nil, err
	}
	raw, err := next.Encode()
	if err != nil {
		return nil, nil, err
	}
	if next, err = member.ParseBundle(raw); err != nil {
		return nil, nil, err
	}
	if len(Changes(old, next)) == 0 {
		return nil, nil, errors.New("this changes nothing")
	}
	for path, key := range keys {
		if err := saveNewKey(filepath.Join(dir, path), key); err != nil {
			return nil, nil, err
		}
	}
	if err := os.Remove(filepath.Join(dir, NextSignatureFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("drop signatures of the earlier draft: %w", err)
	}
	return old, next, durable.WriteFile(filepath.Join(dir, NextFile), raw)
}

func saveNewKey(path string, key ed25519.PrivateKey) error {
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("%s is already there: keys are never overwritten", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make operator folder: %w", err)
	}
	return writeKey(path, key)
}

// apply changes b and gives the new CA keys by their path in the folder.
func (e Edit) apply(b *member.Bundle, now time.Time, rnd io.Reader) (map[string]ed25519.PrivateKey, error) {
	keys := map[string]ed25519.PrivateKey{}
	if e.AddOperators.Policy != (member.Policy{}) {
		return nil, errors.New("a plan of operators that come in has no [policy]: it is the network's already")
	}
	if e.Homes >= 0 {
		b.Policy.HomesEnrolled = e.Homes
	}
	for _, name := range e.RemoveOperators {
		i := operatorAt(b, name)
		if i < 0 {
			return nil, fmt.Errorf("no operator %q in this network", name)
		}
		b.Operators = slices.Delete(b.Operators, i, i+1)
	}
	for _, prefix := range e.RemoveCA {
		if err := removeCA(b, prefix); err != nil {
			return nil, err
		}
	}
	b.Zones = append(b.Zones, e.AddOperators.Zones...)
	for _, o := range e.AddOperators.Operators {
		ca, err := member.NewCA(o.Name, now, rnd)
		if err != nil {
			return nil, fmt.Errorf("operator %s: %w", o.Name, err)
		}
		b.Operators = append(b.Operators, member.Operator{Name: o.Name, CA: []member.DER{ca.Certificate}, Roles: o.Roles, Zones: o.Zones, DSOZones: o.DSOZones})
		keys[filepath.Join("operators", o.Name, CAFile)] = ca.Key
	}
	for _, name := range e.AddCA {
		i := operatorAt(b, name)
		if i < 0 {
			return nil, fmt.Errorf("no operator %q in this network", name)
		}
		ca, err := member.NewCA(name, now, rnd)
		if err != nil {
			return nil, fmt.Errorf("operator %s: %w", name, err)
		}
		b.Operators[i].CA = append(b.Operators[i].CA, ca.Certificate)
		keys[filepath.Join("operators", name, "ca-"+Fingerprint(ca.Certificate)+".key")] = ca.Key
	}
	return keys, nil
}

func operatorAt(b *member.Bundle, name string) int {
	return slices.IndexFunc(b.Operators, func(o member.Operator) bool { return o.Name == name })
}

func removeCA(b *member.Bundle, prefix string) error {
	const least = 8
	hits := 0
	for i := range b.Operators {
		o := &b.Operators[i]
		o.CA = slices.DeleteFunc(slices.Clone(o.CA), func(der member.DER) bool {
			hit := len(prefix) >= least && strings.HasPrefix(Fingerprint(der), strings.ToLower(prefix))
			if hit {
				hits++
			}
			return hit
		})
	}
	if hits != 1 {
		return fmt.Errorf("%d CAs have a fingerprint that begins with %q: give at least %d digits that name one\nnext: `gridveil network show FOLDER` lists them", hits, prefix, least)
	}
	return nil
}

// ReadNext reads the bundle in force and the next one of a network folder. next
// is nil where there is none; old is nil in a root key's folder, to which only
// the next one was brought.
func ReadNext(dir string) (old, next *member.Bundle, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, NextFile))
	if err == nil {
		if next, err = member.ParseBundle(raw); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", NextFile, err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("network folder: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, BundleFile)); next != nil && errors.Is(err, os.ErrNotExist) {
		return nil, next, nil
	}
	old, _, err = readBundle(dir)
	return old, next, err
}

// SignNext adds the signature of the root key in the file root to the next
// bundle of dir, and says how many root keys have signed and how many must.
func SignNext(dir, root string) (have, need int, err error) {
	_, next, err := ReadNext(dir)
	if err == nil && next == nil {
		err = fmt.Errorf("no %s in %s\nnext: make one with `gridveil network edit FOLDER`", NextFile, dir)
	}
	if err != nil {
		return 0, 0, err
	}
	key, err := readKey(root)
	if err != nil {
		return 0, 0, fmt.Errorf("root key: %w", err)
	}
	pub := member.RootKey(key.Public().(ed25519.PublicKey))
	if !slices.Contains(next.RootKeys, pub) {
		return 0, 0, fmt.Errorf("%s is no root key of this network", root)
	}
	sig, signed, err := readNextSig(dir, next)
	if err != nil {
		return 0, 0, err
	}
	if !signed[pub] {
		sig = member.SignBundle(next.Raw(), sig, key)
		signed[pub] = true
	}
	return len(signed), next.RootThreshold, durable.WriteFile(filepath.Join(dir, NextSignatureFile), sig)
}

func readNextSig(dir string, next *member.Bundle) (sig []byte, signed map[member.RootKey]bool, err error) {
	sig, err = os.ReadFile(filepath.Join(dir, NextSignatureFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("signatures: %w", err)
	}
	signed, err = next.Signers(next.Raw(), sig)
	return sig, signed, err
}

// NextSigned gives the next bundle of dir with its signatures, once enough root
// keys have signed.
func NextSigned(dir string) (raw, sig []byte, err error) {
	old, next, err := ReadNext(dir)
	switch {
	case err != nil:
		return nil, nil, err
	case next == nil:
		return nil, nil, fmt.Errorf("no %s in %s\nnext: make one with `gridveil network edit FOLDER`", NextFile, dir)
	}
	sig, signed, err := readNextSig(dir, next)
	if err != nil {
		return nil, nil, err
	}
	if len(signed) < next.RootThreshold {
		return nil, nil, fmt.Errorf("%d of %d root keys have signed %s\nnext: `gridveil network sign FOLDER --root KEYFILE` where the others are", len(signed), next.RootThreshold, NextFile)
	}
	if old != nil {
		_, err = old.Replace(next.Raw(), sig)
	}
	return next.Raw(), sig, err
}

// TakeNext makes the next bundle of dir the one in force, after it was published.
func TakeNext(dir string) error {
	raw, sig, err := NextSigned(dir)
	if err != nil {
		return err
	}
	if err := SaveBundle(dir, raw, sig); err != nil {
		return err
	}
	return errors.Join(os.Remove(filepath.Join(dir, NextFile)), os.Remove(filepath.Join(dir, NextSignatureFile)))
}

// Changes says in words what next changes, apart from the version.
func Changes(old, next *member.Bundle) []string {
	var out []string
	if a, b := old.Policy.HomesEnrolled, next.Policy.HomesEnrolled; a != b {
		out = append(out, fmt.Sprintf("homes enrolled: %d instead of %d", b, a))
	}
	rest := old.Policy
	if rest.HomesEnrolled = next.Policy.HomesEnrolled; rest != next.Policy {
		out = append(out, fmt.Sprintf("policy: %+v instead of %+v", next.Policy, old.Policy))
	}
	for _, o := range next.Operators {
		if before, known := old.Operator(o.Name); !known {
			out = append(out, fmt.Sprintf("operator %s comes in, for roles %v", o.Name, o.Roles))
		} else {
			out = append(out, operatorChanges(before, o)...)
		}
	}
	for _, o := range old.Operators {
		if _, stays := next.Operator(o.Name); !stays {
			out = append(out, fmt.Sprintf("operator %s goes, and its members with it", o.Name))
		}
	}
	if !slices.Equal(old.Zones, next.Zones) {
		out = append(out, fmt.Sprintf("zones: %d instead of %d", len(next.Zones), len(old.Zones)))
	}
	if !slices.Equal(old.RootKeys, next.RootKeys) || old.RootThreshold != next.RootThreshold {
		out = append(out, "the root keys, or how many must sign")
	}
	return out
}

func operatorChanges(old, next member.Operator) (out []string) {
	has := func(all []member.DER, der member.DER) bool {
		return slices.ContainsFunc(all, func(o member.DER) bool { return bytes.Equal(o, der) })
	}
	for _, der := range next.CA {
		if !has(old.CA, der) {
			out = append(out, fmt.Sprintf("operator %s: CA %s comes in", old.Name, Fingerprint(der)))
		}
	}
	for _, der := range old.CA {
		if !has(next.CA, der) {
			out = append(out, fmt.Sprintf("operator %s: CA %s goes, and who was certified by it", old.Name, Fingerprint(der)))
		}
	}
	if !slices.Equal(old.Roles, next.Roles) || !slices.Equal(old.Zones, next.Zones) || !slices.Equal(old.DSOZones, next.DSOZones) || !slices.Equal(old.Seeds, next.Seeds) {
		out = append(out, fmt.Sprintf("operator %s: roles %v, zones %v, grid of %v", next.Name, next.Roles, next.Zones, next.DSOZones))
	}
	return out
}
