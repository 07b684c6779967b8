package member

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata/vectors; say in the commit why bytes changed")

// visitor is a member that says hello.
type visitor struct {
	hello Hello
	gate  Gate
	self  Member
}

func visit(t testing.TB, f *founded, role Role, zone string) visitor {
	t.Helper()
	key := newKey(f.rnd)
	ca := f.uta
	if role == RoleAggregator || role == RoleWallet {
		ca = f.evagg
	}
	chain := f.issue(t, ca, key, role, zone)
	m, err := f.bundle.Verify(chain, start)
	if err != nil {
		t.Fatal(err)
	}
	return visitor{
		Hello{1, 2, f.bundle.Network, start, role, role.Leaf(), f.bundle.Version, chain},
		Gate{f.bundle, &Revocations{}, 1, 1}, m,
	}
}

func TestAHelloIsAcceptedOrRefusedForTheRightReason(t *testing.T) {
	f := found(t)
	other, err := publicOf(newKey(f.rnd)).Peer()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		fact   string
		role   Role
		zone   string
		change func(v *visitor)
		want   VerdictCode
	}{
		{"a gateway comes in", RoleGateway, "north", func(*visitor) {}, VerdictOK},
		{"a substation comes in", RoleSSN, "south", func(*visitor) {}, VerdictOK},
		{"a wallet comes in", RoleWallet, "", func(*visitor) {}, VerdictOK},
		{"an older program shares version 1", RoleSSN, "north", func(v *visitor) { v.hello.MinVersion = 0; v.hello.MaxVersion = 1 }, VerdictOK},
		{"a program that is too new", RoleSSN, "north", func(v *visitor) { v.hello.MinVersion = 2 }, VerdictVersion},
		{"a program that is too old", RoleSSN, "north", func(v *visitor) { v.hello.MinVersion, v.hello.MaxVersion = 0, 0 }, VerdictVersion},
		{"another network", RoleSSN, "north", func(v *visitor) { v.hello.Network[0]++ }, VerdictNetwork},
		{"the certificate of another peer", RoleSSN, "north", func(v *visitor) { v.self.Peer = other }, VerdictCertificate},
		{"a damaged certificate", RoleSSN, "north", func(v *visitor) { v.hello.Chain[0][100] ^= 1 }, VerdictCertificate},
		{"another role than certified", RoleGateway, "north", func(v *visitor) { v.hello.Role = RoleSSN }, VerdictRole},
		{"a leaf whose clock is off", RoleGateway, "north", func(v *visitor) { v.hello.Now = start.Add(time.Hour) }, VerdictOK},
		{"a relay whose clock is 30 s off", RoleSSN, "north", func(v *visitor) { v.hello.Now = start.Add(-MaxClockOff) }, VerdictOK},
		{"a relay whose clock is more than that off", RoleSSN, "north", func(v *visitor) { v.hello.Now = start.Add(-MaxClockOff - time.Millisecond) }, VerdictClock},
	} {
		t.Run(tc.fact, func(t *testing.T) {
			v := visit(t, f, tc.role, tc.zone)
			v.hello.Chain = [][]byte{bytes.Clone(v.hello.Chain[0])}
			tc.change(&v)
			a, verdict, err := v.gate.Accept(v.hello, v.self.Peer, start)
			if verdict.Code != tc.want || (err == nil) != (tc.want == VerdictOK) {
				t.Fatalf("verdict %d (%v), want %d", verdict.Code, err, tc.want)
			}
			if err == nil && (a.Member.Key != v.self.Key || a.Version != 1) {
				t.Errorf("admission %+v", a)
			}
			if tc.want == VerdictOK && a.ClockBad != (a.ClockOff.Abs() > MaxClockOff) {
				t.Errorf("clock %s off, warned %v", a.ClockOff, a.ClockBad)
			}
		})
	}
}

