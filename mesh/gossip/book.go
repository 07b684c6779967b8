package gossip

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"time"

	"gridveil/mesh/member"
)

// maxPending bounds the envelopes that are accepted and not yet saved; beyond it new ones wait for a pull.
const maxPending = 1024

// ErrRefused is our own publication that does not pass the checks every other node makes; wrapped with the reason.
var ErrRefused = errors.New("register would be refused by the network")

// BookConfig says what a Book works with.
type BookConfig struct {
	Registers *Registers
	Lock      sync.Locker // guards Registers and the certificates behind it; held only for moments
	Now       func() time.Time
	Save      func([]Envelope) error // durable, all at once, before anybody acts on the registers
	Accepted  func(Envelope)         // after Save: hands it on; must not block
	Count     func(Verdict)          // metrics; must not block
}

// Book is the shell around Registers: it saves what was accepted, then tells the followers, one register at a time.
// Its methods are safe for concurrent use.
type Book struct {
	c BookConfig

	mu      sync.Mutex
	follow  [len(rules)][]func(Envelope)
	pending []entry    // to be saved
	saved   []Envelope // to be told to followers
	wake    chan struct{}
	tell    chan struct{}
}

type entry struct {
	e    Envelope
	done chan error // nil unless somebody waits for the save
}

// NewBook makes a Book; Serve must run for anything to be saved.
func NewBook(c BookConfig) *Book {
	return &Book{c: c, wake: make(chan struct{}, 1), tell: make(chan struct{}, 1)}
}

// Follow calls accept for every register of kind k that is accepted from now on, in order, after it is durable. accept
// may publish, but what it waits for must not wait for other registers.
func (b *Book) Follow(k Kind, accept func(Envelope)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.follow[k] = append(b.follow[k], accept)
}

// Offer validates an envelope and queues what is accepted. It does no I/O.
func (b *Book) Offer(raw []byte, from Source) Decision { return b.offer(raw, from, nil) }

func (b *Book) offer(raw []byte, from Source, done chan error) Decision {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pending)+len(b.saved) >= maxPending {
		d := Decision{Verdict: Verdict{Ignore, ReasonFull}}
		b.c.Count(d.Verdict)
		return d
	}
	b.c.Lock.Lock()
	d := b.c.Registers.Offer(raw, from, b.c.Now())
	b.c.Lock.Unlock()
	b.c.Count(d.Verdict)
	if d.Action == Accept {
		b.pending = append(b.pending, entry{e: d.Envelope, done: done})
		poke(b.wake)
	}
	return d
}

// poke wakes a loop that has not yet seen the last poke.
func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// Draft is a register to publish. Version 0 takes the next free one.
type Draft struct {
	Kind    Kind
	Key     uint64
	Version uint64
	Body    []byte
	Expires time.Time
}

// Publish signs a register, checks it as any other node would, and waits until it is durable. It returns the bytes to
// spread. Errors wrap ErrRefused or ErrEnvelope.
func (b *Book) Publish(ctx context.Context, d Draft, key ed25519.PrivateKey, cert [32]byte) ([]byte, error) {
	now := b.c.Now()
	e := Envelope{Kind: d.Kind, Key: d.Key, Version: d.Version, Issued: now, Expires: d.Expires, CertHash: cert, Body: d.Body}
	b.c.Lock.Lock()
	e.Network = b.c.Registers.network
	if e.Version == 0 {
		e.Version = b.c.Registers.NextVersion(d.Kind, member.Key(key.Public().(ed25519.PublicKey)), d.Key, now)
	}
	b.c.Lock.Unlock()
	if err := e.Sign(key); err != nil {
		return nil, err
	}
	raw := e.Encode()
	done := make(chan error, 1)
	if v := b.offer(raw, Source{Topic: d.Kind}, done); v.Action != Accept {
		return nil, fmt.Errorf("%w: %s register: %s", ErrRefused, d.Kind, v.Reason)
	}
	select {
	case err := <-done:
		return raw, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Again hands a held register to its followers once more: after a restart, when its publisher has become known.
func (b *Book) Again(e Envelope) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.saved) >= maxPending {
		return // followers have Book.All; this only spares them the wait for the next version
	}
	b.saved = append(b.saved, e)
	poke(b.tell)
}

// Serve saves what was accepted and tells the followers, until ctx ends or saving fails.
func (b *Book) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { b.tellAll(ctx) })
	for {
		b.mu.Lock()
		batch := b.pending
		b.pending = nil
		b.mu.Unlock()
		for rest := batch; len(rest) > 0; {
			n := together(rest)
			if err := b.save(rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-b.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// saveBytes is how much is saved at once, in bytes of envelopes, unless one is longer.
const saveBytes = 64 << 10

// together is how many of the first entries are saved at once, at least one.
func together(list []entry) int {
	bytes := 0
	for i, n := range list {
		if bytes += len(n.e.Body) + overhead; i > 0 && bytes > saveBytes {
			return i
		}
	}
	return len(list)
}

// save makes registers durable with one write, hands them on and queues them for the followers. What a neighbour
// feeds comes in bursts, and a write waits for the disk.
func (b *Book) save(list []entry) error {
	out := make([]Envelope, len(list))
	for i, n := range list {
		out[i] = n.e
	}
	err := b.c.Save(out)
	for _, n := range list {
		if n.done != nil {
			n.done <- err
		}
	}
	if err != nil {
		return fmt.Errorf("save %d registers: %w", len(out), err)
	}
	for _, e := range out {
		b.c.Accepted(e)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.saved = append(b.saved, out...)
	poke(b.tell)
	return nil
}

// tellAll runs the followers, on a goroutine of its own so that they may publish.
func (b *Book) tellAll(ctx context.Context) {
	for ctx.Err() == nil {
		b.mu.Lock()
		batch := b.saved
		b.saved = nil
		b.mu.Unlock()
		for _, e := range batch {
			b.mu.Lock()
			followers := b.follow[e.Kind]
			b.mu.Unlock()
			for _, accept := range followers {
				accept(e)
			}
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-b.tell:
		case <-ctx.Done():
		}
	}
}

// Get gives the newest envelope of a register that has not expired.
func (b *Book) Get(k Kind, publisher member.Key, key uint64) (Envelope, bool) {
	b.c.Lock.Lock()
	defer b.c.Lock.Unlock()
	return b.c.Registers.Get(k, publisher, key, b.c.Now())
}

// All lists the registers of kind k that have not expired, ordered by id.
func (b *Book) All(k Kind) []Envelope {
	b.c.Lock.Lock()
	defer b.c.Lock.Unlock()
	return b.c.Registers.All(k, b.c.Now())
}
