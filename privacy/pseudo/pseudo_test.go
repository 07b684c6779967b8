package pseudo

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/internal/golden"
	"gridveil/privacy/internal/judge"
)

func TestEpochsBeginOnMondayMidnight(t *testing.T) {
	for _, c := range []struct {
		t    time.Time
		week uint32
	}{
		{time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC), 0},
		{time.Date(1970, 1, 5, 0, 0, 0, 0, time.UTC), 0},
		{time.Date(1970, 1, 11, 23, 59, 59, 0, time.UTC), 0},
		{time.Date(1970, 1, 12, 0, 0, 0, 0, time.UTC), 1},
		{monday.Add(-time.Millisecond), 2942},
		{monday, 2943},
		{time.Date(2026, 6, 1, 1, 0, 0, 0, time.FixedZone("CEST", 7200)), 2942},
	} {
		if got := Week(c.t); got != c.week {
			t.Errorf("Week(%v) = %d, want %d", c.t, got, c.week)
		}
	}
	from, to := Window(Driver, 2943)
	if !from.Equal(monday) || !to.Equal(monday.Add(7*24*time.Hour+6*time.Hour)) {
		t.Errorf("window of week 2943: %v to %v", from, to)
	}
	if from, to := Window(Meter, Day(now)); !from.Equal(monday.Add(day)) || !to.Equal(monday.Add(2*day+6*time.Hour)) {
		t.Errorf("window of today: %v to %v", from, to)
	}
	for i := range 50 {
		at, err := FetchTime(privacy.SeededReader("t", []byte{byte(i)}), 2943)
		if err != nil || Week(at) != 2943 {
			t.Fatalf("FetchTime: %v, %v", at, err)
		}
	}
}

func TestBandsEndAtTheLimit(t *testing.T) {
	for _, c := range []struct {
		band, limit uint16
		ok          bool
	}{{10, 10, true}, {40, 40, true}, {40, 80, true}, {80, 40, false}, {0, 80, false}, {30, 80, false}, {160, 200, false}} {
		if err := CheckBand(c.band, c.limit); (err == nil) != c.ok || (err != nil && !errors.Is(err, ErrLimit)) {
			t.Errorf("band %d of limit %d: %v", c.band, c.limit, err)
		}
	}
}

func TestADeckHoldsCertificatesThatVerify(t *testing.T) {
	w := newWorld(t)
	d := w.mustDeck(t, w.driver, "driver", Week(now))
	if d.Left() != 16 {
		t.Fatalf("deck of %d, want 16", d.Left())
	}
	for d.Left() > 0 {
		p, err := d.Take(now)
		if err != nil {
			t.Fatal(err)
		}
		if err := Verify(&p.Cert, testNet, Driver, evagg, w.keys, now); err != nil {
			t.Error(err)
		}
		if public([32]byte(p.SSK.Seed())) != p.Cert.SPK() {
			t.Error("session key is not the certificate's")
		}
		bpk := public([32]byte(p.BSK.Seed()))
		if !p.Cert.OpensBill(bpk, p.BSalt) || p.Cert.OpensBill(bpk, [16]byte{}) || p.Cert.OpensBill(p.Cert.SPK(), p.BSalt) {
			t.Error("bcom does not open to the bill key alone")
		}
		if row, ok := w.book.rows[bpk]; !ok || row.Contract != contract || row.Epoch != Week(now) {
			t.Error("the utility cannot bill this key")
		}
		if p.Cert.Arg() != 40 || p.Cert.Issuer() != utb || p.Cert.Epoch() != Week(now) {
			t.Error("a field of the certificate is not what was asked for")
		}
	}
}

func TestAMetersDeckHoldsOneCertificatePerDay(t *testing.T) {
	w := newWorld(t)
	first := Week(now) * MeterDeck
	d := w.mustDeck(t, w.meter, "meter", first)
	if len(w.book.rows) != 0 {
		t.Error("a meter left bill rows")
	}
	for i := range uint32(MeterDeck) {
		at, _ := Window(Meter, first+i)
		at = at.Add(7 * time.Hour)
		p, err := d.Take(at)
		if err != nil {
			t.Fatal(err)
		}
		if p.Cert.Epoch() != first+i || p.Cert.Arg() != 3 || p.BSK != nil || p.Cert.BCom() != ([32]byte{}) {
			t.Errorf("day %d: wrong certificate", i)
		}
		if err := Verify(&p.Cert, testNet, Meter, evagg, w.keys, at); err != nil {
			t.Error(err)
		}
		if _, err := d.Take(at); !errors.Is(err, ErrNoPseudonym) {
			t.Errorf("a second pseudonym for day %d: %v", i, err)
		}
	}
}

