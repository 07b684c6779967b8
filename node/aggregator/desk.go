package aggregator

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/keys"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/note"
	"gridveil/privacy/pseudo"
	"gridveil/privacy/session"
)

const (
	authFor  = 24 * time.Hour // an answer's life: the session must begin within
	boxWeeks = 10             // weeks of past box keys: records come up to 60 days late
	months   = 5              // of past mint keys: notes are swapped for three months after theirs
)

// material is everything that a desk is made of and that changes with time:
// keys come and go, issuers appear, months begin.
type material struct {
	record   ed25519.PrivateKey
	boxes    []privacy.BoxKey
	issuers  pseudo.IssuerKeys
	registry *note.Registry
	print    [32]byte // of all of it
}

// gather collects the desk's material at now.
func (a *Aggregator) gather(now time.Time) (m material, err error) {
	h := sha256.New()
	if m.record, err = a.env.Keys.Signer(keys.Record, now); err != nil {
		return m, err
	}
	h.Write(m.record.Public().(ed25519.PublicKey))
	if m.boxes, err = a.boxes(now); err != nil {
		return m, err
	}
	for _, b := range m.boxes {
		h.Write(b.Pub)
	}
	if m.issuers, err = a.issuers(); err != nil {
		return m, err
	}
	for id, k := range m.issuers {
		if a.longOverdue(k.Issuer, now) {
			delete(m.issuers, id)
		}
	}
	ids := make([][8]byte, 0, len(m.issuers))
	for id := range m.issuers {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b [8]byte) int { return slices.Compare(a[:], b[:]) })
	for _, id := range ids {
		h.Write(id[:])
	}
	m.registry = &note.Registry{}
	for _, x := range a.finalMonths(now) {
		m.registry.Add(x.Denoms)
		h.Write(binary.BigEndian.AppendUint32(nil, x.Denoms.Epoch))
	}
	m.print = [32]byte(h.Sum(nil))
	return m, nil
}

// boxes are this week's key and those of past weeks that are not erased yet.
func (a *Aggregator) boxes(now time.Time) ([]privacy.BoxKey, error) {
	first, err := a.env.Keys.Box(keys.Box, now)
	if err != nil {
		return nil, err
	}
	list := []privacy.BoxKey{first}
	this := keys.Box.Period(now)
	next, err := a.env.Keys.Box(keys.Box, keys.Box.Starts(this+1)) // a wallet's clock may run ahead
	if err != nil {
		return nil, err
	}
	list = append(list, next)
	for back := uint32(1); back <= boxWeeks && back <= this; back++ {
		b, err := a.env.Keys.BoxOf(keys.Box, this-back)
		if errors.Is(err, keys.ErrErased) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, b)
	}
	return list, nil
}

