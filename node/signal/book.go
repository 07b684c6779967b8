package signal

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	grid "gridveil/ev/signal"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/node/store"
)

// Limits of a book.
const (
	maxHeld    = 64 // registers of one zone: tariffs and publishers are few
	maxHistory = 256
	maxLines   = 32 // sessions whose controls are expected; a wallbox has one
	window     = 8  // next controls of a session that are recognised
	maxRecent  = 32 // set points kept for the count of reversals; four an hour are accepted
)

// Terms of judging that do not depend on the house.
const (
	currencyEUR = 978
	// criticalNotice is how long before it begins a critical peak must be known:
	// plans of parked cars are made anew every quarter hour, people need longer.
	criticalNotice = 2 * time.Hour
)

// Measured is what the home itself knows when it judges.
type Measured struct {
	ClockSure             bool
	HasMHz, HasMV         bool
	MilliHertz, MilliVolt int64
}

// Session is a session whose controls the home expects.
type Session struct {
	Open [32]byte // H(Open)
	Line Line
	// Own says what was offered and must hold, at the moment of judging: envelope,
	// floors, departure. The book fills in what is its own (Now, Open, Recent, ...).
	// It is called without any lock of the book held.
	Own func() grid.Own
}

// Config of a book.
type Config struct {
	Store    *store.Store
	Rand     io.Reader
	Zone     string
	Operator string // whose utility's prices are this home's
	Lo, Hi   int64  // band of believable prices, micro/kWh: the network's policy
}

// Book is what a home made of the signals it was sent. Safe for concurrent use.
type Book struct {
	c Config

	mu      sync.Mutex
	tariff  Tariff
	held    map[gossip.ID]*held // accepted prices and network states
	lines   map[[32]byte]*line
	tags    map[uint64]place // of the controls that are expected
	shift   [32]byte         // secret that shifts the starts of controls, see start
	history []judged         // oldest first
}

// held is an accepted register.
type held struct {
	By      string // role of the publisher
	Key     uint64
	Issued  int64
	Expires int64
	Body    []byte
	Kind    gossip.Kind
	Hash    [32]byte

	body grid.Body
}

// before orders price vectors: day-ahead prices first, then critical peaks, and
// among equals the older first.
func (h *held) before(o *held) int {
	if a, b := h.Key&criticalPeak, o.Key&criticalPeak; a != b {
		return int(a) - int(b)
	}
	return int(h.Issued - o.Issued)
}

// line is a session's control line as it is stored.
type line struct {
	Key    Key
	Next   uint64 // first counter that is not used up
	Recent []grid.Set
	Set    *set `json:",omitempty"`

	own func() grid.Own // nil after a restart, until the session is expected again
}

// set is the accepted set point.
type set struct {
	W, Lo, Hi   int64
	From, To    int64
	Instruction [32]byte
}

type place struct {
	open    [32]byte
	counter uint64
}

// judged is one line of the history.
type judged struct {
	Hash   [32]byte
	Kind   string
	Reason grid.Reason // None: accepted
	At     int64
	Text   string
}

var (
	heldSpace  = store.SpaceMesh.Key([]byte("signal/h"))
	lineSpace  = store.SpaceMesh.Key([]byte("signal/l"))
	historyKey = store.SpaceMesh.Key([]byte("signal/judged"))
	shiftKey   = store.SpaceMesh.Key([]byte("signal/shift"))
	tariffKey  = store.SpaceSettings.Key([]byte("tariff"))
)

func under(space, id []byte) []byte { return append(slices.Clone(space), id...) }

// OpenBook continues where the last run stopped: what was accepted holds until
// its expiry, what was refused stays refused.
func OpenBook(c Config) (*Book, error) {
	b := &Book{c: c, tariff: Flat, held: map[gossip.ID]*held{}, lines: map[[32]byte]*line{}, tags: map[uint64]place{}}
	err := c.Store.View(func(tx *store.Tx) error {
		return errors.Join(b.loadTariff(tx), b.loadHeld(tx), b.loadLines(tx), b.loadHistory(tx))
	})
	if err != nil {
		return nil, fmt.Errorf("stored signals: %w", err)
	}
	return b, b.loadShift()
}

