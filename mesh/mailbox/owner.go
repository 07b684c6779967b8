package mailbox

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"gridveil/privacy"
)

// PollExpecting and PollIdle are the mean times between two polls of a recipient, exponential: while it waits for
// something, and otherwise. A poll of class meter takes slots that go anyway, so it shows to nobody on the line.
const (
	PollExpecting = 30 * time.Minute
	PollIdle      = 6 * time.Hour
)

// maxSeen bounds the items that an owner remembers; a box holds 64 at each of two keepers.
const maxSeen = 4 * MaxCells

// Owner is the recipient's end of one box. Its fields are stored by whoever holds it and are secret.
type Owner struct {
	Seed    [32]byte // of the key that signs
	Secret  []byte   // of the key that opens
	Public  []byte
	Keepers [2]Key
	Seen    []ItemID // items that were taken, oldest first
}

// NewOwner makes a box's keys; the box itself is opened at its keepers.
func NewOwner(rnd io.Reader, keepers [2]Key) (*Owner, error) {
	o := &Owner{Keepers: keepers}
	if _, err := io.ReadFull(rnd, o.Seed[:]); err != nil {
		return nil, fmt.Errorf("draw mailbox key: %w", err)
	}
	k, err := privacy.NewBoxKey(rnd, privacy.SuiteX25519)
	if err != nil {
		return nil, err
	}
	o.Secret, o.Public = k.Priv, k.Pub
	return o, nil
}

// String shows nothing of the keys.
func (*Owner) String() string { return "mailbox" }

// GoString is String.
func (o *Owner) GoString() string { return o.String() }

func (o *Owner) key() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(o.Seed[:]) }

func (o *Owner) public() ed25519.PublicKey { return o.key().Public().(ed25519.PublicKey) }

// Address is what a sender gets.
func (o *Owner) Address() Address {
	a := Address{Box: boxOf(o.public()), Keepers: o.Keepers}
	copy(a.Seal[:], o.Public)
	return a
}

// Open asks a keeper to hold the box for days, 1 to MaxDays, from now on.
func (o *Owner) Open(keeper Key, days uint8, now time.Time, rnd io.Reader) ([]byte, error) {
	return o.request(Request{Op: Open, Days: days}, keeper, now, rnd)
}

// Get asks for items numbered above after.
func (o *Owner) Get(keeper Key, after uint64, now time.Time, rnd io.Reader) ([]byte, error) {
	return o.request(Request{Op: Get, After: after}, keeper, now, rnd)
}

// Done removes items, by the numbers that this keeper gave them; 1 to MaxCells.
func (o *Owner) Done(keeper Key, seqs []uint64, now time.Time, rnd io.Reader) ([]byte, error) {
	return o.request(Request{Op: Done, Seqs: seqs}, keeper, now, rnd)
}

// Close removes the box.
func (o *Owner) Close(keeper Key, now time.Time, rnd io.Reader) ([]byte, error) {
	return o.request(Request{Op: Close}, keeper, now, rnd)
}

func (o *Owner) request(r Request, keeper Key, now time.Time, rnd io.Reader) ([]byte, error) {
	r.Owner, r.At = o.public(), now
	if _, err := io.ReadFull(rnd, r.Nonce[:]); err != nil {
		return nil, fmt.Errorf("draw nonce: %w", err)
	}
	return r.encode(o.key(), keeper)
}

// open gives a cell's message; false for what no sender sealed for this box under this id.
func (o *Owner) open(net privacy.Net, c Cell) ([]byte, bool) {
	key := privacy.BoxKey{Suite: privacy.SuiteX25519, Pub: o.Public, Priv: o.Secret}
	plain, _, err := privacy.Open(key, privacy.KindMail, net, c.Data)
	if err != nil || len(plain) < itemSize || ItemID(plain) != c.Item {
		return nil, false
	}
	return plain[itemSize:], true
}

// Caller asks a keeper, usually by onion, and gives its answer.
type Caller func(ctx context.Context, keeper Key, request []byte) ([]byte, error)

// Client is what an owner's requests need.
type Client struct {
	Call Caller
	Now  func() time.Time
	Rand io.Reader
	Net  privacy.Net
}

