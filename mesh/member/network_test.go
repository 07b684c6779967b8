package member

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	mathrand "math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"
)

// seeded gives reproducible randomness for tests.
func seeded(seed byte) *mathrand.ChaCha8 { return mathrand.NewChaCha8([32]byte{seed}) }

var start = time.UnixMilli(1_700_000_000_000).UTC()

// founded is a network with two operators and 2-of-3 root keys.
type founded struct {
	roots  []ed25519.PrivateKey
	uta    CA
	evagg  CA
	bundle *Bundle
	sig    []byte
	rnd    *mathrand.ChaCha8
}

func newKey(rnd *mathrand.ChaCha8) ed25519.PrivateKey {
	var seed [32]byte
	rnd.Read(seed[:])
	return ed25519.NewKeyFromSeed(seed[:])
}

func publicOf(k ed25519.PrivateKey) Key { return Key(k.Public().(ed25519.PublicKey)) }

func mustCA(t testing.TB, name string, rnd *mathrand.ChaCha8) CA {
	t.Helper()
	ca, err := NewCA(name, start, rnd)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func found(t testing.TB) *founded {
	t.Helper()
	f := &founded{rnd: seeded(1)}
	for range 3 {
		f.roots = append(f.roots, newKey(f.rnd))
	}
	f.uta, f.evagg = mustCA(t, "uta", f.rnd), mustCA(t, "evagg", f.rnd)
	f.bundle, f.sig = f.publish(t, f.draft(1), 0, 1)
	return f
}

// draft is the bundle as the founder fills it in.
func (f *founded) draft(version uint64) *Bundle {
	b := &Bundle{Network: NetworkID{0xaa, 0xbb}, Version: version, RootThreshold: 2,
		Operators: []Operator{
			{Name: "uta", CA: []DER{f.uta.Certificate}, Roles: []Role{RoleGateway, RoleSSN, RoleUtility, RoleHeadend},
				Zones: []string{"north", "south"}, DSOZones: []string{"north"}, Seeds: []string{"/ip4/192.0.2.1/tcp/4100"}},
			{Name: "evagg", CA: []DER{f.evagg.Certificate}, Roles: []Role{RoleAggregator, RoleWallet}},
		},
		Zones:  []Zone{{Name: "north"}, {Name: "south", Region: 1}},
		Policy: Policy{HomesEnrolled: 25},
	}
	for _, r := range f.roots {
		b.RootKeys = append(b.RootKeys, RootKey(publicOf(r)))
	}
	return b
}

// publish encodes, signs with the given roots and opens.
func (f *founded) publish(t testing.TB, draft *Bundle, signers ...int) (*Bundle, []byte) {
	t.Helper()
	raw, err := draft.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var sig []byte
	for _, i := range signers {
		sig = SignBundle(raw, sig, f.roots[i])
	}
	b, err := OpenBundle(raw, sig, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b, sig
}

// issue gives a certificate chain of an operator.
func (f *founded) issue(t testing.TB, ca CA, key ed25519.PrivateKey, role Role, zone string) [][]byte {
	t.Helper()
	chain, err := ca.IssueMember(Grant{f.bundle.Network, publicOf(key), role, zone}, start, f.rnd)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func TestABundleSurvivesEncodingAndFillsInItsDefaults(t *testing.T) {
	f := found(t)
	p := f.bundle.Policy
	if p.MinHomes != 20 || p.MinSet != 8 || p.Epoch() != 20*time.Minute || p.Slot() != 30*time.Second || p.Hop() != 30*time.Second ||
		p.SessionUp != 4 || p.SessionDown != 2 || p.Lab || p.HomesEnrolled != 25 {
		t.Errorf("policy %+v", p)
	}
	if r, known := f.bundle.Region("south"); !known || r != 1 {
		t.Errorf("region of south: %d, %v", r, known)
	}
	if _, known := f.bundle.Region("west"); known {
		t.Error("an unknown zone has a region")
	}
	again, err := ParseBundle(f.bundle.Raw())
	if err != nil || again.Hash() != f.bundle.Hash() || again.Tag() != [8]byte{0xaa, 0xbb} {
		t.Errorf("ParseBundle of its own bytes: %v", err)
	}
}

func TestABundleNeedsItsThresholdOfDistinctRoots(t *testing.T) {
	f := found(t)
	raw := f.bundle.Raw()
	stranger := newKey(f.rnd)
	one := SignBundle(raw, nil, f.roots[0])
	for _, tc := range []struct {
		fact string
		sig  []byte
		want error
	}{
		{"two of three", SignBundle(raw, one, f.roots[2]), nil},
		{"none", nil, ErrBundleSignature},
		{"one", one, ErrBundleSignature},
		{"one twice", SignBundle(raw, one, f.roots[0]), ErrBundleSignature},
		{"one and a stranger", SignBundle(raw, one, stranger), ErrBundleSignature},
		{"one and one over other bytes", SignBundle(append(bytes.Clone(raw), ' '), one, f.roots[1]), ErrBundleSignature},
		{"a line of nonsense", append(SignBundle(raw, one, f.roots[1]), "hello\n"...), ErrBundleSignature},
		{"too many bytes", bytes.Repeat([]byte("x"), MaxBundleSig+1), ErrBundleSignature},
	} {
		if _, err := OpenBundle(raw, tc.sig, nil); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.fact, err, tc.want)
		}
	}
	changed := bytes.Replace(raw, []byte("homes_enrolled = 25"), []byte("homes_enrolled = 99"), 1)
	if _, err := OpenBundle(changed, f.sig, nil); !errors.Is(err, ErrBundleSignature) {
		t.Errorf("a changed bundle: %v", err)
	}
	pin := sha256.Sum256(changed)
	if _, err := OpenBundle(raw, f.sig, &pin); !errors.Is(err, ErrBundlePin) {
		t.Errorf("another bundle than invited to: %v", err)
	}
}

func TestOnlyANewerBundleSignedByTheRootsHeldNowReplaces(t *testing.T) {
	f := found(t)
	next, sig := f.publish(t, f.draft(2), 1, 2)
	if got, err := f.bundle.Replace(next.Raw(), sig); err != nil || got.Version != 2 {
		t.Errorf("a newer bundle: %v", err)
	}
	if _, err := next.Replace(f.bundle.Raw(), f.sig); !errors.Is(err, ErrBundleOld) {
		t.Errorf("an older bundle: %v", err)
	}
	other := f.draft(3)
	other.Network[5] = 1
	foreign, sig := f.publish(t, other, 0, 1)
	if _, err := f.bundle.Replace(foreign.Raw(), sig); !errors.Is(err, ErrBundleOther) {
		t.Errorf("another network: %v", err)
	}
	// A thief of one root key makes himself the only root: his own bundle is
	// consistent, but the roots held now did not agree.
	theft := f.draft(4)
	theft.RootKeys, theft.RootThreshold = theft.RootKeys[:1], 1
	stolen, sig := f.publish(t, theft, 0)
	if _, err := f.bundle.Replace(stolen.Raw(), sig); !errors.Is(err, ErrBundleSignature) {
		t.Errorf("one share changes the roots: %v", err)
	}
}

func TestALostCAIsReplacedByTheRoots(t *testing.T) {
	f := found(t)
	key := newKey(f.rnd)
	old := f.issue(t, f.uta, key, RoleGateway, "north")
	f.uta = mustCA(t, "uta", f.rnd)
	next, sig := f.publish(t, f.draft(2), 0, 2)
	replaced, err := f.bundle.Replace(next.Raw(), sig)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := replaced.Verify(old, start); !errors.Is(err, ErrCertificate) {
		t.Errorf("a certificate of the lost CA: %v", err)
	}
	if _, err := replaced.Verify(f.issue(t, f.uta, key, RoleGateway, "north"), start); err != nil {
		t.Errorf("a certificate of the new CA: %v", err)
	}
}

func TestBundleMistakesAreNamedWithTheirPlace(t *testing.T) {
	f := found(t)
	good := string(f.bundle.Raw())
	for _, tc := range []struct{ fact, old, new, want string }{
		{"unknown key", "homes_enrolled = 25", "homes_enroled = 25", "network.toml:"},
		{"unknown key by name", "homes_enrolled = 25", "homes_enroled = 25", "unknown key policy.homes_enroled"},
		{"lowered floor", "min_homes = 0", "min_homes = 5", "floors may be raised"},
		{"unknown role", "'ssn'", "'boss'", "want one of"},
		{"unknown zone", "dso_zones = ['north']", "dso_zones = ['west']", "not listed"},
		{"no network", "network = 'aabb0000", "network = 'zz", "hexadecimal"},
		{"threshold of nobody", "root_threshold = 2", "root_threshold = 0", "root_threshold"},
		{"threshold above all", "root_threshold = 2", "root_threshold = 4", "root_threshold"},
		{"bad seed", "/ip4/192.0.2.1/tcp/4100", "192.0.2.1:4100", "multiaddr"},
		{"name twice", "name = 'evagg'", "name = 'uta'", "listed twice"},
		{"bad name", "name = 'evagg'", "name = 'EV Agg'", "lower-case"},
		{"version zero", "version = 1", "version = 0", "version"},
		{"short epochs", "epoch_ms = 0", "epoch_ms = 1000", "epoch_ms"},
		{"prices upside down", "price_min_micro = 0", "price_min_micro = 6000000", "price_min_micro"},
		{"no TOML", "version = 1", "version 1", "network.toml:"},
	} {
		bad := strings.Replace(good, tc.old, tc.new, 1)
		if bad == good {
			t.Fatalf("%s: the text has no %q", tc.fact, tc.old)
		}
		if _, err := ParseBundle([]byte(bad)); !errors.Is(err, ErrBundle) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.fact, err)
		}
	}
	if _, err := ParseBundle(make([]byte, MaxBundle+1)); !errors.Is(err, ErrBundle) {
		t.Errorf("too long: %v", err)
	}
}

