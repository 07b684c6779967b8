package settle

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gridveil/ledger"
	"gridveil/privacy/session"
)

// name is a 32-byte identifier that reads as hex in stored records.
type name [32]byte

// MarshalText writes hex.
func (n name) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(n[:])), nil }

// UnmarshalText reads what MarshalText writes.
func (n *name) UnmarshalText(b []byte) error {
	if len(b) != 2*len(n) {
		return errors.New("name of wrong length")
	}
	_, err := hex.Decode(n[:], b)
	return err
}

// bookingState is where a session stands on its way to the ledger.
type bookingState string

const (
	queued   bookingState = "queued"   // receipt given, waits for its block
	ordered  bookingState = "ordered"  // its cdr entry is on its way
	posted   bookingState = "posted"   // in the log, in its pair's sum
	proposed bookingState = "proposed" // in a settle entry that the payer is asked to sign
	settled  bookingState = "settled"  // that entry is final
	held     bookingState = "held"     // the payer refused its line; taken out of the sum
	borne    bookingState = "borne"    // the aggregator has paid instead
)

// booking is one session from its Settle message on.
type booking struct {
	Session name
	Cur     uint8
	Payer   ledger.PartyID
	State   bookingState
	At      int64 // booked, UTC ms
	Bucket  uint32
	Index   uint64 // of the cdr entry
	Settled []byte

	settled session.Settled
}

func (b *booking) write() Write {
	w := Write{Key: under(keyBooking, b.Session[:]), Value: encode(b)}
	if b.State == settled || b.State == borne {
		w.Until = time.UnixMilli(b.At).Add(keepFor)
	}
	return w
}

// keepFor is how long what is finished is kept: past the time in which a late
// record or a repeated claim may still come, twice over.
const keepFor = 2 * session.KeepFor

// in returns a copy in another state, to be committed before it replaces b.
func (b *booking) in(s bookingState) *booking {
	c := *b
	c.State = s
	return &c
}

// meta is what does not belong to a single object.
type meta struct {
	Orders uint64           // orders made so far
	Issued map[uint8]uint32 // currency -> 1 + bucket of its last issue entry
}

func (m meta) write() Write { return Write{Key: []byte{keyMeta}, Value: encode(m)} }

// encode gives the stored form; the types here always marshal.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("settle: record does not marshal: " + err.Error())
	}
	return b
}

// load reads everything that is not finished.
func (d *Desk) load() error {
	d.meta = meta{Issued: map[uint8]uint32{}}
	if b := d.cfg.Store.Get([]byte{keyMeta}); b != nil {
		if err := json.Unmarshal(b, &d.meta); err != nil {
			return fmt.Errorf("settle: stored counters: %w", err)
		}
	}
	err := scan(d.cfg.Store, keyBooking, func(b *booking) error {
		if b.State == settled || b.State == borne {
			return nil
		}
		var err error
		b.settled, err = session.ParseSettled(b.Settled)
		d.bookings[b.Session] = b
		return err
	})
	if err != nil {
		return err
	}
	err = scan(d.cfg.Store, keyClaim, func(c *claim) error {
		if c.State != answered && c.State != lost {
			d.claims[c.Key] = c
		}
		return nil
	})
	if err != nil {
		return err
	}
	return scan(d.cfg.Store, keyOrder, func(o *order) error {
		d.orders[o.ID] = o
		return nil
	})
}

// scan decodes every record under a prefix.
func scan[T any](s Store, prefix byte, each func(*T) error) error {
	var failed error
	err := s.Scan([]byte{prefix}, func(_, value []byte) bool {
		v := new(T)
		if failed = json.Unmarshal(value, v); failed == nil {
			failed = each(v)
		}
		return failed == nil
	})
	if failed != nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("settle: load %q: %w", prefix, err)
	}
	return nil
}

// booking finds a session in memory or, once finished, in the store.
func (d *Desk) booking(s name) (*booking, bool) {
	if b, ok := d.bookings[s]; ok {
		return b, true
	}
	raw := d.cfg.Store.Get(under(keyBooking, s[:]))
	if raw == nil {
		return nil, false
	}
	b := new(booking)
	if json.Unmarshal(raw, b) != nil {
		return nil, false
	}
	var err error
	if b.settled, err = session.ParseSettled(b.Settled); err != nil {
		return nil, false
	}
	return b, true
}
