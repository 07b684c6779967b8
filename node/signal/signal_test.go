package signal

import (
	"bytes"
	"crypto/rand"
	"errors"
	"slices"
	"testing"
	"time"

	"gridveil/ev"
	grid "gridveil/ev/signal"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/node/store"
)

const zone = "elm"

var (
	begin   = time.Date(2026, 6, 15, 8, 0, 0, 0, time.UTC)
	utility = member.Member{Role: member.RoleUtility, Operator: "northgrid"}
	ssn     = member.Member{Role: member.RoleSSN, Operator: "northgrid", Zone: zone}
	sure    = Measured{ClockSure: true, HasMV: true, MilliVolt: 230_000}
)

func openStore(t *testing.T, dir string, key store.MasterKey) *store.Store {
	t.Helper()
	st, err := store.Open(dir, key, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func openBook(t *testing.T, st *store.Store) *Book {
	t.Helper()
	b, err := OpenBook(Config{Store: st, Rand: rand.Reader, Zone: zone, Operator: "northgrid", Lo: 0, Hi: 2_000_000})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newBook(t *testing.T) *Book {
	return openBook(t, openStore(t, t.TempDir(), store.MasterKey{1}))
}

// version makes every test envelope another register version.
var version uint64

func envelope(t *testing.T, k gossip.Kind, key uint64, b grid.Body, issued time.Time, life time.Duration) gossip.Envelope {
	t.Helper()
	raw, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	version++
	return gossip.Envelope{Kind: k, Key: key, Version: version, Issued: issued, Expires: issued.Add(life), Body: raw}
}

func prices(from time.Time, micro ...int64) *grid.Price {
	return &grid.Price{Currency: 978, Kind: grid.TimeOfUse, From: from.UnixMilli(), StepS: 3600, Prices: micro}
}

func dayAhead(t *testing.T, from time.Time, micro ...int64) gossip.Envelope {
	return envelope(t, gossip.KindPrice, PriceKey(zone, Flat, false), prices(from, micro...), from, PriceLife)
}

func peak(t *testing.T, issued, from time.Time, micro int64) gossip.Envelope {
	p := prices(from, micro)
	p.Kind = grid.CriticalPeak
	return envelope(t, gossip.KindPrice, PriceKey(zone, Flat, true), p, issued, PriceLife)
}

func limited(t *testing.T, at time.Time, importW int64, mv int64) gossip.Envelope {
	n := &grid.NetState{Zone: ZoneNumber(zone), From: at.UnixMilli(), To: at.Add(20 * time.Minute).UnixMilli(), ImportMaxW: importW, ExportMaxW: Unlimited, MilliVolt: mv}
	return envelope(t, gossip.KindNetState, NetStateKey(zone), n, at, NetStateLife)
}

func take(t *testing.T, b *Book, e gossip.Envelope, from member.Member, m Measured, now time.Time) grid.Reason {
	t.Helper()
	v, mine, err := b.Take(e, from, m, now)
	if err != nil || !mine {
		t.Fatalf("Take: mine %v, %v", mine, err)
	}
	return v.Reason
}

func TestSignalsThatCannotBeMeantAreRefusedByName(t *testing.T) {
	for _, c := range []struct {
		name   string
		signal gossip.Envelope
		from   member.Member
		m      Measured
		at     time.Duration // after begin
		want   grid.Reason
	}{
		{"day-ahead prices are taken", dayAhead(t, begin, 320_000, 320_000), utility, sure, 0, grid.None},
		{"a limit is taken", limited(t, begin, 4_200, 0), ssn, sure, 0, grid.None},
		{"prices whose time is over", dayAhead(t, begin, 320_000), utility, sure, 2 * time.Hour, grid.Expired},
		{"a price outside the contract's band", dayAhead(t, begin, 3_000_000), utility, sure, 0, grid.PriceBand},
		{"a price of ten times the hour before", dayAhead(t, begin, 100_000, 1_000_000), utility, sure, 0, grid.PriceJump},
		{"a critical peak in an hour", peak(t, begin, begin.Add(time.Hour), 1_500_000), utility, sure, 0, grid.NoNotice},
		{"a critical peak in three hours is taken", peak(t, begin, begin.Add(3*time.Hour), 1_500_000), utility, sure, 0, grid.None},
		{"a limit while the own clock is wrong", limited(t, begin, 4_200, 0), ssn, Measured{}, 0, grid.ClockUnsure},
		{"a voltage that our meter contradicts", limited(t, begin, 0, 180_000), ssn, sure, 0, grid.Measurement},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBook(t)
			if got := take(t, b, c.signal, c.from, c.m, begin.Add(c.at)); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
			refused := b.Refusals()
			if c.want == grid.None != (len(refused) == 0) {
				t.Errorf("refusals: %v", refused)
			}
			if len(refused) > 0 {
				if back, err := grid.DecodeRefusal(refused[0].Encode()); err != nil || back.Reason != c.want {
					t.Errorf("kept refusal: %v %v", back, err)
				}
			}
			if s := b.Signals(begin.Add(c.at)); c.want != grid.None && (len(s.Prices) > 0 || s.Limit != nil) {
				t.Errorf("a refused signal holds: %+v", s)
			}
		})
	}
}

func TestWhatConcernsOthersIsNotJudged(t *testing.T) {
	b := newBook(t)
	other := dayAhead(t, begin, 320_000)
	other.Key = PriceKey("oak", Flat, false)
	night := dayAhead(t, begin, 320_000)
	night.Key = PriceKey(zone, DayNight, false)
	stranger := member.Member{Role: member.RoleUtility, Operator: "southpower"}
	for name, c := range map[string]struct {
		e    gossip.Envelope
		from member.Member
	}{"another zone": {other, utility}, "another tariff": {night, utility}, "another utility": {dayAhead(t, begin, 320_000), stranger},
		"an aggregator's price": {dayAhead(t, begin, 320_000), member.Member{Role: member.RoleAggregator, Operator: "northgrid"}}} {
		if _, mine, err := b.Take(c.e, c.from, sure, begin); mine || err != nil {
			t.Errorf("%s: mine %v, %v", name, mine, err)
		}
	}
	if len(b.History()) > 0 {
		t.Errorf("history: %v", b.History())
	}
	if err := b.SetTariff(DayNight); err != nil {
		t.Fatal(err)
	}
	if got := take(t, b, night, utility, sure, begin); got != grid.None {
		t.Errorf("the household's tariff: %v", got)
	}
}

func TestPricesAreOneLineOfTime(t *testing.T) {
	b := newBook(t)
	take(t, b, dayAhead(t, begin, 300_000, 300_000, 320_000, 320_000, 320_000), utility, sure, begin)
	take(t, b, peak(t, begin, begin.Add(3*time.Hour), 1_500_000), utility, sure, begin)
	s := b.Signals(begin.Add(30 * time.Minute))
	want := []Price{
		{begin.Add(30 * time.Minute), begin.Add(2 * time.Hour), 300_000, false},
		{begin.Add(2 * time.Hour), begin.Add(3 * time.Hour), 320_000, false},
		{begin.Add(3 * time.Hour), begin.Add(4 * time.Hour), 1_500_000, true},
		{begin.Add(4 * time.Hour), begin.Add(5 * time.Hour), 320_000, false},
	}
	if !slices.Equal(s.Prices, want) {
		t.Errorf("got %v, want %v", s.Prices, want)
	}
	if p, ok := s.PriceAt(begin.Add(200 * time.Minute)); !ok || p != 1_500_000 {
		t.Errorf("price in the peak: %d %v", p, ok)
	}
	if _, ok := s.PriceAt(begin.Add(6 * time.Hour)); ok {
		t.Error("there is a price beyond what was said")
	}
	if s := b.Signals(begin.Add(48 * time.Hour)); len(s.Prices) > 0 {
		t.Errorf("prices after their expiry: %v", s.Prices)
	}
}

func TestAnExpiredLimitLeavesTheDefault(t *testing.T) {
	b := newBook(t)
	take(t, b, limited(t, begin, 6_000, 0), ssn, sure, begin)
	later := begin.Add(5 * time.Minute)
	e := limited(t, later, 8_000, 0)
	take(t, b, e, member.Member{Role: member.RoleUtility, Operator: "northgrid"}, sure, later)
	plan := ev.Demand{Phases: 3, AmpereLeft: 16, PlanW: 11_000}
	at := func(now time.Time) int64 {
		d := plan
		b.Signals(now).Fill(&d, [32]byte{})
		return ev.Resolve(d).W
	}
	if got := at(begin.Add(19 * time.Minute)); got != 8_000 {
		t.Errorf("within the limit: %d W; one register of one zone replaced the other, so 8000", got)
	}
	if got := at(begin.Add(31 * time.Minute)); got != 11_000 {
		t.Errorf("after the limit: %d W, want the plan's 11000", got)
	}
}

func TestLocalLimitsWinOverEverySignal(t *testing.T) {
	b := newBook(t)
	take(t, b, limited(t, begin, 0, 0), ssn, sure, begin)
	k := SessionKey([32]byte{7}, [32]byte{1})
	expect(t, b, k, nil)
	if got := control(t, b, k, 0, &grid.Control{Open: [32]byte{1}, From: begin.UnixMilli(), To: begin.Add(10 * time.Minute).UnixMilli(), SetW: 7_000}, begin); got != grid.None {
		t.Fatal(got)
	}
	s := b.Signals(begin.Add(6 * time.Minute))
	resolve := func(ampere int64) ev.Decision {
		d := ev.Demand{Phases: 1, AmpereLeft: ampere, PlanW: 1_400}
		s.Fill(&d, [32]byte{1})
		return ev.Resolve(d)
	}
	if d := resolve(32); d.W != 4_200 {
		t.Errorf("limit 0 by the operator, 7 kW by the pool: %d W, want the 4200 that s.14a leaves", d.W)
	}
	if d := resolve(10); d.W != 2_300 {
		t.Errorf("with 10 A left in the house: %d W, want 2300", d.W)
	}
	if d := resolve(5); d.W != 0 {
		t.Errorf("with 5 A left in the house: %d W, want 0", d.W)
	}
}

func expect(t *testing.T, b *Book, k Key, own func(*grid.Own)) {
	t.Helper()
	open := [32]byte{1}
	err := b.Expect(Session{Open: open, Line: Line{Key: k}, Own: func() grid.Own {
		o := grid.Own{EnvelopeLo: -5_000, EnvelopeHi: 7_000, MaxW: 11_000}
		if own != nil {
			own(&o)
		}
		return o
	}})
	if err != nil {
		t.Fatal(err)
	}
}

func sealed(t *testing.T, k Key, counter uint64, c *grid.Control, now time.Time) gossip.Envelope {
	t.Helper()
	raw, err := k.Seal(rand.Reader, counter, c)
	if err != nil {
		t.Fatal(err)
	}
	version++
	return gossip.Envelope{Kind: gossip.KindControl, Key: k.Tag(counter), Version: version, Issued: now, Expires: now.Add(ControlLife), Body: raw}
}

func control(t *testing.T, b *Book, k Key, counter uint64, c *grid.Control, now time.Time) grid.Reason {
	t.Helper()
	v, mine, err := b.Control(sealed(t, k, counter, c, now), sure, now)
	if err != nil || !mine {
		t.Fatalf("Control %d: mine %v, %v", counter, mine, err)
	}
	return v.Reason
}

func level(at time.Time, w int64) *grid.Control {
	c := &grid.Control{Open: [32]byte{1}, From: at.UnixMilli(), To: at.Add(10 * time.Minute).UnixMilli(), SetW: w}
	if w < 0 {
		c.Kind = grid.Discharge
	}
	return c
}

func TestControlsAreFollowedOnlyInsideWhatWasOffered(t *testing.T) {
	k := SessionKey([32]byte{7}, [32]byte{1})
	for _, c := range []struct {
		name string
		c    *grid.Control
		own  func(*grid.Own)
		m    Measured
		want grid.Reason
	}{
		{"a level inside the envelope", level(begin, 5_000), nil, sure, grid.None},
		{"a discharge inside the envelope", level(begin, -5_000), nil, sure, grid.None},
		{"more than was offered", level(begin, 7_001), nil, sure, grid.Envelope},
		{"for another session", &grid.Control{Open: [32]byte{2}, From: begin.UnixMilli(), To: begin.UnixMilli() + 1}, nil, sure, grid.OtherSession},
		{"that takes the car below its floor", level(begin, -5_000), func(o *grid.Own) { o.HasFloor, o.SpareMWh = true, 100_000 }, sure, grid.FloorLost},
		{"that makes the departure be missed", level(begin, 0), func(o *grid.Own) {
			o.HasDeparture, o.Departure, o.NeedMWh = true, begin.Add(time.Hour).UnixMilli(), 11_000_000
		}, sure, grid.FloorLost},
		{"that charges while our own voltage is low", level(begin, 5_000), nil, Measured{ClockSure: true, HasMV: true, MilliVolt: 208_000}, grid.AgainstGrid},
		{"while the own clock is wrong", level(begin, 5_000), nil, Measured{}, grid.ClockUnsure},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBook(t)
			expect(t, b, k, c.own)
			v, mine, err := b.Control(sealed(t, k, 0, c.c, begin), c.m, begin)
			if err != nil || !mine || v.Reason != c.want {
				t.Errorf("got %v (mine %v, %v), want %v", v.Reason, mine, err, c.want)
			}
			_, set := b.Signals(begin.Add(9 * time.Minute)).Sets[[32]byte{1}]
			if set != (c.want == grid.None) {
				t.Errorf("set point held: %v", set)
			}
		})
	}
}

