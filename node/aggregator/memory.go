package aggregator

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"gridveil/ev/settle"
	"gridveil/node/store"
)

// memory is the desk's store inside the node's. A commit of the desk may be
// larger than one update of the store holds (a block of thousands of sessions, a
// batch of 4096 lines): it is then written down in pieces first, marked as
// whole, carried out in pieces, and forgotten. A crash in between carries out
// again what was marked.
type memory struct {
	st *store.Store

	mu     sync.Mutex
	failed error // a read went wrong: nothing may be decided any more
}

const (
	pieceBytes = 60 << 10  // two of them and their keys fit one value of 128 KiB
	smallBytes = 100 << 10 // an update of that size holds a commit whole
	smallCount = 300       // writes of it
)

// Keys: 'd' key, piece u16 -> piece; 'j' n u64 -> piece of a large commit; 'm' ->
// its length.
func deskKey(key []byte, piece uint16) []byte {
	return store.SpaceSession.Key([]byte{'d'}, key, store.U16(piece))
}

func planKey(n uint64) []byte { return store.SpaceSession.Key([]byte{'j'}, store.U64(n)) }

var markKey = store.SpaceSession.Key([]byte{'m'})

// openMemory finishes a commit that a crash interrupted.
func openMemory(st *store.Store) (*memory, error) {
	m := &memory{st: st}
	b, err := st.Get(markKey)
	if errors.Is(err, store.ErrNotFound) {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("desk's memory: %w", err)
	}
	n, ok := store.GetU64(b)
	if !ok {
		return nil, errors.New("desk's memory: mark is damaged")
	}
	return m, m.carryOut(n)
}

// Get implements settle.Store. It has no error to give, so a failed read makes
// every later Commit fail: what looks absent must not be decided anew.
func (m *memory) Get(key []byte) []byte {
	var out []byte
	err := m.st.View(func(tx *store.Tx) (err error) {
		out, err = m.read(tx, key)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		m.mu.Lock()
		m.failed = errors.Join(m.failed, fmt.Errorf("desk's memory: %w", err))
		m.mu.Unlock()
	}
	if err != nil {
		return nil
	}
	return out
}

// read joins the pieces of a value, which is not nil even if empty.
func (m *memory) read(tx *store.Tx, key []byte) ([]byte, error) {
	out := []byte{}
	for piece := uint16(0); ; piece++ {
		v, err := tx.Get(deskKey(key, piece))
		if errors.Is(err, store.ErrNotFound) && piece > 0 {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v...)
		if len(v) < pieceBytes {
			return out, nil
		}
	}
}

// Scan implements settle.Store.
func (m *memory) Scan(prefix []byte, each func(key, value []byte) bool) error {
	head := store.SpaceSession.Key([]byte{'d'})
	return m.st.View(func(tx *store.Tx) error {
		var key, value []byte
		flush := func() error {
			if key != nil && !each(key, value) {
				return store.ErrStop
			}
			return nil
		}
		err := tx.Each(append(head, prefix...), func(k, v []byte) error {
			name, piece := k[len(head):len(k)-2], binary.BigEndian.Uint16(k[len(k)-2:])
			if piece > 0 && bytes.Equal(name, key) {
				value = append(value, v...)
				return nil
			}
			if err := flush(); err != nil {
				key = nil
				return err
			}
			key, value = name, v
			return nil
		})
		if err != nil {
			return err
		}
		if err := flush(); err != nil && !errors.Is(err, store.ErrStop) {
			return err
		}
		return nil
	})
}

// Commit implements settle.Store.
func (m *memory) Commit(list []settle.Write) error {
	m.mu.Lock()
	failed := m.failed
	m.mu.Unlock()
	if failed != nil {
		return failed
	}
	size := 0
	for _, w := range list {
		size += 2*len(w.Key) + len(w.Value) + 64
	}
	if size <= smallBytes && len(list) <= smallCount {
		return m.st.Update(func(tx *store.Tx) error { return m.apply(tx, list) })
	}
	n, err := m.writeDown(list)
	if err != nil {
		return err
	}
	return m.carryOut(n)
}

// apply stages writes.
func (m *memory) apply(tx *store.Tx, list []settle.Write) error {
	for _, w := range list {
		pieces := (len(w.Value) + pieceBytes) / pieceBytes // the last is shorter than the others, maybe empty
		if w.Value == nil {
			pieces = 0
		}
		for i := range pieces {
			if err := tx.Set(deskKey(w.Key, uint16(i)), w.Value[i*pieceBytes:min((i+1)*pieceBytes, len(w.Value))]); err != nil {
				return err
			}
		}
		for i := uint16(pieces); ; i++ {
			k := deskKey(w.Key, i)
			if has, err := tx.Has(k); err != nil || !has {
				if err != nil {
					return err
				}
				break
			}
			if err := tx.Delete(k); err != nil {
				return err
			}
		}
		if err := m.expire(tx, w); err != nil {
			return err
		}
	}
	return nil
}

// writeDown stores a large commit in pieces and then its mark.
func (m *memory) writeDown(list []settle.Write) (n uint64, err error) {
	var b []byte
	for _, w := range list {
		b = binary.BigEndian.AppendUint16(b, uint16(len(w.Key)))
		b = append(b, w.Key...)
		size := uint32(len(w.Value)) + 1
		if w.Value == nil {
			size = 0
		}
		b = binary.BigEndian.AppendUint32(b, size)
		b = append(b, w.Value...)
		until := int64(0)
		if !w.Until.IsZero() {
			until = w.Until.UnixMilli()
		}
		b = binary.BigEndian.AppendUint64(b, uint64(until))
	}
	for ; len(b) > 0; n++ {
		part := b[:min(len(b), pieceBytes)]
		if err := m.st.Set(planKey(n), part); err != nil {
			return 0, err
		}
		b = b[len(part):]
	}
	return n, m.st.Set(markKey, store.U64(n))
}

// carryOut applies a commit that was written down in n pieces.
func (m *memory) carryOut(n uint64) error {
	var b []byte
	for i := range n {
		part, err := m.st.Get(planKey(i))
		if err != nil {
			return fmt.Errorf("desk's memory: %w", err)
		}
		b = append(b, part...)
	}
	list, err := parsePlan(b)
	if err != nil {
		return err
	}
	for len(list) > 0 {
		part, size := 0, 0
		for part < len(list) && part < smallCount && (part == 0 || size+len(list[part].Value) < smallBytes) {
			size += len(list[part].Value)
			part++
		}
		if err := m.applyLarge(list[:part]); err != nil {
			return err
		}
		list = list[part:]
	}
	if err := m.st.Update(func(tx *store.Tx) error { return tx.Delete(markKey) }); err != nil {
		return err
	}
	for i := range n {
		if err := m.st.Update(func(tx *store.Tx) error { return tx.Delete(planKey(i)) }); err != nil {
			return err
		}
	}
	return nil
}

// applyLarge is apply, where one value alone may exceed an update: its pieces
// then go one by one. The mark makes up for the lost atomicity.
func (m *memory) applyLarge(list []settle.Write) error {
	if len(list) > 1 || len(list[0].Value) <= smallBytes {
		return m.st.Update(func(tx *store.Tx) error { return m.apply(tx, list) })
	}
	w := list[0]
	pieces := (len(w.Value) + pieceBytes) / pieceBytes
	for i := range pieces {
		if err := m.st.Set(deskKey(w.Key, uint16(i)), w.Value[i*pieceBytes:min((i+1)*pieceBytes, len(w.Value))]); err != nil {
			return err
		}
	}
	return m.st.Update(func(tx *store.Tx) error {
		for i := uint16(pieces); ; i++ {
			k := deskKey(w.Key, i)
			if has, err := tx.Has(k); err != nil || !has {
				return err
			}
			if err := tx.Delete(k); err != nil {
				return err
			}
		}
	})
}

func parsePlan(b []byte) (list []settle.Write, err error) {
	bad := errors.New("desk's memory: a commit that was written down is damaged")
	for len(b) > 0 {
		if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b))+4 {
			return nil, bad
		}
		n := int(binary.BigEndian.Uint16(b))
		w := settle.Write{Key: b[2 : 2+n]}
		b = b[2+n:]
		size := binary.BigEndian.Uint32(b)
		b = b[4:]
		if size > 0 {
			if uint64(len(b)) < uint64(size-1) {
				return nil, bad
			}
			w.Value, b = b[:size-1:size-1], b[size-1:]
		}
		if len(b) < 8 {
			return nil, bad
		}
		if until := int64(binary.BigEndian.Uint64(b)); until != 0 {
			w.Until = time.UnixMilli(until)
		}
		b = b[8:]
		list = append(list, w)
	}
	return list, nil
}

