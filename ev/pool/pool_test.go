package pool_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"gridveil/ev/pool"
)

var (
	net      = [8]byte{'t', 'e', 's', 't'}
	operator = key(1)
)

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

const gate = 10 * pool.SlotMS

// offer returns session n and its signed offer of 5 kW up, 3 kW down around 7 kW.
func offer(n byte, change func(*pool.Flex)) (pool.Session, []byte) {
	host, driver := key(2*n+10), key(2*n+11)
	f := pool.Flex{Open: [32]byte{n}, Meter: pool.SignMeter(operator, net, [32]byte{n}, 7, 11_000), From: 12 * pool.SlotMS, MaxMWh: 10_000_000}
	for i := range f.Envelopes {
		f.Envelopes[i] = pool.Envelope{BaselineW: 7_000, UpW: 5_000, DownW: 3_000}
	}
	if change != nil {
		change(&f)
	}
	f.SignHost(host, net)
	f.SignDriver(driver, net)
	return pool.Session{Open: f.Open, Hpk: public(host), Spk: public(driver)}, f.Encode()
}

func newBook() *pool.Book {
	return pool.NewBook(net, public(operator), 12*pool.SlotMS, gate, pool.Quotas{PerSession: 2, PerZone: 3})
}

func TestOffersAreAdmittedOrRefusedByName(t *testing.T) {
	for _, c := range []struct {
		name   string
		now    int64
		change func(*pool.Flex)
		tamper func([]byte) []byte
		want   error
	}{
		{"good", gate - 1, nil, nil, nil},
		{"late baseline", gate, nil, nil, pool.ErrLate},
		{"one changed byte", 0, nil, func(b []byte) []byte { b[147] ^= 1; return b }, pool.ErrSignature},
		{"cut short", 0, nil, func(b []byte) []byte { return b[1:] }, pool.ErrMessage},
		{"beyond the meter's power", 0, func(f *pool.Flex) { f.Envelopes[3].DownW = 4_001 }, nil, pool.ErrMeter},
		{"beyond 1 MW", 0, func(f *pool.Flex) { f.Envelopes[3].DownW = 1 << 31 }, nil, pool.ErrMessage},
		{"for another gate", 0, func(f *pool.Flex) { f.From += pool.SlotMS }, nil, pool.ErrMessage},
		{"not at a quarter of an hour", 0, func(f *pool.Flex) { f.From++ }, nil, pool.ErrMessage},
		{"meter certified by nobody", 0, func(f *pool.Flex) { f.Meter = pool.SignMeter(key(9), net, [32]byte{1}, 7, 11_000) }, nil, pool.ErrSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, raw := offer(1, c.change)
			if c.tamper != nil {
				raw = c.tamper(raw)
			}
			if err := newBook().Admit(raw, s, c.now); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestOneMeterCountsOnceAndFloodsAreCapped(t *testing.T) {
	b := newBook()
	s, raw := offer(1, nil)
	for i, want := range []error{nil, nil, pool.ErrQuota} {
		if err := b.Admit(raw, s, 0); !errors.Is(err, want) {
			t.Errorf("offer %d of one session: got %v, want %v", i, err, want)
		}
	}
	twin, twinRaw := offer(2, func(f *pool.Flex) { f.Meter = pool.SignMeter(operator, net, [32]byte{1}, 7, 11_000) })
	if err := b.Admit(twinRaw, twin, 0); !errors.Is(err, pool.ErrMeter) {
		t.Errorf("the same meter in another session: got %v, want ErrMeter", err)
	}
	for _, n := range []byte{3, 4} {
		s, raw := offer(n, nil)
		if err := b.Admit(raw, s, 0); err != nil {
			t.Errorf("session %d: got %v", n, err)
		}
	}
	s, raw = offer(5, nil)
	if err := b.Admit(raw, s, 0); !errors.Is(err, pool.ErrQuota) {
		t.Errorf("a fourth session of the zone: got %v, want ErrQuota", err)
	}
	if s, _ := offer(6, nil); !errors.Is(b.Admit(raw, s, 0), pool.ErrUnknown) {
		t.Error("an offer in another session's name was admitted")
	}
}

func TestBaselinesAreProvenAgainstTheAnchoredRoot(t *testing.T) {
	b := newBook()
	for _, n := range []byte{3, 1, 2} {
		s, raw := offer(n, nil)
		if err := b.Admit(raw, s, 0); err != nil {
			t.Fatal(err)
		}
	}
	offers, tree := b.Close()
	for i, f := range offers {
		if f.Open[0] != byte(i+1) {
			t.Errorf("offer %d is of session %d", i, f.Open[0])
		}
		if err := pool.CheckProof(tree.Root(), tree.Size(), i, f.Encode(), tree.Prove(i)); err != nil {
			t.Error(err)
		}
		f.Envelopes[0].BaselineW++
		if err := pool.CheckProof(tree.Root(), tree.Size(), i, f.Encode(), tree.Prove(i)); err == nil {
			t.Error("a baseline changed after the gate closed passes")
		}
	}
}

func TestBidHoldsTheReserveAndTheMinimum(t *testing.T) {
	var offers []*pool.Flex
	for n := range byte(10) {
		_, raw := offer(n, nil)
		f, err := pool.DecodeFlex(raw)
		if err != nil {
			t.Fatal(err)
		}
		offers = append(offers, f)
	}
	if bid, ok := pool.MakeBid(offers, 7, 0, 100, 30_000); !ok || bid != (pool.Bid{UpW: 45_000}) {
		t.Errorf("10 x 5 kW less 10 %%, 27 kW down below the minimum: got %+v, %v", bid, ok)
	}
	if bid, ok := pool.MakeBid(offers, 7, 0, 100, 45_001); ok {
		t.Errorf("below the minimum: got %+v", bid)
	}
	if _, ok := pool.MakeBid(offers, 8, 0, 100, 1); ok {
		t.Error("a zone without offers bids")
	}
	for _, c := range [][3]int64{{1000, 1000, 50}, {900, 1000, 100}, {0, 1000, 500}, {2000, 1000, 50}, {0, 0, 250}} {
		if got := pool.ReserveOf(c[0], c[1]); got != c[2] {
			t.Errorf("delivered %d of %d: reserve %d, want %d", c[0], c[1], got, c[2])
		}
	}
}

func TestDispatchIsExactAndFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		big := rapid.SampledFrom([]int64{5, 11_000, 1 << 20}).Draw(t, "big")
		members := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) pool.Member {
			return pool.Member{CapW: rapid.Int64Range(0, big).Draw(t, "cap"), Weight: rapid.Int64Range(1, 1<<20).Draw(t, "weight")}
		}), 0, 60).Draw(t, "members")
		var capacity int64
		for _, m := range members {
			capacity += m.CapW
		}
		target := rapid.Int64Range(0, capacity+10).Draw(t, "target")
		parts, shortfall, err := pool.Dispatch(target, members)
		if err != nil {
			t.Fatal(err)
		}
		sum := shortfall
		for i, p := range parts {
			if p < 0 || p > members[i].CapW {
				t.Fatalf("member %d of cap %d gives %d", i, members[i].CapW, p)
			}
			sum += p
		}
		if sum != target || shortfall != max(0, target-capacity) {
			t.Fatalf("parts and shortfall %d make %d, want %d", shortfall, sum, target)
		}
		for i, a := range members {
			for j, b := range members {
				// Who is not full and weighs at least as much as another gives at least as much, but for the last watt.
				if parts[i] < a.CapW && a.Weight >= b.Weight && parts[i]+1 < parts[j] {
					t.Fatalf("%+v gives %d, %+v gives %d", a, parts[i], b, parts[j])
				}
			}
		}
	})
}

