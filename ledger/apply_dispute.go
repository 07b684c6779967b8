package ledger

import (
	"slices"

	"gridveil/privacy/commit"
)

// safetyExtra is how many more approvals a case without notice needs.
const safetyExtra = 2

// caseRecord is a case; after its end only index and ended remain.
type caseRecord struct {
	index     uint64
	requester PartyID
	utility   PartyID
	asks      CaseKind
	reason    Reason
	opened    uint64 // log time, ms
	refs      []Hash
	yes, no   []PartyID
	partials  []PartyID
	answered  bool
	ended     Outcome // 0 while it is open
}

// openCase finds a case that has not ended.
func (s *State) openCase(id CaseID) (*caseRecord, error) {
	c, ok := s.cases[id]
	switch {
	case !ok:
		return nil, refuse(ErrMalformed, "no such case")
	case c.ended != 0:
		return nil, refuse(ErrWindow, "the case of entry %d has ended", c.index)
	}
	return c, nil
}

func (s *State) applyDispute(e *Entry, d *Dispute) error {
	if err := s.role(d.Utility, Utility); err != nil {
		return err
	}
	if old, used := s.cases[d.Case]; used {
		return &DuplicateError{What: "case", Index: old.index}
	}
	if s.openCases >= maxOpenCases {
		return refuse(ErrLimit, "%d open cases", maxOpenCases)
	}
	for _, ref := range d.Refs {
		if other, busy := s.disputed[ref]; busy {
			return &DuplicateError{What: "ref", Index: s.cases[other].index}
		}
		if r, ok := s.cdrs[short(ref)]; ok && r.payer != d.Utility {
			return refuse(ErrRole, "the payer of a session is party %d, not %d", r.payer, d.Utility)
		}
	}
	if d.Asks != CaseHold {
		allowed := max(1, s.monthCDRs*s.params.OpenPer10k/10_000)
		if s.quota[e.Party()]+uint64(len(d.Refs)) > allowed {
			return refuse(ErrLimit, "party %d may name %d sessions this month", e.Party(), allowed)
		}
		s.quota[e.Party()] += uint64(len(d.Refs))
	}
	if err := s.freeze(d.Refs); err != nil {
		return err
	}
	s.cases[d.Case] = &caseRecord{index: s.size, requester: e.Party(), utility: d.Utility, asks: d.Asks,
		reason: d.Reason, opened: s.tick, refs: slices.Clone(d.Refs)}
	for _, ref := range d.Refs {
		s.disputed[ref] = d.Case
	}
	s.openCases++
	return nil
}

// freeze takes the unsettled sessions among refs out of their sums. An error
// means that the state is broken, not the entry.
func (s *State) freeze(refs []Hash) error {
	for _, ref := range refs {
		r, ok := s.cdrs[short(ref)]
		if !ok || !s.unsettled(r) {
			continue
		}
		if err := s.leave(r); err != nil {
			s.broken = true
			return err
		}
		r.state = cdrHeld
		s.touched = append(s.touched, short(ref))
	}
	return nil
}

// seat checks that p may act on the case as an approver.
func (s *State) seat(p PartyID, c *caseRecord) error {
	switch {
	case !s.parties[p-1].Approver:
		return refuse(ErrRole, "party %d is no approver", p)
	case p == c.requester || p == c.utility:
		return refuse(ErrRole, "party %d has a part in the case", p)
	case c.asks == CaseHold:
		return refuse(ErrWindow, "a hold reveals nothing, so there is nothing to approve")
	case s.expired(c):
		return refuse(ErrWindow, "the case of entry %d has expired", c.index)
	}
	return nil
}

func (s *State) expired(c *caseRecord) bool { return s.tick > c.opened+s.params.CaseMs }

func (s *State) applyApprove(author PartyID, b *Approve) error {
	c, err := s.openCase(b.Case)
	if err != nil {
		return err
	}
	if err := s.seat(author, c); err != nil {
		return err
	}
	if slices.Contains(c.yes, author) || slices.Contains(c.no, author) {
		return &DuplicateError{What: "vote", Index: c.index}
	}
	if b.Yes {
		c.yes = append(c.yes, author)
	} else {
		c.no = append(c.no, author)
	}
	return nil
}

