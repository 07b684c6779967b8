package aggregator

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"gridveil/node/ask"
	"gridveil/node/clock"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy/note"
	"gridveil/privacy/pseudo"
)

const (
	mintPeriod  = time.Hour
	mintAhead   = 5 * 24 * time.Hour // the next month's keys are on the ledger before the first wallet needs them
	smallZone   = 20                 // homes below which zones share one pass key; privacy design 4.5
	passesStay  = 10                 // weeks: a session may be handed in 60 days late
	mintsStay   = 5                  // months: notes are swapped for three after theirs
	passesSpare = 64                 // claims a week beyond the enrolled homes: gateways that were replaced
)

// mints holds the keys that sign notes and passes, and which claims of passes
// were answered. RSA keys take seconds, so they are made in the background and
// ahead of their time; each is durable before its public half is shown.
type mints struct {
	env *role.Env

	mu     sync.Mutex
	months map[uint32]*note.Mint
	passes map[passSlot]*note.PassMint
	byID   map[[8]byte]*note.PassMint
	claims map[uint32]*note.Claims // by week
}

type passSlot struct {
	zone uint16
	week uint32
}

func monthKey(epoch uint32) []byte {
	return store.SpaceNote.Key([]byte("mint"), binary.BigEndian.AppendUint32(nil, epoch))
}

func passKey(s passSlot) []byte {
	return store.SpaceNote.Key([]byte("pass"), binary.BigEndian.AppendUint32(nil, s.week), store.U16(s.zone))
}

func claimKey(week uint32, id [32]byte) []byte {
	return store.SpaceNote.Key([]byte("claim"), binary.BigEndian.AppendUint32(nil, week), id[:])
}

func openMints(env *role.Env) (*mints, error) {
	m := &mints{env: env, months: map[uint32]*note.Mint{}, passes: map[passSlot]*note.PassMint{}, byID: map[[8]byte]*note.PassMint{}, claims: map[uint32]*note.Claims{}}
	return m, env.Store.View(m.load)
}

func (m *mints) load(tx *store.Tx) error {
	err := tx.Each(store.SpaceNote.Key([]byte("mint")), func(_, v []byte) error {
		x, err := note.ParseMint(v)
		if err != nil {
			return fmt.Errorf("stored mint keys: %w", err)
		}
		m.months[x.Denoms().Epoch] = x
		return nil
	})
	if err != nil {
		return err
	}
	err = tx.Each(store.SpaceNote.Key([]byte("pass")), func(_, v []byte) error {
		x, err := note.ParsePassMint(v)
		if err != nil {
			return fmt.Errorf("stored pass key: %w", err)
		}
		m.addPass(x)
		return nil
	})
	if err != nil {
		return err
	}
	prefix := store.SpaceNote.Key([]byte("claim"))
	return tx.Each(prefix, func(k, v []byte) error {
		k = k[len(prefix):]
		if len(k) != 36 || len(v) != 32 {
			return errors.New("stored claim of passes is damaged")
		}
		m.week(binary.BigEndian.Uint32(k)).Restore(note.Claim{ID: [32]byte(k[4:]), Request: [32]byte(v)})
		return nil
	})
}

func (m *mints) addPass(x *note.PassMint) {
	m.passes[passSlot{x.Zone, x.Week}] = x
	m.byID[x.Public().ID()] = x
}

func (m *mints) week(w uint32) *note.Claims {
	if m.claims[w] == nil {
		m.claims[w] = &note.Claims{}
	}
	return m.claims[w]
}

// serve makes keys ahead of their time and forgets old ones; made is called
// after each new month.
func (m *mints) serve(ctx context.Context, made func()) error {
	for {
		now := m.env.Clock.Now()
		for _, at := range []time.Time{now, now.Add(mintAhead)} {
			if err := m.ensureMonth(note.Epoch(at)); err != nil {
				return err
			}
			made()
		}
		for week := pseudo.Week(now); week <= pseudo.Week(now)+1; week++ {
			for _, zone := range m.zones() {
				if ctx.Err() != nil {
					return nil
				}
				if err := m.ensurePass(passSlot{zone, week}); err != nil {
					return err
				}
			}
		}
		if err := m.forget(now); err != nil {
			return err
		}
		if !clock.Sleep(ctx, m.env.Clock, mintPeriod) {
			return nil
		}
	}
}

func (m *mints) ensureMonth(epoch uint32) error {
	m.mu.Lock()
	_, known := m.months[epoch]
	m.mu.Unlock()
	if known {
		return nil
	}
	x, err := note.NewMint(ask.Currency, epoch)
	if err != nil {
		return fmt.Errorf("make mint keys: %w", err)
	}
	b, err := x.Bytes()
	if err != nil {
		return err
	}
	if err := m.env.Store.Set(monthKey(epoch), b); err != nil {
		return fmt.Errorf("keep mint keys: %w", err)
	}
	m.mu.Lock()
	m.months[epoch] = x
	m.mu.Unlock()
	m.env.Log.Info("mint keys made", "month", epoch)
	return nil
}

func (m *mints) ensurePass(s passSlot) error {
	m.mu.Lock()
	_, known := m.passes[s]
	m.mu.Unlock()
	if known {
		return nil
	}
	x, err := note.NewPassMint(s.zone, s.week)
	if err != nil {
		return fmt.Errorf("make pass key: %w", err)
	}
	b, err := x.Bytes()
	if err != nil {
		return err
	}
	if err := m.env.Store.Set(passKey(s), b); err != nil {
		return fmt.Errorf("keep pass key: %w", err)
	}
	m.mu.Lock()
	m.addPass(x)
	m.mu.Unlock()
	return nil
}

