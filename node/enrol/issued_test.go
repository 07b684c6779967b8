package enrol

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/store"
	"gridveil/node/store/storetest"
)

// desk is a registrar over a real store, with a clock that the test sets.
type desk struct {
	*Registrar
	t      *testing.T
	now    time.Time
	st     *store.Store
	ca     member.CA
	bundle *member.Bundle
	raised int
}

func (d *desk) Now() time.Time                       { return d.now }
func (d *desk) After(time.Duration) <-chan time.Time { return nil }

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, now: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)}
	var err error
	if d.ca, err = member.NewCA("town", d.now, rand.Reader); err != nil {
		t.Fatal(err)
	}
	b := member.Bundle{Version: 1, RootThreshold: 1, RootKeys: []member.RootKey{{1}}, Zones: []member.Zone{{Name: "elm", Region: 1}},
		Operators: []member.Operator{{Name: "town", CA: []member.DER{d.ca.Certificate}, Roles: []member.Role{member.RoleGateway, member.RoleSSN}, Zones: []string{"elm"}}}}
	b.Network[0] = 1
	raw, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if d.bundle, err = member.ParseBundle(raw); err != nil {
		t.Fatal(err)
	}
	d.st = storetest.Open(t)
	d.open()
	return d
}

// open makes the registrar anew over the store, as a restart does.
func (d *desk) open() {
	d.t.Helper()
	r, err := New(d.st, &d.ca, func() *member.Bundle { return d.bundle }, "town", d, rand.Reader, slog.New(slog.DiscardHandler), func() { d.raised++ })
	if err != nil {
		d.t.Fatal(err)
	}
	d.Registrar = r
}

// enrol lets a new home in.
func (d *desk) enrol() (ed25519.PrivateKey, member.Member) {
	d.t.Helper()
	inv, err := d.Invite(member.RoleGateway, "elm")
	if err != nil {
		d.t.Fatal(err)
	}
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	ch := member.Channel{Network: d.bundle.Network, Pledge: member.Key(key.Public().(ed25519.PublicKey)), Seed: member.Key{9}}
	q, err := member.NewRequest(inv.Code, key, ch.Network, ch.Seed, rand.Reader)
	if err != nil {
		d.t.Fatal(err)
	}
	answer, err := d.Enrol(d.t.Context(), q, ch)
	if err != nil || answer.Chain == nil {
		d.t.Fatalf("enrol: %v, %v", answer.Refusal, err)
	}
	return key, d.verify(answer.Chain)
}

func (d *desk) verify(chain [][]byte) member.Member {
	d.t.Helper()
	m, err := d.bundle.Verify(chain, d.now)
	if err != nil {
		d.t.Fatal(err)
	}
	return m
}

func (d *desk) renew(key ed25519.PrivateKey, m member.Member) (member.Member, error) {
	d.t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		d.t.Fatal(err)
	}
	chain, err := d.Renew(d.t.Context(), m, csr)
	if err != nil {
		return member.Member{}, err
	}
	return d.verify(chain), nil
}

// revoked is what everybody makes of the newest list.
func (d *desk) revoked() *member.Revocations {
	d.t.Helper()
	r := new(member.Revocations)
	if _, err := r.Add(d.bundle, d.List().DER); err != nil {
		d.t.Fatal(err)
	}
	return r
}

func TestRevokingTakesBackEveryCertificateOfAMember(t *testing.T) {
	d := newDesk(t)
	key, first := d.enrol()
	_, other := d.enrol()
	d.now = d.now.Add(61 * 24 * time.Hour)
	second, err := d.renew(key, first)
	if err != nil {
		t.Fatal(err)
	}
	d.open()
	if d.Homes() != 2 || len(d.Issued()) != 3 {
		t.Errorf("%d homes with %d certificates, want 2 with 3", d.Homes(), len(d.Issued()))
	}
	hit, err := d.Registrar.Revoke([]string{strings.ToUpper(first.Serial[:12])}, "stolen", nil)
	if err != nil || len(hit) != 2 || d.List().Number != 1 {
		t.Fatalf("revoked %d certificates with list %d (%v), want both of the member with list 1", len(hit), d.List().Number, err)
	}
	if _, err := d.renew(key, second); !errors.Is(err, ErrRenew) {
		t.Errorf("a revoked member renewed its certificate: %v", err)
	}
	d.open()
	r := d.revoked()
	if !r.Revoked(first) || !r.Revoked(second) || r.Revoked(other) {
		t.Errorf("revoked: %v, %v and the other %v", r.Revoked(first), r.Revoked(second), r.Revoked(other))
	}
	if d.Homes() != 1 || d.Issued()[0].Reason != "stolen" && d.Issued()[1].Reason != "stolen" {
		t.Errorf("after a restart: %d homes, %+v", d.Homes(), d.Issued())
	}
	if hit, err = d.Registrar.Revoke([]string{other.Serial}, "", nil); err != nil || len(hit) != 1 || d.List().Number != 2 {
		t.Fatalf("the second list: %d certificates, number %d, %v", len(hit), d.List().Number, err)
	}
	if r := d.revoked(); !r.Revoked(first) || !r.Revoked(other) {
		t.Error("the second list forgot the first one's members")
	}
}

