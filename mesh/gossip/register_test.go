package gossip

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/mix"
	"gridveil/mesh/route"
)

func TestEveryRefusalHasItsReasonAndBlamesOnlyWhatIsProvable(t *testing.T) {
	w := newTown(t)
	utility, ssn := w.member(member.RoleUtility, ""), w.member(member.RoleSSN, "north")
	gateway, verifier := w.member(member.RoleGateway, "north"), w.member(member.RoleVerifier, "")
	aggregator := w.member(member.RoleAggregator, "")
	north, west := ZoneKey("north", 1), ZoneKey("west", 1)
	if d := w.offer(w.envelope(utility, KindPrice, north, 5), begin); d.Action != Accept {
		t.Fatalf("the first price: %s", d.Reason)
	}
	plain := func(e *Envelope) []byte { return e.Encode() }
	for _, tc := range []struct {
		fact   string
		raw    []byte
		topic  Kind
		action Action
		reason Reason
	}{
		{"noise", []byte("noise"), KindPrice, Reject, ReasonLayout},
		{"another topic", plain(w.envelope(utility, KindPrice, north, 6)), KindAlarm, Reject, ReasonTopic},
		{"another network", plain(w.envelope(utility, KindPrice, north, 6, func(e *Envelope) { e.Network[0]++ })), 0, Reject, ReasonTopic},
		{"issued in the future", plain(w.envelope(utility, KindPrice, north, 6, func(e *Envelope) { e.Issued = begin.Add(maxAhead + time.Millisecond) })), 0, Ignore, ReasonFuture},
		{"expired", plain(w.envelope(utility, KindPrice, north, 6, func(e *Envelope) { e.Expires = begin })), 0, Ignore, ReasonExpired},
		{"a life too long", plain(w.envelope(utility, KindPrice, north, 6, func(e *Envelope) { e.Expires = begin.Add(49 * time.Hour) })), 0, Ignore, ReasonLife},
		{"an older version", plain(w.envelope(utility, KindPrice, north, 4)), 0, Ignore, ReasonOld},
		{"the same bytes", plain(w.envelope(utility, KindPrice, north, 5)), 0, Ignore, ReasonSame},
		{"the same version, signed again", plain(w.envelope(utility, KindPrice, north, 5, func(e *Envelope) { e.Expires = begin.Add(time.Hour) })), 0, Ignore, ReasonSame},
		{"an unknown certificate", plain(w.envelope(utility, KindPrice, north, 6, func(e *Envelope) { e.CertHash[0]++ })), 0, Ignore, ReasonCertUnknown},
		{"the certificate of another", plain(w.envelope(utility, KindPrice, north, 6, func(e *Envelope) { e.CertHash = aggregator.member.CertHash })), 0, Reject, ReasonPublisher},
		{"a price by a substation", plain(w.envelope(ssn, KindPrice, north, 6)), 0, Reject, ReasonPublisher},
		{"a price for a zone of others", plain(w.envelope(utility, KindPrice, west, 6)), 0, Reject, ReasonPublisher},
		{"a price for no zone", plain(w.envelope(aggregator, KindPrice, 7, 6)), 0, Reject, ReasonPublisher},
		{"a flexibility price", plain(w.envelope(aggregator, KindPrice, west, 6)), 0, Accept, ""},
		{"a grid state of the own zone", plain(w.envelope(ssn, KindNetState, north, 1)), 0, Accept, ""},
		{"a grid state of another zone", plain(w.envelope(ssn, KindNetState, ZoneKey("south", 1), 1)), 0, Reject, ReasonPublisher},
		{"a grid state by the zone's grid operator", plain(w.envelope(utility, KindNetState, north, 1)), 0, Accept, ""},
		{"a grid state by a utility without that grid", plain(w.envelope(utility, KindNetState, ZoneKey("south", 1), 1)), 0, Reject, ReasonPublisher},
		{"a control signal by an aggregator", plain(w.envelope(aggregator, KindControl, 99, 1)), 0, Accept, ""},
		{"a control signal by a grid operator", plain(w.envelope(utility, KindControl, 99, 1)), 0, Accept, ""},
		{"a control signal by a verifier", plain(w.envelope(verifier, KindControl, 99, 1)), 0, Reject, ReasonPublisher},
		{"keys of a member", plain(w.envelope(ssn, KindDirectory, KeyOnion, 1)), 0, Accept, ""},
		{"keys under no known name", plain(w.envelope(ssn, KindDirectory, 77, 1)), 0, Reject, ReasonPublisher},
		{"a checkpoint by an aggregator", plain(w.envelope(aggregator, KindCheckpoint, OriginKey("log"), 1)), 0, Accept, ""},
		{"a checkpoint by a substation", plain(w.envelope(ssn, KindCheckpoint, OriginKey("log"), 1)), 0, Reject, ReasonPublisher},
		{"an alarm by a verifier", plain(w.envelope(verifier, KindAlarm, 1, 1)), 0, Accept, ""},
		{"an alarm by a home", plain(w.envelope(gateway, KindAlarm, 1, 1)), 0, Reject, ReasonPublisher},
		{"trust by a home", plain(w.envelope(gateway, KindTrust, KeyBundle, 1)), 0, Reject, ReasonPublisher},
	} {
		d := w.regs.Offer(tc.raw, Source{Topic: tc.topic}, begin)
		if d.Action != tc.action || d.Reason != tc.reason {
			t.Errorf("%s: %s %q, want %s %q", tc.fact, d.Action, d.Reason, tc.action, tc.reason)
		}
		if d.NeedCert != (d.Reason == ReasonCertUnknown) {
			t.Errorf("%s: need certificate %v", tc.fact, d.NeedCert)
		}
	}
	if got, have := w.regs.Get(KindPrice, utility.member.Key, north, begin); !have || got.Version != 5 {
		t.Errorf("the held price changed: version %d", got.Version)
	}
}

