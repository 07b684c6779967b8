package committee

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/internal/curve"
	"gridveil/privacy/internal/golden"
	"gridveil/privacy/internal/judge"
	"gridveil/privacy/pseudo"
)

var (
	testNet = privacy.Net{'c', 'o', 'm', 'm', 'i', 't', 't', '1'}
	now     = time.Date(2026, 6, 2, 12, 0, 0, 0, time.UTC)
	evagg   = [16]byte{'e', 'v', 'a', 'g', 'g'}
	utb     = [16]byte{'u', 't', 'b'}
	alice   = [16]byte{'a', 'l', 'i', 'c', 'e'}
	bob     = [16]byte{'b', 'o', 'b'}
)

func seeded(label string) io.Reader {
	return privacy.SeededReader("gridveil/test/committee/", []byte(label))
}

func mustKey(t testing.TB, label string) ed25519.PrivateKey {
	t.Helper()
	k, err := privacy.NewKey(seeded(label))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pubOf(k ed25519.PrivateKey) [32]byte { return [32]byte(k.Public().(ed25519.PublicKey)) }

// scene is a committee, a utility and two drivers, each with one pseudonym.
type scene struct {
	pub    Public
	shares [Seats]Share
	issuer ed25519.PrivateKey
	lk     map[[16]byte][32]byte
	cards  map[[16]byte]pseudo.Pseudonym
}

func (s *scene) key(contract [16]byte) ([32]byte, bool) { k, ok := s.lk[contract]; return k, ok }

// emptyBook knows two contracts and remembers nothing.
type emptyBook map[[16]byte]pseudo.Contract

func (b emptyBook) Contract(h [16]byte) (pseudo.Contract, bool) { c, ok := b[h]; return c, ok }
func (b emptyBook) HasBillKey([32]byte) bool                    { return false }
func (b emptyBook) Batch([16]byte, uint32, [16]byte) (pseudo.Batch, bool) {
	return pseudo.Batch{}, false
}

func newScene(t testing.TB) *scene {
	t.Helper()
	pub, shares, err := Deal(seeded("deal"))
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{pub: pub, shares: shares, issuer: mustKey(t, "issuer"), lk: map[[16]byte][32]byte{}, cards: map[[16]byte]pseudo.Pseudonym{}}
	box, err := privacy.NewBoxKey(seeded("issue"), privacy.SuiteX25519)
	if err != nil {
		t.Fatal(err)
	}
	book := emptyBook{}
	issuer := pseudo.Issuer{Net: testNet, ID: utb, Key: s.issuer, Box: box, Committee: pub.Y, Book: book}
	for _, name := range [][16]byte{alice, bob} {
		lk := mustKey(t, string(name[:]))
		s.lk[name] = pubOf(lk)
		book[name] = pseudo.Contract{Kind: pseudo.Driver, LK: pubOf(lk), Arg: 80, Deck: 1, Active: true}
		p := pseudo.Profile{Net: testNet, Kind: pseudo.Driver, Contract: name, LK: lk, Arg: 80, Deck: 1, Issuer: utb, IssuerKey: pubOf(s.issuer),
			Suite: privacy.SuiteX25519, IssueBox: box.Pub}
		b, err := pseudo.NewBatch(seeded("batch "+string(name[:])), p, evagg, pseudo.Week(now))
		if err != nil {
			t.Fatal(err)
		}
		out, err := issuer.Issue(seeded("certify "+string(name[:])), privacy.KindBatchReq, b.Box, now)
		if err != nil {
			t.Fatal(err)
		}
		deck, err := b.Finish(p, out.Batch.Answer)
		if err != nil {
			t.Fatal(err)
		}
		if s.cards[name], err = deck.Take(now); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *scene) mustPartials(t testing.TB, c *pseudo.Cert, seats ...int) []Partial {
	t.Helper()
	var out []Partial
	for _, seat := range seats {
		p, err := PartialOf(seeded(fmt.Sprint("partial ", seat)), s.shares[seat-1], c)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func TestAnyThreeSeatsOpenTheContract(t *testing.T) {
	s := newScene(t)
	card := s.cards[alice]
	for _, seats := range [][]int{{1, 2, 3}, {1, 2, 4}, {1, 2, 5}, {1, 3, 4}, {1, 3, 5}, {1, 4, 5}, {2, 3, 4}, {2, 3, 5}, {2, 4, 5}, {5, 4, 3}, {1, 2, 3, 4, 5}, {2, 2, 1, 4}} {
		opened, err := Combine(testNet, &s.pub, &card.Cert, s.mustPartials(t, &card.Cert, seats...), s.key)
		if err != nil || opened.Contract != alice {
			t.Errorf("seats %v: %v", seats, err)
		}
	}
}

func TestTwoOpenersFail(t *testing.T) {
	s := newScene(t)
	card := s.cards[alice]
	for a := 1; a <= Seats; a++ {
		for b := 1; b <= Seats; b++ {
			partials := s.mustPartials(t, &card.Cert, a, b)
			if _, err := Combine(testNet, &s.pub, &card.Cert, partials, s.key); !errors.Is(err, ErrTooFew) {
				t.Fatalf("seats %d and %d: %v", a, b, err)
			}
			if a == b {
				continue
			}
			// Even without the count check, two points of a polynomial of
			// degree 2 interpolate to another secret.
			seats := []uint64{uint64(a), uint64(b)}
			d1, err1 := curve.ParseElement(partials[0].d[:])
			d2, err2 := curve.ParseElement(partials[1].d[:])
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			sum := curve.Bytes(curve.Add(curve.Mul(d1, curve.LagrangeAtZero(seats)[0]), curve.Mul(d2, curve.LagrangeAtZero(seats)[1])))
			if _, _, err := pseudo.OpenCapsule(&card.Cert, sum); !errors.Is(err, pseudo.ErrCapsule) {
				t.Errorf("seats %d and %d open the capsule", a, b)
			}
		}
	}
}

func TestPartialsOfOneSessionOpenNoOther(t *testing.T) {
	s := newScene(t)
	a, b := s.cards[alice], s.cards[bob]
	partials := s.mustPartials(t, &a.Cert, 1, 2, 3)
	if _, err := Combine(testNet, &s.pub, &b.Cert, partials, s.key); !errors.Is(err, ErrPartial) {
		t.Errorf("bob's session with alice's partials: %v", err)
	}
}

// wrap signs a certificate by an issuer who runs altered code.
func (s *scene) wrap(c pseudo.Cert) pseudo.Cert {
	sig := privacy.Sign(s.issuer, privacy.KindCert, testNet, c[:308])
	copy(c[308:], sig[:])
	return c
}

// TestRewrappedCapsuleRefused: an issuer puts the capsule of a certificate it
// saw into a fresh one, to have it opened in a case of its own making.
func TestRewrappedCapsuleRefused(t *testing.T) {
	s := newScene(t)
	target, own := s.cards[alice].Cert, s.cards[bob].Cert
	copy(own[116:308], target[116:308]) // capsule with its proof
	forged := s.wrap(own)
	keys := pseudo.IssuerKeys{}
	if err := keys.Add(utb, pubOf(s.issuer)); err != nil {
		t.Fatal(err)
	}
	if err := pseudo.VerifySignature(&forged, testNet, keys); err != nil {
		t.Fatalf("the forged certificate must be well signed for this test: %v", err)
	}
	for seat := range s.shares {
		if _, err := PartialOf(seeded("x"), s.shares[seat], &forged); !errors.Is(err, pseudo.ErrProof) {
			t.Errorf("seat %d opens it: %v", seat+1, err)
		}
	}
}

// TestFramedDriverIsMismatch: an issuer closes a capsule that names alice into a
// certificate for which she never asked. The committee opens it and names nobody.
func TestFramedDriverIsMismatch(t *testing.T) {
	s := newScene(t)
	mallory := mustKey(t, "mallory")
	book := emptyBook{alice: {Kind: pseudo.Driver, LK: pubOf(mallory), Arg: 80, Deck: 1, Active: true}}
	box, err := privacy.NewBoxKey(seeded("frame"), privacy.SuiteX25519)
	if err != nil {
		t.Fatal(err)
	}
	// Altered issuing code takes mallory's key for alice's contract.
	issuer := pseudo.Issuer{Net: testNet, ID: utb, Key: s.issuer, Box: box, Committee: s.pub.Y, Book: book}
	p := pseudo.Profile{Net: testNet, Kind: pseudo.Driver, Contract: alice, LK: mallory, Arg: 80, Deck: 1, Issuer: utb, IssuerKey: pubOf(s.issuer),
		Suite: privacy.SuiteX25519, IssueBox: box.Pub}
	b, err := pseudo.NewBatch(seeded("frame batch"), p, evagg, pseudo.Week(now))
	if err != nil {
		t.Fatal(err)
	}
	out, err := issuer.Issue(seeded("frame issue"), privacy.KindBatchReq, b.Box, now)
	if err != nil {
		t.Fatal(err)
	}
	deck, err := b.Finish(p, out.Batch.Answer)
	if err != nil {
		t.Fatal(err)
	}
	card, err := deck.Take(now)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := Combine(testNet, &s.pub, &card.Cert, s.mustPartials(t, &card.Cert, 1, 3, 5), s.key)
	if !errors.Is(err, ErrMismatch) || opened.Contract == alice {
		t.Errorf("got %v, want ErrMismatch and nobody named", err)
	}
	delete(s.lk, alice)
	honest := s.cards[alice]
	if _, err := Combine(testNet, &s.pub, &honest.Cert, s.mustPartials(t, &honest.Cert, 1, 3, 5), s.key); !errors.Is(err, ErrMismatch) {
		t.Errorf("a contract nobody has: %v", err)
	}
}

func TestAWrongPartialNamesItsSeat(t *testing.T) {
	s := newScene(t)
	card := s.cards[alice]
	good := s.mustPartials(t, &card.Cert, 1, 2, 3)
	for name, bend := range map[string]func(*Partial){
		"share point":      func(p *Partial) { p.d = good[0].d },
		"identity":         func(p *Partial) { p.d = [32]byte{} },
		"proof":            func(p *Partial) { p.proof[40] ^= 1 },
		"another seat":     func(p *Partial) { p.Seat = 4 },
		"a seat too high":  func(p *Partial) { p.Seat = 6 },
		"no seat":          func(p *Partial) { p.Seat = 0 },
		"another's proof":  func(p *Partial) { p.proof = good[0].proof },
		"not a scalar":     func(p *Partial) { p.proof = [64]byte(bytes.Repeat([]byte{0xff}, 64)) },
		"not an encodable": func(p *Partial) { p.d = [32]byte(bytes.Repeat([]byte{0xff}, 32)) },
	} {
		bent := append([]Partial(nil), good...)
		bend(&bent[1])
		if err := bent[1].Verify(&s.pub, &card.Cert); !errors.Is(err, ErrPartial) {
			t.Errorf("%s: Verify gives %v", name, err)
		}
		opened, err := Combine(testNet, &s.pub, &card.Cert, bent, s.key)
		if bent[1].Seat == good[1].Seat && bent[1].d == good[1].d {
			// The share is right and only its proof is not: the enrol
			// signature proves the result.
			if err != nil || opened.Contract != alice {
				t.Errorf("%s: Combine gives %v", name, err)
			}
			continue
		}
		if !errors.Is(err, ErrPartial) || !strings.Contains(err.Error(), fmt.Sprint("seat ", bent[1].Seat)) {
			t.Errorf("%s: Combine gives %v", name, err)
		}
	}
}

// A committee that runs into a wrong proof never calls it the issuer's fault.
func TestAMismatchNeedsEveryProof(t *testing.T) {
	s := newScene(t)
	card := s.cards[alice]
	s.lk[alice] = s.lk[bob]
	partials := s.mustPartials(t, &card.Cert, 1, 2, 3)
	if _, err := Combine(testNet, &s.pub, &card.Cert, partials, s.key); !errors.Is(err, ErrMismatch) {
		t.Errorf("good proofs: %v", err)
	}
	partials[2].proof[0] ^= 1
	if _, err := Combine(testNet, &s.pub, &card.Cert, partials, s.key); !errors.Is(err, ErrPartial) {
		t.Errorf("a wrong proof: %v", err)
	}
}

func TestLinkSaysSameContractOrNot(t *testing.T) {
	s := newScene(t)
	open := func(name [16]byte) Opened {
		card := s.cards[name]
		o, err := Combine(testNet, &s.pub, &card.Cert, s.mustPartials(t, &card.Cert, 1, 2, 3), s.key)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	if !Linked(open(alice), open(alice)) || Linked(open(alice), open(bob)) {
		t.Error("Linked is wrong")
	}
}

func TestADealtCommitteeChecksItself(t *testing.T) {
	s := newScene(t)
	if err := s.pub.Check(); err != nil {
		t.Errorf("dealt key: %v", err)
	}
	for _, sh := range s.shares {
		again, err := ParseShare(sh.Bytes(), &s.pub)
		if err != nil || again != sh {
			t.Errorf("stored %v: %v", sh, err)
		}
		if str := fmt.Sprintf("%v %+v %#v", sh, sh, sh); strings.Contains(str, fmt.Sprint(sh.y[0], " ", sh.y[1])) {
			t.Error("a share prints")
		}
	}
	bad := s.pub
	bad.Seats[3] = bad.Seats[0]
	if err := bad.Check(); !errors.Is(err, ErrShare) {
		t.Errorf("a seat exchanged: %v", err)
	}
	bad.Seats[3] = [32]byte{}
	if err := bad.Check(); !errors.Is(err, ErrEncoding) {
		t.Errorf("a seat empty: %v", err)
	}
	if _, err := ParseShare(Share{Seat: 2, y: s.shares[0].y}.Bytes(), &s.pub); !errors.Is(err, ErrShare) {
		t.Errorf("another seat's share: %v", err)
	}
	if _, err := ParseShare(make([]byte, 33), &s.pub); !errors.Is(err, ErrEncoding) {
		t.Errorf("seat 0: %v", err)
	}
	other, _, err := Deal(seeded("another deal"))
	if err != nil {
		t.Fatal(err)
	}
	if other.Y == s.pub.Y {
		t.Error("two dealings give one key")
	}
	if _, _, err := Deal(bytes.NewReader(make([]byte, 100))); err == nil {
		t.Error("a dealing without enough randomness")
	}
}

func TestASealedPartialServesItsCaseOnly(t *testing.T) {
	s := newScene(t)
	card := s.cards[alice]
	key, err := privacy.NewBoxKey(seeded("utility"), privacy.SuiteX25519)
	if err != nil {
		t.Fatal(err)
	}
	p := s.mustPartials(t, &card.Cert, 2)[0]
	ref := card.Cert.Ref()
	ct, hash, err := SealPartial(seeded("seal"), testNet, privacy.SuiteX25519, key.Pub, [16]byte{7}, ref, p)
	if err != nil {
		t.Fatal(err)
	}
	if hash != sha256.Sum256(ct) {
		t.Error("the hash for the ledger is not the ciphertext's")
	}
	got, err := OpenPartial(key, testNet, [16]byte{7}, ref, ct)
	if err != nil || got != p {
		t.Errorf("OpenPartial: %v", err)
	}
	if _, err := OpenPartial(key, testNet, [16]byte{8}, ref, ct); !errors.Is(err, ErrEncoding) {
		t.Errorf("another case: %v", err)
	}
	if _, err := OpenPartial(key, testNet, [16]byte{7}, [32]byte{}, ct); !errors.Is(err, ErrEncoding) {
		t.Errorf("another ref: %v", err)
	}
	if _, err := OpenPartial(key, testNet, [16]byte{7}, ref, ct[:40]); !errors.Is(err, privacy.ErrOpen) {
		t.Errorf("a cut ciphertext: %v", err)
	}
}

func TestOnlyTheDriverSpeaksForItsSession(t *testing.T) {
	s := newScene(t)
	a, b := s.cards[alice], s.cards[bob]
	st := NewStatement(testNet, &a, [16]byte{1}, false, 3)
	again, err := ParseStatement(st.Bytes())
	if err != nil || again != st || !again.Verify(testNet, &a.Cert) {
		t.Fatalf("own statement: %v", err)
	}
	if st.Verify(testNet, &b.Cert) {
		t.Error("a statement verifies for another's session")
	}
	st.Admits = true
	if st.Verify(testNet, &a.Cert) {
		t.Error("a changed statement verifies")
	}
	st = NewStatement(testNet, &b, [16]byte{1}, true, 0)
	st.Ref = a.Cert.Ref()
	if st.Verify(testNet, &a.Cert) {
		t.Error("bob speaks for alice")
	}
}

// A partial is y_j*capE by independent arithmetic.
func TestPartialAgreesWithTheSecondImplementation(t *testing.T) {
	s := newScene(t)
	card := s.cards[alice]
	e, err := judge.Decode(card.Cert.CapE())
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range s.mustPartials(t, &card.Cert, 1, 2, 3, 4, 5) {
		if got := e.Mul(judge.Scalar(s.shares[i].y)).Encode(); got != p.d {
			t.Errorf("seat %d: got %x, want %x", i+1, p.d, got)
		}
		if got := judge.Base().Mul(judge.Scalar(s.shares[i].y)).Encode(); got != s.pub.Seats[i] {
			t.Errorf("public part of seat %d differs", i+1)
		}
	}
}

func TestVectors(t *testing.T) {
	s := newScene(t)
	card := s.cards[alice]
	lines := []golden.Line{{Name: "Y", Value: s.pub.Y[:]}, {Name: "cert", Value: card.Cert[:]}}
	for i, p := range s.mustPartials(t, &card.Cert, 1, 2, 3) {
		lines = append(lines, golden.Line{Name: fmt.Sprintf("share_%d", i+1), Value: s.shares[i].Bytes()},
			golden.Line{Name: fmt.Sprintf("public_%d", i+1), Value: s.pub.Seats[i][:]}, golden.Line{Name: fmt.Sprintf("partial_%d", i+1), Value: p.Bytes()})
	}
	st := NewStatement(testNet, &card, [16]byte{1}, false, 3)
	golden.Check(t, "open", append(lines, golden.Line{Name: "contract", Value: alice[:]}, golden.Line{Name: "statement", Value: st.Bytes()})...)
}

func FuzzPartial(f *testing.F) {
	s := newScene(f)
	card := s.cards[alice]
	good := s.mustPartials(f, &card.Cert, 1)[0]
	f.Add(good.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePartial(b)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Bytes(), b) {
			t.Fatal("a partial has two encodings")
		}
		if p.Verify(&s.pub, &card.Cert) == nil && p != good {
			t.Fatal("a forged partial verifies")
		}
	})
}

func FuzzStatement(f *testing.F) {
	s := newScene(f)
	card := s.cards[alice]
	st := NewStatement(testNet, &card, [16]byte{1}, true, 3)
	f.Add(st.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, err := ParseStatement(b); err == nil && !bytes.Equal(st.Bytes(), b) {
			t.Fatal("a statement has two encodings")
		}
		_, _ = ParseShare(b, &s.pub)
	})
}