// Apart from keys, commitment, capsule, proof and signature, two drivers'
// certificates of one utility, audience and week are the same bytes.
func TestCertificatesOfAnEpochDifferInRandomFieldsOnly(t *testing.T) {
	w := newWorld(t)
	d := w.mustDeck(t, w.driver, "driver", Week(now))
	a, err := d.Take(now)
	if err != nil {
		t.Fatal(err)
	}
	for d.Left() > 0 {
		b, err := d.Take(now)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a.Cert[:spkAt], b.Cert[:spkAt]) {
			t.Error("the common part differs")
		}
		for _, f := range [][2]int{{spkAt, bcomAt}, {bcomAt, capEAt}, {capEAt, capCAt}, {capCAt, pokAt}, {pokAt, pokAt + 32}, {pokAt + 32, sigAt}, {sigAt, CertSize}} {
			if bytes.Equal(a.Cert[f[0]:f[1]], b.Cert[f[0]:f[1]]) {
				t.Errorf("two certificates share bytes %d to %d", f[0], f[1])
			}
		}
	}
}

// TestUtbForgets: what the issuer persists contains no session key, bill salt,
// certificate or enrol signature in the clear.
func TestUtbForgets(t *testing.T) {
	w := newWorld(t)
	b := w.mustBatch(t, w.driver, "driver", Week(now))
	out := w.mustIssue(t, w.driver, b)
	d, err := b.Finish(w.driver, out.Batch.Answer)
	if err != nil {
		t.Fatal(err)
	}
	var stored []byte
	for _, r := range out.Rows {
		stored = append(append(append(stored, r.BPK[:]...), r.Contract[:]...), byte(r.Epoch))
	}
	stored = append(append(stored, out.Batch.Answer...), out.Batch.Request[:]...)
	for i := 1; i < len(out.Rows); i++ {
		if bytes.Compare(out.Rows[i-1].BPK[:], out.Rows[i].BPK[:]) >= 0 {
			t.Fatal("rows are not in the order of their bill keys")
		}
	}
	for d.Left() > 0 {
		p, err := d.Take(now)
		if err != nil {
			t.Fatal(err)
		}
		spk, bcom, ref := p.Cert.SPK(), p.Cert.BCom(), p.Cert.Ref()
		for name, secret := range map[string][]byte{"spk": spk[:], "bcom": bcom[:], "bsalt": p.BSalt[:], "ref": ref[:], "capsule": p.Cert[capEAt:capCAt], "signature": p.Cert[sigAt:]} {
			if bytes.Contains(stored, secret) {
				t.Errorf("the issuer stores a %s", name)
			}
		}
	}
}

func TestARepeatedRequestGetsItsAnswerAndAnotherNothing(t *testing.T) {
	w := newWorld(t)
	b := w.mustBatch(t, w.driver, "driver", Week(now))
	first := w.mustIssue(t, w.driver, b)
	again, err := w.issuer.Issue(seeded("other randomness"), privacy.KindBatchReq, b.Box, now.Add(23*time.Hour))
	if err != nil || !again.Repeated || !bytes.Equal(again.Batch.Answer, first.Batch.Answer) {
		t.Errorf("same request: %v", err)
	}
	if _, err := w.issuer.Issue(seeded("x"), privacy.KindBatchReq, b.Box, now.Add(25*time.Hour)); !errors.Is(err, ErrBatchTaken) {
		t.Errorf("same request after a day: %v", err)
	}
	other := w.mustBatch(t, w.driver, "other keys", Week(now))
	if _, err := w.issuer.Issue(seeded("x"), privacy.KindBatchReq, other.Box, now); !errors.Is(err, ErrBatchTaken) {
		t.Errorf("second batch of the week: %v", err)
	}
	next := w.mustBatch(t, w.driver, "next week", Week(now)+1)
	if _, err := w.issuer.Issue(seeded("x"), privacy.KindBatchReq, next.Box, now); err != nil {
		t.Errorf("next week's batch: %v", err)
	}
}