func TestTwoOperatorsCannotShareACA(t *testing.T) {
	f := found(t)
	draft := f.draft(1)
	draft.Operators[1].CA = draft.Operators[0].CA
	if _, err := draft.Encode(); !errors.Is(err, ErrBundle) {
		t.Errorf("got %v", err)
	}
}

func TestACertificateNamesItsMember(t *testing.T) {
	f := found(t)
	for _, tc := range []struct {
		ca       CA
		operator string
		role     Role
		zone     string
		life     time.Duration
	}{
		{f.uta, "uta", RoleGateway, "north", MemberLife},
		{f.uta, "uta", RoleSSN, "south", MemberLife},
		{f.uta, "uta", RoleUtility, "", MemberLife},
		{f.evagg, "evagg", RoleWallet, "", MemberLife},
	} {
		key := newKey(f.rnd)
		m, err := f.bundle.Verify(f.issue(t, tc.ca, key, tc.role, tc.zone), start)
		if err != nil {
			t.Fatalf("%s: %v", tc.role, err)
		}
		if m.Key != publicOf(key) || m.Role != tc.role || m.Zone != tc.zone || m.Operator != tc.operator || m.Serial == "" {
			t.Errorf("%s: member %+v", tc.role, m)
		}
		if back, err := KeyOf(m.Peer); err != nil || back != m.Key {
			t.Errorf("%s: peer id holds another key (%v)", tc.role, err)
		}
		if left := m.NotAfter.Sub(start); left > tc.life || left < tc.life-2*backdate {
			t.Errorf("%s: valid for %s", tc.role, left)
		}
		if _, err := f.bundle.Verify(f.issue(t, tc.ca, key, tc.role, tc.zone), start.Add(tc.life)); !errors.Is(err, ErrExpired) {
			t.Errorf("%s: after its life: %v", tc.role, err)
		}
		if !m.RenewAt().After(start.Add(tc.life/2)) || !m.RenewAt().Before(m.NotAfter) {
			t.Errorf("%s: renewed at %s", tc.role, m.RenewAt())
		}
	}
}