// TestAStartIsOneHomesSecret: a control starts at the same moment after a restart,
// and at another one at another home and for the next control.
func TestAStartIsOneHomesSecret(t *testing.T) {
	dir, key := t.TempDir(), store.MasterKey{9}
	st := openStore(t, dir, key)
	b := openBook(t, st)
	c := &grid.Control{From: begin.UnixMilli(), To: begin.Add(time.Hour).UnixMilli()}
	first, next, elsewhere := b.start(c, 0), b.start(c, 1), newBook(t).start(c, 0)
	if first == next && first == elsewhere {
		t.Errorf("all start at %d", first)
	}
	if first < c.From || first > c.From+grid.MaxShift {
		t.Errorf("starts %d ms after its time", first-c.From)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if again := openBook(t, openStore(t, dir, key)).start(c, 0); again != first {
		t.Errorf("after a restart it starts at %d, was %d", again, first)
	}
}

func TestAnOscillatingPoolIsStoppedAfterFourReversals(t *testing.T) {
	b := newBook(t)
	k := SessionKey([32]byte{7}, [32]byte{1})
	expect(t, b, k, nil)
	now := begin
	var got []grid.Reason
	for i := range uint64(8) {
		got = append(got, control(t, b, k, i, level(now, int64(i%2)*5_000), now))
		now = now.Add(2 * time.Minute)
	}
	if n := slices.Index(got, grid.Oscillating); n != 6 {
		t.Errorf("verdicts %v: the sixth step back and forth must be refused", got)
	}
	if r := control(t, b, k, 8, level(now.Add(2*time.Hour), 0), now.Add(2*time.Hour)); r != grid.None {
		t.Errorf("two hours later: %v", r)
	}
}

func TestATakenControlIsNotTakenAgainAfterARestart(t *testing.T) {
	dir, key := t.TempDir(), store.MasterKey{9}
	k := SessionKey([32]byte{7}, [32]byte{1})
	first, refused := sealed(t, k, 0, level(begin, 5_000), begin), dayAhead(t, begin, 3_000_000)
	st := openStore(t, dir, key)
	b := openBook(t, st)
	expect(t, b, k, nil)
	if v, _, err := b.Control(first, sure, begin); !v.OK() || err != nil {
		t.Fatal(v, err)
	}
	take(t, b, limited(t, begin, 6_000, 0), ssn, sure, begin)
	take(t, b, refused, utility, sure, begin)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	b = openBook(t, openStore(t, dir, key))
	s := b.Signals(begin.Add(8 * time.Minute))
	if s.Limit == nil || s.Limit.ImportMaxW != 6_000 || s.Sets[[32]byte{1}].W != 5_000 {
		t.Errorf("after the restart: %+v", s)
	}
	expect(t, b, k, nil) // from counter 0 again: the line does not move back
	if _, mine, err := b.Control(first, sure, begin.Add(time.Minute)); mine || err != nil {
		t.Errorf("the control replayed: mine %v, %v", mine, err)
	}
	before := len(b.History())
	if got := take(t, b, refused, utility, sure, begin.Add(time.Minute)); got != grid.PriceBand || len(b.History()) != before {
		t.Errorf("a refused price came again: %v, %d lines of history, had %d", got, len(b.History()), before)
	}
	if r := control(t, b, k, 1, &grid.Control{Open: [32]byte{1}, From: begin.UnixMilli(), To: begin.Add(time.Hour).UnixMilli(), Kind: grid.Release}, begin.Add(2*time.Minute)); r != grid.None {
		t.Errorf("release: %v", r)
	}
	if sets := b.Signals(begin.Add(8 * time.Minute)).Sets; len(sets) > 0 {
		t.Errorf("after the release: %v", sets)
	}
}

func TestOnlyTheNextEightControlsAreRecognised(t *testing.T) {
	b := newBook(t)
	k := SessionKey([32]byte{7}, [32]byte{1})
	expect(t, b, k, nil)
	if _, mine, _ := b.Control(sealed(t, k, window, level(begin, 0), begin), sure, begin); mine {
		t.Error("the ninth control was recognised")
	}
	if r := control(t, b, k, window-1, level(begin, 0), begin); r != grid.None {
		t.Errorf("the eighth: %v", r)
	}
	if _, mine, _ := b.Control(sealed(t, k, 0, level(begin, 5_000), begin), sure, begin); mine {
		t.Error("an overtaken control was taken")
	}
	if err := b.Forget([32]byte{1}); err != nil {
		t.Fatal(err)
	}
	if len(b.tags) > 0 || len(b.lines) > 0 {
		t.Errorf("forgotten session leaves %d tags, %d lines", len(b.tags), len(b.lines))
	}
	for i := range maxLines + 1 {
		err := b.Expect(Session{Open: [32]byte{byte(i), 1}, Line: Line{Key: Key{byte(i)}}})
		if i == maxLines && !errors.Is(err, ErrLines) || i < maxLines && err != nil {
			t.Errorf("session %d: %v", i, err)
		}
	}
}

func TestAClockThatRecoversJudgesAgain(t *testing.T) {
	b := newBook(t)
	e := limited(t, begin, 6_000, 0)
	if got := take(t, b, e, ssn, Measured{}, begin); got != grid.ClockUnsure {
		t.Fatal(got)
	}
	if got := take(t, b, e, ssn, sure, begin.Add(time.Minute)); got != grid.None {
		t.Errorf("with a sure clock: %v", got)
	}
	if err := b.Sweep(begin.Add(time.Hour)); err != nil || len(b.held) > 0 {
		t.Errorf("after its expiry %d registers are held, %v", len(b.held), err)
	}
}

func TestSealedControlsLookAlikeAndBindTheirNumber(t *testing.T) {
	k := SessionKey([32]byte{7}, [32]byte{1})
	c := level(begin, 5_000)
	a, err := k.Seal(rand.Reader, 3, c)
	if err != nil {
		t.Fatal(err)
	}
	if len(a) != 256 {
		t.Errorf("%d bytes, want 256", len(a))
	}
	if back, err := k.Open(3, a); err != nil || *back != *c {
		t.Errorf("opened %+v, %v", back, err)
	}
	if _, err := k.Open(4, a); !errors.Is(err, ErrSealed) {
		t.Errorf("under another number: %v", err)
	}
	if _, err := SessionKey([32]byte{7}, [32]byte{2}).Open(3, a); !errors.Is(err, ErrSealed) {
		t.Errorf("under another session's key: %v", err)
	}
	a[100] ^= 1
	if _, err := k.Open(3, a); !errors.Is(err, ErrSealed) {
		t.Errorf("altered: %v", err)
	}
	l := Line{k, 9}
	if back, err := ParseLine(l.Bytes()); err != nil || back != l {
		t.Errorf("line: %v %v", back, err)
	}
}

// air is a publisher that may be down.
type air struct {
	sent []gossip.Envelope
	err  error
}

func (a *air) Publish(k gossip.Kind, key uint64, body []byte, expires time.Time) error {
	if a.err == nil {
		a.sent = append(a.sent, gossip.Envelope{Kind: k, Key: key, Body: body, Expires: expires})
	}
	return a.err
}

func TestTheSenderNeverLosesTheLine(t *testing.T) {
	st := openStore(t, t.TempDir(), store.MasterKey{3})
	a := &air{}
	s := &Sender{Host: a, Store: st, Rand: rand.Reader}
	k, open := SessionKey([32]byte{7}, [32]byte{1}), [32]byte{1}
	for i := range 2 * window { // nothing leaves, so nothing is used up
		a.err = errors.New("offline")
		if err := s.Send(k, level(begin, 0), begin); err == nil {
			t.Fatalf("send %d succeeded", i)
		}
	}
	a.err = nil
	if err := s.Send(k, level(begin, 5_000), begin); err != nil {
		t.Fatal(err)
	}
	b := newBook(t)
	expect(t, b, k, nil)
	v, mine, err := b.Control(a.sent[0], sure, begin)
	if !v.OK() || !mine || err != nil {
		t.Errorf("received: %v %v %v", v, mine, err)
	}
	if l, err := s.Line(k, open); err != nil || l.Next != 1 {
		t.Errorf("line %+v, %v", l.Next, err)
	}
	if got := a.sent[0].Expires; !got.Equal(begin.Add(10 * time.Minute)) {
		t.Errorf("expires %v, want with the control", got)
	}
	if err := s.Forget(open); err != nil {
		t.Fatal(err)
	}
	if l, _ := s.Line(k, open); l.Next != 0 {
		t.Error("a forgotten session keeps its counter")
	}
}

func TestTheNetworksCheckRefusesWhatNoHonestNodeSends(t *testing.T) {
	p := member.Policy{PriceMinMicro: 0, PriceMaxMicro: 5_000_000}
	at := func(e gossip.Envelope) gossip.Reason { return Check(e.Kind, p)(e).Reason }
	garbage := dayAhead(t, begin, 1)
	garbage.Body = garbage.Body[1:]
	past := dayAhead(t, begin.Add(-2*time.Hour), 320_000)
	past.Issued = begin
	plain := peak(t, begin, begin.Add(3*time.Hour), 320_000)
	plain.Key = PriceKey(zone, Flat, false)
	elsewhere := limited(t, begin, 0, 0)
	elsewhere.Key = NetStateKey("oak")
	for name, c := range map[string]struct {
		e    gossip.Envelope
		want gossip.Reason
	}{
		"good prices": {dayAhead(t, begin, 320_000), ""}, "garbage": {garbage, ReasonBody}, "a price of ten euros": {dayAhead(t, begin, 10_000_000), ReasonBounds},
		"prices of yesterday": {past, ReasonTimes}, "a peak in the place of prices": {plain, ReasonBody}, "a state of another zone": {elsewhere, ReasonZone},
		"a control of another size": {gossip.Envelope{Kind: gossip.KindControl, Body: make([]byte, 255)}, ReasonBody},
	} {
		if got := at(c.e); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func FuzzOpenControl(f *testing.F) {
	k := SessionKey([32]byte{7}, [32]byte{1})
	raw, err := k.Seal(bytes.NewReader(make([]byte, 64)), 0, level(begin, 5_000))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(Line{k, 1}.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := k.Open(0, b); err == nil && c == nil {
			t.Error("opened nothing")
		}
		if l, err := ParseLine(b); err == nil && !bytes.Equal(l.Bytes(), b) {
			t.Error("line encodes to other bytes")
		}
		for _, kind := range kinds {
			Check(kind, member.Policy{})(gossip.Envelope{Kind: kind, Body: b})
		}
	})
}
