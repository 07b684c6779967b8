package kernel

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/bits"
	"math/rand/v2"
	"strings"
	"testing"
)

func mustCertify(t *testing.T, ch Chain, ms int, o CertifyOpts) (*Certificate, float64) {
	t.Helper()
	c, err := Certify(context.Background(), ch, ms, o)
	if err != nil {
		t.Fatal(err)
	}
	bits, err := c.Check()
	if err != nil {
		t.Fatal(err)
	}
	return c, bits
}

func sticky(stay float64) Chain {
	return Chain{Q: [][]float64{{stay, 1 - stay}, {1 - stay, stay}}}
}

// TestCertificatesOfSolvedCases: where the optimum is known, for independent demand and,
// by dynamic programming over beliefs, for binary Markov demand with one quantum,
// certificates prove it to a thousandth and never more than it.
func TestCertificatesOfSolvedCases(t *testing.T) {
	for name, law := range laws {
		for _, c := range []int{0, 1, 2, 5} {
			_, want, _, err := Limit(law, c, 1e-8)
			if err != nil {
				t.Fatal(err)
			}
			if _, got := mustCertify(t, Independent(law), c, CertifyOpts{Depth: 1}); got > want+1e-6 || got < .999*want-1e-3 {
				t.Errorf("%s, %d quanta: proven %.6f, optimum %.6f", name, c, got, want)
			}
		}
	}
	for stay, want := range map[float64]float64{.25: .3168, .5: .5, .75: .5284, .9: .3670, .95: .2407} {
		if _, got := mustCertify(t, sticky(stay), 1, CertifyOpts{}); got > want+.002 || got < want-.003 {
			t.Errorf("stay %.2f: proven %.5f, optimum %.4f (within .002)", stay, got, want)
		}
	}
}

// everyMask is the least that a mask of binary demand can tell of so many blocks, in bits:
// the best of all masks that know the whole past of demand and meter, from an empty store.
func everyMask(ch Chain, store, blocks int) float64 {
	px := ch.Stationary()
	ref := make([][][2]float64, blocks) // reference law of the meter by block and its past
	for t := range ref {
		ref[t] = make([][2]float64, 1<<t)
		for y := range ref[t] {
			ref[t][y] = [2]float64{.5, .5}
		}
	}
	fits := func(xs, ys, t, y int) bool { // t demands and as many levels are over, and one demand more
		s := bits.OnesCount(uint(ys)) - bits.OnesCount(uint(xs))
		return s+y >= 0 && s+y <= store && t >= 0
	}
	told := math.Inf(1)
	for range 4000 {
		law := make([][][2]float64, blocks) // by block, demand so far, meter before it
		var after []float64
		for t := blocks - 1; t >= 0; t-- {
			law[t] = make([][2]float64, 1<<(2*t+1))
			value := make([]float64, 1<<(2*t+1))
			for xs := range 1 << (t + 1) {
				for ys := range 1 << t {
					sum, at := 0., xs<<t|ys
					for y := range 2 {
						if !fits(xs, ys, t, y) {
							continue
						}
						g := 0.
						if t < blocks-1 {
							for z, q := range ch.Q[xs&1] {
								g += q * after[(xs<<1|z)<<(t+1)|ys<<1|y]
							}
						}
						law[t][at][y] = ref[t][ys][y] * math.Exp(-g)
						sum += law[t][at][y]
					}
					if sum == 0 {
						continue // no mask comes here
					}
					law[t][at][0], law[t][at][1], value[at] = law[t][at][0]/sum, law[t][at][1]/sum, -math.Log(sum)
				}
			}
			after = value
		}
		was := told
		told = px[0]*after[0] + px[1]*after[1]
		if was-told < 1e-9 {
			break
		}
		p := append([]float64(nil), px...)
		for t := range blocks {
			next := make([]float64, 1<<(2*t+3))
			seen := make([][2]float64, 1<<t)
			for xs := range 1 << (t + 1) {
				for ys := range 1 << t {
					for y := range 2 {
						w := p[xs<<t|ys] * law[t][xs<<t|ys][y]
						seen[ys][y] += w
						for z, q := range ch.Q[xs&1] {
							next[(xs<<1|z)<<(t+1)|ys<<1|y] += w * q
						}
					}
				}
			}
			for ys, w := range seen {
				if sum := w[0] + w[1]; sum > 0 {
					ref[t][ys] = [2]float64{w[0] / sum, w[1] / sum}
				}
			}
			p = next
		}
	}
	return told / math.Ln2
}

