// Package headend collects an operator's meter reports: it opens, checks and
// stores them, acknowledges finally, and serves the utility's systems.
//
// It is a custodian: it reads registers to check and pass them on, and bills
// nobody. What it acknowledged as final is durable here; what it pushes to the
// utility stays until the utility has it. The private key of a day is destroyed
// three days later: recorded traffic stays closed.
package headend

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/alarm"
	"gridveil/node/clock"
	"gridveil/node/keys"
	"gridveil/node/metering"
	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/vee"
)

const (
	orderAgain  = 2 * time.Second // first wait, while a new home is not known yet
	orderPeriod = time.Minute     // until every gateway has its newest order
	pushPeriod  = 5 * time.Minute
	callTimeout = 10 * time.Second // wall time
	retryPush   = 30 * time.Second
	renewOrders = 24 * time.Hour // fresh day keys for everybody
	maxGateways = 65_536
	pushBatch   = 64
)

// Headend is the head-end role.
type Headend struct {
	env     *role.Env
	rules   vee.Params
	inbox   alarm.Inbox
	alarms  store.Outbox // to the utility
	blocks  store.Outbox // to the utility
	ring    chan struct{}
	push    chan struct{}
	ordered chan struct{}

	mu    sync.Mutex
	refs  map[model.SourceID]*reference
	days  map[uint16]report.DayKey
	told  map[model.SourceID]time.Time // unlisted sources, when last told of
	seq   uint64                       // of own events
	count Counters
}

var seqKey = store.SpaceCursor.Key([]byte("alarm-seq"))

// Counters are what the head-end's page and the demonstration's summary show.
type Counters struct {
	Reports, Readings, Refused, Alarms, Flagged uint64
	Gateways, Ordered                           int
}

// reference is a gateway that a utility put on the list.
type reference struct {
	metering.Reference
	utility string     // operator
	via     member.Key // substation that brought its last report
	ordered uint32     // version that the gateway confirmed
	version uint32     // newest version made for it
}

// blockID names a day block. A changed read period begins another one: slots of
// two lengths do not fit one.
type blockID struct {
	up      model.UsagePoint
	channel model.Channel
	day     int64
	period  uint32 // ms
}

// New loads the list and the day keys and registers what the head-end answers.
func New(env *role.Env) (*Headend, error) {
	h := &Headend{env: env, rules: vee.Standard(), inbox: alarm.OpenInbox(env.Store), alarms: env.Store.Outbox("alarm"), blocks: env.Store.Outbox("block"),
		ring: make(chan struct{}, 1), push: make(chan struct{}, 1), ordered: make(chan struct{}, 1),
		refs: map[model.SourceID]*reference{}, days: map[uint16]report.DayKey{}, told: map[model.SourceID]time.Time{}}
	if err := h.load(); err != nil {
		return nil, err
	}
	env.Host.Handle(mesh.Report, h.takeReport)
	env.Host.Handle(mesh.Backfill, h.takeReport)
	env.Host.Handle(mesh.Alarm, h.takeAlarm)
	env.Host.Handle(mesh.Order, h.takeReference)
	env.Host.Handle(mesh.ReadNow, h.readNow)
	h.commands()
	return h, nil
}

// Serve works until ctx ends.
func (h *Headend) Serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.publish(ctx) })
	g.Go(func() error { return h.every(ctx, h.ordered, orderAgain, orderPeriod, h.sendOrders) })
	g.Go(func() error { return h.every(ctx, h.ring, retryPush, retryPush, h.pushAlarms) })
	g.Go(func() error { return h.every(ctx, h.push, pushPeriod, pushPeriod, h.pushBlocks) })
	return g.Wait()
}

// every works when poked, and else after waits that grow from first to period.
func (h *Headend) every(ctx context.Context, poke <-chan struct{}, first, period time.Duration, work func(context.Context) error) error {
	for wait := first; ; wait = min(2*wait, period) {
		if err := work(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-poke:
			wait = first
		case <-h.env.Clock.After(wait):
		}
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one nudge is enough
	}
}

// publish tells the network that this head-end is there, and renews day keys.
func (h *Headend) publish(ctx context.Context) error {
	for {
		now := h.env.Clock.Now()
		if err := h.renewDays(now); err != nil {
			return err
		}
		sheet, err := h.env.Keys.Sheet(now, 1, keys.Readout)
		if err != nil {
			return err
		}
		if err := h.env.Dir.Publish(sheet, now); err != nil {
			h.env.Log.Warn("key sheet not published; tried again", "err", err)
		}
		if !clock.Sleep(ctx, h.env.Clock, renewOrders/4) {
			return nil
		}
	}
}

// Counters gives the counts since the start.
func (h *Headend) Counters() Counters {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.count
	c.Gateways = len(h.refs)
	for _, r := range h.refs {
		if r.version > 0 && r.ordered == r.version {
			c.Ordered++
		}
	}
	return c
}

