package alarm

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"gridveil/node/meter"
	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/store"
)

var update = flag.Bool("update", false, "rewrite the vectors; say in the commit why bytes changed")

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
}

func pub(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func sample(t testing.TB) Event {
	t.Helper()
	e := Event{Priority: P0, Kind: VoltageAbsent, Seq: 3, At: 1_700_000_000_000, Unc: 40, Key: Key{1, 0, CodePowerDown},
		Device: [16]byte{7}, Count: 2, Roster: 4, Detail: []byte("supply lost")}
	e.Ordinals.Set(1)
	e.Ordinals.Set(20)
	if err := e.Sign(testKey(1)); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEventIsSignedAndBijective(t *testing.T) {
	e := sample(t)
	raw, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(raw)
	if err != nil || !reflect.DeepEqual(got, e) || got.Verify(pub(testKey(1))) != nil || got.ID() != e.ID() {
		t.Fatalf("round trip: %+v, %v", got, err)
	}
	for i := range len(raw) * 8 {
		bad := bytes.Clone(raw)
		bad[i/8] ^= 1 << (i % 8)
		if x, err := Decode(bad); err == nil && x.Verify(pub(testKey(1))) == nil {
			t.Fatalf("bit %d flipped: still verifies", i)
		}
	}
}

func TestEventLimits(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Event)
		ok     bool
	}{
		"detail of 256 bytes":     {func(e *Event) { e.Detail = bytes.Repeat([]byte("x"), 256) }, true},
		"detail of 257 bytes":     {func(e *Event) { e.Detail = bytes.Repeat([]byte("x"), 257) }, false},
		"detail with a line feed": {func(e *Event) { e.Detail = []byte("a\nb") }, false},
		"16,384 ordinals":         {func(e *Event) { e.Ordinals.Set(model.MaxRoster) }, true},
		"bitmap of another byte":  {func(e *Event) { e.Ordinals = append(bytes.Repeat([]byte{0}, maxBitmap), 1) }, false},
		"bitmap with a zero tail": {func(e *Event) { e.Ordinals = Bitmap{1, 0} }, false},
		"kind 10":                 {func(e *Event) { e.Kind = 10 }, false},
		"priority 4":              {func(e *Event) { e.Priority = 4 }, false},
		"count 0":                 {func(e *Event) { e.Count = 0 }, false},
		"sealed but open device":  {func(e *Event) { e.Flags |= Sealed }, false},
	} {
		e := sample(t)
		c.change(&e)
		raw, err := e.Encode()
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrInvalidEvent) {
			t.Errorf("%s: %v", name, err)
		}
		if len(raw) > MaxEvent {
			t.Errorf("%s: %d bytes", name, len(raw))
		}
	}
}

// TestTheKeyOfABoxOpensThatBoxAlone: it may be shown to an outsider.
func TestTheKeyOfABoxOpensThatBoxAlone(t *testing.T) {
	day, err := report.NewDayKey(nil, 19_000)
	if err != nil {
		t.Fatal(err)
	}
	keyOf := func(d uint16) (report.DayKey, bool) { return day, d == day.Day }
	var sealed [2]Event
	var keys [2]report.BoxKey
	for i := range sealed {
		e := sample(t)
		if _, err := e.BoxKey(keyOf); !errors.Is(err, ErrInvalidEvent) {
			t.Errorf("key of an event without a box: %v", err)
		}
		if err := e.Seal(rand.Reader, day.Day, day.Pub); err != nil {
			t.Fatal(err)
		}
		if keys[i], err = e.BoxKey(keyOf); err != nil {
			t.Fatal(err)
		}
		sealed[i] = e
	}
	device, text, err := sealed[0].OpenWith(keys[0])
	wantDevice, want, err2 := sealed[0].Open(keyOf)
	if err := errors.Join(err, err2); err != nil || device != wantDevice || text != want || text == "" {
		t.Errorf("opened %x %q, the day key %x %q, %v", device, text, wantDevice, want, err)
	}
	if _, _, err := sealed[1].OpenWith(keys[0]); !errors.Is(err, report.ErrOpen) {
		t.Errorf("another box: %v", err)
	}
	for i := range keys[0] {
		bad := keys[0]
		bad[i] ^= 1
		if _, _, err := sealed[0].OpenWith(bad); !errors.Is(err, report.ErrOpen) {
			t.Errorf("byte %d of the key changed: %v", i, err)
		}
	}
	if _, err := sealed[0].BoxKey(func(uint16) (report.DayKey, bool) { return day, false }); !errors.Is(err, report.ErrOpen) {
		t.Errorf("without the day's key: %v", err)
	}
}

