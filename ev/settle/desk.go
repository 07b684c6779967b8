package settle

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"gridveil/ledger"
	"gridveil/privacy"
	"gridveil/privacy/note"
	"gridveil/privacy/session"
)

// Errors of Take. Those of privacy/session come through unchanged.
var (
	// ErrWait: the ledger has to finish something first; send the same bytes
	// again later.
	ErrWait = errors.New("accepted; the answer comes when the ledger is final, ask again with the same bytes")
	// ErrBusy: a quota is used up; send the same bytes again later.
	ErrBusy = errors.New("too many requests, try again later")
	// ErrNotes: the ledger refused the notes of a lock or swap, for good.
	ErrNotes = errors.New("these notes are not accepted")
	// ErrMonth: notes of this month are not issued now; ask with the month of
	// the newest final denoms entry.
	ErrMonth = errors.New("no notes of this month are issued")
	// ErrCurrency: the ledger does not know the currency.
	ErrCurrency = errors.New("currency is not on the ledger")
)

// Write is one change of the store. A nil Value deletes. After Until (zero:
// never) the store may forget it.
type Write struct {
	Key, Value []byte
	Until      time.Time
}

// Store is the desk's memory.
type Store interface {
	// Get returns a copy of what is stored, nil if nothing is.
	Get(key []byte) []byte
	// Scan calls each for all keys with the prefix, in order, until it returns false.
	Scan(prefix []byte, each func(key, value []byte) bool) error
	// Commit applies all writes or none, and is durable when it returns.
	Commit(writes []Write) error
}

// Config of a Desk. Every field is required unless it says otherwise.
type Config struct {
	// Session is the aggregator as package session wants it. Get and, if Price
	// is nil, Price are filled by Open.
	Session session.SettlerConfig
	Pricer  Pricer // judges finished sessions
	// Currencies of the ledger, in the order of its genesis.
	Currencies []ledger.Currency
	// Party finds the ledger party of a utility by the id in its certificates.
	Party func(utility [16]byte) (ledger.PartyID, bool)
	// Mint returns the keys of a currency (ISO 4217 number) and month whose
	// denoms entry is final and still issues; nil if there are none.
	Mint func(currency uint16, month uint32) *note.Mint
	// Registry knows the keys of all months that may still be spent.
	Registry *note.Registry
	Origin   string // of the ledger
	Store    Store
	// ReleaseMin sessions are released to the ledger as one shuffled block;
	// zero means the ledger's min_batch. ReleaseAfter releases fewer when the
	// oldest has waited that long; zero means 24 h.
	ReleaseMin   int
	ReleaseAfter time.Duration
	Rand         io.Reader
}

// Desk is one aggregator. Its methods are safe for concurrent use; they run
// one at a time, as session.Settler demands.
type Desk struct {
	cfg     Config
	settler *session.Settler

	mu       sync.Mutex // guards everything below
	quota    quotas
	bookings map[name]*booking // not yet settled
	claims   map[string]*claim // not yet answered
	orders   map[name]*order   // not yet final
	meta     meta
	pages    []Write // of the Settle that is being judged
	now      time.Time
}

// Prefixes of the desk's keys.
const (
	keySession = 'x' // what session.Settler stores
	keyBooking = 'b' // session -> booking
	keyClaim   = 'c' // claim key -> claim
	keyLock    = 'l' // session -> lock job
	keyOrder   = 'o' // order id -> order
	keyPages   = 'm' // meter key -> pages of its records that were paid
	keyMeta    = 'n'
)

// Open loads the desk's state and checks the configuration.
func Open(cfg Config) (*Desk, error) {
	if cfg.Store == nil || cfg.Party == nil || cfg.Mint == nil || cfg.Registry == nil || cfg.Rand == nil ||
		len(cfg.Currencies) == 0 || cfg.Origin == "" {
		return nil, errors.New("settle: Config is incomplete")
	}
	if cfg.ReleaseAfter == 0 {
		cfg.ReleaseAfter = 24 * time.Hour
	}
	d := &Desk{cfg: cfg, quota: newQuotas(), bookings: map[name]*booking{}, claims: map[string]*claim{}, orders: map[name]*order{}}
	sc := cfg.Session
	sc.Get = func(key []byte) []byte { return cfg.Store.Get(under(keySession, key)) }
	if sc.Price == nil {
		sc.Price = d.price
	}
	var err error
	if d.settler, err = session.NewSettler(sc); err != nil {
		return nil, fmt.Errorf("settle: %w", err)
	}
	return d, d.load()
}

func under(prefix byte, key []byte) []byte { return append([]byte{prefix}, key...) }

