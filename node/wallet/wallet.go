// Package wallet is the node of a driver: it holds a week's pseudonyms, opens
// sessions at strangers' wallboxes through their guest doors, acknowledges what
// was metered, checks every bill before it signs, keeps the receipts and the
// notes that the car earned.
//
// The flow of one session:
//
//	link -> wishes -> offer -> Pay: pseudonym burned, Open durable -> answer, ticks, close -> signed -> receipt -> notes
//
// Guarantees: a pseudonym is used once whatever crashes; nothing is signed that
// does not follow from the offer and the meter's signature; a restart goes on
// where the session was. The host learns that the driver is authorised, nothing
// of who it is, unless the driver agrees to show its utility to a host that
// cannot reach the aggregator.
//
// Start with New, then run Serve; sessions begin with Pay.
package wallet

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/mesh/mailbox"
	"gridveil/node/ask"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/wallet/purse"
	"gridveil/privacy"
	"gridveil/privacy/leak"
	"gridveil/privacy/pseudo"
)

// Operators is how the wallet reaches aggregator and utility: ask.Operators by
// onion.
type Operators interface {
	purse.Operators
	Lag() time.Duration
	Keepers() []mailbox.Candidate
	Mail(ctx context.Context, keeper mailbox.Key, request []byte) ([]byte, error)
}

// Wallet is the driver's role. Its methods are safe for concurrent use.
//
// Locks: mu, then the purse's, then the store's. Nothing waits for a socket or
// an operator under mu.
type Wallet struct {
	env   *role.Env
	ops   Operators
	purse *purse.Purse
	begun chan *trip    // trips to serve
	away  chan struct{} // a host cannot be reached, or a session is over
	crash func() error  // tests: dies between a durable step and what follows from it

	mu      sync.Mutex // guards everything below
	trips   map[tripID]*trip
	decks   map[uint32]*pseudo.Deck // by epoch
	pending *asking                 // the deck that is asked for, nil for none
}

// New opens the wallet of env.
func New(env *role.Env) (*Wallet, error) { return Open(env, ask.Operators{Env: env}) }

// CrashAfter makes the wallet die between a durable step and what follows from
// it whenever f gives an error. It is for tests, before Serve.
func (w *Wallet) CrashAfter(f func() error) { w.crash = f }

// Open is New with another way to the operators, for tests.
func Open(env *role.Env, ops Operators) (*Wallet, error) {
	w := &Wallet{env: env, ops: ops, begun: make(chan *trip, maxTrips), away: make(chan struct{}, 1), trips: map[tripID]*trip{}, decks: map[uint32]*pseudo.Deck{}}
	self := env.ID.Member
	var err error
	w.purse, err = purse.Open(purse.Config{Store: env.Store, Clock: env.Clock, Rand: env.Rand, Log: env.Log, Operators: ops, Claims: claims{w},
		Operator: self.Operator, Contract: w.contract(), Warn: env.Warn, Journal: w.note})
	if err != nil {
		return nil, err
	}
	for _, load := range []func() error{w.loadDecks, w.loadTrips} {
		if err := load(); err != nil {
			return nil, err
		}
	}
	w.handleControl()
	return w, nil
}

// contract is how the own utility names this driver.
func (w *Wallet) contract() [16]byte {
	return ask.Contract([16]byte(w.env.ID.Bundle.Network), w.env.ID.Member.Key)
}

// profile is what pseudonyms are asked for with. The member key is the contract
// key: the utility certified it when the contract began.
func (w *Wallet) profile(u ask.Utility) pseudo.Profile {
	return pseudo.Profile{Net: w.env.Net, Kind: pseudo.Driver, Contract: w.contract(), LK: ed25519.PrivateKey(w.env.ID.Key), Arg: ask.DriverLimit,
		Deck: ask.DeckSize, Issuer: u.ID, IssuerKey: u.Issuer, Suite: privacy.SuiteX25519, IssueBox: u.Issue}
}

// Serve works until ctx ends: sessions, pseudonyms, notes, open disputes and the
// wallet's page.
func (w *Wallet) Serve(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.serveDecks(ctx) })
	group.Go(func() error { return w.purse.Serve(ctx) })
	group.Go(func() error { return w.serveCases(ctx) })
	group.Go(func() error { return w.serveTrips(ctx) })
	group.Go(func() error { return w.serveShares(ctx) })
	group.Go(func() error { return w.serveMail(ctx) })
	if listen := w.env.Config.Wallet.Listen; listen != "off" {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			return fmt.Errorf("wallet.listen: %w; choose another address in the configuration, or \"off\"", err)
		}
		group.Go(func() error { return w.servePage(ctx, l) })
	}
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// serveTrips drives every session that is not over, each by its own goroutine.
func (w *Wallet) serveTrips(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, t := range w.unfinished() {
		group.Go(func() error { return w.drive(ctx, t) })
	}
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case t := <-w.begun:
				group.Go(func() error { return w.drive(ctx, t) })
			}
		}
	})
	return group.Wait()
}

func (w *Wallet) unfinished() []*trip {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*trip
	for _, t := range w.trips {
		if !t.rec.Over {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *trip) int { return int(a.rec.Begun - b.rec.Begun) })
	return out
}

// note writes down what leaves, inside the update that lets it leave.
func (w *Wallet) note(tx *store.Tx, e leak.Entry) error {
	if _, known := leak.Find(e.Message, e.To); !known {
		return fmt.Errorf("%w: %v to %v", leak.ErrRow, e.Message, e.To)
	}
	return tx.Set(store.SpaceJournal.Key(store.U64(uint64(e.At.UnixMilli())), e.As[:], []byte{byte(e.Message), byte(e.To)}), e.Store())
}

// leaves is note for a message of this wallet.
func (w *Wallet) leaves(m leak.Message, to leak.Role, as [32]byte, size int) func(*store.Tx) error {
	e := leak.Entry{Message: m, To: to, Bytes: uint32(size), At: w.env.Clock.Now()}
	copy(e.As[:], as[:])
	return func(tx *store.Tx) error { return w.note(tx, e) }
}

// Left is what left the wallet on the day of t.
func (w *Wallet) Left(t time.Time) (leak.View, error) {
	var j leak.Journal
	day := t.Truncate(24 * time.Hour)
	err := w.env.Store.View(func(tx *store.Tx) error {
		from := store.SpaceJournal.Key(store.U64(uint64(day.UnixMilli())))
		return tx.EachFrom([]byte{byte(store.SpaceJournal)}, from, func(_, v []byte) error {
			e, err := leak.ParseEntry(v)
			if err != nil {
				return err
			}
			if !e.At.Before(day.Add(24 * time.Hour)) {
				return store.ErrStop
			}
			return j.Record(e)
		})
	})
	return j.Day(t), err
}

// forgetJournal drops entries that no page shows any more.
func (w *Wallet) forgetJournal(now time.Time) error {
	return w.env.Store.Update(func(tx *store.Tx) error {
		var old [][]byte
		err := tx.Each([]byte{byte(store.SpaceJournal)}, func(k, v []byte) error {
			e, err := leak.ParseEntry(v)
			if err == nil && now.Sub(e.At) < leak.MaxDays*24*time.Hour || len(old) >= 1000 {
				return store.ErrStop
			}
			old = append(old, k)
			return nil
		})
		for _, k := range old {
			err = errors.Join(err, tx.Delete(k))
		}
		return err
	})
}

func decode[T any](b []byte, what string) (v T, err error) {
	if err = json.Unmarshal(b, &v); err != nil {
		err = fmt.Errorf("stored %s: %w", what, err)
	}
	return v, err
}
