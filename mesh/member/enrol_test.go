package member

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestACodeSurvivesTypingAndCatchesTypos(t *testing.T) {
	rnd := seeded(2)
	caught, tried := 0, 0
	for range 50 {
		c, err := NewCode(rnd)
		if err != nil {
			t.Fatal(err)
		}
		text := c.String()
		if len(strings.ReplaceAll(text, "-", "")) != codeChars {
			t.Fatalf("%q has not %d characters", text, codeChars)
		}
		sloppy := strings.NewReplacer("1", "l", "0", "o", "-", " ").Replace(strings.ToLower(text))
		for _, typed := range []string{text, sloppy, strings.ReplaceAll(text, "-", "")} {
			if got, err := ParseCode(typed); err != nil || got != c {
				t.Errorf("%q: %v", typed, err)
			}
		}
		for i, x := range []byte(text) {
			if x == '-' {
				continue
			}
			typo := []byte(text)
			typo[i] = codeAlphabet[(strings.IndexByte(codeAlphabet, x)+1)%32]
			tried++
			if _, err := ParseCode(string(typo)); errors.Is(err, ErrCode) {
				caught++
			}
		}
	}
	if caught < tried*99/100 {
		t.Errorf("%d of %d typos are caught", caught, tried)
	}
	for _, bad := range []string{"", "ABC", strings.Repeat("U", codeChars), strings.Repeat("0", 27), strings.Repeat("x", 1000)} {
		if _, err := ParseCode(bad); !errors.Is(err, ErrCode) {
			t.Errorf("%.30q: %v", bad, err)
		}
	}
}

func sampleLink(t testing.TB) Link {
	t.Helper()
	c, err := NewCode(seeded(3))
	if err != nil {
		t.Fatal(err)
	}
	return Link{c, NetworkID{1, 2}, [32]byte{3}, Key{4}, "/ip4/192.0.2.1/tcp/4100"}
}

func TestALinkHasOneTextAndNoOther(t *testing.T) {
	l := sampleLink(t)
	text := l.String()
	if got, err := ParseLink(" " + text + "\n"); err != nil || got != l {
		t.Fatalf("%q: %v", text, err)
	}
	for fact, bad := range map[string]string{
		"lower-case code": strings.Replace(text, l.Code.String(), strings.ToLower(l.Code.String()), 1), "no address": strings.TrimSuffix(text, l.Address),
		"another scheme": "http" + text, "one field more": text + "&x=1", "upper-case network": strings.Replace(text, "n=0102", "n=01O2", 1),
		"fields in another order": strings.Replace(text, "n=", "b=", 1), "short bundle": strings.Replace(text, "b=Aw", "b=", 1), "space in the address": strings.Replace(text, "/tcp", "/ tcp", 1),
		"too long": text + strings.Repeat("0", 1024),
	} {
		if _, err := ParseLink(bad); !errors.Is(err, ErrCode) {
			t.Errorf("%s: %v", fact, err)
		}
	}
}

// pledgeKit is a stranger with a code, and the registrar it goes to.
type pledgeKit struct {
	*founded
	reg    *Registrar
	invite Invite
	pledge ed25519.PrivateKey
	ch     Channel
}

func invite(t testing.TB) *pledgeKit {
	t.Helper()
	k := &pledgeKit{founded: found(t), reg: NewRegistrar(nil)}
	var err error
	if k.invite, err = k.reg.Invite(RoleGateway, "north", start, k.rnd); err != nil {
		t.Fatal(err)
	}
	k.pledge = newKey(k.rnd)
	k.ch = Channel{k.bundle.Network, publicOf(k.pledge), Key{77}}
	return k
}

// ask makes a request of key with a code for seed.
func (k *pledgeKit) ask(t testing.TB, c Code, key ed25519.PrivateKey, seed Key) Request {
	t.Helper()
	q, err := NewRequest(c, key, k.bundle.Network, seed, k.rnd)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := q.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if q, err = ParseRequest(raw); err != nil {
		t.Fatal(err)
	}
	return q
}

