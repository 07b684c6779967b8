package identity

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridveil/mesh/member"
)

var now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

func found(t *testing.T) *Network {
	t.Helper()
	p, err := ParsePlan("plan.toml", []byte(Example))
	if err != nil {
		t.Fatal(err)
	}
	n, err := Found(p, now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFoundedNetworkCertifiesItsNodes(t *testing.T) {
	dir, home := filepath.Join(t.TempDir(), "net"), t.TempDir()
	if err := found(t).Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := found(t).Save(dir); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("second founding in the same folder: got %v", err)
	}
	n, err := OpenNetwork(dir, "utility-a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load(home, now); err == nil {
		t.Error("an empty directory has an identity")
	}
	if _, err := Key(home, rand.Reader); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(home, now); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("key without certificate: got %v", err)
	}
	if err := Certify(home, n, "utility-a", member.RoleUtility, "", []string{"/ip4/127.0.0.1/tcp/1"}, true, now, rand.Reader); err != nil {
		t.Fatal(err)
	}
	id, err := Load(home, now)
	if err != nil {
		t.Fatal(err)
	}
	if id.Member.Role != member.RoleUtility || id.CA == nil || len(id.Contacts) != 1 {
		t.Errorf("got %v, CA %v, contacts %v", id.Member.Role, id.CA != nil, id.Contacts)
	}
	if _, err := Load(home, now.Add(100*24*time.Hour)); !errors.Is(err, member.ErrExpired) {
		t.Errorf("after 100 days: got %v", err)
	}
	if err := Certify(home, n, "utility-a", member.RoleAggregator, "", nil, false, now, rand.Reader); err == nil {
		t.Error("a utility certified an aggregator")
	}
	if _, err := OpenNetwork(dir, "nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("unknown operator: got %v", err)
	}
}

func TestACertificateOfACAThatOnlyTheNewestBundleNamesLoads(t *testing.T) {
	home, n := t.TempDir(), found(t)
	if err := Certify(home, n, "utility-a", member.RoleUtility, "", nil, false, now, rand.Reader); err != nil {
		t.Fatal(err)
	}
	ca, err := member.NewCA("utility-a", now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := Load(home, now)
	if err != nil {
		t.Fatal(err)
	}
	next, err := member.ParseBundle(id.Bundle.Raw())
	if err != nil {
		t.Fatal(err)
	}
	next.Version++
	for i := range next.Operators {
		if next.Operators[i].Name == "utility-a" {
			next.Operators[i].CA = []member.DER{ca.Certificate}
		}
	}
	raw, err := next.Encode()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.IssueMember(member.Grant{Network: next.Network, Key: id.Member.Key, Role: member.RoleUtility}, now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := SaveChain(home, chain); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(home, now); !errors.Is(err, member.ErrCertificate) {
		t.Errorf("under the installed bundle: got %v", err)
	}
	id, err = LoadNewest(home, now, func(installed *member.Bundle, _ []byte) (*member.Bundle, []byte, error) {
		b, err := member.ParseBundle(raw)
		return b, []byte("sig"), err
	})
	if err != nil || id.Bundle.Version != next.Version || string(id.Sig) != "sig" {
		t.Errorf("under the newest bundle: got %v", err)
	}
}

func TestReadableKeyIsRefused(t *testing.T) {
	dir := t.TempDir()
	if _, err := Key(dir, rand.Reader); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, KeyFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Key(dir, rand.Reader); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v", err)
	}
}

func TestPlanMistakesHaveTheirPlace(t *testing.T) {
	if _, err := ParsePlan("p.toml", []byte("root_keys = 1\nroots = 2\n")); err == nil || !strings.Contains(err.Error(), "p.toml:2:1: unknown key roots") {
		t.Errorf("got %v", err)
	}
	if _, err := Found(Plan{Roots: 2, Threshold: 3}, now, rand.Reader); err == nil {
		t.Error("threshold above the number of keys was accepted")
	}
}
