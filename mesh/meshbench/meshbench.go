// Package meshbench measures the mesh, each part beside a yardstick in the same run, so that the ratio of both says
// something on any machine and beside any load. The Go benchmarks of the mesh and `gridveil bench mesh` run the same
// bodies.
//
// Start with [Run], which measures everything, or hand one body, such as [Unwrap], to a benchmark.
package meshbench

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cloudflare/circl/dh/x25519"
)

// Measurement is one row: what one operation took, and its yardstick.
type Measurement struct {
	Name      string  `json:"name"`
	OursNS    float64 `json:"ours_ns"` // one operation
	Yardstick string  `json:"yardstick"`
	YardNS    float64 `json:"yardstick_ns"`
	Ratio     float64 `json:"ratio"`
	Goal      float64 `json:"goal"`
	AtLeast   bool    `json:"at_least"` // true: the ratio should reach the goal; false: stay below it
	Met       bool    `json:"met"`
}

const (
	aSecret = "one X25519 secret"
	yardNS  = "yardstick-ns" // unit in which a body reports its yardstick
	oursNS  = "ns/op"
	ratio   = "ratio"
)

// plan is every measurement with its goal of doc/design.md.
var plan = []struct {
	name, yardstick string
	goal            float64
	atLeast         bool
	body            func(*testing.B)
}{
	{"unwrap with replay check", aSecret, 1.35, false, Unwrap},
	{"reject a changed packet", aSecret, 1.15, false, RejectTampered},
	{"reject a replayed packet", aSecret, 1.15, false, RejectReplay},
	{"build for four hops", aSecret, 8.5, false, Build4},
	{"use a reply block", aSecret, .5, false, ReplyUse},
	{"relay over TCP", aSecret, .7, true, RelayTCP},
	{"call on a lane", "a new stream per call", 16, true, LaneCall},
}

// Run measures everything, each for about the time given, and hands every row to show as soon as it is there. It stops
// at the first measurement that fails, or when ctx ends. Not safe for concurrent use: it sets the length of benchmarks of
// this process.
func Run(ctx context.Context, each time.Duration, show func(Measurement)) error {
	testing.Init()
	if err := flag.Set("test.benchtime", each.String()); err != nil {
		return fmt.Errorf("length of a measurement: %w", err)
	}
	for _, p := range plan {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r := testing.Benchmark(p.body)
		if r.N == 0 || r.Extra[ratio] == 0 {
			return fmt.Errorf("%q could not be measured on this machine", p.name)
		}
		m := Measurement{Name: p.name, OursNS: r.Extra[oursNS], Yardstick: p.yardstick, YardNS: r.Extra[yardNS], Ratio: r.Extra[ratio], Goal: p.goal, AtLeast: p.atLeast}
		m.Met = m.Ratio <= m.Goal
		if m.AtLeast {
			m.Met = m.Ratio >= m.Goal
		}
		show(m)
	}
	return nil
}

// reportAgainst gives the three numbers of a row.
func reportAgainst(b *testing.B, ours, yard, quotient float64) {
	b.ReportMetric(ours, oursNS)
	b.ReportMetric(yard, yardNS)
	b.ReportMetric(quotient, ratio)
}

// secret is the yardstick of the packet: one X25519 shared secret of circl.
func secret() func() {
	var private, public, shared x25519.Key
	private[0] = 8
	x25519.KeyGen(&public, &private)
	return func() { x25519.Shared(&shared, &private, &public) }
}

// samples is how many of the last durations a median is taken of.
const samples = 4096

// against runs op and the X25519 yardstick in turn and reports the quotient of their medians, so that other load on
// the machine hits both alike. ns/op is op's median alone.
func against(b *testing.B, op func()) {
	x := secret()
	ours, yard := make([]time.Duration, samples), make([]time.Duration, samples)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		begin := time.Now()
		op()
		between := time.Now()
		x()
		ours[n%samples], yard[n%samples] = between.Sub(begin), time.Since(between)
		n++
	}
	median := func(d []time.Duration) float64 {
		d = d[:min(n, samples)]
		slices.Sort(d)
		return float64(d[len(d)/2].Nanoseconds())
	}
	o, y := median(ours), median(yard)
	reportAgainst(b, o, y, o/y)
}