// loadShift draws the home's secret for the starts of controls on the first day.
func (b *Book) loadShift() error {
	v, err := b.c.Store.Get(shiftKey)
	switch {
	case errors.Is(err, store.ErrNotFound):
		if _, err := io.ReadFull(b.c.Rand, b.shift[:]); err != nil {
			return fmt.Errorf("draw shift: %w", err)
		}
		return b.c.Store.Set(shiftKey, b.shift[:])
	case err != nil:
		return fmt.Errorf("stored signals: %w", err)
	case len(v) != len(b.shift):
		return errors.New("stored signals: the secret that shifts controls is damaged")
	}
	b.shift = [32]byte(v)
	return nil
}

func (b *Book) loadTariff(tx *store.Tx) error {
	v, err := tx.Get(tariffKey)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err == nil && len(v) == 2 {
		b.tariff = Tariff(binary.BigEndian.Uint16(v))
	}
	return err
}

func (b *Book) loadHeld(tx *store.Tx) error {
	return tx.Each(heldSpace, func(k, v []byte) error {
		h := new(held)
		err := json.Unmarshal(v, h)
		if err == nil {
			h.body, err = decode(h.Kind, h.Body)
		}
		if err != nil || len(k) != len(heldSpace)+len(gossip.ID{}) {
			return fmt.Errorf("accepted register: %w", err)
		}
		b.held[gossip.ID(k[len(heldSpace):])] = h
		return nil
	})
}

func (b *Book) loadLines(tx *store.Tx) error {
	return tx.Each(lineSpace, func(k, v []byte) error {
		l := new(line)
		if err := json.Unmarshal(v, l); err != nil || len(k) != len(lineSpace)+32 {
			return fmt.Errorf("control line: %w", err)
		}
		b.lines[[32]byte(k[len(lineSpace):])] = l
		return nil
	})
}

func (b *Book) loadHistory(tx *store.Tx) error {
	v, err := tx.Get(historyKey)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(v, &b.history)
}

// SetTariff chooses which of the utility's tariffs is this household's; the
// contract says which. It is durable.
func (b *Book) SetTariff(t Tariff) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.c.Store.Set(tariffKey, store.U16(uint16(t))); err != nil {
		return err
	}
	b.tariff = t
	return nil
}

// Tariff is the household's tariff.
func (b *Book) Tariff() Tariff {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tariff
}

func decode(k gossip.Kind, raw []byte) (grid.Body, error) {
	if k == gossip.KindPrice {
		return grid.DecodePrice(raw)
	}
	return grid.DecodeNetState(raw)
}

// Take judges a price or network state that the mesh has accepted and keeps it if
// it is plausible. mine is false for what does not concern this home: another
// zone, another utility's price. A signal that was judged before is not judged
// again, unless it was refused for a reason that passes with time.
func (b *Book) Take(e gossip.Envelope, from member.Member, m Measured, now time.Time) (v grid.Verdict, mine bool, err error) {
	if !e.InZone(b.c.Zone) || e.Kind == gossip.KindNetState && uint32(e.Key) != stateOfZone || e.Kind == gossip.KindPrice && (from.Role != member.RoleUtility || from.Operator != b.c.Operator) {
		return v, false, nil
	}
	msg, err := decode(e.Kind, e.Body)
	if err != nil {
		return v, false, nil // the network's check has refused and counted it
	}
	h := &held{By: from.Role.String(), Key: e.Key, Issued: e.Issued.UnixMilli(), Expires: e.Expires.UnixMilli(), Body: e.Body, Kind: e.Kind,
		Hash: sha256.Sum256(e.Encode()), body: msg}
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.Kind == gossip.KindPrice && uint32(e.Key)&^criticalPeak != uint32(b.tariff) {
		return v, false, nil
	}
	if r, known := b.verdictOn(h.Hash); known {
		return grid.Verdict{Reason: r}, true, nil
	}
	v = grid.Plausible(msg, b.own(msg, m, now))
	entry := judged{Hash: h.Hash, Kind: e.Kind.String(), Reason: v.Reason, At: now.UnixMilli(), Text: describe(msg)}
	if !v.OK() {
		return v, true, b.record(entry, nil)
	}
	id := e.ID()
	if len(b.held) >= maxHeld && b.held[id] == nil {
		b.drop(now)
		if len(b.held) >= maxHeld {
			return grid.Verdict{Reason: grid.OtherZone}, true, fmt.Errorf("more than %d signals of one zone at once", maxHeld)
		}
	}
	raw, err := json.Marshal(h)
	if err != nil {
		return v, true, err
	}
	if err := b.record(entry, func(tx *store.Tx) error { return tx.Set(under(heldSpace, id[:]), raw) }); err != nil {
		return v, true, err
	}
	b.held[id] = h
	return v, true, nil
}

