package report

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"gridveil/node/model"
	"gridveil/node/store"
)

// Limits and waits of a sending chain; all waits run on the caller's clock.
const (
	maxInFlight    = 8                // reports sent and not finally acknowledged
	retryLost      = 30 * time.Second // no answer at all
	retryHeld      = 10 * time.Minute // a relay holds it, the head-end is silent
	retryRefused   = 10 * time.Minute // unreferenced or other roster: a person acts first
	retryBadBody   = time.Hour        // the same bytes will be refused again
	leastBusyDelay = time.Second
)

// Errors of a queue.
var (
	// ErrNoSealKey means the order holds no day key for today: fetch a new order.
	ErrNoSealKey = errors.New("report: no seal key for today; fetch the current order")
	// ErrForked means the receiver acknowledged bytes that we never signed.
	ErrForked = fmt.Errorf("%w: acknowledgement of another report", ErrInvalidReport)
)

// SealKeys finds the head-end's public key of a day; model.Order has it.
type SealKeys interface {
	KeyFor(day uint16) (key [32]byte, ok bool)
}

// Queue is the durable sending side of one chain: it gives each draft its
// place, keeps it until the final acknowledgement and says what to send now.
// It owns no connection and no goroutine.
type Queue struct {
	st    *store.Store
	class Class
	key   ed25519.PrivateKey
	self  model.SourceID

	mu     sync.Mutex
	sent   map[uint64]time.Time // when to try again, by sequence number
	quiet  time.Time            // nothing before this time
	dayMin uint16               // a receiver asked for keys of this day or later
}

// OpenQueue opens the chain of class in st for the node that signs with key.
func OpenQueue(st *store.Store, class Class, key ed25519.PrivateKey) *Queue {
	return &Queue{st: st, class: class, key: key, self: SourceOf(key.Public().(ed25519.PublicKey)), sent: map[uint64]time.Time{}}
}

// chain is what a queue keeps in the store.
type chain struct {
	next  uint64   // sequence number of the next draft
	prev  [32]byte // hash of the newest header
	final uint64   // everything up to here is acknowledged and trimmed
}

func (q *Queue) chainKey() []byte {
	return store.SpaceHead.Key([]byte("out"), []byte{byte(q.class)})
}

func (q *Queue) recordKey(seq uint64) []byte {
	return store.SpaceReport.Key([]byte{byte(q.class)}, store.U64(seq))
}

func (q *Queue) load(tx *store.Tx) (chain, error) {
	raw, err := tx.Get(q.chainKey())
	if errors.Is(err, store.ErrNotFound) {
		return chain{next: 1}, nil
	}
	if err != nil {
		return chain{}, err
	}
	if len(raw) != 48 {
		return chain{}, fmt.Errorf("%w: report chain of %d bytes", store.ErrDamaged, len(raw))
	}
	return chain{next: binary.BigEndian.Uint64(raw), prev: [32]byte(raw[8:40]), final: binary.BigEndian.Uint64(raw[40:])}, nil
}

func (q *Queue) save(tx *store.Tx, c chain) error {
	raw := binary.BigEndian.AppendUint64(nil, c.next)
	raw = append(raw, c.prev[:]...)
	return tx.Set(q.chainKey(), binary.BigEndian.AppendUint64(raw, c.final))
}

// Append signs d as the next report of the chain, inside the caller's update,
// so that the cursor over readings and the report move together.
func (q *Queue) Append(tx *store.Tx, d Draft) (Header, error) {
	h, body, err := d.header(q.self)
	if err != nil {
		return Header{}, err
	}
	if d.Class != q.class {
		return Header{}, fmt.Errorf("%w: class %d in the chain of class %d", ErrInvalidReport, d.Class, q.class)
	}
	c, err := q.load(tx)
	if err != nil {
		return Header{}, err
	}
	h.Seq, h.Prev = c.next, c.prev
	if c.next > 1 && c.prev == [32]byte{} {
		h.Flags |= FlagRestart // renumbered while nothing was pending
	}
	h.Sign(q.key)
	if err := h.check(); err != nil {
		return Header{}, err
	}
	if err := tx.Set(q.recordKey(h.Seq), append(h.Encode(), body...)); err != nil {
		return Header{}, err
	}
	c.next, c.prev = c.next+1, h.Hash()
	return h, q.save(tx, c)
}

