package aggregator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/cluster"
	"gridveil/ledger/writer"
	"gridveil/mesh/gossip"
	"gridveil/node/party"
)

// errBorder says that the log is done and the next shard is to be opened.
var errBorder = errors.New("the ledger goes on in its next shard")

// baseOf is how many entries the sealed shards before a log have.
func baseOf(w *writer.Writer) (n uint64) {
	w.Read(func(m ledger.Machine) { n = m.(*ledger.Money).State.Base() })
	return n
}

// finalEnd is the number of final entries of all shards.
func finalEnd(w *writer.Writer) uint64 {
	c, _ := w.Final()
	return baseOf(w) + c.Size
}

// policyNow is a policy for the shard that grows.
func (a *Aggregator) policyNow(p *ledger.Policy) *ledger.Policy {
	q := p.As(a.shards.Open().Origin)
	q.LogURL = p.LogURL
	return q
}

// cross goes on to the next shard once this one is sealed and all of it is final:
// it returns errBorder then, and nil as long as this one goes on. In a cluster all
// machines cross at the same raft entry, and this one's term ends with it.
func (a *Aggregator) cross(ctx context.Context, w *writer.Writer) error {
	var state *ledger.State
	w.Read(func(m ledger.Machine) { state = m.(*ledger.Money).State })
	c, note := w.Final()
	if state.Sealed() == "" || c.Size != state.Size() {
		return nil
	}
	a.bookMu.RLock()
	policy := a.policy
	a.bookMu.RUnlock()
	if a.env.Cluster != nil {
		if err := a.env.Cluster.Cross(cluster.Border{End: baseOf(w) + c.Size, Note: note, Policy: policy.String()}); err != nil {
			return err
		}
		<-ctx.Done() // the next term opens the next shard
		return nil
	}
	if err := a.shards.Cross(state, note, policy); err != nil { // nothing changes a sealed state any more
		return err
	}
	return errBorder
}

// beginShard enters the first entry of a shard: the final checkpoint of the one
// before and the hash of what it carried over. The parameters stay.
func (a *Aggregator) beginShard(ctx context.Context, w *writer.Writer) error {
	list := a.shards.List()
	last := list[len(list)-2]
	var body *ledger.Shard
	w.Read(func(m ledger.Machine) {
		s := m.(*ledger.Money).State
		body = s.NewShard(s.Params(), last.Note)
	})
	_, err := a.enterOne(ctx, w, ledger.Salted(ledger.OriginHash(w.Origin()), []byte("shard")), body, nil)
	if err != nil {
		return fmt.Errorf("begin a shard: %w", err)
	}
	a.env.Log.Info("shard begun", "origin", w.Origin())
	return nil
}

// tellBorders publishes from time to time where each sealed log goes on, for nodes
// that hold no copy; it returns when it did last.
func (a *Aggregator) tellBorders(last time.Time) time.Time {
	now, list := a.env.Clock.Now(), a.shards.List()
	if now.Sub(last) < tellAgain {
		return last
	}
	for _, x := range list[:len(list)-1] {
		doc, err := a.successor(x)
		if err == nil {
			body := doc.Encode()
			err = a.env.Host.Publish(gossip.KindCheckpoint, gossip.OriginKey(x.Origin), body, now.Add(gossip.KindCheckpoint.MaxLife(0)))
		}
		if err != nil {
			a.env.Log.Debug("border of a shard not published", "err", err) // tried again with the next checkpoint
			return last
		}
	}
	return now
}

// successor shows how the ledger goes on from a sealed shard.
func (a *Aggregator) successor(x party.Shard) (*ledger.Successor, error) {
	doc := &ledger.Successor{}
	end := x.Base + x.Size
	seal, err := a.Proof(end - 1)
	if err != nil {
		return nil, err
	}
	shard, err := a.Proof(end)
	if err != nil {
		return nil, err
	}
	doc.SealPath, doc.ShardPath, doc.Head = seal.Hashes, shard.Hashes, shard.Checkpoint
	if doc.Seal, err = a.Entry(end - 1); err != nil {
		return nil, err
	}
	doc.Shard, err = a.Entry(end)
	return doc, err
}

