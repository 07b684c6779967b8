package onion

import (
	"encoding/binary"
	"fmt"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/mix"
	"gridveil/mesh/route"
)

const stateOff = "onion-off"

// Switch turns the onion of this node off or on, durably: a node that was switched off stays off over restarts. It
// returns once the store has it.
//
// Off means that no onion packet leaves this node any more: no slots, no loops, no relaying, no answers, no calls.
// Packets that arrive are dropped, and a relay takes itself out of the directory. Calls end with mesh.ErrOff if nothing
// was sent for them, else with ErrUnacked. Lanes go on: alarms, reports, registers. A packet that is being written at
// that moment is not called back. An error means that nothing has changed.
func (o *Onion) Switch(on bool) error {
	o.switching.Lock()
	defer o.switching.Unlock()
	if on == !o.off.Load() {
		return nil
	}
	now := o.clock.Now()
	var record []byte
	if !on {
		record = binary.BigEndian.AppendUint64(nil, uint64(now.UnixMilli()))
	}
	if err := o.c.Store.SaveState(stateOff, record); err != nil {
		return fmt.Errorf("onion: save switch: %w", err)
	}
	o.mu.Lock()
	o.off.Store(!on)
	if o.offSince = now; on {
		o.offSince, o.stopped = time.Time{}, make(chan struct{})
	} else {
		close(o.stopped)
	}
	o.slots = schedule{}  // what waits in it is never sent; its call ends
	o.loops = mix.Loops{} // those under way cannot come back
	o.health.Forget()     // nor say anything about relays
	o.mu.Unlock()
	o.poke()
	o.publishAgain()
	o.refresh(now)
	return nil
}

// Off says whether this node's onion is switched off, and since when.
func (o *Onion) Off() (since time.Time, off bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.offSince, !o.offSince.IsZero()
}

// loadOff restores the switch.
func (o *Onion) loadOff() error {
	o.stopped = make(chan struct{})
	raw, err := o.c.Store.LoadState(stateOff)
	if err != nil {
		return fmt.Errorf("onion: load switch: %w", err)
	}
	if len(raw) == 0 {
		return nil
	}
	if len(raw) != 8 {
		return fmt.Errorf("onion: stored switch has %d bytes, want 8", len(raw))
	}
	o.offSince = time.UnixMilli(int64(binary.BigEndian.Uint64(raw))).UTC()
	o.off.Store(true)
	close(o.stopped)
	return nil
}

// stop is closed while the onion is switched off.
func (o *Onion) stop() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stopped
}

// unsent is why a packet could not be handed to a neighbour.
func (o *Onion) unsent() mesh.Drop {
	if o.off.Load() {
		return DropOff
	}
	return DropNeighbour
}

// Health is what a page shows of the ways of this node. Only a leaf has guards and loops; numbers, no names.
type Health struct {
	Guards     int           // relays that stand as first hops, 0 to 2
	GuardsUp   int           // of them connected and not skipped
	Relays     int           // in the directory
	Operators  int           // of the relays
	Skipped    int           // relays avoided for 10 minutes, after three lost loops
	Fresh      time.Time     // issue of the newest keys in the directory; zero when there are none
	LostRatio  float64       // share of the last hour's loops that did not return
	LostEnough bool          // enough loops for LostRatio to say something
	Slot       time.Duration // mean time between slots now
	Calls      int           // requests whose answer is awaited
}

// Health gives the state of this node's ways now.
func (o *Onion) Health() Health {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.clock.Now()
	relays := o.snap.Relays()
	h := Health{Relays: len(relays), Operators: o.snap.Operators(), Fresh: o.snap.Fresh, Calls: o.calls}
	for _, n := range relays {
		if o.health.Skipped(n.Key, now) {
			h.Skipped++
		}
	}
	if !o.role.Leaf() {
		return h
	}
	guards := o.guards.List()
	h.Guards, h.Slot = len(guards), o.slotMean
	for _, g := range guards {
		if o.usable(g.Node) {
			h.GuardsUp++
		}
	}
	h.LostRatio, h.LostEnough = o.loops.LostRatio(now)
	return h
}

// offStatus replaces a class's refusal while the onion is off.
func (o *Onion) offStatus(st route.Status) route.Status {
	if o.off.Load() {
		st.Err = mesh.ErrOff
	}
	return st
}
