package wallet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"gridveil/mesh"
	"gridveil/node/ask"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/leak"
	"gridveil/privacy/pseudo"
)

// asking is a deck asked for and not yet answered: the same bytes go out until
// the answer is here, or its key's day is over.
type asking struct {
	Batch []byte
	Epoch uint32
	At    int64 // UTC ms
	batch *pseudo.Pending
}

var (
	deckSpace    = store.SpaceNote.Key([]byte("deck"), []byte{0})
	askingKey    = store.SpaceNote.Key([]byte("deck-asked"))
	fetchSeedKey = store.SpaceNote.Key([]byte("deck-time"))
)

func deckKey(epoch uint32) []byte {
	return binary.BigEndian.AppendUint32(deckSpace[:len(deckSpace):len(deckSpace)], epoch)
}

func (w *Wallet) loadDecks() error {
	week := pseudo.Week(w.env.Clock.Now())
	return w.env.Store.View(func(tx *store.Tx) error {
		b, err := tx.Get(askingKey)
		if err == nil {
			a, err := decode[asking](b, "deck request")
			if err != nil {
				return err
			}
			if a.batch, err = pseudo.ParsePending(a.Batch); err != nil {
				return err
			}
			w.pending = &a
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return tx.Each(deckSpace, func(_, v []byte) error {
			d, err := pseudo.ParseDeck(v)
			if err != nil {
				return fmt.Errorf("stored pseudonyms: %w", err)
			}
			if d.Epoch+1 >= week {
				w.decks[d.Epoch] = d
			}
			return nil
		})
	})
}

// Times of fetching decks.
const (
	deckLook  = time.Hour
	deckRetry = 2 * time.Minute
	// sweepPeriod is how often sessions are dropped whose time is over.
	sweepPeriod = 24 * time.Hour
	// keyLife is how long a deck request can be opened: its sealing key's day.
	keyLife = 24 * time.Hour
)

// serveDecks keeps a deck for this week and, from a random time of the week on,
// one for the next, until ctx ends.
func (w *Wallet) serveDecks(ctx context.Context) error {
	swept := w.env.Clock.Now() // loadTrips has
	for {
		now := w.env.Clock.Now()
		week := pseudo.Week(now)
		err := w.fetchDeck(ctx, week)
		if at, terr := w.fetchTime(week); err == nil && terr == nil && !now.Before(at) {
			err = w.fetchDeck(ctx, week+1)
		}
		if ctx.Err() != nil {
			return nil
		}
		pause := deckLook
		if err != nil {
			pause = ask.Again(err, deckRetry)
		}
		if err := w.forgetDecks(week); err != nil {
			return err
		}
		if err := w.forgetJournal(now); err != nil {
			return err
		}
		if now.Sub(swept) >= sweepPeriod {
			swept = now
			w.mu.Lock()
			err := w.forgetTrips(now)
			w.mu.Unlock()
			if err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.env.Clock.After(pause):
		}
	}
}

// fetchTime is when in a week the next one's deck is fetched: random, and the
// same after a restart.
func (w *Wallet) fetchTime(week uint32) (time.Time, error) {
	seed, err := w.env.Store.Get(fetchSeedKey)
	if errors.Is(err, store.ErrNotFound) {
		seed = make([]byte, 32)
		if _, err := io.ReadFull(w.env.Rand, seed); err != nil {
			return time.Time{}, err
		}
		err = w.env.Store.Set(fetchSeedKey, seed)
	}
	if err != nil {
		return time.Time{}, err
	}
	return pseudo.FetchTime(privacy.SeededReader("gridveil-deck-time", seed, binary.BigEndian.AppendUint32(nil, week)), week)
}

// fetchDeck gets the deck of an epoch; having it is fine.
func (w *Wallet) fetchDeck(ctx context.Context, epoch uint32) error {
	w.mu.Lock()
	_, held := w.decks[epoch]
	w.mu.Unlock()
	if held {
		return nil
	}
	u, err := w.ops.Utility(w.env.ID.Member.Operator)
	if err != nil {
		return err
	}
	a, err := w.askDeck(u, epoch)
	if err != nil {
		return err
	}
	answer, err := w.ops.Ask(ctx, u.Key, mesh.Deck, ask.Deck, a.batch.Box)
	var no *ask.RefusedError
	if errors.As(err, &no) {
		w.env.Log.Warn("deck of pseudonyms refused", "reason", no.Reason)
	}
	if err != nil {
		return err
	}
	d, err := a.batch.Finish(w.profile(u), answer)
	if err != nil {
		return fmt.Errorf("deck of pseudonyms: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	err = w.env.Store.Update(func(tx *store.Tx) error {
		return errors.Join(tx.Set(deckKey(epoch), d.Bytes()), tx.Delete(askingKey))
	})
	if err == nil {
		w.decks[epoch], w.pending = d, nil
	}
	return err
}

// askDeck makes a request durable before it leaves, or repeats the one under way.
func (w *Wallet) askDeck(u ask.Utility, epoch uint32) (*asking, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.env.Clock.Now()
	if a := w.pending; a != nil && a.Epoch == epoch && now.Sub(time.UnixMilli(a.At)) < keyLife {
		return a, nil
	}
	agg, err := w.ops.Aggregator()
	if err != nil {
		return nil, err
	}
	batch, err := pseudo.NewBatch(w.env.Rand, w.profile(u), agg.ID, epoch)
	if err != nil {
		return nil, err
	}
	a := &asking{Batch: batch.Bytes(), Epoch: epoch, At: now.UnixMilli(), batch: batch}
	contract := w.contract()
	err = w.env.Store.Update(func(tx *store.Tx) error {
		if err := w.leaves(leak.DeckRequest, leak.OwnUtility, [32]byte{0: contract[0], 1: contract[1]}, len(batch.Box))(tx); err != nil {
			return err
		}
		return setJSON(tx, askingKey, a)
	})
	if err != nil {
		return nil, err
	}
	w.pending = a
	return a, nil
}

// forgetDecks drops the decks of past weeks.
func (w *Wallet) forgetDecks(week uint32) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for epoch := range w.decks {
		if epoch+1 >= week {
			continue
		}
		if err := w.env.Store.Update(func(tx *store.Tx) error { return tx.Delete(deckKey(epoch)) }); err != nil {
			return err
		}
		delete(w.decks, epoch)
	}
	return nil
}

// take removes a pseudonym of this week; the deck must be stored with what it is
// used for. The caller holds mu.
func (w *Wallet) take(now time.Time) (pseudo.Pseudonym, *pseudo.Deck, error) {
	week := pseudo.Week(now)
	for _, epoch := range []uint32{week, week - 1} { // the last week's hold some hours longer
		if d := w.decks[epoch]; d != nil {
			p, err := d.Take(now)
			if err == nil {
				return p, d, nil
			}
			if epoch == week {
				return p, nil, err
			}
		}
	}
	return pseudo.Pseudonym{}, nil, errors.New("no pseudonyms of this week are here yet: they come from your utility, try again in some minutes")
}

// DeckStanding is what the wallet holds for a week.
type DeckStanding struct {
	Week uint32
	Left int
}

// Decks lists the weeks that the wallet has pseudonyms for.
func (w *Wallet) Decks() []DeckStanding {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []DeckStanding
	week := pseudo.Week(w.env.Clock.Now())
	for _, epoch := range []uint32{week, week + 1} {
		if d := w.decks[epoch]; d != nil {
			out = append(out, DeckStanding{epoch, d.Left()})
		}
	}
	return out
}
