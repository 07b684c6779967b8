package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
)

func TestCheckpointBodyIsCanonical(t *testing.T) {
	c := ledger.Checkpoint{Origin: "example.org/log", Size: 42, Root: h(7)}
	back, err := ledger.ParseCheckpoint(c.Body())
	if err != nil || back != c {
		t.Fatalf("got %+v, %v", back, err)
	}
	root := strings.Split(c.Body(), "\n")[2]
	for name, body := range map[string]string{
		"no final newline":     strings.TrimSuffix(c.Body(), "\n"),
		"an extension line":    c.Body() + "more\n",
		"leading zero":         "example.org/log\n042\n" + root + "\n",
		"plus sign":            "example.org/log\n+42\n" + root + "\n",
		"negative size":        "example.org/log\n-1\n" + root + "\n",
		"size above int64":     "example.org/log\n9223372036854775808\n" + root + "\n",
		"empty origin":         "\n42\n" + root + "\n",
		"short root":           "example.org/log\n42\n" + root[4:] + "\n",
		"loose base64":         "example.org/log\n42\n" + root[:42] + "d=\n",
		"size 0, another root": "example.org/log\n0\n" + root + "\n",
		"carriage return":      "example.org/log\r\n42\n" + root + "\r\n",
	} {
		if got, err := ledger.ParseCheckpoint(body); !errors.Is(err, ledger.ErrMalformed) {
			if name == "carriage return" && err == nil && got.Origin == "example.org/log\r" {
				t.Errorf("%s: accepted", name)
			} else if err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
	}
	empty := ledger.Checkpoint{Origin: "o", Root: ledger.EmptyRoot()}
	if _, err := ledger.ParseCheckpoint(empty.Body()); err != nil {
		t.Errorf("size 0: %v", err)
	}
}

// TestNoteOfTheSpecVerifies takes the example of C2SP signed-note, which nobody
// here wrote.
func TestNoteOfTheSpecVerifies(t *testing.T) {
	key, err := ledger.ParseVerifierKey("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
	if err != nil {
		t.Fatal(err)
	}
	msg := "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
	if _, err := note.Open([]byte(msg), note.VerifierList(key)); err != nil {
		t.Error(err)
	}
}

func TestVerifierKeys(t *testing.T) {
	k := ledger.WitnessKey("w.test", h(9))
	for _, c := range []struct{ name, text string }{
		{"empty", ""},
		{"one part", "w.test"},
		{"other hash", strings.Replace(k.String(), "+", "+0", 1)},
		{"upper case hash", k.Name() + "+" + strings.ToUpper(strings.Split(k.String(), "+")[1]) + "x+"},
		{"unknown type", "w.test+00000000+" + "AukyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"},
		{"space in the name", "w test+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"},
	} {
		if _, err := ledger.ParseVerifierKey(c.text); !errors.Is(err, ledger.ErrMalformed) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
	if back, err := ledger.ParseVerifierKey(k.String()); err != nil || back != k || !back.Cosigns() || back.Pub() != h(9) {
		t.Errorf("round trip: %v, %v", back, err)
	}
}

func TestCosignaturesStateTheirTime(t *testing.T) {
	s := scene.New(t, 1)
	p := s.Policy()
	msg := s.Checkpoint(5, h(1), "utb")
	line, err := ledger.Cosign(msg, ledger.Cosigner("uta.test", s.Witness["uta"], time.Unix(1679315147, 0)))
	if err != nil {
		t.Fatal(err)
	}
	merged, err := ledger.MergeCosignatures(msg, line, p.Keys()...)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ledger.MergeCosignatures(merged, line, p.Keys()...); err != nil || !bytes.Equal(again, merged) {
		t.Errorf("merging twice changes the note: %v", err)
	}
	c, cosigners, err := p.Open(merged)
	if err != nil || c.Size != 5 || strings.Join(cosigners, " ") != "uta utb" {
		t.Fatalf("got %+v %v %v", c, cosigners, err)
	}
	_, n, err := ledger.OpenCheckpoint(merged, p.Keys()...)
	if err != nil {
		t.Fatal(err)
	}
	if at, err := ledger.CosignedAt(n.Sigs[1]); err != nil || at.Unix() != 1679315147 {
		t.Errorf("CosignedAt: got %v, %v", at, err)
	}
	if _, err := ledger.CosignedAt(n.Sigs[0]); err == nil {
		t.Error("the log's signature passed as a cosignature")
	}
	if _, err := ledger.Cosign(msg, ledger.Cosigner("uta.test", s.Witness["uta"], time.Time{})); err == nil {
		t.Error("a cosignature of the year 1")
	}
	bad := bytes.Replace(merged, []byte("\n5\n"), []byte("\n6\n"), 1)
	if _, _, err := p.Open(bad); !errors.Is(err, ledger.ErrSignature) {
		t.Errorf("another size under the signatures: got %v", err)
	}
}

func TestOnlyTheLogMakesACheckpoint(t *testing.T) {
	s := scene.New(t, 1)
	c := ledger.Checkpoint{Origin: scene.Origin, Size: 5, Root: h(1)}
	witnessed, err := ledger.SignCheckpoint(c, ledger.Cosigner("uta.test", s.Witness["uta"], time.Unix(1e9, 0)))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Policy().Open(witnessed); !errors.Is(err, ledger.ErrSignature) {
		t.Errorf("without the log's signature: got %v", err)
	}
	c.Origin = "another.log"
	foreign, err := ledger.SignCheckpoint(c, ledger.LogSigner(scene.Origin, s.LogKey))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Policy().Open(foreign); !errors.Is(err, ledger.ErrSignature) {
		t.Errorf("of another origin: got %v", err)
	}
	if _, _, err := s.Policy().Open(bytes.Repeat([]byte("x"), ledger.MaxCheckpoint+1)); !errors.Is(err, ledger.ErrMalformed) {
		t.Errorf("too long: got %v", err)
	}
}

func TestPolicyQuorum(t *testing.T) {
	s := scene.New(t, 1)
	p := s.Policy()
	if _, err := p.OpenFinal(s.Checkpoint(5, h(1), "uta")); !errors.Is(err, ledger.ErrSignature) {
		t.Errorf("one of three: got %v", err)
	}
	if _, err := p.OpenFinal(s.Checkpoint(5, h(1), "uta", "independent")); err != nil {
		t.Errorf("two of three: %v", err)
	}
	back, err := ledger.ParsePolicy([]byte(p.String()))
	if err != nil || back.String() != p.String() {
		t.Errorf("round trip: %v\n%s", err, p)
	}
	for n, q := range map[int]int{1: 1, 2: 2, 3: 2, 4: 3, 5: 4, 7: 5, 10: 7} {
		if got := ledger.DefaultQuorum(n); got != q {
			t.Errorf("DefaultQuorum(%d): got %d, want %d", n, got, q)
		}
	}
}

func TestPolicyGroupsNest(t *testing.T) {
	s := scene.New(t, 1)
	w := func(name string) string { return "witness " + name + " " + witnessKey(s, name) + "\n" }
	text := "# comment\n\nlog " + ledger.LogKey(scene.Origin, scene.Pub(s.LogKey)).String() + " https://log.test\n" +
		w("uta") + w("utb") + w("independent") + "group utilities any uta utb\ngroup final all utilities independent\nquorum final\n"
	p, err := ledger.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for names, final := range map[string]bool{"uta utb": false, "uta independent": true, "independent": false, "": false, "none": false} {
		if got := p.Final(strings.Fields(names)); got != final {
			t.Errorf("Final(%s): got %v, want %v", names, got, final)
		}
	}
}

func witnessKey(s *scene.Scene, name string) string {
	return ledger.WitnessKey(name+".test", scene.Pub(s.Witness[name])).String()
}

func TestPolicyErrorsNameTheirLine(t *testing.T) {
	s := scene.New(t, 1)
	log := "log " + ledger.LogKey(scene.Origin, scene.Pub(s.LogKey)).String() + "\n"
	uta := "witness uta " + witnessKey(s, "uta") + "\n"
	for _, c := range []struct {
		name, text string
		line       int
	}{
		{"empty", "", 1},
		{"two logs", log + log, 2},
		{"unknown word", log + "wittness a b\n", 2},
		{"witness without key", log + "witness uta\n", 2},
		{"log with a witness's key", "log " + witnessKey(s, "uta") + "\n", 1},
		{"witness with a log's key", log + "witness x " + strings.Fields(log)[1] + "\n", 2},
		{"one key under two names", log + uta + strings.Replace(uta, "uta", "utx", 1), 3},
		{"one name for two keys", log + uta + "witness uta " + witnessKey(s, "utb") + "\n", 3},
		{"group of a stranger", log + uta + "group g 1 uta utb\n", 3},
		{"group of one member twice", log + uta + "group g 1 uta uta\n", 3},
		{"group of more than it has", log + uta + "group g 2 uta\n", 3},
		{"group named none", log + uta + "group none 1 uta\n", 3},
		{"quorum of a stranger", log + uta + "quorum utb\n", 3},
		{"a line after the quorum", log + "quorum none\n" + uta, 3},
		{"no quorum", log + uta, 3},
	} {
		var e *ledger.PolicyError
		if _, err := ledger.ParsePolicy([]byte(c.text)); !errors.As(err, &e) || e.Line != c.line {
			t.Errorf("%s: got %v, want line %d", c.name, err, c.line)
		}
	}
}

func TestAddCheckpointRequest(t *testing.T) {
	r := &ledger.AddCheckpoint{Old: 7, Proof: [][32]byte{h(1), h(2)}, Checkpoint: []byte("o\n9\nx\n\n— o abc=\n")}
	back, err := ledger.ParseAddCheckpoint(r.Encode())
	if err != nil || !bytes.Equal(back.Encode(), r.Encode()) {
		t.Fatalf("round trip: %v", err)
	}
	r.Proof = make([][32]byte, 64)
	if _, err := ledger.ParseAddCheckpoint(r.Encode()); !errors.Is(err, ledger.ErrMalformed) {
		t.Errorf("64 proof lines: got %v", err)
	}
	for _, text := range []string{"", "old 1\n", "old 01\n\nx", "old -1\n\nx", "new 1\n\nx", "old 1\nzz\n\nx"} {
		if _, err := ledger.ParseAddCheckpoint([]byte(text)); !errors.Is(err, ledger.ErrMalformed) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestBundles(t *testing.T) {
	var b []byte
	for i := range 3 {
		b = ledger.AppendBundle(b, bytes.Repeat([]byte{byte(i)}, i+1))
	}
	list, err := ledger.ParseBundle(b, 3)
	if err != nil || len(list) != 3 || len(list[2]) != 3 {
		t.Fatalf("got %v, %v", list, err)
	}
	for name, bad := range map[string][]byte{"cut": b[:len(b)-1], "cut length": b[:1], "empty frame": {0, 0}} {
		if _, err := ledger.ParseBundle(bad, 3); !errors.Is(err, ledger.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := ledger.ParseBundle(b, 2); !errors.Is(err, ledger.ErrMalformed) {
		t.Errorf("above the limit: got %v", err)
	}
}

func FuzzCheckpoint(f *testing.F) {
	s := scene.New(f, 1)
	p := s.Policy()
	f.Add(s.Checkpoint(5, h(1), "uta", "utb"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, _, err := p.Open(b)
		if err == nil && (c.Size != 5 || c.Root != h(1)) {
			t.Fatal("a checkpoint that the log never signed")
		}
		if c, err := ledger.ParseCheckpoint(string(b)); err == nil && c.Body() != string(b) {
			t.Fatal("a second text of a checkpoint")
		}
	})
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(scene.New(f, 1).Policy().String()))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ledger.ParsePolicy(b)
		if err != nil {
			return
		}
		back, err := ledger.ParsePolicy([]byte(p.String()))
		if err != nil || back.String() != p.String() {
			t.Fatalf("canonical form: %v", err)
		}
	})
}

func FuzzRequest(f *testing.F) {
	f.Add((&ledger.AddCheckpoint{Old: 7, Proof: [][32]byte{h(1)}, Checkpoint: []byte("x\n")}).Encode())
	f.Add(ledger.AppendBundle(nil, []byte("entry")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ledger.ParseAddCheckpoint(b); err == nil && !bytes.Equal(r.Encode(), b) {
			t.Fatal("a second encoding of a request")
		}
		if list, err := ledger.ParseBundle(b, 10); err == nil {
			var again []byte
			for _, e := range list {
				again = ledger.AppendBundle(again, e)
			}
			if !bytes.Equal(again, b) {
				t.Fatal("a second encoding of a bundle")
			}
		}
	})
}

// smallOrder lists all encodings of points of small order, canonical or not.
var smallOrder = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"0100000000000000000000000000000000000000000000000000000000000080",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
}

func TestKeysOfSmallOrderOrMixedTorsionAreNotRegistered(t *testing.T) {
	for _, text := range smallOrder {
		if err := ledger.CheckKey(unhex(t, text)); !errors.Is(err, ledger.ErrMalformed) {
			t.Errorf("%s: got %v", text, err)
		}
	}
	s := scene.New(t, 1)
	good := scene.Pub(s.Key())
	if err := ledger.CheckKey(good); err != nil {
		t.Errorf("a plain key: %v", err)
	}
	for _, text := range smallOrder[2:8] { // order 4 and 8, canonical
		mixed := addPoints(t, good, unhex(t, text))
		if err := ledger.CheckKey(mixed); !errors.Is(err, ledger.ErrMalformed) {
			t.Errorf("key + point of small order: got %v", err)
		}
	}
	s.Begin()
	k := s.Key()
	mixed := addPoints(t, scene.Pub(k), unhex(t, smallOrder[4]))
	e := unsigned(t, s.State.NextSeq(scene.Uta), &ledger.Key{Add: true, Use: ledger.UseEntry, Pub: mixed}, scene.Uta, scene.Pub(s.Keys[scene.Uta]), mixed)
	checks, err := s.State.Checks(e)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, c := range checks {
		if c.Fact != nil && c.Fact() != nil {
			refused++
		}
	}
	if refused != 1 {
		t.Errorf("registering a mixed key: %d facts refuse it, want 1", refused)
	}
}

func TestVerifyNamesTheBadEntryOfABatch(t *testing.T) {
	s := scene.New(t, 1).Begin()
	groups := make([][]ledger.Check, 100)
	for i := range groups {
		e := entry(t, s, scene.Dso, uint64(i+1), anchor(byte(i)))
		var err error
		if groups[i], err = s.State.Checks(e); err != nil {
			t.Fatal(err)
		}
	}
	if errs := ledger.Verify(groups); errs != nil {
		t.Fatalf("good entries: %v", errs)
	}
	for _, bad := range []int{0, 41, 99} {
		groups[bad][0].Sig = bytes.Repeat([]byte{1}, ed25519.SignatureSize)
	}
	for i, err := range ledger.Verify(groups) {
		if (err != nil) != (i == 0 || i == 41 || i == 99) {
			t.Errorf("entry %d: got %v", i, err)
		}
	}
}
