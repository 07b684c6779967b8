// Package mailbox keeps sealed items for a recipient that is away: the operations on a box, their answers, and what both
// ends do with them.
//
// A [Keeper] stands in a substation and answers requests over a [Storage]; an [Owner] is the recipient's secret end of
// one box, an [Address] what a sender needs. A sender makes one request with [Address.Put] and gives it to both keepers;
// the owner opens the box there, and [Fetch] reads and removes what came.
//
// What it guarantees: an item is durable before it is acknowledged; reading removes nothing; DONE removes the named items
// and no other; an owner's request has its effect once, also after a restart; every request and every answer has one
// size; a stranger is told the same of a box that is full and of one that does not exist. What it does not: a keeper
// knows when a box is used and how many items it holds, may drop them (so there are two keepers), and cannot tell one
// owner of many boxes from many owners, so its room for boxes can be used up.
//
// now and rnd are arguments, storage is the caller's; Keeper is safe for concurrent use, the others are not.
// Source: doc/wire.md, mailbox; doc/decisions/0116.
package mailbox

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"gridveil/privacy"
)

// Limits of a keeper and of an item.
const (
	MaxBoxes = 4096               // with 64 cells of 1 KiB: 264 MiB at most
	MaxCells = 64                 // per box
	MaxDays  = 30                 // that one OPEN lasts
	CellLife = 7 * 24 * time.Hour // then an item is gone
	Window   = 30 * time.Minute   // an owner's clock may differ by this much

	// MaxMessage is the longest message of an item, bytes.
	MaxMessage = CellSize - sealOverhead - itemSize - 1

	CellSize    = 1024
	RequestSize = 4 + keySize + itemSize + CellSize // two packets of the onion, sealed and with two reply blocks
	AnswerSize  = 4 + maxPage*cellRow               // two packets, sealed
	AddressSize = 1 + keySize*4

	maxPage      = 3 // cells in one answer
	cellRow      = 8 + itemSize + CellSize
	keySize      = 32
	itemSize     = 16
	ownerHead    = 4 + keySize + nonceSize + 8
	nonceSize    = 16
	signedSize   = RequestSize - ed25519.SignatureSize
	sealOverhead = 48 // of privacy.SuiteX25519
	version      = 1
)

// Errors of requests, answers and addresses.
var (
	ErrRequest  = errors.New("mailbox request is malformed")
	ErrAnswer   = errors.New("mailbox answer is malformed")
	ErrAddress  = errors.New("mailbox address is malformed")
	ErrTooLarge = fmt.Errorf("message is longer than the %d bytes of an item", MaxMessage)

	// ErrRefused: the box is unknown or full, or the request is not its owner's; a keeper does not say which. Try again
	// later: the owner may open or empty it.
	ErrRefused = errors.New("the mailbox takes nothing now; try again later")
	ErrClock   = errors.New("the clock differs from the keeper's by more than 30 min; check the time source")
	ErrReplay  = errors.New("the request was used before; make a new one")
	ErrFull    = errors.New("the keeper has no room for another box; choose another one")
	ErrUnknown = errors.New("the keeper has no such box; open it")
	ErrBusy    = errors.New("the keeper cannot store or read now; try again later")
)

// BoxID names a box: SHA-256("gridveil/mailbox/1" | Ed25519 key of its owner).
type BoxID [32]byte

// Key names a keeper by its member key.
type Key = [32]byte

// ItemID names an item; the sender draws it once, also for tries at both keepers.
type ItemID [itemSize]byte

func boxOf(key ed25519.PublicKey) BoxID {
	return sha256.Sum256(append([]byte("gridveil/mailbox/1"), key...))
}

// Op is what a request asks for.
type Op uint8

// Operations. The numbers are wire values.
const (
	Open  Op = 1 // make the box, or let it last longer
	Put   Op = 2 // add an item; the only one that is not the owner's
	Get   Op = 3 // read items
	Done  Op = 4 // remove items that were read
	Close Op = 5 // remove the box with everything in it
)

// Request is one operation.
type Request struct {
	Op    Op
	Box   BoxID // of an owner's request: that of Owner
	Item  ItemID
	Cell  []byte // CellSize bytes, of a Put
	Owner ed25519.PublicKey
	Nonce [nonceSize]byte
	At    time.Time // of an owner's request, whole ms
	Days  uint8     // of an Open, 1 to MaxDays
	After uint64    // of a Get: items with a greater number
	Seqs  []uint64  // of a Done: 1 to MaxCells numbers

	signed, sig []byte // as they came
}

