package model

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata; say in the commit why it changed")

// TestMatrix compares the access table cell by cell with the one that was
// agreed: 23 objects x 5 roles x 3 verbs, and Admin, Auditor and strangers.
func TestMatrix(t *testing.T) {
	want := map[Object]string{ // user, billing, dms, ssn, scada
		ObjClock: "RO RO RO RW RO", ObjSync: "- RO RO RO RO", ObjInitial: "RO RO - RO -", ObjReadingState: "RO RO RO RO RO",
		ObjRegisters: "RO RO - RO -", ObjUserProfile: "RW RO - - -", ObjCustomer: "RO RO - - -", ObjContract: "RO RW - - -",
		ObjTariffs: "RO RW - RO -", ObjPowerLimit: "RO RO RW RO RO", ObjVoltageLimit: "- - RW RO RO", ObjQualityThresholds: "- - RO RO RW",
		ObjAveraging: "- - RO RO RW", ObjPowerFail: "- - RO RO RW", ObjInterruptions: "- - RO RO RO", ObjVoltage: "- - RO RO RO",
		ObjAuthFailures: "- - RO RO RO", ObjExcess: "RO RO RO RO -", ObjAlarms: "RO - RO RO RW+E", ObjBillImpact: "RO RO - - WO",
		ObjDisconnect: "RO RO RO RO E", ObjFirmware: "- - - E -", ObjKeys: "- - - - -",
	}
	for _, o := range matrix {
		var got []string
		for r := RoleUser; r <= RoleSCADA; r++ {
			got = append(got, o.Grants(r))
		}
		if s := strings.Join(got, " "); s != want[o.Object] {
			t.Errorf("object %d %s: got %q, want %q", o.Object, o.Text, s, want[o.Object])
		}
		for _, r := range []Role{RoleUnknown, RoleAuditor, 99} {
			if g := o.Grants(r); g != "-" {
				t.Errorf("object %d: %v holds %s", o.Object, r, g)
			}
		}
		admin := "-"
		if o.Object == ObjKeys {
			admin = "WO"
		}
		if g := o.Grants(RoleAdmin); g != admin {
			t.Errorf("object %d: admin holds %s, want %s", o.Object, g, admin)
		}
	}
	if len(matrix) != 23 || len(want) != 23 {
		t.Errorf("%d objects, want 23", len(matrix))
	}
	for _, v := range []Verb{0, 4} {
		if ok, _ := May(RoleSCADA, ObjAlarms, v); ok {
			t.Errorf("verb %d is allowed", v)
		}
	}
	if ok, _ := May(RoleUser, 24, VerbRead); ok {
		t.Error("an object outside the table is readable")
	}
}

func TestScopes(t *testing.T) {
	for _, c := range []struct {
		r    Role
		o    Object
		v    Verb
		want Scope
	}{
		{RoleUser, ObjRegisters, VerbRead, ScopeOwn}, {RoleBilling, ObjRegisters, VerbRead, ScopeOwn},
		{RoleUser, ObjAlarms, VerbRead, ScopeOwnTamper}, {RoleSCADA, ObjDisconnect, VerbExecute, ScopeTwoPerson},
		{RoleSSN, ObjFirmware, VerbExecute, ScopeUpdate}, {RoleDMS, ObjPowerLimit, VerbWrite, ScopeAll},
	} {
		if ok, got := May(c.r, c.o, c.v); !ok || got != c.want {
			t.Errorf("%v %d: %v, scope %d, want %d", c.r, c.o, ok, got, c.want)
		}
	}
}

// TestRegistryIsComplete fails for a field that lacks type, code, keep, sphere
// or row.
func TestRegistryIsComplete(t *testing.T) {
	for i, o := range matrix {
		if int(o.Object) != i+1 || o.Text == "" || o.Code == "" || o.Type == "" || o.Keep == 0 || o.Sphere == 0 {
			t.Errorf("row %d is incomplete: %+v", i+1, o)
		}
	}
	last := Channel(0)
	for _, c := range Channels() {
		if c.Channel <= last || c.OBIS == "" || c.Text == "" {
			t.Errorf("channel %+v is incomplete or out of order", c)
		}
		last = c.Channel
		if _, ok := c.Object.Info(); !ok {
			t.Errorf("channel %s has no row in the access matrix", c.OBIS)
		}
		if c.Channel.IsRegister() != (c.Unit == MilliWattHour) {
			t.Errorf("%s: register without energy", c.OBIS)
		}
	}
}