// approved reports whether the case may be opened now: enough approvals, one of
// them public, and the notice is over.
func (s *State) approved(c *caseRecord) bool {
	need, noticeOver := s.params.K, s.tick >= c.opened+s.params.NoticeMs
	if c.reason == ReasonSafety {
		need, noticeOver = need+safetyExtra, true
	}
	public := slices.ContainsFunc(c.yes, func(p PartyID) bool {
		r := s.parties[p-1].Role
		return r == Regulator || r == ConsumerBody
	})
	return uint64(len(c.yes)) >= need && public && noticeOver
}

func (s *State) applyPartial(author PartyID, b *Partial) error {
	c, err := s.openCase(b.Case)
	if err != nil {
		return err
	}
	if err := s.seat(author, c); err != nil {
		return err
	}
	switch {
	case !s.approved(c):
		return refuse(ErrWindow, "the case of entry %d is not approved: %d approvals, notice or a public seat is missing", c.index, len(c.yes))
	case slices.Contains(c.partials, author):
		return &DuplicateError{What: "partial", Index: c.index}
	}
	c.partials = append(c.partials, author)
	return nil
}

func (s *State) applyResult(b *Result) error {
	c, err := s.openCase(b.Case)
	if err != nil {
		return err
	}
	switch {
	case uint64(len(c.partials)) < s.params.K:
		return refuse(ErrWindow, "%d partials, want %d", len(c.partials), s.params.K)
	case c.answered:
		return &DuplicateError{What: "result", Index: c.index}
	}
	c.answered = true
	return nil
}

func (s *State) applyEnd(b *End) error {
	c, err := s.openCase(b.Case)
	if err != nil {
		return err
	}
	if b.Outcome == Expire && !s.expired(c) {
		return refuse(ErrWindow, "the case of entry %d expires at log time %d", c.index, c.opened+s.params.CaseMs)
	}
	for _, ref := range c.refs {
		delete(s.disputed, ref)
		r, ok := s.cdrs[short(ref)]
		if !ok || r.state != cdrHeld {
			continue
		}
		if err := s.thaw(short(ref), r, b.Outcome); err != nil {
			s.broken = true
			return err
		}
	}
	s.cases[b.Case] = &caseRecord{index: c.index, ended: b.Outcome}
	s.openCases--
	return nil
}

// thaw puts a held session into the first open bucket, or drops it.
func (s *State) thaw(d digest, r *cdrRecord, how Outcome) error {
	s.touched = append(s.touched, d)
	if how == Cancel {
		r.state, r.commit = cdrGone, Hash{}
		s.open--
		return nil
	}
	one, err := commit.Sum{}.Add(r.commit)
	if err != nil {
		return refuse(errBroken, "commitment of entry %d", r.index)
	}
	bucket := s.OpenBucket(r.cur, r.payer, r.grid)
	if bucket != r.bucket {
		s.remember(bucket, d)
	}
	r.bucket, r.state = bucket, cdrOpen
	s.join(r.pairKey, bucket, one)
	return nil
}

// Case is how a case stands on the ledger.
type Case struct {
	Index     uint64 // of the dispute entry
	Requester PartyID
	Utility   PartyID
	Asks      CaseKind
	Reason    Reason
	OpenedMs  uint64
	Refs      []Hash
	Yes, No   []PartyID
	Partials  []PartyID
	Approved  bool // partials are accepted now
	Answered  bool
	Ended     Outcome // 0 while open; then only Index is kept
}

// Case looks up a case.
func (s *State) Case(id CaseID) (Case, bool) {
	c, ok := s.cases[id]
	if !ok {
		return Case{}, false
	}
	v := Case{Index: c.index, Requester: c.requester, Utility: c.utility, Asks: c.asks, Reason: c.reason, OpenedMs: c.opened,
		Refs: slices.Clone(c.refs), Yes: slices.Clone(c.yes), No: slices.Clone(c.no), Partials: slices.Clone(c.partials),
		Answered: c.answered, Ended: c.ended}
	v.Approved = c.ended == 0 && c.asks != CaseHold && s.approved(c)
	return v, true
}

// Disputed tells a wallet whether one of its sessions is named in an open case.
func (s *State) Disputed(ref Hash) (CaseID, bool) {
	id, ok := s.disputed[ref]
	return id, ok
}
