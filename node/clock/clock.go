// Package clock gives a node its time: the wall clock in a home, an accelerated
// one in a demonstration.
//
// Every delay of a protocol (slots, holds, read periods, checkpoints, expiries)
// goes through a [Clock], so that one process can live a whole day in a minute
// with the same code that runs in a substation. Socket deadlines and disk
// grouping stay on the wall clock: they measure the machine, not the day.
package clock

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// Clock tells the time and wakes whoever waits. It is safe for concurrent use.
// mesh, ledger and ev declare the same two methods for themselves.
type Clock interface {
	Now() time.Time
	// After sends the time once d has passed. The channel has room for that
	// one value, so an abandoned wait costs nothing but its timer.
	After(d time.Duration) <-chan time.Time
}

// Wall is the operating system's clock.
type Wall struct{}

// Now is the system time in UTC.
func (Wall) Now() time.Time { return time.Now().UTC() }

// After is time.After.
func (Wall) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Sleep waits for d on c, or less if ctx ends; it says whether d passed.
func Sleep(ctx context.Context, c Clock, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-c.After(d):
		return true
	}
}

// Until waits for the instant at on c, or less if ctx ends; it says whether at
// has come.
func Until(ctx context.Context, c Clock, at time.Time) bool {
	a, ok := c.(*Accelerated)
	if !ok {
		return Sleep(ctx, c, at.Sub(c.Now()))
	}
	// The time until at, taken now and waited for a moment later, would end late
	// by that moment: on a fast clock by more than a Pacer may lag.
	select {
	case <-ctx.Done():
		return false
	case <-a.at(at):
		return true
	}
}

// Next is the first multiple of period after t, counted from the Unix epoch.
func Next(t time.Time, period time.Duration) time.Time {
	return t.Truncate(period).Add(period)
}

// Holder is a clock that can be asked to go slowly while something that must
// not be overtaken is under way. Hold on a Wall clock does nothing.
type Holder interface {
	Hold() (release func())
}

// Hold slows c if it can be slowed. The returned function must be called once.
func Hold(c Clock) (release func()) {
	if h, ok := c.(Holder); ok {
		return h.Hold()
	}
	return func() {}
}

// Accelerated is a clock that runs Speed times as fast as the wall clock, and
// only HeldSpeed times while anybody holds it.
//
// Holding is what makes an accelerated day repeatable: a reading that is being
// taken or a session that is being opened slows the day instead of being
// overtaken by it.
type Accelerated struct {
	mu      sync.Mutex
	anchor  time.Time // accelerated time at wall
	wall    time.Time
	speed   float64
	held    float64
	holders int
	pacers  map[*Pacer]time.Time // what each still has to do
	limit   time.Time            // the clock stands here; zero means nowhere
	timers  timerHeap
	seq     uint64
	wake    chan struct{}
}

// HeldSpeed is how fast an accelerated clock runs while it is held. At 20, the
// 40 s that a session's start may take of its minute are 2 s of machine time.
const HeldSpeed = 20

// minSleep bounds how often the pump looks at its timers, in wall time.
const minSleep = 200 * time.Microsecond

// NewAccelerated starts at start and runs speed times as fast as the wall
// clock; speed below HeldSpeed is also the held speed. Run must be running for
// timers to fire.
func NewAccelerated(start time.Time, speed float64) *Accelerated {
	if speed <= 0 {
		speed = 1
	}
	return &Accelerated{
		anchor: start.UTC(), wall: time.Now(), speed: speed,
		held: min(HeldSpeed, speed), pacers: make(map[*Pacer]time.Time), wake: make(chan struct{}, 1),
	}
}

// Now is the accelerated time in UTC.
func (a *Accelerated) Now() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now()
}

func (a *Accelerated) now() time.Time {
	t := a.anchor.Add(time.Duration(float64(time.Since(a.wall)) * a.rate()))
	if !a.limit.IsZero() && t.After(a.limit) {
		return a.limit
	}
	return t
}

func (a *Accelerated) rate() float64 {
	if a.holders > 0 {
		return a.held
	}
	return a.speed
}

