package mailbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Write is one change of a storage; a nil Value removes the key.
type Write struct{ Key, Value []byte }

// Storage keeps the boxes; node implements it. Keys have at most 41 bytes, values at most 4 KiB.
type Storage interface {
	// Each calls fn for every key that begins with prefix, in ascending order; key and value may be kept.
	Each(prefix []byte, fn func(key, value []byte) error) error
	// Get gives the value of a key, nil when there is none.
	Get(key []byte) ([]byte, error)
	// Commit makes all writes durable, or none. After an error either may be the case.
	Commit(writes []Write) error
}

// ErrStored means that stored bytes are not those of a mailbox.
var ErrStored = errors.New("stored mailbox is malformed")

// Keeper holds the boxes of others. It is safe for concurrent use.
type Keeper struct {
	self  Key
	store Storage

	mu    sync.Mutex
	boxes map[BoxID]*box
}

// box is what is in memory of one box: all but its sealed cells.
type box struct {
	until  time.Time // zero: closed; the record stays while its nonces could be used again
	last   uint64    // number of the newest item
	nonces []nonce
	cells  []mark // numbers ascend
	stale  bool   // a commit failed: read the storage again before use
}

type nonce struct {
	at time.Time
	n  [nonceSize]byte
}

type mark struct {
	seq  uint64
	item ItemID
	came time.Time
}

const (
	maxNonces = 128        // of one box within two hours: a poll of a full box takes 24
	forget    = 2 * Window // after a request's time; its window is over then even if the clock was set back a little
	nonceRow  = 8 + nonceSize
	recordMin = 8 + 8 + 2
	cellHead  = 8 + itemSize

	partBox  = 'b' // box 32 -> until u64 | last u64 | n u16 | (time u64, nonce 16)*
	partCell = 'c' // box 32, number u64 -> came u64 | item 16 | cell 1024
)

func boxKey(id BoxID) []byte { return append([]byte{partBox}, id[:]...) }

func cellsKey(id BoxID) []byte { return append([]byte{partCell}, id[:]...) }

func cellKey(id BoxID, seq uint64) []byte { return binary.BigEndian.AppendUint64(cellsKey(id), seq) }