// TestCertificatesAgainstEveryMask: what one more block tells under the best of all masks
// of a short demand is what the certificate says, within what the shortness leaves open.
func TestCertificatesAgainstEveryMask(t *testing.T) {
	const blocks = 6
	for _, c := range []struct {
		stay  float64
		store int
	}{{.25, 1}, {.6, 1}, {.75, 1}, {.6, 2}} {
		ch := sticky(c.stay)
		_, bits := mustCertify(t, ch, c.store, CertifyOpts{})
		more := everyMask(ch, c.store, blocks) - everyMask(ch, c.store, blocks-1)
		if math.Abs(bits-more) > .002 {
			t.Errorf("stay %.2f, %d quanta: proven %.4f, the best of all masks tells %.4f of one more block", c.stay, c.store, bits, more)
		}
	}
}

// TestNoCertificateProvesTooMuch: whatever stands in a certificate, it proves at most what
// the best mask tells, and what is no law or has no numbers is refused.
func TestNoCertificateProvesTooMuch(t *testing.T) {
	ch, r := sticky(.75), rand.New(rand.NewPCG(7, 8))
	const optimum = .5287
	good, bits := mustCertify(t, ch, 1, CertifyOpts{})
	if bits < optimum-.001 {
		t.Fatalf("proven %.4f, optimum %.4f", bits, optimum)
	}
	less := 0
	for n := range 300 {
		c := *good
		c.Decoder, c.Value = append([]float64(nil), good.Decoder...), append([]float64(nil), good.Value...)
		for range 1 + n%5 {
			c.Value[r.IntN(len(c.Value))] += r.NormFloat64() / 5
			row := c.Decoder[r.IntN(len(c.Decoder)/2)*2:][:2]
			row[0], row[1] = r.Float64(), 0
			row[1] = 1 - row[0]
		}
		got, err := c.Check()
		if err != nil || got > optimum+.001 {
			t.Fatalf("changed %d times it proves %.4f (%v)", 1+n%5, got, err)
		}
		if got < bits-.001 {
			less++
		}
	}
	if less < 250 {
		t.Errorf("%d of 300 changed certificates prove less: nothing depends on what they say", less)
	}
	for name, spoil := range map[string]func(c *Certificate){
		"decoder above one":  func(c *Certificate) { c.Decoder[0], c.Decoder[1] = .6, .5 },
		"negative decoder":   func(c *Certificate) { c.Decoder[0], c.Decoder[1] = -.5, 1 },
		"decoder not finite": func(c *Certificate) { c.Decoder[0] = math.NaN() },
		"short decoder":      func(c *Certificate) { c.Decoder = c.Decoder[2:] },
		"value not finite":   func(c *Certificate) { c.Value[0] = math.Inf(-1) },
		"short values":       func(c *Certificate) { c.Value = nil },
		"another store":      func(c *Certificate) { c.Store = 2 },
		"no law":             func(c *Certificate) { c.Chain = Chain{Q: [][]float64{{1, 1}, {.5, .5}}} },
		"too deep":           func(c *Certificate) { c.Depth = 9 },
	} {
		c := *good
		c.Decoder, c.Value = append([]float64(nil), good.Decoder...), append([]float64(nil), good.Value...)
		spoil(&c)
		if got, err := c.Check(); err == nil {
			t.Errorf("%s: proves %.4f", name, got)
		}
	}
}

