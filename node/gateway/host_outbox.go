package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/ev"
	"gridveil/ev/pool"
	"gridveil/mesh"
	"gridveil/node/ask"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/wallet/purse"
	"gridveil/privacy"
	"gridveil/privacy/leak"
	"gridveil/privacy/session"
)

// outKind says how a message of a session reaches the aggregator.
type outKind struct {
	name    string
	service mesh.Service
	op      ask.Op
	leaks   leak.Message
	// After a failed try it is offered again after a random time up to these: at
	// first while somebody waits at the wallbox, later while nobody does.
	soon, late time.Duration
}

var outKinds = map[privacy.Kind]outKind{
	privacy.KindAuthReq: {"auth", mesh.EVAuth, ask.Authorise, leak.AuthRequest, 5 * time.Second, 5 * time.Minute},
	privacy.KindLock:    {"lock", mesh.EVAuth, ask.Lock, leak.Lock, 20 * time.Second, 5 * time.Minute},
	privacy.KindSettle:  {"settle", mesh.EVRecord, ask.Settle, leak.Settlement, time.Minute, 10 * time.Minute},
}

// flexKind is an offer to the pool: its gate closes, so it is tried often.
var flexKind = outKind{"flex", mesh.EVRecord, ask.Flex, leak.Flex, time.Minute, 5 * time.Minute}

const (
	soonTries  = 6
	maxSending = 8 // messages on their way at once
	listOut    = 256
)

// flight is what is remembered of a waiting message between tries; it may be
// lost, then the message is offered at once.
type flight struct {
	next   time.Time
	tries  int
	flying bool
}

