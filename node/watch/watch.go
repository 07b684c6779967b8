// Package watch is how every node notices that somebody it relies on says two
// things: the aggregator about its ledger, or a member in its registers.
//
// The aggregator publishes each final checkpoint as a register. Every node keeps
// the last ones in a [ledger.Tracker]; utilities and verifiers also hold them
// against their own copy of the log. Evidence is kept, published as a register of
// kind alarm that also homes follow, and raises the warning ledger-fork: then
// cosigning stops and records wait, while charging goes on.
//
// What it does not see: a home hears one checkpoint in ten minutes and has no
// proofs, so by itself it convicts two roots of one size only. Everything else
// comes as evidence from those who hold a copy.
package watch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/node/ask"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/node/store"
)

// Judge is a node's own copy of the ledger; party.Party is one.
type Judge interface {
	Checkpoint(ctx context.Context, note []byte) (*ledger.Evidence, error)
	Convict(ctx context.Context, e *ledger.Evidence) error
}

const (
	lookPeriod = time.Minute // for what waited, and for what has ended
	queueSize  = 64          // registers not looked at yet; what does not fit comes with the next checkpoint
)

var evidenceKey = store.SpaceLedger.Key([]byte("fork"))

// Watch follows checkpoints and alarms of one node.
type Watch struct {
	env   *role.Env
	judge Judge // nil without a copy of the ledger
	news  chan gossip.Envelope

	// Only Serve uses what follows.
	policy  *ledger.Policy
	tracker *ledger.Tracker
	waiting []gossip.Envelope // until the ledger's policy is known, or our copy is open
	found   *ledger.Evidence
}

// New prepares a watch; judge is nil on nodes without a copy of the ledger.
func New(env *role.Env, judge Judge) *Watch {
	w := &Watch{env: env, judge: judge, news: make(chan gossip.Envelope, queueSize)}
	heard := func(e gossip.Envelope) {
		select {
		case w.news <- e:
		default: // a validator's follower never waits
		}
	}
	env.Host.Follow(gossip.KindCheckpoint, checkCheckpoint, heard)
	env.Host.Follow(gossip.KindAlarm, checkAlarm, heard)
	return w
}

// checkCheckpoint is the body check of checkpoints: a note under its own origin,
// or what shows where a sealed log goes on, under the sealed one's.
func checkCheckpoint(e gossip.Envelope) gossip.Verdict {
	if x, err := ledger.ParseSuccessor(e.Body); err == nil {
		if sealed, err := x.Sealed(); err == nil && gossip.OriginKey(sealed.Origin) == e.Key {
			return gossip.Verdict{}
		}
		return gossip.Verdict{Action: gossip.Reject, Reason: mesh.ReasonBody}
	}
	text, _, signed := bytes.Cut(e.Body, []byte("\n\n"))
	c, err := ledger.ParseCheckpoint(string(text) + "\n")
	if err != nil || !signed || gossip.OriginKey(c.Origin) != e.Key {
		return gossip.Verdict{Action: gossip.Reject, Reason: mesh.ReasonBody}
	}
	return gossip.Verdict{}
}

// checkAlarm is the body check of alarms: evidence, of a member against itself or against a log.
func checkAlarm(e gossip.Envelope) gossip.Verdict {
	if _, _, err := gossip.ParseEvidence(e.Body); err == nil {
		return gossip.Verdict{}
	}
	if x, err := parseFork(e.Body); err == nil && (x.Kind == ledger.TwoRoots || x.Kind == ledger.OtherHistory) {
		return gossip.Verdict{}
	}
	return gossip.Verdict{Action: gossip.Reject, Reason: mesh.ReasonBody}
}

// parseFork reads an alarm about a log: "GVP1" | evidence.
func parseFork(body []byte) (*ledger.Evidence, error) {
	mark := len(gossip.PublicMark)
	if len(body) < mark || string(body[:mark]) != gossip.PublicMark {
		return nil, ledger.ErrMalformed
	}
	return ledger.ParseEvidence(body[mark:])
}

// Serve watches until ctx ends.
func (w *Watch) Serve(ctx context.Context) error {
	raw, err := w.env.Store.Get(evidenceKey)
	if err == nil {
		if w.found, err = ledger.ParseEvidence(raw); err != nil {
			return fmt.Errorf("stored evidence: %w", err)
		}
	} else if !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("stored evidence: %w", err)
	}
	for _, k := range []gossip.Kind{gossip.KindCheckpoint, gossip.KindAlarm} {
		w.waiting = append(w.waiting, w.env.Host.Registers(k)...)
	}
	for {
		if err := w.round(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.news:
			w.keep(e)
		case <-w.env.Clock.After(lookPeriod):
		}
	}
}

// keep puts a register to those that are to be looked at; the oldest goes first.
func (w *Watch) keep(e gossip.Envelope) {
	if len(w.waiting) >= queueSize {
		w.waiting = w.waiting[1:]
	}
	w.waiting = append(w.waiting, e)
}