func TestReadingStatesAllowTheirRegisters(t *testing.T) {
	for s, want := range map[ReadingState][2]bool{ReadImport: {true, false}, ReadImportExport: {true, true}, ReadExport: {false, true}, ReadDisabled: {false, false}} {
		if got := [2]bool{s.Allows(ImportTotal), s.Allows(ExportTotal)}; got != want {
			t.Errorf("%v: %v, want %v", s, got, want)
		}
		if !s.Allows(VoltageL1) {
			t.Errorf("%v forbids a technical channel", s)
		}
	}
}

func TestSlotsAreHalfOpen(t *testing.T) {
	for at, want := range map[int64]int64{0: 0, 899_999: 0, 900_000: 900_000, -1: -900_000} {
		if got := SlotOf(at, 15*time.Minute); got != want {
			t.Errorf("slot of %d is %d, want %d", at, got, want)
		}
	}
	for p, ok := range map[time.Duration]bool{time.Second: true, 15 * time.Minute: true, 24 * time.Hour: true, 7 * time.Minute: false,
		0: false, 25 * time.Hour: false, 500 * time.Millisecond: false} {
		if (CheckPeriod(p) == nil) != ok {
			t.Errorf("period %v: %v", p, CheckPeriod(p))
		}
	}
}

func sampleOrder(t testing.TB) Order {
	t.Helper()
	o := Order{Version: 3, Source: SourceID{1}, Issuer: SourceID{2}, Issued: 1_700_000_000_000, Rules: 9, FirmwareFloor: "M2.1",
		Groups: []Group{{ReadPeriod: 15 * time.Minute, ReportPeriod: 24 * time.Hour, Ordinals: []uint32{5, 1}}},
		Profiles: []Profile{
			{TAF: TAFBands, Basis: BasisContract, Recipient: SourceID{3}, CapturePeriod: 24 * time.Hour, ReportPeriod: 24 * time.Hour, Channels: []Channel{ImportT1, ImportT2}},
			{TAF: TAFSeries, Basis: BasisConsent, CapturePeriod: 15 * time.Minute, ReportPeriod: time.Hour, From: 5, To: 9, Channels: []Channel{ImportTotal}, Consent: [64]byte{8}}},
		Roster: Roster{Version: 4, Entries: []RosterEntry{
			{Ordinal: 1, UsagePoint: UsagePoint{1}, State: ReadImportExport, LimitMW: 17_250_000, Masked: true}, {Ordinal: 5, UsagePoint: UsagePoint{2}}}},
		SealDay: 19_675, SealKeys: [][32]byte{{1}, {2}}, Parents: []string{"12D3KooWParentOne", "12D3KooWParentTwo"}}
	if err := o.Sign(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOrderIsSignedAndBijective(t *testing.T) {
	o := sampleOrder(t)
	raw, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32)).Public().(ed25519.PublicKey)
	got, err := DecodeOrder(raw)
	if err != nil || !reflect.DeepEqual(got, o) || got.Verify(key) != nil {
		t.Fatalf("round trip: %+v, %v", got, err)
	}
	for i := range len(raw) * 8 {
		bad := bytes.Clone(raw)
		bad[i/8] ^= 1 << (i % 8)
		if x, err := DecodeOrder(bad); err == nil && x.Verify(key) == nil {
			t.Fatalf("bit %d flipped: still verifies", i)
		}
	}
	if k, ok := o.KeyFor(19_676); !ok || k != [32]byte{2} {
		t.Error("second day's key is not found")
	}
	if _, ok := o.KeyFor(19_674); ok {
		t.Error("a key before the first day")
	}
	if e, ok := o.Roster.Find(5); !ok || e.UsagePoint != (UsagePoint{2}) {
		t.Error("ordinal 5 is not found")
	}
	if _, ok := o.Roster.Find(3); ok {
		t.Error("ordinal 3 is in the roster")
	}
	if n, ok := o.Roster.OrdinalOf(UsagePoint{2}); !ok || n != 5 {
		t.Error("usage point is not found")
	}
}

func TestOrdersOutOfRangeAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Order){
		"report more often than captured": func(o *Order) { o.Profiles[1].ReportPeriod = time.Minute },
		"profile ends before it begins":   func(o *Order) { o.Profiles[1].To = 5 },
		"channels out of order":           func(o *Order) { o.Profiles[0].Channels = []Channel{ImportT2, ImportT1} },
		"consent nobody asked for":        func(o *Order) { o.Profiles[0].Consent = [64]byte{1} },
		"unknown use case":                func(o *Order) { o.Profiles[0].TAF = 3 },
		"roster out of order":             func(o *Order) { o.Roster.Entries[1].Ordinal = 1 },
		"ordinal zero":                    func(o *Order) { o.Roster.Entries[0].Ordinal = 0 },
		"parent with a line feed":         func(o *Order) { o.Parents[0] = "a\nb" },
		"nine parents":                    func(o *Order) { o.Parents = make([]string, 9) },
		"period below a millisecond":      func(o *Order) { o.Groups[0].ReadPeriod = time.Microsecond },
	} {
		o := sampleOrder(t)
		change(&o)
		if _, err := o.Encode(); !errors.Is(err, ErrInvalidOrder) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func sampleBlock() IntervalBlock {
	return IntervalBlock{UsagePoint: UsagePoint{1}, Source: SourceID{2}, Channel: ImportTotal, State: ReadImport, Day: 19_675 * dayMS,
		Period: 15 * time.Minute, Revision: 2, Readings: []IntervalReading{
			{Slot: 19_675 * dayMS, Register: 5, Quality: QualityRaw, Report: 9}, {Slot: 19_675*dayMS + 2_700_000, Register: 7, Epoch: 1, Flags: 4, Unc: 3}}}
}

func TestBlockIsBijective(t *testing.T) {
	b := sampleBlock()
	raw, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeBlock(raw); err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("round trip: %+v, %v", got, err)
	}
	b.Readings[1].Slot += 1
	if _, err := b.Encode(); !errors.Is(err, ErrInvalidBlock) {
		t.Errorf("reading off its slot: %v", err)
	}
	for cut := range raw {
		if _, err := DecodeBlock(raw[:cut]); !errors.Is(err, ErrInvalidBlock) {
			t.Fatalf("block cut to %d bytes: %v", cut, err)
		}
	}
}

func TestVectors(t *testing.T) {
	order, _ := sampleOrder(t).Encode()
	block, _ := sampleBlock().Encode()
	got := fmt.Sprintf("# order signed by the key with seed 02 x 32\norder: %s\n# interval block, two readings\nblock: %s\n",
		hex.EncodeToString(order), hex.EncodeToString(block))
	const path = "testdata/vectors/model.txt"
	if *update {
		os.MkdirAll("testdata/vectors", 0o755)
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != got {
		t.Errorf("bytes of a format changed (%v): got\n%s", err, got)
	}
}

func FuzzOrder(f *testing.F) {
	raw, _ := sampleOrder(f).Encode()
	f.Add(raw)
	f.Fuzz(func(t *testing.T, in []byte) {
		if o, err := DecodeOrder(in); err == nil {
			if out, err := o.Encode(); err != nil || !bytes.Equal(in, out) {
				t.Errorf("order is not bijective: %v", err)
			}
		}
	})
}

func FuzzBlock(f *testing.F) {
	raw, _ := sampleBlock().Encode()
	f.Add(raw)
	f.Fuzz(func(t *testing.T, in []byte) {
		if b, err := DecodeBlock(in); err == nil {
			if out, err := b.Encode(); err != nil || !bytes.Equal(in, out) {
				t.Errorf("block is not bijective: %v", err)
			}
		}
	})
}
