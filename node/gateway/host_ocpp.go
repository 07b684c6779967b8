package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"gridveil/ev"
	"gridveil/ev/guest"
	"gridveil/ev/ocpp"
	"gridveil/node/clock"
	"gridveil/node/role"
	"gridveil/node/store"
)

// evse is the outlet of a home wallbox: it has one.
const evse = 1

// passwordFile is where a wallbox's password is kept when the configuration
// names no file.
const passwordFile = "evse.password"

// stations keeps the wallboxes in the store; the configured one's password is in
// a file, where its owner can read it.
type stations struct{ env *role.Env }

func stationKey(id string) []byte {
	return store.SpaceSettings.Key([]byte("evse"), []byte{0}, []byte(id))
}

// LoadStations reads what was accepted before, and the configured station if its
// password is known.
func (s stations) LoadStations() (out []ocpp.Record, err error) {
	err = s.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceSettings.Key([]byte("evse"), []byte{0}), func(_, v []byte) error {
			var r ocpp.Record
			if err := json.Unmarshal(v, &r); err != nil {
				return fmt.Errorf("stored wallbox: %w", err)
			}
			out = append(out, r)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(passwordPath(s.env))
	if errors.Is(err, os.ErrNotExist) || s.env.Config.EVSE.Station == "" {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("evse.password_file: %w", err)
	}
	r := ocpp.Record{ID: s.env.Config.EVSE.Station, Standing: ocpp.Accepted}
	for _, known := range out {
		if known.ID == r.ID {
			r.Vendor, r.Model, r.Phases = known.Vendor, known.Model, known.Phases
		}
	}
	password := bytes.TrimSpace(text)
	if raw, err := hex.DecodeString(string(password)); err == nil && len(password) == 40 {
		password = raw
	}
	rand.Read(r.Salt[:]) // never fails
	r.Hash = sha256.Sum256(append(r.Salt[:len(r.Salt):len(r.Salt)], password...))
	out = slices.DeleteFunc(out, func(known ocpp.Record) bool { return known.ID == r.ID })
	return append(out, r), nil
}

// SaveStation keeps a wallbox.
func (s stations) SaveStation(r ocpp.Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return s.env.Store.Set(stationKey(r.ID), b)
}

func passwordPath(env *role.Env) string {
	name := env.Config.EVSE.PasswordFile
	if name == "" {
		name = passwordFile
	}
	return env.Config.Path(name)
}

// lookEvery is how often waiting wallboxes are looked for; they retry slowly, so
// a second matters to the person who stands beside one. Wall time.
const lookEvery = 300 * time.Millisecond

// acceptOwn accepts the configured wallbox when it first connects and shows the
// others to the owner.
func (h *hosting) acceptOwn(ctx context.Context) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		waiting := 0
		for _, s := range h.srv.List() {
			if s.Standing != ocpp.Pending || !s.Online {
				continue
			}
			if s.ID != h.env.Config.EVSE.Station {
				waiting++
				continue
			}
			if _, err := h.accept(ctx, s.ID); err != nil {
				h.env.Log.Warn("configured wallbox not accepted", "err", err)
			}
		}
		h.env.Warn.Set(waiting > 0, role.Warning{Code: "wallbox-waiting", Severity: role.Notice, Title: "A wallbox asks to be connected",
			Text: fmt.Sprintf("%d wallboxes that are not known here have connected. None of them may charge.", waiting),
			Next: "If one is yours, accept it with `gridveil evse accept ID`; otherwise look for its configuration."}, h.env.Clock.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}

// accept admits a wallbox and leaves its password where the owner finds it.
func (h *hosting) accept(ctx context.Context, id string) (password string, err error) {
	password, err = h.srv.Accept(ctx, id)
	if err != nil {
		return "", err
	}
	if id == h.env.Config.EVSE.Station {
		err = os.WriteFile(passwordPath(h.env), []byte(password+"\n"), 0o600)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.station == "" {
		h.station = id
	}
	return password, err
}

// authorize allows the codes of visits and the owner's cards.
func (h *hosting) authorize(_, token string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.visits {
		if v.s.Code == token && token != "" && v.open() {
			return true
		}
	}
	return token != "" && h.hasCard(token)
}

// needs takes what a car says about its plans; it never leaves the house.
func (h *hosting) needs(_ string, n ocpp.Needs) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := &h.current.rec.Want; w.Want == 0 && w.Departure == 0 {
		w.Need = guest.Need{Want: n.EnergyMWh, Departure: n.Departure}
	}
}

// eventKey names an event by its transaction and its bytes: the same event twice
// is one.
func eventKey(station string, e ev.Event) []byte {
	raw := sha256.Sum256(append([]byte{byte(e.Kind)}, e.Raw...))
	if len(e.Raw) == 0 {
		e.Received = 0
		b, _ := json.Marshal(e) // plain fields
		raw = sha256.Sum256(b)
	}
	return append(eventSpace(station, e.TransactionID), raw[:16]...)
}

var eventsSpace = store.SpaceSession.Key([]byte("e"))

func eventSpace(station, transaction string) []byte {
	sum := sha256.Sum256([]byte(station + "\x00" + transaction))
	return append(eventsSpace[:len(eventsSpace):len(eventsSpace)], sum[:16]...)
}

// events loads everything that was stored about a transaction.
func (h *hosting) events(station, transaction string) (out []ev.Event, err error) {
	err = h.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(eventSpace(station, transaction), func(_, v []byte) error {
			var e ev.Event
			if err := json.Unmarshal(v, &e); err != nil {
				return fmt.Errorf("stored event: %w", err)
			}
			out = append(out, e)
			return nil
		})
	})
	return ev.Thin(out, intervalMS), err
}

