package utility

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/node/ask"
	"gridveil/node/clock"
	"gridveil/node/keys"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/node/web"
	"gridveil/privacy/committee"
	"gridveil/privacy/note"
)

// creditLimit is how far a utility's total on the ledger may fall, millionths:
// a million units of currency, agreed with the aggregator at the founding.
const creditLimit = 1_000_000_000_000

// again is how long households wait before they ask for what the ledger must
// finish first.
const again = time.Minute

const forgetPeriod = 24 * time.Hour

// settlement is the utility's side towards drivers, aggregators and the ledger.
// It shares nothing with metering but the list of household contracts, which
// says whom notes may be credited to.
type settlement struct {
	env   *role.Env
	party *party.Party
	homes func() []Contract
	// openers gives the committee's public key, or ErrNoCommittee.
	openers func() (committee.Public, error)

	mu       sync.Mutex // guards what follows, and every read-modify-write of the store here
	drivers  map[[16]byte]Driver
	signed   map[uint64][][32]byte // aggregator's entry number -> proposals that we signed under it
	registry *note.Registry
	months   int // in registry
}

// newSettlement loads drivers and open proposals and registers what is answered.
func newSettlement(env *role.Env, homes func() []Contract, openers func() (committee.Public, error)) (*settlement, error) {
	p, err := party.New(party.Config{Env: env, Role: ledger.Utility, Limit: creditLimit})
	if err != nil {
		return nil, err
	}
	s := &settlement{env: env, party: p, homes: homes, openers: openers, drivers: map[[16]byte]Driver{}, signed: map[uint64][][32]byte{}}
	if err := s.load(); err != nil {
		return nil, err
	}
	p.OnFinal(s.final)
	p.OnRefused(s.refused)
	s.disputes()
	p.OnRound(s.sendInstructions)
	p.OnRound(s.sendRevocation)
	p.OnRound(func(context.Context) error { return s.registerIssuer() })
	lines := &party.Joiner{Answer: s.lines}
	env.Host.Handle(mesh.Lines, lines.Handle)
	return s, nil
}

func (s *settlement) load() error {
	for _, part := range []func() error{s.loadDrivers, s.loadProposals} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// answers are the onion operations of this side.
func (s *settlement) answers() map[mesh.Service]map[ask.Op]func([]byte) ([]byte, error) {
	return map[mesh.Service]map[ask.Op]func([]byte) ([]byte, error){
		mesh.Deck:  {ask.Deck: s.deck},
		mesh.Notes: {ask.Redeem: s.redeem, ask.Account: s.account},
	}
}

// serve follows the ledger and forgets what is no longer needed, once a day.
func (s *settlement) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.party.Serve(ctx) })
	g.Go(func() error {
		for clock.Sleep(ctx, s.env.Clock, forgetPeriod) {
			if err := s.forgetIssued(); err != nil {
				return fmt.Errorf("forget issued rows: %w", err)
			}
		}
		return nil
	})
	return g.Wait()
}

// registerIssuer puts the key that certifies drivers, of this period and the next,
// on the ledger.
func (s *settlement) registerIssuer() error {
	now := s.env.Clock.Now()
	for _, at := range []time.Time{now, keys.Issuer.Starts(keys.Issuer.Period(now) + 1)} {
		k, err := s.env.Keys.Signer(keys.Issuer, at)
		if err != nil {
			return err
		}
		pub := ledger.Hash(k.Public().(ed25519.PublicKey))
		if err := s.party.Post(ledger.Salted(pub, []byte("issuer key")), &ledger.Key{Add: true, Use: ledger.UsePseudonym, Pub: pub}); err != nil {
			return err
		}
	}
	return nil
}

// final acts on an entry that is final: it may come again after a crash.
func (s *settlement) final(index uint64, e *ledger.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Party() == 1 {
		if err := s.superseded(e); err != nil {
			return err
		}
	}
	switch b := e.Body().(type) {
	case *ledger.Settle:
		if b.Payer == s.party.ID() {
			return s.bill(b)
		}
	case *ledger.Redeem:
		if e.Party() == s.party.ID() {
			return s.credit(b, index)
		}
	}
	return nil
}

// Party is the utility's side of the ledger, for pages and disputes.
func (u *Utility) Party() *party.Party { return u.settlement.party }

// Ledger is the ledger page of this utility's copy; see party.Party.Ledger.
func (u *Utility) Ledger(before uint64) web.Ledger { return u.settlement.party.Ledger(before) }

// LedgerEntry is one entry in full.
func (u *Utility) LedgerEntry(index uint64) (web.Entry, bool) {
	return u.settlement.party.LedgerEntry(index)
}

// account tells households which account their notes are redeemed to.
func (s *settlement) account(body []byte) ([]byte, error) {
	if len(body) != 2 || uint16(body[0])<<8|uint16(body[1]) != ask.Currency {
		return nil, &ask.RefusedError{Reason: "no notes of this currency"}
	}
	id := s.party.ID()
	if id == 0 {
		return nil, &ask.NotYetError{After: again}
	}
	return ask.AccountAnswer(ledger.OpenAccount(id, 0)), nil
}

// registryNow knows the mint keys on our copy of the ledger. The caller holds mu.
func (s *settlement) registryNow() (*note.Registry, error) {
	var indexes []uint64
	s.party.Read(func(st *ledger.State) {
		now := s.env.Clock.Now()
		for back := range monthsBack {
			epoch := note.Epoch(time.Date(now.Year(), now.Month()+1-time.Month(back), 1, 0, 0, 0, 0, time.UTC))
			if _, index, _, _, ok := st.Denoms(0, epoch); ok {
				indexes = append(indexes, index)
			}
		}
	})
	if s.registry != nil && len(indexes) == s.months {
		return s.registry, nil
	}
	reg := &note.Registry{}
	for _, index := range indexes {
		raw, err := s.party.Entry(index)
		if err != nil {
			return nil, err
		}
		e, err := ledger.Parse(raw)
		if err != nil {
			return nil, fmt.Errorf("denominations of entry %d: %w", index, err)
		}
		m, err := ask.MonthOf(e, ask.Currency)
		if err != nil {
			return nil, err
		}
		reg.Add(m.Denoms)
	}
	s.registry, s.months = reg, len(indexes)
	return reg, nil
}

// monthsBack covers the next month and all whose notes may still be redeemed.
const monthsBack = 5

// errNotHere answers operators that ask the wrong party.
var errNotHere = errors.New("this operator does not answer that")
