package utility

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/node/ask"
	"gridveil/node/identity"
	"gridveil/node/keys"
	"gridveil/node/metering"
	"gridveil/node/report"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/committee"
	"gridveil/privacy/pseudo"
)

// desk is an escrow on a real host and store, with a home to ask it.
type desk struct {
	t      *testing.T
	net    *meshtest.Network
	env    *role.Env
	escrow *escrow
	home   *meshtest.Node
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1, Others: []member.Role{member.RoleUtility}})
	dir := t.TempDir()
	mk, err := store.LoadOrCreateKey(dir + "/key")
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(dir+"/store", mk, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	u := n.Others[0]
	env := &role.Env{Clock: n.Clock, Log: slog.New(slog.DiscardHandler), Store: st, Host: u.Host, Dir: keys.Directory{Host: u.Host}, Rand: rand.Reader,
		Keys: keys.NewRing(st, rand.Reader, privacy.SuiteX25519), Net: privacy.Net(n.Bundle.Tag()), ID: &identity.Identity{Member: u.Member, Bundle: n.Bundle}}
	if _, err := env.Keys.Sheet(n.Clock.Now(), 1, uses...); err != nil {
		t.Fatal(err)
	}
	pub, _, err := committee.Deal(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &desk{t: t, net: n, env: env, home: n.Homes[0], escrow: &escrow{env: env, committee: func() (committee.Public, error) { return pub, nil }}}
}

// batch is a request as the home makes it, and what it needs to open the answer.
func (d *desk) batch(change func(*pseudo.Profile, *[16]byte)) (*pseudo.Pending, pseudo.Profile) {
	d.t.Helper()
	now := d.net.Clock.Now()
	raw, err := d.home.Key.Raw()
	if err != nil {
		d.t.Fatal(err)
	}
	issue, err := d.env.Keys.Box(keys.Issue, now)
	if err != nil {
		d.t.Fatal(err)
	}
	signer, err := d.env.Keys.Signer(keys.Escrow, now)
	if err != nil {
		d.t.Fatal(err)
	}
	grid, _ := metering.GridOperator(d.net.Bundle, d.home.Member.Zone)
	audience := d.env.Operator(grid)
	p := pseudo.Profile{Net: d.env.Net, Kind: pseudo.Meter, Contract: report.SourceOf(d.home.Member.Key[:]), LK: raw, Arg: 1, Deck: pseudo.MeterDeck,
		Issuer: d.env.Operator(d.env.ID.Member.Operator), IssuerKey: [32]byte(signer.Public().(ed25519.PublicKey)), Suite: privacy.SuiteX25519, IssueBox: issue.Pub}
	if change != nil {
		change(&p, &audience)
	}
	b, err := pseudo.NewBatch(rand.Reader, p, audience, pseudo.Week(now)*7)
	if err != nil {
		d.t.Fatal(err)
	}
	return b, p
}

func (d *desk) body(b *pseudo.Pending) []byte {
	return ask.MeterBatch{Chain: d.home.Chain, Box: b.Box}.Bytes()
}

func TestEscrowGivesAMeterOneWeekOnce(t *testing.T) {
	d := newDesk(t)
	first, profile := d.batch(nil)
	answer, err := d.escrow.issue(d.body(first))
	if err != nil {
		t.Fatal(err)
	}
	deck, err := first.Finish(profile, answer)
	if err != nil || deck.Left() != pseudo.MeterDeck {
		t.Fatalf("deck: %v", err)
	}
	again, err := d.escrow.issue(d.body(first))
	if err != nil || string(again) != string(answer) {
		t.Errorf("the same request: %v", err)
	}
	other, _ := d.batch(nil)
	if _, err := d.escrow.issue(d.body(other)); !errors.Is(err, pseudo.ErrBatchTaken) {
		t.Errorf("a second deck of one week: got %v, want ErrBatchTaken", err)
	}
	if err := d.escrow.forget(d.net.Clock.Now().Add(2 * pseudo.AnswerKept)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.escrow.issue(d.body(first)); !errors.Is(err, pseudo.ErrBatchTaken) {
		t.Errorf("after the answer was dropped: got %v, want ErrBatchTaken", err)
	}
}

func TestEscrowRefuses(t *testing.T) {
	d := newDesk(t)
	good, _ := d.batch(nil)
	ssn := ask.MeterBatch{Chain: d.net.SSNs[0].Chain, Box: good.Box}.Bytes()
	foreign, _ := d.batch(func(_ *pseudo.Profile, audience *[16]byte) { audience[0] ^= 1 })
	zone, _ := d.batch(func(p *pseudo.Profile, _ *[16]byte) { p.Arg = 2 })
	handle, _ := d.batch(func(p *pseudo.Profile, _ *[16]byte) { p.Contract[0] ^= 1 })
	sealed, _ := d.batch(func(p *pseudo.Profile, _ *[16]byte) {
		box, err := privacy.NewBoxKey(rand.Reader, privacy.SuiteX25519)
		if err != nil {
			t.Fatal(err)
		}
		p.IssueBox = box.Pub
	})
	for name, body := range map[string][]byte{
		"a certificate that is no home's": ssn,
		"another grid operator":           d.body(foreign),
		"another zone":                    d.body(zone),
		"another meter's handle":          d.body(handle),
		"a key that is gone":              d.body(sealed),
		"nothing":                         nil,
	} {
		if _, err := d.escrow.issue(body); err == nil {
			t.Errorf("%s was served", name)
		}
	}
	if _, err := d.escrow.issue(d.body(good)); err != nil {
		t.Errorf("after all refusals: %v", err)
	}
	d.escrow.committee = func() (committee.Public, error) { return committee.Public{}, ErrNoCommittee }
	if _, err := d.escrow.issue(d.body(good)); !errors.Is(err, ErrNoCommittee) {
		t.Errorf("without openers: %v", err)
	}
	ca := d.net.CAs[d.home.Member.Operator]
	crl, err := ca.Revoke([]string{d.home.Member.Serial}, 1, d.net.Clock.Now(), d.net.Clock.Now().Add(24*time.Hour), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.env.Host.Revoke(crl); err != nil {
		t.Fatal(err)
	}
	if _, err := d.escrow.issue(d.body(good)); err == nil {
		t.Error("a revoked home was served")
	}
}

// TestEscrowForgets: what stays after a day is the meter's handle, the week and
// hashes; after the week's grace nothing does.
func TestEscrowForgets(t *testing.T) {
	d := newDesk(t)
	b, profile := d.batch(nil)
	answer, err := d.escrow.issue(d.body(b))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Finish(profile, answer); err != nil {
		t.Fatal(err)
	}
	kept := func() (rows int, size int) {
		err := d.env.Store.View(func(tx *store.Tx) error {
			return tx.Each([]byte{byte(store.SpacePrivacy)}, func(_, v []byte) error { rows, size = rows+1, size+len(v); return nil })
		})
		if err != nil {
			t.Fatal(err)
		}
		return rows, size
	}
	now := d.net.Clock.Now()
	if rows, size := kept(); rows != 1 || size < len(answer) {
		t.Errorf("at once: %d rows of %d bytes", rows, size)
	}
	if err := d.escrow.forget(now.Add(pseudo.AnswerKept + time.Hour)); err != nil {
		t.Fatal(err)
	}
	if rows, size := kept(); rows != 1 || size != 40 {
		t.Errorf("after a day: %d rows of %d bytes, want one of 40", rows, size)
	}
	if err := d.escrow.forget(now.Add(3 * 7 * 24 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	if rows, _ := kept(); rows != 0 {
		t.Errorf("after three weeks: %d rows", rows)
	}
}