// Take decides one message and returns its answer. ErrWait means that the
// message was taken and the same bytes should come again later.
func (d *Desk) Take(now time.Time, msg []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(msg) == 0 {
		return nil, session.ErrMalformed
	}
	if err := d.admit(now, msg); err != nil {
		return nil, err
	}
	switch privacy.Kind(msg[0]) {
	case privacy.KindAuthReq:
		r, err := d.settler.Authorise(now, msg)
		return d.reply(r, err)
	case privacy.KindSettle:
		return d.settle(now, msg)
	case privacy.KindLock:
		return d.lock(now, msg)
	case privacy.KindCollect, privacy.KindCollectInner:
		return d.collect(now, msg)
	case privacy.KindShareAsk:
		return d.settler.Shares(msg)
	case privacy.KindSwap:
		return d.swap(now, msg)
	}
	return nil, fmt.Errorf("%w: kind %d", session.ErrMalformed, msg[0])
}

// reply commits what an answer depends on, then hands it out.
func (d *Desk) reply(r session.Reply, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return r.Msg, d.commit(puts(r.Put))
}

// puts turns what the settler wants stored into writes.
func puts(list []session.Put) []Write {
	out := make([]Write, 0, len(list))
	for _, p := range list {
		out = append(out, Write{under(keySession, p.Key), p.Value, p.Until})
	}
	return out
}

func (d *Desk) commit(w []Write) error {
	if len(w) == 0 {
		return nil
	}
	if err := d.cfg.Store.Commit(w); err != nil {
		return fmt.Errorf("settle: commit: %w", err)
	}
	return nil
}

// settle books a finished session.
func (d *Desk) settle(now time.Time, msg []byte) ([]byte, error) {
	d.pages, d.now = nil, now
	r, booked, err := d.settler.Settle(now, msg)
	if err != nil || booked == nil {
		return d.reply(r, err)
	}
	b, err := d.newBooking(now, booked)
	if err != nil {
		return nil, err
	}
	w := append(puts(r.Put), d.pages...)
	if err := d.commit(append(w, b.write())); err != nil {
		return nil, err
	}
	d.bookings[b.Session] = b
	return r.Msg, nil
}

// newBooking finds where a session belongs on the ledger.
func (d *Desk) newBooking(now time.Time, x *session.Settled) (*booking, error) {
	cur, err := d.currency(x.Currency)
	if err != nil {
		return nil, err
	}
	payer, ok := d.cfg.Party(x.Payer)
	if !ok {
		return nil, fmt.Errorf("%w: the driver's utility is no party of the ledger", session.ErrUnknown)
	}
	return &booking{Session: x.Session, Cur: cur, Payer: payer, State: queued, At: now.UnixMilli(), Settled: x.Bytes(), settled: *x}, nil
}

// File is what the aggregator can show of a session in a ledgered case.
func (d *Desk) File(name [32]byte) (session.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.settler.File(name)
}

// Find gives the session behind a ref of the ledger, and the payer of its entry.
// It reads every booking: cases are rare.
func (d *Desk) Find(ref [32]byte) (name [32]byte, payer ledger.PartyID, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := scan(d.cfg.Store, keyBooking, func(b *booking) error {
		x, err := session.ParseSettled(b.Settled)
		if err == nil && x.Ref == ref {
			name, payer, ok = b.Session, b.Payer, true
		}
		return err
	})
	return name, payer, ok && err == nil
}

// Ref names a booked session on the ledger.
func (d *Desk) Ref(name [32]byte) (ref [32]byte, payer ledger.PartyID, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.booking(name)
	if !ok {
		return ref, 0, false
	}
	return b.settled.Ref, b.Payer, true
}

// currency is the ledger's index of an ISO 4217 number.
func (d *Desk) currency(iso uint16) (uint8, error) {
	for i, c := range d.cfg.Currencies {
		if c.ISO4217 == iso {
			return uint8(i), nil
		}
	}
	return 0, fmt.Errorf("%w: %03d", ErrCurrency, iso)
}

// Counts tells where sessions and claims stand, for the operator's page.
type Counts struct {
	Queued, Posted, Proposed, Held int // sessions not yet settled
	Claims                         int // not yet answered
	Orders                         int // not yet final
}

// Counts returns the present numbers.
func (d *Desk) Counts() Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := Counts{Claims: len(d.claims), Orders: len(d.orders)}
	for _, b := range d.bookings {
		switch b.State {
		case queued, ordered:
			c.Queued++
		case posted:
			c.Posted++
		case proposed:
			c.Proposed++
		case held:
			c.Held++
		}
	}
	return c
}

func sum256(parts ...[]byte) (h name) {
	s := sha256.New()
	for _, p := range parts {
		s.Write(p)
	}
	return name(s.Sum(nil))
}