func TestDispatchFindsTheHighestLevel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 2))
	for range 300 {
		members := make([]pool.Member, 1+rnd.IntN(12))
		var capacity int64
		for i := range members {
			members[i] = pool.Member{CapW: rnd.Int64N(40), Weight: 1 << 20 >> rnd.IntN(4)}
			capacity += members[i].CapW
		}
		if capacity == 0 {
			continue
		}
		target := rnd.Int64N(capacity)
		parts, _, err := pool.Dispatch(target, members)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(bruteForce(target, members), parts); d != "" {
			t.Fatalf("target %d of %+v (-want +got):\n%s", target, members, d)
		}
	}
}

// bruteForce raises the level one by one; weights are powers of two of at least 2^17, so steps of 2^17 / 2^20 suffice.
func bruteForce(target int64, members []pool.Member) []int64 {
	var best []int64
	for level := int64(0); ; level++ {
		parts := make([]int64, len(members))
		var sum int64
		for i, m := range members {
			parts[i] = min(m.CapW, level*m.Weight>>20)
			sum += parts[i]
		}
		if sum > target {
			break
		}
		best = parts
	}
	left := target
	for _, p := range best {
		left -= p
	}
	for i := 0; left > 0; i++ {
		if best[i] < members[i].CapW {
			best[i]++
			left--
		}
	}
	return best
}

