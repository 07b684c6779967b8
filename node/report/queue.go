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

// Queue is the durable sending side of one chain: it keeps drafts in order
// until the final acknowledgement, gives them their place in the chain and says
// what to send now. It owns no connection and no goroutine.
//
// A report is signed when it is sent, and signed alike each time: Ed25519 is
// deterministic. When state was lost on either side, the pending reports thus
// continue as a new chain by changing one record.
type Queue struct {
	st    *store.Store
	class Class
	key   ed25519.PrivateKey
	self  model.SourceID

	// Final, if set, sees each report that is finally acknowledged, signed as it was
	// sent, inside the update that trims it. It is set before the first send.
	Final func(tx *store.Tx, h Header, b Body) error

	mu     sync.Mutex
	sent   map[uint64]time.Time // when to try again, by sequence number
	quiet  time.Time            // nothing before this time
	dayMin uint16               // a receiver asked for keys of this day or later
}

// OpenQueue opens the chain of class in st for the node that signs with key.
func OpenQueue(st *store.Store, class Class, key ed25519.PrivateKey) *Queue {
	return &Queue{st: st, class: class, key: key, self: SourceOf(key.Public().(ed25519.PublicKey)), sent: map[uint64]time.Time{}}
}

// chain is what a queue keeps in the store. Places count drafts for ever;
// sequence numbers follow them until a new chain begins.
type chain struct {
	next    uint64   // place of the next draft, from 1
	done    uint64   // places up to here are acknowledged or given up
	seq     uint64   // sequence number of the newest final report
	hash    [32]byte // and its hash
	restart bool     // the next report begins a new chain
}

const chainSize = 8 + 8 + 8 + 32 + 1

func (q *Queue) chainKey() []byte {
	return store.SpaceHead.Key([]byte("out"), []byte{byte(q.class)})
}

func (q *Queue) draftKey(place uint64) []byte {
	return store.SpaceReport.Key([]byte{byte(q.class)}, store.U64(place))
}

func (q *Queue) load(tx *store.Tx) (chain, error) {
	raw, err := tx.Get(q.chainKey())
	if errors.Is(err, store.ErrNotFound) {
		return chain{next: 1}, nil
	}
	if err != nil {
		return chain{}, err
	}
	if len(raw) != chainSize {
		return chain{}, fmt.Errorf("%w: report chain of %d bytes", store.ErrDamaged, len(raw))
	}
	be := binary.BigEndian
	return chain{next: be.Uint64(raw), done: be.Uint64(raw[8:]), seq: be.Uint64(raw[16:]), hash: [32]byte(raw[24:56]), restart: raw[56] == 1}, nil
}

func (q *Queue) save(tx *store.Tx, c chain) error {
	raw := binary.BigEndian.AppendUint64(nil, c.next)
	raw = binary.BigEndian.AppendUint64(raw, c.done)
	raw = binary.BigEndian.AppendUint64(raw, c.seq)
	raw = append(raw, c.hash[:]...)
	if c.restart {
		return tx.Set(q.chainKey(), append(raw, 1))
	}
	return tx.Set(q.chainKey(), append(raw, 0))
}

// Append adds d at the end, inside the caller's update, so that the cursor over
// readings and the report move together. It returns the draft's place.
func (q *Queue) Append(tx *store.Tx, d Draft) (place uint64, err error) {
	h, body, err := d.header(q.self)
	if err != nil {
		return 0, err
	}
	if d.Class != q.class || d.Class == ClassAnswer {
		return 0, fmt.Errorf("%w: class %d in the chain of class %d", ErrInvalidReport, d.Class, q.class)
	}
	h.Seq = 1 // any valid number: its own comes when it is sent
	if err := h.check(); err != nil {
		return 0, err
	}
	c, err := q.load(tx)
	if err != nil {
		return 0, err
	}
	place = c.next
	c.next++
	return place, errors.Join(tx.Set(q.draftKey(place), append(h.Encode(), body...)), q.save(tx, c))
}

// entry is a pending report with its place in the chain.
type entry struct {
	header Header
	body   []byte
}

// window signs the pending reports that may be in flight, in order.
func (q *Queue) window(tx *store.Tx, c chain) (out []entry, err error) {
	prev := c.hash
	for place := c.done + 1; place < min(c.next, c.done+1+maxInFlight); place++ {
		raw, err := tx.Get(q.draftKey(place))
		if err != nil {
			return nil, fmt.Errorf("read pending report: %w", err)
		}
		if len(raw) < HeaderSize {
			return nil, fmt.Errorf("%w: pending report of %d bytes", store.ErrDamaged, len(raw))
		}
		h, err := DecodeHeader(raw[:HeaderSize])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", store.ErrDamaged, err)
		}
		h.Seq, h.Prev = c.seq+place-c.done, prev
		if c.restart && place == c.done+1 {
			h.Flags, h.Prev = h.Flags|FlagRestart, [32]byte{}
		}
		h.Sign(q.key)
		prev = h.Hash()
		out = append(out, entry{h, raw[HeaderSize:]})
	}
	return out, nil
}

