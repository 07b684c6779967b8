package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/keys"
	wire "gridveil/node/metering"
	"gridveil/node/report"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/agg"
	"gridveil/privacy/leak"
	"gridveil/privacy/pseudo"
)

// Retries of the request for day identities.
const (
	deckAgain   = 30 * time.Minute
	deckRefused = 6 * time.Hour
)

// identity is the pseudonym of an interval's day, taken from the deck durably
// before its first use.
func (s *sums) identity(interval uint32) (pseudo.Pseudonym, error) {
	begin := agg.Begin(interval)
	day := pseudo.Day(begin)
	raw, err := s.env.Store.Get(sumSpace(sumDays, u32(day)))
	if err == nil {
		return pseudo.ParsePseudonym(raw)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return pseudo.Pseudonym{}, err
	}
	var me pseudo.Pseudonym
	err = s.env.Store.Update(func(tx *store.Tx) error {
		raw, err := tx.Get(sumSpace(sumDecks, u32(day/7)))
		if errors.Is(err, store.ErrNotFound) {
			return &pseudo.NoPseudonymError{Next: begin.Add(24 * time.Hour)}
		}
		if err != nil {
			return err
		}
		deck, err := pseudo.ParseDeck(raw)
		if err != nil {
			return err
		}
		if me, err = deck.Take(begin); err != nil {
			return err
		}
		if me.Cert.Epoch() != day {
			return &pseudo.NoPseudonymError{Next: begin.Add(24 * time.Hour)}
		}
		return errors.Join(tx.Set(sumSpace(sumDecks, u32(day/7)), deck.Bytes()), tx.Set(sumSpace(sumDays, u32(day)), me.Bytes()))
	})
	return me, err
}

// keepDecks asks for this week's day identities when there are none, and for the
// next week's at a random time of this one, so that the time tells nothing.
func (s *sums) keepDecks(ctx context.Context, under *sync.WaitGroup, now time.Time) error {
	this := pseudo.Week(now)
	for _, week := range []uint32{this, this + 1} {
		have, err := s.hasDeck(week)
		if err != nil {
			return err
		}
		if have {
			continue
		}
		p, err := s.pending(week, now)
		if err != nil {
			return err
		}
		s.mu.Lock()
		start := !s.asking && !now.Before(p.next)
		s.asking = s.asking || start
		s.mu.Unlock()
		if !start {
			continue
		}
		under.Go(func() {
			if err := s.fetch(ctx, week, p); err != nil {
				s.env.Log.Error("day identities not kept", "err", err)
			}
			s.mu.Lock()
			s.asking = false
			s.mu.Unlock()
			s.poke()
		})
	}
	return nil
}

func (s *sums) hasDeck(week uint32) (have bool, err error) {
	err = s.env.Store.View(func(tx *store.Tx) error {
		have, err = tx.Has(sumSpace(sumDecks, u32(week)))
		return err
	})
	return have, err
}

// pendingDeck is the request for one week: when to send it next, to whom, and
// its bytes with the secret keys.
//
//	next i64 | sealed day u32 | escrow key 32 | issuer id 16 | issuer key 32 | pseudo.Pending, empty until first sent
type pendingDeck struct {
	next   time.Time
	sealed uint32 // period of the issue key that the request is sealed to
	escrow member.Key
	issuer [16]byte
	key    [32]byte
	batch  []byte
}

const pendingFixed = 8 + 4 + 32 + 16 + 32

func (p pendingDeck) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(p.next.UnixMilli()))
	b = binary.BigEndian.AppendUint32(b, p.sealed)
	b = append(append(append(b, p.escrow[:]...), p.issuer[:]...), p.key[:]...)
	return append(b, p.batch...)
}

func parsePendingDeck(b []byte) (p pendingDeck, err error) {
	if len(b) < pendingFixed {
		return p, fmt.Errorf("%w: request for day identities of %d bytes", store.ErrDamaged, len(b))
	}
	p.next, p.sealed = time.UnixMilli(int64(binary.BigEndian.Uint64(b))).UTC(), binary.BigEndian.Uint32(b[8:])
	p.escrow, p.issuer, p.key = member.Key(b[12:44]), [16]byte(b[44:]), [32]byte(b[60:])
	p.batch = b[pendingFixed:]
	return p, nil
}