// ingest makes an event durable with everything that it changes; the wallbox is
// answered after it returns.
func (h *hosting) ingest(_ context.Context, station string, e ev.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.env.Clock.Now()
	e.Received = now.UnixMilli()
	v := h.visitOf(station, e)
	t := h.turn(v, now)
	if e.TransactionID != "" && e.Kind != ev.Status {
		b, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("encode event: %w", err)
		}
		t.writes = append(t.writes, func(tx *store.Tx) error { return tx.Set(eventKey(station, e), b) })
	}
	if v == nil {
		return t.commit() // kept as unmatched: a wallbox repeats or drops what is refused
	}
	if e.Kind == ev.Started || v.s.State == ev.Starting {
		if err := h.begin(v, now); err != nil {
			return err
		}
	}
	before := v.s.State
	t.session(e)
	if e.Kind == ev.Status && v.s.State == ev.Opened && v.s.Band > 0 && e.State != "Available" {
		t.session(ev.Authorised{Band: v.s.Band, Trusted: v.s.Offline}) // the car has come, or is plugged in anew
	}
	if !before.Running() && v.s.State.Running() {
		h.pinLots(v)
	}
	if v.s.TransactionID == e.TransactionID && e.TransactionID != "" {
		v.rec.Heard = now.UnixMilli()
		v.merge(e)
		if len(e.Samples) > 0 {
			v.heard = now
		}
	}
	if v.s.State.Running() && len(e.Samples) > 0 {
		h.progress(t)
	}
	if err := t.commit(); err != nil {
		return err
	}
	h.follow(v, before)
	return nil
}

// visitOf finds whom an event concerns: the visit of its transaction, else the
// car that is at the wallbox.
func (h *hosting) visitOf(station string, e ev.Event) *visit {
	if h.station == "" {
		h.station = station
	}
	if e.TransactionID != "" {
		for _, v := range h.visits {
			if v.rec.Station == station && v.s.TransactionID == e.TransactionID {
				return v
			}
		}
	}
	if station != h.station {
		return nil
	}
	return h.current
}

// merge adds an event's readings to those of the running bill.
func (v *visit) merge(e ev.Event) {
	for _, r := range ev.Fold([]ev.Event{e}).Readings {
		i, found := slices.BinarySearchFunc(v.readings, r.At, func(x ev.Reading, at int64) int { return int(x.At - at) })
		if found {
			v.readings[i] = r
			continue
		}
		v.readings = slices.Insert(v.readings, i, r)
	}
}

// follow makes room at the wallbox when a transaction is over, and lets the
// owner's car charge where no guests are hosted.
func (h *hosting) follow(v *visit, before ev.State) {
	if v == h.current && v.s.State >= ev.EndedState {
		h.current = h.blank(v.s.Plugged)
		h.mask.setCar(carPlan{why: carNoCar})
	}
	if v == h.current && before == ev.Idle && v.s.State == ev.Plugged && h.door == nil {
		if err := h.startOwn(h.env.Clock.Now(), false); err != nil {
			h.env.Log.Warn("own car not started", "err", err)
		}
	}
}

// ownPrefix begins the codes of own and gift sessions; they never leave the house.
const ownPrefix = "OWN-"

// startOwn starts a transaction at the house's cost. The caller holds mu.
func (h *hosting) startOwn(now time.Time, gift bool) error {
	v := h.current
	if v.s.State.Running() || v.s.State == ev.Starting || v.s.Payer == ev.Guest && v.s.State == ev.Opened {
		return errors.New("a session is under way at this wallbox: stop it first")
	}
	if err := h.begin(v, now); err != nil {
		return err
	}
	var code [6]byte
	if _, err := h.env.Rand.Read(code[:]); err != nil {
		return fmt.Errorf("draw code: %w", err)
	}
	t := h.turn(v, now)
	t.session(ev.StartOwn{Code: ownPrefix + strings.ToUpper(hex.EncodeToString(code[:])), Gift: gift})
	return t.commit()
}

// orderKind says what the wallbox is told.
type orderKind int

