// Package purse keeps the notes of a household or driver and moves them: it
// collects what sessions earned, swaps after a random time, and hands full steps
// to the own utility, all by onion.
//
// The flow of a claim:
//
//	Add (with the session's receipt) -> Collect -> prove the entry behind them
//	                                            -> swap after 1 to 48 h -> redeem 3 to 30 days later
//
// Guarantees: every request is a function of what is durable before it leaves,
// so a crash at any point repeats the same bytes and the same answer; no note is
// spent twice and none is lost. With every operator away nothing happens but
// waiting. Not guaranteed: that the aggregator's ledger pays; what proves it, or the
// contrary, is kept (Claims).
//
// Start with Open, then run Serve. A Purse is safe for concurrent use.
package purse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/clock"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy/leak"
	"gridveil/privacy/note"
	"gridveil/privacy/session"
)

// Operators is how a purse reaches aggregator and utility; ask.Operators is one.
type Operators interface {
	Aggregator() (ask.Aggregator, error)
	Utility(operator string) (ask.Utility, error)
	Ask(ctx context.Context, to member.Key, s mesh.Service, op ask.Op, body []byte) ([]byte, error)
	Origin() (string, error)
	Policy() (*ledger.Policy, error)
}

// Claims makes and reads the messages of claims: whoever holds the session's
// keys. The purse calls it while it holds no lock.
type Claims interface {
	// Request signs the request for a claim's blinded row, the same bytes each
	// time.
	Request(c Claim, epoch uint32, row note.Row) ([]byte, error)
	// Name is H(Collect) of a request that Request gave as msg.
	Name(c Claim, msg []byte) ([32]byte, error)
	// Open reads the answer to it.
	Open(c Claim, answer []byte) (session.Collected, error)
	// Collected tells that the notes are here; issue is the ledger's entry that
	// pays them. It may be missed in a crash: see Pending.
	Collected(c Claim, issue uint64)
}

// Claim is what one party of one session may collect.
type Claim struct {
	Session string        // as Claims knows it
	Party   session.Party // who collects
	Minor   uint16        // minor units
}

// Config of a Purse. Every field is needed unless it says otherwise.
type Config struct {
	Store     *store.Store
	Clock     clock.Clock
	Rand      io.Reader
	Log       *slog.Logger
	Operators Operators
	Claims    Claims
	Operator  string   // own utility, where notes are redeemed
	Contract  [16]byte // what the utility credits, ask.Contract
	Warn      *role.Board
	// Journal notes what leaves, in the update that lets it leave.
	Journal func(tx *store.Tx, e leak.Entry) error
}

// Purse is one household's or driver's notes.
type Purse struct {
	cfg  Config
	wake chan struct{}

	swept time.Time // when old evidence was dropped last; of Open, then of Serve

	mu     sync.Mutex // guards everything below
	seed   [32]byte
	wallet *note.Wallet // nil until the ledger's name is known
	state  state
	months map[uint32]ask.Month
}

// state is what is durable besides the wallet's own bytes.
type state struct {
	Origin     string
	Jobs       []job // claims to collect, oldest first
	SwapAt     int64 // UTC ms, 0 for no swap planned
	RedeemAt   int64
	Proofs     []proofJob     // entries to fetch, oldest first
	Uncovered  []Claim        // that their entry does not cover
	Account    ledger.Account // at the own utility
	HasAccount bool
	Redeemed   int64 // minor units handed in so far
	Dropped    int   // sessions that ended unpaid, of late
	DroppedAt  int64 // and when the newest of them was dropped, UTC ms
}

// job is one claim until its notes are here.
type job struct {
	Claim Claim
	At    int64  // not before, UTC ms
	Op    uint64 // of the wallet, 0 until the request is made
	Epoch uint32
	Msg   []byte
}

var (
	seedKey   = store.SpaceNote.Key([]byte("seed"))
	walletKey = store.SpaceNote.Key([]byte("wallet"))
	stateKey  = store.SpaceNote.Key([]byte("purse"))
)

func monthKey(epoch uint32) []byte {
	return store.SpaceNote.Key([]byte("month"), store.U64(uint64(epoch)))
}

// Open loads the purse, or makes an empty one.
func Open(cfg Config) (*Purse, error) {
	p := &Purse{cfg: cfg, wake: make(chan struct{}, 1)}
	if err := p.load(); err != nil {
		return p, err
	}
	return p, p.forgetOld(context.Background())
}