// forge signs a leaf with any contents.
func forge(t *testing.T, f *founded, ca CA, key ed25519.PrivateKey, change func(c *x509.Certificate)) [][]byte {
	t.Helper()
	id, err := publicOf(key).Peer()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(name(f.bundle.Network, RoleGateway, "north", id))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(5), NotBefore: start, NotAfter: start.Add(time.Hour), URIs: []*url.URL{u},
		BasicConstraintsValid: true}
	change(c)
	parent, err := x509.ParseCertificate(ca.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{der}
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestWrongCertificatesAreRefused(t *testing.T) {
	f := found(t)
	key, stranger := newKey(f.rnd), mustCA(t, "uta", f.rnd)
	id, _ := publicOf(key).Peer()
	otherID, _ := publicOf(newKey(f.rnd)).Peer()
	net := f.bundle.Network
	setURI := func(s string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs = []*url.URL{mustURL(t, s)} }
	}
	for _, tc := range []struct {
		fact   string
		ca     CA
		change func(c *x509.Certificate)
		want   error
	}{
		{"the unchanged one is good", f.uta, func(*x509.Certificate) {}, nil},
		{"a CA that only has the operator's name", stranger, func(*x509.Certificate) {}, ErrCertificate},
		{"another network", f.uta, setURI(name(NetworkID{9}, RoleGateway, "north", id)), ErrCertificate},
		{"another peer", f.uta, setURI(name(net, RoleGateway, "north", otherID)), ErrCertificate},
		{"an unknown role", f.uta, setURI("gridveil:" + net.String() + "/boss/north/" + id.String()), ErrCertificate},
		{"no name", f.uta, func(c *x509.Certificate) { c.URIs = nil }, ErrCertificate},
		{"two names", f.uta, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }, ErrCertificate},
		{"a DNS name", f.uta, func(c *x509.Certificate) { c.DNSNames = []string{"x.example"} }, ErrCertificate},
		{"a role the operator may not issue", f.uta, setURI(name(net, RoleAggregator, "", id)), ErrRole},
		{"a zone the operator does not have", f.evagg, setURI(name(net, RoleAggregator, "north", id)), ErrRole},
		{"a gateway without zone", f.uta, setURI(name(net, RoleGateway, "", id)), ErrRole},
		{"a wallet with a zone", f.evagg, setURI(name(net, RoleWallet, "north", id)), ErrRole},
		{"valid too long", f.uta, func(c *x509.Certificate) { c.NotAfter = start.Add(MemberLife + time.Minute) }, ErrCertificate},
		{"not valid yet", f.uta, func(c *x509.Certificate) { c.NotBefore = start.Add(time.Minute) }, ErrExpired},
		{"expired", f.uta, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = start.Add(-time.Hour), start.Add(-time.Minute) }, ErrExpired},
		{"a CA as member", f.uta, func(c *x509.Certificate) { c.IsCA = true }, ErrCertificate},
	} {
		if _, err := f.bundle.Verify(forge(t, f, tc.ca, key, tc.change), start); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.fact, err, tc.want)
		}
	}
	for fact, chain := range map[string][][]byte{"empty": nil, "four": make([][]byte, 4), "no DER": {{1, 2, 3}}, "too long": {make([]byte, MaxCertificate+1)}} {
		if _, err := f.bundle.Verify(chain, start); !errors.Is(err, ErrCertificate) {
			t.Errorf("%s: %v", fact, err)
		}
	}
}

