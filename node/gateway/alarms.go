package gateway

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"gridveil/mesh"
	"gridveil/node/alarm"
	"gridveil/node/meter"
	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy/leak"
)

const (
	alarmRetry   = 5 * time.Second // until somebody acknowledged
	alarmTimeout = time.Second     // per parent, wall time: then the next one is tried
	alarmTick    = 10 * time.Second
	heartbeat    = 2 * time.Minute // a meter that says nothing for two of these is dead
)

// alarms watches the house's devices and sends what they raise, ahead of
// everything else.
type alarms struct {
	env     *role.Env
	journal *journal
	inbox   alarm.Inbox
	outbox  store.Outbox
	wake    chan struct{}

	mu        sync.Mutex
	detector  *alarm.Detector // nil without meter
	merger    alarm.Merger
	sealKey   func(day uint16) ([32]byte, bool)
	simulated bool
	seq       uint64
	source    model.SourceID
}

var alarmSeqKey = store.SpaceCursor.Key([]byte("alarm-seq"))

func newAlarms(env *role.Env, j *journal) (*alarms, error) {
	a := &alarms{env: env, journal: j, inbox: alarm.OpenInbox(env.Store), outbox: env.Store.Outbox("alarm"), wake: make(chan struct{}, 1), source: report.SourceOf(env.ID.Key.Public().(ed25519.PublicKey))}
	b, err := env.Store.Get(alarmSeqKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("alarm counter: %w", err)
	}
	a.seq, _ = store.GetU64(b)
	return a, nil
}

// watch starts the detector of the meter.
func (a *alarms) watch(env *role.Env, src meter.Info, sealKey func(uint16) ([32]byte, bool)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sealKey, a.simulated = sealKey, src.Simulated
	limits := alarm.StandardLimits(max(heartbeat, src.ShortestPeriod)) // a slow meter is not a dead one
	a.detector = alarm.NewDetector([16]byte{15: ordinal}, limits, env.Clock.Now(), src.Simulated)
}

// frame looks at what the meter said.
func (a *alarms) frame(f meter.Frame) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.detector != nil {
		a.raise(a.detector.Frame(f))
	}
}

// report raises an event of the gateway itself, such as a wrong password.
func (a *alarms) report(kind alarm.Kind, code uint16, detail string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.raise([]alarm.Event{{Priority: kind.DefaultPriority(), Kind: kind, At: a.env.Clock.Now().UnixMilli(), Key: alarm.Key{Profile: 2, Code: code}, Count: 1, Detail: []byte(detail)}})
}

// raise stores events durably and lets them leave. The caller holds mu.
func (a *alarms) raise(events []alarm.Event) {
	now := a.env.Clock.Now()
	for _, e := range events {
		if out, ok := a.merger.Add(e, 0, now); ok {
			a.keep(out)
		}
	}
}

// keep signs an event, stores it in the house's own list and in the outbox.
func (a *alarms) keep(e alarm.Event) {
	device := e.Device
	a.seq++
	e.Seq, e.Source = a.seq, a.source // the seal binds the source
	if a.simulated {
		e.Flags |= alarm.Simulated
	}
	if a.sealKey != nil {
		day := report.DayOf(a.env.Clock.Now().UnixMilli())
		if key, ok := a.sealKey(day); ok {
			if err := e.Seal(a.env.Rand, day, key); err != nil {
				a.env.Log.Error("event could not be sealed and is told without detail", "err", err)
				e.Detail, e.Device = nil, [16]byte{}
			}
		} else { // no order yet: kind and priority must not wait for a key
			e.Detail, e.Device = nil, [16]byte{}
		}
	}
	err := e.Sign(a.env.ID.Key)
	raw, eerr := e.Encode()
	if err := errors.Join(err, eerr); err != nil {
		a.env.Log.Error("event does not encode", "err", err)
		return
	}
	id := e.ID()
	err = a.env.Store.Update(func(tx *store.Tx) error {
		if _, err := a.inbox.TakeTx(tx, e, device); err != nil {
			return err
		}
		if err := tx.Set(alarmSeqKey, store.U64(a.seq)); err != nil {
			return err
		}
		for _, to := range []leak.Role{leak.OwnUtility, leak.Substation} {
			l := leak.Entry{Message: leak.Alarm, To: to, As: [8]byte(a.env.ID.Member.Key[:]), Bytes: uint32(len(raw)), At: a.env.Clock.Now()}
			if err := a.journal.record(tx, l); err != nil {
				return err
			}
		}
		return a.outbox.PutTx(tx, store.Message{ID: id[:], Kind: "alarm", Body: raw, At: a.env.Clock.Now()})
	})
	if err != nil {
		a.env.Log.Error("event could not be stored", "err", err)
		return
	}
	select {
	case a.wake <- struct{}{}:
	default: // the sender has not yet seen the last poke
	}
}