// Due returns the messages to send now, oldest first and sealed for today, and
// counts them as sent. At most 8 are unacknowledged at any time.
func (q *Queue) Due(now time.Time, rnd io.Reader, keys SealKeys) (out []Message, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now.Before(q.quiet) {
		return nil, nil
	}
	pending, err := q.pending(now)
	if err != nil || len(pending) == 0 {
		return nil, err
	}
	day := max(DayOf(now.UnixMilli()), q.dayMin)
	key, ok := keys.KeyFor(day)
	if !ok {
		return nil, ErrNoSealKey
	}
	for _, e := range pending {
		m, err := Seal(rnd, e.header, e.body, day, key)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	for _, m := range out {
		q.sent[m.Header.Seq] = now.Add(retryLost)
	}
	return out, nil
}

// pending lists the reports of the window whose time has come. Caller holds mu.
func (q *Queue) pending(now time.Time) (out []entry, err error) {
	err = q.st.View(func(tx *store.Tx) error {
		c, err := q.load(tx)
		if err != nil {
			return err
		}
		waiting := 0
		for i := uint64(1); i <= min(c.next-1-c.done, maxInFlight); i++ {
			if again, sent := q.sent[c.seq+i]; !sent || !now.Before(again) {
				waiting++
			}
		}
		if waiting == 0 {
			return nil // spares the signatures
		}
		all, err := q.window(tx, c)
		for _, e := range all {
			if again, sent := q.sent[e.header.Seq]; !sent || !now.Before(again) {
				out = append(out, e)
			}
		}
		return err
	})
	return out, err
}

// Pending says how many reports wait for a final acknowledgement.
func (q *Queue) Pending() (n uint64, err error) {
	err = q.st.View(func(tx *store.Tx) error {
		c, err := q.load(tx)
		n = c.next - 1 - c.done
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
	forked := false
	err = q.st.Update(func(tx *store.Tx) error {
		c, err := q.load(tx)
		known := a.Seq < c.seq || a.Seq == c.seq && (a.Hash == c.hash || c.restart)
		if err != nil || known {
			return err
		}
		if trimmed, err = q.trim(tx, &c, a); err != nil {
			return err
		}
		forked = trimmed == 0
		return q.save(tx, c)
	})
	if err != nil {
		return 0, err
	}
	if forked {
		clear(q.sent)
		return 0, ErrForked
	}
	for seq := range q.sent {
		if seq <= a.Seq {
			delete(q.sent, seq)
		}
	}
	return trimmed, nil
}

// trim removes what a acknowledges and moves c there; 0 says that a names a
// report of a chain that is not ours, behind which c then continues.
func (q *Queue) trim(tx *store.Tx, c *chain, a Ack) (n uint64, err error) {
	all, err := q.window(tx, *c)
	if err != nil {
		return 0, err
	}
	for _, e := range all {
		if e.header.Seq == a.Seq && e.header.Hash() == a.Hash {
			n = a.Seq - c.seq
		}
	}
	for _, e := range all[:n] {
		if err := q.final(tx, e); err != nil {
			return 0, err
		}
		c.done++
		if err := tx.Delete(q.draftKey(c.done)); err != nil {
			return 0, err
		}
	}
	c.seq, c.hash, c.restart = a.Seq, a.Hash, n == 0
	return n, nil
}

func (q *Queue) final(tx *store.Tx, e entry) error {
	if q.Final == nil {
		return nil
	}
	b, err := DecodeBody(e.header, e.body)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrDamaged, err)
	}
	return q.Final(tx, e.header, b)
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
		if err != nil || seq == 0 || seq > c.seq && seq <= c.seq+c.next-c.done {
			return err
		}
		c.seq, c.hash, c.restart = seq-1, [32]byte{}, true
		return q.save(tx, c)
	})
}

// dropStep keeps one update of DropBefore within the store's limits.
const dropStep = 500

// DropBefore gives up pending reports that end at t (UTC ms) or earlier, when
// the backlog exceeds its age or the disk its reserve: quality reports first,
// energy last. The rest continue as a new chain, so the receiver names the gap.
func (q *Queue) DropBefore(t int64) (dropped int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.sent)
	for more := true; more; {
		n := 0
		err := q.st.Update(func(tx *store.Tx) (err error) {
			n, err = q.drop(tx, t)
			return err
		})
		if err != nil {
			return dropped, err
		}
		dropped, more = dropped+n, n == dropStep
	}
	return dropped, nil
}

func (q *Queue) drop(tx *store.Tx, t int64) (n int, err error) {
	c, err := q.load(tx)
	if err != nil {
		return 0, err
	}
	for ; n < dropStep && c.done+1 < c.next; n++ {
		raw, err := tx.Get(q.draftKey(c.done + 1))
		if err != nil {
			return 0, err
		}
		h, err := DecodeHeader(raw[:min(len(raw), HeaderSize)])
		if err != nil {
			return 0, fmt.Errorf("%w: %w", store.ErrDamaged, err)
		}
		if h.End() > t {
			break
		}
		c.done++
		if err := tx.Delete(q.draftKey(c.done)); err != nil {
			return 0, err
		}
	}
	if n == 0 {
		return 0, nil
	}
	c.restart = true
	return n, q.save(tx, c)
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