func TestRevokingNamesOneMember(t *testing.T) {
	d := newDesk(t)
	_, m := d.enrol()
	for name, what := range map[string]string{m.Serial[:7]: "too few digits", "ffffffffffff": "nobody's", "": "nothing"} {
		if _, err := d.Registrar.Revoke([]string{name}, "", nil); err == nil || !strings.Contains(err.Error(), "gridveil members") {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if _, err := d.Registrar.Revoke([]string{m.Serial}, strings.Repeat("x", maxReason+1), nil); err == nil {
		t.Error("a reason of 201 bytes was taken")
	}
	if d.List().Number != 0 {
		t.Error("a refused revocation made a list")
	}
	if _, err := d.Registrar.Revoke([]string{m.Serial}, strings.Repeat("x", maxReason), nil); err != nil {
		t.Error(err)
	}
	if _, err := d.Registrar.Revoke([]string{m.Serial}, "", nil); err == nil {
		t.Error("a member was revoked twice")
	}
}

func TestTwoNodesOfOneCADoNotLetEachOthersRevokedBackIn(t *testing.T) {
	a := newDesk(t)
	b := &desk{t: t, now: a.now, ca: a.ca, bundle: a.bundle, st: storetest.Open(t)}
	b.open()
	_, atA := a.enrol()
	_, atB := b.enrol()
	if _, err := a.Registrar.Revoke([]string{atA.Serial}, "", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Registrar.Revoke([]string{atB.Serial}, "", a.List().DER); err != nil {
		t.Fatal(err)
	}
	if r := b.revoked(); b.List().Number != 2 || !r.Revoked(atA) || !r.Revoked(atB) {
		t.Errorf("list %d of the second node: %v, %v", b.List().Number, r.Revoked(atA), r.Revoked(atB))
	}
	if again, err := a.RenewList(b.List().DER); again || err != nil {
		t.Errorf("a list that holds ours was answered with another: %v, %v", again, err)
	}
	// The second node was cut off from the mesh and signed the same number without ours.
	c := &desk{t: t, now: a.now, ca: a.ca, bundle: a.bundle, st: storetest.Open(t)}
	c.open()
	_, atC := c.enrol()
	if _, err := c.Registrar.Revoke([]string{atC.Serial}, "", nil); err != nil {
		t.Fatal(err)
	}
	if again, err := a.RenewList(c.List().DER); !again || err != nil {
		t.Fatalf("a list that forgets ours was left alone: %v", err)
	}
	if r := a.revoked(); a.List().Number != 2 || !r.Revoked(atA) || !r.Revoked(atC) {
		t.Errorf("list %d: %v, %v", a.List().Number, r.Revoked(atA), r.Revoked(atC))
	}
}

func TestTheListIsRenewedBeforeItIsOverdue(t *testing.T) {
	d := newDesk(t)
	_, m := d.enrol()
	if again, err := d.RenewList(nil); again || err != nil {
		t.Errorf("a CA that never revoked signed a list: %v", err)
	}
	if _, err := d.Registrar.Revoke([]string{m.Serial}, "", nil); err != nil {
		t.Fatal(err)
	}
	old := d.revoked()
	d.now = d.now.Add(listLife*2/3 - time.Minute)
	if again, _ := d.RenewList(nil); again {
		t.Error("renewed before it was due")
	}
	d.now = d.now.Add(2 * time.Minute)
	if again, err := d.RenewList(nil); !again || err != nil || old.Stale(m, d.now) {
		t.Fatalf("renewed %v (%v), and the old one is overdue: %v", again, err, old.Stale(m, d.now))
	}
	if r := d.revoked(); d.List().Number != 2 || !r.Revoked(m) || r.Stale(m, d.now.Add(listLife-time.Minute)) {
		t.Error("the renewed list is not good for another life")
	}
	// What has ended leaves the list, and later the store.
	d.now = m.NotAfter.Add(time.Hour)
	if again, err := d.RenewList(nil); !again || err != nil {
		t.Fatal(err)
	}
	if d.revoked().Revoked(m) {
		t.Error("a certificate that ended still takes room in the list")
	}
	if len(d.Issued()) != 1 {
		t.Error("forgotten too early")
	}
	d.now = m.NotAfter.Add(endedKept + time.Hour)
	if err := d.Forget(); err != nil {
		t.Fatal(err)
	}
	d.open()
	if len(d.Issued()) != 0 {
		t.Error("a certificate that ended a month ago is still kept")
	}
}

func TestAListHoldsNoMoreThanItsLimit(t *testing.T) {
	d := newDesk(t)
	_, m := d.enrol()
	full := make([]member.Revoked, member.MaxRevoked)
	for i := range full {
		full[i] = member.Revoked{Serial: "01" + strings.Repeat("00", 13) + string("0123456789abcdef"[i>>8&15]) + string("0123456789abcdef"[i>>4&15]) + string("0123456789abcdef"[i&15]) + "f", At: d.now}
	}
	sign := func(n int) []byte {
		der, err := d.ca.SignRevoked(full[:n], 7, d.now, d.now.Add(listLife), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	if _, err := d.Registrar.Revoke([]string{m.Serial}, "", sign(len(full))); err == nil || !strings.Contains(err.Error(), "1200") {
		t.Errorf("one above the limit: %v", err)
	}
	if _, err := d.Registrar.Revoke([]string{m.Serial}, "", sign(len(full)-1)); err != nil || d.List().Number != 8 {
		t.Errorf("at the limit: %v, list %d", err, d.List().Number)
	}
}
