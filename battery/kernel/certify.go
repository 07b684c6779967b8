package kernel

import (
	"context"
	"fmt"
	"math"
)

// CertifyOpts bounds the work of Certify; zero values mean the defaults.
type CertifyOpts struct {
	// Depth is how many meter levels the decoder looks back at, default 2. Each more
	// proves as much or more and takes as many times the work as there are levels.
	Depth  int
	Rounds int // improvements at each depth, default 160
}

func (o CertifyOpts) filled() CertifyOpts {
	if o.Depth == 0 {
		o.Depth = 2
	}
	if o.Rounds == 0 {
		o.Rounds = 160
	}
	return o
}

const (
	// faint is the weight of the shallower decoder in a deeper one: what a policy never
	// shows must be read somehow, or another policy would show it.
	faint = 3e-6
	// momentum is the greatest share of its last change that a policy makes again.
	momentum = .8
	// rare is the least probability of a move while policies are improved.
	rare = 1e-9
	// sweeps and closed end the iterations for values and stationary laws.
	sweeps = 3000
	closed = 1e-6
	// tried is after how many rounds a decoder is tried.
	tried = 10
)

// Certify looks for a certificate of what every mask of demand chain ch with a store of
// 0..ms quanta leaks at least. Any result is a proof; how much it proves depends on the
// work.
//
// The best decoder for a policy is the posterior under it, and the best policy for a
// decoder is a decision problem: policies are improved against their own decoders in
// small steps (mirror descent), from a decoder that sees one meter level to deeper ones.
// It returns ErrBadChain, an error for sizes out of range, or ctx's when cancelled.
func Certify(ctx context.Context, ch Chain, ms int, o CertifyOpts) (*Certificate, error) {
	o = o.filled()
	if _, err := newShape(ch, ms, o.Depth); err != nil {
		return nil, err
	}
	var best *Certificate
	var last *search
	most := math.Inf(-1)
	for depth := 1; depth <= o.Depth; depth++ {
		g, err := newShape(ch, ms, depth)
		if err != nil {
			return nil, err
		}
		s := newSearch(ctx, g, ch.Stationary(), last)
		for r := range o.Rounds {
			s.round(r)
			if r%tried != 0 && r != o.Rounds-1 {
				continue
			}
			if rate := s.try(); rate > most {
				most = rate
				best = &Certificate{Chain: ch, Store: ms, Depth: depth, Decoder: append([]float64(nil), s.decoder...), Value: append([]float64(nil), s.hard...)}
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		last = s
	}
	if best == nil {
		return nil, fmt.Errorf("%w: its levels are too far apart to tell anything", ErrBadChain)
	}
	return best, nil
}

// search improves a policy and its decoder.
type search struct {
	shape
	ctx         context.Context
	px          []float64
	shallow     []float64 // decoder of one level less; nil at depth 1
	law         []float64 // policy: probability of a move
	reached     []float64 // the policy that the last step led to, before momentum
	p           []float64 // stationary law, by state
	value, hard []float64 // by state, of the policy's own step and of the worst policy
	mean        []float64 // of decoder's rows, averaged over rounds
	decoder     []float64
	cost, worth []float64 // by move: of it alone, and with what comes after
	next        []float64 // scratch, by state
	told        float64   // nats a block under the policy
	pace        int       // rounds of rising momentum
}

func newSearch(ctx context.Context, g shape, px []float64, last *search) *search {
	moves, states, rows := g.move(g.nm, 0, 0), g.state(g.nm, 0), g.rows(g.nm, 0, 0)
	s := &search{shape: g, ctx: ctx, px: px, law: make([]float64, moves), p: make([]float64, states), value: make([]float64, states), hard: make([]float64, states),
		mean: make([]float64, rows), decoder: make([]float64, rows), cost: make([]float64, moves), worth: make([]float64, moves), next: make([]float64, states), told: math.Inf(1)}
	for i := range s.p {
		s.p[i] = 1 / float64(states)
	}
	if last != nil {
		s.shallow = last.decoder
		for i := range s.law {
			s.law[i] = last.law[i%len(last.law)]
		}
		for i := range s.hard {
			s.value[i], s.hard[i] = last.value[i%len(last.value)], last.hard[i%len(last.hard)]
		}
		return s
	}
	usual := make([]float64, g.nl)
	for x, p := range px {
		usual[g.level[x]] += p
	}
	s.moves(func(move, _, y int) { s.law[move] = usual[y] + rare })
	s.normalise()
	return s
}

// moves calls f with every move, the state it leaves, and the level it shows.
func (s *search) moves(f func(move, state, y int)) {
	for m := range s.nm {
		for x := range s.nx {
			for y := range s.nl {
				from, to, shift := s.window(x, y)
				i, j := s.move(m, y, x), s.state(m, x)+shift
				for at := from; at < to; at++ {
					f(i+at, j+at, y)
				}
			}
		}
	}
}

// normalise makes the policy's rows laws.
func (s *search) normalise() {
	sum := make([]float64, len(s.p))
	s.moves(func(move, state, _ int) { sum[state] += s.law[move] })
	s.moves(func(move, state, _ int) { s.law[move] /= sum[state] })
}

// round makes one step of the policy against its own decoder.
func (s *search) round(r int) {
	s.settle()
	told := s.observe(3 / float64(r+3))
	s.costs(s.decoder, s.cost)
	s.pace++
	if told > s.told {
		s.pace = 0
	}
	s.told = told
	before := s.reached
	s.improve()
	s.reached = append([]float64(nil), s.law...)
	if before == nil {
		return
	}
	share := min(momentum, float64(s.pace)/float64(s.pace+3))
	s.moves(func(move, _, _ int) {
		s.law[move] = max(rare, s.law[move]*min(1e6, math.Pow(s.reached[move]/before[move], share)))
	})
	s.normalise()
}

// settle finds the stationary law of the policy, from that of the last one.
func (s *search) settle() {
	for n := range sweeps {
		if n%16 == 0 && s.ctx.Err() != nil {
			return
		}
		clear(s.next)
		for m := range s.nm {
			for y := range s.nl {
				after := s.after(m, y)
				for x := range s.nx {
					from, to, shift := s.window(x, y)
					law, p := s.law[s.move(m, y, x):][:s.ns], s.p[s.state(m, x):][:s.ns]
					for z, q := range s.q[x] {
						if q == 0 {
							continue
						}
						next := s.next[s.state(after, z):][:s.ns]
						for at := from; at < to; at++ {
							next[at] += q * p[at+shift] * law[at]
						}
					}
				}
			}
		}
		change := 0.
		for i, v := range s.next {
			v = (v + s.p[i]) / 2 // lazy step: periodic policies settle too
			change += math.Abs(v - s.p[i])
			s.p[i] = v
		}
		if change < closed/10 {
			break
		}
	}
	normalise(s.p)
}

// observe makes the decoder the posterior under the policy and gives what the meter
// tells, in nats a block; it moves the mean over rounds by a share towards it.
func (s *search) observe(share float64) float64 {
	told := 0.
	for x, p := range s.px {
		told += p * entropy(s.q[x])
	}
	s.readings(func(row, m, y, z, at int) {
		sum, now := 0., s.decoder[row:row+s.nx]
		for x := range now {
			now[x] = 0
			if from, to, shift := s.window(x, y); at >= from && at < to {
				now[x] = s.p[s.state(m, x)+at+shift] * s.law[s.move(m, y, x)+at] * s.q[x][z]
				sum += now[x]
			}
		}
		for x, w := range now {
			if w > 0 {
				told += w * math.Log(w/sum)
			}
			s.mean[row+x] += share * (w - s.mean[row+x])
		}
		s.complete(row, y, z, at)
	})
	return told
}

// readings calls f with every row of the decoder: what it was made from.
func (s *search) readings(f func(row, m, y, z, at int)) {
	for m := range s.nm {
		for y := range s.nl {
			for z := range s.nx {
				for at := range s.ns {
					f(s.rows(m, y, z)+at*s.nx, m, y, z, at)
				}
			}
		}
	}
}

// complete adds a little of the shallower decoder to a row and makes it a law.
func (s *search) complete(row, y, z, at int) {
	sum, d := 0., s.decoder[row:row+s.nx]
	for x := range d {
		if s.shallow != nil {
			d[x] += faint * s.shallow[(row+x)%len(s.shallow)]
		} else if from, to, _ := s.window(x, y); at >= from && at < to {
			d[x] += faint * (s.px[x] + rare) * s.q[x][z]
		}
		sum += d[x]
	}
	for x := range d {
		if sum > 0 {
			d[x] /= sum
		}
	}
}

// improve solves the policy's problem with a price on every change of it, in nats of
// the change, and takes the step.
func (s *search) improve() {
	gain := make([]float64, len(s.law))
	for n := range sweeps {
		if n%16 == 0 && s.ctx.Err() != nil {
			return
		}
		s.ahead(s.cost, s.value, s.worth)
		clear(s.next)
		s.moves(func(move, state, _ int) {
			gain[move] = s.law[move] * math.Exp(-s.worth[move])
			s.next[state] += gain[move]
		})
		lo, hi := advance(s.value, s.next, func(v float64) float64 { return -math.Log(v) })
		if hi-lo < closed {
			break
		}
	}
	s.moves(func(move, state, _ int) { s.law[move] = max(rare, gain[move]/s.next[state]) })
	s.normalise()
}

// advance replaces values by f of those of one block more, less that of the first, and
// gives the least and the greatest gain.
func advance(value, next []float64, f func(float64) float64) (lo, hi float64) {
	lo, hi = math.Inf(1), math.Inf(-1)
	first := f(next[0])
	for i, v := range next {
		v = f(v)
		lo, hi = min(lo, v-value[i]), max(hi, v-value[i])
		value[i] = v - first
	}
	return lo, hi
}

// try makes the decoder that of the mean over rounds, finds the policy that tells least
// by it, and gives what that tells, in nats a block: what the decoder proves.
func (s *search) try() (rate float64) {
	copy(s.decoder, s.mean)
	s.readings(func(row, _, y, z, at int) { s.complete(row, y, z, at) })
	s.costs(s.decoder, s.cost)
	for n := range sweeps {
		if n%16 == 0 && s.ctx.Err() != nil {
			return rate
		}
		s.ahead(s.cost, s.hard, s.worth)
		s.least(s.worth, s.next)
		var hi float64
		if rate, hi = advance(s.hard, s.next, func(v float64) float64 { return v }); hi-rate < closed {
			break
		}
	}
	return rate
}
