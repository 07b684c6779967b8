package keys

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"gridveil/node/store"
	"gridveil/privacy"
)

var now = time.Date(2026, 6, 3, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string, key store.MasterKey) *store.Store {
	t.Helper()
	st, err := store.Open(dir, key, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func TestKeysSurviveARestartAndAreErasedAfterTheirTime(t *testing.T) {
	dir := t.TempDir()
	mk, err := store.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	st := open(t, dir, mk)
	r := NewRing(st, rand.Reader, privacy.SuiteX25519)
	first, err := r.Sheet(now, 1, Record, Box, Issue)
	if err != nil || len(first) != 6 {
		t.Fatalf("got %d keys: %v", len(first), err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	st = open(t, dir, mk)
	r = NewRing(st, rand.Reader, privacy.SuiteX25519)
	again, err := r.Sheet(now, 1, Record, Box, Issue)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := first.Encode()
	b, _ := again.Encode()
	if !bytes.Equal(a, b) {
		t.Error("the sheet changed over a restart")
	}
	later := now.Add(3 * 24 * time.Hour)
	if err := r.Erase(later); err != nil {
		t.Fatal(err)
	}
	if _, err := r.BoxOf(Issue, Issue.Period(now)); !errors.Is(err, ErrErased) {
		t.Errorf("day key after three days: got %v", err)
	}
	if _, err := r.BoxOf(Box, Box.Period(now)); err != nil {
		t.Errorf("week key after three days: %v", err)
	}
}

func TestUsesAreKeptApart(t *testing.T) {
	mk, _ := store.NewKey(rand.Reader)
	r := NewRing(open(t, t.TempDir(), mk), rand.Reader, privacy.SuiteX25519)
	if _, err := r.Signer(Box, now); err == nil {
		t.Error("a sealing key signed")
	}
	if _, err := r.Box(Record, now); err == nil {
		t.Error("a signing key sealed")
	}
}

func TestPeriodsMeetWithoutGap(t *testing.T) {
	for u := range useNames {
		p := u.Period(now)
		if u.rotation() > 0 && (u.Starts(p).After(now) || !u.Starts(p+1).After(now)) {
			t.Errorf("%v: period %d runs %v to %v", u, p, u.Starts(p), u.Starts(p+1))
		}
	}
}

func FuzzParseSheet(f *testing.F) {
	s, _ := Sheet{{Record, 3, make([]byte, 32)}, {Box, 9, make([]byte, 32)}}.Encode()
	f.Add(s)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSheet(b)
		if err != nil {
			return
		}
		back, err := s.Encode()
		if err != nil || !bytes.Equal(back, b) {
			t.Fatalf("not bijective: %x %v", b, err)
		}
	})
}