// What may be forgotten: 'e' day u32, key -> nothing.
func expireKey(day uint32, key []byte) []byte {
	return store.SpaceSession.Key([]byte{'e'}, binary.BigEndian.AppendUint32(nil, day), key)
}

func dayOf(t time.Time) uint32 { return uint32(t.Unix() / 86400) }

// expire notes when a value may be forgotten. A value that is written again with
// a later time is noted again; forget looks at the newest.
func (m *memory) expire(tx *store.Tx, w settle.Write) error {
	if w.Value == nil || w.Until.IsZero() {
		return nil
	}
	return tx.Set(expireKey(dayOf(w.Until)+1, w.Key), nil)
}

// forgetBatch bounds one update.
const forgetBatch = 200

// Forget deletes what the desk no longer needs at now, and says whether more is
// left. A value is dropped on the last of the days that were noted for it.
func (m *memory) Forget(now time.Time) (more bool, err error) {
	prefix := store.SpaceSession.Key([]byte{'e'})
	err = m.st.Update(func(tx *store.Tx) error {
		later := map[string]bool{}
		var due [][]byte
		if err := tx.Each(prefix, func(k, _ []byte) error {
			if binary.BigEndian.Uint32(k[len(prefix):]) > dayOf(now) {
				later[string(k[len(prefix)+4:])] = true
			} else if len(due) < forgetBatch {
				due = append(due, k)
			} else {
				more = true
			}
			return nil
		}); err != nil {
			return err
		}
		for _, k := range due {
			if err := tx.Delete(k); err != nil {
				return err
			}
			if key := k[len(prefix)+4:]; !later[string(key)] {
				if err := m.apply(tx, []settle.Write{{Key: key}}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return more, err
}