// issuers are the keys under which utilities certify drivers. Once seen they
// stay: a session may be handed in long after its quarter.
func (a *Aggregator) issuers() (pseudo.IssuerKeys, error) {
	out := pseudo.IssuerKeys{}
	prefix := store.SpaceLedger.Key([]byte("issuer"))
	err := a.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(prefix, func(k, _ []byte) error {
			if k = k[len(prefix):]; len(k) == 48 {
				return out.Add([16]byte(k), [32]byte(k[16:]))
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("stored issuers: %w", err)
	}
	for _, h := range a.env.Dir.All(member.RoleUtility, "") {
		id := a.env.Operator(h.Member.Operator)
		for _, k := range h.Sheet {
			if k.Use != keys.Issuer || len(k.Public) != 32 {
				continue
			}
			if _, known := out[privacy.KeyID(privacy.UsePseudonym, k.Public)]; known {
				continue
			}
			if err := out.Add(id, [32]byte(k.Public)); err != nil {
				continue // a key that no issuer may have
			}
			if err := a.env.Store.Set(append(append(prefix[:len(prefix):len(prefix)], id[:]...), k.Public...), nil); err != nil {
				return nil, fmt.Errorf("keep issuer: %w", err)
			}
		}
	}
	return out, nil
}

// longOverdue says that a utility has not signed its settlements for so long that
// its drivers are not let in any more.
func (a *Aggregator) longOverdue(issuer [16]byte, now time.Time) bool {
	p, ok := a.partyOf(issuer)
	a.mu.Lock()
	since := a.overdue[p]
	a.mu.Unlock()
	return ok && !since.IsZero() && now.Sub(since) > overdueFor
}

// finalMonths are the months whose mint keys stand on the final ledger and may
// still be spent.
func (a *Aggregator) finalMonths(now time.Time) (out []ask.Month) {
	w := a.book()
	if w == nil {
		return nil
	}
	final := finalEnd(w)
	epoch := note.Epoch(now.AddDate(0, 1, 1-now.Day()))
	for range months {
		var index uint64
		known := false
		a.Read(func(s *ledger.State) { _, index, _, _, known = s.Denoms(0, epoch) })
		if known && index < final {
			if m, err := a.monthAt(index); err == nil {
				out = append(out, m)
			}
		}
		epoch = before(epoch)
	}
	return out
}

// before is the month before yyyymm.
func before(epoch uint32) uint32 {
	if epoch%100 == 1 {
		return epoch - 100 + 11
	}
	return epoch - 1
}

// monthAt reads the mint keys of an entry; a final entry never changes.
func (a *Aggregator) monthAt(index uint64) (ask.Month, error) {
	a.mu.Lock()
	m, known := a.months[index]
	a.mu.Unlock()
	if known {
		return m, nil
	}
	raw, err := a.Entry(index)
	if err != nil {
		return ask.Month{}, err
	}
	e, err := ledger.Parse(raw)
	if err != nil {
		return ask.Month{}, err
	}
	if m, err = ask.MonthOf(e, ask.Currency); err != nil {
		return m, err
	}
	a.mu.Lock()
	a.months[index] = m
	a.mu.Unlock()
	return m, nil
}

const (
	deskPeriod = 30 * time.Second // of looking for new keys and issuers
	deskFresh  = time.Second      // on the wall clock: a request after that long looks again
)

// keepDesk looks for new keys and issuers until ctx ends.
func (a *Aggregator) keepDesk(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := a.refreshDesk(); err != nil {
			return fmt.Errorf("desk: %w", err)
		}
		a.pause(ctx, deskPeriod, nil)
	}
	return nil
}

// freshDesk looks again if that is long ago: a driver whose utility has just
// joined must not be turned away.
func (a *Aggregator) freshDesk() {
	a.mu.Lock()
	stale := time.Since(a.looked) > deskFresh
	a.mu.Unlock()
	if !stale {
		return
	}
	if err := a.refreshDesk(); err != nil {
		a.env.Log.Error("keys of the desk cannot be read", "err", err)
	}
}

// refreshDesk exchanges the desk if what it is made of has changed. Its state is
// all in the store, so the new one goes on where the old one stood.
func (a *Aggregator) refreshDesk() error {
	a.refreshing.Lock()
	defer a.refreshing.Unlock()
	m, err := a.gather(a.env.Clock.Now())
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.looked = time.Now()
	a.mu.Unlock()
	a.deskMu.Lock()
	defer a.deskMu.Unlock()
	if a.desk != nil && a.madeOf == m.print {
		return nil
	}
	sheet, err := a.fees.Hash()
	if err != nil {
		return err
	}
	bucket := a.env.Config.Ledger.Bucket.D()
	desk, err := settle.Open(settle.Config{
		Session: session.SettlerConfig{Net: a.env.Net, ID: a.env.Operator(a.env.Host.Self().Operator), Key: m.record, Boxes: m.boxes, Issuers: m.issuers,
			Revoked: a.revoked, Pass: a.mints.verify, Shares: a.shares,
			Fee:     session.FeeTerms{PerSession: uint32(a.fees.PerSession), PerKWhIn: uint32(a.fees.PerKWhIn), PerKWhOut: uint32(a.fees.PerKWhOut), Sheet: sheet},
			AuthFor: authFor, Rand: a.env.Rand},
		Pricer: settle.Pricer{Fees: a.fees}, Currencies: currencies(), Party: a.partyOf, Mint: a.mintFor, Registry: m.registry, Origin: a.origin,
		Store: a.memory, ReleaseAfter: bucket, Rand: a.env.Rand,
	})
	if err != nil {
		return err
	}
	a.desk, a.madeOf = desk, m.print
	return nil
}

func currencies() []ledger.Currency { return []ledger.Currency{{ISO4217: ask.Currency, Exp: 2}} }

// withDesk runs f on the desk while it is not exchanged.
func (a *Aggregator) withDesk(f func(*settle.Desk) error) error {
	a.deskMu.RLock()
	defer a.deskMu.RUnlock()
	return f(a.desk)
}

// partyOf finds the ledger party of a utility by its id in certificates.
func (a *Aggregator) partyOf(id [16]byte) (p ledger.PartyID, ok bool) {
	a.Read(func(s *ledger.State) {
		for _, x := range s.Parties() {
			if x.Role == ledger.Utility && a.env.Operator(x.Name) == id {
				p, ok = x.Party, true
			}
		}
	})
	return p, ok
}

// mintFor gives a month's keys if their entry is final and still issues.
func (a *Aggregator) mintFor(currency uint16, epoch uint32) *note.Mint {
	w := a.book()
	if w == nil || currency != ask.Currency {
		return nil
	}
	final := finalEnd(w)
	open := false
	a.Read(func(s *ledger.State) {
		d, index, _, _, known := s.Denoms(0, epoch)
		open = known && index < final && uint64(s.LogTime().UnixMilli()) <= d.IssueTo
	})
	if !open {
		return nil
	}
	return a.mints.month(epoch)
}
