package party

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/verifier"
	"gridveil/node/role"
	"gridveil/node/store"
)

var cursorKey = store.SpaceLedger.Key([]byte("final"))

// soon is how long, in steps of leastPause, a cosigned checkpoint is expected to
// find its quorum.
const soon = 20

// watch learns which of our entries are final and acts on them, in order.
func (p *Party) watch(ctx context.Context, v *verifier.Verifier) error {
	tries := 0
	for ctx.Err() == nil {
		if err := p.learn(ctx, v); err != nil && ctx.Err() == nil {
			p.env.Log.Debug("final checkpoint not learned", "err", err)
		}
		if err := p.holdToReceipts(ctx, v); err != nil && ctx.Err() == nil {
			p.env.Log.Warn("receipts of the ledger not compared", "err", err)
		}
		p.warn(v)
		if err := p.act(); err != nil {
			return err
		}
		for _, f := range p.onRound {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				p.env.Log.Debug("work on the ledger goes on later", "err", err)
			}
		}
		if s := v.Status(); s.Cosigned > p.finalSize() && tries < soon {
			tries++
			p.pause(ctx, 0)
			continue
		}
		if err := p.cross(v); err != nil {
			return err
		}
		tries = 0
		// Whoever asks us to cosign makes us look; a fast clock must not make
		// this a busy loop.
		p.pause(ctx, max(pullPeriod, p.env.Host.Lag()), p.look)
	}
	return nil
}

// errBorder says that the shard is done and the next one is to be opened.
var errBorder = errors.New("the ledger goes on in its next shard")

// cross goes on to the next shard once this one is sealed, all of it is final and
// acted on, and the fate of our own entries in it is known. It returns errBorder
// then, and nil as long as this one goes on.
func (p *Party) cross(v *verifier.Verifier) error {
	final, note := p.Final()
	from, err := p.cursor()
	if err != nil {
		return err
	}
	policy, err := p.policy()
	if err != nil {
		return nil // it was known when the checkpoint became final, and will be again
	}
	var state *ledger.State
	v.Read(func(m ledger.Machine) { state = m.(*ledger.Money).State })
	if state.Sealed() == "" || final.Size != state.Size() || from < p.base()+final.Size {
		return nil
	}
	if err := p.resolve(v); err != nil {
		return err
	}
	if err := p.shards.Cross(state, note, policy); err != nil { // nothing changes a sealed state any more
		return err
	}
	return errBorder
}

func (p *Party) finalSize() uint64 {
	c, _ := p.Final()
	return c.Size
}

// learn fetches the newest checkpoint that has the quorum and takes it if our
// replay agrees.
func (p *Party) learn(ctx context.Context, v *verifier.Verifier) error {
	c, ok := p.client()
	if !ok {
		return ErrNoLedger
	}
	msg, err := c.Checkpoint(ctx)
	if err != nil {
		return err
	}
	policy, err := p.policy()
	if err != nil {
		return err
	}
	final, err := policy.OpenFinal(msg)
	if err != nil {
		return err
	}
	if final.Size <= p.finalSize() {
		return nil
	}
	if evidence, err := v.Observe(ctx, msg); err != nil || evidence != nil {
		return errors.Join(err, v.Status().Err)
	}
	p.mu.Lock()
	p.final, p.note = final, msg
	p.mu.Unlock()
	return nil
}

// Checkpoint judges a checkpoint that was heard from others against our copy of
// the log; ErrNoLedger without one. Evidence stops our cosigning.
func (p *Party) Checkpoint(ctx context.Context, note []byte) (*ledger.Evidence, error) {
	p.mu.Lock()
	v := p.v
	p.mu.Unlock()
	if v == nil {
		return nil, ErrNoLedger
	}
	return v.Observe(ctx, note)
}

// Convict takes evidence that others found and stops our cosigning if it holds;
// ErrNoLedger without a copy of the log.
func (p *Party) Convict(ctx context.Context, e *ledger.Evidence) error {
	p.mu.Lock()
	v := p.v
	p.mu.Unlock()
	if v == nil {
		return ErrNoLedger
	}
	return v.Convict(ctx, e)
}

// act hands final entries, counted over all shards, to whoever asked for them. The cursor follows the
// deed: after a crash in between the same entry comes again.
func (p *Party) act() error {
	from, err := p.cursor()
	if err != nil {
		return err
	}
	base := p.base()
	for index := from; index < base+p.finalSize(); index++ {
		raw, err := p.Entry(index)
		if err != nil {
			return fmt.Errorf("final entry %d: %w", index, err)
		}
		e, err := ledger.Parse(raw)
		if err != nil {
			return fmt.Errorf("final entry %d: %w", index, err)
		}
		for _, f := range p.onFinal {
			if err := f(index, e); err != nil {
				return fmt.Errorf("act on entry %d: %w", index, err)
			}
		}
		if err := p.env.Store.Set(cursorKey, store.U64(index+1)); err != nil {
			return fmt.Errorf("keep place in the ledger: %w", err)
		}
	}
	return nil
}

func (p *Party) cursor() (uint64, error) {
	b, err := p.env.Store.Get(cursorKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, fmt.Errorf("place in the ledger: %w", err)
	}
	n, _ := store.GetU64(b)
	return n, nil
}

// warn keeps the standing problems of a followed log on the board.
func (p *Party) warn(v *verifier.Verifier) {
	s, now := v.Status(), p.env.Clock.Now()
	title, text := "The ledger shows two histories", "Two checkpoints that the aggregator signed contradict each other."
	if s.Evidence != nil && s.Evidence.Kind == ledger.BrokenPledge {
		title, text = "The ledger broke a receipt", "The aggregator signed a receipt for one entry and put another in its place."
	}
	if s.Evidence != nil { // node/watch ends it, when another ledger is founded
		p.env.Warn.Raise(role.Warning{Code: role.WarnFork, Severity: role.Fault, Title: title,
			Text: text + " This node cosigns no more; charging goes on and records wait.",
			Next: "Show the evidence at this node's witness door to the other operators, and agree on the last common checkpoint."}, now)
	}
	text = ""
	if s.Objection != nil {
		text = fmt.Sprintf("Entry %d breaks a rule (%v). This node cosigns nothing from there on.", s.Objection.Index, s.Objection.Code.Err())
	}
	p.env.Warn.Set(s.Objection != nil && s.Evidence == nil, role.Warning{Code: "ledger-objection", Severity: role.Fault, Title: "The ledger holds an entry that must be refused",
		Text: text, Next: "Compare with the other cosigners. If they object too, the aggregator starts a new ledger from the last final checkpoint."}, now)
	p.env.Warn.Set(len(s.Repaired) > 0, role.Warning{Code: "store-repaired", Severity: role.Notice, Title: "This node's copy of the ledger was repaired",
		Text: "One of its two copies on disk was short or altered and was rewritten from the other.",
		Next: "Check the disk; a second repair soon after means that it is failing."}, now)
	p.env.Warn.Set(s.Err != nil && s.Evidence == nil && s.Objection == nil, role.Warning{Code: "ledger-not-followed", Severity: role.Notice, Title: "The ledger cannot be followed now",
		Text: "The newest checkpoint was not cosigned here. Settlements become final later; nothing is lost.",
		Next: "Nothing, if the aggregator is away. Else compare the clocks of both nodes.", After: 10 * time.Minute}, now)
}
