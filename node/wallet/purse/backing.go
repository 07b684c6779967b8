package purse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/node/ask"
	"gridveil/node/monthly"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy/leak"
	"gridveil/privacy/session"
)

// Verdict is what this household knows about the entry behind collected notes.
type Verdict string

// Verdicts. Fetching is the first one; only Proved and Uncovered are final.
const (
	Fetching  Verdict = "the proof on the ledger is still to be fetched"
	Proved    Verdict = "proved on the ledger"
	Uncovered Verdict = "not covered by the ledger's entry"
)

// Backing is the evidence that a claim was backed on the ledger, or that it was
// not. It is kept as long as the session itself.
type Backing struct {
	Claim   Claim
	At      int64    // the notes came, UTC ms
	Request [32]byte // H(Collect) of the own request
	Answer  []byte   // session.Collected: issue, salt and proof of the leaf
	Entry   []byte   // the newest that was shown as the issue, with its .tlog-proof
	Proof   []byte
	Verdict Verdict
	Reason  string // why it is not proved
}

// proofJob is a claim whose entry is to be fetched.
type proofJob struct {
	Claim Claim
	Since int64 // the notes came, UTC ms
	At    int64 // next try, not before, UTC ms
}

// UnpaidAfter is from when on the owner is told that what a session earned is not
// paid, SessionEnds when a session is dropped even so, counted from its begin: an
// authorisation may come LateFor after it, and is not kept longer than KeepFor.
const (
	UnpaidAfter  = 14 * 24 * time.Hour
	SessionEnds  = session.LateFor + session.KeepFor
	droppedShown = 30 * 24 * time.Hour
)

const (
	proofWithin = 6 * time.Hour // bounds the random time between tries for one entry
	proofLate   = 3 * 24 * time.Hour
	backingKeep = SessionEnds
)

var backingSpace = store.SpaceNote.Key([]byte("backing"), []byte{0})

func backingKey(c Claim) []byte {
	return append(append(backingSpace[:len(backingSpace):len(backingSpace)], byte(c.Party)), c.Session...)
}

func setBacking(tx *store.Tx, b Backing) error {
	raw, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return tx.Set(backingKey(b.Claim), raw)
}

// backing reads the evidence of a claim; ok is false before its notes are here,
// and for notes of before the proofs were kept.
func (p *Purse) backing(c Claim) (b Backing, ok bool, err error) {
	raw, err := p.cfg.Store.Get(backingKey(c))
	if errors.Is(err, store.ErrNotFound) {
		return b, false, nil
	}
	if err != nil {
		return b, false, err
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return b, false, fmt.Errorf("stored proof of notes: %w", err)
	}
	return b, true, nil
}

// Claims is what the ledger shows of a session's notes that are here, for its
// page and the month's statement.
func (p *Purse) Claims(sessionName string) (out []monthly.Claim) {
	for party, what := range map[session.Party]string{session.PartyHost: monthly.ForEnergyIn, session.PartyDriver: monthly.ForEnergyOut,
		session.PartyChange: monthly.ForChange, session.PartyPool: monthly.ForFlexibility} {
		b, ok, err := p.backing(Claim{Session: sessionName, Party: party})
		if err != nil {
			p.cfg.Log.Warn("proof of notes cannot be read", "err", err)
		}
		answer, bad := session.ParseCollected(b.Answer)
		if !ok || bad != nil {
			continue
		}
		c := monthly.Claim{For: what, Minor: b.Claim.Minor, Issue: answer.Issue, Proved: b.Verdict == Proved, Uncovered: b.Verdict == Uncovered, Verdict: string(b.Verdict),
			Proof: &monthly.ClaimProof{Request: b.Request[:], Salt: answer.Salt[:], Leaf: answer.Proof, Entry: b.Entry, EntryProof: string(b.Proof)}}
		if b.Reason != "" {
			c.Verdict += ": " + b.Reason
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b monthly.Claim) int { return strings.Compare(a.For, b.For) })
	return out
}

// plansProof stages what is needed to prove a claim later. The caller holds mu.
func (p *Purse) plansProof(c Claim, request [32]byte, answer session.Collected) func(*store.Tx) error {
	now := p.cfg.Clock.Now()
	p.state.Proofs = append(p.state.Proofs, proofJob{Claim: c, Since: now.UnixMilli(), At: now.Add(p.random(0, proofWithin)).UnixMilli()})
	b := Backing{Claim: c, At: now.UnixMilli(), Request: request, Answer: answer.Bytes(), Verdict: Fetching}
	return func(tx *store.Tx) error { return setBacking(tx, b) }
}

