package packet

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestX25519MatchesRFC7748(t *testing.T) {
	// RFC 7748, 6.1.
	alice := [32]byte(unhex(t, "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
	bob := [32]byte(unhex(t, "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"))
	public := layerKEM{}.public(&alice)
	if want := unhex(t, "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"); !bytes.Equal(public[:], want) {
		t.Errorf("public key %x", public)
	}
	var secret [32]byte
	want := unhex(t, "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
	if !(layerKEM{}).shared(&secret, &alice, &bob) || !bytes.Equal(secret[:], want) {
		t.Errorf("shared secret %x", secret)
	}
}

func TestLowOrderPointsAreRefused(t *testing.T) {
	private := [32]byte{1, 2, 3}
	for _, point := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		public, secret := [32]byte(unhex(t, point)), [32]byte{}
		if (layerKEM{}).shared(&secret, &private, &public) {
			t.Errorf("point %s gives a secret that everybody knows", point)
		}
	}
}

func TestHMACMatchesRFC4231(t *testing.T) {
	for _, tc := range []struct{ key, msg, want string }{
		{"0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", hex.EncodeToString([]byte("Hi There")),
			"b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
		{hex.EncodeToString([]byte("Jefe")), hex.EncodeToString([]byte("what do ya want for nothing?")),
			"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
	} {
		var key [32]byte // HMAC pads short keys with zeros anyway
		copy(key[:], unhex(t, tc.key))
		if got := hmac256(&key, unhex(t, tc.msg)); hex.EncodeToString(got[:]) != tc.want {
			t.Errorf("HMAC of %s: got %x", tc.msg, got)
		}
	}
}

func TestHMACEqualsTheStandardLibraryAtEveryLength(t *testing.T) {
	rnd := seeded(50)
	var key [32]byte
	msg := make([]byte, maxMAC)
	for n := range maxMAC + 1 {
		rnd.Read(key[:])
		rnd.Read(msg)
		std := hmac.New(sha256.New, key[:])
		std.Write(msg[:n])
		if got := hmac256(&key, msg[:n]); !bytes.Equal(got[:], std.Sum(nil)) {
			t.Fatalf("length %d differs", n)
		}
	}
}

func TestHKDFMatchesRFC5869(t *testing.T) {
	// RFC 5869, A.3: no salt, no info.
	var noSalt [32]byte
	prk := hmac256(&noSalt, bytes.Repeat([]byte{0x0b}, 22))
	if want := unhex(t, "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04"); !bytes.Equal(prk[:], want) {
		t.Errorf("PRK %x", prk)
	}
	okm := hmac256(&prk, []byte{1})
	if want := unhex(t, "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"); !bytes.Equal(okm[:], want) {
		t.Errorf("OKM %x", okm)
	}
}

func TestStreamMatchesRFC8439(t *testing.T) {
	// RFC 8439, A.1, test vector 2: key 0, nonce 0, block counter 1.
	var key [32]byte
	block := make([]byte, 64, 64+chacha20poly1305.Overhead)
	xorStream(&key, block)
	want := unhex(t, "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"+
		"29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f")
	if !bytes.Equal(block, want) {
		t.Errorf("stream %x", block)
	}
}

// plainStream is ChaCha20 from counter 1 without the AEAD.
func plainStream(t *testing.T, key, data []byte) {
	t.Helper()
	c, err := chacha20.NewUnauthenticatedCipher(key, make([]byte, 12))
	if err != nil {
		t.Fatal(err)
	}
	c.SetCounter(1)
	c.XORKeyStream(data, data)
}

func TestALayerIsHKDFThenChaCha20(t *testing.T) {
	rnd := seeded(51)
	var secret, ct, key [32]byte
	for _, b := range []*[32]byte{&secret, &ct, &key} {
		rnd.Read(b[:])
	}
	info := append([]byte("gridveil/onion/1"), suite)
	info = append(append(info, ct[:]...), key[:]...)
	info = binary.BigEndian.AppendUint16(info, 0x1234)
	m, err := hkdf.Key(sha256.New, secret[:], nil, string(info), 32)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, layerBytes)
	plainStream(t, m, want)
	l := newLayer(&secret, &ct, &key, 0x1234)
	got := append([]byte(nil), l.mac[:]...)
	for _, k := range l.wide {
		got = append(got, k[:]...)
	}
	got = append(append(got, l.replay[:]...), l.stream[:]...)
	if !bytes.Equal(got, want) {
		t.Error("layer keys are not the documented bytes")
	}
}

// plainLioness is the wide block written down as in doc/design.md, without tricks.
func plainLioness(t *testing.T, k *wideKeys, payload []byte) {
	t.Helper()
	left, right := payload[:32], payload[32:]
	for round := range 4 {
		if round%2 == 0 {
			key := make([]byte, 32)
			for i := range key {
				key[i] = left[i] ^ k[round][i]
			}
			plainStream(t, key, right)
			continue
		}
		sum := sha256.Sum256(append(bytes.Clone(k[round][:]), right...))
		for i := range left {
			left[i] ^= sum[i]
		}
	}
}

func TestTheWideBlockIsLionessAndInvertible(t *testing.T) {
	rnd := seeded(52)
	for range 50 {
		var k wideKeys
		for i := range k {
			rnd.Read(k[i][:])
		}
		var payload [payloadSize]byte
		rnd.Read(payload[:])
		before, want := payload, payload
		plainLioness(t, &k, want[:])
		if k.encrypt(&payload); payload != want {
			t.Fatal("encrypt is not LIONESS")
		}
		if k.decrypt(&payload); payload != before {
			t.Fatal("decrypt does not undo encrypt")
		}
		if k.decrypt(&payload); payload == before {
			t.Fatal("decrypt is the identity")
		}
		if k.encrypt(&payload); payload != before {
			t.Fatal("encrypt does not undo decrypt")
		}
	}
}

func TestOneFlippedPayloadBitChangesHalfOfAllBits(t *testing.T) {
	rnd := seeded(53)
	var k wideKeys
	for i := range k {
		rnd.Read(k[i][:])
	}
	var base [payloadSize]byte
	rnd.Read(base[:])
	for _, bit := range []int{0, 255, 256, 8 * 900, 8*payloadSize - 1} {
		a, b := base, base
		b[bit/8] ^= 1 << (bit % 8)
		k.decrypt(&a)
		k.decrypt(&b)
		different := 0
		for i := range a {
			for x := a[i] ^ b[i]; x != 0; x &= x - 1 {
				different++
			}
		}
		if share := float64(different) / (8 * payloadSize); share < 0.47 || share > 0.53 {
			t.Errorf("bit %d: %.1f %% of all bits change", bit, 100*share)
		}
	}
}