// encode gives the RequestSize bytes; an owner's request is signed for one keeper.
func (r *Request) encode(key ed25519.PrivateKey, keeper Key) ([]byte, error) {
	b, err := r.layout()
	if err == nil && r.Op != Put {
		copy(b[signedSize:], ed25519.Sign(key, signing(keeper, b[:signedSize])))
	}
	return b, err
}

// layout is encode without the signature.
func (r *Request) layout() ([]byte, error) {
	b := make([]byte, RequestSize)
	b[0], b[1] = version, byte(r.Op)
	if r.Op == Put {
		if len(r.Cell) != CellSize {
			return nil, fmt.Errorf("%w: cell of %d bytes", ErrRequest, len(r.Cell))
		}
		copy(b[4:], r.Box[:])
		copy(b[4+keySize:], r.Item[:])
		copy(b[4+keySize+itemSize:], r.Cell)
		return b, nil
	}
	copy(b[4:], r.Owner)
	copy(b[4+keySize:], r.Nonce[:])
	binary.BigEndian.PutUint64(b[4+keySize+nonceSize:], uint64(r.At.UnixMilli()))
	arg := b[ownerHead:]
	switch r.Op {
	case Open:
		arg[0] = r.Days
	case Get:
		binary.BigEndian.PutUint64(arg, r.After)
	case Done:
		if len(r.Seqs) == 0 || len(r.Seqs) > MaxCells {
			return nil, fmt.Errorf("%w: %d items to remove", ErrRequest, len(r.Seqs))
		}
		arg[0] = byte(len(r.Seqs))
		for i, s := range r.Seqs {
			binary.BigEndian.PutUint64(arg[1+8*i:], s)
		}
	}
	return b, nil
}

// signing is what an owner signs: bound to one keeper, because numbers of items mean another thing at the other.
func signing(keeper Key, request []byte) []byte {
	return append(append([]byte("gridveil/mailbox-op/1"), keeper[:]...), request...)
}

// ParseRequest reads a request and checks its ranges; not its signature, nonce or time. It aliases b.
func ParseRequest(b []byte) (Request, error) {
	if len(b) != RequestSize || b[0] != version || b[2]|b[3] != 0 {
		return Request{}, fmt.Errorf("%w: %d bytes or another version", ErrRequest, len(b))
	}
	r := Request{Op: Op(b[1])}
	if r.Op == Put {
		r.Box, r.Item, r.Cell = BoxID(b[4:]), ItemID(b[4+keySize:]), b[4+keySize+itemSize:]
		return r, nil
	}
	r.Owner, r.Nonce = b[4:4+keySize], [nonceSize]byte(b[4+keySize:])
	r.Box = boxOf(r.Owner)
	r.signed, r.sig = b[:signedSize], b[signedSize:]
	at := binary.BigEndian.Uint64(b[4+keySize+nonceSize:])
	if at > maxTime {
		return Request{}, fmt.Errorf("%w: time out of range", ErrRequest)
	}
	r.At = time.UnixMilli(int64(at)).UTC()
	used, err := r.argument(b[ownerHead:signedSize])
	if err != nil {
		return Request{}, err
	}
	for _, x := range b[ownerHead+used : signedSize] {
		if x != 0 {
			return Request{}, fmt.Errorf("%w: padding is not zero", ErrRequest)
		}
	}
	return r, nil
}

const maxTime = 253_402_300_800_000 // UTC ms of the year 10000

// argument reads what is an operation's own and says how many bytes that was.
func (r *Request) argument(arg []byte) (used int, err error) {
	switch r.Op {
	case Open:
		if r.Days = arg[0]; r.Days == 0 || r.Days > MaxDays {
			return 0, fmt.Errorf("%w: box for %d days, want 1 to %d", ErrRequest, r.Days, MaxDays)
		}
		return 1, nil
	case Get:
		r.After = binary.BigEndian.Uint64(arg)
		return 8, nil
	case Done:
		n := int(arg[0])
		if n == 0 || n > MaxCells {
			return 0, fmt.Errorf("%w: %d items to remove, want 1 to %d", ErrRequest, n, MaxCells)
		}
		for i := range n {
			r.Seqs = append(r.Seqs, binary.BigEndian.Uint64(arg[1+8*i:]))
		}
		return 1 + 8*n, nil
	case Close:
		return 0, nil
	}
	return 0, fmt.Errorf("%w: operation %d", ErrRequest, r.Op)
}

// verify says whether the box's owner made this request for this keeper.
func (r *Request) verify(keeper Key) bool {
	return ed25519.Verify(r.Owner, signing(keeper, r.signed), r.sig)
}

// Status is how an operation ended.
type Status uint8

// Statuses. The numbers are wire values; Err gives each its error.
const (
	OK      Status = 0
	Refused Status = 1
	Clock   Status = 2
	Replay  Status = 3
	Full    Status = 4
	Unknown Status = 5
	Busy    Status = 6
)

