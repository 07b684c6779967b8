package ocmf_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gridveil/ev/ocmf"
)

// meter is a signing meter with a fresh key.
type meter struct {
	t   testing.TB
	key *ecdsa.PrivateKey
}

func newMeter(t testing.TB) meter {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return meter{t, key}
}

func (m meter) spki() []byte {
	m.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&m.key.PublicKey)
	if err != nil {
		m.t.Fatal(err)
	}
	return der
}

func (m meter) public() ocmf.PublicKey {
	m.t.Helper()
	k, err := ocmf.NewKey(m.spki())
	if err != nil {
		m.t.Fatal(err)
	}
	return k
}

const (
	code      = "ABCDEFGHIJKLMNOP"
	importRI  = "1-0:1.8.0*198"
	exportRI  = "1-0:2.8.0*198"
	beginTime = 1_700_000_000_000
)

func reading(tx byte, mwh int64) ocmf.Reading {
	at := int64(beginTime)
	if tx != 'B' {
		at += 3_600_000
	}
	return ocmf.Reading{At: at, Sync: 'S', TX: tx, Value: ocmf.FormatEnergy(mwh), RI: importRI, RU: "kWh", RT: "AC", ST: "G"}
}

func payload(page uint64, rds ...ocmf.Reading) ocmf.Payload {
	return ocmf.Payload{FV: "1.0", GI: "sim", GS: "G1", PG: ocmf.Page{Context: 'T', Number: page}, MV: "sim", MM: "sim",
		MS: "M1", IS: true, IL: "VERIFIED", IT: "LOCAL", ID: code, RD: rds}
}

func (m meter) sign(p ocmf.Payload) []byte {
	m.t.Helper()
	b, err := ocmf.Sign(m.key, p)
	if err != nil {
		m.t.Fatal(err)
	}
	return b
}

// session returns a begin and an end record of 7.345 kWh, changed by change.
func (m meter) session(change func(begin, end *ocmf.Payload)) [][]byte {
	b, e := payload(41, reading('B', 100_000_000)), payload(42, reading('E', 107_345_000))
	if change != nil {
		change(&b, &e)
	}
	return [][]byte{m.sign(b), m.sign(e)}
}

func TestSignedSessionIsBillable(t *testing.T) {
	m := newMeter(t)
	recs := m.session(nil)
	page := func(n uint64) ocmf.Page { return ocmf.Page{Context: 'T', Number: n} }
	want := ocmf.Signed{ImportMWh: 7_345_000, HasImport: true, Begin: beginTime, End: beginTime + 3_600_000, TimeOK: true,
		Bound: true, Serial: "M1", Key: m.public().Hash(), First: page(41), Last: page(42), StepMWh: 1}
	single := m.sign(payload(42, reading('B', 100_000_000), reading('E', 107_345_000)))
	for _, c := range []struct {
		name  string
		recs  [][]byte
		first uint64
	}{
		{"in order", recs, 41},
		{"end first", [][]byte{recs[1], recs[0]}, 41},
		{"each twice", append(bytesOf(recs), recs...), 41},
		{"blanks around", [][]byte{append([]byte("  "), recs[0]...), append(bytes.Clone(recs[1]), '\n')}, 41},
		{"begin and end in one", [][]byte{single}, 42},
	} {
		want.First = page(c.first)
		got, err := ocmf.Check(c.recs, m.public(), code)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", c.name, got, err)
		}
	}
}

func bytesOf(recs [][]byte) [][]byte { return append([][]byte(nil), recs...) }

