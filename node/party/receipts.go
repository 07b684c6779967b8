package party

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/verifier"
	"gridveil/mesh/member"
	"gridveil/node/keys"
	"gridveil/node/role"
	"gridveil/node/store"
)

// receipts keeps what the log's writer pledged for own entries until they are
// final: with a checkpoint that breaks the pledge it convicts the log.
type receipts struct{ store *store.Store }

func receiptKey(index uint64) []byte { return store.SpaceLedger.Key([]byte("rcp"), store.U64(index)) }

// put keeps a receipt as part of an update.
func (b receipts) put(tx *store.Tx, r ledger.Receipt) error {
	return tx.Set(receiptKey(r.Index), r.Encode())
}

// all lists what is not final yet in one log, in its order.
func (b receipts) all(origin ledger.Hash) (list []ledger.Receipt, err error) {
	err = b.store.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceLedger.Key([]byte("rcp")), func(_, v []byte) error {
			r, err := ledger.ParseReceipt(v)
			if err != nil {
				return fmt.Errorf("stored receipt: %w", err)
			}
			if r.Origin == origin {
				list = append(list, r)
			}
			return nil
		})
	})
	return list, err
}

// pledged is a copy of the log against which receipts are held: size entries
// under a checkpoint that the log signed, final of them under the quorum.
type pledged struct {
	origin      ledger.Hash
	size, final uint64
	leaf        func(index uint64) (ledger.Hash, error)
	prove       func(index uint64) (*ledger.Proof, error)
}

// check forgets receipts of final entries. broken is evidence of the first one
// that the log did not keep; late is how many entries are still missing at a
// time by which the log pledged them.
func (b receipts) check(c pledged, by func(ledger.Receipt) bool) (broken *ledger.Evidence, late int, err error) {
	list, err := b.all(c.origin)
	if err != nil {
		return nil, 0, err
	}
	for _, r := range list {
		if r.Index >= c.size {
			if by(r) {
				late++
			}
			continue
		}
		leaf, err := c.leaf(r.Index)
		if err != nil {
			return nil, late, err
		}
		switch {
		case leaf != r.Leaf && broken == nil:
			p, err := c.prove(r.Index)
			if err != nil {
				return nil, late, err
			}
			broken = &ledger.Evidence{Kind: ledger.BrokenPledge, Receipt: r, Leaf: leaf, B: p.Checkpoint, Proof: p.Hashes}
		case leaf == r.Leaf && r.Index < c.final:
			if err := b.store.Update(func(tx *store.Tx) error { return tx.Delete(receiptKey(r.Index)) }); err != nil {
				return nil, late, fmt.Errorf("forget receipt: %w", err)
			}
		}
	}
	return broken, late, nil
}

// errReceipt means that the log's answer pledges nothing.
var errReceipt = errors.New("the log's receipt is not for this entry or not signed by its receipt key")

// accepts checks a receipt for an own entry before it counts.
func (p *Party) accepts(e *ledger.Entry, r ledger.Receipt) error {
	if r.Leaf != e.Leaf() || r.Party != e.Party() || r.Seq != e.Seq() {
		return errReceipt
	}
	origin := ""
	p.Read(func(s *ledger.State) { origin = s.Origin() })
	for _, k := range p.receiptKeys() {
		if r.Verify(origin, k) == nil {
			return nil
		}
	}
	return errReceipt
}

// receiptKeys are the keys under which the log's writer may sign receipts: those
// on the ledger, and the one that it publishes.
func (p *Party) receiptKeys() (list []ledger.Hash) {
	p.Read(func(s *ledger.State) { list = append(list, s.ActiveKeys(1, ledger.UseReceipt)...) })
	if log, ok := p.env.Dir.One(member.RoleAggregator, ""); ok {
		if pub, ok := log.Sheet.Find(keys.Receipt, 0); ok && len(pub) == len(ledger.Hash{}) {
			list = append(list, ledger.Hash(pub))
		}
	}
	return list
}

// receiptSlack is how long after the pledged time an entry may be missing before
// anybody is told: our copy follows the log with a delay.
const receiptSlack = 2 * pullPeriod

// holdToReceipts compares our copy with what the log pledged us.
func (p *Party) holdToReceipts(ctx context.Context, v *verifier.Verifier) error {
	st := v.Status()
	_, note := v.Cosigned()
	delay, now := time.Duration(0), p.env.Clock.Now()
	p.Read(func(s *ledger.State) { delay = time.Duration(s.Params().MergeDelayMs) * time.Millisecond })
	delay += receiptSlack + Behind(p.env.Clock)
	c := pledged{origin: ledger.OriginHash(st.Origin), size: st.Cosigned, final: p.finalSize(),
		leaf: func(index uint64) (ledger.Hash, error) {
			raw, err := v.Entry(index)
			return ledger.LeafHash(raw), err
		},
		prove: func(index uint64) (*ledger.Proof, error) {
			k, _, err := ledger.OpenCheckpoint(note, p.logKey())
			if err != nil {
				return nil, err
			}
			return v.Prove(index, k, note)
		}}
	broken, late, err := p.receipts.check(c, func(r ledger.Receipt) bool { return now.Sub(time.UnixMilli(int64(r.Ms))) > delay })
	if err != nil {
		return err
	}
	p.env.Warn.Set(late > 0, role.Warning{Code: "receipt-overdue", Severity: role.Problem, Title: "The ledger does not show what it gave receipts for",
		Text: fmt.Sprintf("Own entries that were accepted and are in no checkpoint yet, although their time is over: %d.", late),
		Next: "Ask the aggregator whether it runs and can sign checkpoints. The receipts are kept; they are evidence if other entries take their places."}, now)
	if broken == nil || st.Evidence != nil {
		return nil
	}
	return v.Convict(ctx, broken, p.receiptKeys()...)
}

// logKey verifies the log's own signatures.
func (p *Party) logKey() ledger.VerifierKey {
	policy, err := p.policy()
	if err != nil {
		return ledger.VerifierKey{}
	}
	return policy.Log
}