// proveDue fetches one issue entry that is due, and plans the others anew: a
// row of them would tell that they are of one household.
func (p *Purse) proveDue(ctx context.Context) error {
	if due, _ := p.nextProof(); due != nil {
		if err := p.prove(ctx, *due); err != nil {
			return err
		}
	}
	p.warn()
	_, pause := p.nextProof()
	return &errWait{pause}
}

// warn shows the owner what is not as it should be.
func (p *Purse) warn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.cfg.Clock.Now()
	late := slices.ContainsFunc(p.state.Proofs, func(j proofJob) bool { return now.Sub(time.UnixMilli(j.Since)) > proofLate })
	p.cfg.Warn.Set(len(p.state.Uncovered) > 0, role.Warning{Code: "notes-not-covered", Severity: role.Problem, Title: "Notes came without an entry that covers them",
		Text: fmt.Sprintf("The ledger's entry that the aggregator named does not cover what %d of your claims asked for. The notes are here and stay good; what the aggregator entered for them is wrong.", len(p.state.Uncovered)),
		Next: "Print the month's statement with --signed --json, which holds the answer and the entry, and give it to your utility or a verifier."}, now)
	unpaid := 0
	for _, j := range p.state.Jobs {
		if now.Sub(time.UnixMilli(j.At)) > UnpaidAfter {
			unpaid++
		}
	}
	p.cfg.Warn.Set(unpaid > 0, role.Warning{Code: "notes-not-paid", Severity: role.Problem, Title: "The aggregator does not pay notes",
		Text: fmt.Sprintf("%d claims have gone unanswered for two weeks. A claim ends %d days after its session began; nobody pays it then.", unpaid, SessionEnds/(24*time.Hour)),
		Next: "Print the month's statement with --signed --json, which proves the claim, keep it, and ask the aggregator's operator for the notes."}, now)
	dropped := p.state.Dropped > 0 && now.Sub(time.UnixMilli(p.state.DroppedAt)) <= droppedShown
	p.cfg.Warn.Set(dropped, role.Warning{Code: "sessions-dropped-unpaid", Severity: role.Notice, Title: "Sessions were dropped that nobody paid",
		Text: fmt.Sprintf("%d sessions were %d days old and never settled or paid. This node has dropped them with their keys, as everybody else has.", p.state.Dropped, SessionEnds/(24*time.Hour)),
		Next: "If statements of their months were printed with --signed --json, they still prove what was charged: take them to the aggregator's operator."}, now)
	p.cfg.Warn.Set(late, role.Warning{Code: "notes-not-proved", Severity: role.Notice, Title: "Some notes are not proved on the ledger yet",
		Text: "For three days nobody has shown this node a final entry that backs them. The notes are here and stay good.",
		Next: "If this node was offline, nothing: it goes on asking. Else ask the aggregator's operator why the entry is not shown."}, now)
}