func TestAForgedSignatureIsRejectedWhicheverByteChanged(t *testing.T) {
	w := newTown(t)
	utility := w.member(member.RoleUtility, "")
	raw := w.envelope(utility, KindPrice, ZoneKey("north", 1), 1).Encode()
	for at := range raw {
		bad := bytes.Clone(raw)
		bad[at] ^= 1
		if d := w.regs.Offer(bad, Source{}, begin); d.Action == Accept {
			t.Fatalf("byte %d changed: accepted", at)
		}
	}
	for _, at := range []int{headerSize, len(raw) - 1, 31} { // body, signature, version
		bad := bytes.Clone(raw)
		bad[at] ^= 1
		if d := w.regs.Offer(bad, Source{}, begin); d.Action != Reject || d.Reason != ReasonSignature {
			t.Errorf("byte %d changed: %s %s", at, d.Action, d.Reason)
		}
	}
	if d := w.regs.Offer(raw, Source{}, begin); d.Action != Accept {
		t.Errorf("unchanged: %s", d.Reason)
	}
}

func TestRevokedAndExpiredPublishersAreIgnored(t *testing.T) {
	w := newTown(t)
	utility := w.member(member.RoleUtility, "")
	late := begin.Add(member.MemberLife)
	e := w.envelope(utility, KindPrice, ZoneKey("north", 1), 1, func(e *Envelope) { e.Issued, e.Expires = late, late.Add(time.Hour) })
	if d := w.offer(e, late); d.Action != Ignore || d.Reason != ReasonCertExpired {
		t.Errorf("expired: %s %s", d.Action, d.Reason)
	}
	der, err := w.ca.Revoke([]string{utility.member.Serial}, 1, begin, begin.Add(time.Hour), w.rnd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.revoked.Add(w.bundle, der); err != nil {
		t.Fatal(err)
	}
	if d := w.offer(w.envelope(utility, KindPrice, ZoneKey("north", 1), 1), begin); d.Action != Ignore || d.Reason != ReasonCertRevoked {
		t.Errorf("revoked: %s %s", d.Action, d.Reason)
	}
}

func TestTwoContentsUnderOneVersionBecomeEvidence(t *testing.T) {
	w := newTown(t)
	aggregator := w.member(member.RoleAggregator, "")
	big := func(x byte) func(*Envelope) {
		return func(e *Envelope) { e.Body = bytes.Repeat([]byte{x}, 8<<10) }
	}
	one := w.envelope(aggregator, KindCheckpoint, 1, 9, big(1))
	two := w.envelope(aggregator, KindCheckpoint, 1, 9, big(2))
	if d := w.offer(one, begin); d.Action != Accept {
		t.Fatal(d.Reason)
	}
	d := w.offer(two, begin)
	if d.Action != Ignore || d.Reason != ReasonEquivocates || d.Evidence == nil {
		t.Fatalf("%s %s, %d bytes of evidence", d.Action, d.Reason, len(d.Evidence))
	}
	a, b, err := ParseEvidence(d.Evidence)
	if err != nil || !bytes.Equal(a.Encode(), one.Encode()) || !bytes.Equal(b.Encode(), two.Encode()) {
		t.Errorf("ParseEvidence: %v", err)
	}
	alarm := w.envelope(w.member(member.RoleSSN, "north"), KindAlarm, 5, 1, func(e *Envelope) { e.Body = d.Evidence })
	if d := w.offer(alarm, begin); d.Action != Accept {
		t.Errorf("the largest evidence does not fit an alarm: %s", d.Reason)
	}
}

func TestEvidenceProvesOrIsRefused(t *testing.T) {
	w := newTown(t)
	p, q := w.member(member.RoleAggregator, ""), w.member(member.RoleAggregator, "")
	body := func(s string) func(*Envelope) { return func(e *Envelope) { e.Body = []byte(s) } }
	base := w.envelope(p, KindCheckpoint, 1, 9, body("a"))
	forged := *w.envelope(p, KindCheckpoint, 1, 9, body("b"))
	forged.Signature[3] ^= 1
	for fact, other := range map[string]*Envelope{
		"the same body": w.envelope(p, KindCheckpoint, 1, 9, body("a")), "another version": w.envelope(p, KindCheckpoint, 1, 10, body("b")),
		"another key": w.envelope(p, KindCheckpoint, 2, 9, body("b")), "another publisher": w.envelope(q, KindCheckpoint, 1, 9, body("b")),
		"another kind": w.envelope(p, KindPrice, 1, 9, body("b")), "a forged one": &forged,
	} {
		raw, err := EncodeEvidence(base, other)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := ParseEvidence(raw); !errors.Is(err, ErrEnvelope) {
			t.Errorf("%s: %v", fact, err)
		}
	}
	for _, raw := range [][]byte{nil, []byte("GVQ1"), []byte("GVQ1\xff\xff\xff\xff")} {
		if _, _, err := ParseEvidence(raw); !errors.Is(err, ErrEnvelope) {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestTrustIsOneRegisterWhoeverCarriesIt(t *testing.T) {
	w := newTown(t)
	p, q := w.member(member.RoleSSN, "north"), w.member(member.RoleUtility, "")
	w.regs.Check(KindTrust, func(e Envelope) Verdict {
		if !bytes.HasPrefix(e.Body, []byte("signed by roots")) {
			return Verdict{Reject, "trust-signature"}
		}
		return Verdict{}
	})
	good := func(e *Envelope) { e.Body = []byte("signed by roots 2") }
	liar := w.member(member.RoleSSN, "south")
	if d := w.offer(w.envelope(liar, KindTrust, KeyBundle, 1<<60), begin); d.Action != Reject || d.Reason != "trust-signature" {
		t.Errorf("unsigned trust: %s %s", d.Action, d.Reason)
	}
	if d := w.offer(w.envelope(p, KindTrust, KeyBundle, 2, good), begin); d.Action != Accept {
		t.Errorf("trust: %s", d.Reason)
	}
	if d := w.offer(w.envelope(q, KindTrust, KeyBundle, 2, good), begin); d.Reason != ReasonSame {
		t.Errorf("the same trust by another: %s", d.Reason)
	}
	other := func(e *Envelope) { e.Body = []byte("signed by roots, but another") }
	if d := w.offer(w.envelope(q, KindTrust, KeyBundle, 2, other), begin); d.Reason != ReasonEquivocates || d.Evidence != nil {
		t.Errorf("other trust of one version: %s, evidence against the carrier: %v", d.Reason, d.Evidence != nil)
	}
	if d := w.offer(w.envelope(q, KindTrust, KeyBundle, 3, good), begin); d.Action != Accept || len(w.regs.All(KindTrust, begin)) != 1 {
		t.Errorf("newer trust by another: %s, %d registers", d.Reason, len(w.regs.All(KindTrust, begin)))
	}
}

func TestAPublisherOverItsRateIsIgnoredAndNobodyElse(t *testing.T) {
	w := newTown(t)
	hostile, honest := w.member(member.RoleUtility, ""), w.member(member.RoleUtility, "")
	accepted := 0
	for v := range 100 {
		if d := w.offer(w.envelope(hostile, KindPrice, ZoneKey("north", 1), uint64(v+1)), begin); d.Action == Accept {
			accepted++
		} else if d.Reason != ReasonRate {
			t.Fatalf("version %d: %s", v+1, d.Reason)
		}
	}
	if accepted != 4 {
		t.Errorf("%d prices in one moment, want 4", accepted)
	}
	if d := w.offer(w.envelope(honest, KindPrice, ZoneKey("north", 1), 1), begin); d.Action != Accept {
		t.Errorf("the honest one: %s", d.Reason)
	}
	late := w.envelope(hostile, KindPrice, ZoneKey("north", 1), 200)
	if d := w.offer(late, begin.Add(14*time.Second)); d.Reason != ReasonRate {
		t.Errorf("after 14 s: %q", d.Reason)
	}
	if d := w.offer(late, begin.Add(15*time.Second)); d.Action != Accept {
		t.Errorf("after 15 s: %s", d.Reason)
	}
	for v := range 50 { // a backlog that we asked for
		if d := w.regs.Offer(w.envelope(hostile, KindPrice, ZoneKey("south", uint32(v)), 1).Encode(), Source{Pulled: true}, begin); d.Action != Accept {
			t.Fatalf("pulled register %d: %s", v, d.Reason)
		}
	}
}

func TestRegistersAreLimitedInAllAndPerPublisher(t *testing.T) {
	w := newTown(t)
	total := RuleOf(KindCheckpoint).Total
	first, second := w.member(member.RoleAggregator, ""), w.member(member.RoleAggregator, "")
	third := w.member(member.RoleUtility, "")
	pull := func(p publisher, key int, now time.Time) Decision {
		e := w.envelope(p, KindCheckpoint, uint64(key), 1, func(e *Envelope) { e.Issued, e.Expires = now, now.Add(time.Hour) })
		return w.regs.Offer(e.Encode(), Source{Pulled: true}, now)
	}
	for i := range total / 2 {
		if d := pull(first, i, begin); d.Action != Accept {
			t.Fatalf("register %d: %s", i, d.Reason)
		}
	}
	if d := pull(first, total/2, begin); d.Reason != ReasonFull {
		t.Errorf("one publisher holds more than half: %q", d.Reason)
	}
	for i := range total / 2 {
		if d := pull(second, i, begin); d.Action != Accept {
			t.Fatalf("register %d of another: %s", i, d.Reason)
		}
	}
	if d := pull(third, 0, begin); d.Reason != ReasonFull {
		t.Errorf("above the total: %q", d.Reason)
	}
	if d := pull(third, 0, begin.Add(26*time.Hour)); d.Action != Accept {
		t.Errorf("after the others ran out: %s", d.Reason)
	}
}

func TestAnExpiredRegisterStillBlocksItsOlderVersions(t *testing.T) {
	w := newTown(t)
	utility := w.member(member.RoleUtility, "")
	key := ZoneKey("north", 1)
	old := w.envelope(utility, KindPrice, key, 1, func(e *Envelope) { e.Expires = begin.Add(48 * time.Hour) })
	if d := w.offer(w.envelope(utility, KindPrice, key, 2), begin); d.Action != Accept {
		t.Fatal(d.Reason)
	}
	after := begin.Add(time.Hour)
	if _, have := w.regs.Get(KindPrice, utility.member.Key, key, after); have {
		t.Error("an expired register is given out")
	}
	if gone := w.regs.Sweep(after); len(gone) != 0 {
		t.Error("the version number is forgotten while older versions live")
	}
	if d := w.offer(old, after); d.Reason != ReasonOld {
		t.Errorf("an older price returns: %q", d.Reason)
	}
	if next := w.regs.NextVersion(KindPrice, utility.member.Key, key, time.UnixMilli(0)); next != 3 {
		t.Errorf("next version %d", next)
	}
	if gone := w.regs.Sweep(begin.Add(49 * time.Hour)); len(gone) != 1 || len(w.regs.held) != 0 || len(w.regs.own) != 0 {
		t.Errorf("%d registers swept", len(gone))
	}
}

func TestVersionsSurviveARestartWithoutCertificates(t *testing.T) {
	w := newTown(t)
	utility := w.member(member.RoleUtility, "")
	key := ZoneKey("north", 1)
	e5, e4 := w.envelope(utility, KindPrice, key, 5), w.envelope(utility, KindPrice, key, 4)
	forged := *w.envelope(utility, KindPrice, key, 9)
	forged.Signature[0] ^= 1
	w.regs = NewRegisters(member.NewRoll(w.bundle, w.revoked)) // restarted: no certificate is known
	if refused := w.regs.Load([]Envelope{*e5, *e4, forged}, begin); refused != 1 {
		t.Errorf("%d stored registers refused, want the forged one", refused)
	}
	if got, have := w.regs.Get(KindPrice, utility.member.Key, key, begin); !have || got.Version != 5 {
		t.Errorf("held version %d", got.Version)
	}
	if d := w.offer(e4, begin); d.Reason != ReasonOld {
		t.Errorf("an old price after the restart: %q", d.Reason)
	}
}

func TestSyncBringsWhatIsMissingOnly(t *testing.T) {
	w := newTown(t)
	utility := w.member(member.RoleUtility, "")
	for i := range 3 {
		if d := w.offer(w.envelope(utility, KindPrice, ZoneKey("north", uint32(i)), 2), begin); d.Action != Accept {
			t.Fatal(d.Reason)
		}
	}
	full := w.regs.Digest(begin, KindPrice)
	if len(full) != 3 || len(w.regs.Digest(begin, KindAlarm)) != 0 {
		t.Fatalf("digest of %d registers", len(full))
	}
	theirs, err := ParseDigest(EncodeDigest(full[:2]))
	if err != nil {
		t.Fatal(err)
	}
	theirs[0].Version--
	if newer := w.regs.Newer(theirs, begin, KindPrice); len(newer) != 2 {
		t.Errorf("%d registers are newer, want the older and the missing one", len(newer))
	}
	if newer := w.regs.Newer(full, begin, KindPrice); len(newer) != 0 {
		t.Errorf("%d registers are newer than the same", len(newer))
	}
	for _, raw := range [][]byte{make([]byte, DigestSize-1), make([]byte, DigestSize), make([]byte, DigestSize*(maxDigest+1))} {
		if _, err := ParseDigest(raw); !errors.Is(err, ErrEnvelope) {
			t.Errorf("digest of %d bytes: %v", len(raw), err)
		}
	}
}

func TestBodiesAreLimitedByKind(t *testing.T) {
	w := newTown(t)
	utility := w.member(member.RoleUtility, "")
	for _, k := range Kinds() {
		e := Envelope{Kind: k, Issued: begin, Expires: begin, Body: make([]byte, RuleOf(k).MaxBody)}
		if err := e.Sign(utility.key); err != nil {
			t.Errorf("%s at its limit: %v", k, err)
		}
		if raw := e.Encode(); len(raw) > MaxEnvelope {
			t.Errorf("%s: envelope of %d bytes", k, len(raw))
		} else if _, err := ParseEnvelope(raw); err != nil {
			t.Errorf("%s at its limit: %v", k, err)
		}
		e.Body = append(e.Body, 0)
		if err := e.Sign(utility.key); !errors.Is(err, ErrEnvelope) {
			t.Errorf("%s above its limit: %v", k, err)
		}
		if _, err := ParseEnvelope(e.Encode()); !errors.Is(err, ErrEnvelope) {
			t.Errorf("%s above its limit is parsed: %v", k, err)
		}
	}
}

func FuzzOffer(f *testing.F) {
	w := newTown(f)
	utility := w.member(member.RoleUtility, "")
	good := w.envelope(utility, KindPrice, ZoneKey("north", 1), 5).Encode()
	f.Add(good)
	f.Add(w.envelope(utility, KindAlarm, 1, 1).Encode()[:80])
	f.Fuzz(func(t *testing.T, raw []byte) {
		if d := w.regs.Offer(raw, Source{Topic: KindPrice}, begin); d.Action == Accept && !bytes.Equal(raw, good) {
			t.Error("a register that nobody signed is accepted")
		} else if d.Action != Accept && d.Reason == "" {
			t.Error("refused without a reason")
		}
	})
}

// homeBody is the `keys` register of a home: a relay, or one that has stopped.
func homeBody(t testing.TB, relays bool) func(*Envelope) {
	t.Helper()
	k := route.Keys{Epoch: 1, Keys: []mix.PublicKey{{ID: 1}}}
	if relays {
		k.Flags, k.Addresses = route.FlagRelay, []string{"/ip4/192.0.2.1/tcp/4100"}
	}
	body, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return func(e *Envelope) { e.Body = body }
}

func TestHomesThatRelayAreFewAndNotOfOneOperator(t *testing.T) {
	w := newTown(t)
	ssn := w.member(member.RoleSSN, "north")
	if d := w.offer(w.envelope(ssn, KindDirectory, KeyOnion, 1), begin); d.Action != Accept {
		t.Fatalf("a substation: %s", d.Reason)
	}
	first := w.member(member.RoleGateway, "north")
	offer := func(p publisher, version uint64, relays bool, now time.Time) Decision {
		e := w.envelope(p, KindDirectory, KeyOnion, version, homeBody(t, relays), func(e *Envelope) { e.Issued, e.Expires = now, now.Add(time.Hour) })
		return w.regs.Offer(e.Encode(), Source{Pulled: true}, now)
	}
	if d := offer(first, 1, false, begin); d.Action != Ignore || d.Reason != ReasonUnheld {
		t.Errorf("a home that never relayed has stopped: %v %s", d.Action, d.Reason)
	}
	if d := offer(first, 2, true, begin); d.Action != Accept {
		t.Fatalf("a home that relays: %s", d.Reason)
	}
	if d := offer(first, 3, false, begin); d.Action != Accept {
		t.Errorf("it has stopped: %s", d.Reason)
	}
	if d := offer(first, 4, true, begin); d.Action != Accept {
		t.Errorf("it relays again: %s", d.Reason)
	}
	for i := range MaxHomes/2 - 1 {
		if d := offer(w.member(member.RoleGateway, "north"), 1, true, begin); d.Action != Accept {
			t.Fatalf("home %d: %s", i+2, d.Reason)
		}
	}
	if d := offer(w.member(member.RoleGateway, "north"), 1, true, begin); d.Reason != ReasonFull {
		t.Errorf("homes of one operator beyond half: %v %s", d.Action, d.Reason)
	}
	if d := offer(first, 5, true, begin); d.Action != Accept {
		t.Errorf("one of those that are in: %s", d.Reason)
	}
	if d := w.offer(w.envelope(w.member(member.RoleSSN, "south"), KindDirectory, KeyOnion, 1), begin); d.Action != Accept {
		t.Errorf("homes shut a substation out: %s", d.Reason)
	}
	if d := offer(w.member(member.RoleGateway, "south"), 1, true, begin.Add(90*time.Minute)); d.Action != Accept {
		t.Errorf("after the others have expired: %s", d.Reason)
	}
	for name, e := range map[string]*Envelope{
		"no register of keys":           w.envelope(first, KindDirectory, KeyOnion, 9),
		"a sealing key":                 w.envelope(first, KindDirectory, KeySeal, 9, homeBody(t, true)),
		"a sheet":                       w.envelope(first, KindDirectory, KeySheet, 9, homeBody(t, true)),
		"a key that stands for nothing": w.envelope(w.member(member.RoleGateway, "north"), KindDirectory, KeyBundle, 9, homeBody(t, true)),
	} {
		if d := w.offer(e, begin); d.Action != Reject || d.Reason != ReasonPublisher {
			t.Errorf("%s: %v %s", name, d.Action, d.Reason)
		}
	}
}
