package ledger

// Verdict is what Tracker thinks of a checkpoint.
type Verdict struct {
	Kind     VerdictKind
	From, To uint64 // for Gap: sizes between which a consistency proof is wanted
	Err      error  // for Refused
}

// VerdictKind says how a checkpoint relates to what is known.
type VerdictKind uint8

// Verdicts.
const (
	Refused  VerdictKind = iota // not a checkpoint of a log we know, or not signed by it
	Known                       // the same as the largest known one
	Advanced                    // the new largest one
	Older                       // smaller than the known one and proved consistent
	Gap                         // ask for a consistency proof and call Prove
	Fork                        // it contradicts the known one: see the Evidence
)

// Tracker remembers the largest verified checkpoint of each log and notices
// when two contradict each other. Every node runs one on what it hears. Not safe
// for concurrent use.
type Tracker struct {
	logs map[string]*tracked
}

type tracked struct {
	policy *Policy
	best   Checkpoint
	note   []byte
	forked *Evidence
	seen   []sight // the last maxSeen that were signed by the log, oldest first
}

// sight is a checkpoint that was heard, whether or not it was proved consistent.
type sight struct {
	size uint64
	root Hash
	note []byte
}

// maxSeen bounds what a tracker remembers of a log besides the largest proved
// checkpoint: at one in ten minutes, two days.
const maxSeen = 288

// NewTracker follows the logs of the policies.
func NewTracker(policies ...*Policy) *Tracker {
	t := &Tracker{logs: map[string]*tracked{}}
	for _, p := range policies {
		t.logs[p.Log.Name()] = &tracked{policy: p}
	}
	return t
}

// Observe judges a checkpoint note. The first of a log is taken as it is; a
// larger or smaller one is a Gap until Prove bridges it; two roots of one size
// convict also without a proof, as far as the last 288 checkpoints go. Evidence
// comes with Fork only, and is kept: see Forked.
func (t *Tracker) Observe(checkpoint []byte) (Verdict, *Evidence) {
	l, c, err := t.open(checkpoint)
	if err != nil {
		return Verdict{Kind: Refused, Err: err}, nil
	}
	if other := l.see(c, checkpoint); other != nil {
		return l.convict(&Evidence{Kind: TwoRoots, A: other, B: checkpoint})
	}
	switch {
	case l.best.Size == 0:
		l.best, l.note = c, checkpoint
		return Verdict{Kind: Advanced}, nil
	case c.Size == 0:
		return Verdict{Kind: Older}, nil // the empty tree is consistent with any
	case c.Size == l.best.Size && c.Root == l.best.Root:
		return Verdict{Kind: Known}, nil
	case c.Size == l.best.Size:
		return l.convict(&Evidence{Kind: TwoRoots, A: l.note, B: checkpoint})
	}
	return Verdict{Kind: Gap, From: min(c.Size, l.best.Size), To: max(c.Size, l.best.Size)}, nil
}

// Prove bridges a Gap: proof shows that the larger of the checkpoint and the
// known one grew out of a tree with the smaller one's size and the root
// oldRoot. If that is not the root that the smaller one states, the log is
// convicted. A proof that shows nothing gives Refused.
func (t *Tracker) Prove(checkpoint []byte, oldRoot Hash, proof []Hash) (Verdict, *Evidence) {
	l, c, err := t.open(checkpoint)
	if err != nil {
		return Verdict{Kind: Refused, Err: err}, nil
	}
	if c.Size == l.best.Size || l.best.Size == 0 || c.Size == 0 {
		return t.Observe(checkpoint)
	}
	small, large, grows := l.best, c, true
	a, b := l.note, checkpoint
	if c.Size < l.best.Size {
		small, large, grows, a, b = c, l.best, false, checkpoint, l.note
	}
	claimed := small
	claimed.Root = oldRoot
	if err := CheckConsistency(claimed, large, proof); err != nil {
		return Verdict{Kind: Refused, Err: err}, nil
	}
	if oldRoot != small.Root {
		return l.convict(&Evidence{Kind: OtherHistory, A: a, B: b, Root: oldRoot, Proof: proof})
	}
	if !grows {
		return Verdict{Kind: Older}, nil
	}
	l.best, l.note = c, checkpoint
	return Verdict{Kind: Advanced}, nil
}

func (t *Tracker) open(checkpoint []byte) (*tracked, Checkpoint, error) {
	origin := originOf(checkpoint)
	l, ok := t.logs[origin]
	if !ok {
		return nil, Checkpoint{}, refuse(ErrMalformed, "checkpoint of a log that no policy names")
	}
	c, _, err := l.policy.Open(checkpoint)
	return l, c, err
}

// originOf is the first line of a checkpoint note.
func originOf(checkpoint []byte) string {
	for i, b := range checkpoint {
		if b == '\n' {
			return string(checkpoint[:i])
		}
	}
	return ""
}

// see remembers a checkpoint and gives the note of another one of its size with
// another root, nil if there is none.
func (l *tracked) see(c Checkpoint, note []byte) []byte {
	for _, s := range l.seen {
		if s.size != c.Size {
			continue
		}
		if s.root != c.Root {
			return s.note
		}
		return nil
	}
	if len(l.seen) >= maxSeen {
		l.seen = l.seen[1:]
	}
	l.seen = append(l.seen, sight{c.Size, c.Root, note})
	return nil
}

func (l *tracked) convict(e *Evidence) (Verdict, *Evidence) {
	if l.forked == nil {
		l.forked = e
	}
	return Verdict{Kind: Fork, Err: ErrFork}, e
}

// Best is the largest verified checkpoint of a log, and its note.
func (t *Tracker) Best(origin string) (Checkpoint, []byte) {
	if l, ok := t.logs[origin]; ok {
		return l.best, l.note
	}
	return Checkpoint{}, nil
}

// Forked is the first evidence against a log, nil while it behaves.
func (t *Tracker) Forked(origin string) *Evidence {
	if l, ok := t.logs[origin]; ok {
		return l.forked
	}
	return nil
}
