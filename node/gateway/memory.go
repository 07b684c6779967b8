package gateway

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"gridveil/battery"
	"gridveil/node/store"
)

// The memory of a mask, in its own space of the store: one key for account,
// running block and commands, one key per day for the demand of its blocks, and
// one each for what the kernel was learned from and what it costs. A block writes the first two, at most
// 10 kB every five minutes; a power cut loses less than a block.
var (
	maskKey      = store.SpaceBattery.Key([]byte("mask"))
	lessonKey    = store.SpaceBattery.Key([]byte("lesson"))
	insightKey   = store.SpaceBattery.Key([]byte("insight"))
	dialKey      = store.SpaceSettings.Key([]byte("battery-dial"))
	demandPrefix = store.SpaceBattery.Key([]byte("demand/"))
)

// memoryDays is how long demand is kept.
const memoryDays = 28

// demandSize is one block of a day's demand: minute of the day u16, Wh float32.
const demandSize = 6

// block is the demand of one block.
type block struct {
	start time.Time
	wh    float64
}

// memory is what a mask remembers over a restart.
type memory struct {
	since time.Time     // when the running account began
	mins  float64       // that it accounts for
	saved time.Time     // block of the last note
	level battery.Watts // in it
	day   time.Time     // of today
	today []byte        // its blocks, encoded
	due   *kept         // what is still to be written
}

// kept is what is in the store, or on its way into it.
type kept struct {
	state  battery.State
	since  time.Time
	mins   float64
	orders orders
	blocks []block // oldest first
	lesson lesson  // newest; zero: none

	day    time.Time
	demand []byte
}

// storedMask is kept as it is written.
type storedMask struct {
	State  battery.State
	Since  time.Time
	Mins   float64
	Orders orders
}

// note remembers the state at now: when a block is over, a gap or fault within it made
// the mask draw anew, or a command changed.
func (m *memory) note(c *battery.Controller, o *orders, now time.Time) {
	at := now.Truncate(battery.Block)
	level, _ := c.Base()
	if at.Equal(m.saved) && level == m.level && !o.changed {
		return
	}
	if !at.Equal(m.saved) {
		m.add(c)
	}
	m.saved, m.level, o.changed = at, level, false
	m.due = &kept{state: c.State(), since: m.since, mins: m.mins, orders: o.clone(), day: m.day, demand: m.today}
}

// add takes the block that ended last.
func (m *memory) add(c *battery.Controller) {
	start, wh, ok := c.Demand()
	if !ok {
		return
	}
	if day := start.UTC().Truncate(24 * time.Hour); !day.Equal(m.day) {
		m.day, m.today = day, nil
	}
	minute := uint16(start.Sub(m.day) / time.Minute)
	if n := len(m.today); n >= demandSize && binary.BigEndian.Uint16(m.today[n-demandSize:]) >= minute {
		return // known
	}
	m.today = appendBlock(bytes.Clone(m.today), minute, wh) // the last one may be on its way to the disk
}

func appendBlock(b []byte, minute uint16, wh float64) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, minute), math.Float32bits(float32(wh)))
}

func demandKey(day time.Time) []byte {
	return append(demandPrefix[:len(demandPrefix):len(demandPrefix)], store.U64(uint64(day.Unix()))...)
}

// put writes a note as part of an update; nil writes nothing.
func (k *kept) put(tx *store.Tx) error {
	if k == nil {
		return nil
	}
	b, err := json.Marshal(storedMask{k.state, k.since, k.mins, k.orders})
	if err != nil {
		return err
	}
	if len(k.demand) > 0 {
		old, err := tx.Get(demandKey(k.day))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := tx.Set(demandKey(k.day), mergeDemand(old, k.demand)); err != nil {
			return err
		}
		if len(k.demand) == demandSize { // the first block of a day
			if err := forgetDemand(tx, k.day.AddDate(0, 0, -memoryDays)); err != nil {
				return err
			}
		}
	}
	return tx.Set(maskKey, b)
}

// mergeDemand joins two records of a day, in order: a day that a clock comes back to
// has one already. Of a block that both know the old one stays.
func mergeDemand(old, add []byte) (out []byte) {
	for len(old) >= demandSize || len(add) >= demandSize {
		from := &old
		if len(old) < demandSize || len(add) >= demandSize && bytes.Compare(add[:2], old[:2]) < 0 {
			from = &add
		}
		b := (*from)[:demandSize]
		*from = (*from)[demandSize:]
		if n := len(out); n == 0 || !bytes.Equal(out[n-demandSize:n-demandSize+2], b[:2]) {
			out = append(out, b...)
		}
	}
	return out
}

// forgetDemand drops the days before one.
func forgetDemand(tx *store.Tx, before time.Time) error {
	var old [][]byte
	err := tx.Each(demandPrefix, func(key, _ []byte) error {
		if bytes.Compare(key, demandKey(before)) < 0 {
			old = append(old, bytes.Clone(key))
		}
		return nil
	})
	for _, key := range old {
		if err == nil {
			err = tx.Delete(key)
		}
	}
	return err
}

// load reads what is in the store; an empty store gives an empty kept.
func (m *memory) load(st *store.Store) (kept, error) {
	var k kept
	err := st.View(func(tx *store.Tx) error {
		b, err := tx.Get(maskKey)
		var s storedMask
		switch {
		case err == nil:
			if err := json.Unmarshal(b, &s); err != nil {
				return err
			}
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		k.state, k.since, k.mins, k.orders = s.State, s.Since, s.Mins, s.Orders
		if b, err = tx.Get(lessonKey); err == nil {
			if err := json.Unmarshal(b, &k.lesson); err != nil {
				return err
			}
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return tx.Each(demandPrefix, func(key, v []byte) error {
			at, ok := store.GetU64(key[len(demandPrefix):])
			if !ok {
				return nil
			}
			m.day, m.today = time.Unix(int64(at), 0).UTC(), append([]byte(nil), v...)
			for ; len(v) >= demandSize; v = v[demandSize:] {
				k.blocks = append(k.blocks, block{m.day.Add(time.Duration(binary.BigEndian.Uint16(v)) * time.Minute), float64(math.Float32frombits(binary.BigEndian.Uint32(v[2:])))})
			}
			return nil
		})
	})
	if err != nil {
		return k, fmt.Errorf("load the mask's memory: %w", err)
	}
	return k, nil
}

// demandUpTo is the demand of the blocks that began before until, oldest first; a
// zero until means all.
func (k kept) demandUpTo(until time.Time) []float64 {
	var out []float64
	for _, b := range k.blocks {
		if until.IsZero() || b.start.Before(until) {
			out = append(out, b.wh)
		}
	}
	return out[max(0, len(out)-memoryDays*int(24*time.Hour/battery.Block)):]
}

// known is the end of the newest block that is remembered; zero without one.
func (m *memory) known() time.Time {
	n := len(m.today)
	if n < demandSize {
		return time.Time{}
	}
	return m.day.Add(time.Duration(binary.BigEndian.Uint16(m.today[n-demandSize:]))*time.Minute + battery.Block)
}

// lesson is from what the running kernel was learned, so that it can be made again.
type lesson struct {
	Until  time.Time // end of the newest block of demand
	Stop   int       // of the dial
	Prices []float64 `json:",omitempty"`
}

// save remembers a lesson.
func (l lesson) save(st *store.Store) error {
	b, err := json.Marshal(l)
	if err == nil {
		err = st.Set(lessonKey, b)
	}
	if err != nil {
		return fmt.Errorf("keep what the kernel was learned from: %w", err)
	}
	return nil
}
