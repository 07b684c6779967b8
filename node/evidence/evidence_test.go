package evidence

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/alarm"
	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/store"
)

var began = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// network is a founded network with one operator.
type network struct {
	rules *member.Bundle
	ca    member.CA
}

func newNetwork(t testing.TB, id byte) network {
	t.Helper()
	ca, err := member.NewCA("uta", began.Add(-time.Hour), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b := &member.Bundle{Network: member.NetworkID{id}, Version: 1, RootThreshold: 1, RootKeys: []member.RootKey{member.RootKey(root)},
		Operators: []member.Operator{{Name: "uta", CA: []member.DER{ca.Certificate}, Roles: []member.Role{member.RoleGateway, member.RoleUtility}, Zones: []string{"elm"}}},
		Zones:     []member.Zone{{Name: "elm", Region: 1}}}
	raw, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	rules, err := member.OpenBundle(raw, member.SignBundle(raw, nil, key), nil)
	if err != nil {
		t.Fatal(err)
	}
	return network{rules, ca}
}

// certify issues a certificate of a role for a key at an instant.
func (n network) certify(t testing.TB, pub ed25519.PublicKey, r member.Role, at time.Time) [][]byte {
	t.Helper()
	g := member.Grant{Network: n.rules.Network, Key: member.Key(pub), Role: r}
	if r == member.RoleGateway {
		g.Zone = "elm"
	}
	chain, err := n.ca.IssueMember(g, at, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func newKey(t testing.TB, seed byte) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	return key.Public().(ed25519.PublicKey), key
}

// signed makes n reports of an hour each, of two meters, that follow each other, and
// gives the evidence of one of them.
func signed(t testing.TB, key ed25519.PrivateKey, n int, ordinal uint32) (out [][]byte) {
	t.Helper()
	h := report.Header{Class: report.ClassEnergy, Profile: model.TAFSeries, Source: report.SourceOf(key.Public().(ed25519.PublicKey)), From: began.UnixMilli(),
		Period: 900_000, Slots: 4, Channels: 2, Meters: 2}
	for i := range n {
		b := report.Body{Seed: [32]byte{byte(i)}, Columns: []report.Column{{Channel: model.ImportTotal, Scale: 1}, {Channel: model.ExportTotal}}}
		for o := uint32(1); o <= 2; o++ {
			m := report.Meter{Ordinal: o, State: model.ReadImportExport, Counter: uint32(4*i + 1)}
			for s := range uint16(4) {
				m.Rows = append(m.Rows, report.Row{Slot: s, Values: []int64{int64(o)*1_000_000_000 + int64(4*i+int(s))*250_000, 77}})
			}
			b.Meters = append(b.Meters, m)
		}
		root, err := b.Root(h.Slots)
		if err != nil {
			t.Fatal(err)
		}
		h.Seq, h.Root = uint64(i+1), root
		h.Sign(key)
		e, err := report.Prove(h, b, ordinal)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e.Encode())
		h.Prev, h.From = h.Hash(), h.End()
	}
	return out
}

func reported(t testing.TB, net network, n int) Reported {
	t.Helper()
	pub, key := newKey(t, 1)
	return Reported{Key: pub, Chain: net.certify(t, pub, member.RoleGateway, began), UsagePoint: bytes.Repeat([]byte{0x3f}, 16), Reports: signed(t, key, n, 1)}
}

// raised is an event that a gateway sealed and a head-end opened.
func raised(t testing.TB, net network) Raised {
	t.Helper()
	pub, key := newKey(t, 1)
	day, err := report.NewDayKey(rand.Reader, report.DayOf(began.UnixMilli()))
	if err != nil {
		t.Fatal(err)
	}
	e := alarm.Event{Priority: alarm.P0, Kind: alarm.VoltageAbsent, Source: report.SourceOf(pub), Seq: 9, At: began.UnixMilli(), Unc: 40, Count: 1,
		Key: alarm.Key{Profile: 1, Code: alarm.CodePhaseL1}, Device: [16]byte{15: 1}, Detail: []byte("phase 1 below 160 V")}
	if err := e.Seal(rand.Reader, day.Day, day.Pub); err != nil {
		t.Fatal(err)
	}
	if err := e.Sign(key); err != nil {
		t.Fatal(err)
	}
	raw, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	box, err := e.BoxKey(func(uint16) (report.DayKey, bool) { return day, true })
	if err != nil {
		t.Fatal(err)
	}
	at := began.Add(time.Second)
	return Raised{Key: pub, Chain: net.certify(t, pub, member.RoleGateway, began), UsagePoint: bytes.Repeat([]byte{0x3f}, 16), Received: &at,
		Detail: "phase 1 below 160 V", BoxKey: &box, Event: raw}
}

func mustFile(t testing.TB, f interface {
	File() ([]byte, Judgement, error)
}) []byte {
	t.Helper()
	raw, _, err := f.File()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestAnOutsiderSeesWhatAGatewayReported(t *testing.T) {
	net := newNetwork(t, 1)
	r := reported(t, net, 3)
	r.Reports[0], r.Reports[2] = r.Reports[2], r.Reports[0] // a store's order is not that of numbers
	raw := mustFile(t, r)
	if !Is(raw) {
		t.Errorf("its own file is not recognised: %.40q", raw)
	}
	j, err := Judge(bytes.NewReader(raw), net.rules)
	if err != nil {
		t.Fatal(err)
	}
	if len(j.Reports) != 3 || j.Gaps != 0 || j.Holder == nil || j.Holder.Role != "gateway" || j.Holder.Zone != "elm" || !j.Holder.Covers {
		t.Fatalf("got %+v, holder %+v", j, j.Holder)
	}
	last := j.Reports[2]
	want := Value{At: began.Add(3 * time.Hour), Channel: "1-0:1.8.0", Value: 1_002_750_000, Unit: "mWh"}
	if last.Number != 3 || len(last.Values) != 8 || last.Values[6] != want {
		t.Errorf("last report: %+v, want the value %+v", last, want)
	}
	if j, err = Judge(bytes.NewReader(raw), nil); err != nil || j.Holder != nil || !j.Shown {
		t.Errorf("without rules: %v, holder %v, certificate shown %v", err, j.Holder, j.Shown)
	}
	r.Reports = [][]byte{r.Reports[0], r.Reports[2]}
	if j, err = Judge(bytes.NewReader(mustFile(t, r)), net.rules); err != nil || j.Gaps != 1 {
		t.Errorf("one of three left out: %d gaps, %v", j.Gaps, err)
	}
}

func TestAnOutsiderSeesWhatADeviceRaised(t *testing.T) {
	net := newNetwork(t, 1)
	r := raised(t, net)
	raw := mustFile(t, r)
	j, err := Judge(bytes.NewReader(raw), net.rules)
	if err != nil || j.Event == nil || j.Event.Kind != "voltage absent" || j.Event.Detail != "phase 1 below 160 V" || j.Event.Sealed || !j.Event.At.Equal(began) || j.Unsigned.Detail != "" {
		t.Fatalf("opened event: %v, %+v, unsigned %+v", err, j.Event, j.Unsigned)
	}
	r.BoxKey = nil
	j, err = Judge(bytes.NewReader(mustFile(t, r)), net.rules)
	if err != nil || !j.Event.Sealed || j.Event.Detail != "" || j.Unsigned.Detail != "phase 1 below 160 V" {
		t.Errorf("without the key of its box the detail is a word of the maker: %v, %+v, unsigned %+v", err, j.Event, j.Unsigned)
	}
	r.BoxKey = &report.BoxKey{1}
	if _, _, err := r.File(); !errors.Is(err, ErrEvidence) {
		t.Errorf("a key that does not open the box: %v", err)
	}
}

// TestAnyChangedByteIsRefused: every bit of a file is refused when flipped, but
// those of what stands there as unsigned, which change that and nothing else.
func TestAnyChangedByteIsRefused(t *testing.T) {
	net := newNetwork(t, 1)
	for name, raw := range map[string][]byte{"reports": mustFile(t, reported(t, net, 2)), "event": mustFile(t, raised(t, net))} {
		want, err := Judge(bytes.NewReader(raw), net.rules)
		if err != nil {
			t.Fatal(err)
		}
		from, to := bytes.Index(raw, []byte(`"unsigned"`)), 0
		if to = from + bytes.Index(raw[from:], []byte("}")); from < 0 {
			t.Fatal("a file without unsigned part")
		}
		for i := range len(raw) {
			bad := bytes.Clone(raw)
			bad[i] ^= 1 << (i % 7)
			got, err := Judge(bytes.NewReader(bad), net.rules)
			if err == nil {
				got.Unsigned = want.Unsigned
			}
			switch {
			case err != nil && !errors.Is(err, ErrEvidence):
				t.Fatalf("%s, byte %d: %v", name, i, err)
			case err == nil && (i < from || i > to):
				t.Errorf("%s: byte %d changed (%.20q) and taken", name, i, bad[max(0, i-10):])
			case err == nil && !reflect.DeepEqual(got, want):
				t.Errorf("%s: unsigned byte %d changes what is proved", name, i)
			}
		}
	}
}

// TestTheFileShowsNoNeighbour: two meters behind one gateway, and the file of the
// first holds no reading, salt or evidence of the second.
func TestTheFileShowsNoNeighbour(t *testing.T) {
	pub, key := newKey(t, 1)
	raw := mustFile(t, Reported{Key: pub, Reports: signed(t, key, 2, 1)})
	for i, other := range signed(t, key, 2, 2) {
		e, err := report.DecodeEvidence(other)
		if err != nil {
			t.Fatal(err)
		}
		j, err := Judge(bytes.NewReader(raw), nil)
		if err != nil {
			t.Fatal(err)
		}
		own, err := report.DecodeEvidence(signed(t, key, 2, 1)[i])
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(own.Encode(), e.Leaf[16:]) || bytes.Contains(own.Encode(), e.Leaf[:16]) {
			t.Error("evidence of meter 1 holds what meter 2 reported")
		}
		for _, r := range j.Reports {
			for _, v := range r.Values {
				if r.Meter != 1 || v.Value >= 2_000_000_000 {
					t.Errorf("the file shows meter %d: %+v", r.Meter, v)
				}
			}
		}
		mixed := Reported{Key: pub, Reports: [][]byte{signed(t, key, 2, 1)[0], signed(t, key, 2, 2)[1]}}
		if _, _, err := mixed.File(); !errors.Is(err, ErrEvidence) || !strings.Contains(err.Error(), "report 2 of the file") {
			t.Errorf("reports of two meters in one file: %v", err)
		}
	}
}

// TestWrongKeysAndNetworksAreRefused names the place each time.
func TestWrongKeysAndNetworksAreRefused(t *testing.T) {
	net, other := newNetwork(t, 1), newNetwork(t, 1) // the same name, another root
	pub, key := newKey(t, 1)
	stranger, _ := newKey(t, 2)
	sound := reported(t, net, 2)
	for name, c := range map[string]struct {
		change func(*Reported)
		rules  *member.Bundle
		place  string
	}{
		"signed by another key":        {func(r *Reported) { r.Key, r.Chain = stranger, net.certify(t, stranger, member.RoleGateway, began) }, net.rules, "report 1 of the file: signed"},
		"certificate of another key":   {func(r *Reported) { r.Chain = net.certify(t, stranger, member.RoleGateway, began) }, net.rules, "certificate: it is of another key"},
		"certificate of another root":  {func(r *Reported) {}, other.rules, "certificate: network"},
		"certified as no gateway":      {func(r *Reported) { r.Chain = net.certify(t, pub, member.RoleUtility, began) }, net.rules, "which reports no meters"},
		"two reports with one number":  {func(r *Reported) { r.Reports[0] = signed(t, key, 1, 2)[0] }, net.rules, "report 2 of the file"},
		"the same report twice":        {func(r *Reported) { r.Reports[1] = r.Reports[0] }, net.rules, "report 2 of the file"},
		"no report":                    {func(r *Reported) { r.Reports = nil }, net.rules, "holds 0 reports"},
		"a chain of four certificates": {func(r *Reported) { r.Chain = append(r.Chain, r.Chain[0], r.Chain[0], r.Chain[0]) }, net.rules, "certificate: network"},
	} {
		r := sound
		r.Reports = append([][]byte(nil), sound.Reports...)
		c.change(&r)
		raw, _, err := r.File()
		if err == nil {
			_, err = Judge(bytes.NewReader(raw), c.rules)
		}
		if !errors.Is(err, ErrEvidence) || !strings.Contains(err.Error(), c.place) {
			t.Errorf("%s: got %v, want a word about %q", name, err, c.place)
		}
	}
}

// TestAForkedGatewayIsFound: a gateway that signs two histories of its meter cannot
// have both in one file.
func TestAForkedGatewayIsFound(t *testing.T) {
	pub, key := newKey(t, 1)
	list := signed(t, key, 2, 1)
	e, err := report.DecodeEvidence(list[1])
	if err != nil {
		t.Fatal(err)
	}
	e.Header.Prev[0] ^= 1
	e.Header.Sign(key)
	list[1] = e.Encode()
	if _, _, err := (Reported{Key: pub, Reports: list}).File(); !errors.Is(err, ErrEvidence) || !strings.Contains(err.Error(), "two different reports") {
		t.Errorf("got %v", err)
	}
}

// TestACertificateOfAnotherTimeSaysSo: the key is certified, not at the time of the
// reports.
func TestACertificateOfAnotherTimeSaysSo(t *testing.T) {
	net := newNetwork(t, 1)
	r := reported(t, net, 2)
	for _, at := range []time.Time{began.Add(time.Hour), began.Add(100 * 24 * time.Hour)} {
		pub, _ := newKey(t, 1)
		r.Chain = net.certify(t, pub, member.RoleGateway, at)
		j, err := Judge(bytes.NewReader(mustFile(t, r)), net.rules)
		if err != nil || j.Holder == nil || j.Holder.Covers || !j.Holder.From.After(began) {
			t.Errorf("certified at %v: %v, %+v", at, err, j.Holder)
		}
	}
}

func TestAFileAboveItsLimitIsRefused(t *testing.T) {
	raw := mustFile(t, reported(t, newNetwork(t, 1), 1))
	long := append(raw, bytes.Repeat([]byte(" "), MaxFile+1-len(raw))...)
	if _, err := Judge(bytes.NewReader(long), nil); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v", err)
	}
	for _, text := range []string{"", "{", "{}", "null", `{"evidence": "event", "version": 2}`, `{"evidence": "meter reports", "version": 1, "more": 1}`, string(raw) + "\n"} {
		if _, err := Judge(strings.NewReader(text), nil); !errors.Is(err, ErrEvidence) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

// TestAYearOfHourlyReportsFitsOneFile, and one above the limit says what to do.
func TestAYearOfHourlyReportsFitsOneFile(t *testing.T) {
	pub, key := newKey(t, 1)
	hours := 365 * 24
	if testing.Short() {
		hours = 240
	}
	r := Reported{Key: pub, Reports: signed(t, key, hours, 1)}
	raw := mustFile(t, r)
	if size := len(raw) / hours * 365 * 24; size > MaxFile {
		t.Errorf("a year has %d bytes, the limit is %d", size, MaxFile)
	}
	t.Logf("%d bytes a report, %d of them signed", len(raw)/hours, len(r.Reports[0]))
	if testing.Short() {
		return
	}
	r.Reports = append(r.Reports, r.Reports...)
	if _, _, err := r.File(); !errors.Is(err, ErrLong) {
		t.Errorf("two years: %v", err)
	}
}

// TestWhatIsKeptComesBack: by span, of one source, and goes when it is old.
func TestWhatIsKeptComesBack(t *testing.T) {
	st, err := store.Open(t.TempDir(), store.MasterKey{7}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	pub, key := newKey(t, 1)
	up, source := model.UsagePoint{1}, report.SourceOf(pub)
	b := report.Body{Columns: []report.Column{{Channel: model.ImportTotal}}, Meters: []report.Meter{{Ordinal: 1, Rows: []report.Row{{Values: []int64{5}}}}}}
	root, err := b.Root(1)
	if err != nil {
		t.Fatal(err)
	}
	h := report.Header{Class: report.ClassEnergy, Profile: model.TAFSeries, Source: source, Period: 3_600_000, Slots: 1, Channels: 1, Meters: 1, Root: root}
	err = st.Update(func(tx *store.Tx) error {
		for i := range 24 {
			h.Seq, h.From = uint64(i+1), began.Add(time.Duration(i)*time.Hour).UnixMilli()
			h.Sign(key)
			if err := errors.Join(Keep(tx, up, h, b, 1), Keep(tx, up, h, b, 2)); err != nil { // there is no meter 2
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	collect := func(up model.UsagePoint, from, to time.Duration) (n int, last time.Time, err error) {
		err = st.View(func(tx *store.Tx) error {
			list, at, err := Collect(tx, up, source, began.Add(from), began.Add(to))
			n, last = len(list), at
			return err
		})
		return n, last, err
	}
	if n, last, err := collect(up, 90*time.Minute, 3*time.Hour); n != 2 || err != nil || !last.Equal(began.Add(3*time.Hour)) {
		t.Errorf("half past one to three: %d reports to %v, %v; want the second and third hour's", n, last, err)
	}
	for name, c := range map[string]func() (int, time.Time, error){
		"another meter": func() (int, time.Time, error) { return collect(model.UsagePoint{2}, 0, 24*time.Hour) },
		"another day":   func() (int, time.Time, error) { return collect(up, 24*time.Hour, 48*time.Hour) },
	} {
		if _, _, err := c(); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	err = st.Update(func(tx *store.Tx) error {
		n, err := Forget(tx, up, began.Add(20*time.Hour), 500)
		if n != 20 {
			t.Errorf("forgot %d, want 20", n)
		}
		return err
	})
	if n, _, err2 := collect(up, 0, 24*time.Hour); n != 4 || errors.Join(err, err2) != nil {
		t.Errorf("after forgetting: %d, %v, %v", n, err, err2)
	}
}

func FuzzJudge(f *testing.F) {
	net := newNetwork(f, 1)
	f.Add(mustFile(f, reported(f, net, 2)))
	f.Add(mustFile(f, raised(f, net)))
	pub, _ := newKey(f, 1)
	f.Add([]byte(`{"evidence": "event", "version": 1, "key": "` + hex.EncodeToString(pub) + `", "event": {"signed": ""}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		if _, err := Judge(bytes.NewReader(in), net.rules); err != nil && !errors.Is(err, ErrEvidence) {
			t.Errorf("an error of another kind: %v", err)
		}
	})
}
