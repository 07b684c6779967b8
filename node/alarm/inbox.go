package alarm

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/store"
)

// ErrDenied means the access matrix does not let the role do this.
var ErrDenied = errors.New("alarm: role may not do this")

// Inbox keeps received (or own) events once each, and what utilities think of
// them.
//
//	'e' i id16 -> place 8        'e' t place 8 -> event        'e' d device16 place 8 -> nothing
//	'v' utility id16 -> class severity role at
type Inbox struct{ st *store.Store }

// OpenInbox opens the events of a node's store.
func OpenInbox(st *store.Store) Inbox { return Inbox{st} }

func idKey(id ID) []byte           { return store.SpaceEvent.Key([]byte{'i'}, id[:]) }
func placeKey(place uint64) []byte { return store.SpaceEvent.Key([]byte{'t'}, store.U64(place)) }

// Take stores a verified event durably. fresh is false when it was there
// before: acknowledge again, act no second time. device is the opened device of
// a sealed event, or e.Device.
func (b Inbox) Take(e Event, device [16]byte) (fresh bool, err error) {
	err = b.st.Update(func(tx *store.Tx) error {
		fresh, err = b.TakeTx(tx, e, device)
		return err
	})
	return fresh, err
}

// TakeTx is Take inside a caller's update, for example with an outbox entry.
func (b Inbox) TakeTx(tx *store.Tx, e Event, device [16]byte) (fresh bool, err error) {
	raw, err := e.Encode()
	if err != nil {
		return false, err
	}
	id := e.ID()
	if have, err := tx.Has(idKey(id)); have || err != nil {
		return false, err
	}
	place, err := nextPlace(tx)
	if err != nil {
		return false, err
	}
	err = errors.Join(tx.Set(idKey(id), store.U64(place)), tx.Set(placeKey(place), raw),
		tx.Set(store.SpaceEvent.Key([]byte{'d'}, device[:], store.U64(place)), nil))
	return err == nil, err
}

func nextPlace(tx *store.Tx) (uint64, error) {
	key := store.SpaceEvent.Key([]byte{'n'})
	raw, err := tx.Get(key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, err
	}
	last, _ := store.GetU64(raw)
	return last + 1, tx.Set(key, store.U64(last+1))
}

// Stored is an event with its place in commit order, the cursor of List.
type Stored struct {
	Place uint64
	Event Event
}

// List returns up to limit events after a place, in the order they came in.
func (b Inbox) List(after uint64, limit int) (out []Stored, err error) {
	prefix := store.SpaceEvent.Key([]byte{'t'})
	err = b.st.View(func(tx *store.Tx) error {
		return tx.EachFrom(prefix, placeKey(after+1), func(key, value []byte) error {
			if len(out) == limit {
				return store.ErrStop
			}
			e, err := Decode(value)
			if err != nil {
				return fmt.Errorf("%w: %w", store.ErrDamaged, err)
			}
			place, _ := store.GetU64(key[2:])
			out = append(out, Stored{place, e})
			return nil
		})
	})
	return out, err
}

// Last returns the newest n events of a device, newest first; gaps in Seq show
// what never arrived.
func (b Inbox) Last(device [16]byte, n int) (out []Stored, err error) {
	prefix := store.SpaceEvent.Key([]byte{'d'}, device[:])
	err = b.st.View(func(tx *store.Tx) error {
		var places []uint64
		if err := tx.Each(prefix, func(key, _ []byte) error {
			place, _ := store.GetU64(key[len(prefix):])
			if places = append(places, place); len(places) > n {
				places = places[1:]
			}
			return nil
		}); err != nil {
			return err
		}
		for i := len(places) - 1; i >= 0; i-- {
			raw, err := tx.Get(placeKey(places[i]))
			if err != nil {
				return err
			}
			e, err := Decode(raw)
			if err != nil {
				return fmt.Errorf("%w: %w", store.ErrDamaged, err)
			}
			out = append(out, Stored{places[i], e})
		}
		return nil
	})
	return out, err
}