// NewKeeper reads what is stored. self is the keeper's member key, for which owners sign.
func NewKeeper(self Key, s Storage) (*Keeper, error) {
	k := &Keeper{self: self, store: s, boxes: map[BoxID]*box{}}
	err := s.Each([]byte{partBox}, func(key, _ []byte) error {
		if len(key) != 1+len(BoxID{}) {
			return ErrStored
		}
		id := BoxID(key[1:])
		b, err := k.read(id)
		if b != nil {
			k.boxes[id] = b
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read mailboxes: %w", err)
	}
	return k, nil
}

// read gives a box as it is stored, nil when there is none.
func (k *Keeper) read(id BoxID) (*box, error) {
	raw, err := k.store.Get(boxKey(id))
	if err != nil || raw == nil {
		return nil, err
	}
	b, err := parseBox(raw)
	if err != nil {
		return nil, err
	}
	prefix := cellsKey(id)
	err = k.store.Each(prefix, func(key, value []byte) error {
		if len(key) != len(prefix)+8 || len(value) != cellHead+CellSize {
			return ErrStored
		}
		b.cells = append(b.cells, mark{binary.BigEndian.Uint64(key[len(prefix):]), ItemID(value[8:]), millis(value)})
		return nil
	})
	return b, err
}

func millis(b []byte) time.Time { return time.UnixMilli(int64(binary.BigEndian.Uint64(b))).UTC() }

func (b *box) encode() []byte {
	var until uint64
	if !b.until.IsZero() {
		until = uint64(b.until.UnixMilli())
	}
	out := binary.BigEndian.AppendUint64(nil, until)
	out = binary.BigEndian.AppendUint64(out, b.last)
	out = binary.BigEndian.AppendUint16(out, uint16(len(b.nonces)))
	for _, n := range b.nonces {
		out = append(binary.BigEndian.AppendUint64(out, uint64(n.at.UnixMilli())), n.n[:]...)
	}
	return out
}

func parseBox(raw []byte) (*box, error) {
	if len(raw) < recordMin || len(raw) != recordMin+nonceRow*int(binary.BigEndian.Uint16(raw[16:])) {
		return nil, ErrStored
	}
	b := &box{last: binary.BigEndian.Uint64(raw[8:])}
	if binary.BigEndian.Uint64(raw) != 0 {
		b.until = millis(raw)
	}
	for row := raw[recordMin:]; len(row) > 0; row = row[nonceRow:] {
		b.nonces = append(b.nonces, nonce{millis(row), [nonceSize]byte(row[8:])})
	}
	return b, nil
}

// Answer does what a request asks and gives AnswerSize bytes, whatever it was: what it changed is durable by then.
func (k *Keeper) Answer(request []byte, now time.Time) []byte {
	a := k.do(request, now)
	return a.Encode()
}

func (k *Keeper) do(request []byte, now time.Time) Answer {
	r, err := ParseRequest(request)
	if err != nil || r.Op != Put && !r.verify(k.self) {
		return Answer{Status: Refused}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := k.box(r.Box)
	if err != nil {
		return Answer{Status: Busy}
	}
	if r.Op == Put {
		return Answer{Status: k.put(r, b, now)}
	}
	return k.owned(r, b, now)
}

// box finds a box, nil when there is none; what a failed commit left is read again.
func (k *Keeper) box(id BoxID) (*box, error) {
	b := k.boxes[id]
	if b == nil || !b.stale {
		return b, nil
	}
	fresh, err := k.read(id)
	if err != nil {
		return nil, err
	}
	if fresh == nil {
		delete(k.boxes, id)
		return nil, nil
	}
	k.boxes[id] = fresh
	return fresh, nil
}

// alive says whether a box exists for its users.
func (b *box) alive(now time.Time) bool { return b != nil && now.Before(b.until) }

func (m mark) alive(now time.Time) bool { return now.Before(m.came.Add(CellLife)) }

// put adds an item. The same item again is there already; it is told apart from nothing else.
func (k *Keeper) put(r Request, b *box, now time.Time) Status {
	if !b.alive(now) {
		return Refused
	}
	if i := slices.IndexFunc(b.cells, func(m mark) bool { return m.item == r.Item && m.alive(now) }); i >= 0 {
		held, err := k.store.Get(cellKey(r.Box, b.cells[i].seq))
		switch {
		case err != nil || len(held) != cellHead+CellSize:
			return Busy
		case !bytes.Equal(held[cellHead:], r.Cell):
			return Refused
		}
		return OK
	}
	next, writes := b.expire(r.Box, now)
	if len(next.cells) >= MaxCells {
		return Refused
	}
	next.last++
	next.cells = append(next.cells, mark{next.last, r.Item, now})
	value := binary.BigEndian.AppendUint64(nil, uint64(now.UnixMilli()))
	value = append(append(value, r.Item[:]...), r.Cell...)
	return k.commit(r.Box, b, next, append(writes, Write{cellKey(r.Box, next.last), value}))
}

// expire copies a box without what is too old, and gives the writes that make it so.
func (b *box) expire(id BoxID, now time.Time) (*box, []Write) {
	next := &box{until: b.until, last: b.last}
	var writes []Write
	for _, m := range b.cells {
		if b.alive(now) && m.alive(now) {
			next.cells = append(next.cells, m)
			continue
		}
		writes = append(writes, Write{Key: cellKey(id, m.seq)})
	}
	for _, n := range b.nonces {
		if now.Before(n.at.Add(forget)) {
			next.nonces = append(next.nonces, n)
		}
	}
	return next, writes
}

// commit makes a box durable, then lets it count. A failed commit may have been stored: the box is read again.
func (k *Keeper) commit(id BoxID, old, next *box, writes []Write) Status {
	if err := k.store.Commit(append(writes, Write{boxKey(id), next.encode()})); err != nil {
		if old == nil {
			old = &box{}
			k.boxes[id] = old
		}
		old.stale = true
		return Busy
	}
	k.boxes[id] = next
	return OK
}

// owned does an owner's operation; the nonce is used up in the commit of its effect.
func (k *Keeper) owned(r Request, b *box, now time.Time) Answer {
	if d := now.Sub(r.At); d > Window || d < -Window {
		return Answer{Status: Clock}
	}
	if b != nil && slices.ContainsFunc(b.nonces, func(n nonce) bool { return n.n == r.Nonce }) {
		return Answer{Status: Replay}
	}
	if r.Op != Open && !b.alive(now) {
		return Answer{Status: Unknown}
	}
	if b == nil && len(k.boxes) >= MaxBoxes {
		return Answer{Status: Full}
	}
	next, writes := &box{}, []Write(nil)
	if b != nil {
		next, writes = b.expire(r.Box, now)
	}
	if len(next.nonces) >= maxNonces {
		return Answer{Status: Busy}
	}
	next.nonces = append(next.nonces, nonce{r.At, r.Nonce})
	var a Answer
	switch r.Op {
	case Open:
		next.until = now.Add(time.Duration(r.Days) * 24 * time.Hour)
	case Get:
		var err error
		if a, err = k.page(r, next); err != nil {
			return Answer{Status: Busy}
		}
	case Done:
		writes = append(writes, next.drop(r.Box, func(m mark) bool { return slices.Contains(r.Seqs, m.seq) })...)
	case Close:
		writes = append(writes, next.drop(r.Box, func(mark) bool { return true })...)
		next.until = time.Time{}
	}
	if s := k.commit(r.Box, b, next, writes); s != OK {
		return Answer{Status: s}
	}
	return a
}

// page gives the items after a number, as many as fit.
func (k *Keeper) page(r Request, b *box) (a Answer, err error) {
	for _, m := range b.cells {
		if m.seq <= r.After {
			continue
		}
		if len(a.Cells) == maxPage {
			a.More = true
			break
		}
		held, err := k.store.Get(cellKey(r.Box, m.seq))
		if err != nil || len(held) != cellHead+CellSize {
			return a, errors.Join(ErrStored, err)
		}
		a.Cells = append(a.Cells, Cell{m.seq, m.item, held[cellHead:]})
	}
	return a, nil
}

// drop removes the items that gone names and gives the writes for it.
func (b *box) drop(id BoxID, gone func(mark) bool) (writes []Write) {
	kept := b.cells[:0]
	for _, m := range b.cells {
		if gone(m) {
			writes = append(writes, Write{Key: cellKey(id, m.seq)})
		} else {
			kept = append(kept, m)
		}
	}
	b.cells = kept
	return writes
}

// Sweep removes what has expired; call it about once an hour.
func (k *Keeper) Sweep(now time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id := range k.boxes {
		b, err := k.box(id)
		if err != nil {
			return fmt.Errorf("sweep mailboxes: %w", err)
		}
		if b == nil {
			continue
		}
		next, writes := b.expire(id, now)
		over := !b.alive(now) && len(next.nonces) == 0
		if !over && len(writes) == 0 {
			continue
		}
		if !over {
			if s := k.commit(id, b, next, writes); s != OK {
				return fmt.Errorf("sweep mailboxes: %w", s.Err())
			}
			continue
		}
		if err := k.store.Commit(append(writes, Write{Key: boxKey(id)})); err != nil {
			b.stale = true
			return fmt.Errorf("sweep mailboxes: %w", err)
		}
		delete(k.boxes, id)
	}
	return nil
}

// Counts gives the number of boxes that were not closed, and of items.
func (k *Keeper) Counts() (boxes, items int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, b := range k.boxes {
		if !b.until.IsZero() {
			boxes++
		}
		items += len(b.cells)
	}
	return boxes, items
}