const (
	orderStart orderKind = iota
	orderStop
	orderPower
)

// order waits for the wallbox.
type order struct {
	visit       visitID
	kind        orderKind
	code        string
	transaction string
	watts       int64
	moved       bool      // by the mask, away from the plan
	since       time.Time // it is wanted
	notBefore   time.Time
}

// again is when a failed order is tried next; a start is repeated by the machine
// as well.
const again = 10 * time.Second

// firstLimit is how long the limit before a transaction holds; the first reading
// brings the next.
const firstLimit = 10 * time.Minute

// addOrder queues an order in the place of an older one of its kind. The caller
// holds mu.
func (h *hosting) addOrder(o order) {
	h.orders = slices.DeleteFunc(h.orders, func(x order) bool { return x.visit == o.visit && x.kind == o.kind })
	o.since = h.env.Clock.Now()
	h.orders = append(h.orders, o)
	poke(h.command)
}

// wanted says whether an order still makes sense. The caller holds mu.
func (h *hosting) wanted(o order) bool {
	v := h.visits[o.visit]
	if v == nil {
		return false
	}
	switch o.kind {
	case orderStart:
		return v.s.State == ev.Starting && !v.s.StopFirst && v.s.Code == o.code
	case orderStop:
		return v.s.TransactionID == o.transaction && (v.s.State.Running() || v.s.State == ev.Starting)
	}
	return v.s.State.Running() && v.s.CommandW == o.watts
}

// serveOrders tells the wallbox what to do, one order after the other.
func (h *hosting) serveOrders(ctx context.Context) error {
	for {
		o, pause, ok := h.nextOrder()
		if ok {
			h.answered(o, h.carryOut(ctx, o))
			if ctx.Err() != nil {
				return nil
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.command:
		case <-h.env.Clock.After(pause):
		}
	}
}

// ordered waits until no order is due: a simulated house on an accelerated clock
// takes its next minute only then. A wallbox that does not answer is not waited for.
func (h *hosting) ordered(ctx context.Context) {
	for until := time.Now().Add(machineTime); h.ordering() && time.Now().Before(until); {
		if !clock.Sleep(ctx, clock.Wall{}, time.Millisecond) {
			return
		}
	}
}

func (h *hosting) ordering() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.env.Clock.Now()
	return slices.ContainsFunc(h.orders, func(o order) bool { return h.wanted(o) && !o.notBefore.After(now) })
}

// nextOrder takes the oldest order that is due.
func (h *hosting) nextOrder() (o order, pause time.Duration, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.env.Clock.Now()
	h.orders = slices.DeleteFunc(h.orders, func(o order) bool { return !h.wanted(o) })
	pause = longestPause
	for _, o := range h.orders {
		if !o.notBefore.After(now) {
			return o, 0, true
		}
		pause = min(pause, o.notBefore.Sub(now))
	}
	h.hold(now)
	return order{}, pause, false
}

// carryOut sends one order. It takes as long as the wallbox takes.
func (h *hosting) carryOut(ctx context.Context, o order) error {
	h.mu.Lock()
	v := h.visits[o.visit]
	station := v.rec.Station
	h.mu.Unlock()
	st, ok := h.srv.Station(station)
	if !ok {
		return ocpp.ErrOffline
	}
	switch o.kind {
	case orderStart:
		// The plan's power holds from the first second; a wallbox that takes no
		// limit before a transaction begins with its default for a minute.
		if err := st.Limit(ctx, evse, o.watts, h.env.Clock.Now().Add(firstLimit)); err != nil {
			h.env.Log.Debug("wallbox takes no limit before the start", "err", err)
		}
		return st.Start(ctx, evse, o.code)
	case orderStop:
		return st.Stop(ctx, o.transaction)
	}
	if o.watts < 0 {
		return st.Setpoint(ctx, evse, o.watts)
	}
	h.mu.Lock()
	was := h.discharging
	h.mu.Unlock()
	if was {
		if err := st.Setpoint(ctx, evse, 0); err != nil {
			return err
		}
	}
	return st.Limit(ctx, evse, o.watts, time.Time{})
}

// answered takes the outcome of an order.
func (h *hosting) answered(o order, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.Index(h.orders, o)
	if i < 0 {
		return // replaced meanwhile
	}
	var refused *ocpp.RefusedError
	switch {
	case err == nil:
		if o.kind == orderPower {
			h.discharging = o.watts < 0
			h.tookLimit(o)
		}
		h.orders = slices.Delete(h.orders, i, i+1)
	case errors.As(err, &refused) && o.kind == orderPower && o.watts < 0:
		h.v2x = false // it cannot discharge; the next plan knows
		h.orders = slices.Delete(h.orders, i, i+1)
	default:
		h.orders[i].notBefore = h.env.Clock.Now().Add(again)
	}
	h.hold(h.env.Clock.Now())
}
