package report

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"gridveil/node/model"
	"gridveil/node/store"
)

func testKeys(seed byte) (ed25519.PublicKey, ed25519.PrivateKey) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	return key.Public().(ed25519.PublicKey), key
}

var profile = model.Profile{TAF: model.TAFSeries, Basis: model.BasisContract, CapturePeriod: 15 * time.Minute,
	ReportPeriod: time.Hour, Channels: []model.Channel{model.ImportTotal, model.ExportTotal}}

func roster(n int) model.Roster {
	r := model.Roster{Version: 7}
	for i := range n {
		r.Entries = append(r.Entries, model.RosterEntry{Ordinal: uint32(i*3 + 1), UsagePoint: model.UsagePoint{byte(i)}})
	}
	return r
}

// series makes n slots of both channels for one meter from time 0.
func series(ordinal uint32, slots int, mutate func(*model.Reading)) Series {
	s := Series{Ordinal: ordinal}
	for i := range slots {
		for _, c := range profile.Channels {
			r := model.Reading{Channel: c, Slot: int64(i) * 900_000, Register: 1_000_000*int64(ordinal) + int64(i)*250_000, Counter: uint32(i + 1)}
			if mutate != nil {
				mutate(&r)
			}
			s.Readings = append(s.Readings, r)
		}
	}
	return s
}

func window(slots int) Window {
	return Window{Class: ClassEnergy, From: 0, To: int64(slots) * 900_000, Period: 15 * time.Minute, Rules: 9}
}

