package gateway

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gridveil/ev"
	"gridveil/ev/guest"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/session"
)

// visitID names a visit in the house's own store and pages.
type visitID [8]byte

// MarshalText writes the id in hexadecimal.
func (id visitID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText is the inverse of MarshalText.
func (id *visitID) UnmarshalText(b []byte) error {
	if len(b) != 2*len(id) {
		return fmt.Errorf("visit id of %d characters", len(b))
	}
	_, err := hex.Decode(id[:], b)
	return err
}

// visit is one car at the wallbox: its ev.Session, the protocol side if a guest
// pays, and what the page shows.
type visit struct {
	rec  record
	s    ev.Session
	host *session.Host // nil unless a guest opened an offer
	line *guestLine    // the wallet's connection, nil while it is away
	// asked is the connection on which the driver was last asked to sign offers.
	asked *guestLine
	// readings are those of the running transaction, for the running bill; the
	// final one folds the stored events anew.
	readings []ev.Reading
	heard    time.Time // when the wallbox last told the car's power
	// away says that the mask holds the car's limit away from its plan, planned when
	// that was last decided, leftAlone until when the mask may not.
	away               bool
	planned, leftAlone time.Time
	// closes caches when intake ends, for the events heard until then.
	closes struct {
		heard int64
		at    time.Time
	}
}

// record is what is stored of a visit.
type record struct {
	ID      visitID
	Station string
	Begun   int64 // UTC ms: car plugged or offer opened
	Session json.RawMessage
	Host    []byte `json:",omitempty"` // session.Host's own state

	Agreed  *agreed `json:",omitempty"` // with a guest
	Want    want
	Lots    ev.Lots   // home battery when the transaction began
	LotsAt  int64     // and when that was
	Heard   int64     // arrival of the newest event of the transaction
	Ticked  ev.Energy // newest Tick that the driver was sent
	Lock    lockState
	Flex    *flexState `json:",omitempty"` // once something was offered to the pool
	Mail    []byte     `json:",omitempty"` // where the driver's receipt may be left
	Mailed  [][]byte   `json:",omitempty"` // ids in the mailbag, once it was put there
	Outcome outcome
	Steps   []step
	Moves   moves // of the mask
}

// agreed is what both sides signed before the first Wh, and what opens it.
type agreed struct {
	Terms     []byte
	FeeSheet  []byte
	MeterSalt [32]byte
	Salt      [32]byte // of the evidence
	Grid      int64
	Res       int64
	Out       int64
	Discharge bool
	Expires   int64
}

// want is what the driver would like: energy into the car, and what the house may
// take out of it.
type want struct {
	guest.Need
	Give     int64 // mWh
	GiveFrom int64 // UTC ms, 0 for at once
	OnCall   bool  // only when the grid operator asks for it
}

// gives says whether the house may take energy out of the car at a moment, UTC ms.
func (w want) gives(at int64) bool { return w.Give > 0 && at >= w.GiveFrom }

// lockState is the notes behind what the house may come to owe.
type lockState struct {
	Op    uint64 // of the purse
	Value int64  // millionths
	Asked int64  // UTC ms when change was asked for, 0 for never
	Over  bool   // the notes are paid, or came back
	Back  bool   `json:",omitempty"` // nothing was settled: the lock is asked back whole
}

// outcome is the bill and what became of it.
type outcome struct {
	Bill      *ev.Bill `json:",omitempty"`
	Records   [][]byte `json:",omitempty"` // OCMF, as the wallbox sent them
	Problem   string   `json:",omitempty"` // why nothing is billed
	Collected bool
	Issue     uint64 `json:",omitempty"`
}

// step is one line of the visit's story.
type step struct {
	At   int64
	Kind string // session or refused
	Text string
}

// maxSteps bounds the story; one session has about a dozen.
const maxSteps = 64

func (v *visit) note(now time.Time, text string) { v.tell(now, "session", text) }

func (v *visit) tell(now time.Time, kind, text string) {
	if n := len(v.rec.Steps); n > 0 && v.rec.Steps[n-1].Text == text || n >= maxSteps {
		return
	}
	v.rec.Steps = append(v.rec.Steps, step{now.UnixMilli(), kind, text})
}

// opening says whether the visit waits for the aggregator's word.
func (v *visit) opening() bool { return v.s.State == ev.Opened && v.s.Until != 0 }

// open says whether anything can still happen.
func (v *visit) open() bool { return !v.s.State.Final() }

// name is what pages call the visit: a short form of H(Open), or of its own id.
func (v *visit) name() string {
	if v.host != nil {
		id := v.host.Session()
		return short(id[:])
	}
	return short(v.rec.ID[:])
}

var visitSpace = store.SpaceSession.Key([]byte("v"))

func visitKey(id visitID) []byte {
	return append(visitSpace[:len(visitSpace):len(visitSpace)], id[:]...)
}

// write stages the visit.
func (v *visit) write(tx *store.Tx) error {
	v.rec.Session = v.s.Encode()
	b, err := json.Marshal(v.rec)
	if err != nil {
		return err
	}
	return tx.Set(visitKey(v.rec.ID), b)
}

// blank is a visit that nobody has begun.
func (h *hosting) blank(plugged bool) *visit {
	v := &visit{rec: record{Station: h.station}}
	if plugged {
		v.s.State, v.s.Plugged = ev.Plugged, true
	}
	return v
}

// name gives a blank visit its identity, once. The caller holds mu.
func (h *hosting) begin(v *visit, now time.Time) error {
	if v.rec.Begun != 0 {
		return nil
	}
	if _, err := h.env.Rand.Read(v.rec.ID[:]); err != nil {
		return fmt.Errorf("draw visit id: %w", err)
	}
	v.rec.Begun, v.rec.Station = now.UnixMilli(), h.station
	h.visits[v.rec.ID] = v
	return nil
}

// Visits are kept as long as a session can be contested and its late record be
// settled; then all that this home knows of a session goes. One that is not settled
// or not paid is kept until purse.SessionEnds.
const (
	sweepPeriod = 24 * time.Hour
	visitKeep   = session.LateFor + 14*24*time.Hour
	maxVisits   = 2000
)

// loadVisits continues where the last run stopped.
func (h *hosting) loadVisits() error {
	h.current = h.blank(false)
	now := h.env.Clock.Now()
	err := h.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(visitSpace, func(_, b []byte) error {
			v := &visit{}
			if err := json.Unmarshal(b, &v.rec); err != nil {
				return fmt.Errorf("stored session: %w", err)
			}
			var err error
			if v.s, err = ev.DecodeSession(v.rec.Session); err != nil {
				return err
			}
			h.visits[v.rec.ID] = v
			if v.s.State < ev.EndedState {
				h.current = v
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	if err := h.forgetOld(now); err != nil {
		return err
	}
	for _, v := range h.visits {
		if err := h.wakeVisit(v, now); err != nil {
			return err
		}
	}
	return nil
}

// wakeVisit restores the parts of a visit that are not stored as such, and
// repeats what a crash may have cut short.
func (h *hosting) wakeVisit(v *visit, now time.Time) error {
	if v.rec.Host != nil {
		host, err := session.LoadHost(h.hostConfig(&v.rec), v.rec.Host)
		if err != nil {
			return fmt.Errorf("stored session %s: %w", v.name(), err)
		}
		v.host = host
	}
	if v.s.TransactionID != "" && v.s.State < ev.EndedState {
		evs, err := h.events(v.rec.Station, v.s.TransactionID)
		if err != nil {
			return err
		}
		v.readings = ev.Fold(evs).Readings
	}
	if !v.open() {
		return nil
	}
	t := h.turn(v, now)
	if v.host != nil {
		for _, s := range v.host.Outbox() {
			if !v.rec.Lock.Back { // whose lock went back settles no more
				t.toAggregator(s.Msg)
			}
		}
	}
	for _, o := range ev.Outstanding(v.s) {
		t.output(o)
	}
	if v.s.State == ev.Receipted && !h.purse.Pending(v.claim()) {
		t.session(ev.PaidOut{})
	}
	return t.commit()
}

// claim is the visit's name in the purse.
func (v *visit) claim() string { return hex.EncodeToString(v.rec.ID[:]) }

func (h *hosting) byClaim(name string) (*visit, bool) {
	var id visitID
	if id.UnmarshalText([]byte(name)) != nil {
		return nil, false
	}
	v, ok := h.visits[id]
	return v, ok
}

// hostConfig is what the protocol side knows besides its stored state. With the
// aggregator unknown the keys are zero and nothing of it verifies.
func (h *hosting) hostConfig(r *record) session.HostConfig {
	c := session.HostConfig{Net: h.env.Net, Suite: privacy.SuiteX25519, Issuers: h.ops.Issuers()}
	if agg, err := h.ops.Aggregator(); err == nil {
		c.EVAGG, c.EVAGGKey = agg.ID, agg.Record
	}
	hosting := h.env.Config.Hosting
	if hosting.OfflineGuest == "trust" {
		c.TrustLimit = uint16(hosting.TrustLimit / 1_000_000)
	}
	c.Shown = r.Flex != nil && r.Flex.Followed
	if r.Agreed != nil {
		t, err := ev.DecodeTerms(r.Agreed.Terms)
		c.Unattended = err == nil && t.Unattended
	}
	return c
}

// reload brings a visit back to what is stored, after a failed update.
func (h *hosting) reload(v *visit) error {
	b, err := h.env.Store.Get(visitKey(v.rec.ID))
	if errors.Is(err, store.ErrNotFound) {
		delete(h.visits, v.rec.ID)
		if h.current == v {
			h.current = h.blank(v.s.Plugged)
		}
		return nil
	}
	if err != nil {
		return err
	}
	fresh := record{}
	if err := json.Unmarshal(b, &fresh); err != nil {
		return err
	}
	s, err := ev.DecodeSession(fresh.Session)
	if err != nil {
		return err
	}
	var host *session.Host
	if fresh.Host != nil {
		if host, err = session.LoadHost(h.hostConfig(&fresh), fresh.Host); err != nil {
			return err
		}
	}
	v.rec, v.s, v.host = fresh, s, host
	return nil
}