func TestDispatchRefusesInputOutOfRange(t *testing.T) {
	for _, m := range []pool.Member{{CapW: -1, Weight: 1}, {CapW: 1 << 21, Weight: 1}, {CapW: 1}, {CapW: 1, Weight: 1<<20 + 1}} {
		if _, _, err := pool.Dispatch(1, []pool.Member{m}); !errors.Is(err, pool.ErrMessage) {
			t.Errorf("%+v: got %v", m, err)
		}
	}
	if got := pool.WeightOf(5_000, 800); got != 4_000 {
		t.Errorf("weight %d", got)
	}
	if got := pool.WeightOf(0, 0); got != 1 {
		t.Errorf("weight of nothing %d", got)
	}
}

func TestProofsOfEveryTreeSize(t *testing.T) {
	for size := range 40 {
		leaves := make([][]byte, size)
		for i := range leaves {
			leaves[i] = []byte{byte(i)}
		}
		tree := pool.NewTree(leaves)
		for i := range leaves {
			if err := pool.CheckProof(tree.Root(), size, i, leaves[i], tree.Prove(i)); err != nil {
				t.Errorf("size %d, leaf %d: %v", size, i, err)
			}
			if pool.CheckProof(tree.Root(), size, i, []byte("other"), tree.Prove(i)) == nil {
				t.Errorf("size %d, leaf %d: another leaf passes", size, i)
			}
		}
		if tree.Prove(size) != nil || tree.Prove(-1) != nil {
			t.Errorf("size %d: a proof of no leaf", size)
		}
	}
}

func TestDeliveryCountsOnlyInItsDirectionAndUpToTheOrder(t *testing.T) {
	is := []pool.Interval{
		{BaselineMWh: 1000, MeteredMWh: 400, InstructedMWh: 500},  // 600 given, 500 ordered
		{BaselineMWh: 1000, MeteredMWh: 900, InstructedMWh: 500},  // 100 given
		{BaselineMWh: 1000, MeteredMWh: 1500, InstructedMWh: 500}, // the wrong way
		{BaselineMWh: 0, MeteredMWh: -300, InstructedMWh: 500},    // discharge
	}
	if got, err := pool.Delivered(is, true); err != nil || got != 900 {
		t.Errorf("up: got %d, %v, want 900", got, err)
	}
	if got, err := pool.Delivered(is, false); err != nil || got != 500 {
		t.Errorf("down: got %d, %v, want 500", got, err)
	}
	if _, err := pool.Delivered([]pool.Interval{{InstructedMWh: -1}}, true); !errors.Is(err, pool.ErrMessage) {
		t.Errorf("negative order: got %v", err)
	}
}

func TestAvailabilityIsWhatAPlanWasWorth(t *testing.T) {
	for _, c := range []struct {
		name string
		is   []pool.Interval
		want int64
	}{
		{"kept", []pool.Interval{{BaselineMWh: 100, MeteredMWh: 100}}, 1000},
		{"median, not mean", []pool.Interval{{BaselineMWh: 100, MeteredMWh: 95}, {BaselineMWh: 100, MeteredMWh: 95}, {BaselineMWh: 100, MeteredMWh: 900}}, 950},
		{"two values: the worse", []pool.Interval{{BaselineMWh: 100, MeteredMWh: 100}, {BaselineMWh: 100, MeteredMWh: 80}}, 800},
		{"nothing planned, something drawn", []pool.Interval{{MeteredMWh: 5}}, 0},
		{"nothing shown", nil, 0},
	} {
		if got := pool.Availability(c.is); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

func TestAncillaryPayOfTheDesign(t *testing.T) {
	lines := []pool.Line{{DeliveredMWh: 5_200_000, Availability: 1000}, {DeliveredMWh: 3_100_000, Availability: 950}, {DeliveredMWh: 4_700_000, Availability: 800}}
	paid, kept, err := pool.Pay(lines, 10_000_000, 125, 10_000)
	if err != nil || paid != 8_750_000 || kept != 1_250_000 {
		t.Errorf("got %d paid, %d kept, %v", paid, kept, err)
	}
	for i, want := range []int64{3_820_000, 2_170_000, 2_760_000} {
		if lines[i].PaidMicro != want {
			t.Errorf("line %d: got %d, want %d", i, lines[i].PaidMicro, want)
		}
	}
}

func TestNoMoreIsPaidThanReceived(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) pool.Line {
			return pool.Line{DeliveredMWh: rapid.Int64Range(0, 1<<34).Draw(t, "delivered"), Availability: rapid.Int64Range(0, 1000).Draw(t, "availability")}
		}), 0, 30).Draw(t, "lines")
		received := rapid.Int64Range(0, 1<<36).Draw(t, "received")
		paid, kept, err := pool.Pay(lines, received, rapid.Int64Range(0, 1000).Draw(t, "fee"), 10_000)
		if err != nil || paid+kept != received || kept < 0 {
			t.Fatalf("paid %d, kept %d of %d, %v", paid, kept, received, err)
		}
		var sum int64
		for _, l := range lines {
			if l.PaidMicro%10_000 != 0 || l.DeliveredMWh*l.Availability == 0 && l.PaidMicro != 0 {
				t.Fatalf("line %+v", l)
			}
			sum += l.PaidMicro
		}
		if sum != paid {
			t.Fatalf("lines hold %d, paid %d", sum, paid)
		}
	})
}