// round looks at what waits. Its error is the store's.
func (w *Watch) round(ctx context.Context) error {
	w.warnRegisters()
	policy, err := party.KnownPolicy(w.env.Store, w.env.Dir)
	if err != nil {
		return nil // no ledger was ever heard of
	}
	if policy.Shards, err = ask.Shards(w.env.Store, policy); err != nil {
		return err
	}
	if w.tracker == nil || policy.Log.Pub() != w.policy.Log.Pub() || !slices.Equal(policy.Shards, w.policy.Shards) {
		w.tracker = ledger.NewTracker(policy)
	}
	w.policy = policy
	if w.found != nil && !w.holds(w.found) { // the operators have founded another ledger
		if err := w.env.Store.Update(func(tx *store.Tx) error { return tx.Delete(evidenceKey) }); err != nil {
			return err
		}
		w.found = nil
		w.env.Warn.Clear(role.WarnFork)
	}
	var later []gossip.Envelope
	for _, e := range w.waiting {
		again, err := w.look(ctx, e)
		if err != nil {
			return err
		}
		if again {
			later = append(later, e)
		}
	}
	w.waiting = later
	if w.found != nil {
		w.env.Warn.Raise(forked, w.env.Clock.Now())
	}
	return nil
}

// holds says whether evidence convicts one of the ledger's logs.
func (w *Watch) holds(x *ledger.Evidence) bool {
	return x.Check(w.policy.As(w.policy.Log.Name())) == nil ||
		slices.ContainsFunc(w.policy.Shards, func(l ledger.LaterLog) bool { return x.Check(w.policy.As(l.Origin)) == nil })
}

// look judges one register; again means that our copy of the ledger is not open yet.
func (w *Watch) look(ctx context.Context, e gossip.Envelope) (again bool, err error) {
	if e.Kind == gossip.KindAlarm {
		x, err := parseFork(e.Body)
		if err != nil || !w.holds(x) {
			return false, nil // of a register, or it convicts nobody
		}
		return w.convict(ctx, x)
	}
	if x, err := ledger.ParseSuccessor(e.Body); err == nil {
		return false, ask.Succeeded(w.env.Store, w.policy, x)
	}
	if _, x := w.tracker.Observe(e.Body); x != nil {
		return w.convict(ctx, x)
	}
	if w.judge == nil {
		return false, nil
	}
	x, err := w.judge.Checkpoint(ctx, e.Body)
	switch {
	case x != nil && w.holds(x):
		return w.convict(ctx, x)
	case errors.Is(err, party.ErrNoLedger):
		return true, nil
	case err != nil && ctx.Err() == nil:
		w.env.Log.Debug("checkpoint not compared", "err", err) // our copy warns of what lasts
	}
	return false, nil
}

// convict keeps evidence, then acts on it and tells everybody.
func (w *Watch) convict(ctx context.Context, x *ledger.Evidence) (again bool, err error) {
	if w.found == nil {
		if err := w.env.Store.Set(evidenceKey, x.Encode()); err != nil {
			return false, fmt.Errorf("keep evidence: %w", err)
		}
		w.found = x
		w.env.Log.Error("the ledger shows two histories", "evidence", x.Kind.String())
		w.publish(x)
	}
	if w.judge == nil {
		return false, nil
	}
	if err := w.judge.Convict(ctx, x); err != nil {
		w.env.Log.Debug("own copy of the ledger not told", "err", err)
		return errors.Is(err, party.ErrNoLedger), nil
	}
	return false, nil
}

// publish spreads evidence; a home has told nobody anything, its parents hear of it as it did.
func (w *Watch) publish(x *ledger.Evidence) {
	if w.env.Host.Self().Role.Leaf() {
		return
	}
	raw := x.Encode()
	sum := sha256.Sum256(raw)
	key := binary.BigEndian.Uint64(sum[:])
	for _, e := range w.env.Host.Registers(gossip.KindAlarm) {
		if e.Key == key {
			return // somebody has
		}
	}
	body := append([]byte(gossip.PublicMark), raw...)
	if err := w.env.Host.Publish(gossip.KindAlarm, key, body, w.env.Clock.Now().Add(gossip.KindAlarm.MaxLife(key))); err != nil {
		w.env.Log.Warn("evidence not published; others find it themselves", "err", err)
	}
}

// forked is the warning of a node that was shown two histories.
var forked = role.Warning{Code: role.WarnFork, Severity: role.Fault, Title: "The ledger shows two histories",
	Text: "Two checkpoints that the aggregator signed contradict each other; the evidence is kept. Records of charging wait here, and charging goes on.",
	Next: "Nothing is lost. The operators compare their copies and agree on the last common checkpoint."}

// warnRegisters tells of members that signed two contents under one version, while the evidence is held.
func (w *Watch) warnRegisters() {
	who := ""
	for _, e := range w.env.Host.Registers(gossip.KindAlarm) {
		a, _, err := gossip.ParseEvidence(e.Body)
		if err != nil {
			continue
		}
		who = "a member that is unknown here"
		if m, err := w.env.Host.Publisher(a); err == nil {
			who = fmt.Sprintf("a node (%s) of %s", m.Role, m.Operator)
		}
	}
	w.env.Warn.Set(who != "", role.Warning{Code: "register-fork", Severity: role.Notice, Title: "A member told others two different things",
		Text: "It signed two contents under one version: " + who + ". Each node keeps the one that it saw first.",
		Next: "Tell its operator: its key may be used twice, or be stolen."}, w.env.Clock.Now())
}