// forgetOld drops, once a day, evidence that is as old as sessions may become.
func (p *Purse) forgetOld(context.Context) error {
	now := p.cfg.Clock.Now()
	if now.Sub(p.swept) < 24*time.Hour {
		return nil
	}
	p.swept = now
	old := map[Claim]bool{}
	err := p.cfg.Store.View(func(tx *store.Tx) error {
		return tx.Each(backingSpace, func(_, v []byte) error {
			var b Backing
			if err := json.Unmarshal(v, &b); err != nil {
				return fmt.Errorf("stored proof of notes: %w", err)
			}
			if now.Sub(time.UnixMilli(b.At)) > backingKeep {
				old[b.Claim] = true
			}
			return nil
		})
	})
	if err != nil || len(old) == 0 {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Proofs = slices.DeleteFunc(p.state.Proofs, func(j proofJob) bool { return old[j.Claim] })
	p.state.Uncovered = slices.DeleteFunc(p.state.Uncovered, func(c Claim) bool { return old[c] })
	return p.update(func(tx *store.Tx) error {
		for c := range old {
			if err := tx.Delete(backingKey(c)); err != nil {
				return err
			}
		}
		return nil
	})
}

// nextProof is the oldest job that is due, nil for none, and when to look again.
func (p *Purse) nextProof() (due *proofJob, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pause = idle
	for _, j := range p.state.Proofs {
		left := time.UnixMilli(j.At).Sub(p.cfg.Clock.Now())
		if left <= 0 && due == nil {
			due = &j
			continue
		}
		pause = min(pause, max(left, retryMin))
	}
	return due, pause
}

// prove fetches and judges the entry behind a claim. The notes are money whatever
// comes out.
func (p *Purse) prove(ctx context.Context, j proofJob) error {
	b, ok, err := p.backing(j.Claim)
	if err != nil {
		return err
	}
	if !ok {
		return p.proofEnds(j.Claim, false)
	}
	answer, err := session.ParseCollected(b.Answer)
	if err != nil {
		return fmt.Errorf("stored answer to a claim: %w", err)
	}
	body := ask.IssueBody(answer.Issue)
	if err := p.asksProof(body); err != nil {
		return err
	}
	shown, err := p.ask(ctx, mesh.EVCollect, ask.Issue, body, false)
	var no *ask.RefusedError
	switch {
	case errors.As(err, &no):
		b.Reason = "the aggregator refused to show the entry: " + no.Reason
		return p.proofLater(j.Claim, b)
	case err != nil:
		if bad := p.proofLater(j.Claim, b); bad != nil {
			return bad
		}
		return err
	}
	if err := p.judgeBacking(&b, answer, shown); err != nil {
		b.Reason = err.Error()
		return p.proofLater(j.Claim, b)
	}
	if b.Verdict == Uncovered {
		p.cfg.Log.Warn("collected notes are not covered by their entry")
	}
	return p.proofEnds(j.Claim, b.Verdict == Uncovered, func(tx *store.Tx) error { return setBacking(tx, b) })
}

// asksProof notes that the question leaves.
func (p *Purse) asksProof(body []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.update(p.left(leak.ProofAsk, leak.Aggregator, body))
}

// judgeBacking decides what the entry shown says about a claim. Its error means
// that nothing final was shown under the number asked for.
func (p *Purse) judgeBacking(b *Backing, answer session.Collected, shown []byte) error {
	proven, err := ask.ParseProven(shown)
	if err != nil {
		return err
	}
	b.Entry, b.Proof = proven.Entry, proven.Proof
	policy, err := p.cfg.Operators.Policy()
	if err != nil {
		return err
	}
	e, err := proven.OpenAt(policy, answer.Issue)
	if err != nil {
		return err
	}
	answer.Request = b.Request // an answer may name another request: what counts is the own one
	issue, ok := e.Body().(*ledger.Issue)
	if !ok {
		err = fmt.Errorf("%w: entry %d is of kind %v, it issues no notes", session.ErrEvidence, answer.Issue, e.Kind())
	} else {
		err = settle.VerifyClaim(&answer, uint32(b.Claim.Minor), issue)
	}
	b.Verdict, b.Reason = Proved, ""
	if err != nil {
		b.Verdict, b.Reason = Uncovered, err.Error()
	}
	return nil
}

// proofLater plans the next try for a claim, and of what else is due, at random
// times; b is kept as it is.
func (p *Purse) proofLater(c Claim, b Backing) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.state.Proofs {
		if j := &p.state.Proofs[i]; j.Claim == c {
			j.At = p.cfg.Clock.Now().Add(p.random(retryMin, proofWithin)).UnixMilli()
		}
	}
	p.spread()
	return p.update(func(tx *store.Tx) error { return setBacking(tx, b) })
}

// proofEnds drops a job that is done; uncovered counts it among the claims that
// the owner is warned of.
func (p *Purse) proofEnds(c Claim, uncovered bool, also ...func(*store.Tx) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Proofs = slices.DeleteFunc(p.state.Proofs, func(j proofJob) bool { return j.Claim == c })
	if uncovered {
		p.state.Uncovered = append(p.state.Uncovered, c)
	}
	p.spread()
	return p.update(also...)
}

// spread plans anew what is due besides the entry just asked for. The caller
// holds mu.
func (p *Purse) spread() {
	now := p.cfg.Clock.Now()
	for i := range p.state.Proofs {
		if j := &p.state.Proofs[i]; j.At <= now.UnixMilli() {
			j.At = now.Add(p.random(retryMin, retryMax)).UnixMilli()
		}
	}
}
