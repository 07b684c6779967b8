package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// Certificate proves that no mask of a demand chain leaks less than some rate. It holds
// for every policy that keeps its store within 0..Store quanta and chooses a block's meter
// level, one of the chain's levels, from anything but later demand: with any memory, any
// private chance, and knowing the block's own demand.
//
// Why: let d be a law of a block's demand given the next block's, the store between them
// and the last Depth meter levels. Read backwards from the end, the product of d over all
// blocks is a law of the whole demand given the meter, so by Gibbs' inequality the meter
// tells at least the mean of log d/Q a block, where Q is the chain's own step. The least
// mean that a policy can reach is an average-cost decision problem with the states
// (earlier levels, demand, store), and for any Value the least of cost + next Value -
// Value over all states and levels is a bound below it. Check needs nothing else.
type Certificate struct {
	Chain Chain `json:"chain"`
	Store int   `json:"store"`
	Depth int   `json:"depth"`
	// Decoder is d, by the last Depth meter levels, oldest first, the state of the next
	// block, the store after the block, and the state of the block.
	Decoder []float64 `json:"decoder"`
	// Value is in nats, by the meter levels before the block's own, its state, and the
	// store at its start.
	Value []float64 `json:"value"`
}

// ErrBadCertificate means that a certificate proves nothing: it is incomplete, not
// finite, or its decoder is no law.
var ErrBadCertificate = errors.New("this is no certificate of a leakage limit")

// MaxDepth bounds how many meter levels a certificate's decoder looks back at.
const MaxDepth = 4

// maxDecoder bounds a certificate's size, in numbers.
const maxDecoder = 1 << 23

// shape is how the tables of a certificate are laid out.
type shape struct {
	nx, nl, ns int // states, levels, stores
	nm         int // meter levels before the block's own: nl to the power Depth-1
	level      []int
	q          [][]float64
}

func newShape(ch Chain, store, depth int) (shape, error) {
	if err := ch.Check(); err != nil {
		return shape{}, err
	}
	if store < 0 || store > MaxStore || depth < 1 || depth > MaxDepth {
		return shape{}, fmt.Errorf("a store of %d quanta and a decoder of %d levels: want 0 to %d and 1 to %d", store, depth, MaxStore, MaxDepth)
	}
	g := shape{nx: len(ch.Q), nl: ch.top() + 1, ns: store + 1, nm: 1, q: ch.Q}
	for x := range ch.Q {
		g.level = append(g.level, ch.level(x))
	}
	size := g.nl * g.nx * g.nx * g.ns
	for range depth - 1 {
		g.nm *= g.nl
		size *= g.nl
	}
	if size > maxDecoder {
		return shape{}, fmt.Errorf("a decoder of %d numbers, at most %d: look back at fewer meter levels", size, maxDecoder)
	}
	return g, nil
}

// state is where the stores of a state after meter levels m begin.
func (g *shape) state(m, x int) int { return (m*g.nx + x) * g.ns }

// move is where the stores after a block begin that showed y.
func (g *shape) move(m, y, x int) int { return ((m*g.nl+y)*g.nx + x) * g.ns }

// rows is where the decoder's rows begin for a block that showed y before state z.
func (g *shape) rows(m, y, z int) int { return ((m*g.nl+y)*g.nx + z) * g.ns * g.nx }

// after is which meter levels the next block comes after.
func (g *shape) after(m, y int) int { return (m*g.nl + y) % g.nm }

// window is which stores can stand after a block of state x that showed y, and what
// has to be added for the store before it.
func (g *shape) window(x, y int) (from, to, shift int) {
	shift = g.level[x] - y
	return max(0, -shift), min(g.ns, g.ns-shift), shift
}

// costs are the mean log of decoder over chain, in nats, by earlier levels, level,
// state, and store after the block.
func (g *shape) costs(decoder, out []float64) {
	for m := range g.nm {
		for y := range g.nl {
			for x := range g.nx {
				from, to, _ := g.window(x, y)
				c := out[g.move(m, y, x):][:g.ns]
				h := entropy(g.q[x])
				for s := range c {
					c[s] = h
				}
				for z, q := range g.q[x] {
					if q == 0 {
						continue
					}
					d := decoder[g.rows(m, y, z):][:g.ns*g.nx]
					for s := from; s < to; s++ {
						c[s] += q * math.Log(d[s*g.nx+x])
					}
				}
			}
		}
	}
}