func TestReportTravelsFromReadingsToReadings(t *testing.T) {
	pub, key := testKeys(1)
	in := []Series{series(1, 96, nil), series(4, 96, nil)}
	drafts, err := Build(rand.Reader, profile, roster(2), window(96), in)
	if err != nil || len(drafts) != 1 {
		t.Fatalf("Build: %d drafts, %v", len(drafts), err)
	}
	st := openStore(t)
	q := OpenQueue(st, ClassEnergy, key)
	mustAppend(t, q, st, drafts[0])
	day, err := NewDayKey(nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	msgs, err := q.Due(time.UnixMilli(0), rand.Reader, oneKey{day})
	if err != nil || len(msgs) != 1 {
		t.Fatalf("Due: %d, %v", len(msgs), err)
	}
	m, err := DecodeMessage(msgs[0].Encode())
	if err != nil {
		t.Fatal(err)
	}
	if v := Admit(Known{Key: pub}, m.Header); !v.Take {
		t.Fatalf("Admit: %+v", v)
	}
	body, err := OpenReport(m, day)
	if err != nil {
		t.Fatal(err)
	}
	got := Readings(m.Header, body)
	for _, s := range in {
		if len(got[s.Ordinal]) != len(s.Readings) {
			t.Fatalf("meter %d: %d readings, want %d", s.Ordinal, len(got[s.Ordinal]), len(s.Readings))
		}
		for i, r := range got[s.Ordinal] {
			if r.Register != s.Readings[i].Register || r.Slot != s.Readings[i].Slot || r.Counter != s.Readings[i].Counter {
				t.Errorf("meter %d reading %d: got %+v, want %+v", s.Ordinal, i, r, s.Readings[i])
			}
		}
	}
	t.Logf("2 meters x 96 slots x 2 channels: message of %d bytes", len(msgs[0].Encode()))
}

type oneKey struct{ k DayKey }

func (o oneKey) KeyFor(uint16) ([32]byte, bool) { return o.k.Pub, true }

func openStore(t testing.TB) *store.Store {
	t.Helper()
	st, err := store.Open(t.TempDir(), store.MasterKey{7}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func mustAppend(t testing.TB, q *Queue, st *store.Store, d Draft) {
	t.Helper()
	if err := st.Update(func(tx *store.Tx) error { _, err := q.Append(tx, d); return err }); err != nil {
		t.Fatal(err)
	}
}

func TestQuarantinedMeterNeverLeaves(t *testing.T) {
	drafts, err := Build(rand.Reader, profile, roster(1), window(4), []Series{series(1, 4, nil), series(2, 4, nil)})
	if err != nil || len(drafts) != 1 || len(drafts[0].Body.Meters) != 1 || drafts[0].Body.Meters[0].Ordinal != 1 {
		t.Fatalf("meter outside the roster: %+v, %v", drafts, err)
	}
}

func TestNothingLeavesWithoutAProfile(t *testing.T) {
	cases := map[string]func(*model.Profile, *Window){
		"profile begins later":      func(p *model.Profile, _ *Window) { p.From = 1 },
		"profile ended":             func(p *model.Profile, _ *Window) { p.To = 900_000 },
		"finer slots than allowed":  func(p *model.Profile, _ *Window) { p.CapturePeriod = time.Hour },
		"only as private shares":    func(p *model.Profile, _ *Window) { p.TAF = model.TAFGrid },
		"fine series without share": func(p *model.Profile, _ *Window) { p.TAF = model.TAFHighFreq },
	}
	for name, change := range cases {
		p, w := profile, window(4)
		change(&p, &w)
		if _, err := Build(rand.Reader, p, roster(1), w, []Series{series(1, 4, nil)}); !errors.Is(err, ErrNoProfile) {
			t.Errorf("%s: got %v, want ErrNoProfile", name, err)
		}
	}
	p := profile
	p.Channels = []model.Channel{model.ImportTotal}
	drafts, err := Build(rand.Reader, p, roster(1), window(4), []Series{series(1, 4, nil)})
	if err != nil || len(drafts[0].Body.Columns) != 1 {
		t.Errorf("channel outside the profile left: %+v, %v", drafts, err)
	}
}

func TestEpochChangeSplitsReports(t *testing.T) {
	s := series(1, 8, func(r *model.Reading) {
		if r.Slot >= 3*900_000 {
			r.Epoch = 1
		}
	})
	drafts, err := Build(rand.Reader, profile, roster(1), window(8), []Series{s})
	if err != nil || len(drafts) != 2 || drafts[0].Slots != 3 || drafts[1].Slots != 5 || drafts[1].Body.Meters[0].Epoch != 1 {
		t.Fatalf("drafts: %+v, %v", drafts, err)
	}
}

func TestSlotLackingAChannelIsAbsent(t *testing.T) {
	s := series(1, 4, nil)
	s.Readings = append(s.Readings[:3], s.Readings[4:]...) // slot 1 loses its export register
	drafts, err := Build(rand.Reader, profile, roster(1), window(4), []Series{s})
	if err != nil || len(drafts[0].Body.Meters[0].Rows) != 3 {
		t.Fatalf("drafts: %+v, %v", drafts, err)
	}
}

// anyBody draws bodies that Encode accepts.
func anyBody(t *rapid.T) (Body, uint16) {
	slots := uint16(rapid.IntRange(1, 40).Draw(t, "slots"))
	var b Body
	copy(b.Seed[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed"))
	code := 0
	for range rapid.IntRange(1, 4).Draw(t, "channels") {
		code += rapid.IntRange(1, 9).Draw(t, "code")
		b.Columns = append(b.Columns, Column{model.Channel(code), uint8(rapid.IntRange(0, maxScale).Draw(t, "scale"))})
	}
	ordinal := uint32(0)
	for range rapid.IntRange(1, 5).Draw(t, "meters") {
		ordinal += uint32(rapid.IntRange(1, 300).Draw(t, "step"))
		m := Meter{Ordinal: ordinal, State: model.ReadingState(rapid.IntRange(0, 3).Draw(t, "state")),
			Epoch: uint16(rapid.IntRange(0, 2).Draw(t, "epoch")), Counter: uint32(rapid.IntRange(0, 1<<30).Draw(t, "counter"))}
		for s := range slots {
			if !rapid.Bool().Draw(t, "present") {
				continue
			}
			r := Row{Slot: s, Status: model.StatusBits(rapid.IntRange(0, 3).Draw(t, "status")),
				PQ: uint16(rapid.IntRange(0, 1).Draw(t, "pq")), Flags: uint32(rapid.IntRange(0, 1<<20).Draw(t, "flags"))}
			for _, c := range b.Columns {
				r.Values = append(r.Values, rapid.Int64Range(0, MaxValue/pow10[c.Scale]).Draw(t, "value")*pow10[c.Scale])
			}
			m.Rows = append(m.Rows, r)
		}
		b.Meters = append(b.Meters, m)
	}
	return b, slots
}

func headerFor(b Body, slots uint16) Header {
	return Header{Class: ClassEnergy, Profile: model.TAFSeries, Seq: 1, Period: 900_000, Slots: slots,
		Channels: uint16(len(b.Columns)), Meters: uint32(len(b.Meters))}
}

func TestBodyEncodingIsBijective(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, slots := anyBody(t)
		raw, err := b.Encode(slots)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeBody(headerFor(b, slots), raw)
		if err != nil {
			t.Fatalf("decode: %v", err)
		}
		if !reflect.DeepEqual(got, b) {
			t.Fatalf("decoded %+v, want %+v", got, b)
		}
	})
}

func TestRecordLackingAColumnDoesNotParse(t *testing.T) {
	drafts, _ := Build(rand.Reader, profile, roster(3), window(6), []Series{series(1, 6, nil), series(4, 6, nil), series(7, 6, nil)})
	d := drafts[0]
	raw, err := d.Body.Encode(d.Slots)
	if err != nil {
		t.Fatal(err)
	}
	h := headerFor(d.Body, d.Slots)
	for cut := range raw {
		if _, err := DecodeBody(h, raw[:cut]); !errors.Is(err, ErrInvalidReport) {
			t.Fatalf("body cut to %d of %d bytes parsed: %v", cut, len(raw), err)
		}
	}
	if _, err := DecodeBody(h, append(raw, 0)); err == nil {
		t.Error("body with a byte too many parsed")
	}
}

func TestRootIsRFC6962(t *testing.T) {
	a, b, c := tlog.RecordHash([]byte("a")), tlog.RecordHash([]byte("b")), tlog.RecordHash([]byte("c"))
	want := tlog.NodeHash(tlog.NodeHash(a, b), c)
	if got, err := rootOf([]tlog.Hash{a, b, c}); err != nil || got != [32]byte(want) {
		t.Errorf("root of three leaves: %x, %v, want %x", got, err, want)
	}
}

func TestHeaderBitFlipsNeverVerify(t *testing.T) {
	pub, key := testKeys(1)
	h := Header{Class: ClassEnergy, Profile: model.TAFSeries, Source: SourceOf(pub), Seq: 1, Period: 900_000, Slots: 4, Channels: 1, Meters: 1}
	h.Sign(key)
	raw := h.Encode()
	if got, err := DecodeHeader(raw); err != nil || got != h || got.Verify(pub) != nil {
		t.Fatalf("sound header: %v", err)
	}
	for i := range len(raw) * 8 {
		bad := bytes.Clone(raw)
		bad[i/8] ^= 1 << (i % 8)
		if got, err := DecodeHeader(bad); err == nil && got.Verify(pub) == nil {
			t.Fatalf("bit %d flipped: still verifies", i)
		}
	}
}

func TestSealedBodyOpensOnlyWithItsKeyAndHeader(t *testing.T) {
	day, _ := NewDayKey(nil, 20000)
	other, _ := NewDayKey(nil, 20000)
	h := Header{Class: ClassEnergy, Profile: model.TAFSeries, Seq: 1, Period: 900_000, Slots: 4, Channels: 1, Meters: 1}
	body := []byte("some body")
	m, err := Seal(rand.Reader, h, body, day.Day, day.Pub)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := day.OpenBody(m); err != nil || !bytes.Equal(got, body) {
		t.Fatalf("OpenBody: %q, %v", got, err)
	}
	if _, err := other.OpenBody(m); !errors.Is(err, ErrOpen) {
		t.Errorf("other key: %v, want ErrOpen", err)
	}
	m.Header.Seq++
	if _, err := day.OpenBody(m); !errors.Is(err, ErrOpen) {
		t.Errorf("other header: %v, want ErrOpen", err)
	}
	restored, err := DayKeyFrom(day.Day, day.Secret())
	m.Header.Seq--
	if got, err2 := restored.OpenBody(m); err != nil || err2 != nil || !bytes.Equal(got, body) {
		t.Errorf("restored key: %v, %v", err, err2)
	}
	if s := fmt.Sprintf("%v %+v %#v", day, day, day); bytes.Contains([]byte(s), []byte(fmt.Sprint(day.priv[0], " ", day.priv[1]))) {
		t.Error("a printed day key shows its private half")
	}
}

func TestPaddingHidesSizeWithinAFactorOfFour(t *testing.T) {
	for _, n := range []int{0, 1, 510, 511, 512, 2047, 2048, MaxBody} {
		p, err := pad(make([]byte, n))
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if got, err := unpad(p); err != nil || len(got) != n {
			t.Errorf("%d bytes come back as %d, %v", n, len(got), err)
		}
	}
	if _, err := pad(make([]byte, MaxBody+1)); !errors.Is(err, ErrInvalidReport) {
		t.Errorf("body above the limit: %v", err)
	}
	p, _ := pad(make([]byte, 600))
	if _, err := unpad(append(p, make([]byte, 8192-2048)...)); !errors.Is(err, ErrOpen) {
		t.Errorf("padding longer than needed: %v, want ErrOpen", err)
	}
}

func TestAdmitDecidesByChain(t *testing.T) {
	pub, key := testKeys(1)
	sign := func(h Header) Header {
		h.Class, h.Profile, h.Source, h.Period, h.Slots, h.Channels, h.Meters, h.Roster =
			ClassEnergy, model.TAFSeries, SourceOf(pub), 900_000, 1, 1, 1, 7
		h.Sign(key)
		return h
	}
	first := sign(Header{Seq: 1})
	second := sign(Header{Seq: 2, Prev: first.Hash()})
	known := Known{Key: pub, Head: Head{}.Advance(first)}
	forged := second
	forged.Root[0] ^= 1
	cases := map[string]struct {
		known Known
		h     Header
		want  Verdict
	}{
		"first of a chain":              {Known{Key: pub}, first, Verdict{Take: true}},
		"next of a chain":               {known, second, Verdict{Take: true}},
		"the same again":                {known, first, Verdict{Duplicate: true}},
		"gap":                           {known, sign(Header{Seq: 4}), Verdict{Refuse: FromSeq, WantSeq: 2}},
		"unreferenced source":           {Known{}, first, Verdict{Refuse: Unreferenced}},
		"another roster":                {Known{Key: pub, HasRoster: func(v uint32) bool { return v == 8 }}, first, Verdict{Refuse: WrongRoster}},
		"restart after lost state":      {known, sign(Header{Seq: 2, Flags: FlagRestart}), Verdict{Take: true, Gap: true, GapFrom: 900_000}},
		"same number, other content":    {known, sign(Header{Seq: 1, From: 900_000}), Verdict{Refuse: FromSeq, WantSeq: 2}},
		"predecessor is not ours":       {known, sign(Header{Seq: 2, Prev: [32]byte{1}}), Verdict{Refuse: FromSeq, WantSeq: 2}},
		"signature does not verify":     {known, forged, Verdict{Refuse: BadBody}},
		"answer stands outside a chain": {known, answer(pub, key), Verdict{Take: true}},
	}
	for name, c := range cases {
		got := Admit(c.known, c.h)
		got.Misbehave = nil
		if got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func answer(pub ed25519.PublicKey, key ed25519.PrivateKey) Header {
	h := Header{Class: ClassAnswer, Profile: model.TAFOnDemand, Source: SourceOf(pub), Period: 900_000, Slots: 1, Channels: 1, Meters: 1}
	h.Sign(key)
	return h
}

func TestAckAndRefusalAreBijectiveAndSigned(t *testing.T) {
	pub, key := testKeys(2)
	a := Head{Seq: 5, Hash: [32]byte{9}}.AckFor(ClassEnergy, model.SourceID{1}, LevelFinal, 77, key)
	reply, err := DecodeReply(Reply{Ack: &a}.Encode())
	if err != nil || *reply.Ack != a || reply.Ack.Verify(pub) != nil {
		t.Errorf("ack: %+v, %v", reply.Ack, err)
	}
	r := RefusalFor(Header{Class: ClassEnergy, Seq: 3}, FromSeq, 2, 0, 78, key)
	reply, err = DecodeReply(Reply{Refusal: &r}.Encode())
	if err != nil || *reply.Refusal != r || reply.Refusal.Verify(pub) != nil || r.Seq != 2 {
		t.Errorf("refusal: %+v, %v", reply.Refusal, err)
	}
	other, _ := testKeys(3)
	if a.Verify(other) == nil || r.Verify(other) == nil {
		t.Error("verifies under another key")
	}
}