// serveOutbox offers every waiting message until its answer is here.
func (h *hosting) serveOutbox(ctx context.Context) error {
	flights := map[[32]byte]*flight{}
	landed := make(chan landing, maxSending)
	var flying errgroup.Group
	defer func() { _ = flying.Wait() }() // they end with ctx and report nothing
	inAir := 0
	for {
		pause := longestPause
		waiting, err := h.outbox.List(0, listOut)
		if err != nil {
			return fmt.Errorf("waiting records: %w", err)
		}
		h.warnOutbox(waiting)
		now := h.env.Clock.Now()
		for _, m := range waiting {
			f := flights[[32]byte(m.ID)]
			if f == nil {
				f = &flight{}
				flights[[32]byte(m.ID)] = f
			}
			if f.flying || inAir >= maxSending {
				continue
			}
			if left := f.next.Sub(now); left > 0 {
				pause = min(pause, left)
				continue
			}
			f.flying, f.tries = true, f.tries+1
			inAir++
			flying.Go(func() error {
				answer, err := h.offerMessage(ctx, m, f.tries == 1)
				select {
				case landed <- landing{m, answer, err}:
				case <-ctx.Done():
				}
				return nil
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case l := <-landed:
			inAir--
			f := flights[[32]byte(l.m.ID)]
			f.flying = false
			if h.land(l, f) {
				delete(flights, [32]byte(l.m.ID))
			}
		case <-h.send:
		case <-h.env.Clock.After(pause):
		}
	}
}

// landing is the outcome of one try.
type landing struct {
	m      store.Message
	answer []byte
	err    error
}

func kindNamed(name string) outKind {
	if name == flexKind.name {
		return flexKind
	}
	for _, k := range outKinds {
		if k.name == name {
			return k
		}
	}
	return outKinds[privacy.KindSettle]
}

// offerMessage sends one message once; what leaves is in the journal before.
func (h *hosting) offerMessage(ctx context.Context, m store.Message, first bool) ([]byte, error) {
	k := kindNamed(m.Kind)
	if x, err := pool.DecodeFlex(m.Body); k.op == ask.Flex && (err != nil || !h.inTime(x, h.env.Clock.Now())) {
		return nil, &ask.RefusedError{Reason: "its gate has closed"}
	}
	agg, err := h.ops.Aggregator()
	if err != nil {
		return nil, err
	}
	if h.env.MeshOff() {
		return nil, mesh.ErrOff // before the journal says that it left
	}
	if k.op == ask.Settle && h.env.LedgerForked() {
		return nil, errForked
	}
	if first {
		if err := h.env.Store.Update(h.leaving(k, m)); err != nil {
			return nil, err
		}
	}
	return h.ops.Ask(ctx, agg.Key, k.service, k.op, m.Body)
}

// errForked keeps a record here while the ledger shows two histories.
var errForked = errors.New("the ledger shows two histories; records wait")

// leaving writes down a message, and the meter's records if they are inside.
func (h *hosting) leaving(k outKind, m store.Message) func(*store.Tx) error {
	as := [32]byte(m.ID)
	shown := 0
	if x, err := pool.DecodeFlex(m.Body); k.op == ask.Flex && err == nil {
		as = x.Open
	}
	if k.op == ask.Settle {
		if s, err := session.ParseSettle(m.Body); err == nil {
			as = s.Record.Open
			if s.Evidence != nil {
				for _, r := range s.Evidence.Records {
					shown += len(r)
				}
			}
		}
	}
	return func(tx *store.Tx) error {
		if err := h.left(k.leaks, leak.Aggregator, as, len(m.Body))(tx); err != nil || shown == 0 {
			return err
		}
		return h.left(leak.ShownRecords, leak.Aggregator, as, shown)(tx)
	}
}

// land takes an answer; over says that the message need not be offered again.
func (h *hosting) land(l landing, f *flight) (over bool) {
	now := h.env.Clock.Now()
	k := kindNamed(l.m.Kind)
	wait := k.soon
	if f.tries > soonTries {
		wait = k.late
	}
	f.next = now.Add(h.jitter(wait))
	var later *ask.NotYetError
	var no *ask.RefusedError
	switch {
	case errors.As(l.err, &later):
		f.next = now.Add(max(later.After, time.Second))
		return false
	case errors.As(l.err, &no):
		return h.refused(l.m, k, no.Reason, now)
	case errors.Is(l.err, errForked), errors.Is(l.err, mesh.ErrOff) && !errors.Is(l.err, mesh.ErrUnacked):
		f.tries, f.next = 0, now.Add(h.jitter(k.soon)) // nothing left: it is a first try when the mesh is on again, or the ledger one
		return false
	case l.err != nil:
		return false
	case k.op == ask.Flex:
		return h.flexAnswered(l.m, l.answer, now)
	}
	over, err := h.fromAggregator(l.m, l.answer, now)
	if err != nil {
		h.env.Log.Warn("answer of the aggregator refused", "kind", l.m.Kind, "err", err)
	}
	return over
}

// jitter is random in (0, d], so that records do not all come back with the
// network.
func (h *hosting) jitter(d time.Duration) time.Duration {
	var b [8]byte
	if _, err := io.ReadFull(h.env.Rand, b[:]); err != nil {
		return d
	}
	return time.Duration(binary.BigEndian.Uint64(b[:])%uint64(d)) + 1
}

// fromAggregator hands an answer to its session and takes the message out of the
// outbox with what the answer changes.
func (h *hosting) fromAggregator(m store.Message, answer []byte, now time.Time) (over bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, ok := h.byClaim(m.To)
	if !ok || v.host == nil {
		return true, h.outbox.Done(m.ID)
	}
	if err := h.refresh(v); err != nil {
		return false, err
	}
	t := h.turn(v, now)
	retry := false
	err = t.protocol(fromMessage, func(p *session.Host) (session.Out, error) {
		if a, err := session.ParseAnswer(answer); err == nil && !a.OK && a.Reason == session.ReasonRetry {
			retry = true
		}
		return p.Step(now, answer)
	})
	if err == nil && !retry {
		t.writes = append(t.writes, func(tx *store.Tx) error { return h.outbox.DoneTx(tx, m.ID) })
		if m.Kind == "auth" && v.host.Phase() != session.Refused {
			t.session(ev.Authorised{Band: int64(v.host.Band()) * currencyUnit})
		}
		if m.Kind == "lock" {
			h.lockTaken(t)
		}
	}
	if errors.Is(err, session.ErrOrder) { // answered before, and the crash came before Done
		t.writes = append(t.writes, func(tx *store.Tx) error { return h.outbox.DoneTx(tx, m.ID) })
		err = nil
	}
	if cerr := t.commit(); cerr != nil {
		return false, cerr
	}
	return err == nil && !retry, err
}

// refresh gives the protocol side the aggregator's present keys: they change
// every quarter, and may have been unknown when the visit was loaded.
func (h *hosting) refresh(v *visit) error {
	fresh, err := session.LoadHost(h.hostConfig(&v.rec), v.rec.Host)
	if err == nil {
		v.host = fresh
	}
	return err
}

// refused takes a final no: both sides keep the record, and the page says why.
func (h *hosting) refused(m store.Message, k outKind, reason string, now time.Time) (over bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, ok := h.byClaim(m.To)
	t := h.turn(v, now)
	t.writes = append(t.writes, func(tx *store.Tx) error { return h.outbox.DoneTx(tx, m.ID) })
	switch {
	case ok && k.op == ask.Flex:
		h.flexRefusedBy(t, m, reason)
	case ok:
		v.tell(now, "refused", "the aggregator refused: "+reason)
		switch k.op {
		case ask.Authorise:
			t.session(ev.Declined{Reason: "the aggregator refused the request: " + reason})
		case ask.Lock:
			if err := t.purse().Unspent(v.rec.Lock.Op); err != nil {
				h.env.Log.Warn("notes of a refused lock stay reserved", "err", err)
			}
			v.rec.Lock.Over = true
		case ask.Settle:
			v.rec.Outcome.Problem = "the aggregator refused the record: " + reason
			t.session(ev.Contested{})
		}
	}
	if err := t.commit(); err != nil {
		h.env.Log.Warn("refusal not stored; it will be asked for again", "err", err)
		return false
	}
	return true
}

// oldRecord is from when on a person is told that records wait.
const oldRecord = 20

func (h *hosting) warnOutbox(waiting []store.Message) {
	h.env.Warn.Set(len(waiting) >= oldRecord, role.Warning{Code: "records-waiting", Severity: role.Problem, Title: "Charging records are waiting",
		Text: fmt.Sprintf("%d messages have not reached the aggregator yet. They are kept until their sessions are %d days old.", len(waiting), purse.SessionEnds/(24*time.Hour)),
		Next: "Check the Internet connection of this home.", After: 30 * time.Minute}, h.env.Clock.Now())
}