// TestMasksTellMoreThanProven: on random chains, with and without regimes, kernels and
// baselines tell at least what is proven; of most chains a kernel tells little more.
func TestMasksTellMoreThanProven(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	near := 0
	const chains, path = 12, 20_000
	for n := range chains {
		ch := Chain{Q: make([][]float64, 2+r.IntN(3))}
		for x := range ch.Q {
			ch.Q[x] = make([]float64, len(ch.Q))
			for z := range ch.Q[x] {
				ch.Q[x][z] = .02 + math.Pow(r.Float64(), 4)
			}
			ch.Q[x][x] += 2 * r.Float64()
			normalise(ch.Q[x])
		}
		ms := 1 + r.IntN(8)
		_, proven := mustCertify(t, ch, ms, CertifyOpts{})
		k, err := Solve(context.Background(), ch, ms, Opts{Rounds: 60})
		if err != nil {
			t.Fatal(err)
		}
		shadow, err := NewShadow(ch.Stationary(), ms)
		if err != nil {
			t.Fatal(err)
		}
		start := math.Log2(float64(len(ch.Q)*(ms+1))) / path // the observer knows the store at the start
		for _, law := range []Law{k, shadow, Hold{Ms: ms}} {
			if l := mustRate(t, ch, law, ms, path, uint64(n)); l.Bits < proven-4*l.Err-start {
				t.Errorf("chain %d, %d quanta: %T tells %.5f bits, proven %.5f, error %.5f", n, ms, law, l.Bits, proven, l.Err)
			}
		}
		if proven > k.U+1e-6 {
			t.Errorf("chain %d, %d quanta: a kernel's bound is %.6f, proven %.6f", n, ms, k.U, proven)
		}
		if proven > .85*k.U {
			near++
		}
	}
	if near < chains*2/3 {
		t.Errorf("for %d of %d chains more than .85 of the kernel's bound is proven", near, chains)
	}
	regimes := Regime(walk(4000, 3), 3, 5)
	_, proven := mustCertify(t, regimes, 8, CertifyOpts{Depth: 1, Rounds: 60})
	if l := mustRate(t, regimes, Hold{Ms: 8}, 8, path, 1); proven <= 0 || l.Bits < proven {
		t.Errorf("two regimes: hold tells %.4f, proven %.4f", l.Bits, proven)
	}
}

func TestOddCertificatesAreRefused(t *testing.T) {
	for name, err := range map[string]error{
		"chain":     certifyError(context.Background(), Chain{}, 3, CertifyOpts{}),
		"store":     certifyError(context.Background(), sticky(.5), -1, CertifyOpts{}),
		"depth":     certifyError(context.Background(), sticky(.5), 3, CertifyOpts{Depth: 5}),
		"too large": certifyError(context.Background(), Prior(3, 24), 200, CertifyOpts{Depth: 2}),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := certifyError(ctx, sticky(.5), 3, CertifyOpts{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func certifyError(ctx context.Context, ch Chain, ms int, o CertifyOpts) error {
	_, err := Certify(ctx, ch, ms, o)
	return err
}

func FuzzReadCertificate(f *testing.F) {
	c, err := Certify(context.Background(), sticky(.5), 1, CertifyOpts{Depth: 1, Rounds: 2})
	if err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if err := c.Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.String())
	f.Add(`{"chain":{"q":[[1,0],[0,1]],"level":[0,0]},"store":0,"depth":1}`)
	f.Add(`{"chain":{"q":[[1]]},"store":-1,"depth":4}`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ReadCertificate(strings.NewReader(text))
		if err != nil {
			return
		}
		if got, err := c.Check(); err == nil && !(got >= 0 && got <= math.Log2(float64(len(c.Chain.Q)))+1e-6) {
			t.Errorf("proves %v bits of %d states", got, len(c.Chain.Q))
		}
	})
}
