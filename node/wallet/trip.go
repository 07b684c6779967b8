package wallet

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"gridveil/ev"
	"gridveil/ev/guest"
	"gridveil/node/ask"
	"gridveil/node/store"
	"gridveil/node/wallet/purse"
	"gridveil/privacy"
	"gridveil/privacy/session"
)

// tripID names a session in the wallet's own store.
type tripID [8]byte

// MarshalText writes the id in hexadecimal.
func (id tripID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText is the inverse of MarshalText.
func (id *tripID) UnmarshalText(b []byte) error {
	if len(b) != 2*len(id) {
		return fmt.Errorf("session id of %d characters", len(b))
	}
	_, err := hex.Decode(id[:], b)
	return err
}

// trip is one session of this driver, as long as it is kept.
type trip struct {
	rec    record
	driver *session.Driver // nil before the Open, and for gifts
	offer  session.Offer   // that it accepted
	code   string          // that the meter signs
	first  *guest.Conn     // the connection that it was opened on, until it is driven
	told   chan struct{}   // closed when the outcome of the opening is known
	stop   chan struct{}   // 1 token: the driver wants to end
	away   bool            // the host cannot be reached now
	poll   time.Time       // when the mailbox is looked into; zero: not planned
}

// record is what is stored of a trip.
type record struct {
	ID      tripID
	Link    string
	Begun   int64 // UTC ms
	Options Options
	Driver  []byte `json:",omitempty"`
	Offer   []byte `json:",omitempty"`
	Terms   []byte `json:",omitempty"`
	Fees    []byte `json:",omitempty"`
	Meter   []byte `json:",omitempty"` // key, as the host opened it

	State   string // in words, for the page
	Reason  string // why it was refused, or what to do
	Refused bool
	Gift    bool
	Over    bool  // nothing more is exchanged with the host
	Locked  int64 // notes behind what the host may owe, as the aggregator confirmed
	Fee     int64
	Booked  bool   // the ledger's entry was checked against the opening
	Shown   []byte `json:",omitempty"` // that entry with its proof
	Entry   uint64
	Case    string // a dispute names this session
	Paid    bool   // its notes are here
	Pool    pooled
	Mail    *letterbox `json:",omitempty"` // where the host may leave the receipt, until it is closed
	Steps   []step
}

// step is one line of the story.
type step struct {
	At   int64
	Text string
}

const (
	maxSteps = 64
	maxTrips = 256 // sessions that may be under way at once
)

var tripSpace = store.SpaceSession.Key([]byte("trip"), []byte{0})

func tripKey(id tripID) []byte { return append(tripSpace[:len(tripSpace):len(tripSpace)], id[:]...) }

func setJSON(tx *store.Tx, key []byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return tx.Set(key, b)
}

func (t *trip) write(tx *store.Tx) error { return setJSON(tx, tripKey(t.rec.ID), t.rec) }

func newTrip() *trip { return &trip{told: make(chan struct{}), stop: make(chan struct{}, 1)} }

func (w *Wallet) loadTrips() error {
	now := w.env.Clock.Now()
	if err := w.forgetTrips(now); err != nil {
		return err
	}
	return w.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(tripSpace, func(_, v []byte) error {
			t := newTrip()
			var err error
			if t.rec, err = decode[record](v, "session"); err != nil {
				return err
			}
			if t.rec.Driver != nil {
				if t.driver, err = session.LoadDriver(w.driverConfig(t), t.rec.Driver); err != nil {
					return fmt.Errorf("stored session: %w", err)
				}
				if t.offer, err = session.ParseOffer(t.rec.Offer); err != nil {
					return fmt.Errorf("stored session: %w", err)
				}
				t.code = t.driver.Code()
			}
			close(t.told)
			w.trips[t.rec.ID] = t
			return nil
		})
	})
}

// forgetBatch bounds one update, which holds 1024 writes; the rest waits a day.
const forgetBatch = 400

// forgetTrips drops sessions whose time is over: nothing can be claimed or contested
// any more, and what the purse still waits for on their behalf ends with them. The
// caller holds mu, or has begun nothing yet.
func (w *Wallet) forgetTrips(now time.Time) error {
	var old []tripID
	unpaid := 0
	edit := w.purse.Edit()
	err := w.env.Store.Update(func(tx *store.Tx) error {
		err := tx.Each(tripSpace, func(k, v []byte) error {
			r, err := decode[record](v, "session")
			if err != nil || now.Sub(time.UnixMilli(r.Begun)) <= purse.SessionEnds {
				return err
			}
			if len(old) == forgetBatch {
				return store.ErrStop
			}
			old = append(old, r.ID)
			if claim := hex.EncodeToString(r.ID[:]); edit.Pending(claim) {
				unpaid++
				if err := edit.GiveUp(now, claim, 0); err != nil {
					return err
				}
			}
			return tx.Delete(k)
		})
		if err != nil || unpaid == 0 {
			return err
		}
		return edit.Write(tx)
	})
	edit.Close(err)
	if err != nil {
		return err
	}
	if unpaid > 0 {
		w.env.Log.Warn("sessions dropped that were never paid", "sessions", unpaid)
	}
	for _, id := range old {
		delete(w.trips, id)
	}
	return nil
}