func TestAnIntermediateMayIssueAndTheChainIsAtMostThree(t *testing.T) {
	f := found(t)
	sub, subKey := intermediate(t, f.uta.Certificate, f.uta.Key, f.rnd)
	key := newKey(f.rnd)
	leaf := f.issue(t, CA{sub, subKey}, key, RoleGateway, "north")
	if m, err := f.bundle.Verify(append(leaf, sub), start); err != nil || m.Operator != "uta" {
		t.Errorf("leaf, intermediate, CA: %v", err)
	}
	if _, err := f.bundle.Verify(leaf, start); !errors.Is(err, ErrCertificate) {
		t.Errorf("without the intermediate: %v", err)
	}
	sub2, sub2Key := intermediate(t, sub, subKey, f.rnd)
	deep := f.issue(t, CA{sub2, sub2Key}, key, RoleGateway, "north")
	if _, err := f.bundle.Verify(append(deep, sub2, sub), start); !errors.Is(err, ErrCertificate) {
		t.Errorf("a chain of four: %v", err)
	}
}

func intermediate(t *testing.T, parentDER []byte, parentKey ed25519.PrivateKey, rnd *mathrand.ChaCha8) ([]byte, ed25519.PrivateKey) {
	t.Helper()
	parent, err := x509.ParseCertificate(parentDER)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(rnd)
	c := &x509.Certificate{SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: "sub"}, NotBefore: start, NotAfter: start.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

func TestIssuingRefusesWhatCouldNeverBeAdmitted(t *testing.T) {
	f := found(t)
	for fact, g := range map[string]Grant{
		"no role":              {f.bundle.Network, Key{1}, 0, "north"},
		"gateway without zone": {f.bundle.Network, Key{1}, RoleGateway, ""},
		"wallet with zone":     {f.bundle.Network, Key{1}, RoleWallet, "north"},
		"malformed zone":       {f.bundle.Network, Key{1}, RoleGateway, "North/1"},
	} {
		if _, err := f.uta.IssueMember(g, start, f.rnd); !errors.Is(err, ErrRole) {
			t.Errorf("%s: %v", fact, err)
		}
	}
}

func TestARevokedMemberIsOutAndListsOnlyGrow(t *testing.T) {
	f := found(t)
	m, err := f.bundle.Verify(f.issue(t, f.uta, newKey(f.rnd), RoleGateway, "north"), start)
	if err != nil {
		t.Fatal(err)
	}
	list := func(ca CA, number uint64, serials ...string) []byte {
		der, err := ca.Revoke(serials, number, start, start.Add(24*time.Hour), f.rnd)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	var r Revocations
	add := func(fact string, der []byte, wantChanged bool, wantErr error) {
		t.Helper()
		if changed, err := r.Add(f.bundle, der); changed != wantChanged || !errors.Is(err, wantErr) {
			t.Errorf("%s: %v, %v", fact, changed, err)
		}
	}
	add("an empty list", list(f.uta, 1), true, nil)
	if r.Revoked(m) {
		t.Error("revoked by an empty list")
	}
	add("a list of another operator", list(f.evagg, 1, m.Serial), true, nil)
	if r.Revoked(m) {
		t.Error("revoked by another operator")
	}
	second := list(f.uta, 2, m.Serial)
	add("a list with the serial", second, true, nil)
	if !r.Revoked(m) {
		t.Error("not revoked")
	}
	add("the same list", second, false, nil)
	add("an older list", list(f.uta, 1), false, nil)
	if !r.Revoked(m) {
		t.Error("an older list takes the revocation back")
	}
	add("a list of a stranger", list(mustCA(t, "uta", f.rnd), 3), false, ErrCRL)
	add("no list", []byte{1}, false, ErrCRL)
	add("a huge list", make([]byte, MaxCRL+1), false, ErrCRL)
	if r.Stale(m, start) || !r.Stale(m, start.Add(25*time.Hour)) {
		t.Error("staleness follows the next update")
	}
	if ca, number, err := f.bundle.CRLSigner(second); err != nil || ca != m.CA || number != 2 || CRLKey(ca) == 0 {
		t.Errorf("CRLSigner: %v", err)
	}
	if CRLKey([32]byte{}) != 1 {
		t.Error("a CA may have the bundle's register key")
	}
	tooMany := make([]string, MaxRevoked+1)
	for i := range tooMany {
		tooMany[i] = big.NewInt(int64(i) + 1).Text(16)
	}
	add("a list above the limit", list(f.uta, 9, tooMany...), false, ErrCRL)
	add("a list at the limit", list(f.uta, 9, tooMany[1:]...), true, nil)
}

func TestAFullRevocationListFitsTheTrustRegister(t *testing.T) {
	f := found(t)
	serials := make([]string, MaxRevoked)
	for i := range serials {
		n, err := drawSerial(f.rnd)
		if err != nil {
			t.Fatal(err)
		}
		serials[i] = n.Text(16)
	}
	der, err := f.uta.Revoke(serials, 1, start, start.Add(time.Hour), f.rnd)
	if err != nil || len(der) > MaxCRL {
		t.Errorf("%d serials take %d bytes (%v)", MaxRevoked, len(der), err)
	}
}

func TestTheRollKnowsWhoSigned(t *testing.T) {
	f := found(t)
	var revoked Revocations
	roll := NewRoll(f.bundle, &revoked)
	chain := f.issue(t, f.uta, newKey(f.rnd), RoleSSN, "north")
	m, err := roll.Add(chain, start)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := roll.Lookup(m.CertHash, start); err != nil || got != m {
		t.Errorf("Lookup: %v", err)
	}
	if _, err := roll.Lookup([32]byte{1}, start); !errors.Is(err, ErrUnknown) {
		t.Errorf("an unknown certificate: %v", err)
	}
	if _, err := roll.Lookup(m.CertHash, start.Add(MemberLife)); !errors.Is(err, ErrExpired) {
		t.Errorf("an expired certificate: %v", err)
	}
	if got, have := roll.Chain(m.CertHash); !have || !bytes.Equal(got[0], chain[0]) {
		t.Error("the chain cannot be handed on")
	}
	der, err := f.uta.Revoke([]string{m.Serial}, 1, start, start.Add(time.Hour), f.rnd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := revoked.Add(f.bundle, der); err != nil {
		t.Fatal(err)
	}
	if _, err := roll.Lookup(m.CertHash, start); !errors.Is(err, ErrRevoked) || len(roll.Members(start)) != 0 {
		t.Errorf("a revoked certificate: %v", err)
	}
	f.uta = mustCA(t, "uta", f.rnd)
	next, _ := f.publish(t, f.draft(2), 0, 1)
	roll.Replace(next, start)
	if _, err := roll.Lookup(m.CertHash, start); !errors.Is(err, ErrUnknown) || roll.Bundle() != next {
		t.Errorf("after the CA is gone: %v", err)
	}
}