// Find returns up to limit events whose id begins with hexadecimal digits, in the
// order of ids. Anything else than such digits finds nothing.
func (b Inbox) Find(digits string, limit int) (out []Event, err error) {
	digits = strings.ToLower(digits)
	whole, err := hex.DecodeString(digits[:len(digits)&^1])
	if err != nil {
		return nil, nil
	}
	err = b.st.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceEvent.Key([]byte{'i'}, whole), func(key, place []byte) error {
			if !strings.HasPrefix(hex.EncodeToString(key[2:]), digits) {
				return nil
			}
			if len(out) == limit {
				return store.ErrStop
			}
			at, _ := store.GetU64(place)
			raw, err := tx.Get(placeKey(at))
			if err != nil {
				return err
			}
			e, err := Decode(raw)
			if err != nil {
				return fmt.Errorf("%w: %w", store.ErrDamaged, err)
			}
			out = append(out, e)
			return nil
		})
	})
	return out, err
}

func viewKey(utility model.SourceID, id ID) []byte { return store.SpaceView.Key(utility[:], id[:]) }

// ViewOf is what a utility thinks of an event: its rules, and its
// acknowledgement if there is one.
func (b Inbox) ViewOf(utility model.SourceID, rules Rules, e Event) (View, error) {
	v := rules.View(e)
	raw, err := b.st.Get(viewKey(utility, v.Event))
	if errors.Is(err, store.ErrNotFound) {
		return v, nil
	}
	if err == nil && len(raw) != 9 {
		err = fmt.Errorf("%w: view of %d bytes", store.ErrDamaged, len(raw))
	}
	if err != nil {
		return v, err
	}
	v.AckedBy, v.AckedAt = model.Role(raw[0]), int64(binary.BigEndian.Uint64(raw[1:]))
	return v, nil
}

// Acknowledge records that a role of a utility took care of an event. Only a
// role that may execute object 19 can; the first acknowledgement stays.
func (b Inbox) Acknowledge(utility model.SourceID, id ID, by model.Role, now time.Time) error {
	if ok, _ := model.May(by, model.ObjAlarms, model.VerbExecute); !ok {
		return fmt.Errorf("%w: %v acknowledges alarms", ErrDenied, by)
	}
	return b.st.Update(func(tx *store.Tx) error {
		if have, err := tx.Has(idKey(id)); err != nil || !have {
			return errors.Join(err, store.ErrNotFound)
		}
		key := viewKey(utility, id)
		if have, err := tx.Has(key); have || err != nil {
			return err
		}
		return tx.Set(key, binary.BigEndian.AppendUint64([]byte{byte(by)}, uint64(now.UnixMilli())))
	})
}

// Ack says that an event is durable at its receiver.
type Ack struct {
	Event    ID
	Receiver model.SourceID
	At       int64
	Sig      [64]byte
}

// AckSize is the encoded size of an Ack.
const AckSize = 108

const (
	ackMagic = "GVAK"
	ackLabel = "gridveil/alarm-ack/v1\x00"
)

// NewAck acknowledges an event.
func NewAck(id ID, now time.Time, key ed25519.PrivateKey) Ack {
	a := Ack{Event: id, Receiver: report.SourceOf(key.Public().(ed25519.PublicKey)), At: now.UnixMilli()}
	copy(a.Sig[:], ed25519.Sign(key, a.signed()))
	return a
}

// Encode gives magic 4 | event 16 | receiver 16 | time 8 | signature 64.
func (a Ack) Encode() []byte {
	b := append(make([]byte, 0, AckSize), ackMagic...)
	b = append(append(b, a.Event[:]...), a.Receiver[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(a.At))
	return append(b, a.Sig[:]...)
}

func (a Ack) signed() []byte { return append([]byte(ackLabel), a.Encode()[:AckSize-64]...) }

// DecodeAck parses exactly 108 bytes.
func DecodeAck(b []byte) (Ack, error) {
	if len(b) != AckSize || !bytes.Equal(b[:4], []byte(ackMagic)) {
		return Ack{}, fmt.Errorf("%w: not a GVAK acknowledgement", ErrInvalidEvent)
	}
	return Ack{Event: ID(b[4:20]), Receiver: model.SourceID(b[20:36]), At: int64(binary.BigEndian.Uint64(b[36:])),
		Sig: [64]byte(b[44:108])}, nil
}

// Verify checks that pub acknowledged.
func (a Ack) Verify(pub ed25519.PublicKey) error {
	if len(pub) != ed25519.PublicKeySize || report.SourceOf(pub) != a.Receiver || !ed25519.Verify(pub, a.signed(), a.Sig[:]) {
		return fmt.Errorf("%w: acknowledgement signature", ErrInvalidEvent)
	}
	return nil
}