func TestAPledgeWithACodeBecomesAMember(t *testing.T) {
	k := invite(t)
	d := k.reg.Decide(k.ask(t, k.invite.Code, k.pledge, k.ch.Seed), k.ch, start)
	if d.Refusal != RefusedNot || d.Save == nil || !d.Save.Used || d.Raise {
		t.Fatalf("decision %+v", d)
	}
	chain, err := k.uta.IssueMember(d.Grant, start, k.rnd)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := Answer{Chain: chain, Bundle: k.bundle.Raw(), Sig: k.sig, Snapshot: []byte("directory")}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := ParseAnswer(raw)
	if err != nil {
		t.Fatal(err)
	}
	pin := k.bundle.Hash()
	b, m, err := answer.Accept(publicOf(k.pledge), &pin, start)
	if err != nil || b.Version != 1 || m.Role != RoleGateway || m.Zone != "north" || string(answer.Snapshot) != "directory" {
		t.Errorf("Accept: %+v, %v", m, err)
	}
	if _, _, err := answer.Accept(publicOf(newKey(k.rnd)), &pin, start); !errors.Is(err, ErrCertificate) {
		t.Errorf("a certificate for another key: %v", err)
	}
	pin[0]++
	if _, _, err := answer.Accept(publicOf(k.pledge), &pin, start); !errors.Is(err, ErrBundlePin) {
		t.Errorf("another bundle than the link names: %v", err)
	}
}

func TestALostAnswerIsRepeatedForADayToTheSameKeyOnly(t *testing.T) {
	k := invite(t)
	first := k.ask(t, k.invite.Code, k.pledge, k.ch.Seed)
	if d := k.reg.Decide(first, k.ch, start); d.Refusal != RefusedNot {
		t.Fatalf("first: %s", d.Refusal)
	}
	again := func() Request {
		q := k.ask(t, k.invite.Code, k.pledge, k.ch.Seed)
		q.CSR = first.CSR
		q.Proof = q.proof(k.invite.Code.Secret, k.ch)
		return q
	}
	if d := k.reg.Decide(again(), k.ch, start.Add(AnswerLife)); d.Refusal != RefusedNot || d.Save == nil {
		t.Errorf("same CSR within a day: %s", d.Refusal)
	}
	if d := k.reg.Decide(first, k.ch, start.Add(time.Minute)); d.Refusal != RefusedUsed || d.Raise {
		t.Errorf("replayed nonce: %s", d.Refusal)
	}
	if d := k.reg.Decide(again(), k.ch, start.Add(AnswerLife+1)); d.Refusal != RefusedUsed {
		t.Errorf("same CSR after a day: %s", d.Refusal)
	}
	thief := newKey(k.rnd)
	stolen := Channel{k.ch.Network, publicOf(thief), k.ch.Seed}
	if d := k.reg.Decide(k.ask(t, k.invite.Code, thief, k.ch.Seed), stolen, start); d.Refusal != RefusedUsed || !d.Raise || d.Save != nil {
		t.Errorf("another key with the used code: %+v", d)
	}
}

func TestRepeatedAnswersAreLimited(t *testing.T) {
	k := invite(t)
	first := k.ask(t, k.invite.Code, k.pledge, k.ch.Seed)
	for i := range MaxAnswers + 1 {
		q := first
		q.Nonce[0] = byte(i)
		q.Proof = q.proof(k.invite.Code.Secret, k.ch)
		want := RefusedNot
		if i == MaxAnswers {
			want = RefusedUsed
		}
		if d := k.reg.Decide(q, k.ch, start); d.Refusal != want {
			t.Errorf("try %d: %s", i+1, d.Refusal)
		}
	}
}

func TestWrongProofsKillACodeAfterThree(t *testing.T) {
	k := invite(t)
	wrong := k.invite.Code
	wrong.Secret[0]++
	for i := range MaxWrong {
		d := k.reg.Decide(k.ask(t, wrong, k.pledge, k.ch.Seed), k.ch, start)
		if d.Refusal != RefusedUnknown || d.Save == nil || d.Raise != (i == MaxWrong-1) {
			t.Errorf("guess %d: %+v", i+1, d)
		}
	}
	if d := k.reg.Decide(k.ask(t, k.invite.Code, k.pledge, k.ch.Seed), k.ch, start); d.Refusal != RefusedUnknown {
		t.Errorf("the killed code: %s", d.Refusal)
	}
}