// passing are reasons that may no longer hold the next time.
func passing(r grid.Reason) bool { return r == grid.ClockUnsure || r == grid.TooEarly }

// verdictOn finds the final verdict on a signal.
func (b *Book) verdictOn(hash [32]byte) (grid.Reason, bool) {
	for i := len(b.history) - 1; i >= 0; i-- {
		if b.history[i].Hash == hash {
			return b.history[i].Reason, !passing(b.history[i].Reason)
		}
	}
	for _, h := range b.held {
		if h.Hash == hash {
			return grid.None, true
		}
	}
	return 0, false
}

// own is what the book knows for judging msg.
func (b *Book) own(msg grid.Body, m Measured, now time.Time) grid.Own {
	o := grid.Own{Now: now.UnixMilli(), ClockSure: m.ClockSure, Zone: ZoneNumber(b.c.Zone), Currency: currencyEUR, PriceLo: b.c.Lo, PriceHi: b.c.Hi,
		NoticeMS: criticalNotice.Milliseconds(), HasMHz: m.HasMHz, MilliHertz: m.MilliHertz, HasMV: m.HasMV, MilliVolt: m.MilliVolt}
	if p, ok := msg.(*grid.Price); ok && p.Kind != grid.CriticalPeak {
		var known []*held
		for _, h := range b.held {
			if q, ok := h.body.(*grid.Price); ok && q.Kind != grid.CriticalPeak && b.current(h, now) {
				known = append(known, h)
			}
		}
		slices.SortFunc(known, func(a, b *held) int { return a.before(b) })
		o.LastPrice, _, o.HasLast = priceAt(known, p.From-1)
	}
	return o
}

// current says whether an accepted register still holds.
func (b *Book) current(h *held, now time.Time) bool {
	if h.Kind == gossip.KindPrice && uint32(h.Key)&^criticalPeak != uint32(b.tariff) {
		return false
	}
	return now.UnixMilli() < h.Expires
}

// record makes a verdict durable together with what it changes. The caller holds
// mu.
func (b *Book) record(j judged, more func(*store.Tx) error) error {
	next := append(slices.Clone(b.history), j)
	next = next[max(0, len(next)-maxHistory):]
	raw, err := json.Marshal(next)
	if err != nil {
		return err
	}
	err = b.c.Store.Update(func(tx *store.Tx) error {
		if more != nil {
			if err := more(tx); err != nil {
				return err
			}
		}
		return tx.Set(historyKey, raw)
	})
	if err != nil {
		return fmt.Errorf("keep judged signal: %w", err)
	}
	b.history = next
	return nil
}

// Sweep forgets what has expired.
func (b *Book) Sweep(now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	gone := b.drop(now)
	if len(gone) == 0 {
		return nil
	}
	return b.c.Store.Update(func(tx *store.Tx) error {
		for _, id := range gone {
			if err := tx.Delete(under(heldSpace, id[:])); err != nil {
				return err
			}
		}
		return nil
	})
}

// drop forgets expired registers in memory and names them.
func (b *Book) drop(now time.Time) (gone []gossip.ID) {
	for id, h := range b.held {
		if now.UnixMilli() >= h.Expires {
			delete(b.held, id)
			gone = append(gone, id)
		}
	}
	return gone
}

// describe says in a few words what a signal asks for.
func describe(msg grid.Body) string {
	switch m := msg.(type) {
	case *grid.Price:
		lo, hi := slices.Min(m.Prices), slices.Max(m.Prices)
		what := "prices"
		if m.Kind == grid.CriticalPeak {
			what = "critical peak"
		}
		return fmt.Sprintf("%s of %d steps from %s: %.3f to %.3f per kWh", what, len(m.Prices), utc(m.From).Format(time.RFC3339), float64(lo)/1e6, float64(hi)/1e6)
	case *grid.NetState:
		return fmt.Sprintf("import %s, export %s, until %s", watts(m.ImportMaxW), watts(m.ExportMaxW), utc(m.To).Format(time.RFC3339))
	case *grid.Control:
		return fmt.Sprintf("%s at %d W from %s to %s", kindTexts[m.Kind], m.SetW, utc(m.From).Format(time.RFC3339), utc(m.To).Format(time.RFC3339))
	}
	return ""
}

var kindTexts = map[grid.ControlKind]string{grid.Level: "charge", grid.Stop: "stop", grid.Discharge: "discharge", grid.Release: "release"}

func watts(w int64) string {
	if w >= Unlimited {
		return "free"
	}
	return fmt.Sprintf("at most %d W", w)
}
