package mix

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/packet"
)

// seeded gives reproducible randomness for tests.
func seeded(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

var start = time.UnixMilli(1_700_000_000_000).UTC()

func mustReplay(t testing.TB, limit int) *Replay {
	t.Helper()
	r, err := NewReplay(limit, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tagOf(i int) (tag [16]byte) {
	for j := range 8 {
		tag[j] = byte(i >> (8 * j))
	}
	return tag
}

func TestAHundredThousandReplaysAreAllRefused(t *testing.T) {
	r := mustReplay(t, RelayTags)
	const n = 100_000
	for i := range n {
		if err := r.Insert(tagOf(i)); err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
	}
	for i := range n {
		if err := r.Insert(tagOf(i)); !errors.Is(err, ErrReplayed) {
			t.Fatalf("replay of packet %d: %v", i, err)
		}
	}
	if r.Len() != n {
		t.Errorf("table counts %d packets, want %d", r.Len(), n)
	}
}

func TestAFullReplayTableRefusesAndForgetsNothing(t *testing.T) {
	const limit = 1 << 12
	r := mustReplay(t, limit)
	taken := 0
	for i := range limit + 100 {
		if err := r.Insert(tagOf(i)); err == nil {
			taken++
		} else if !errors.Is(err, ErrReplayFull) {
			t.Fatal(err)
		}
	}
	if taken > limit || taken < limit*95/100 {
		t.Errorf("%d packets taken, limit %d", taken, limit)
	}
	if len(r.tags) > 2*limit {
		t.Errorf("table has %d slots for %d packets", len(r.tags), limit)
	}
	if err := r.Insert(tagOf(0)); !errors.Is(err, ErrReplayed) {
		t.Errorf("the first packet is forgotten: %v", err)
	}
	if r.Wipe(); !errors.Is(r.Insert(tagOf(7)), ErrReplayFull) {
		t.Error("a wiped table takes packets")
	}
}

func TestTwoTablesPutATagInDifferentPlaces(t *testing.T) {
	a, err := NewReplay(LeafTags, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewReplay(LeafTags, seeded(2))
	if err != nil {
		t.Fatal(err)
	}
	if a.shorten(tagOf(1)) == b.shorten(tagOf(1)) {
		t.Error("the place of a tag does not depend on the table's secret")
	}
}

func TestExponentialTimesHaveTheirMeanAndShape(t *testing.T) {
	rnd := seeded(3)
	const n, mean = 50_000, 30 * time.Second
	var sum time.Duration
	above := 0
	for range n {
		d, err := Exp(mean, rnd)
		if err != nil || d < 0 {
			t.Fatalf("Exp: %v, %v", d, err)
		}
		sum += d
		if d > mean {
			above++
		}
	}
	if got := (sum / n).Seconds(); math.Abs(got-30) > 0.6 {
		t.Errorf("mean %.2f s, want 30", got)
	}
	if share := float64(above) / n; math.Abs(share-1/math.E) > 0.01 {
		t.Errorf("%.3f of all times are above the mean, want 0.368", share)
	}
	if d, err := Exp(0, nil); d != 0 || err != nil {
		t.Errorf("a mean of zero gives %v, %v", d, err)
	}
}

func TestAHopNeverHoldsLongerThanAPacketMayAsk(t *testing.T) {
	rnd := seeded(4)
	for range 1000 {
		if d, err := HopDelay(time.Hour, rnd); err != nil || d > packet.MaxDelay {
			t.Fatalf("HopDelay: %v, %v", d, err)
		}
	}
}

func TestClassesKeepTheirDocumentedTimes(t *testing.T) {
	p := member.Policy{HopMS: 30_000, SessionUp: 4, SessionDown: 2}
	for c, want := range map[Class]Timing{
		ClassMeter:   {true, 30 * time.Second, 8 * time.Minute, time.Minute, 3, 8, 8},
		ClassSession: {false, 75 * time.Millisecond, 2 * time.Second, 500 * time.Millisecond, 3, 4, 2},
		ClassLab:     {false, 0, 2 * time.Second, 500 * time.Millisecond, 3, 8, 8},
	} {
		if got := c.Timing(p); got != want {
			t.Errorf("class %s: got %+v, want %+v", c, got, want)
		}
	}
}

func TestAHoldNeverReleasesEarlyAndLosesNothing(t *testing.T) {
	rnd := seeded(5)
	r := rand.New(rnd)
	h := NewHold(RelayHold)
	const n = 5000
	for i := range n {
		p := new(packet.Packet)
		p[0], p[1] = byte(i), byte(i>>8)
		delay := time.Duration(r.IntN(600_000)) * time.Millisecond
		if err := h.Add(packet.Routing{Next: packet.NodeKey{1}, Delay: delay}, p, start); err != nil {
			t.Fatal(err)
		}
	}
	released := 0
	for now := start; now.Before(start.Add(packet.MaxDelay + time.Second)); now = now.Add(time.Second) {
		batch, err := h.Due(now, 0, rnd)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range batch {
			if x.Due.After(now) {
				t.Fatal("a packet left early")
			}
		}
		if next, ok := h.Next(); ok && !next.After(now) {
			t.Fatal("a due packet stayed")
		}
		released += len(batch)
	}
	if released != n || h.Len() != 0 {
		t.Errorf("%d of %d packets came out, %d stay", released, n, h.Len())
	}
}

func TestAHoldRefusesAboveItsLimit(t *testing.T) {
	h := NewHold(LeafHold)
	relay := packet.Routing{Next: packet.NodeKey{1}}
	for i := range LeafHold {
		if err := h.Add(relay, new(packet.Packet), start); err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
	}
	if err := h.Add(relay, new(packet.Packet), start); !errors.Is(err, ErrHoldFull) {
		t.Errorf("packet %d: %v", LeafHold+1, err)
	}
	if batch, err := h.Due(start, MaxBatch, seeded(6)); err != nil || len(batch) != MaxBatch {
		t.Errorf("a batch has %d packets (%v)", len(batch), err)
	}
	if err := NewHold(1).Add(packet.Routing{Flag: packet.FlagDeliver}, nil, start); !errors.Is(err, packet.ErrRouting) {
		t.Errorf("a delivered packet is held: %v", err)
	}
}

func TestABatchLeavesInAnyOrderEquallyOften(t *testing.T) {
	rnd := seeded(7)
	const rounds = 24_000
	seen := map[[4]int]int{}
	for range rounds {
		batch := []int{0, 1, 2, 3}
		if err := Shuffle(batch, rnd); err != nil {
			t.Fatal(err)
		}
		seen[[4]int(batch)]++
	}
	chi := 0.0
	for _, n := range seen {
		chi += (float64(n) - 1000) * (float64(n) - 1000) / 1000
	}
	if len(seen) != 24 || chi > 60 { // 23 degrees of freedom: 1 - 1e-5 quantile is 59
		t.Errorf("%d of 24 orders, chi-square %.1f", len(seen), chi)
	}
}

// slotTimes runs a schedule for a day and returns the gaps in seconds.
func slotTimes(t *testing.T, mean time.Duration, seed byte) []float64 {
	t.Helper()
	rnd := seeded(seed)
	var s Slots
	if err := s.Start(start, mean, rnd); err != nil {
		t.Fatal(err)
	}
	var gaps []float64
	last := start
	for last.Sub(start) < 24*time.Hour {
		at := s.Next()
		if took, err := s.Take(at.Add(-time.Millisecond), mean, rnd); took || err != nil {
			t.Fatalf("a slot comes early (%v)", err)
		}
		if took, err := s.Take(at, mean, rnd); !took || err != nil {
			t.Fatalf("a slot does not come (%v)", err)
		}
		gaps = append(gaps, at.Sub(last).Seconds())
		last = at
	}
	return gaps
}

func TestSlotsAreAPoissonFlow(t *testing.T) {
	// Kolmogorov-Smirnov distance to the exponential law; the 1 % limit is 1.63/sqrt(n).
	passed := 0
	for seed := range 20 {
		gaps := slotTimes(t, 30*time.Second, byte(100+seed))
		slices.Sort(gaps)
		worst, n := 0.0, float64(len(gaps))
		for i, g := range gaps {
			law := 1 - math.Exp(-g/30)
			worst = max(worst, math.Abs(law-float64(i)/n), math.Abs(law-float64(i+1)/n))
		}
		if worst < 1.63/math.Sqrt(n) {
			passed++
		}
	}
	if passed < 19 {
		t.Errorf("%d of 20 days look like a Poisson flow", passed)
	}
}

func TestAScheduleThatWasSuspendedDoesNotBurst(t *testing.T) {
	rnd := seeded(8)
	var s Slots
	if took, err := s.Take(start, time.Minute, rnd); took || err != nil {
		t.Fatal("a schedule that was not started has a slot")
	}
	if err := s.Start(start, 30*time.Second, rnd); err != nil {
		t.Fatal(err)
	}
	late, sent := start.Add(8*time.Hour), 0
	for {
		took, err := s.Take(late, 30*time.Second, rnd)
		if err != nil {
			t.Fatal(err)
		}
		if !took {
			break
		}
		sent++
	}
	if sent != 1 {
		t.Errorf("%d slots at once after eight hours of sleep, want 1", sent)
	}
}

func TestLostLoopsAreNoticed(t *testing.T) {
	var l Loops
	relays := []packet.NodeKey{{1}, {2}, {3}}
	for i := range 40 {
		l.Sent(LoopID{byte(i)}, relays, start)
	}
	for i := range 20 {
		if o, known := l.Returned(LoopID{byte(i)}, start); !known || o.Lost || len(o.Relays) != 3 {
			t.Fatalf("loop %d: %+v, %v", i, o, known)
		}
	}
	if _, known := l.Returned(LoopID{0}, start); known {
		t.Error("a loop returns twice")
	}
	if lost := l.Expire(start.Add(loopGrace)); len(lost) != 0 {
		t.Errorf("%d loops are lost before their time", len(lost))
	}
	if lost := l.Expire(start.Add(loopGrace + 1)); len(lost) != 20 || !lost[0].Lost {
		t.Errorf("%d loops are lost, want 20", len(lost))
	}
	if ratio, enough := l.LostRatio(start.Add(3 * time.Minute)); ratio != 0.5 || !enough {
		t.Errorf("lost ratio %.2f (%v), want 0.50", ratio, enough)
	}
	l.Expire(start.Add(2 * time.Hour))
	if _, enough := l.LostRatio(start.Add(2 * time.Hour)); enough {
		t.Error("loops of more than an hour ago still count")
	}
}

func TestAFloodFillsOnlyTheFloodersQueue(t *testing.T) {
	rnd := seeded(9)
	f := NewFair(RelayQueue)
	flood, honest := packet.NodeKey{1}, packet.NodeKey{2}
	lost, sent := 0, 0
	now := start
	// 100 s: 100 packets/s relay capacity, an honest leaf at 1/s, a flooder at 2000/s with a relay's bucket.
	for tick := range 10_000 {
		now = now.Add(10 * time.Millisecond)
		for range 20 {
			_ = f.Offer(flood, RelayRate, new(packet.Packet), now, rnd) // refusals are the point
		}
		if tick%100 == 0 {
			sent++
			if f.Offer(honest, LeafRate, new(packet.Packet), now, rnd) != nil {
				lost++
			}
		}
		f.Take()
	}
	if lost > 0 {
		t.Errorf("%d of %d honest packets lost", lost, sent)
	}
	if f.Len() > QueuePerNeighbour+1 {
		t.Errorf("%d packets queued", f.Len())
	}
}

func TestReconnectingBuysNoPackets(t *testing.T) {
	f, rnd, who := NewFair(RelayQueue), seeded(11), packet.NodeKey{1}
	taken := func(now time.Time) (n int) {
		for f.Offer(who, LeafRate, new(packet.Packet), now, rnd) == nil {
			n++
		}
		return n
	}
	if n := taken(start); n != LeafRate.Burst {
		t.Fatalf("%d packets at first, want the burst of %d", n, LeafRate.Burst)
	}
	for range 10 {
		f.Leave(who, start)
		if n := taken(start); n != 0 {
			t.Errorf("%d more packets after a reconnection", n)
		}
	}
	if n := taken(start.Add(time.Second)); n != LeafRate.PerSecond {
		t.Errorf("%d packets a second later, want %d", n, LeafRate.PerSecond)
	}
	if n, want := f.Len(), LeafRate.Burst+LeafRate.PerSecond; n != want {
		t.Errorf("%d packets are queued, want %d: none is lost with its stream", n, want)
	}
	f.Leave(who, start.Add(time.Second))
	f.Leave(packet.NodeKey{2}, start.Add(time.Minute))
	if len(f.neighbours) != 1 {
		t.Error("a neighbour whose packets wait is forgotten")
	}
	for f.Len() > 0 {
		f.Take()
	}
	f.Leave(packet.NodeKey{2}, start.Add(time.Minute))
	if len(f.neighbours) != 0 {
		t.Errorf("%d neighbours are remembered after their buckets are full", len(f.neighbours))
	}
}

func TestNeighboursTakeTurns(t *testing.T) {
	f, rnd := NewFair(RelayQueue), seeded(10)
	for range 3 {
		for _, n := range []byte{1, 2, 3} {
			if err := f.Offer(packet.NodeKey{n}, LeafRate, new(packet.Packet), start, rnd); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.Leave(packet.NodeKey{2}, start) // its packets keep their turns
	var order []byte
	for {
		from, p, ok := f.Take()
		if !ok {
			break
		}
		if p == nil {
			t.Fatal("no packet")
		}
		order = append(order, from[0])
	}
	if want := []byte{1, 2, 3, 1, 2, 3, 1, 2, 3}; !slices.Equal(order, want) || f.Len() != 0 {
		t.Errorf("order %v, want %v", order, want)
	}
}

func TestIntakeLimitsHold(t *testing.T) {
	f, rnd := NewFair(RelayQueue), seeded(11)
	leaf := packet.NodeKey{1}
	for i := range LeafRate.Burst {
		if err := f.Offer(leaf, LeafRate, new(packet.Packet), start, rnd); err != nil {
			t.Fatalf("packet %d of the burst: %v", i, err)
		}
	}
	if err := f.Offer(leaf, LeafRate, new(packet.Packet), start, rnd); !errors.Is(err, ErrRate) {
		t.Errorf("packet above the burst: %v", err)
	}
	if err := f.Offer(leaf, LeafRate, new(packet.Packet), start.Add(500*time.Millisecond), rnd); err != nil {
		t.Errorf("half a second later: %v", err)
	}
	relay, early := packet.NodeKey{2}, 0
	for i := range 600 {
		err := f.Offer(relay, RelayRate, new(packet.Packet), start, rnd)
		switch {
		case errors.Is(err, ErrEarlyDrop):
			early++
		case i < queueEarly && err != nil:
			t.Fatalf("packet %d: %v", i, err)
		}
	}
	if early == 0 || f.Len() > LeafRate.Burst+1+QueuePerNeighbour {
		t.Errorf("%d early drops, %d packets queued", early, f.Len())
	}
	for i := range 100 {
		for range QueuePerNeighbour {
			_ = f.Offer(packet.NodeKey{3, byte(i)}, RelayRate, new(packet.Packet), start, rnd) // refusals are the point
		}
	}
	if f.Len() != RelayQueue {
		t.Errorf("%d packets queued in all, limit %d", f.Len(), RelayQueue)
	}
	if err := f.Offer(packet.NodeKey{4}, LeafRate, new(packet.Packet), start, rnd); !errors.Is(err, ErrQueueFull) {
		t.Errorf("above the total: %v", err)
	}
}

func TestKeysAreAcceptedAroundTheirEpochOnly(t *testing.T) {
	const epoch = 20 * time.Minute
	rnd := seeded(12)
	k := NewKeyring(epoch, LeafTags)
	begin := EpochStart(EpochAt(start, epoch), epoch)
	if changed, err := k.Advance(begin, rnd); !changed || err != nil {
		t.Fatalf("Advance: %v, %v", changed, err)
	}
	first, keys := k.Public(begin)
	if first != EpochAt(start, epoch) || len(keys) != 1+KeysAhead {
		t.Fatalf("epoch %d with %d keys", first, len(keys))
	}
	if changed, err := k.Advance(begin.Add(time.Minute), rnd); changed || err != nil {
		t.Errorf("nothing passed, but: %v, %v", changed, err)
	}
	second := begin.Add(epoch)
	for _, tc := range []struct {
		fact string
		at   time.Time
		ok   bool
	}{
		{"2 min before", second.Add(-KeyMargin), true},
		{"more than 2 min before", second.Add(-KeyMargin - 1), false},
		{"2 min after the end", second.Add(epoch + KeyMargin), true},
		{"more than 2 min after the end", second.Add(epoch + KeyMargin + 1), false},
	} {
		if _, _, err := k.Find(keys[1].ID, tc.at); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.fact, err)
		}
	}
	if got, ok := k.At(second.Add(time.Minute)); !ok || got != keys[1] {
		t.Error("At gives another key than is published")
	}
	if _, ok := k.At(begin.Add(10 * epoch)); ok {
		t.Error("At gives a key that is not drawn")
	}
}

func TestOldKeysAreWipedWithTheirTables(t *testing.T) {
	const epoch = 20 * time.Minute
	rnd := seeded(13)
	k := NewKeyring(epoch, LeafTags)
	begin := EpochStart(EpochAt(start, epoch), epoch)
	if _, err := k.Advance(begin, rnd); err != nil {
		t.Fatal(err)
	}
	_, keys := k.Public(begin)
	key, seen, err := k.Find(keys[0].ID, begin)
	if err != nil {
		t.Fatal(err)
	}
	var p packet.Packet
	hop := []packet.Hop{{Node: packet.NodeKey{1}, KeyID: keys[0].ID, Key: keys[0].Key}}
	if err := packet.Build(&p, hop, packet.FlagDrop, make([]byte, packet.UserSize), rnd); err != nil {
		t.Fatal(err)
	}
	if changed, err := k.Advance(begin.Add(epoch+KeyMargin+time.Second), rnd); !changed || err != nil {
		t.Fatalf("Advance: %v, %v", changed, err)
	}
	if _, err := packet.Unwrap(&p, key, seen); !errors.Is(err, packet.ErrVersion) {
		t.Errorf("a wiped key still opens packets: %v", err)
	}
	if _, _, err := k.Find(keys[0].ID, begin.Add(epoch+KeyMargin+time.Second)); !errors.Is(err, ErrNoKey) {
		t.Errorf("Find: %v", err)
	}
	restarted := NewKeyring(epoch, LeafTags)
	if _, err := restarted.Advance(begin, seeded(14)); err != nil {
		t.Fatal(err)
	}
	if _, again := restarted.Public(begin); again[0] == keys[0] {
		t.Error("a restart keeps the keys")
	}
}

func TestAKeyringThatSleptForADayStartsOver(t *testing.T) {
	const epoch = 20 * time.Minute
	k, rnd := NewKeyring(epoch, LeafTags), seeded(15)
	for _, at := range []time.Time{start, start.Add(24 * time.Hour)} {
		if _, err := k.Advance(at, rnd); err != nil {
			t.Fatal(err)
		}
		if first, keys := k.Public(at); first != EpochAt(at, epoch) || len(keys) != 1+KeysAhead {
			t.Errorf("epoch %d with %d keys", first, len(keys))
		}
	}
}

func BenchmarkReplayInsert(b *testing.B) {
	r := mustReplay(b, RelayTags)
	i := 0
	for b.Loop() {
		if r.Insert(tagOf(i)) != nil {
			r, i = mustReplay(b, RelayTags), 0
		}
		i++
	}
	b.ReportAllocs()
}