func TestProofsHoldForOneNetworkPledgeAndSeedOnly(t *testing.T) {
	for fact, change := range map[string]func(ch *Channel){
		"another network": func(ch *Channel) { ch.Network[0]++ },
		"another pledge":  func(ch *Channel) { ch.Pledge[0]++ },
		"another seed":    func(ch *Channel) { ch.Seed[0]++ },
	} {
		k := invite(t)
		q, ch := k.ask(t, k.invite.Code, k.pledge, k.ch.Seed), k.ch
		change(&ch)
		if d := k.reg.Decide(q, ch, start); d.Refusal != RefusedUnknown {
			t.Errorf("%s: %s", fact, d.Refusal)
		}
	}
}

func TestCodesRunOutAndUnknownOnesSayNothing(t *testing.T) {
	k := invite(t)
	q := k.ask(t, k.invite.Code, k.pledge, k.ch.Seed)
	if d := k.reg.Decide(q, k.ch, start.Add(CodeLife+time.Millisecond)); d.Refusal != RefusedExpired || d.Save != nil {
		t.Errorf("after 72 h: %+v", d)
	}
	if d := k.reg.Decide(q, k.ch, start.Add(CodeLife)); d.Refusal != RefusedNot {
		t.Errorf("at 72 h: %s", d.Refusal)
	}
	other, err := NewCode(k.rnd)
	if err != nil {
		t.Fatal(err)
	}
	if d := k.reg.Decide(k.ask(t, other, k.pledge, k.ch.Seed), k.ch, start); d.Refusal != RefusedUnknown || d.Save != nil || d.Raise {
		t.Errorf("an unknown code: %+v", d)
	}
}

func TestACSRForAnotherKeyIsRefused(t *testing.T) {
	k := invite(t)
	other := k.ask(t, k.invite.Code, newKey(k.rnd), k.ch.Seed)
	for fact, csr := range map[string][]byte{"of another key": other.CSR, "of nothing": {1, 2}} {
		q := k.ask(t, k.invite.Code, k.pledge, k.ch.Seed)
		q.CSR = csr
		q.Proof = q.proof(k.invite.Code.Secret, k.ch)
		if d := k.reg.Decide(q, k.ch, start); d.Refusal != RefusedRequest || d.Save != nil {
			t.Errorf("CSR %s: %+v", fact, d)
		}
	}
	if d := k.reg.Decide(k.ask(t, k.invite.Code, k.pledge, k.ch.Seed), k.ch, start); d.Refusal != RefusedNot {
		t.Errorf("the code is spent by a bad CSR: %s", d.Refusal)
	}
}

func TestARegistrarGoesOnAfterACrashWhereItsStoreIs(t *testing.T) {
	k := invite(t)
	q := k.ask(t, k.invite.Code, k.pledge, k.ch.Seed)
	reload := func(inv Invite) *Registrar {
		t.Helper()
		again, err := ParseInvite(inv.Encode())
		if err != nil || fmt.Sprint(again) != fmt.Sprint(inv) {
			t.Fatalf("ParseInvite: %+v, %v", again, err)
		}
		return NewRegistrar([]Invite{again})
	}
	lost := reload(k.invite) // the save of the use was lost, so no answer left either
	if d := lost.Decide(q, k.ch, start); d.Refusal != RefusedNot {
		t.Errorf("after a lost save: %s", d.Refusal)
	}
	saved := reload(*k.reg.Decide(q, k.ch, start).Save)
	thief := newKey(k.rnd)
	if d := saved.Decide(k.ask(t, k.invite.Code, thief, k.ch.Seed), Channel{k.ch.Network, publicOf(thief), k.ch.Seed}, start); d.Refusal != RefusedUsed {
		t.Errorf("after a restart another key: %s", d.Refusal)
	}
	if d := saved.Decide(q, k.ch, start); d.Refusal != RefusedUsed {
		t.Errorf("after a restart the replayed nonce: %s", d.Refusal)
	}
}