// forget drops keys that can sign or verify nothing any more.
func (m *mints) forget(now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var gone [][]byte
	for epoch := range m.months {
		if _, _, swapTo := note.Windows(epoch); now.After(swapTo.AddDate(0, mintsStay-3, 0)) {
			gone = append(gone, monthKey(epoch))
			delete(m.months, epoch)
		}
	}
	this := pseudo.Week(now)
	for s, x := range m.passes {
		if s.week+passesStay < this {
			gone = append(gone, passKey(s))
			delete(m.passes, s)
			delete(m.byID, x.Public().ID())
		}
	}
	for w, c := range m.claims {
		if w+1 < this {
			for _, x := range c.All() {
				gone = append(gone, claimKey(w, x.ID))
			}
			delete(m.claims, w)
		}
	}
	for part := range slices.Chunk(gone, 500) { // one update holds 1024 writes
		err := m.env.Store.Update(func(tx *store.Tx) error {
			for _, k := range part {
				if err := tx.Delete(k); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("forget old keys: %w", err)
		}
	}
	return nil
}

// zones are the numbers of pass keys: one for each zone of the network, or one
// for all where the homes are too few to hide among.
func (m *mints) zones() []uint16 {
	b := m.env.Host.Bundle()
	if b.Policy.HomesEnrolled < smallZone*len(b.Zones) {
		return []uint16{0}
	}
	list := make([]uint16, len(b.Zones))
	for i := range list {
		list[i] = uint16(i + 1)
	}
	return list
}

// zone is the number that a zone's homes use.
func (m *mints) zone(name string) (uint16, bool) {
	for i, z := range m.env.Host.Bundle().Zones {
		if z.Name == name {
			if len(m.zones()) == 1 {
				return m.zones()[0], true
			}
			return uint16(i + 1), true
		}
	}
	return 0, false
}

// errNoPassKey means that the key is being made.
var errNoPassKey = &ask.NotYetError{After: 10 * time.Second}

// pass finds the key of a zone and week that is on offer now.
func (m *mints) pass(zone string, week uint32) (*note.PassMint, error) {
	n, ok := m.zone(zone)
	if !ok {
		return nil, &ask.RefusedError{Reason: "this network has no such zone"}
	}
	if this := pseudo.Week(m.env.Clock.Now()); week < this || week > this+1 {
		return nil, &ask.RefusedError{Reason: "passes are given for this week and the next"}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.passes[passSlot{n, week}]
	if x == nil {
		return nil, errNoPassKey
	}
	return x, nil
}

// signPasses answers a request for a week's passes, once per claim. The sender
// is unknown, so only their number is bounded: a week has as many claims as
// homes are enrolled.
func (m *mints) signPasses(r ask.PassRequest) (*note.PassSlots, error) {
	x, err := m.pass(r.Zone, r.Week)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	claims := m.week(r.Week)
	list := claims.All()
	if len(list) >= m.env.Host.Bundle().Policy.HomesEnrolled+passesSpare && !slices.ContainsFunc(list, func(c note.Claim) bool { return c.ID == r.Claim }) {
		return nil, &ask.RefusedError{Reason: "all passes of this week are given; next week there are new ones"}
	}
	c, fresh, err := claims.Accept(r.Claim, r.Slots.Bytes())
	if err != nil {
		return nil, &ask.RefusedError{Reason: err.Error()}
	}
	if fresh {
		if err := m.env.Store.Set(claimKey(r.Week, c.ID), c.Request[:]); err != nil {
			claims.Forget(c.ID)
			return nil, &ask.NotYetError{After: time.Minute}
		}
	}
	signed, err := x.Sign(r.Slots)
	if err != nil {
		return nil, &ask.RefusedError{Reason: err.Error()}
	}
	return signed, nil
}

// verify is session.SettlerConfig.Pass: the pass must be of the week of at, or of
// the week before in its first hours.
func (m *mints) verify(key [8]byte, hpk [32]byte, sig [note.SlotSize]byte, at time.Time) error {
	m.mu.Lock()
	x := m.byID[key]
	m.mu.Unlock()
	if x == nil {
		return note.ErrKey
	}
	if from, to := pseudo.Window(pseudo.Driver, x.Week); at.Before(from) || !at.Before(to) {
		return note.ErrLate
	}
	return note.VerifyPass(x.Public(), hpk, sig)
}

// weeks lists the pass keys of this week and the next, in order.
func (m *mints) weeks() (list []*note.PassMint) {
	this := pseudo.Week(m.env.Clock.Now())
	m.mu.Lock()
	defer m.mu.Unlock()
	for s, x := range m.passes {
		if s.week >= this {
			list = append(list, x)
		}
	}
	slices.SortFunc(list, func(a, b *note.PassMint) int {
		return cmp.Or(cmp.Compare(a.Week, b.Week), cmp.Compare(a.Zone, b.Zone))
	})
	return list
}

// month is the mint of a month, nil if there is none here.
func (m *mints) month(epoch uint32) *note.Mint {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.months[epoch]
}

// known lists the months that have keys, in order.
func (m *mints) known() []uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []uint32
	for epoch := range m.months {
		list = append(list, epoch)
	}
	slices.Sort(list)
	return list
}