// SealPlan is what `gridveil ledger seal` says before it acts.
type SealPlan struct {
	Origin    string `json:"origin"` // of the log that is sealed
	Next      string `json:"next"`   // of the log that goes on
	Entries   uint64 `json:"entries"`
	Waiting   uint64 `json:"sessions_waiting"` // entered and not settled
	Cases     int    `json:"open_cases"`
	Payments  int    `json:"open_payments"` // of closes, not confirmed
	Notes     string `json:"notes_out"`     // worth of notes in circulation
	Files     string `json:"files"`         // where the flat files will be
	Cosigners string `json:"quorum"`        // of the newest checkpoint
	Sealed    bool   `json:"sealed"`        // the log holds its seal
	Begun     bool   `json:"begun"`         // and the next one has begun
	Machines  int    `json:"machines"`      // that keep this ledger
}

// SealCall is the request of `gridveil ledger seal`.
type SealCall struct {
	Next string `json:"next"` // origin by which the caller was asked; empty: plan only
}

const (
	sealWait = time.Minute            // for the quorum, on the wall clock
	sealLook = 100 * time.Millisecond // between looks
)

// seal is the command `gridveil ledger seal`.
func (a *Aggregator) seal(ctx context.Context, in json.RawMessage) (any, error) {
	var q SealCall
	if err := json.Unmarshal(in, &q); err != nil {
		return nil, errors.New("want {next}")
	}
	return a.Seal(ctx, q.Next)
}

// Seal only plans without an origin; with the planned one it seals the log and
// waits a minute for the next one to begin, but not in a cluster, where its own
// term ends before that. Calling it again waits again.
func (a *Aggregator) Seal(ctx context.Context, next string) (plan SealPlan, err error) {
	w := a.book()
	if list := a.shards.List(); w != nil && len(list) > 1 && w.Origin() == next {
		return SealPlan{Origin: list[len(list)-2].Origin, Next: next, Entries: list[len(list)-2].Size, Sealed: true, Begun: w.Size() > 0, Machines: a.machines()}, nil
	}
	if w == nil || w.Size() == 0 {
		return plan, fmt.Errorf("%w\nnext: try again when `gridveil ledger status` shows entries", errNoBook)
	}
	plan = a.sealPlan(w)
	if next == "" {
		return plan, nil
	}
	if next != plan.Next {
		return plan, fmt.Errorf("the log goes on as %s, not as %s\nnext: run the command again; the ledger has moved on since it asked", plan.Next, next)
	}
	if !plan.Sealed {
		if _, err := a.enterOne(ctx, w, ledger.Salted(ledger.OriginHash(plan.Origin), []byte("seal")), &ledger.Seal{Next: plan.Next}, nil); err != nil {
			return plan, fmt.Errorf("seal the ledger: %w", err)
		}
		a.env.Log.Info("log sealed", "next", plan.Next)
	}
	plan.Sealed = true
	if a.env.Cluster != nil {
		return plan, nil
	}
	for deadline := time.Now().Add(sealWait); ctx.Err() == nil && time.Now().Before(deadline); {
		if next := a.book(); next != nil && next.Origin() == plan.Next && next.Size() > 0 {
			plan.Begun = true
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(sealLook):
		}
	}
	return plan, nil
}

// machines is how many machines keep the ledger.
func (a *Aggregator) machines() int {
	if a.env.Cluster == nil {
		return 1
	}
	return len(a.env.Cluster.Status().Members)
}

// sealPlan describes what is open in a log.
func (a *Aggregator) sealPlan(w *writer.Writer) (p SealPlan) {
	shard := a.shards.Open()
	p = SealPlan{Origin: w.Origin(), Entries: w.Size(), Files: a.shards.Files(shard.No), Next: a.nextOrigin(), Machines: a.machines()}
	c, _ := a.copy()
	p.Cosigners = c.Page(0, a.env.Clock.Now()).Quorum
	w.Read(func(m ledger.Machine) {
		s := m.(*ledger.Money).State
		if s.Sealed() != "" {
			p.Sealed, p.Next = true, s.Sealed()
		}
		for _, x := range s.Pairs() {
			p.Waiting += uint64(x.N)
		}
		for cur := range s.Currencies() {
			for _, x := range s.Payments(uint8(cur)) {
				if x.State == ledger.PayDue {
					p.Payments++
				}
			}
		}
		p.Cases = s.OpenCases()
		p.Notes = party.Money(s.Balance(ledger.NotesAccount(0)), s.Currencies()[0])
	})
	return p
}

// nextOrigin names the next shard after the year in which it begins.
func (a *Aggregator) nextOrigin() string {
	year := a.origin + "/" + strconv.Itoa(a.env.Clock.Now().UTC().Year())
	name := year
	for n := 2; slices.ContainsFunc(a.shards.List(), func(x party.Shard) bool { return x.Origin == name }); n++ {
		name = year + "-" + strconv.Itoa(n)
	}
	return name
}
