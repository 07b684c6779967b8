package export

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/internal/tile"
)

// Source reads a log. A store or an export is one.
type Source interface {
	// Checkpoint is the newest final checkpoint note.
	Checkpoint() ([]byte, error)
	// Bundle is the C2SP entry bundle n with its first width entries.
	Bundle(n uint64, width int) ([]byte, error)
}

// Heir is a Source of a log that goes on from a sealed one.
type Heir interface {
	// Carried is what the sealed log carried over.
	Carried() ([]byte, error)
}

// EntryError names the first entry of a log that breaks a rule.
type EntryError struct {
	Index uint64
	Err   error
}

func (e *EntryError) Error() string { return fmt.Sprintf("entry %d: %v", e.Index, e.Err) }

// Unwrap gives the broken rule, one of the errors of package ledger.
func (e *EntryError) Unwrap() error { return e.Err }

// Book is a replayed log: its state and everything that moved money.
type Book struct {
	Origin     string
	After      ledger.Checkpoint // final one of the sealed log before, zero if there is none
	sealed     []byte            // its note
	carried    [32]byte          // SHA-256 of what it carried over
	Checkpoint ledger.Checkpoint
	State      *ledger.State
	Kinds      map[string]int // entries per kind
	Moves      []Move         // entries with postings, in order
	Closes     []Closing      // closes, in order
	periods    []uint32       // by currency, the open period while replaying
}

// Move is one entry that moved money.
type Move struct {
	Index    uint64
	Time     time.Time // log time
	Kind     ledger.Kind
	Ref      string // what the entry points at, for people to search
	Period   uint32 // of its currency; a close belongs to the period it ends
	Postings []ledger.Posting
}

// Closing is one netting of a currency.
type Closing struct {
	ledger.Close
	Index uint64
	Leaf  ledger.Hash
	Time  time.Time
}

// follower gets what a replay finds, in order.
type follower struct {
	carried func(data []byte) error              // what a sealed log carried over
	tile    func(t tile.Tile, data []byte) error // full tiles of hashes
	bundle  func(t tile.Tile, data []byte) error
}

// Replay reads the log up to the checkpoint and verifies all of it: form,
// signatures, notes, commitments, every rule, state hashes, and the root. It
// returns an *EntryError for the first bad entry.
func Replay(src Source, c ledger.Checkpoint) (*Book, error) {
	b, edge, err := replay(src, c.Origin, c.Size, follower{})
	if err != nil {
		return nil, err
	}
	if edge.Root() != c.Root {
		return nil, fmt.Errorf("%w: entries have another root than the checkpoint of size %d", ledger.ErrFork, c.Size)
	}
	b.Checkpoint = c
	return b, nil
}

