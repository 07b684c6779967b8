package leak

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

const quarterHour = 15 * time.Minute

// sequences calls f with every sequence of n of the values.
func sequences(n int, values []int64, f func([]int64)) {
	e := make([]int64, n)
	var fill func(int)
	fill = func(i int) {
		if i == n {
			f(e)
			return
		}
		for _, v := range values {
			e[i] = v
			fill(i + 1)
		}
	}
	fill(0)
}

// TestCurvesCodeCanBeDecoded: lengths of a code that can be decoded fulfil Kraft's
// inequality, whatever the past. All sequences are counted.
func TestCurvesCodeCanBeDecoded(t *testing.T) {
	for _, past := range [][]int64{nil, {3, 3, 3, 3, 3, 3}, {0, 900, 0, 17, -1, 900, 901, 12, 0, 0, 0, 0}} {
		for _, period := range []time.Duration{quarterHour, 30 * time.Minute} {
			kraft := 0.
			codes := map[[4]int64]float64{}
			sequences(4, []int64{0, 1, 2, 3, 5, 17, 900}, func(e []int64) {
				var key [4]int64
				copy(key[:], joined(e, int(period/quarterHour)))
				bits := Curve{quarterHour, past, append([]int64(nil), e...)}.Bits(period)
				if have, ok := codes[key]; !ok || bits < have {
					codes[key] = bits // of the curves with these sums the one with the shortest code
				}
			})
			for _, bits := range codes {
				kraft += math.Exp2(-bits)
			}
			if kraft > 1 || kraft < 1e-6 {
				t.Errorf("past %v, %v: sum of 2^-bits is %v, want at most 1", past, period, kraft)
			}
		}
	}
}

// chain is a two-state Markov source of energies low and high.
type chain struct {
	stay      float64
	low, high int64
}

func (c chain) prob(e []int64) float64 {
	p := .5
	for i := 1; i < len(e); i++ {
		if e[i] == e[i-1] {
			p *= c.stay
		} else {
			p *= 1 - c.stay
		}
	}
	return p
}

func (c chain) draw(r *rand.Rand, n int) []int64 {
	e := []int64{c.low}
	for len(e) < n {
		last := e[len(e)-1]
		if r.Float64() > c.stay {
			last = c.low + c.high - last
		}
		e = append(e, last)
	}
	return e
}

// TestBitsBoundTheMutualInformation: what a party learns of a load from its sums is
// their entropy, counted here over every load; the mean of the bits is not below it.
func TestBitsBoundTheMutualInformation(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []chain{{.5, 0, 300}, {.9, 20, 500}, {.99, 0, 1}} {
		past := c.draw(r, 96)
		for _, join := range []int{1, 2, 4} {
			told := map[[8]int64]float64{} // law of what the party reads
			mean := 0.
			sequences(8, []int64{c.low, c.high}, func(e []int64) {
				var sums [8]int64
				copy(sums[:], joined(e, join))
				p := c.prob(e)
				told[sums] += p
				mean += p * Curve{quarterHour, past, e}.Bits(time.Duration(join)*quarterHour)
			})
			exact := 0.
			for _, p := range told {
				exact -= p * math.Log2(p)
			}
			if mean < exact {
				t.Errorf("%+v, %d slots a sum: %.3f bits, the mutual information is %.3f", c, join, mean, exact)
			}
		}
	}
}

// TestBitsAreCloseToTheEntropyOfAKnownSource: a bound that is far above says nothing.
func TestBitsAreCloseToTheEntropyOfAKnownSource(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, stay := range []float64{.5, .8, .95} {
		c := chain{stay, 40, 700}
		rate := -stay*math.Log2(stay) - (1-stay)*math.Log2(1-stay)
		all := c.draw(r, 28*96)
		mean := 0.
		for day := 7; day < 28; day++ {
			mean += Curve{quarterHour, all[(day-7)*96 : day*96], all[day*96 : (day+1)*96]}.Bits(quarterHour) / 21
		}
		if exact := 96 * rate; mean < exact*.95 || mean > exact*1.15+8 {
			t.Errorf("stay %.2f: %.1f bits a day, the source has %.1f", stay, mean, exact)
		}
	}
}

func TestALongerPeriodNeverTellsMore(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	ladder := []time.Duration{time.Minute, 5 * time.Minute, quarterHour, 30 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour}
	for range 3 {
		var e []int64
		level := int64(3)
		for range 2 * 1440 {
			if r.Float64() < .02 {
				level = r.Int64N(60)
			}
			e = append(e, level+r.Int64N(2))
		}
		c := Curve{time.Minute, e[:1440], e[1440:]}
		last := math.Inf(1)
		for _, p := range ladder {
			b := c.Bits(p)
			if b > last {
				t.Errorf("%v tells %.2f bits, finer energies %.2f", p, b, last)
			}
			last = b
		}
		if hour, minute := c.Bits(time.Hour), c.Bits(time.Minute); hour > minute/4 {
			t.Errorf("an hour's energies tell %.0f bits, a minute's %.0f", hour, minute)
		}
	}
}

// TestAPlantedSecretShows: 96 fair bits in a day's curve tell 96 bits, and a flat
// curve next to none.
func TestAPlantedSecretShows(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	flat, secret := make([]int64, 8*96), make([]int64, 8*96)
	for i := range flat {
		flat[i], secret[i] = 50, 50+int64(r.IntN(2))*100
	}
	f := Curve{quarterHour, flat[:7*96], flat[7*96:]}.Bits(quarterHour)
	s := Curve{quarterHour, secret[:7*96], secret[7*96:]}.Bits(quarterHour)
	if f > 8 || s < 96 || s > 112 {
		t.Errorf("flat %.1f bits, a secret of 96 bits %.1f", f, s)
	}
	if got := (Curve{quarterHour, nil, []int64{-1, -1}}).Bits(quarterHour); got != 0 {
		t.Errorf("no reading tells %v bits", got)
	}
}
