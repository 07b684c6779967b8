package gateway

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"gridveil/ev"
	"gridveil/ev/guest"
	"gridveil/mesh"
	"gridveil/node/ask"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/leak"
	"gridveil/privacy/note"
	"gridveil/privacy/pseudo"
	"gridveil/privacy/session"
)

// passes are the house's rights to host, by week, fetched ahead so that guests
// can be hosted without network.
type passes struct {
	seed  [32]byte
	weeks map[uint32]*passWeek
}

// passWeek is one week's passes. Key, claim and request are durable before the
// request leaves; Used before an offer does.
type passWeek struct {
	Week   uint32
	Key    []byte // ask.WeekKey
	Claim  [32]byte
	Answer []byte // note.PassSlots, nil until it came
	Used   int    // passes given away, in order
	passes []note.Pass
	fees   ev.FeeSheet
}

var (
	passSeedKey = store.SpaceSession.Key([]byte("pass-seed"))
	passSpace   = store.SpaceSession.Key([]byte("pass"), []byte{0})
)

func passKey(week uint32) []byte {
	return binary.BigEndian.AppendUint32(passSpace[:len(passSpace):len(passSpace)], week)
}

func (h *hosting) loadPasses() (err error) {
	h.passes.weeks = map[uint32]*passWeek{}
	if h.passes.seed, err = secret(h.env, passSeedKey); err != nil {
		return fmt.Errorf("host passes: %w", err)
	}
	return h.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(passSpace, func(_, v []byte) error {
			w := new(passWeek)
			if err := json.Unmarshal(v, w); err != nil {
				return fmt.Errorf("stored host passes: %w", err)
			}
			if err := w.open(h.passes.seed); err != nil {
				return err
			}
			h.passes.weeks[w.Week] = w
			return nil
		})
	})
}

// open unblinds the passes, once their answer is there.
func (w *passWeek) open(seed [32]byte) error {
	key, err := ask.ParseWeekKey(w.Key)
	if err != nil {
		return fmt.Errorf("host passes: %w", err)
	}
	w.fees = key.Fees
	if w.Answer == nil {
		return nil
	}
	pub, err := note.ParseKey(privacy.UsePass, key.Modulus[:])
	if err != nil {
		return fmt.Errorf("host passes: %w", err)
	}
	slots, err := note.ParsePassSlots(w.Answer)
	if err != nil {
		return fmt.Errorf("host passes: %w", err)
	}
	w.passes, err = note.FinishPasses(seed, pub, slots)
	return err
}

func (w *passWeek) write(tx *store.Tx) error {
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return tx.Set(passKey(w.Week), b)
}

// Times of fetching passes: the present week's at once, the next one's at a
// random time of the last three days, so that houses do not all ask at once.
const (
	ahead     = 72 * time.Hour
	passRetry = 2 * time.Minute
	passLook  = time.Hour
)

// servePasses keeps passes of this week and the next until ctx ends.
func (h *hosting) servePasses(ctx context.Context) error {
	for {
		pause := passLook
		now := h.env.Clock.Now()
		week := pseudo.Week(now)
		wanted := []uint32{week}
		if from := weekStart(week + 1); from.Sub(now) < h.aheadOf(week+1) {
			wanted = append(wanted, week+1)
		}
		for _, w := range wanted {
			err := h.fetchPasses(ctx, w)
			h.warnPasses(w == week && err != nil && !h.canHost(w))
			if err != nil {
				pause = min(pause, ask.Again(err, passRetry))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.env.Clock.After(pause):
		}
	}
}

func weekStart(week uint32) time.Time {
	return time.Date(1970, 1, 5, 0, 0, 0, 0, time.UTC).Add(time.Duration(week) * 7 * 24 * time.Hour)
}

// aheadOf is how long before a week its passes are fetched: random by house and
// week, and the same after a restart.
func (h *hosting) aheadOf(week uint32) time.Duration {
	var b [8]byte
	r := privacy.SeededReader("gridveil-pass-time", h.passes.seed[:], binary.BigEndian.AppendUint32(nil, week))
	_, _ = io.ReadFull(r, b[:]) // SHAKE never fails
	return time.Duration(binary.BigEndian.Uint64(b[:]) % uint64(ahead))
}

func (h *hosting) canHost(week uint32) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.passes.weeks[week]
	return w != nil && w.Used < len(w.passes)
}