func replay(src Source, origin string, size uint64, f follower) (*Book, *tile.Edge, error) {
	b := &Book{Origin: origin, State: ledger.New(origin), Kinds: map[string]int{}}
	edge := &tile.Edge{}
	for n := uint64(0); n*tile.Width < size; n++ {
		t := tile.Tile{L: tile.Entries, N: n, W: int(min(size-n*tile.Width, tile.Width))}
		data, err := src.Bundle(n, t.W)
		if err != nil {
			return nil, nil, err
		}
		raw, err := ledger.ParseBundle(data, t.W)
		if err != nil {
			return nil, nil, &FileError{t.Path(), err}
		}
		if len(raw) != t.W {
			return nil, nil, &FileError{t.Path(), fmt.Errorf("%w: %d entries, want %d", ledger.ErrMalformed, len(raw), t.W)}
		}
		if n == 0 {
			if err := b.inherit(src, raw[0], f); err != nil {
				return nil, nil, err
			}
		}
		if err := b.apply(raw); err != nil {
			return nil, nil, err
		}
		if f.bundle != nil {
			if err := f.bundle(t, data); err != nil {
				return nil, nil, err
			}
		}
		for _, e := range raw {
			edge.Append(ledger.LeafHash(e), func(t tile.Tile, data []byte) {
				if f.tile != nil {
					err = errors.Join(err, f.tile(t, data))
				}
			})
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return b, edge, nil
}

// inherit takes over what a sealed log carried, if the first entry says so.
func (b *Book) inherit(src Source, first []byte, f follower) error {
	e, err := ledger.Parse(first)
	if err != nil {
		return &EntryError{0, err}
	}
	shard, ok := e.Body().(*ledger.Shard)
	if !ok {
		return nil
	}
	from, ok := src.(Heir)
	if !ok {
		return &FileError{fileCarried, ErrMissing}
	}
	carried, err := from.Carried()
	if err != nil {
		return err
	}
	if b.After, err = shard.SealedBy(); err != nil {
		return &EntryError{0, err}
	}
	b.sealed, b.carried = shard.Sealed, sha256.Sum256(carried)
	if b.State, err = ledger.Succeed(b.After.Origin, b.Origin, carried); err != nil {
		return &FileError{fileCarried, err}
	}
	if f.carried != nil {
		return f.carried(carried)
	}
	return nil
}

// apply runs one bundle: signatures are verified in one batch after the rules,
// so the first bad entry is the smaller of the two findings.
func (b *Book) apply(raw [][]byte) error {
	start := b.State.Size()
	checks := make([][]ledger.Check, 0, len(raw))
	var broken error
	for i := range raw {
		list, err := b.one(raw[i])
		if err != nil {
			broken = &EntryError{start + uint64(i), err}
			break
		}
		checks = append(checks, list)
	}
	for i, err := range ledger.Verify(checks) {
		if err != nil {
			return &EntryError{start + uint64(i), err}
		}
	}
	return broken
}

// one applies an entry and returns what remains to be verified of it.
func (b *Book) one(raw []byte) ([]ledger.Check, error) {
	e, err := ledger.Parse(raw)
	if err != nil {
		return nil, err
	}
	checks, err := b.State.Checks(e)
	if err != nil {
		return nil, err
	}
	index := b.State.Size()
	postings, err := b.State.Apply(e)
	if err != nil {
		return nil, err
	}
	b.Kinds[e.Kind().String()]++
	b.note(index, e, postings)
	return checks, nil
}

// note records what statements and payment files need.
func (b *Book) note(index uint64, e *ledger.Entry, postings []ledger.Posting) {
	if b.periods == nil {
		b.periods = make([]uint32, len(b.State.Currencies()))
		for i := range b.periods {
			b.periods[i] = b.State.NextClose(uint8(i))
		}
	}
	if _, ok := e.Body().(*ledger.Shard); ok {
		b.opening(index, postings)
		return
	}
	if len(postings) > 0 {
		b.Moves = append(b.Moves, Move{Index: index, Time: b.State.LogTime(), Kind: e.Kind(), Ref: refOf(e.Body()),
			Period: b.periods[postings[0].Account.Currency()], Postings: postings})
	}
	if c, ok := e.Body().(*ledger.Close); ok {
		b.Closes = append(b.Closes, Closing{Close: *c, Index: index, Leaf: e.Leaf(), Time: b.State.LogTime()})
		b.periods[c.Cur] = c.Period + 1
	}
}

// opening records what was carried over as one move per currency.
func (b *Book) opening(index uint64, postings []ledger.Posting) {
	for cur := range b.periods {
		m := Move{Index: index, Time: b.State.LogTime(), Kind: ledger.KindShard, Ref: "carried over from " + b.After.Origin, Period: b.periods[cur]}
		for _, p := range postings {
			if p.Account.Currency() == uint8(cur) {
				m.Postings = append(m.Postings, p)
			}
		}
		if len(m.Postings) > 0 {
			b.Moves = append(b.Moves, m)
		}
	}
}

// refOf is what a line of a statement refers to.
func refOf(body ledger.Body) string {
	switch v := body.(type) {
	case *ledger.Settle:
		return fmt.Sprintf("payer %d, grid %d, %d sessions to bucket %d", v.Payer, v.Grid, v.N, v.To)
	case *ledger.Transfer:
		return fmt.Sprintf("%s %x", v.Purpose, v.Ref)
	case *ledger.Reverse:
		return fmt.Sprintf("entry %d", v.Target)
	case *ledger.Issue:
		return fmt.Sprintf("epoch %d, %d claims", v.Epoch, v.Claims)
	case *ledger.Redeem:
		return fmt.Sprintf("%d notes, bind %x", len(v.Notes), v.Bind)
	case *ledger.Lapse:
		return fmt.Sprintf("epoch %d", v.Epoch)
	case *ledger.Close:
		return fmt.Sprintf("close %d", v.Period)
	case *ledger.Paid:
		return fmt.Sprintf("close %d payment %d, bank %x", v.Period, v.No, v.BankRef)
	case *ledger.Failed:
		return fmt.Sprintf("close %d payment %d", v.Period, v.No)
	}
	return ""
}
