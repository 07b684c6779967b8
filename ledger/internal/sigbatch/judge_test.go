package sigbatch

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"testing"

	"filippo.io/edwards25519"
	"github.com/hdevalence/ed25519consensus"
)

// smallOrder are all encodings of points of small order, canonical or not.
var smallOrder = []string{
	"0100000000000000000000000000000000000000000000000000000000000000", "0100000000000000000000000000000000000000000000000000000000000080",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"0000000000000000000000000000000000000000000000000000000000000000", "0000000000000000000000000000000000000000000000000000000000000080",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// twisted signs so that the cofactored equation holds although key and R have
// parts of small order: rule ZIP-215 accepts it, and so must every batch.
func twisted(t testing.TB, r *rand.Rand, keyPart, sigPart []byte, msg []byte) signed {
	t.Helper()
	draw := func() *edwards25519.Scalar {
		var b [64]byte
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		s, err := edwards25519.NewScalar().SetUniformBytes(b[:])
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	plus := func(s *edwards25519.Scalar, part []byte) []byte {
		p, err := new(edwards25519.Point).SetBytes(part)
		if err != nil {
			t.Fatal(err)
		}
		return p.Add(p, new(edwards25519.Point).ScalarBaseMult(s)).Bytes()
	}
	a, k := draw(), draw()
	A, R := plus(a, keyPart), plus(k, sigPart)
	digest := sha512.Sum512(slices.Concat(R, A, msg))
	h, err := edwards25519.NewScalar().SetUniformBytes(digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed{A, msg, append(R, k.Add(k, h.Multiply(h, a)).Bytes()...)}
}

// same compares our verdicts on one signature, alone and among good ones, with
// those of ed25519consensus.
func same(t *testing.T, s signed) (valid bool) {
	t.Helper()
	want := len(s.pub) == 32 && ed25519consensus.Verify(s.pub, s.msg, s.sig)
	if got := One(s.pub, s.msg, s.sig); got != want {
		t.Errorf("key %x, sig %x, message %x: alone %v, ed25519consensus %v", s.pub, s.sig, s.msg, got, want)
	}
	if got := batch(0, 1, pick([]signed{s})); got != want {
		t.Errorf("key %x, sig %x, message %x: batch of one %v, ed25519consensus %v", s.pub, s.sig, s.msg, got, want)
	}
	if got := batch(0, 9, pick(append(some(8), s))); got != want {
		t.Errorf("key %x, sig %x, message %x: in a batch %v, ed25519consensus %v", s.pub, s.sig, s.msg, got, want)
	}
	return want
}

// TestVerdictsAreThoseOfEd25519consensus goes through all pairs of small-order
// and non-canonical points, keys and signatures with torsion, scalars that are
// not reduced, and random damage.
func TestVerdictsAreThoseOfEd25519consensus(t *testing.T) {
	valid, n := 0, 0
	judge := func(s signed) {
		if n++; same(t, s) {
			valid++
		}
	}
	r := rand.New(rand.NewPCG(3, 1))
	order := unhex(t, "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
	for _, a := range smallOrder {
		for _, b := range smallOrder {
			msg := []byte{byte(n)}
			s := signed{unhex(t, a), msg, append(unhex(t, b), make([]byte, 32)...)}
			judge(s)
			judge(signed{s.pub, msg, append(unhex(t, b), order...)})
			if _, err := new(edwards25519.Point).SetBytes(s.pub); err != nil {
				continue
			}
			good := twisted(t, r, s.pub, s.sig[:32], msg)
			judge(good)
			bad := signed{good.pub, msg, bytes.Clone(good.sig)}
			bad.sig[r.IntN(64)] ^= 1 << r.IntN(8)
			judge(bad)
			judge(signed{good.pub, append(msg, 1), good.sig})
		}
	}
	if valid < 300 || n-valid < 300 {
		t.Errorf("%d of %d are valid: the test proves little", valid, n)
	}
	t.Logf("%d verdicts, %d valid", n, valid)
}

// TestKeysShareATermOfTheBatch has many signatures of few keys, good and bad, in
// one batch: errors of two signatures of one key must not cancel.
func TestKeysShareATermOfTheBatch(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 1))
	zero := unhex(t, smallOrder[0])
	list := by(40, 3)
	list = append(list, twisted(t, r, unhex(t, smallOrder[12]), zero, []byte("a")))
	if !batch(0, len(list), pick(list)) {
		t.Fatal("good ones are refused")
	}
	for i := range list {
		hurt := slices.Clone(list)
		j := (i + 3) % 39 // of the same key
		hurt[i].sig, hurt[j].sig = bytes.Clone(list[i].sig), bytes.Clone(list[j].sig)
		hurt[i].sig[32], hurt[j].sig[32] = hurt[i].sig[32]+1, hurt[j].sig[32]-1
		if batch(0, len(hurt), pick(hurt)) {
			t.Errorf("two opposite errors at %d and %d pass", i, j)
		}
	}
}

func FuzzVerdict(f *testing.F) {
	for _, s := range by(3, 2) {
		f.Add(s.pub, s.msg, s.sig)
	}
	r := rand.New(rand.NewPCG(9, 1))
	for _, a := range smallOrder {
		f.Add(unhex(f, a), []byte("x"), append(unhex(f, a), make([]byte, 32)...))
		if _, err := new(edwards25519.Point).SetBytes(unhex(f, a)); err == nil {
			s := twisted(f, r, unhex(f, a), unhex(f, smallOrder[10]), []byte("y"))
			f.Add(s.pub, s.msg, s.sig)
		}
	}
	f.Fuzz(func(t *testing.T, pub, msg, sig []byte) { same(t, signed{pub, msg, sig}) })
}