func TestBothDirectionsAreTwoRegisters(t *testing.T) {
	m := newMeter(t)
	got, err := ocmf.Check(m.session(func(b, e *ocmf.Payload) {
		for p, wh := range map[*ocmf.Payload]int64{b: 1_000, e: 6_200} {
			out := p.RD[0]
			out.RI, out.RU, out.Value = exportRI, "Wh", fmt.Sprint(wh)
			p.RD = append(p.RD, out)
		}
	}), m.public(), code)
	if err != nil || got.ImportMWh != 7_345_000 || got.ExportMWh != 5_200_000 || got.StepMWh != 1000 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestEveryDoubtIsRefusedByName(t *testing.T) {
	m, other := newMeter(t), newMeter(t)
	both := func(f func(*ocmf.Payload)) func(b, e *ocmf.Payload) {
		return func(b, e *ocmf.Payload) { f(b); f(e) }
	}
	end := func(f func(*ocmf.Reading)) func(b, e *ocmf.Payload) {
		return func(_, e *ocmf.Payload) { f(&e.RD[0]) }
	}
	const foreign = "PONMLKJIHGFEDCBA"
	for _, c := range []struct {
		name string
		recs [][]byte
		want ocmf.Reason
	}{
		{"nothing signed", nil, ocmf.Empty},
		{"too many records", make([][]byte, ocmf.MaxRecords+1), ocmf.TooLarge},
		{"a record of 16 KiB and a byte", [][]byte{bytes.Repeat([]byte("x"), ocmf.MaxRecord+1)}, ocmf.TooLarge},
		{"another meter signed", other.session(nil), ocmf.Signature},
		{"foreign code", m.session(both(func(p *ocmf.Payload) { p.ID = foreign })), ocmf.ForeignID},
		{"no code", m.session(both(func(p *ocmf.Payload) { p.ID = "" })), ocmf.ForeignID},
		{"one record of another session", m.session(func(b, e *ocmf.Payload) { b.ID = foreign }), ocmf.ForeignID},
		{"two records of one page", m.session(func(b, e *ocmf.Payload) { e.PG = b.PG }), ocmf.Pagination},
		{"fiscal pages", m.session(both(func(p *ocmf.Payload) { p.PG.Context = 'F' })), ocmf.Pagination},
		{"end on an earlier page", m.session(func(b, e *ocmf.Payload) { b.PG.Number = 43 }), ocmf.Order},
		{"end before begin", m.session(end(func(r *ocmf.Reading) { r.At = beginTime - 1 })), ocmf.Order},
		{"another serial", m.session(func(b, e *ocmf.Payload) { e.MS = "M2" }), ocmf.Serial},
		{"no serial at all", m.session(both(func(p *ocmf.Payload) { p.MS, p.GS = "", "" })), ocmf.Serial},
		{"begin only", m.session(nil)[:1], ocmf.NoEnd},
		{"end only", m.session(nil)[1:], ocmf.NoBegin},
		{"meter not good", m.session(end(func(r *ocmf.Reading) { r.ST = "E" })), ocmf.Status},
		{"energy flagged", m.session(end(func(r *ocmf.Reading) { r.EF = "tE" })), ocmf.ErrorFlag},
		{"register runs backwards", m.session(end(func(r *ocmf.Reading) { r.Value = "99.0" })), ocmf.Negative},
		{"negative register", m.session(func(b, e *ocmf.Payload) { b.RD[0].Value, e.RD[0].Value = "-2", "-1" }), ocmf.Unit},
		{"finer than 1 mWh", m.session(end(func(r *ocmf.Reading) { r.Value = "107.3450001" })), ocmf.Unit},
		{"volts", m.session(both(func(p *ocmf.Payload) { p.RD[0].RU = "V" })), ocmf.Unit},
		{"power register", m.session(both(func(p *ocmf.Payload) { p.RD[0].RI = "1-0:1.7.0" })), ocmf.Register},
		{"other register at the end", m.session(end(func(r *ocmf.Reading) { r.RI = "1-0:1.8.1" })), ocmf.Register},
		{"two import registers", m.session(both(func(p *ocmf.Payload) {
			again := p.RD[0]
			again.RI = "1-0:1.8.1"
			p.RD = append(p.RD, again)
		})), ocmf.Register},
		{"a bare hash", [][]byte{[]byte(strings.Repeat("ab", 32))}, ocmf.BareHash},
		{"a signature without payload", [][]byte{[]byte(`OCMF||{"SD":"00"}`)}, ocmf.BareHash},
		{"no OCMF at all", [][]byte{[]byte("hello")}, ocmf.Syntax},
		{"one member twice", [][]byte{[]byte(`OCMF|{"ID":"A","ID":"B"}|{"SD":"00"}`)}, ocmf.Syntax},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ocmf.Check(c.recs, m.public(), code)
			if got := reason(err); got != string(c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestKeyMustBeConfirmedAndStrong(t *testing.T) {
	recs := newMeter(t).session(nil)
	if _, err := ocmf.Check(recs, ocmf.PublicKey{}, code); reason(err) != "unpinned" {
		t.Errorf("no key: got %v", err)
	}
	// The generator of secp192k1 stands for any key of its size.
	weak, err := ocmf.ParseKey("DB4FF10EC057E9AE26B07D0280B7F4341DA5D1B1EAE06C7D" + "9B2F2F6D9C5628A7844163D015BE86344082AA88D95E2F9D")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ocmf.Check(recs, weak, code); reason(err) != "weak" {
		t.Errorf("192 bit: got %v", err)
	}
}

func TestOneChangedByteIsRefused(t *testing.T) {
	m := newMeter(t)
	recs := m.session(nil)
	signature := bytes.LastIndexByte(recs[1], '|')
	for i := range recs[1] {
		changed := bytes.Clone(recs[1])
		changed[i] ^= 1
		_, err := ocmf.Check([][]byte{recs[0], changed}, m.public(), code)
		if err == nil && i < signature {
			t.Errorf("byte %d (%q -> %q) changed without notice", i, recs[1][i], changed[i])
		}
	}
}

func TestTimesCountOnlyWhenSynchronisedAndNear(t *testing.T) {
	m := newMeter(t)
	check := func(change func(b, e *ocmf.Payload)) ocmf.Signed {
		s, err := ocmf.Check(m.session(change), m.public(), code)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := check(nil)
	if !s.TimedAt(beginTime+30_000, beginTime+3_570_000) || s.TimedAt(beginTime+30_001, beginTime+3_600_000) {
		t.Error("30 s of skew are allowed, not more")
	}
	if check(func(b, e *ocmf.Payload) { b.RD[0].Sync = 'I' }).TimeOK {
		t.Error("an informative time is not good enough")
	}
	if check(func(b, e *ocmf.Payload) { e.RD[0].EF = "t" }).TimeOK {
		t.Error("a flagged time is not good enough")
	}
}

func TestStationWithoutIDIsNotBound(t *testing.T) {
	m := newMeter(t)
	s, err := ocmf.Check(m.session(func(b, e *ocmf.Payload) { b.ID, e.ID = "", "" }), m.public(), "")
	if err != nil || s.Bound {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestMissingFieldsAreThoseOfTheReadingBefore(t *testing.T) {
	r, err := ocmf.Parse([]byte(`OCMF|{"PG":"T1","RD":[` +
		`{"TM":"2019-08-12T10:03:15,250+0200 S","TX":"B","RV":" 1.50","RI":"1-b:1.8.0","RU":"kWh","EF":"","ST":"G"},` +
		`{"TX":"E","RV":2e3,"RU":"Wh"}]}|{"SD":"00"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := ocmf.Reading{At: 1_565_596_995_250, Sync: 'S', TX: 'E', Value: "2e3", RI: "1-b:1.8.0", RU: "Wh", ST: "G"}
	if r.RD[1] != want || r.RD[0].Value != "1.50" || r.SA != ocmf.DefaultAlgorithm {
		t.Errorf("got %+v", r.RD)
	}
}

func TestKeysAreReadInEveryForm(t *testing.T) {
	m := newMeter(t)
	der := m.spki()
	point := der[len(der)-65:]
	h := hex.EncodeToString
	want := m.public().Hash()
	for name, text := range map[string]string{
		"SPKI in hex": h(der), "SPKI in base64": base64.StdEncoding.EncodeToString(der), "raw point": h(point), "x and y": h(point[1:]),
		"OCA": "oca:base16:asn1:" + h(der), "with blanks": strings.ToUpper(h(der[:20])) + " \n" + h(der[20:]),
	} {
		k, err := ocmf.ParseKey(text)
		if err != nil || k.Hash() != want {
			t.Errorf("%s: got %v, %v", name, k.Curve, err)
		}
	}
	off := append(bytes.Clone(point[:64]), point[64]^1)
	for name, text := range map[string]string{"empty": "", "off the curve": h(off), "not hex": "zz",
		"long": strings.Repeat("00", 2000), "SPKI with bytes behind": h(append(bytes.Clone(der), 0))} {
		if _, err := ocmf.ParseKey(text); reason(err) != "key" {
			t.Errorf("%s: got %v, want reason key", name, err)
		}
	}
}

func TestErrorsNameNobody(t *testing.T) {
	m := newMeter(t)
	_, err := ocmf.Check(m.session(func(b, e *ocmf.Payload) { e.MS = "SECRET-SERIAL" }), m.public(), code)
	if err == nil || strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), code) {
		t.Errorf("got %v", err)
	}
	var typed *ocmf.ErrOCMF
	if !errors.As(err, &typed) || typed.Record != 1 {
		t.Errorf("got %#v", err)
	}
}

func FuzzParse(f *testing.F) {
	m := newMeter(f)
	for _, r := range m.session(nil) {
		f.Add(r)
	}
	f.Add([]byte(`OCMF|{"RD":[{"TM":"2019-08-12T10:03:15,250+0200 S","RV":1}]}|{"SD":"00","SE":"base64"}`))
	key := m.public()
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := ocmf.Parse(raw)
		if err != nil {
			if strings.HasPrefix(reason(err), "untyped") {
				t.Errorf("error %v", err)
			}
			return
		}
		if !bytes.Contains(raw, r.Raw) || !bytes.Contains(r.Raw, r.Body) {
			t.Error("the bytes were not kept")
		}
		if _, err := ocmf.Check([][]byte{raw}, key, ""); err != nil && strings.HasPrefix(reason(err), "untyped") {
			t.Errorf("error %v", err)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add("oca:base16:asn1:3059301306072A8648CE3D020106082A8648CE3D03010703420004")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ocmf.ParseKey(text)
		if err == nil && k.IsZero() {
			t.Error("no error, no key")
		}
	})
}

func FuzzParseContainer(f *testing.F) {
	f.Add([]byte(`<?xml version="1.0" encoding="ISO-8859-1"?><values><value><signedData encoding="hex">00</signedData><publicKey>x</publicKey></value></values>`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		es, err := ocmf.ParseContainer(raw)
		if (err == nil) == (len(es) == 0) || err != nil && !errors.Is(err, ocmf.ErrContainer) {
			t.Errorf("%d entries, %v", len(es), err)
		}
	})
}

func BenchmarkOCMFCheck(b *testing.B) {
	m := newMeter(b)
	rec := m.sign(payload(41, reading('B', 100_000_000), reading('E', 107_345_000)))
	key := m.public()
	digest := sha256.Sum256(rec)
	sig, err := ecdsa.SignASN1(rand.Reader, m.key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	const rounds = 500
	start := time.Now()
	for range rounds {
		ecdsa.VerifyASN1(&m.key.PublicKey, digest[:], sig)
	}
	yard := float64(time.Since(start).Nanoseconds()) / rounds
	b.ResetTimer()
	for b.Loop() {
		if _, err := ocmf.Check([][]byte{rec}, key, code); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/yard, "ratio")
}