func (h *Headend) load() error {
	return h.env.Store.View(func(tx *store.Tx) error {
		b, err := tx.Get(seqKey)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("alarm counter: %w", err)
		}
		h.seq, _ = store.GetU64(b)
		err = tx.Each(store.SpaceOrder.Key([]byte("ref")), func(_, v []byte) error {
			r, err := parseReference(v)
			if err == nil {
				h.refs[report.SourceOf(r.Gateway[:])] = r
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("referenced gateways: %w", err)
		}
		prefix := store.SpaceOrder.Key([]byte("day"))
		return tx.Each(prefix, func(k, v []byte) error {
			if len(k) != len(prefix)+2 {
				return nil
			}
			day := binary.BigEndian.Uint16(k[len(prefix):])
			key, err := report.DayKeyFrom(day, v)
			h.days[day] = key
			return err
		})
	})
}

// record: version u32 | confirmed u32 | substation 32 | operator length u8 | operator | reference
func (r *reference) encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, r.version)
	b = binary.BigEndian.AppendUint32(b, r.ordered)
	b = append(b, r.via[:]...)
	b = append(b, byte(len(r.utility)))
	b = append(b, r.utility...)
	return append(b, r.Reference.Encode()...)
}

func parseReference(b []byte) (*reference, error) {
	if len(b) < 41 || len(b) < 41+int(b[40]) {
		return nil, errors.New("stored reference is malformed")
	}
	r := &reference{version: binary.BigEndian.Uint32(b), ordered: binary.BigEndian.Uint32(b[4:]), utility: string(b[41 : 41+int(b[40])])}
	copy(r.via[:], b[8:40])
	var err error
	r.Reference, err = metering.ParseReference(b[41+int(b[40]):])
	return r, err
}

func (r *reference) key() []byte {
	return store.SpaceOrder.Key([]byte("ref"), r.Gateway[:])
}

// takeReference puts a gateway on the list for the utility that asks; a utility
// may replace only its own entries.
func (h *Headend) takeReference(_ context.Context, from mesh.Member, req []byte) ([]byte, error) {
	ref, err := metering.ParseReference(req)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	id := report.SourceOf(ref.Gateway[:])
	held := h.refs[id]
	if held != nil && held.utility != from.Operator {
		return nil, errors.New("the gateway is on the list of another utility")
	}
	if held == nil && len(h.refs) >= maxGateways {
		return nil, errors.New("the list is full")
	}
	if held != nil && held.Reference == ref {
		return nil, nil
	}
	r := &reference{Reference: ref, utility: from.Operator}
	if held != nil {
		r.version, r.via = held.version, held.via
	}
	r.version = h.nextVersion(r.version)
	if err := h.env.Store.Set(r.key(), r.encode()); err != nil {
		return nil, errors.New("the list cannot be kept now")
	}
	h.refs[id] = r
	nudge(h.ordered)
	return nil, nil
}

// nextVersion numbers orders by the minute, so that a head-end that lost its
// store does not give a number again under which a gateway holds other terms.
func (h *Headend) nextVersion(v uint32) uint32 {
	return max(v+1, uint32(h.env.Clock.Now().Unix()/60))
}

// renewDays draws the keys of the days ahead, destroys old ones, and makes every
// gateway's order new when keys were added.
func (h *Headend) renewDays(now time.Time) error {
	today := report.DayOf(now.UnixMilli())
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.env.Store.Update(func(tx *store.Tx) error {
		for day := range h.days {
			if int(day)+report.KeepPrivate < int(today) {
				if err := tx.Delete(dayKey(day)); err != nil {
					return err
				}
				delete(h.days, day)
			}
		}
		fresh := false
		for i := range uint16(report.PublishAhead) {
			day := today + i
			if _, ok := h.days[day]; ok {
				continue
			}
			k, err := report.NewDayKey(h.env.Rand, day)
			if err != nil {
				return fmt.Errorf("draw day key: %w", err)
			}
			if err := tx.Set(dayKey(day), k.Secret()); err != nil {
				return err
			}
			h.days[day], fresh = k, true
		}
		if !fresh {
			return nil
		}
		for _, r := range h.refs {
			r.version = h.nextVersion(r.version)
			if err := tx.Set(r.key(), r.encode()); err != nil {
				return err
			}
		}
		nudge(h.ordered)
		return nil
	})
}

func dayKey(day uint16) []byte {
	return store.SpaceOrder.Key([]byte("day"), binary.BigEndian.AppendUint16(nil, day))
}

// sendOrders offers every gateway its newest order until it confirmed it.
func (h *Headend) sendOrders(ctx context.Context) error {
	for _, r := range h.unordered() {
		order, err := h.order(r)
		if err != nil {
			return err
		}
		h.deliver(ctx, r, order)
	}
	return nil
}