// After sends the accelerated time once d of it has passed.
func (a *Accelerated) After(d time.Duration) <-chan time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wait(a.now().Add(d))
}

// at sends the accelerated time once it is t.
func (a *Accelerated) at(t time.Time) <-chan time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wait(t)
}

// wait adds a timer. The caller holds mu.
func (a *Accelerated) wait(t time.Time) <-chan time.Time {
	ch := make(chan time.Time, 1)
	if now := a.now(); !t.After(now) {
		ch <- now
		return ch
	}
	a.seq++
	heap.Push(&a.timers, timer{at: t, seq: a.seq, ch: ch})
	if a.timers[0].seq == a.seq {
		a.poke()
	}
	return ch
}

// Hold slows the clock until release is called; holds add up.
func (a *Accelerated) Hold() (release func()) {
	a.shift(func() { a.holders++ })
	var once sync.Once
	return func() { once.Do(func() { a.shift(func() { a.holders-- }) }) }
}

// Lead is how far the clock may run ahead of the slowest Pacer.
const Lead = 20 * time.Second

// Pacer is somebody whom the clock must not leave behind: a simulated house
// with a step to take at each minute. On a slow machine the day takes longer;
// nothing in it comes late.
type Pacer struct{ c *Accelerated }

// Pace makes a Pacer of c, or nil for a clock that waits for nobody.
func Pace(c Clock) *Pacer {
	a, ok := c.(*Accelerated)
	if !ok {
		return nil
	}
	return &Pacer{a}
}

// Due says that the next thing to do is due at t. A nil Pacer ignores it.
func (p *Pacer) Due(t time.Time) {
	if p == nil {
		return
	}
	p.c.shift(func() { p.c.pacers[p] = t })
}

// Leave ends the pacing.
func (p *Pacer) Leave() {
	if p == nil {
		return
	}
	p.c.shift(func() { delete(p.c.pacers, p) })
}

// SetSpeed changes the speed from now on.
func (a *Accelerated) SetSpeed(speed float64) {
	if speed <= 0 {
		return
	}
	a.shift(func() { a.speed, a.held = speed, min(HeldSpeed, speed) })
}

// shift re-anchors the clock at this moment and then changes its rate, so that
// time never jumps.
func (a *Accelerated) shift(change func()) {
	a.mu.Lock()
	rate, limit := a.rate(), a.limit
	a.anchor, a.wall = a.now(), time.Now()
	change()
	a.limit = time.Time{}
	for _, due := range a.pacers {
		if at := due.Add(Lead); a.limit.IsZero() || at.Before(a.limit) {
			a.limit = at
		}
	}
	if a.limit.Before(a.anchor) && !a.limit.IsZero() {
		a.limit = a.anchor // a pacer that joins late does not turn time back
	}
	changed := a.rate() != rate || !a.limit.Equal(limit)
	a.mu.Unlock()
	if changed {
		a.poke()
	}
}

func (a *Accelerated) poke() {
	select {
	case a.wake <- struct{}{}:
	default: // the pump has not yet seen the last poke; one is enough
	}
}

// Run fires the timers until ctx ends.
func (a *Accelerated) Run(ctx context.Context) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-pause.C:
		}
		pause.Reset(a.fire())
	}
}

// fire sends to every timer that is due and says how long, in wall time, the
// pump may sleep.
func (a *Accelerated) fire() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	for len(a.timers) > 0 && !a.timers[0].at.After(now) {
		heap.Pop(&a.timers).(timer).ch <- now
	}
	if len(a.timers) == 0 {
		return time.Second
	}
	if !a.limit.IsZero() && a.timers[0].at.After(a.limit) {
		return time.Second // the clock stands until a pacer moves, which wakes the pump
	}
	wait := time.Duration(float64(a.timers[0].at.Sub(now)) / a.rate())
	return max(wait, minSleep)
}

type timer struct {
	at  time.Time
	seq uint64 // equal instants fire in the order they were asked for
	ch  chan time.Time
}

type timerHeap []timer

func (h timerHeap) Len() int { return len(h) }
func (h timerHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].seq < h[j].seq
}
func (h timerHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)   { *h = append(*h, x.(timer)) }
func (h *timerHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