// ahead adds the mean of value at the next block's start to costs.
func (g *shape) ahead(costs, value, out []float64) {
	copy(out, costs)
	for m := range g.nm {
		for y := range g.nl {
			next := g.after(m, y)
			for x := range g.nx {
				from, to, _ := g.window(x, y)
				o := out[g.move(m, y, x):][:g.ns]
				for z, q := range g.q[x] {
					if q == 0 {
						continue
					}
					v := value[g.state(next, z):][:g.ns]
					for s := from; s < to; s++ {
						o[s] += q * v[s]
					}
				}
			}
		}
	}
}

// least is the cheapest move from each state.
func (g *shape) least(ahead, out []float64) {
	for i := range out {
		out[i] = math.Inf(1)
	}
	for m := range g.nm {
		for x := range g.nx {
			o := out[g.state(m, x):][:g.ns]
			for y := range g.nl {
				from, to, shift := g.window(x, y)
				a := ahead[g.move(m, y, x):][:g.ns]
				for s := from; s < to; s++ {
					o[s+shift] = min(o[s+shift], a[s])
				}
			}
		}
	}
}

// Check gives the rate, in bits per block, that the certificate proves, 0 where it
// proves nothing. It computes all of it from Chain, Store, Decoder and Value, and returns
// ErrBadCertificate, ErrBadChain, or an error for sizes out of range.
func (c *Certificate) Check() (bits float64, err error) {
	g, err := newShape(c.Chain, c.Store, c.Depth)
	if err != nil {
		return 0, err
	}
	if want := g.rows(g.nm, 0, 0); len(c.Decoder) != want {
		return 0, fmt.Errorf("%w: a decoder of %d numbers, want %d", ErrBadCertificate, len(c.Decoder), want)
	}
	if want := g.state(g.nm, 0); len(c.Value) != want {
		return 0, fmt.Errorf("%w: %d values, want %d", ErrBadCertificate, len(c.Value), want)
	}
	for i, v := range c.Value {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return 0, fmt.Errorf("%w: value %d is %v", ErrBadCertificate, i, v)
		}
	}
	over := 0. // what rounding lets a row exceed one by, in nats
	for i := 0; i < len(c.Decoder); i += g.nx {
		sum := 0.
		for _, d := range c.Decoder[i : i+g.nx] {
			if !(d >= 0) {
				return 0, fmt.Errorf("%w: decoder row %d has %v", ErrBadCertificate, i/g.nx, d)
			}
			sum += d
		}
		if sum > 1+1e-9 {
			return 0, fmt.Errorf("%w: decoder row %d sums to %v, at most 1", ErrBadCertificate, i/g.nx, sum)
		}
		over = max(over, math.Log(sum))
	}
	moves, states := g.move(g.nm, 0, 0), g.state(g.nm, 0)
	costs, ahead, least := make([]float64, moves), make([]float64, moves), make([]float64, states)
	g.costs(c.Decoder, costs)
	g.ahead(costs, c.Value, ahead)
	g.least(ahead, least)
	rate := math.Inf(1)
	for i, v := range least {
		rate = min(rate, v-c.Value[i])
	}
	return max(0, (rate-over)/math.Ln2), nil
}

// Write writes the certificate as JSON.
func (c *Certificate) Write(w io.Writer) error { return json.NewEncoder(w).Encode(c) }

// maxCertificate bounds what ReadCertificate reads, in bytes.
const maxCertificate = 512 << 20

// ReadCertificate reads what Write wrote. Whether it proves anything is for Check.
func ReadCertificate(r io.Reader) (*Certificate, error) {
	var c Certificate
	if err := json.NewDecoder(io.LimitReader(r, maxCertificate)).Decode(&c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadCertificate, err)
	}
	return &c, nil
}
