package privacy

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	stdhpke "crypto/hpke"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/cloudflare/circl/hpke"

	"gridveil/privacy/internal/golden"
)

var testNet = Net{'t', 'e', 's', 't', 'n', 'e', 't', '1'}

func seeded(label string) io.Reader { return SeededReader("gridveil/test/", []byte(label)) }

func mustBoxKey(t testing.TB, s Suite) BoxKey {
	t.Helper()
	k, err := NewBoxKey(seeded("box"), s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestASignatureCountsForOneKindAndNetworkOnly(t *testing.T) {
	priv, err := NewKey(seeded("sign"))
	if err != nil {
		t.Fatal(err)
	}
	pub := priv.Public().(ed25519.PublicKey)
	body := []byte("body")
	sig := Sign(priv, KindOffer, testNet, body)
	if !Verify(pub, KindOffer, testNet, body, sig) {
		t.Fatal("own signature does not verify")
	}
	other := testNet
	other[7]++
	changed := sig
	changed[0] ^= 1
	for name, ok := range map[string]bool{
		"other kind":      Verify(pub, KindOpen, testNet, body, sig),
		"other network":   Verify(pub, KindOffer, other, body, sig),
		"other body":      Verify(pub, KindOffer, testNet, []byte("bodY"), sig),
		"other signature": Verify(pub, KindOffer, testNet, body, changed),
		"short key":       Verify(pub[:31], KindOffer, testNet, body, sig),
		"no key":          Verify(nil, KindOffer, testNet, body, sig),
	} {
		if ok {
			t.Errorf("%s: verifies", name)
		}
	}
}

func TestKindNamesAreUniqueAndFree(t *testing.T) {
	seen := map[string]Kind{}
	for i := range 256 {
		k := Kind(i)
		if !k.valid() {
			if k.Block() != 0 || k.String() != fmt.Sprintf("kind-%d", i) {
				t.Errorf("kind %d is none but has a name or block", i)
			}
			continue
		}
		if old, ok := seen[k.String()]; ok {
			t.Errorf("kinds %d and %d are both named %q", old, k, k)
		}
		seen[k.String()] = k
		if bytes.ContainsAny([]byte(k.String()), "\x00/") || len(k.String()) > 20 {
			t.Errorf("kind %d: bad name %q", i, k)
		}
	}
	for _, k := range []Kind{KindOffer, KindMandate, KindBatchReq, KindRevocation, KindSwap, KindRedeem, KindPartial, KindCaseFile, KindTask, KindListHash} {
		if !k.valid() {
			t.Errorf("kind %d has no name", k)
		}
	}
}

// The points of small order in their canonical encodings, and encodings that
// are not canonical, as listed in RFC 7748 discussions and ZIP-215.
func TestUnusableKeysAreRefused(t *testing.T) {
	bad := map[string]string{
		"identity":                        "0100000000000000000000000000000000000000000000000000000000000000",
		"order 2":                         "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"order 4":                         "0000000000000000000000000000000000000000000000000000000000000000",
		"order 4, negative":               "0000000000000000000000000000000000000000000000000000000000000080",
		"order 8":                         "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"order 8, negative":               "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"order 8, other":                  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"order 8, other, negative":        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"identity with sign":              "0100000000000000000000000000000000000000000000000000000000000080",
		"y = p, non-canonical 0":          "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"y = p + 1, non-canonical 1":      "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"y = 2^255 - 1":                   "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"not on the curve":                "0200000000000000000000000000000000000000000000000000000000000000",
		"31 bytes":                        "01000000000000000000000000000000000000000000000000000000000000",
		"y = p + 3, canonical form is 3":  "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"order 2 with sign, two writings": "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	}
	for name, h := range bad {
		b, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckKey(b); !errors.Is(err, ErrEncoding) {
			t.Errorf("%s: got %v, want ErrEncoding", name, err)
		}
	}
	priv, err := NewKey(seeded("good"))
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckKey(priv.Public().(ed25519.PublicKey)); err != nil {
		t.Errorf("a good key: %v", err)
	}
}

func TestABoxOpensForItsKindNetworkAndKeyOnly(t *testing.T) {
	for _, suite := range []Suite{SuiteX25519, SuiteXWing} {
		t.Run(fmt.Sprint("suite ", suite), func(t *testing.T) {
			key := mustBoxKey(t, suite)
			pt := []byte("certificate and mandate")
			box, sender, err := Seal(seeded("seal"), suite, key.Pub, KindBox, testNet, pt)
			if err != nil {
				t.Fatal(err)
			}
			if want := KindBox.Block() + suite.Overhead(); len(box) != want {
				t.Errorf("box of %d bytes, want %d", len(box), want)
			}
			got, receiver, err := Open(key, KindBox, testNet, box)
			if err != nil || !bytes.Equal(got, pt) || receiver != sender {
				t.Fatalf("Open: %q, %v, exporters equal %v", got, err, receiver == sender)
			}
			other, err := NewBoxKey(seeded("other"), suite)
			if err != nil {
				t.Fatal(err)
			}
			cut := box[:len(box)-1]
			flip := bytes.Clone(box)
			flip[len(flip)/2] ^= 4
			net := Net{1}
			for name, try := range map[string]func() error{
				"other kind":    func() error { _, _, err := Open(key, KindPartial, testNet, box); return err },
				"other network": func() error { _, _, err := Open(key, KindBox, net, box); return err },
				"other key":     func() error { _, _, err := Open(other, KindBox, testNet, box); return err },
				"cut":           func() error { _, _, err := Open(key, KindBox, testNet, cut); return err },
				"flipped bit":   func() error { _, _, err := Open(key, KindBox, testNet, flip); return err },
				"empty":         func() error { _, _, err := Open(key, KindBox, testNet, nil); return err },
			} {
				if err := try(); !errors.Is(err, ErrOpen) {
					t.Errorf("%s: got %v, want ErrOpen", name, err)
				}
			}
		})
	}
}

func TestBoxSizesAreThoseOfTheDesign(t *testing.T) {
	if got := SuiteX25519.Overhead(); got != 48 {
		t.Errorf("suite 1 adds %d bytes, want 48", got)
	}
	if got := SuiteXWing.Overhead(); got != 1136 {
		t.Errorf("suite 2 adds %d bytes, want 1136", got)
	}
	if got := KindBox.Block() + SuiteX25519.Overhead(); got != 560 {
		t.Errorf("Box has %d bytes, want 560", got)
	}
}

func TestSealRefusesWhatCannotBeSealed(t *testing.T) {
	key := mustBoxKey(t, SuiteX25519)
	var small [32]byte // an X25519 point of small order gives an all-zero secret
	for _, c := range []struct {
		name  string
		suite Suite
		pub   []byte
		kind  Kind
		pt    []byte
		want  error
	}{
		{"unknown suite", 3, key.Pub, KindBox, nil, ErrSuite},
		{"suite 0", 0, key.Pub, KindBox, nil, ErrSuite},
		{"a kind that is never sealed", SuiteX25519, key.Pub, KindOffer, nil, ErrKind},
		{"no kind", SuiteX25519, key.Pub, 255, nil, ErrKind},
		{"too long", SuiteX25519, key.Pub, KindBox, make([]byte, MaxPlaintext+1), ErrTooLong},
		{"short key", SuiteX25519, key.Pub[:31], KindBox, nil, ErrEncoding},
		{"small-order key", SuiteX25519, small[:], KindBox, nil, ErrEncoding},
		{"key of the other suite", SuiteXWing, key.Pub, KindBox, nil, ErrEncoding},
	} {
		if _, _, err := Seal(seeded("x"), c.suite, c.pub, c.kind, testNet, c.pt); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if _, _, err := Seal(bytes.NewReader(nil), SuiteX25519, key.Pub, KindBox, testNet, nil); err == nil {
		t.Error("Seal without randomness gives no error")
	}
	big, ex, err := Seal(seeded("x"), SuiteX25519, key.Pub, KindBillBatch, testNet, make([]byte, MaxPlaintext))
	if err != nil {
		t.Fatalf("largest plaintext: %v", err)
	}
	if got, _, err := Open(key, KindBillBatch, testNet, big); err != nil || len(got) != MaxPlaintext {
		t.Errorf("largest plaintext opens to %d bytes, %v", len(got), err)
	}
	if _, _, err := Open(key, KindBillBatch, testNet, append(big, make([]byte, 8192)...)); !errors.Is(err, ErrTooLong) {
		t.Errorf("too long box: got %v", err)
	}
	if _, err := ex.Open(KindStub, make([]byte, MaxPlaintext+4096)); !errors.Is(err, ErrTooLong) {
		t.Errorf("too long exporter box: got %v", err)
	}
}

// The standard library's HPKE is a second implementation of both suites.
func TestTheStandardLibraryOpensOurBoxes(t *testing.T) {
	for suite, kem := range map[Suite]stdhpke.KEM{SuiteX25519: stdhpke.DHKEM(ecdh.X25519()), SuiteXWing: stdhpke.MLKEM768X25519()} {
		key := mustBoxKey(t, suite)
		box, ex, err := Seal(seeded("std"), suite, key.Pub, KindBox, testNet, []byte("hello"))
		if err != nil {
			t.Fatal(err)
		}
		priv, err := kem.NewPrivateKey(key.Priv)
		if err != nil {
			t.Fatal(err)
		}
		n := suite.Overhead() - 16
		r, err := stdhpke.NewRecipient(box[:n], priv, stdhpke.HKDFSHA256(), stdhpke.ChaCha20Poly1305(), boxInfo(KindBox, testNet, key.Pub))
		if err != nil {
			t.Fatal(err)
		}
		pt, err := r.Open(nil, box[n:])
		if err != nil || len(pt) != KindBox.Block() || !bytes.HasPrefix(pt, []byte("hello\x80\x00")) {
			t.Errorf("suite %d: standard library opens to %d bytes, %v", suite, len(pt), err)
		}
		secret, err := r.Export("gridveil/1/exporter", 32)
		if err != nil || !bytes.Equal(secret, ex[:]) {
			t.Errorf("suite %d: exporters differ, %v", suite, err)
		}
	}
}

func TestRFC9180Vector(t *testing.T) {
	v := golden.Read(t, "rfc9180-a2")
	suite, scheme, err := SuiteX25519.hpke()
	if err != nil {
		t.Fatal(err)
	}
	sk, err := scheme.UnmarshalBinaryPrivateKey(v["skRm"])
	if err != nil {
		t.Fatal(err)
	}
	r, err := suite.NewReceiver(sk, v["info"])
	if err != nil {
		t.Fatal(err)
	}
	var ctx hpke.Opener
	if ctx, err = r.Setup(v["enc"]); err != nil {
		t.Fatal(err)
	}
	pt, err := ctx.Open(v["ct"], v["aad"])
	if err != nil || !bytes.Equal(pt, v["pt"]) {
		t.Errorf("opens to %x, %v", pt, err)
	}
	if got := ctx.Export(v["export_context"], 32); !bytes.Equal(got, v["export"]) {
		t.Errorf("exports %x", got)
	}
}

func TestExporterBoxesServeBothWaysAndOneKind(t *testing.T) {
	key := mustBoxKey(t, SuiteX25519)
	_, ex, err := Seal(seeded("ex"), SuiteX25519, key.Pub, KindBox, testNet, nil)
	if err != nil {
		t.Fatal(err)
	}
	box, err := ex.Seal(seeded("salt"), KindStub, []byte("stub"))
	if err != nil {
		t.Fatal(err)
	}
	if want := KindStub.Block() + ExporterBoxOverhead; len(box) != want {
		t.Errorf("box of %d bytes, want %d", len(box), want)
	}
	if pt, err := ex.Open(KindStub, box); err != nil || string(pt) != "stub" {
		t.Errorf("opens to %q, %v", pt, err)
	}
	if _, err := ex.Open(KindAuthInner, box); !errors.Is(err, ErrOpen) {
		t.Errorf("opens as another kind: %v", err)
	}
	if _, err := (Exporter{1}).Open(KindStub, box); !errors.Is(err, ErrOpen) {
		t.Errorf("opens under another exporter: %v", err)
	}
	if _, err := ex.Seal(seeded("salt"), KindTick, nil); !errors.Is(err, ErrKind) {
		t.Errorf("seals a kind that is never sealed: %v", err)
	}
	if a, b := ex.Export("mailbox"), ex.Export("mailbox 2"); a == b {
		t.Error("two labels give one secret")
	}
}

// No two boxes of an exchange may share a key and a nonce.
func TestAnswerNeverReusesNonce(t *testing.T) {
	ex := Exporter{7}
	rnd := seeded("nonce")
	seen := map[string]bool{}
	for range 1000 {
		box, err := ex.Seal(rnd, KindStub, nil)
		if err != nil {
			t.Fatal(err)
		}
		salt, head := string(box[:saltSize]), string(box[saltSize:saltSize+32])
		if seen[salt] || seen[head] {
			t.Fatal("a salt or a key stream repeats")
		}
		seen[salt], seen[head] = true, true
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	key := mustBoxKey(t, SuiteX25519)
	ex := Exporter{0xAB, 0xCD}
	for _, s := range []string{fmt.Sprint(key), fmt.Sprintf("%+v %#v %s", key, key, key), fmt.Sprintf("%v %+v %#v %s", ex, ex, ex, ex)} {
		if bytes.Contains([]byte(s), []byte(hex.EncodeToString(key.Priv)[:16])) || bytes.Contains([]byte(s), []byte("abcd")) ||
			bytes.Contains([]byte(s), []byte("171")) {
			t.Errorf("a secret prints: %s", s)
		}
	}
}

func TestVectors(t *testing.T) {
	priv, err := NewKey(seeded("vector"))
	if err != nil {
		t.Fatal(err)
	}
	body := []byte("vector body")
	sig := Sign(priv, KindOffer, testNet, body)
	h := Hash(KindOffer, testNet, body, sig)
	id := KeyID(UsePseudonym, priv.Public().(ed25519.PublicKey))
	golden.Check(t, "sign", golden.Line{Name: "seed", Value: priv.Seed()}, golden.Line{Name: "signed_bytes", Value: signedBytes(KindOffer, testNet, body)},
		golden.Line{Name: "signature", Value: sig[:]}, golden.Line{Name: "hash", Value: h[:]}, golden.Line{Name: "key_id", Value: id[:]})
	key := mustBoxKey(t, SuiteX25519)
	box, ex, err := Seal(seeded("vector box"), SuiteX25519, key.Pub, KindBox, testNet, body)
	if err != nil {
		t.Fatal(err)
	}
	later, err := ex.Seal(seeded("vector salt"), KindStub, body)
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "seal", golden.Line{Name: "recipient_private", Value: key.Priv}, golden.Line{Name: "recipient_public", Value: key.Pub},
		golden.Line{Name: "plaintext", Value: body}, golden.Line{Name: "box", Value: box}, golden.Line{Name: "exporter", Value: ex[:]}, golden.Line{Name: "later_box", Value: later})
}

func FuzzOpen(f *testing.F) {
	key := mustBoxKey(f, SuiteX25519)
	box, ex, err := Seal(seeded("fuzz"), SuiteX25519, key.Pub, KindBox, testNet, []byte("seed"))
	if err != nil {
		f.Fatal(err)
	}
	later, err := ex.Seal(seeded("fuzz salt"), KindBox, []byte("seed"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(box)
	f.Add(later)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if pt, _, err := Open(key, KindBox, testNet, b); err == nil && (!bytes.Equal(b, box) || string(pt) != "seed") {
			t.Error("a forged box opens")
		}
		if pt, err := ex.Open(KindBox, b); err == nil && (!bytes.Equal(b, later) || string(pt) != "seed") {
			t.Error("a forged exporter box opens")
		}
	})
}

func FuzzPaddingIsUnique(f *testing.F) {
	f.Add([]byte("\x80"))
	f.Add(make([]byte, 512))
	f.Fuzz(func(t *testing.T, b []byte) {
		if pt, err := unpad(KindBox, b); err == nil {
			if again, err := pad(KindBox, pt); err != nil || !bytes.Equal(again, b) {
				t.Error("a padding that pad does not make is accepted")
			}
		}
	})
}

func FuzzCheckKey(f *testing.F) {
	f.Add(make([]byte, 32))
	f.Fuzz(func(t *testing.T, b []byte) { _ = CheckKey(b) })
}