func (h *hosting) warnPasses(none bool) {
	h.env.Warn.Set(none, role.Warning{Code: "no-host-passes", Severity: role.Notice, Title: "No guests can be hosted yet",
		Text: "The passes for this week could not be fetched from the aggregator. The own car charges as ever.",
		Next: "Nothing to do: it is tried again every few minutes.", After: 10 * time.Minute}, h.env.Clock.Now())
}

// fetchPasses gets a week's key and passes; having them is fine.
func (h *hosting) fetchPasses(ctx context.Context, week uint32) error {
	h.mu.Lock()
	w := h.passes.weeks[week]
	done := w != nil && w.Answer != nil
	h.mu.Unlock()
	if done {
		return nil
	}
	agg, err := h.ops.Aggregator()
	if err != nil {
		return err
	}
	zone := h.env.ID.Member.Zone
	if w == nil {
		b, err := h.ops.Ask(ctx, agg.Key, mesh.Pass, ask.PassKey, ask.WeekBody(week, zone))
		if err != nil {
			return err
		}
		if w, err = h.newWeek(week, b); err != nil {
			return err
		}
	}
	key, err := ask.ParseWeekKey(w.Key)
	if err != nil {
		return err
	}
	pub, err := note.ParseKey(privacy.UsePass, key.Modulus[:])
	if err != nil {
		return err
	}
	slots, err := note.RequestPasses(h.passes.seed, pub)
	if err != nil {
		return err
	}
	body := ask.PassRequest{Week: week, Claim: w.Claim, Zone: zone, Slots: slots}.Bytes()
	if err := h.env.Store.Update(h.left(leak.PassRequest, leak.Aggregator, w.Claim, len(body))); err != nil {
		return err
	}
	answer, err := h.ops.Ask(ctx, agg.Key, mesh.Pass, ask.Passes, body)
	if err != nil {
		return err
	}
	return h.keepPasses(w, answer)
}

// newWeek makes key and claim of a week durable.
func (h *hosting) newWeek(week uint32, key []byte) (*passWeek, error) {
	k, err := ask.ParseWeekKey(key)
	if err != nil {
		return nil, err
	}
	if k.Week != week || k.Fees.Currency != ask.Currency {
		return nil, fmt.Errorf("the aggregator named week %d instead of %d", k.Week, week)
	}
	w := &passWeek{Week: week, Key: key, fees: k.Fees}
	if _, err := io.ReadFull(h.env.Rand, w.Claim[:]); err != nil {
		return nil, fmt.Errorf("draw claim: %w", err)
	}
	if err := h.env.Store.Update(w.write); err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.passes.weeks[week] = w
	h.mu.Unlock()
	return w, nil
}

func (h *hosting) keepPasses(w *passWeek, answer []byte) error {
	fresh := &passWeek{Week: w.Week, Key: w.Key, Claim: w.Claim, Answer: answer}
	if err := fresh.open(h.passes.seed); err != nil {
		return err
	}
	if err := h.env.Store.Update(fresh.write); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.passes.weeks[w.Week] = fresh
	for old := range h.passes.weeks {
		if old+10 < w.Week {
			delete(h.passes.weeks, old)
		}
	}
	return nil
}

// standing is an offer that nobody has opened yet. Until it expires it is shown
// to every wallet that comes: who looks and leaves costs no pass.
type standing struct {
	host    *session.Host
	agreed  agreed
	offer   []byte
	welcome guest.Message
	give    bool
}

const (
	offerLife  = 50 * time.Minute // below session.MaxOfferAge
	offerSpare = 5 * time.Minute  // an offer is not shown any more that shortly before its end
	maxOffers  = 8
)

// Reasons why no offer is made, for the guest's wallet.
var (
	errNoMeter  = errors.New("the wallbox of this house signs nothing, so charging is a gift of the host")
	errNoPass   = errors.New("this house cannot take paying guests now: ask the host, or try again in some minutes")
	errOccupied = errors.New("another car is being charged here: wait until it has left")
)