func TestInvitationsAreLimitedAndForgotten(t *testing.T) {
	rnd := seeded(4)
	r := NewRegistrar(nil)
	for i := range MaxInvites {
		if _, err := r.Invite(RoleWallet, "", start, rnd); err != nil {
			t.Fatalf("invitation %d: %v", i, err)
		}
	}
	if _, err := r.Invite(RoleWallet, "", start, rnd); !errors.Is(err, ErrInvites) {
		t.Errorf("above the limit: %v", err)
	}
	if gone := r.Forget(start.Add(CodeLife)); len(gone) != 0 {
		t.Errorf("%d codes are forgotten while they are good", len(gone))
	}
	if gone := r.Forget(start.Add(CodeLife + AnswerLife + time.Second)); len(gone) != MaxInvites || len(r.Open()) != 0 {
		t.Errorf("%d codes are forgotten, want all", len(gone))
	}
	if _, err := r.Invite(RoleGateway, "", start, rnd); !errors.Is(err, ErrRole) {
		t.Errorf("a gateway without zone: %v", err)
	}
}

func TestRefusalsTravelWithoutAnythingElse(t *testing.T) {
	raw, err := Answer{Refusal: RefusedBusy, Bundle: []byte("ignored")}.Encode()
	if err != nil || len(raw) != 5 {
		t.Fatalf("%d bytes, %v", len(raw), err)
	}
	a, err := ParseAnswer(raw)
	if err != nil || a.Refusal != RefusedBusy {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, _, err := a.Accept(Key{}, nil, start); !errors.Is(err, ErrCode) || !strings.Contains(err.Error(), "try again in a minute") {
		t.Errorf("Accept: %v", err)
	}
	if _, err := ParseAnswer(append(raw, 0)); !errors.Is(err, ErrEnrolment) {
		t.Errorf("a refusal with luggage: %v", err)
	}
}

func TestEnrolmentMessagesHaveLimits(t *testing.T) {
	for fact, a := range map[string]Answer{
		"no bundle": {Chain: [][]byte{{1}}}, "a huge bundle": {Chain: [][]byte{{1}}, Bundle: make([]byte, MaxBundle+1)},
		"huge signatures": {Chain: [][]byte{{1}}, Bundle: []byte{1}, Sig: make([]byte, MaxBundleSig+1)},
		"a huge snapshot": {Chain: [][]byte{{1}}, Bundle: []byte{1}, Snapshot: make([]byte, MaxSnapshot+1)},
		"no chain":        {Bundle: []byte{1}}, "a huge certificate": {Bundle: []byte{1}, Chain: [][]byte{make([]byte, MaxCertificate+1)}},
	} {
		if _, err := a.Encode(); !errors.Is(err, ErrEnrolment) {
			t.Errorf("%s: %v", fact, err)
		}
	}
	full := Answer{Chain: [][]byte{make([]byte, MaxCertificate)}, Bundle: make([]byte, MaxBundle), Sig: make([]byte, MaxBundleSig), Snapshot: make([]byte, MaxSnapshot)}
	raw, err := full.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseAnswer(raw); err != nil {
		t.Errorf("at the limits: %v", err)
	}
	for _, size := range []int{0, MaxCSR + 1} {
		if _, err := (Request{CSR: make([]byte, size)}).Encode(); !errors.Is(err, ErrEnrolment) {
			t.Errorf("CSR of %d bytes: %v", size, err)
		}
	}
}

func FuzzParseHello(f *testing.F) {
	good, _ := Hello{1, 1, NetworkID{1}, start, RoleSSN, false, 1, [][]byte{{1}, {2, 3}}}.Encode()
	f.Add(good)
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := ParseHello(raw)
		if err != nil {
			return
		}
		if again, err := h.Encode(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("encodes to other bytes (%v)", err)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	good, _ := Request{CSR: []byte{1, 2, 3}}.Encode()
	f.Add(good)
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, err := ParseRequest(raw)
		if err != nil {
			return
		}
		if again, err := q.Encode(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("encodes to other bytes (%v)", err)
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	good, _ := Answer{Chain: [][]byte{{1}}, Bundle: []byte{2}, Sig: []byte{3}, Snapshot: []byte{4}}.Encode()
	f.Add(good)
	f.Add([]byte("GVA1\x03"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := ParseAnswer(raw)
		if err != nil {
			return
		}
		if again, err := a.Encode(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("encodes to other bytes (%v)", err)
		}
	})
}

func FuzzParseInvite(f *testing.F) {
	f.Add(Invite{Role: RoleGateway, Zone: "north", Expires: start, Used: true, UsedAt: start, Nonces: [][32]byte{{1}}}.Encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		if inv, err := ParseInvite(raw); err == nil && !bytes.Equal(inv.Encode(), raw) {
			t.Error("encodes to other bytes")
		}
	})
}

func FuzzParseLink(f *testing.F) {
	f.Add(sampleLink(f).String())
	f.Fuzz(func(t *testing.T, text string) {
		if l, err := ParseLink(text); err == nil && l.String() != strings.TrimSpace(text) {
			t.Error("prints another text")
		}
	})
}

func FuzzParseCode(f *testing.F) {
	f.Add(sampleLink(f).Code.String())
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := ParseCode(text); err == nil {
			if again, err := ParseCode(c.String()); err != nil || again != c {
				t.Error("its own text gives another code")
			}
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	f.Add(found(f).bundle.Raw())
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := ParseBundle(raw)
		if err != nil {
			return
		}
		floors := b.Policy.MinHomes >= FloorHomes && b.Policy.MinSet >= FloorSet
		if !floors || b.RootThreshold < 1 || b.RootThreshold > len(b.RootKeys) || !bytes.Equal(b.Raw(), raw) {
			t.Error("a bundle below the floors or without roots is accepted")
		}
	})
}

func FuzzBundleSignatures(f *testing.F) {
	n := found(f)
	f.Add(n.sig)
	f.Add(SignBundle(n.bundle.Raw(), nil, n.roots[2]))
	f.Fuzz(func(t *testing.T, sig []byte) {
		if _, err := OpenBundle(n.bundle.Raw(), sig, nil); err == nil && !bytes.Contains(sig, n.sig[:14]) {
			t.Error("accepted without the roots' lines")
		}
	})
}

func FuzzVerify(f *testing.F) {
	n := found(f)
	chain := n.issue(f, n.uta, newKey(n.rnd), RoleGateway, "north")
	f.Add(chain[0])
	f.Fuzz(func(t *testing.T, der []byte) {
		if _, err := n.bundle.Verify([][]byte{der}, start); err == nil && !bytes.Equal(der, chain[0]) {
			t.Error("a certificate that nobody issued is accepted")
		}
	})
}

func FuzzParseVerdict(f *testing.F) {
	f.Add(Verdict{Code: VerdictClock, RetrySeconds: 9, Now: start}.Encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		if v, err := ParseVerdict(raw); err == nil && !bytes.Equal(v.Encode(), raw) {
			t.Error("encodes to other bytes")
		}
	})
}