var statusErrors = [...]error{nil, ErrRefused, ErrClock, ErrReplay, ErrFull, ErrUnknown, ErrBusy}

// Err is the status as an error, nil for OK.
func (s Status) Err() error { return statusErrors[s] }

// Cell is an item as a keeper holds it.
type Cell struct {
	Seq  uint64 // its number in the box, never used again
	Item ItemID
	Data []byte // CellSize bytes, sealed
}

// Answer is what a keeper says.
type Answer struct {
	Status Status
	More   bool   // there are further items behind the last of Cells
	Cells  []Cell // at most 3, of a Get; numbers ascend
}

// Encode gives the AnswerSize bytes; unused cells are zeros.
func (a *Answer) Encode() []byte {
	b := make([]byte, AnswerSize)
	b[0], b[1], b[2] = version, byte(a.Status), byte(len(a.Cells))
	if a.More {
		b[3] = 1
	}
	for i, c := range a.Cells {
		row := b[4+i*cellRow:]
		binary.BigEndian.PutUint64(row, c.Seq)
		copy(row[8:], c.Item[:])
		copy(row[8+itemSize:], c.Data)
	}
	return b
}

// ParseAnswer is the inverse of Encode. Cells alias b.
func ParseAnswer(b []byte) (Answer, error) {
	if len(b) != AnswerSize || b[0] != version || int(b[1]) >= len(statusErrors) || b[2] > maxPage || b[3] > 1 {
		return Answer{}, fmt.Errorf("%w: %d bytes, or out of range", ErrAnswer, len(b))
	}
	a := Answer{Status: Status(b[1]), More: b[3] == 1}
	n := int(b[2])
	if a.Status != OK && n > 0 || n == 0 && a.More {
		return Answer{}, fmt.Errorf("%w: status %d with %d items", ErrAnswer, a.Status, n)
	}
	last := uint64(0)
	for i := range n {
		row := b[4+i*cellRow : 4+(i+1)*cellRow]
		c := Cell{binary.BigEndian.Uint64(row), ItemID(row[8:]), row[8+itemSize:]}
		if c.Seq <= last {
			return Answer{}, fmt.Errorf("%w: numbers do not ascend", ErrAnswer)
		}
		last = c.Seq
		a.Cells = append(a.Cells, c)
	}
	for _, x := range b[4+n*cellRow:] {
		if x != 0 {
			return Answer{}, fmt.Errorf("%w: padding is not zero", ErrAnswer)
		}
	}
	return a, nil
}

// Address is what a sender needs to know of a recipient that may be away: version 1 | box 32 | keeper 32 | keeper 32 |
// X25519 key 32. It names nobody, if the recipient gives every sender another one.
type Address struct {
	Box     BoxID
	Keepers [2]Key
	Seal    [32]byte // items are sealed to it
}

// Encode gives the AddressSize bytes.
func (a *Address) Encode() []byte {
	b := append(make([]byte, 0, AddressSize), version)
	b = append(append(b, a.Box[:]...), a.Keepers[0][:]...)
	return append(append(b, a.Keepers[1][:]...), a.Seal[:]...)
}

// ParseAddress is the inverse of Encode.
func ParseAddress(b []byte) (Address, error) {
	if len(b) != AddressSize || b[0] != version {
		return Address{}, fmt.Errorf("%w: %d bytes or another version", ErrAddress, len(b))
	}
	a := Address{Box: BoxID(b[1:]), Keepers: [2]Key{Key(b[33:]), Key(b[65:])}, Seal: [32]byte(b[97:])}
	if a.Keepers[0] == a.Keepers[1] {
		return Address{}, fmt.Errorf("%w: both keepers are one", ErrAddress)
	}
	return a, nil
}

// Put seals msg into an item and gives the request that both keepers get, as often as it takes. It returns ErrTooLarge,
// or ErrAddress for a key that nothing can be sealed to.
func (a *Address) Put(rnd io.Reader, net privacy.Net, msg []byte) ([]byte, error) {
	if len(msg) > MaxMessage {
		return nil, ErrTooLarge
	}
	r := Request{Op: Put, Box: a.Box}
	if _, err := io.ReadFull(rnd, r.Item[:]); err != nil {
		return nil, fmt.Errorf("draw item id: %w", err)
	}
	// The id stands inside too: a keeper that repeats an item under another one is found out.
	sealed, _, err := privacy.Seal(rnd, privacy.SuiteX25519, a.Seal[:], privacy.KindMail, net, append(r.Item[:], msg...))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAddress, err)
	}
	r.Cell = sealed
	return r.encode(nil, Key{})
}