func TestInstructionIsSignedByTheOperator(t *testing.T) {
	i := pool.Instruction{Zone: 7, From: pool.SlotMS, To: 2 * pool.SlotMS, W: -40_000, PayMicro: 10_000_000, Currency: 978}
	i.Sign(operator, net)
	back, err := pool.DecodeInstruction(i.Encode())
	if err != nil || *back != i || back.Verify(public(operator), net) != nil {
		t.Fatalf("got %+v, %v", back, err)
	}
	if err := back.Verify(public(key(3)), net); !errors.Is(err, pool.ErrSignature) {
		t.Errorf("another operator: got %v", err)
	}
	if err := back.Verify(public(operator), [8]byte{}); !errors.Is(err, pool.ErrSignature) {
		t.Errorf("another network: got %v", err)
	}
	h := i.Hash()
	i.W++
	if i.Hash() == h {
		t.Error("two instructions have one hash")
	}
}

func FuzzDecodeFlex(f *testing.F) {
	_, raw := offer(1, nil)
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := pool.DecodeFlex(b)
		if err == nil && !bytes.Equal(x.Encode(), b) {
			t.Error("decoded bytes encode to others")
		}
	})
}

func FuzzDecodeMeterCert(f *testing.F) {
	f.Add(pool.SignMeter(operator, net, [32]byte{1}, 7, 11_000).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := pool.DecodeMeterCert(b)
		if err == nil && !bytes.Equal(m.Encode(), b) {
			t.Error("decoded bytes encode to others")
		}
	})
}

func TestMovesStayWithinEnvelopeAndEnergyWindow(t *testing.T) {
	f := &pool.Flex{MinMWh: -4_000_000, MaxMWh: 500_000}
	for i := range f.Envelopes {
		f.Envelopes[i] = pool.Envelope{BaselineW: -1000, UpW: 6000, DownW: 1000}
	}
	for _, c := range []struct {
		name        string
		first, last int
		up          bool
		want        int64
	}{
		{"one slot: the envelope", 0, 0, true, 6000},
		{"two slots share the 2 kWh that are left", 2, 3, true, 4000},
		{"all slots", 0, 7, true, 1000},
		{"down", 0, 7, false, 1000},
	} {
		if got := f.CapW(c.first, c.last, c.up); got != c.want {
			t.Errorf("%s: %d W, want %d", c.name, got, c.want)
		}
	}
	f.MinMWh = 0
	if got := f.CapW(0, 0, true); got != 0 {
		t.Errorf("a plan below its own window: %d W, want 0", got)
	}
}

func FuzzDecodeInstruction(f *testing.F) {
	i := pool.Instruction{To: pool.SlotMS, W: 1, Currency: 978}
	f.Add(i.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := pool.DecodeInstruction(b)
		if err == nil && !bytes.Equal(x.Encode(), b) {
			t.Error("decoded bytes encode to others")
		}
	})
}

func BenchmarkDispatch100k(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 1))
	members := make([]pool.Member, 100_000)
	leaves := make([][]byte, len(members))
	var capacity int64
	for i := range members {
		members[i] = pool.Member{CapW: rnd.Int64N(11_000), Weight: pool.WeightOf(rnd.Int64N(11_000), 500+rnd.Int64N(500))}
		leaves[i] = make([]byte, 85) // a control without its padding
		capacity += members[i].CapW
	}
	start := time.Now()
	root := pool.NewTree(leaves).Root()
	yard := float64(time.Since(start).Nanoseconds())
	b.ResetTimer()
	for b.Loop() {
		if _, _, err := pool.Dispatch(capacity/2, members); err != nil || root == [32]byte{} {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/yard, "ratio")
}
