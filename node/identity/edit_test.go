package identity

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gridveil/mesh/member"
)

const newcomer = `[[zones]]
name = "oak"
region = 1

[[operators]]
name = "utility-c"
roles = ["gateway", "ssn"]
zones = ["elm", "oak"]
`

// saved is a network folder.
func saved(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "net")
	if err := found(t).Save(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func edit(t *testing.T, dir string, e Edit) *member.Bundle {
	t.Helper()
	_, next, err := EditNetwork(dir, e, now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func sign(t *testing.T, dir string, keys ...string) {
	t.Helper()
	for _, k := range keys {
		if _, _, err := SignNext(dir, filepath.Join(dir, k)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestANextBundleCountsOnceEnoughRootsSigned(t *testing.T) {
	dir := saved(t)
	if _, _, err := NextSigned(dir); err == nil || !strings.Contains(err.Error(), "network edit") {
		t.Errorf("without a draft: %v", err)
	}
	if _, _, err := SignNext(dir, filepath.Join(dir, "root-1.key")); err == nil {
		t.Error("nothing was signed")
	}
	if next := edit(t, dir, Edit{Homes: 24}); next.Version != 2 || next.Policy.HomesEnrolled != 24 {
		t.Errorf("version %d with %d homes", next.Version, next.Policy.HomesEnrolled)
	}
	sign(t, dir, "root-1.key", "root-1.key")
	if _, _, err := NextSigned(dir); err == nil || !strings.Contains(err.Error(), "1 of 2 root keys") {
		t.Errorf("signed twice by one key: %v", err)
	}
	if _, _, err := SignNext(dir, filepath.Join(dir, "operators", "evagg", CAFile)); err == nil || !strings.Contains(err.Error(), "no root key") {
		t.Errorf("signed with another key: %v", err)
	}
	sign(t, dir, "root-3.key")
	raw, sig, err := NextSigned(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := member.OpenBundle(raw, sig, nil); err != nil {
		t.Fatal(err)
	}
	// A further edit is another text: nobody has signed that.
	edit(t, dir, Edit{Homes: 25})
	if _, _, err := NextSigned(dir); err == nil {
		t.Error("signatures of an earlier draft counted")
	}
	sign(t, dir, "root-1.key", "root-2.key")
	if err := TakeNext(dir); err != nil {
		t.Fatal(err)
	}
	old, next, err := ReadNext(dir)
	if err != nil || next != nil || old.Version != 2 || old.Policy.HomesEnrolled != 25 {
		t.Errorf("after it was taken: %+v, %+v, %v", old, next, err)
	}
	if edit(t, dir, Edit{Homes: 26}).Version != 3 {
		t.Error("the next draft has not the next version")
	}
}

func TestEditsOfOperatorsAndCAs(t *testing.T) {
	dir := saved(t)
	plan, err := ParsePlan("more.toml", []byte(newcomer))
	if err != nil {
		t.Fatal(err)
	}
	old, next, err := EditNetwork(dir, Edit{Homes: -1, AddOperators: plan, RemoveOperators: []string{"watchdog"}, AddCA: []string{"utility-a"}}, now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Join(Changes(old, next), "\n")
	for _, want := range []string{"operator utility-c comes in", "operator watchdog goes", "operator utility-a: CA ", "zones: 2 instead of 1"} {
		if !strings.Contains(words, want) {
			t.Errorf("changes lack %q:\n%s", want, words)
		}
	}
	if _, err := readKey(filepath.Join(dir, "operators", "utility-c", CAFile)); err != nil {
		t.Errorf("the newcomer's key: %v", err)
	}
	a, _ := next.Operator("utility-a")
	if len(a.CA) != 2 {
		t.Fatalf("utility-a has %d CAs", len(a.CA))
	}
	if _, err := readKey(filepath.Join(dir, "operators", "utility-a", "ca-"+Fingerprint(a.CA[1])+".key")); err != nil {
		t.Errorf("the new CA's key: %v", err)
	}
	next = edit(t, dir, Edit{Homes: -1, RemoveCA: []string{strings.ToUpper(Fingerprint(a.CA[0])[:8])}})
	if a, _ := next.Operator("utility-a"); len(a.CA) != 1 {
		t.Errorf("utility-a still has %d CAs", len(a.CA))
	}
}

func TestEditsThatCannotBeMeant(t *testing.T) {
	dir := saved(t)
	policy, err := ParsePlan("p.toml", []byte("[policy]\nlab = true\n"))
	if err != nil {
		t.Fatal(err)
	}
	twice, err := ParsePlan("p.toml", []byte("[[operators]]\nname = \"evagg\"\nroles = [\"aggregator\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]Edit{
		"nothing":                        {Homes: -1},
		"an operator that is not there":  {Homes: -1, RemoveOperators: []string{"nobody"}},
		"a CA for nobody":                {Homes: -1, AddCA: []string{"nobody"}},
		"a fingerprint of seven digits":  {Homes: -1, RemoveCA: []string{"0000000"}},
		"a fingerprint that is not here": {Homes: -1, RemoveCA: []string{"0000000000"}},
		"a policy":                       {Homes: -1, AddOperators: policy},
		"an operator that is there":      {Homes: -1, AddOperators: twice},
		"too many homes":                 {Homes: 1<<24 + 1},
	} {
		if _, _, err := EditNetwork(dir, e, now, rand.Reader); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, next, err := ReadNext(dir); next != nil || err != nil {
		t.Errorf("a refused edit left a draft: %v", err)
	}
}

func TestARootKeyElsewhereNeedsOnlyTheDraft(t *testing.T) {
	dir, far := saved(t), t.TempDir()
	edit(t, dir, Edit{Homes: 24})
	for _, name := range []string{NextFile, "root-2.key"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(far, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if have, need, err := SignNext(far, filepath.Join(far, "root-2.key")); have != 1 || need != 2 || err != nil {
		t.Errorf("signed by %d of %d: %v", have, need, err)
	}
}

// TestABundleOnDiskFitsItsSignaturesAtEveryMoment stops SaveBundle after each of its writes.
func TestABundleOnDiskFitsItsSignaturesAtEveryMoment(t *testing.T) {
	dir := saved(t)
	oldRaw, oldSig := mustRead(t, dir, BundleFile), mustRead(t, dir, SignatureFile)
	edit(t, dir, Edit{Homes: 24})
	sign(t, dir, "root-1.key", "root-2.key")
	raw, sig, err := NextSigned(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := SaveBundle(dir, raw, oldSig); !errors.Is(err, member.ErrBundleSignature) {
		t.Errorf("a bundle without its signatures: %v", err)
	}
	if err := SaveBundle(dir, raw, sig); err != nil {
		t.Fatal(err)
	}
	both := append(append([]byte(nil), sig...), oldSig...)
	for _, c := range []struct {
		raw, sig []byte
		version  uint64
	}{{oldRaw, both, 1}, {raw, both, 2}, {mustRead(t, dir, BundleFile), mustRead(t, dir, SignatureFile), 2}} {
		if b, err := member.OpenBundle(c.raw, c.sig, nil); err != nil || b.Version != c.version {
			t.Errorf("after a crash: %v, want version %d", err, c.version)
		}
	}
}

func mustRead(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
