package meter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"gridveil/node/model"
	"gridveil/node/store"
	"gridveil/node/vee"
)

// keeper is what a collector remembers of its meter between slots and over
// restarts; it is stored with each slot.
type keeper struct {
	reported int64 // end of the last reported slot, UTC ms; 0 before the first slot
	closed   int64 // end of the last closed slot
	period   int64 // slot length of the last closed slot, ms
	counter  uint32
	epoch    uint16
	fresh    bool // the next reading is the first of its epoch
	device   Device
	rules    map[model.Channel]vee.State
}

func (k keeper) clone() keeper {
	k.rules = maps.Clone(k.rules)
	return k
}

// observe moves the epoch: on another meter, or when a register of the same
// meter fell to a hundredth without passing its width, which is a reset. Only
// the second is a guess, and reported as such.
func (k *keeper) observe(d Device, values []Value) (reset bool) {
	if k.counter == 0 {
		k.device, k.fresh = d, true
		return false
	}
	if d != k.device && d != (Device{}) {
		k.device, k.fresh = d, true
		k.epoch++
		return false
	}
	for _, v := range values {
		s := k.rules[v.Channel]
		last, _, ok := s.Last()
		if ok && v.N < last && v.N <= last/100 && last*10 <= vee.Standard().WidthMWh*9 {
			k.epoch++
			k.fresh = true
			return true
		}
	}
	return false
}

const keeperVersion = 1

func keeperKey(name string) []byte { return store.SpaceCursor.Key([]byte("meter/"), []byte(name)) }

func (k keeper) save(tx *store.Tx, name string) error {
	b := []byte{keeperVersion}
	for _, v := range []int64{k.reported, k.closed, k.period} {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	b = binary.BigEndian.AppendUint32(b, k.counter)
	b = binary.BigEndian.AppendUint16(b, k.epoch)
	fresh := byte(0)
	if k.fresh {
		fresh = 1
	}
	b = append(append(b, fresh), k.device[:]...)
	for _, c := range slices.Sorted(maps.Keys(k.rules)) {
		s := k.rules[c].Encode()
		b = append(binary.BigEndian.AppendUint16(b, uint16(c)), s[:]...)
	}
	return tx.Set(keeperKey(name), b)
}

func loadKeeper(tx *store.Tx, name string) (keeper, error) {
	k := keeper{rules: map[model.Channel]vee.State{}}
	b, err := tx.Get(keeperKey(name))
	if errors.Is(err, store.ErrNotFound) {
		return k, nil
	}
	if err != nil {
		return k, err
	}
	const fixed, per = 1 + 24 + 4 + 2 + 1 + 8, 2 + vee.StateSize
	if len(b) < fixed || b[0] != keeperVersion || (len(b)-fixed)%per != 0 {
		return k, fmt.Errorf("%w: collector state of %d bytes", store.ErrDamaged, len(b))
	}
	be := binary.BigEndian
	k.reported, k.closed, k.period = int64(be.Uint64(b[1:])), int64(be.Uint64(b[9:])), int64(be.Uint64(b[17:]))
	k.counter, k.epoch, k.fresh = be.Uint32(b[25:]), be.Uint16(b[29:]), b[31] == 1
	k.device = Device(b[32:40])
	for b = b[fixed:]; len(b) > 0; b = b[per:] {
		s, err := vee.DecodeState(b[2:per])
		if err != nil {
			return k, err
		}
		k.rules[model.Channel(be.Uint16(b))] = s
	}
	return k, nil
}

// readingKey is space | name 0 | slot | channel: one meter's readings lie
// together in time order.
func readingKey(name string, slot int64, ch model.Channel) []byte {
	return store.SpaceReading.Key([]byte(name), []byte{0}, store.U64(uint64(slot)), store.U16(uint16(ch)))
}

const readingSize = 36

// encodeReading is at 8 | register 8 | unc 4 | counter 4 | epoch 2 | state 1 |
// status 2 | pq 2 | quality 1 | flags 4; slot and channel are in the key.
func encodeReading(r model.Reading) []byte {
	b := make([]byte, 0, readingSize)
	b = binary.BigEndian.AppendUint64(b, uint64(r.At))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Register))
	b = binary.BigEndian.AppendUint32(b, r.Unc)
	b = binary.BigEndian.AppendUint32(b, r.Counter)
	b = binary.BigEndian.AppendUint16(b, r.Epoch)
	b = append(b, byte(r.State))
	b = binary.BigEndian.AppendUint16(b, uint16(r.Status))
	b = binary.BigEndian.AppendUint16(b, r.PQ)
	b = append(b, byte(r.Quality))
	return binary.BigEndian.AppendUint32(b, r.Flags)
}

func decodeReading(key, b []byte) (model.Reading, error) {
	if len(b) != readingSize || len(key) < 10 {
		return model.Reading{}, fmt.Errorf("%w: reading of %d bytes", store.ErrDamaged, len(b))
	}
	be, tail := binary.BigEndian, key[len(key)-10:]
	return model.Reading{
		Slot: int64(be.Uint64(tail)), Channel: model.Channel(be.Uint16(tail[8:])), At: int64(be.Uint64(b)),
		Register: int64(be.Uint64(b[8:])), Unc: be.Uint32(b[16:]), Counter: be.Uint32(b[20:]), Epoch: be.Uint16(b[24:]),
		State: model.ReadingState(b[26]), Status: model.StatusBits(be.Uint16(b[27:])), PQ: be.Uint16(b[29:]),
		Quality: model.Quality(b[31]), Flags: be.Uint32(b[32:]),
	}, nil
}

// Readings returns what the named collector stored for slots that start in
// [from, to), in slot order. Use it inside Report with the tx given there.
func Readings(tx *store.Tx, name string, from, to int64) (out []model.Reading, err error) {
	prefix := store.SpaceReading.Key([]byte(name), []byte{0})
	start := store.SpaceReading.Key([]byte(name), []byte{0}, store.U64(uint64(from)))
	err = tx.EachFrom(prefix, start, func(key, value []byte) error {
		r, err := decodeReading(key, value)
		if err != nil {
			return err
		}
		if r.Slot >= to {
			return store.ErrStop
		}
		out = append(out, r)
		return nil
	})
	return out, err
}

// Forget deletes up to limit readings of slots before t and says how many it
// deleted; call it again until that is less than limit.
func Forget(tx *store.Tx, name string, before int64, limit int) (n int, err error) {
	prefix := store.SpaceReading.Key([]byte(name), []byte{0})
	err = tx.Each(prefix, func(key, value []byte) error {
		r, err := decodeReading(key, value)
		if err != nil {
			return err
		}
		if r.Slot >= before || n == limit {
			return store.ErrStop
		}
		n++
		return tx.Delete(key)
	})
	return n, err
}