func FuzzRevocationList(f *testing.F) {
	n := found(f)
	good, err := n.uta.Revoke([]string{"0102"}, 7, start, start.Add(time.Hour), n.rnd)
	if err != nil {
		f.Fatal(err)
	}
	signed, err := x509.ParseRevocationList(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Fuzz(func(t *testing.T, der []byte) {
		var r Revocations
		changed, err := r.Add(n.bundle, der)
		_, number, named := n.bundle.CRLSigner(der)
		if changed != (err == nil) || changed && (named != nil || number != 7) {
			t.Errorf("changed %t, %v; signer %v of list %d", changed, err, named, number)
		}
		if list, err := x509.ParseRevocationList(der); changed && (err != nil || !bytes.Equal(list.RawTBSRevocationList, signed.RawTBSRevocationList)) {
			t.Error("a list that no CA signed is accepted")
		}
	})
}

func FuzzCheckCSR(f *testing.F) {
	rnd := seeded(90)
	key := newKey(rnd)
	q, err := NewRequest(sampleLink(f).Code, key, NetworkID{1}, Key{2}, rnd)
	if err != nil {
		f.Fatal(err)
	}
	signed, err := x509.ParseCertificateRequest(q.CSR)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q.CSR)
	f.Fuzz(func(t *testing.T, der []byte) {
		if (Request{CSR: der}).checkCSR(publicOf(key)) != nil {
			return
		}
		if csr, err := x509.ParseCertificateRequest(der); err != nil || !bytes.Equal(csr.RawTBSCertificateRequest, signed.RawTBSCertificateRequest) {
			t.Error("a request that the key did not sign is accepted")
		}
	})
}