// Ask makes a request, sends it, and makes it anew once when a keeper that was restarted between two tries of the mesh
// takes the second for a replay: each operation may be repeated. Other refusals are the error of their status.
func (c Client) Ask(ctx context.Context, keeper Key, make func(now time.Time, rnd io.Reader) ([]byte, error)) (Answer, error) {
	var a Answer
	for range 2 {
		req, err := make(c.Now(), c.Rand)
		if err != nil {
			return a, err
		}
		raw, err := c.Call(ctx, keeper, req)
		if err != nil {
			return a, err
		}
		if a, err = ParseAnswer(raw); err != nil {
			return a, err
		}
		if a.Status != Replay {
			break
		}
	}
	return a, a.Status.Err()
}

// Open opens the box at one keeper.
func (c Client) Open(ctx context.Context, o *Owner, keeper Key, days uint8) error {
	_, err := c.Ask(ctx, keeper, func(now time.Time, rnd io.Reader) ([]byte, error) { return o.Open(keeper, days, now, rnd) })
	return err
}

// Close closes the box at one keeper; a box that is not there is closed.
func (c Client) Close(ctx context.Context, o *Owner, keeper Key) error {
	_, err := c.Ask(ctx, keeper, func(now time.Time, rnd io.Reader) ([]byte, error) { return o.Close(keeper, now, rnd) })
	if errors.Is(err, ErrUnknown) {
		return nil
	}
	return err
}

// Fetch reads what a keeper holds, hands each item to take once, and removes it there. take must have stored what
// follows from the item, and o with it, when it returns: o.Seen names the item by then. After its error the item stays
// and Fetch ends with that error. What was not sealed for the box is removed unread.
func (c Client) Fetch(ctx context.Context, o *Owner, keeper Key, take func(msg []byte) error) error {
	after, more := uint64(0), true
	var read []uint64
	for pages := 0; more && pages <= MaxCells/maxPage; pages++ {
		a, err := c.Ask(ctx, keeper, func(now time.Time, rnd io.Reader) ([]byte, error) { return o.Get(keeper, after, now, rnd) })
		if err != nil {
			return err
		}
		for _, cell := range a.Cells {
			if cell.Seq <= after {
				return fmt.Errorf("%w: an item that was read before", ErrAnswer)
			}
			if err := o.take(c.Net, cell, take); err != nil {
				return errors.Join(err, c.remove(ctx, o, keeper, read))
			}
			after, read = cell.Seq, append(read, cell.Seq)
		}
		more = a.More
	}
	return c.remove(ctx, o, keeper, read)
}

// remove tells a keeper which items were read.
func (c Client) remove(ctx context.Context, o *Owner, keeper Key, read []uint64) error {
	for part := range slices.Chunk(read, MaxCells) {
		_, err := c.Ask(ctx, keeper, func(now time.Time, rnd io.Reader) ([]byte, error) { return o.Done(keeper, part, now, rnd) })
		if err != nil {
			return err
		}
	}
	return nil
}

// take hands on a cell that is new and ours.
func (o *Owner) take(net privacy.Net, c Cell, take func([]byte) error) error {
	msg, ours := o.open(net, c)
	if !ours || slices.Contains(o.Seen, c.Item) {
		return nil
	}
	before := o.Seen
	o.Seen = append(slices.Clone(before[max(0, len(before)+1-maxSeen):]), c.Item)
	if err := take(msg); err != nil {
		o.Seen = before
		return err
	}
	return nil
}

// ErrFewKeepers means that no two substations of different operators keep mailboxes now.
var ErrFewKeepers = errors.New("there are no two mailbox keepers of different operators now")

// Candidate is a substation that keeps mailboxes.
type Candidate struct {
	Key      Key
	Operator string
}

// Choose draws two keepers of different operators, the first uniformly, the second uniformly among those of others.
func Choose(list []Candidate, rnd io.Reader) ([2]Key, error) {
	first, err := draw(list, rnd)
	if err != nil {
		return [2]Key{}, err
	}
	others := slices.DeleteFunc(slices.Clone(list), func(c Candidate) bool { return c.Operator == first.Operator })
	second, err := draw(others, rnd)
	return [2]Key{first.Key, second.Key}, err
}

func draw(list []Candidate, rnd io.Reader) (Candidate, error) {
	if len(list) == 0 {
		return Candidate{}, ErrFewKeepers
	}
	var b [8]byte
	if _, err := io.ReadFull(rnd, b[:]); err != nil {
		return Candidate{}, fmt.Errorf("draw keeper: %w", err)
	}
	n := uint64(0)
	for _, x := range b {
		n = n<<8 | uint64(x)
	}
	return list[n%uint64(len(list))], nil
}