func TestExpiredAndRevokedMembersAreTurnedAway(t *testing.T) {
	f := found(t)
	v := visit(t, f, RoleGateway, "north")
	if _, verdict, _ := v.gate.Accept(v.hello, v.self.Peer, start.Add(MemberLife)); verdict.Code != VerdictExpired {
		t.Errorf("after 90 days: verdict %d", verdict.Code)
	}
	der, err := f.uta.Revoke([]string{v.self.Serial}, 1, start, start.Add(time.Hour), f.rnd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.gate.Revoked.Add(f.bundle, der); err != nil {
		t.Fatal(err)
	}
	if _, verdict, _ := v.gate.Accept(v.hello, v.self.Peer, start); verdict.Code != VerdictRevoked {
		t.Errorf("after revocation: verdict %d", verdict.Code)
	}
}

func TestRefusalsNameNoIdentity(t *testing.T) {
	f := found(t)
	v := visit(t, f, RoleGateway, "north")
	other, _ := publicOf(newKey(f.rnd)).Peer()
	for _, change := range []func(*Hello){
		func(h *Hello) { h.Role = RoleSSN },
		func(h *Hello) { h.Chain = [][]byte{{1}} },
		func(h *Hello) { h.MinVersion = 9; h.MaxVersion = 9 },
	} {
		h := v.hello
		change(&h)
		_, _, err := v.gate.Accept(h, other, start)
		if err == nil || strings.Contains(err.Error(), v.self.Peer.String()) || strings.Contains(err.Error(), "north") || strings.Contains(err.Error(), other.String()) {
			t.Errorf("error %q", err)
		}
	}
}

func TestHelloVectors(t *testing.T) {
	h := Hello{1, 3, NetworkID{1, 2, 3}, start, RoleGateway, true, 0x0102030405060708, [][]byte{{0xaa, 0xbb}, {0xcc}}}
	hello, err := h.Encode()
	if err != nil {
		t.Fatal(err)
	}
	verdict := Verdict{VerdictBusy, 90, start}.Encode()
	got := fmt.Sprintf("hello: %x\nverdict: %x\n", hello, verdict)
	path := filepath.Join("testdata", "vectors", "hello.txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	again, err := ParseHello(hello)
	if err != nil || fmt.Sprint(again) != fmt.Sprint(h) {
		t.Errorf("ParseHello: %+v, %v", again, err)
	}
	if v, err := ParseVerdict(verdict); err != nil || v != (Verdict{VerdictBusy, 90, start}) {
		t.Errorf("ParseVerdict: %+v, %v", v, err)
	}
}

func TestMalformedHellosAreRefused(t *testing.T) {
	good, err := Hello{1, 1, NetworkID{1}, start, RoleSSN, false, 1, [][]byte{{1}}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, value byte) []byte {
		b := bytes.Clone(good)
		b[at] = value
		return b
	}
	for fact, raw := range map[string][]byte{
		"nothing": nil, "wrong word": change(0, 'X'), "one byte more": append(bytes.Clone(good), 0), "cut": good[:len(good)-1],
		"no role": change(32, 0), "role 8": change(32, 8), "want 2": change(33, 2), "reserved byte": change(34, 1),
		"versions upside down": change(5, 2), "no certificate": change(44, 0), "four certificates": change(44, 4),
		"year 36812": change(24, 4), "too long": make([]byte, MaxHello+1),
	} {
		if _, err := ParseHello(raw); !errors.Is(err, ErrHello) {
			t.Errorf("%s: %v", fact, err)
		}
	}
	for fact, h := range map[string]Hello{"no chain": {}, "four certificates": {Chain: make([][]byte, 4)}, "an empty certificate": {Chain: [][]byte{nil}}, "a huge one": {Chain: [][]byte{make([]byte, MaxCertificate+1)}}} {
		if _, err := h.Encode(); !errors.Is(err, ErrHello) {
			t.Errorf("encode %s: %v", fact, err)
		}
	}
	for _, raw := range [][]byte{nil, make([]byte, 12), make([]byte, 14), {9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}} {
		if _, err := ParseVerdict(raw); !errors.Is(err, ErrHello) {
			t.Errorf("verdict %s: %v", hex.EncodeToString(raw), err)
		}
	}
}

func TestEveryVerdictSaysWhatToDo(t *testing.T) {
	for c := VerdictOK; c <= VerdictClock; c++ {
		if strings.HasPrefix(c.String(), "verdict ") {
			t.Errorf("verdict %d has no words", c)
		}
	}
	if VerdictCode(99).String() != "verdict 99" || Role(99).String() != "role(99)" || Refusal(99).String() != "refusal 99" {
		t.Error("unknown numbers are not printed")
	}
}