// serve sends waiting alarms and notices silence until ctx ends.
func (a *alarms) serve(ctx context.Context) error {
	next := a.env.Clock.Now().Add(alarmTick)
	for {
		left, err := a.sendAll(ctx)
		if err != nil {
			return err
		}
		pause := next.Sub(a.env.Clock.Now())
		if left {
			pause = min(pause, alarmRetry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-a.env.Clock.After(pause):
		}
		if now := a.env.Clock.Now(); !now.Before(next) { // even while alarms keep coming
			a.tick()
			next = now.Add(alarmTick)
		}
	}
}

func (a *alarms) tick() {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.env.Clock.Now()
	if a.detector != nil {
		a.raise(a.detector.Tick(now))
	}
	for _, e := range a.merger.Flush(now) {
		a.keep(e)
	}
}

// maxWaitingAlarms is how many are looked at to find the most urgent.
const maxWaitingAlarms = 1024

// sendAll sends what waits, the most urgent first; left says that something
// still waits. A parent that does not answer is not asked again in this round.
func (a *alarms) sendAll(ctx context.Context) (left bool, err error) {
	waiting, err := a.outbox.List(0, maxWaitingAlarms)
	if err != nil {
		return false, fmt.Errorf("waiting alarms: %w", err)
	}
	slices.SortStableFunc(waiting, func(a, b store.Message) int { return urgency(a.Body) - urgency(b.Body) })
	parents := substations(a.env)
	for _, m := range waiting {
		for len(parents) > 0 && !a.send(ctx, parents[0], m) {
			parents = parents[1:]
		}
		if len(parents) == 0 {
			return true, nil
		}
		if err := a.outbox.Done(m.ID); err != nil {
			return true, fmt.Errorf("acknowledged alarm: %w", err)
		}
	}
	return false, nil
}

func urgency(raw []byte) int {
	e, err := alarm.Decode(raw)
	if err != nil {
		return int(alarm.P3)
	}
	return int(e.Priority)
}

// send offers an alarm to one parent; true once it holds the alarm durably.
func (a *alarms) send(ctx context.Context, ssn mesh.Member, m store.Message) bool {
	call, cancel := context.WithTimeout(ctx, alarmTimeout)
	defer cancel()
	answer, err := a.env.Host.Call(call, ssn.Peer, mesh.Alarm, m.Body)
	if err != nil {
		return false // re-routed to the next parent, same id
	}
	ack, err := alarm.DecodeAck(answer)
	if err != nil || ack.Verify(ssn.Key[:]) != nil || string(ack.Event[:]) != string(m.ID) {
		a.env.Log.Warn("alarm acknowledgement refused")
		return false
	}
	return true
}

// Alarms are the newest events of this house, for the local page.
func (g *Gateway) Alarms(n int) ([]alarm.Stored, error) {
	var all []alarm.Stored
	for after := uint64(0); ; {
		part, err := g.alarms.inbox.List(after, 256)
		if err != nil || len(part) == 0 {
			return all[max(0, len(all)-n):], err
		}
		all = append(all, part...)
		after = part[len(part)-1].Place
	}
}