func (h *Headend) unordered() []reference {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []reference
	for _, r := range h.refs {
		if r.ordered != r.version {
			out = append(out, *r)
		}
	}
	slices.SortFunc(out, func(a, b reference) int { return slices.Compare(a.Gateway[:], b.Gateway[:]) })
	return out
}

// order makes and signs the order of a gateway.
func (h *Headend) order(r reference) ([]byte, error) {
	now := h.env.Clock.Now()
	today := report.DayOf(now.UnixMilli())
	o := model.Order{Version: r.version, Source: report.SourceOf(r.Gateway[:]), Issuer: report.SourceOf(h.public()), Issued: now.UnixMilli(), Rules: h.rules.Version(),
		Groups:   []model.Group{{ReadPeriod: r.ReadPeriod, ReportPeriod: r.ReportPeriod, Ordinals: []uint32{1}}},
		Profiles: []model.Profile{{TAF: model.TAFSeries, Basis: model.BasisContract, Recipient: report.SourceOf(h.public()), CapturePeriod: r.ReadPeriod, ReportPeriod: r.ReportPeriod, Channels: []model.Channel{model.ImportTotal, model.ExportTotal}}},
		Roster:   model.Roster{Version: 1, Entries: []model.RosterEntry{{Ordinal: 1, UsagePoint: r.UsagePoint, State: r.State, LimitMW: r.LimitMW, Masked: r.Masked}}},
		SealDay:  today}
	h.mu.Lock()
	for i := range uint16(report.PublishAhead) {
		k, ok := h.days[today+i]
		if !ok {
			break
		}
		o.SealKeys = append(o.SealKeys, k.Pub)
	}
	h.mu.Unlock()
	if err := o.Sign(h.env.ID.Key); err != nil {
		return nil, fmt.Errorf("sign order: %w", err)
	}
	return o.Encode()
}

func (h *Headend) public() ed25519.PublicKey { return h.env.ID.Key.Public().(ed25519.PublicKey) }

// deliver tries the substations until one reaches the gateway; what cannot be
// delivered now is tried again in a minute.
func (h *Headend) deliver(ctx context.Context, r reference, order []byte) {
	for _, ssn := range h.substations(r.via) {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		answer, err := h.env.Host.Call(call, ssn.Peer, mesh.Order, slices.Concat(r.Gateway[:], order))
		cancel()
		if err != nil {
			continue // not connected there, or it holds another order: the next one, or later
		}
		a, err := metering.ParseOrderAnswer(answer)
		if err != nil {
			continue
		}
		h.keepChain(r.Gateway, a.Chain)
		h.confirm(r, a.Version)
		return
	}
}

func (h *Headend) confirm(r reference, version uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	held := h.refs[report.SourceOf(r.Gateway[:])]
	if held == nil {
		return
	}
	held.ordered = version
	if version > held.version {
		held.version = h.nextVersion(version) // the gateway holds an order of before this store's time
		nudge(h.ordered)
	}
	if err := h.env.Store.Set(held.key(), held.encode()); err != nil {
		h.env.Log.Warn("confirmed order not noted; it is sent again", "err", err)
	}
}

// substations are the connected SSNs, the given one first.
func (h *Headend) substations(first member.Key) []mesh.Member {
	var out []mesh.Member
	for _, p := range h.env.Host.Peers() {
		if p.Role != member.RoleSSN {
			continue
		}
		if p.Key == first {
			out = append([]mesh.Member{p}, out...)
		} else {
			out = append(out, p)
		}
	}
	return out
}

// readNow passes a utility's request to the gateway of the usage point and its
// sealed answer back; the head-end reads neither.
func (h *Headend) readNow(ctx context.Context, from mesh.Member, req []byte) ([]byte, error) {
	up, err := metering.RequestedPoint(req)
	if err != nil {
		return nil, err
	}
	r, ok := h.byPoint(up, from.Operator)
	if !ok {
		return nil, errors.New("no such usage point of this utility")
	}
	var why []string
	for _, ssn := range h.substations(r.via) {
		answer, err := h.env.Host.Call(ctx, ssn.Peer, mesh.ReadNow, slices.Concat(r.Gateway[:], req))
		if err == nil {
			return answer, nil
		}
		why = append(why, fmt.Sprintf("through %s: %v", ssn.Zone, err))
	}
	if len(why) == 0 {
		why = append(why, "no substation is connected")
	}
	return nil, fmt.Errorf("meter_unreachable: no substation reaches the meter now: %s", strings.Join(why, "; "))
}

func (h *Headend) byPoint(up model.UsagePoint, utility string) (reference, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.refs {
		if r.UsagePoint == up && r.utility == utility {
			return *r, true
		}
	}
	return reference{}, false
}
