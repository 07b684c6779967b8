package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Outbox keeps messages until the far side has acknowledged them. Put it in the
// same Update as the state change that causes the message: then the message
// leaves if and only if the change happened.
//
//	key 'x' name 0 'q' seq  -> message     key 'x' name 0 'i' id -> seq     key 'x' name 0 't' seq -> unix ms
type Outbox struct {
	s    *Store
	name string
}

// Message is one entry. ID is chosen by the caller (usually a hash) and is what
// the receiver deduplicates by; Kind and To mean what the caller wants.
type Message struct {
	Seq  uint64 // order of Put, set by the outbox
	ID   []byte // 1..64 bytes
	Kind string // at most 255 bytes
	To   string // at most 255 bytes; empty when the route decides
	Body []byte
	At   time.Time // since when it waits, for pages; zero when the caller did not say
}

const maxOutboxID = 64

// ErrConflict means an id is in the outbox with other content.
var ErrConflict = errors.New("store: outbox id already holds another message")

// Outbox opens the named outbox; names are short constants such as "report".
func (s *Store) Outbox(name string) Outbox { return Outbox{s: s, name: name} }

func (o Outbox) prefix(part byte) []byte {
	return SpaceOutbox.Key([]byte(o.name), []byte{0, part})
}

// Put stores a message in an update of its own; see PutTx.
func (o Outbox) Put(id []byte, kind, to string, body []byte) error {
	return o.s.Update(func(tx *Tx) error { return o.PutTx(tx, Message{ID: id, Kind: kind, To: to, Body: body}) })
}

// PutTx adds m at the end. The same message again is fine and keeps its place;
// the same id with other content is ErrConflict.
func (o Outbox) PutTx(tx *Tx, m Message) error {
	if len(m.ID) == 0 || len(m.ID) > maxOutboxID || len(m.Kind) > 255 || len(m.To) > 255 {
		return fmt.Errorf("%w: outbox id of %d, kind of %d, address of %d bytes", ErrTooLarge, len(m.ID), len(m.Kind), len(m.To))
	}
	index := append(o.prefix('i'), m.ID...)
	if at, err := tx.Get(index); err == nil {
		old, err := tx.Get(append(o.prefix('q'), at...))
		if err != nil {
			return fmt.Errorf("read outbox entry: %w", err)
		}
		if !bytes.Equal(old, encodeMessage(m)) {
			return ErrConflict
		}
		return nil
	} else if !errors.Is(err, ErrNotFound) {
		return err
	}
	seq, err := o.nextSeq(tx)
	if err != nil {
		return err
	}
	if err := tx.Set(index, U64(seq)); err != nil {
		return err
	}
	if !m.At.IsZero() {
		if err := tx.Set(append(o.prefix('t'), U64(seq)...), U64(uint64(m.At.UnixMilli()))); err != nil {
			return err
		}
	}
	return tx.Set(append(o.prefix('q'), U64(seq)...), encodeMessage(m))
}

// nextSeq counts up for ever, so that an emptied outbox does not reuse places.
func (o Outbox) nextSeq(tx *Tx) (uint64, error) {
	key := o.prefix('n')
	raw, err := tx.Get(key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return 0, err
	}
	last, _ := GetU64(raw)
	return last + 1, tx.Set(key, U64(last+1))
}

// HasTx says whether a message with the id waits.
func (o Outbox) HasTx(tx *Tx, id []byte) (bool, error) {
	return tx.Has(append(o.prefix('i'), id...))
}

// maxCounted is how many waiting messages are counted; a page says "at least".
const maxCounted = 10_000

// Waiting counts the messages, up to 10,000, and says since when the oldest
// whose time is known waits; since is zero when none is known.
func (o Outbox) Waiting() (n int, since time.Time, err error) {
	err = o.s.View(func(tx *Tx) error {
		if err := tx.Each(o.prefix('q'), func(_, _ []byte) error {
			if n++; n == maxCounted {
				return ErrStop
			}
			return nil
		}); err != nil {
			return err
		}
		return tx.Each(o.prefix('t'), func(_, value []byte) error {
			ms, ok := GetU64(value)
			if !ok {
				return fmt.Errorf("%w: time of an outbox entry", ErrDamaged)
			}
			since = time.UnixMilli(int64(ms)).UTC()
			return ErrStop
		})
	})
	return n, since, err
}

// List returns up to limit messages, oldest first, starting after seq. Their At is not read.
func (o Outbox) List(after uint64, limit int) (out []Message, err error) {
	err = o.s.View(func(tx *Tx) error {
		prefix := o.prefix('q')
		return tx.EachFrom(prefix, append(bytes.Clone(prefix), U64(after+1)...), func(key, value []byte) error {
			if len(out) == limit {
				return ErrStop
			}
			m, err := decodeMessage(value)
			if err != nil {
				return err
			}
			m.Seq, _ = GetU64(key[len(prefix):])
			out = append(out, m)
			return nil
		})
	})
	return out, err
}

// Done removes a message after its acknowledgement; an unknown id is fine.
func (o Outbox) Done(id []byte) error {
	return o.s.Update(func(tx *Tx) error { return o.DoneTx(tx, id) })
}

// DoneTx is Done inside a caller's update.
func (o Outbox) DoneTx(tx *Tx, id []byte) error {
	index := append(o.prefix('i'), id...)
	at, err := tx.Get(index)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(tx.Delete(index), tx.Delete(append(o.prefix('q'), at...)), tx.Delete(append(o.prefix('t'), at...)))
}

func encodeMessage(m Message) []byte {
	b := []byte{byte(len(m.ID))}
	b = append(b, m.ID...)
	b = append(append(b, byte(len(m.Kind))), m.Kind...)
	b = append(append(b, byte(len(m.To))), m.To...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.Body)))
	return append(b, m.Body...)
}

func decodeMessage(b []byte) (m Message, err error) {
	var part [3][]byte
	for i := range part {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return Message{}, fmt.Errorf("%w: short outbox entry", ErrDamaged)
		}
		part[i], b = b[1:1+int(b[0])], b[1+int(b[0]):]
	}
	if len(b) < 4 || int(binary.BigEndian.Uint32(b)) != len(b)-4 {
		return Message{}, fmt.Errorf("%w: outbox body length", ErrDamaged)
	}
	return Message{ID: part[0], Kind: string(part[1]), To: string(part[2]), Body: b[4:]}, nil
}