// load reads everything durable; also after a failed update.
func (p *Purse) load() error {
	p.wallet, p.state, p.months = nil, state{}, map[uint32]ask.Month{}
	if err := p.loadSeed(); err != nil {
		return err
	}
	err := p.cfg.Store.View(func(tx *store.Tx) error {
		if b, err := tx.Get(stateKey); err == nil {
			if err := json.Unmarshal(b, &p.state); err != nil {
				return fmt.Errorf("stored purse: %w", err)
			}
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if p.state.Origin != "" {
			b, err := tx.Get(walletKey)
			if err != nil {
				return fmt.Errorf("stored notes: %w", err)
			}
			if p.wallet, err = note.OpenWallet(p.seed, p.state.Origin, b); err != nil {
				return err
			}
		}
		return tx.Each(store.SpaceNote.Key([]byte("month")), func(_, v []byte) error {
			e, err := ledger.Parse(v)
			if err != nil {
				return fmt.Errorf("stored mint keys: %w", err)
			}
			m, err := ask.MonthOf(e, ask.Currency)
			if err == nil {
				p.months[m.Denoms.Epoch] = m
			}
			return err
		})
	})
	return err
}

func (p *Purse) loadSeed() error {
	b, err := p.cfg.Store.Get(seedKey)
	if errors.Is(err, store.ErrNotFound) {
		if _, err := io.ReadFull(p.cfg.Rand, p.seed[:]); err != nil {
			return fmt.Errorf("draw seed of the notes: %w", err)
		}
		return p.cfg.Store.Set(seedKey, p.seed[:])
	}
	if err != nil || len(b) != len(p.seed) {
		return fmt.Errorf("seed of the notes: %d bytes: %w", len(b), err)
	}
	copy(p.seed[:], b)
	return nil
}

// save stages state and notes. The caller holds mu.
func (p *Purse) save(tx *store.Tx) error {
	b, err := json.Marshal(p.state)
	if err != nil {
		return err
	}
	if err := tx.Set(stateKey, b); err != nil || p.wallet == nil {
		return err
	}
	return tx.Set(walletKey, p.wallet.Bytes())
}

// update makes a change durable, or undoes it in memory. The caller holds mu.
func (p *Purse) update(also ...func(*store.Tx) error) error {
	err := p.cfg.Store.Update(func(tx *store.Tx) error {
		for _, f := range also {
			if err := f(tx); err != nil {
				return err
			}
		}
		return p.save(tx)
	})
	if err != nil {
		return errors.Join(err, p.load())
	}
	return nil
}

// Edit is a change of the purse that becomes durable together with a change of
// somebody else's. The purse waits until Close.
type Edit struct{ p *Purse }

// Edit begins a change. It must be begun before the store's update that Write is
// called in, and closed after it.
func (p *Purse) Edit() *Edit {
	p.mu.Lock()
	return &Edit{p}
}

// Add claims notes from notBefore on. A claim that is known already stays as it is.
func (e *Edit) Add(c Claim, notBefore time.Time) {
	if !slices.ContainsFunc(e.p.state.Jobs, func(j job) bool { return j.Claim.Session == c.Session && j.Claim.Party == c.Party }) {
		e.p.state.Jobs = append(e.p.state.Jobs, job{Claim: c, At: notBefore.UnixMilli()})
	}
}

// ErrNoLedger means that the ledger is not known yet, so there are no notes.
var ErrNoLedger = errors.New("the ledger is not known yet")

// Spend pays an amount of minor units with swapped notes. The operation ends
// with Spent or Unspent.
func (e *Edit) Spend(now time.Time, minor uint16, payee ledger.Account, purpose []byte) (op uint64, pay note.Payment, err error) {
	w := e.p.wallet
	if w == nil {
		return 0, pay, ErrNoLedger
	}
	o, err := w.Spend(now, ask.Currency, minor, uint32(payee), purpose)
	if err != nil {
		return 0, pay, err
	}
	notes, err := w.Spends(o.ID)
	return o.ID, note.Payment{Salt: o.Salt, Notes: notes}, err
}

// Spent ends a payment whose receipt is here; one that ended before is fine.
func (e *Edit) Spent(op uint64) error { return e.end(op, (*note.Wallet).Done) }

// Unspent takes back a payment that was refused for good.
func (e *Edit) Unspent(op uint64) error { return e.end(op, (*note.Wallet).Abort) }

func (e *Edit) end(op uint64, f func(*note.Wallet, uint64) error) error {
	if e.p.wallet == nil {
		return nil
	}
	if err := f(e.p.wallet, op); err != nil && !errors.Is(err, note.ErrOp) {
		return err
	}
	return nil
}

// GiveUp ends what a session that is dropped unpaid has left: its claims, and its
// payment op unless that is 0. The owner is told for a month.
func (e *Edit) GiveUp(now time.Time, session string, op uint64) error {
	s := &e.p.state
	for _, j := range s.Jobs {
		if j.Claim.Session != session || j.Op == 0 {
			continue
		}
		if err := e.end(j.Op, (*note.Wallet).Abort); err != nil {
			return err
		}
	}
	s.Jobs = slices.DeleteFunc(s.Jobs, func(j job) bool { return j.Claim.Session == session })
	if now.Sub(time.UnixMilli(s.DroppedAt)) > droppedShown {
		s.Dropped = 0
	}
	s.Dropped, s.DroppedAt = s.Dropped+1, now.UnixMilli()
	if op == 0 {
		return nil
	}
	return e.Spent(op) // whether it was taken nobody can say any more: its notes are not offered twice
}

// Write stages the change.
func (e *Edit) Write(tx *store.Tx) error { return e.p.save(tx) }

// Close ends the change; err is the result of the store's update. After an error
// the purse is what it was.
func (e *Edit) Close(err error) {
	if err != nil {
		if again := e.p.load(); again != nil {
			e.p.cfg.Log.Error("notes could not be read again", "err", again)
		}
	}
	e.p.mu.Unlock()
	e.p.poke()
}

// Pending says whether a session's notes are still to be collected.
func (p *Purse) Pending(session string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.pending(session)
}

// Pending is Purse.Pending inside a change.
func (e *Edit) Pending(session string) bool { return e.p.state.pending(session) }

func (s *state) pending(session string) bool {
	return slices.ContainsFunc(s.Jobs, func(j job) bool { return j.Claim.Session == session })
}

// Cover finds the smallest amount of at least need minor units that the notes at
// hand make up exactly, with no more than limit notes.
func (p *Purse) Cover(now time.Time, need uint16, limit int) (minor uint16, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wallet == nil || need == 0 {
		return 0, false
	}
	stored := p.wallet.Bytes()
	most := min(p.wallet.Balance(ask.Currency).Swapped, note.MaxAmount)
	for v := uint64(need); v <= most; v++ {
		trial, err := note.OpenWallet(p.seed, p.state.Origin, stored)
		if err != nil {
			return 0, false
		}
		op, err := trial.Spend(now, ask.Currency, uint16(v), 0, nil)
		if err != nil {
			continue
		}
		if spent, err := trial.Spends(op.ID); err == nil && len(spent) <= limit {
			return uint16(v), true
		}
	}
	return 0, false
}

// Standing is what the purse holds, for the page. Amounts in minor units.
type Standing struct {
	note.Balance
	Waiting  uint64 // claimed, not yet collected
	Redeemed int64
}

// Standing sums up the purse.
func (p *Purse) Standing() Standing {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Standing{Redeemed: p.state.Redeemed}
	for _, j := range p.state.Jobs {
		s.Waiting += uint64(j.Claim.Minor)
	}
	if p.wallet != nil {
		s.Balance = p.wallet.Balance(ask.Currency)
	}
	return s
}

// Earned is the account that locks and swaps pay to, once the mint's keys are
// known.
func (p *Purse) Earned() (ledger.Account, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.months[note.Epoch(p.cfg.Clock.Now())]
	if !ok {
		return 0, ErrNoLedger
	}
	return ledger.EarnedAccount(m.Cur), nil
}

// Hurry collects, swaps and redeems everything as soon as it can: the owner
// asked for it, and gives up the random delays that keep the steps apart.
func (p *Purse) Hurry() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.cfg.Clock.Now().UnixMilli()
	for i := range p.state.Jobs {
		p.state.Jobs[i].At = min(p.state.Jobs[i].At, now)
	}
	if p.wallet != nil && p.wallet.Balance(ask.Currency).Fresh > 0 {
		p.state.SwapAt = now
	}
	for i := range p.state.Proofs {
		p.state.Proofs[i].At = min(p.state.Proofs[i].At, now)
	}
	if p.state.RedeemAt > now {
		p.state.RedeemAt = now
	}
	err := p.update()
	p.poke()
	return err
}

func (p *Purse) poke() {
	select {
	case p.wake <- struct{}{}:
	default: // Serve has not yet seen the last poke
	}
}