// pending finds the request of a week or draws when it is to be made: at once
// for a week that runs, at a random time of this week for the next.
func (s *sums) pending(week uint32, now time.Time) (pendingDeck, error) {
	key := sumSpace(sumPending, u32(week))
	raw, err := s.env.Store.Get(key)
	if err == nil {
		return parsePendingDeck(raw)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return pendingDeck{}, err
	}
	p := pendingDeck{next: now}
	if this := pseudo.Week(now); week > this {
		if p.next, err = pseudo.FetchTime(s.env.Rand, this); err != nil {
			return p, err
		}
	}
	return p, s.env.Store.Set(key, p.encode())
}

// fetch sends the request, the same bytes until it is answered or its key of the
// day is gone, and keeps the deck.
func (s *sums) fetch(ctx context.Context, week uint32, p pendingDeck) error {
	now := s.env.Clock.Now()
	key := sumSpace(sumPending, u32(week))
	if len(p.batch) == 0 || keys.Issue.Period(now) > p.sealed {
		if err := s.request(week, &p, now); err != nil {
			s.env.Log.Debug("day identities not asked for yet", "err", err)
			p.next = now.Add(sumAgain)
			return s.env.Store.Set(key, p.encode())
		}
	}
	batch, err := pseudo.ParsePending(p.batch)
	if err != nil {
		return err
	}
	body := ask.MeterBatch{Chain: s.env.Host.Chain(), Box: batch.Box}.Bytes()
	answer, err := s.ops.Ask(ctx, p.escrow, mesh.Deck, ask.MeterDeck, body)
	if ctx.Err() != nil {
		return nil // the request stays
	}
	if err == nil {
		var deck *pseudo.Deck
		if deck, err = batch.Finish(s.profile(p), answer); err == nil {
			s.warnDeck(nil)
			return s.env.Store.Update(func(tx *store.Tx) error {
				return errors.Join(tx.Set(sumSpace(sumDecks, u32(week)), deck.Bytes()), tx.Delete(key))
			})
		}
	}
	var no *ask.RefusedError
	var later *ask.NotYetError
	wait := deckAgain
	switch {
	case errors.As(err, &no):
		wait = deckRefused
		s.warnDeck(no)
	case errors.As(err, &later):
		wait = later.After
	}
	jitter, rerr := s.random(sumAgain)
	if rerr != nil {
		return rerr
	}
	p.next = s.env.Clock.Now().Add(wait + jitter)
	return s.env.Store.Set(key, p.encode())
}

// request makes the keys of seven days and the sealed request, durably and noted
// in the journal before anything leaves.
func (s *sums) request(week uint32, p *pendingDeck, now time.Time) error {
	self, b := s.env.Host.Self(), s.env.Host.Bundle()
	grid, ok := wire.GridOperator(b, self.Zone)
	if !ok {
		return errors.New("nobody runs the grid of this zone")
	}
	escrow, err := s.ops.Escrow(self.Operator)
	if err != nil {
		return err
	}
	p.escrow, p.issuer, p.key, p.sealed = escrow.Key, escrow.ID, escrow.Issuer, keys.Issue.Period(now)
	profile := s.profile(*p)
	profile.IssueBox = escrow.Issue
	batch, err := pseudo.NewBatch(s.env.Rand, profile, s.env.Operator(grid), week*7)
	if err != nil {
		return err
	}
	p.batch = batch.Bytes()
	handle := report.SourceOf(self.Key[:])
	return s.env.Store.Update(func(tx *store.Tx) error {
		e := leak.Entry{Message: leak.DayRequest, To: leak.Escrow, As: [8]byte(handle[:]), Bytes: uint32(len(batch.Box)), At: now}
		if err := s.journal.record(tx, e); err != nil {
			return err
		}
		return tx.Set(sumSpace(sumPending, u32(week)), p.encode())
	})
}

// profile is the meter as its escrow knows it: handle and key of the LFID.
func (s *sums) profile(p pendingDeck) pseudo.Profile {
	self := s.env.Host.Self()
	zone, _ := wire.ZoneNumber(s.env.Host.Bundle(), self.Zone)
	return pseudo.Profile{Net: s.env.Net, Kind: pseudo.Meter, Contract: report.SourceOf(self.Key[:]), LK: s.env.ID.Key, Arg: zone, Deck: pseudo.MeterDeck,
		Issuer: p.issuer, IssuerKey: p.key, Suite: privacy.SuiteX25519}
}

func (s *sums) warnDeck(no *ask.RefusedError) {
	w := role.Warning{Code: "no-day-identities", Severity: role.Notice, Title: "This home is not in the neighbourhood's sum",
		Next: "Nothing to do: the gateway asks again. Reading and billing go on."}
	if no != nil {
		w.Text = "The escrow gave no day identities: " + no.Reason + "."
	}
	s.env.Warn.Set(no != nil, w, s.env.Clock.Now())
}