func TestSealedEventHidesDeviceAndText(t *testing.T) {
	day, err := report.NewDayKey(nil, 19_000)
	if err != nil {
		t.Fatal(err)
	}
	e := sample(t)
	if err := e.Seal(rand.Reader, day.Day, day.Pub); err != nil {
		t.Fatal(err)
	}
	if err := e.Sign(testKey(1)); err != nil {
		t.Fatal(err)
	}
	raw, err := e.Encode()
	if err != nil || bytes.Contains(raw, []byte("supply")) || e.Device != [16]byte{} {
		t.Fatalf("sealed event shows its content: %v", err)
	}
	keys := func(d uint16) (report.DayKey, bool) { return day, d == day.Day }
	device, text, err := e.Open(keys)
	if err != nil || device != [16]byte{7} || text != "supply lost" {
		t.Errorf("Open: %x %q %v", device, text, err)
	}
	moved := e
	moved.Source[0] ^= 1
	if _, _, err := moved.Open(keys); !errors.Is(err, report.ErrOpen) {
		t.Errorf("box of another source: %v", err)
	}
}

func TestVectors(t *testing.T) {
	raw, err := sample(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	got := "# two meters without supply, signing key seed 01 x 32\nevent: " + hex.EncodeToString(raw) + "\nexpect: id " +
		hex.EncodeToString(func() []byte { id := sample(t).ID(); return id[:] }()) + "\n# acknowledgement by the key 02 x 32\nack: " +
		hex.EncodeToString(NewAck(sample(t).ID(), time.UnixMilli(1_700_000_000_500), testKey(2)).Encode()) + "\n"
	const path = "testdata/vectors/event.txt"
	if *update {
		os.MkdirAll("testdata/vectors", 0o755)
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != got {
		t.Errorf("bytes of a signed format changed (%v): got\n%s", err, got)
	}
}

func TestBitmap(t *testing.T) {
	var b Bitmap
	for _, n := range []uint32{1, 8, 9, 16384, 0, 16385} {
		b.Set(n)
	}
	if b.Count() != 4 || !b.Has(1) || !b.Has(16384) || b.Has(0) || b.Has(2) || b.Has(16385) {
		t.Errorf("%d ordinals", b.Count())
	}
	b.Clear(16384)
	if len(b) != 2 || b.Count() != 3 {
		t.Errorf("after clearing the last: %v", b)
	}
}

const t0 = 1_700_000_000_000

func frame(at int64, values ...meter.Value) meter.Frame {
	return meter.Frame{At: t0 + at, MeterTime: t0 + at, Device: meter.Device{1}, Firmware: "M1", Values: values}
}

func describe(es []Event) string {
	var out []string
	for _, e := range es {
		s := fmt.Sprintf("P%d %v %d", e.Priority, e.Kind, e.Key.Code)
		if e.Flags&Restored != 0 {
			s += " restored"
		}
		if e.Flags&Warning != 0 {
			s += " warning"
		}
		if e.Count > 1 {
			s += fmt.Sprintf(" x%d", e.Count)
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func TestDetectorTellsEachChangeOnce(t *testing.T) {
	lim := StandardLimits(time.Minute)
	lim.FirmwareOK = func(s string) bool { return s != "M0" }
	d := NewDetector([16]byte{7}, lim, time.UnixMilli(t0), true)
	volts := func(v ...int64) (out []meter.Value) {
		for i, x := range v {
			out = append(out, meter.Value{Channel: model.VoltageL1 + model.Channel(i), N: x})
		}
		return out
	}
	skewed := func(at, off int64) meter.Frame { f := frame(at); f.MeterTime += off; return f }
	steps := []struct {
		name string
		got  []Event
		want string
	}{
		{"first frame", d.Frame(frame(0, append(volts(230_000, 230_000, 230_000), meter.Value{Channel: model.AuthFailures, N: 4})...)), ""},
		{"phase L2 lost", d.Frame(frame(1000, volts(230_000, 1000, 230_000)...)), "P0 voltage absent 87"},
		{"still lost", d.Frame(frame(2000, volts(230_000, 1000, 230_000)...)), ""},
		{"all lost", d.Frame(frame(3000, volts(0, 0, 0)...)), "P0 voltage absent 1"},
		{"all back", d.Frame(frame(4000, volts(230_000, 230_000, 230_000)...)), "P0 voltage absent 1 restored"},
		{"three wrong passwords", d.Frame(frame(5000, meter.Value{Channel: model.AuthFailures, N: 7})), "P0 unauthorised access 46 x3"},
		{"same count", d.Frame(frame(6000, meter.Value{Channel: model.AuthFailures, N: 7})), ""},
		{"clock off by 9 s", d.Frame(skewed(7000, 9000)), ""},
		{"clock off by 10 s", d.Frame(skewed(8000, 10_000)), "P2 clock deviation 104 warning"},
		{"clock off by -61 s", d.Frame(skewed(9000, -61_000)), "P1 clock deviation 104"},
		{"clock good", d.Frame(skewed(10_000, 100)), "P1 clock deviation 104 restored"},
		{"one heartbeat late", d.Tick(time.UnixMilli(t0 + 10_000 + 119_999)), ""},
		{"two heartbeats missed", d.Tick(time.UnixMilli(t0 + 10_000 + 120_000)), "P0 malfunction 106"},
		{"still silent", d.Tick(time.UnixMilli(t0 + 500_000)), ""},
		{"speaks again", d.Frame(frame(600_000)), "P0 malfunction 106 restored"},
		{"firmware changed", d.Frame(func() meter.Frame { f := frame(601_000); f.Firmware = "M2"; return f }()), "P2 firmware 18"},
		{"firmware below floor", d.Frame(func() meter.Frame { f := frame(602_000); f.Firmware = "M0"; return f }()), "P1 firmware 18"},
		{"another meter", d.Frame(func() meter.Frame { f := frame(603_000); f.Firmware, f.Device = "M0", meter.Device{2}; return f }()), "P0 unauthorised access 103"},
	}
	for _, s := range steps {
		if got := describe(s.got); got != s.want {
			t.Errorf("%s: got %q, want %q", s.name, got, s.want)
		}
		for _, e := range s.got {
			if e.Device != [16]byte{7} || e.Flags&Simulated == 0 {
				t.Errorf("%s: event of device %x, flags %v", s.name, e.Device, e.Flags)
			}
		}
	}
}

// TestDeadDeviceWithinTwoPeriods is requirement C1: 1,000 devices die at
// different times, each is told once and not before two periods.
func TestDeadDeviceWithinTwoPeriods(t *testing.T) {
	const period = 15 * time.Minute
	for i := range int64(1000) {
		d := NewDetector([16]byte{}, StandardLimits(period), time.UnixMilli(t0), false)
		died := t0 + i*7919%period.Milliseconds()
		d.Frame(meter.Frame{At: died})
		told := int64(0)
		for now := died; now <= died+4*period.Milliseconds(); now += 10_000 {
			if es := d.Tick(time.UnixMilli(now)); len(es) > 0 {
				if told != 0 {
					t.Fatal("told twice")
				}
				told = now
			}
		}
		if told < died+2*period.Milliseconds() || told > died+2*period.Milliseconds()+10_000 {
			t.Fatalf("device %d: told after %d ms", i, told-died)
		}
	}
}

func TestMergerKeepsCountAndIdentity(t *testing.T) {
	var m Merger
	now := time.UnixMilli(t0)
	passed := 0
	for i := range 500 {
		e := Event{Priority: P0, Kind: Unauthorised, Seq: 1, Count: 2, Key: Key{Code: CodeLogin}, Detail: []byte("x")}
		if _, ok := m.Add(e, uint32(i+1), now.Add(time.Duration(i)*time.Millisecond)); ok {
			passed++
		}
	}
	if es := m.Flush(now.Add(900 * time.Millisecond)); len(es) != 0 {
		t.Error("flushed within the second")
	}
	es := m.Flush(now.Add(time.Second))
	if passed != perSecond || len(es) != 1 || es[0].Count != 2*480 || es[0].Ordinals.Count() != 480 || es[0].Flags&Merged == 0 {
		t.Errorf("%d passed, merged %+v", passed, es)
	}
	if _, ok := m.Add(Event{}, 1, now.Add(2*time.Second)); !ok {
		t.Error("next second does not pass")
	}
}

// TestBlackoutOf10000 is requirement C2: one transformer goes dark within a
// second; at most ten messages leave and every meter is named.
func TestBlackoutOf10000(t *testing.T) {
	c := NewClusterer(3)
	messages, named := 0, Bitmap{}
	run := func(flags Flags, start int64) {
		for ms := int64(0); ms <= 60_000; ms += 50 {
			now := time.UnixMilli(start + ms)
			for k := range int64(500) { // 10,000 meters in the first second
				ordinal := uint32(ms/50*500 + k + 1)
				if ordinal > 10_000 {
					break
				}
				e := Event{Kind: VoltageAbsent, Key: Key{1, 0, CodePowerDown}, Flags: flags, Seq: 1, Count: 1, At: now.UnixMilli()}
				if c.Take(e, ordinal, now) {
					messages++
					named.Set(ordinal)
				}
			}
			for _, e := range c.Tick(now) {
				messages++
				named.Union(e.Ordinals)
				e.Seq = 1
				if raw, err := e.Encode(); err != nil || len(raw) > MaxEvent {
					t.Fatalf("outage event of %d bytes: %v", len(raw), err)
				}
			}
		}
	}
	run(0, t0)
	if messages > 10 || named.Count() != 10_000 || c.Dark().Count() != 10_000 {
		t.Errorf("%d messages name %d meters, %d known dark", messages, named.Count(), c.Dark().Count())
	}
	messages, named = 0, nil
	run(Restored, t0+600_000)
	if messages > 10 || named.Count() != 10_000 || c.Dark().Count() != 0 {
		t.Errorf("restoration: %d messages name %d meters, %d known dark", messages, named.Count(), c.Dark().Count())
	}
}

func TestOneDarkHomeIsNoOutage(t *testing.T) {
	c := NewClusterer(1)
	e := Event{Kind: VoltageAbsent, Key: Key{1, 0, CodePowerDown}, Seq: 1, Count: 1}
	for i := range int64(20) { // far apart
		now := time.UnixMilli(t0 + i*40_000)
		if !c.Take(e, uint32(i+1), now) {
			t.Fatalf("loss %d was absorbed", i)
		}
		for ms := int64(0); ms < 40_000; ms += 100 {
			if es := c.Tick(now.Add(time.Duration(ms) * time.Millisecond)); len(es) > 0 {
				t.Fatalf("outage told: %+v", es)
			}
		}
	}
	if !c.Take(Event{Kind: VoltageAbsent, Key: Key{1, 0, CodePhaseL1}}, 1, time.UnixMilli(t0)) {
		t.Error("a lost phase was absorbed")
	}
}

// TestTwoUtilitiesClassifyDifferently is requirement C7.
func TestTwoUtilitiesClassifyDifferently(t *testing.T) {
	e := sample(t)
	a := Rules{{Kind: VoltageAbsent, LeastCnt: 2, Class: ClassAlarm, Severity: 1}}
	b := Rules{{Kind: VoltageAbsent, Class: ClassIgnore, Severity: 4}}
	if va, vb, vn := a.View(e), b.View(e), Rules(nil).View(e); va.Class != ClassAlarm || vb.Class != ClassIgnore || vn.Class != ClassAlarm {
		t.Errorf("views %+v, %+v, %+v", va, vb, vn)
	}
	e.Flags |= Restored
	if v := Rules(nil).View(e); v.Class != ClassEvent {
		t.Errorf("restoration is an %v", v.Class)
	}
	if err := (Rules{{Kind: 1}}).Check(); !errors.Is(err, ErrRules) {
		t.Errorf("rule without class: %v", err)
	}
}

func TestInboxTakesOnceAndOnlySCADAAcknowledges(t *testing.T) {
	dir := t.TempDir()
	st, err := store.Open(dir, store.MasterKey{1}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	in := OpenInbox(st)
	var all []Event
	for i := range uint64(5) {
		e := sample(t)
		e.Seq = i + 1
		if err := e.Sign(testKey(1)); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
		for round := range 2 {
			fresh, err := in.Take(e, e.Device)
			if err != nil || fresh != (round == 0) {
				t.Fatalf("take %d: fresh %v, %v", round, fresh, err)
			}
		}
	}
	got, err := in.List(2, 2)
	if err != nil || len(got) != 2 || got[0].Place != 3 || got[0].Event.Seq != 3 {
		t.Errorf("List: %+v, %v", got, err)
	}
	id := all[3].ID()
	name := hex.EncodeToString(id[:])
	for digits, want := range map[string]int{name: 1, name[:9]: 1, strings.ToUpper(name[:8]): 1, "": 4, name + "00": 0, "not hex": 0} {
		if hit, err := in.Find(digits, 4); err != nil || len(hit) != want || want == 1 && hit[0].Seq != 4 {
			t.Errorf("Find %q: %d events, %v, want %d", digits, len(hit), err, want)
		}
	}
	last, err := in.Last([16]byte{7}, 2)
	if err != nil || len(last) != 2 || last[0].Event.Seq != 5 || last[1].Event.Seq != 4 {
		t.Errorf("Last: %+v, %v", last, err)
	}
	u := model.SourceID{1}
	for _, role := range []model.Role{model.RoleUser, model.RoleBilling, model.RoleDMS, model.RoleSSN, model.RoleAdmin, model.RoleUnknown} {
		if err := in.Acknowledge(u, all[0].ID(), role, time.UnixMilli(5)); !errors.Is(err, ErrDenied) {
			t.Errorf("%v acknowledged: %v", role, err)
		}
	}
	if err := in.Acknowledge(u, all[0].ID(), model.RoleSCADA, time.UnixMilli(5)); err != nil {
		t.Fatal(err)
	}
	in.Acknowledge(u, all[0].ID(), model.RoleSCADA, time.UnixMilli(9))
	v, err := in.ViewOf(u, nil, all[0])
	if err != nil || v.AckedBy != model.RoleSCADA || v.AckedAt != 5 {
		t.Errorf("view %+v, %v: the first acknowledgement stays", v, err)
	}
	if v, _ := in.ViewOf(model.SourceID{2}, nil, all[0]); v.AckedBy != model.RoleUnknown {
		t.Error("another utility sees the acknowledgement")
	}
	if err := in.Acknowledge(u, ID{9}, model.RoleSCADA, time.UnixMilli(5)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown event: %v", err)
	}
}

func TestAckIsSigned(t *testing.T) {
	a := NewAck(ID{1}, time.UnixMilli(5), testKey(2))
	got, err := DecodeAck(a.Encode())
	if err != nil || got != a || got.Verify(pub(testKey(2))) != nil {
		t.Errorf("%+v, %v", got, err)
	}
	got.Event[0] ^= 1
	if got.Verify(pub(testKey(2))) == nil {
		t.Error("altered acknowledgement verifies")
	}
}

func FuzzEvent(f *testing.F) {
	raw, _ := sample(f).Encode()
	f.Add(raw)
	f.Add(NewAck(ID{1}, time.UnixMilli(5), testKey(2)).Encode())
	f.Fuzz(func(t *testing.T, in []byte) {
		if e, err := Decode(in); err == nil {
			if out, err := e.Encode(); err != nil || !bytes.Equal(in, out) {
				t.Error("event is not bijective")
			}
		}
		if a, err := DecodeAck(in); err == nil && !bytes.Equal(a.Encode(), in) {
			t.Error("ack is not bijective")
		}
	})
}