// driverConfig is what the protocol side knows besides its stored state. With
// the aggregator unknown its keys are zero and nothing of it verifies.
func (w *Wallet) driverConfig(t *trip) session.DriverConfig {
	c := session.DriverConfig{Net: w.env.Net, Suite: privacy.SuiteX25519, Rand: w.env.Rand, Fair: t.fair, Audit: t.audit}
	if agg, err := w.ops.Aggregator(); err == nil {
		c.EVAGG, c.EVAGGKey, c.EVAGGBox = agg.ID, agg.Record, agg.Box
	}
	return c
}

// change stores a trip, with what else belongs to the same step; after an error
// the trip is what was stored before. The caller holds mu.
func (w *Wallet) change(t *trip, also ...func(*store.Tx) error) error {
	err := w.env.Store.Update(func(tx *store.Tx) error {
		for _, f := range also {
			if err := f(tx); err != nil {
				return err
			}
		}
		return t.write(tx)
	})
	if err == nil && w.crash != nil {
		err = w.crash()
	}
	if err == nil {
		return nil
	}
	if b, gerr := w.env.Store.Get(tripKey(t.rec.ID)); gerr == nil {
		if rec, derr := decode[record](b, "session"); derr == nil {
			t.rec = rec
			if rec.Driver != nil {
				if d, lerr := session.LoadDriver(w.driverConfig(t), rec.Driver); lerr == nil {
					t.driver = d
				}
			}
		}
	}
	return err
}

// tell sets the state for the page and adds to the story.
func (t *trip) tell(now time.Time, state, text string) {
	t.rec.State = state
	if n := len(t.rec.Steps); text == "" || n > 0 && t.rec.Steps[n-1].Text == text || n >= maxSteps {
		return
	}
	t.rec.Steps = append(t.rec.Steps, step{now.UnixMilli(), text})
}

// name is what pages call the session: a short form of H(Open).
func (t *trip) name() string {
	id := t.rec.ID[:]
	if t.driver != nil {
		s := t.driver.Session()
		id = s[:]
	}
	return fmt.Sprintf("%02X%02X-%02X", id[0], id[1], id[2])
}

// deal is everything that prices the session.
func (t *trip) deal(o session.Offer) (ev.Deal, error) {
	terms, err := ev.DecodeTerms(t.rec.Terms)
	if err != nil {
		return ev.Deal{}, err
	}
	fees, err := ev.DecodeFeeSheet(t.rec.Fees)
	if err != nil {
		return ev.Deal{}, err
	}
	d := ev.Deal{Terms: terms, Grid: int64(o.PGrid), Res: int64(o.PRes), Out: int64(o.POut), Direct: o.Mode&session.ModeDirect != 0, Fee: fees, Minor: ev.MinorEUR}
	return d, d.Check()
}

// accept checks what the host shows before the first Wh, and keeps it.
func (t *trip) accept(welcome guest.Welcome, o session.Offer) (ev.Deal, error) {
	t.rec.Terms, t.rec.Fees, t.rec.Meter = welcome.Terms, welcome.FeeSheet, welcome.MeterKey
	d, err := t.deal(o)
	if err != nil {
		return d, err
	}
	hash, err := d.Terms.Hash()
	switch {
	case err != nil:
		return d, err
	case hash != o.Terms:
		return d, fmt.Errorf("%w: the terms shown are not those of the offer", session.ErrOffer)
	case session.MeterCommit(welcome.MeterSalt, welcome.MeterKey) != o.MeterCommit:
		return d, fmt.Errorf("%w: the meter shown is not the one of the offer", session.ErrOffer)
	case o.Currency != ask.Currency || d.Fee.Currency != ask.Currency:
		return d, fmt.Errorf("%w: it is not in euros", session.ErrOffer)
	case d.Terms.Kind != ev.Metered || d.Terms.Price == ev.CalendarPrice || d.Direct:
		return d, fmt.Errorf("%w: this wallet takes metered sessions at fixed prices", session.ErrOffer)
	}
	return d, nil
}