// record reads a kept report.
func (q *Queue) record(tx *store.Tx, seq uint64) (Header, []byte, error) {
	raw, err := tx.Get(q.recordKey(seq))
	if err != nil {
		return Header{}, nil, err
	}
	if len(raw) < HeaderSize {
		return Header{}, nil, fmt.Errorf("%w: short report", store.ErrDamaged)
	}
	h, err := DecodeHeader(raw[:HeaderSize])
	return h, raw[HeaderSize:], err
}

// Due returns the messages to send now, oldest first and sealed for today, and
// counts them as sent. At most 8 are unacknowledged at any time.
func (q *Queue) Due(now time.Time, rnd io.Reader, keys SealKeys) ([]Message, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now.Before(q.quiet) {
		return nil, nil
	}
	day := max(DayOf(now.UnixMilli()), q.dayMin)
	key, ok := keys.KeyFor(day)
	if !ok {
		return nil, ErrNoSealKey
	}
	var out []Message
	err := q.st.View(func(tx *store.Tx) error {
		c, err := q.load(tx)
		if err != nil {
			return err
		}
		for seq := c.final + 1; seq < min(c.next, c.final+1+maxInFlight); seq++ {
			if again, waiting := q.sent[seq]; waiting && now.Before(again) {
				continue
			}
			h, body, err := q.record(tx, seq)
			if err != nil {
				return fmt.Errorf("read report %d: %w", seq, err)
			}
			m, err := Seal(rnd, h, body, day, key)
			if err != nil {
				return err
			}
			out = append(out, m)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, m := range out {
		q.sent[m.Header.Seq] = now.Add(retryLost)
	}
	return out, nil
}

// Pending says how many reports wait for a final acknowledgement.
func (q *Queue) Pending() (n uint64, err error) {
	err = q.st.View(func(tx *store.Tx) error {
		c, err := q.load(tx)
		n = c.next - 1 - c.final
		return err
	})
	return n, err
}

// OnAck applies an acknowledgement. pub is the key of the relay for held, and
// of the head-end for final; only final trims. It returns how many reports were
// trimmed, ErrSignature, or ErrForked: then the head-end knows a chain that this
// store has lost, the pending reports continue behind it as a new chain, and the
// caller raises an event of kind 1.
func (q *Queue) OnAck(a Ack, pub ed25519.PublicKey, now time.Time) (trimmed uint64, err error) {
	if err := a.Verify(pub); err != nil {
		return 0, err
	}
	if a.Source != q.self || a.Class != q.class {
		return 0, fmt.Errorf("%w: acknowledgement for another chain", ErrInvalidReport)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if a.Level == LevelHeld {
		for seq := range q.sent {
			if seq <= a.Seq {
				q.sent[seq] = now.Add(retryHeld)
			}
		}
		return 0, nil
	}
	err = q.st.Update(func(tx *store.Tx) error {
		trimmed, err = q.trim(tx, a)
		return err
	})
	if errors.Is(err, ErrForked) {
		clear(q.sent)
		return 0, errors.Join(err, q.startBehind(a.Seq))
	}
	if err != nil {
		return 0, err
	}
	for seq := range q.sent {
		if seq <= a.Seq {
			delete(q.sent, seq)
		}
	}
	return trimmed, nil
}

func (q *Queue) trim(tx *store.Tx, a Ack) (uint64, error) {
	c, err := q.load(tx)
	if err != nil || a.Seq <= c.final {
		return 0, err
	}
	if a.Seq >= c.next {
		return 0, ErrForked
	}
	h, _, err := q.record(tx, a.Seq)
	if err != nil {
		return 0, err
	}
	if h.Hash() != a.Hash {
		return 0, ErrForked
	}
	n := a.Seq - c.final
	for seq := c.final + 1; seq <= a.Seq; seq++ {
		if err := tx.Delete(q.recordKey(seq)); err != nil {
			return 0, err
		}
	}
	c.final = a.Seq
	return n, q.save(tx, c)
}

// OnRefusal applies a refusal and returns it as an error when a person or
// another part has to act (unreferenced, roster, bad body); nil means that the
// queue knows what to do. pub is the key of whoever refused.
func (q *Queue) OnRefusal(r Refusal, pub ed25519.PublicKey, now time.Time) error {
	if err := r.Verify(pub); err != nil {
		return err
	}
	if r.Source != q.self || r.Class != q.class {
		return fmt.Errorf("%w: refusal for another chain", ErrInvalidReport)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch r.Reason {
	case FromSeq:
		clear(q.sent)
		return q.continueAt(r.Seq)
	case Reseal:
		q.dayMin = max(q.dayMin, DayOf(r.At))
		delete(q.sent, r.Seq)
		return nil
	case Busy:
		q.quiet = now.Add(max(time.Duration(r.RetryMS)*time.Millisecond, leastBusyDelay))
		delete(q.sent, r.Seq)
		return nil
	case BadBody:
		q.sent[r.Seq] = now.Add(retryBadBody)
	default:
		q.quiet = now.Add(retryRefused)
	}
	return r
}

// continueAt resends from seq. When the receiver wants a number that we no
// longer or not yet have, one of us lost state: the pending reports start a new
// chain there, and the receiver names the gap.
func (q *Queue) continueAt(seq uint64) error {
	return q.st.Update(func(tx *store.Tx) error {
		c, err := q.load(tx)
		if err != nil || seq == 0 || (seq > c.final && seq <= c.next) {
			return err
		}
		return q.renumber(tx, c, seq)
	})
}

// startBehind continues as a new chain after the last report the head-end has.
func (q *Queue) startBehind(seq uint64) error {
	return q.st.Update(func(tx *store.Tx) error {
		c, err := q.load(tx)
		if err != nil {
			return err
		}
		return q.renumber(tx, c, seq+1)
	})
}

func (q *Queue) renumber(tx *store.Tx, c chain, from uint64) error {
	type kept struct {
		h    Header
		body []byte
	}
	var all []kept
	for seq := c.final + 1; seq < c.next; seq++ {
		h, body, err := q.record(tx, seq)
		if err != nil {
			return err
		}
		if err := tx.Delete(q.recordKey(seq)); err != nil {
			return err
		}
		all = append(all, kept{h, body})
	}
	c = chain{next: from, final: from - 1}
	for _, k := range all {
		k.h.Seq, k.h.Prev = c.next, c.prev
		k.h.Flags &^= FlagRestart
		if c.next == from {
			k.h.Flags |= FlagRestart
		}
		k.h.Sign(q.key)
		if err := tx.Set(q.recordKey(c.next), append(k.h.Encode(), k.body...)); err != nil {
			return err
		}
		c.next, c.prev = c.next+1, k.h.Hash()
	}
	return q.save(tx, c)
}

// LoadHead reads where a receiver stands in the chain of (source, class).
func LoadHead(tx *store.Tx, source model.SourceID, class Class) (Head, error) {
	raw, err := tx.Get(headKey(source, class))
	if errors.Is(err, store.ErrNotFound) {
		return Head{}, nil
	}
	if err != nil {
		return Head{}, err
	}
	if len(raw) != 48 {
		return Head{}, fmt.Errorf("%w: chain head of %d bytes", store.ErrDamaged, len(raw))
	}
	return Head{Seq: binary.BigEndian.Uint64(raw), Hash: [32]byte(raw[8:40]), End: int64(binary.BigEndian.Uint64(raw[40:]))}, nil
}

// SaveHead stores c, inside the update that stores the report.
func SaveHead(tx *store.Tx, source model.SourceID, class Class, c Head) error {
	raw := append(binary.BigEndian.AppendUint64(nil, c.Seq), c.Hash[:]...)
	return tx.Set(headKey(source, class), binary.BigEndian.AppendUint64(raw, uint64(c.End)))
}

func headKey(source model.SourceID, class Class) []byte {
	return store.SpaceHead.Key([]byte("in"), source[:], []byte{byte(class)})
}