// offer gives an offer that fits the wish. The caller holds mu.
func (h *hosting) offer(now time.Time, give bool) (*standing, error) {
	if h.key.IsZero() {
		return nil, errNoMeter
	}
	give = give && h.v2x
	for _, s := range h.offers {
		if s.give == give && time.Unix(int64(s.host.Offer().Expires), 0).Sub(now) > offerSpare {
			return s, nil
		}
	}
	w := h.passes.weeks[pseudo.Week(now)]
	if w == nil || w.Used >= len(w.passes) {
		return nil, errNoPass
	}
	if _, err := h.ops.Aggregator(); err != nil {
		return nil, errNoPass
	}
	pass := w.passes[w.Used]
	w.Used++
	if err := h.env.Store.Update(w.write); err != nil {
		w.Used--
		return nil, fmt.Errorf("offer: %w", err)
	}
	s, err := h.newOffer(now, pass, w.fees, give)
	if err != nil {
		return nil, err
	}
	h.offers = append(h.offers, s)
	if len(h.offers) > maxOffers {
		h.offers = h.offers[1:]
	}
	return s, nil
}

// expireOffers forgets offers that can no longer be opened.
func (h *hosting) expireOffers(now time.Time) {
	h.offers = slices.DeleteFunc(h.offers, func(s *standing) bool { return now.After(time.Unix(int64(s.host.Offer().Expires), 0)) })
}

// terms are what the house offers everybody.
func (h *hosting) terms(fees ev.FeeSheet) (ev.Terms, error) {
	c := h.env.Config.Hosting
	sheet, err := fees.Hash()
	t := ev.Terms{Policy: h.policy(), Price: ev.PerSource, PExport: c.PExport, FeeSheet: sheet, Unattended: c.OnCut == "unattended"}
	if c.PRes == c.PGrid && c.POut == c.PExport {
		t.Price = ev.SinglePrice
	}
	return t, err
}

// ownDeal prices the house's own and gift sessions for the page: nobody pays it.
func (h *hosting) ownDeal() (ev.Deal, error) {
	fees := ev.FeeSheet{Currency: ask.Currency}
	t, err := h.terms(fees)
	c := h.env.Config.Hosting
	return ev.Deal{Terms: t, Grid: c.PGrid, Res: c.PRes, Out: c.POut, Fee: fees, Minor: ev.MinorEUR}, err
}

func (h *hosting) newOffer(now time.Time, pass note.Pass, fees ev.FeeSheet, give bool) (*standing, error) {
	c := h.env.Config
	t, err := h.terms(fees)
	if err != nil {
		return nil, err
	}
	terms, err := t.Encode()
	if err != nil {
		return nil, err
	}
	sheet, err := fees.Encode()
	if err != nil {
		return nil, err
	}
	hash, err := t.Hash()
	if err != nil {
		return nil, err
	}
	s := &standing{give: give, agreed: agreed{Terms: terms, FeeSheet: sheet, Grid: c.Hosting.PGrid, Res: c.Hosting.PRes, Out: c.Hosting.POut, Discharge: give,
		Expires: now.Add(offerLife).Unix()}}
	for _, salt := range []*[32]byte{&s.agreed.MeterSalt, &s.agreed.Salt} {
		if _, err := io.ReadFull(h.env.Rand, salt[:]); err != nil {
			return nil, fmt.Errorf("draw salt: %w", err)
		}
	}
	o := session.Offer{PassKey: pass.KeyID, MeterCommit: session.MeterCommit(s.agreed.MeterSalt, h.key.Point), Terms: hash, PGrid: uint32(c.Hosting.PGrid),
		PRes: uint32(c.Hosting.PRes), POut: uint32(c.Hosting.POut), Currency: ask.Currency, MaxPower: uint16(c.EVSE.MaxW / 100), Expires: uint32(s.agreed.Expires)}
	if give {
		o.Mode |= session.ModeDischarge
	}
	if t.Unattended {
		o.Mode |= session.ModeShown
	}
	host, out, err := session.NewHost(h.hostConfig(&record{Agreed: &s.agreed}), pass.HSK, pass.Sig, o)
	if err != nil {
		return nil, err
	}
	s.host, s.offer = host, out.Send[0].Msg
	s.welcome, err = guest.Welcome{Terms: terms, FeeSheet: sheet, MeterSalt: s.agreed.MeterSalt, MeterKey: h.key.Point, EVSE: evse, Phases: uint8(h.phases())}.Message()
	return s, err
}
