package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Fragments carry a sealed message in up to eight packets.
const (
	MaxFragments = 8
	FragmentSize = UserSize - fragmentHeader // 1660
	MaxPartial   = 256                       // messages being reassembled
	PartialLife  = 15 * time.Minute          // from the first fragment; covers P99 of class meter and one retry

	fragmentHeader = 16
)

// Fragment errors.
var (
	ErrFragment    = errors.New("fragment is malformed")
	ErrPartialFull = errors.New("too many unfinished messages")
)

// MessageKind says what the fragments add up to.
type MessageKind uint8

// Message kinds.
const (
	MessageRequest MessageKind = 1
	MessageReply   MessageKind = 2
)

// MessageID ties fragments together; random per transmission.
type MessageID [8]byte

// Fragment is one piece: message id 8 | index 1 | count 1 | len 2 | kind 1 | 0 3 | data, zero-padded.
type Fragment struct {
	Message MessageID
	Index   uint8 // 0 to Count-1
	Count   uint8 // 1 to MaxFragments
	Kind    MessageKind
	Data    []byte // FragmentSize bytes, the last one 1 to FragmentSize
}

// Encode gives the UserSize bytes of a packet.
func (f *Fragment) Encode() ([]byte, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	b := make([]byte, UserSize)
	copy(b, f.Message[:])
	b[8], b[9], b[12] = f.Index, f.Count, byte(f.Kind)
	binary.BigEndian.PutUint16(b[10:], uint16(len(f.Data)))
	copy(b[fragmentHeader:], f.Data)
	return b, nil
}

func (f *Fragment) check() error {
	last := f.Index == f.Count-1
	full := len(f.Data) == FragmentSize || last && len(f.Data) > 0 && len(f.Data) < FragmentSize
	if f.Count == 0 || f.Count > MaxFragments || f.Index >= f.Count || !full || f.Kind < MessageRequest || f.Kind > MessageReply {
		return fmt.Errorf("%w: %d of %d with %d bytes", ErrFragment, f.Index, f.Count, len(f.Data))
	}
	return nil
}

// ParseFragment is the inverse of Encode. Data aliases user.
func ParseFragment(user []byte) (Fragment, error) {
	if len(user) != UserSize {
		return Fragment{}, fmt.Errorf("%w: %d bytes", ErrFragment, len(user))
	}
	size := int(binary.BigEndian.Uint16(user[10:]))
	if size > FragmentSize || user[13]|user[14]|user[15] != 0 {
		return Fragment{}, fmt.Errorf("%w: length %d", ErrFragment, size)
	}
	for _, x := range user[fragmentHeader+size:] {
		if x != 0 {
			return Fragment{}, fmt.Errorf("%w: padding is not zero", ErrFragment)
		}
	}
	f := Fragment{MessageID(user[:8]), user[8], user[9], MessageKind(user[12]), user[fragmentHeader : fragmentHeader+size]}
	return f, f.check()
}

// Split cuts a sealed message into the user bytes of its packets.
func Split(id MessageID, kind MessageKind, sealed []byte) ([][]byte, error) {
	if len(sealed) == 0 || len(sealed) > MaxSealed {
		return nil, fmt.Errorf("%w: %d sealed bytes, at most %d", ErrTooLarge, len(sealed), MaxSealed)
	}
	count := Fragments(len(sealed))
	var out [][]byte
	for i := range count {
		f := Fragment{id, uint8(i), uint8(count), kind, sealed[i*FragmentSize : min(len(sealed), (i+1)*FragmentSize)]}
		user, err := f.Encode()
		if err != nil {
			return nil, err
		}
		out = append(out, user)
	}
	return out, nil
}

// Fragments is the number of packets that n sealed bytes need.
func Fragments(n int) int { return (n + FragmentSize - 1) / FragmentSize }

// Assembler puts messages together. The zero value is ready. It holds at most
// MaxPartial unfinished messages of at most 13 KiB each, for PartialLife.
// Not safe for concurrent use.
type Assembler struct {
	partial map[MessageID]*partial
}

type partial struct {
	kind  MessageKind
	parts [][]byte
	left  int
	until time.Time
}

// Whole is a reassembled message; still sealed.
type Whole struct {
	ID     MessageID
	Kind   MessageKind
	Sealed []byte
}

// Add takes the user bytes of one packet. It returns the message when this was
// its last missing fragment, nil when more are to come. A repeated fragment
// changes nothing; one that contradicts the earlier ones is ErrFragment.
func (a *Assembler) Add(user []byte, now time.Time) (*Whole, error) {
	f, err := ParseFragment(user)
	if err != nil {
		return nil, err
	}
	p, err := a.find(&f, now)
	if err != nil {
		return nil, err
	}
	if p.kind != f.Kind || len(p.parts) != int(f.Count) {
		return nil, fmt.Errorf("%w: it contradicts an earlier fragment", ErrFragment)
	}
	if p.parts[f.Index] != nil {
		return nil, nil
	}
	p.parts[f.Index] = append([]byte(nil), f.Data...)
	if p.left--; p.left > 0 {
		return nil, nil
	}
	delete(a.partial, f.Message)
	w := &Whole{ID: f.Message, Kind: f.Kind}
	for _, part := range p.parts {
		w.Sealed = append(w.Sealed, part...)
	}
	return w, nil
}

func (a *Assembler) find(f *Fragment, now time.Time) (*partial, error) {
	if p, known := a.partial[f.Message]; known && now.Before(p.until) {
		return p, nil
	}
	if len(a.partial) >= MaxPartial {
		a.Expire(now)
	}
	if len(a.partial) >= MaxPartial {
		return nil, ErrPartialFull
	}
	if a.partial == nil {
		a.partial = map[MessageID]*partial{}
	}
	p := &partial{kind: f.Kind, parts: make([][]byte, f.Count), left: int(f.Count), until: now.Add(PartialLife)}
	a.partial[f.Message] = p
	return p, nil
}

// Expire forgets messages that were not finished in time and returns how many.
func (a *Assembler) Expire(now time.Time) int {
	n := 0
	for id, p := range a.partial {
		if !now.Before(p.until) {
			delete(a.partial, id)
			n++
		}
	}
	return n
}