func TestBadBatchRequestsAreRefused(t *testing.T) {
	w := newWorld(t)
	taken := w.mustDeck(t, w.driver, "taken", Week(now)+1)
	p, err := taken.Take(now.Add(week))
	if err != nil {
		t.Fatal(err)
	}
	used := public([32]byte(p.BSK.Seed()))
	stranger := w.driver
	if stranger.LK, err = privacy.NewKey(seeded("stranger")); err != nil {
		t.Fatal(err)
	}
	unknown := w.driver
	unknown.Contract = [16]byte{'n', 'o'}
	nothing := func(*batchReq) {}
	for _, c := range []struct {
		name string
		p    Profile
		bend func(*batchReq)
		want error
	}{
		{"a good one", w.driver, nothing, nil},
		{"a meter's good one", w.meter, nothing, nil},
		{"signed by another key", stranger, nothing, ErrContract},
		{"unknown contract", unknown, nothing, ErrContract},
		{"a meter's contract asks as a driver", func() Profile { q := w.meter; q.Kind, q.Deck = Driver, 16; return q }(), nothing, ErrContract},
		{"last week", w.driver, func(r *batchReq) { r.epoch-- }, ErrBatch},
		{"the week after next", w.driver, func(r *batchReq) { r.epoch += 2 }, ErrBatch},
		{"a deck too small", w.driver, func(r *batchReq) { r.items = r.items[:15] }, ErrBatch},
		{"small-order session key", w.driver, func(r *batchReq) { r.items[3].spk = [32]byte{1} }, ErrBatch},
		{"small-order bill key", w.driver, func(r *batchReq) { r.items[3].bpk = [32]byte{} }, ErrBatch},
		{"a session key twice", w.driver, func(r *batchReq) { r.items[3].spk = r.items[4].spk }, ErrBatch},
		{"one key for session and bill", w.driver, func(r *batchReq) { r.items[3].bpk = r.items[3].spk }, ErrBatch},
		{"a bill key used before", w.driver, func(r *batchReq) { r.items[3].bpk = used }, ErrBatch},
		{"a wrong enrol signature", w.driver, func(r *batchReq) { r.items[15].enrol[0] = 1 }, ErrBatch},
		{"a meter with a bill key", w.meter, func(r *batchReq) { r.items[0].bpk = used }, ErrBatch},
		{"a meter's week from Tuesday", w.meter, func(r *batchReq) { r.epoch++ }, ErrBatch},
		{"a meter's last week", w.meter, func(r *batchReq) { r.epoch -= 7 }, ErrBatch},
	} {
		if _, err := w.issuer.Issue(seeded("x"), c.p.reqKind(), w.sealed(t, c.p, c.bend), now); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	suspended := w.book.contracts[contract]
	suspended.Active = false
	w.book.contracts[contract] = suspended
	if _, err := w.issuer.Issue(seeded("x"), privacy.KindBatchReq, w.sealed(t, w.driver, nothing), now); !errors.Is(err, ErrContract) {
		t.Errorf("suspended contract: %v", err)
	}
	if _, err := w.issuer.Issue(seeded("x"), privacy.KindBatchReq, []byte("noise"), now); !errors.Is(err, privacy.ErrOpen) {
		t.Errorf("noise: %v", err)
	}
}

func TestAWalletRefusesCertificatesItDidNotAskFor(t *testing.T) {
	w := newWorld(t)
	b := w.mustBatch(t, w.driver, "driver", Week(now))
	out := w.mustIssue(t, w.driver, b)
	pt, err := b.exporter.Open(privacy.KindBatchReply, out.Batch.Answer)
	if err != nil {
		t.Fatal(err)
	}
	resign := func(pt []byte) {
		sig := privacy.Sign(w.issuer.Key, privacy.KindCert, testNet, pt[8:8+sigAt])
		copy(pt[8+sigAt:], sig[:])
	}
	for _, c := range []struct {
		name string
		bend func([]byte)
		want error
	}{
		{"a signature", func(pt []byte) { pt[8+sigAt] ^= 1 }, ErrSignature},
		{"a limit", func(pt []byte) { pt[8+argAt] ^= 1; resign(pt) }, ErrEncoding},
		{"a capsule from elsewhere", func(pt []byte) { copy(pt[8+capEAt:8+capCAt], pt[8+CertSize+capEAt:]); resign(pt) }, ErrProof},
		{"the epoch of the reply", func(pt []byte) { pt[6] ^= 1 }, ErrEncoding},
	} {
		bent := bytes.Clone(pt)
		c.bend(bent)
		answer, err := b.exporter.Seal(seeded("bent"), privacy.KindBatchReply, bent)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Finish(w.driver, answer); !errors.Is(err, c.want) {
			t.Errorf("%s changed: got %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := b.Finish(w.driver, []byte("noise")); !errors.Is(err, privacy.ErrOpen) {
		t.Errorf("noise: %v", err)
	}
}

func TestVerifyNamesTheCause(t *testing.T) {
	w := newWorld(t)
	p, err := w.mustDeck(t, w.driver, "driver", Week(now)).Take(now)
	if err != nil {
		t.Fatal(err)
	}
	from, to := Window(Driver, Week(now))
	for _, c := range []struct {
		name     string
		bend     func(*Cert)
		kind     CertKind
		audience [16]byte
		keys     IssuerKeys
		at       time.Time
		want     error
	}{
		{"good", nil, Driver, evagg, w.keys, now, nil},
		{"first moment", nil, Driver, evagg, w.keys, from, nil},
		{"last moment", nil, Driver, evagg, w.keys, to.Add(-time.Millisecond), nil},
		{"too early", nil, Driver, evagg, w.keys, from.Add(-time.Millisecond), ErrExpired},
		{"too late", nil, Driver, evagg, w.keys, to, ErrExpired},
		{"another audience", nil, Driver, [16]byte{9}, w.keys, now, ErrAudience},
		{"as a meter", nil, Meter, evagg, w.keys, now, ErrEncoding},
		{"unknown issuer key", nil, Driver, evagg, IssuerKeys{}, now, ErrIssuer},
		{"issuer exchanged", func(c *Cert) { c[issuerAt] ^= 1 }, Driver, evagg, w.keys, now, ErrIssuer},
		{"limit raised", func(c *Cert) { c[argAt+1] = 80 }, Driver, evagg, w.keys, now, ErrSignature},
		{"scheme 2", func(c *Cert) { c[schemeAt] = 2 }, Driver, evagg, w.keys, now, ErrEncoding},
		{"no magic", func(c *Cert) { c[0] = 'X' }, Driver, evagg, w.keys, now, ErrEncoding},
		{"proof exchanged", func(c *Cert) { c[pokAt] ^= 1 }, Driver, evagg, w.keys, now, ErrSignature},
	} {
		cert := p.Cert
		if c.bend != nil {
			c.bend(&cert)
		}
		if err := Verify(&cert, testNet, c.kind, c.audience, c.keys, c.at); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if err := (IssuerKeys{}).Add(utb, [32]byte{1}); !errors.Is(err, ErrEncoding) {
		t.Errorf("small-order issuer key: %v", err)
	}
}

// TestUsedOnce: whatever crash comes between Take, the durable write and the
// first message, no pseudonym is given out twice, and one whose write was lost
// was never used.
func TestUsedOnce(t *testing.T) {
	w := newWorld(t)
	durable := w.mustDeck(t, w.driver, "driver", Week(now)).Bytes()
	sent := map[[32]byte]bool{}
	for step := 0; ; step++ {
		d, err := ParseDeck(durable)
		if err != nil {
			t.Fatal(err)
		}
		p, err := d.Take(now)
		var empty *NoPseudonymError
		if errors.As(err, &empty) {
			if !errors.Is(err, ErrNoPseudonym) || !empty.Next.Equal(monday.Add(week)) {
				t.Errorf("empty deck: %v", err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if step%3 == 1 {
			continue // crash before the write: nothing was sent
		}
		durable = d.Bytes()
		if step%3 == 2 {
			continue // crash after the write, before the message: burned unused
		}
		if sent[p.Cert.SPK()] {
			t.Fatal("a pseudonym is used twice")
		}
		sent[p.Cert.SPK()] = true
		if bytes.Contains(durable, p.SSK.Seed()) {
			t.Error("a used session key is still stored")
		}
	}
	if len(sent) == 0 {
		t.Error("no pseudonym was used")
	}
}

// The capsule opens with the committee's secret by independent arithmetic, and
// the proof of knowledge satisfies Schnorr's equation.
func TestCapsuleAgreesWithTheSecondImplementation(t *testing.T) {
	w := newWorld(t)
	p, err := w.mustDeck(t, w.driver, "driver", Week(now)).Take(now)
	if err != nil {
		t.Fatal(err)
	}
	c := &p.Cert
	e, err := judge.Decode(c.CapE())
	if err != nil {
		t.Fatal(err)
	}
	shared := e.Mul(judge.Scalar(w.y)).Encode()
	key, err := hkdf.Key(sha256.New, shared[:], c[116:148], "link", 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	pt, err := aead.Open(nil, make([]byte, 12), c[148:244], c[:116])
	if err != nil || !bytes.Equal(pt[:16], contract[:]) || len(pt) != 80 {
		t.Fatalf("capsule: %v", err)
	}
	if !CheckEnrol(c, testNet, w.book.contracts[contract].LK, privacy.Signature(pt[16:])) {
		t.Error("enrol is not the contract's")
	}
	got, enrol, err := OpenCapsule(c, shared)
	if err != nil || got != contract || !bytes.Equal(enrol[:], pt[16:]) {
		t.Errorf("OpenCapsule: %v", err)
	}
	if _, _, err := OpenCapsule(c, [32]byte{5}); !errors.Is(err, ErrCapsule) {
		t.Errorf("another secret: %v", err)
	}

	v, err := judge.Decode([32]byte(c[244:276]))
	if err != nil {
		t.Fatal(err)
	}
	g := judge.Base().Encode()
	transcript := append(append(append([]byte{}, g[:]...), c[244:276]...), c[116:148]...)
	transcript = append(binary.BigEndian.AppendUint32(transcript, 116), c[:116]...)
	transcript = append(binary.BigEndian.AppendUint32(transcript, uint32(len(linkInfo))), linkInfo...)
	challenge := judge.HashScalar(transcript, linkInfo)
	if judge.Base().Mul(judge.Scalar([32]byte(c[276:308]))).Add(e.Mul(challenge)).Encode() != v.Encode() {
		t.Error("proof of knowledge does not satisfy Schnorr's equation")
	}
}

func TestStoredFormsSurviveARestart(t *testing.T) {
	w := newWorld(t)
	b := w.mustBatch(t, w.driver, "driver", Week(now))
	again, err := ParsePending(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Box, b.Box) {
		t.Error("the request changes over a restart")
	}
	d, err := again.Finish(w.driver, w.mustIssue(t, w.driver, b).Batch.Answer)
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.Take(now)
	if err != nil {
		t.Fatal(err)
	}
	q, err := ParsePseudonym(p.Bytes())
	if err != nil || !bytes.Equal(q.Bytes(), p.Bytes()) || !q.SSK.Equal(p.SSK) || !q.BSK.Equal(p.BSK) {
		t.Errorf("pseudonym: %v", err)
	}
	if p.String() != "pseudonym" || p.GoString() != "pseudonym" {
		t.Error("a pseudonym prints")
	}
}

func TestRevocationListsAreExactMixedAndFilled(t *testing.T) {
	w := newWorld(t)
	w.mustDeck(t, w.driver, "driver", Week(now))
	var rows []BillRow
	for _, r := range w.book.rows {
		rows = append(rows, r)
	}
	box, err := privacy.NewBoxKey(seeded("evagg box"), privacy.SuiteX25519)
	if err != nil {
		t.Fatal(err)
	}
	from := IssuerKey{utb, w.driver.IssuerKey}
	sealed, err := NewRevocation(seeded("fill"), testNet, utb, w.issuer.Key, rows[:5], now, privacy.SuiteX25519, box.Pub)
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenRevocation(sealed, box, testNet, from)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.digests) != 64 || !r.Issued.Equal(now) {
		t.Errorf("list of %d digests at %v", len(r.digests), r.Issued)
	}
	for i, row := range rows {
		if got := r.Has(row.BPK, row.Epoch); got != (i < 5) {
			t.Errorf("row %d revoked: %v", i, got)
		}
		if r.Has(row.BPK, row.Epoch+1) {
			t.Error("revoked in another epoch")
		}
	}
	empty, err := NewRevocation(seeded("fill"), testNet, utb, w.issuer.Key, nil, now, privacy.SuiteX25519, box.Pub)
	if err != nil || len(empty) != len(sealed) {
		t.Errorf("an empty list is told apart: %d and %d bytes, %v", len(empty), len(sealed), err)
	}
	if _, err := OpenRevocation(sealed, box, testNet, IssuerKey{evagg, from.Pub}); !errors.Is(err, ErrIssuer) {
		t.Errorf("another issuer: %v", err)
	}
	if _, err := OpenRevocation(sealed, box, testNet, IssuerKey{utb, public([32]byte{1})}); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	if _, err := NewRevocation(seeded("fill"), testNet, utb, w.issuer.Key, make([]BillRow, MaxRevoked+1), now, privacy.SuiteX25519, box.Pub); !errors.Is(err, ErrBatch) {
		t.Errorf("too many: %v", err)
	}
}

func TestVectors(t *testing.T) {
	w := newWorld(t)
	b := w.mustBatch(t, w.driver, "vector", Week(now))
	out := w.mustIssue(t, w.driver, b)
	d, err := b.Finish(w.driver, out.Batch.Answer)
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.Take(now)
	if err != nil {
		t.Fatal(err)
	}
	req, _, err := privacy.Open(w.issuer.Box, privacy.KindBatchReq, testNet, b.Box)
	if err != nil {
		t.Fatal(err)
	}
	ref := p.Cert.Ref()
	digest := RevocationDigest(public([32]byte(p.BSK.Seed())), p.Cert.Epoch())
	line := func(n string, v []byte) golden.Line { return golden.Line{Name: n, Value: v} }
	golden.Check(t, "cert", line("issuer_public", w.driver.IssuerKey[:]), line("committee_secret", w.y[:]), line("bill_seed", p.BSK.Seed()),
		line("bill_salt", p.BSalt[:]), line("cert", p.Cert[:]), line("ref", ref[:]), line("revocation_digest", digest[:]))
	golden.Check(t, "batch", line("request", req), line("request_box", b.Box), line("reply_box", out.Batch.Answer))
}

func FuzzParseCert(f *testing.F) {
	w := newWorld(f)
	p, err := w.mustDeck(f, w.driver, "fuzz", Week(now)).Take(now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.Cert[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCert(b)
		if err != nil {
			return
		}
		if !bytes.Equal(c[:], b) {
			t.Fatal("ParseCert changes bytes")
		}
		if Verify(c, testNet, Driver, evagg, w.keys, now) == nil && *c != p.Cert {
			t.Fatal("a forged certificate verifies")
		}
		_ = CheckCapsule(c)
		_, _, _ = OpenCapsule(c, [32]byte{1})
	})
}

func FuzzDecoders(f *testing.F) {
	w := newWorld(f)
	b := w.mustBatch(f, w.driver, "fuzz", Week(now))
	req, _, err := privacy.Open(w.issuer.Box, privacy.KindBatchReq, testNet, b.Box)
	if err != nil {
		f.Fatal(err)
	}
	d, err := b.Finish(w.driver, w.mustIssue(f, w.driver, b).Batch.Answer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(req)
	f.Add(b.Bytes())
	f.Add(d.Bytes())
	p, err := d.Take(now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseReq(privacy.KindBatchReq, b); err == nil && !bytes.Equal(append(r.body(), r.sig[:]...), b) {
			t.Error("a request has two encodings")
		}
		if x, err := ParsePending(b); err == nil && !bytes.Equal(x.Bytes(), b) {
			t.Error("a pending batch has two encodings")
		}
		if x, err := ParseDeck(b); err == nil && !bytes.Equal(x.Bytes(), b) {
			t.Error("a deck has two encodings")
		}
		if x, err := ParsePseudonym(b); err == nil && !bytes.Equal(x.Bytes(), b) {
			t.Error("a pseudonym has two encodings")
		}
		_, _ = parseRevocation(b)
	})
}
