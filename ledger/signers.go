package ledger

import (
	"bytes"
	"fmt"
	"slices"

	"filippo.io/edwards25519"

	"gridveil/privacy"
)

// demand is the exact set of signers of one entry.
type demand struct {
	author    PartyID    // who must be the author, 0 if any party may
	also      []PartyID  // further parties, each once
	fresh     []freshKey // keys that this entry registers
	approvers int        // how many further approvers, whichever they are
}

type freshKey struct {
	use Use
	pub Hash
}

// Checks lists what must verify before e is applied: every signature of exactly
// the demanded signers, the notes, the order of new keys. It returns ErrSigners
// or ErrRole if the set is not the demanded one, errors of lookups (an unknown
// target), and ErrExists, ErrSeqConflict or ErrSeqOld for a sequence number that
// was used; a gap is left to Apply, because the entries before e may be queued.
//
// The checks refer to nothing that changes: State may move on while they run.
func (s *State) Checks(e *Entry) ([]Check, error) {
	if op, err := s.operator(e.Party()); err == nil && e.Seq() <= op.seq {
		return nil, op.seen(e)
	}
	pubs, err := s.signers(e, nil)
	if err != nil {
		return nil, err
	}
	msg := e.signed(s.homeHash)
	checks := make([]Check, 0, len(pubs))
	for i := range pubs {
		checks = append(checks, Check{Pub: pubs[i][:], Msg: msg, Sig: e.sigs[i].Sig[:]})
	}
	return s.facts(e, checks)
}

// facts appends the checks that are not signatures of the entry.
func (s *State) facts(e *Entry, checks []Check) ([]Check, error) {
	newKey := func(pub Hash) { checks = append(checks, Check{Fact: func() error { return CheckKey(pub) }}) }
	switch b := e.Body().(type) {
	case *Genesis:
		for i := range b.Parties {
			newKey(b.Parties[i].Pub)
		}
	case *Party:
		newKey(b.Pub)
	case *Key:
		if b.Add {
			newKey(b.Pub)
		}
	case *Redeem:
		return s.noteChecks(b, checks)
	}
	return checks, nil
}

// signers resolves the signatures of e to public keys, in the order of its
// signatures, appended to pubs. It returns ErrSigners unless they are exactly
// those demanded.
func (s *State) signers(e *Entry, pubs []Hash) ([]Hash, error) {
	d, err := s.demand(e)
	if err != nil {
		return nil, err
	}
	if d.author != 0 && e.Party() != d.author {
		return nil, refuse(ErrRole, "a %s like this is entered by party %d", e.Kind(), d.author)
	}
	if e.Kind() != KindGenesis { // its parties sign with the keys it registers
		d.also = add(d.also, e.Party())
	}
	var counted []PartyID // approvers that signed
	for i, sig := range e.sigs {
		if pub, ok := d.takeFresh(sig.Key); ok {
			pubs = append(pubs, pub)
			continue
		}
		k, ok := s.keys[sig.Key]
		switch {
		case !ok || k.use != UseEntry:
			return nil, refuse(ErrSigners, "signature %d is of no registered entry key", i)
		case k.revoked:
			return nil, refuse(ErrSigners, "signature %d is of a revoked key of party %d", i, k.party)
		case d.takeParty(k.party):
		case d.approvers > 0 && s.mayApprove(k.party, d.author, counted):
			d.approvers--
			counted = append(counted, k.party)
		default:
			return nil, refuse(ErrSigners, "party %d signs, but is not asked to", k.party)
		}
		pubs = append(pubs, k.pub)
	}
	if len(d.also)+len(d.fresh)+d.approvers > 0 {
		return nil, refuse(ErrSigners, "%s lacks %d parties, %d new keys and %d approvers", e.Kind(), len(d.also), len(d.fresh), d.approvers)
	}
	return pubs, nil
}

// mayApprove reports whether p counts as one of the approvers of an entry: an
// approver other than the author, once.
func (s *State) mayApprove(p, author PartyID, counted []PartyID) bool {
	return s.parties[p-1].Approver && p != author && !slices.Contains(counted, p)
}

// add puts p into the set unless it is there.
func add(set []PartyID, p PartyID) []PartyID {
	if slices.Contains(set, p) {
		return set
	}
	return append(set, p)
}

// takeParty removes p from those who still have to sign.
func (d *demand) takeParty(p PartyID) bool {
	i := slices.Index(d.also, p)
	if i >= 0 {
		d.also = slices.Delete(d.also, i, i+1)
	}
	return i >= 0
}

// takeFresh removes the new key with this id from those that still have to
// sign.
func (d *demand) takeFresh(id KeyID) (Hash, bool) {
	for i, f := range d.fresh {
		if KeyIDOf(f.use, f.pub) == id {
			d.fresh = slices.Delete(d.fresh, i, i+1)
			return f.pub, true
		}
	}
	return Hash{}, false
}

// demand tells who must sign e. Source: design/ledger.md, 4.2.
func (s *State) demand(e *Entry) (demand, error) {
	switch b := e.Body().(type) {
	case *Genesis:
		var d demand
		for i := range b.Parties {
			d.fresh = append(d.fresh, freshKey{UseEntry, b.Parties[i].Pub})
		}
		return d, nil
	case *Party:
		d := demand{author: 1, fresh: []freshKey{{UseEntry, b.Pub}}}
		if b.Approver {
			d.approvers = int(s.params.K)
		}
		return d, nil
	case *Key:
		if b.Add {
			return demand{fresh: []freshKey{{b.Use, b.Pub}}}, nil
		}
		return demand{}, nil
	case *Denoms, *Tick, *CDR, *Issue, *Lapse, *Close, *Seal, *Shard:
		return demand{author: 1}, nil
	case *Tariff:
		return demand{}, s.role(e.Party(), Utility, DSO)
	case *Settle:
		d := demand{author: 1, also: []PartyID{b.Payer}}
		if b.GridPay < 0 {
			d.also = add(d.also, b.Grid)
		}
		return d, nil
	case *Transfer:
		return demand{author: b.From.Party()}, ownBook(b.From)
	case *Reverse:
		return s.demandReverse(b)
	case *Redeem:
		return demand{author: ownerOf(b.Payee)}, nil
	case *Paid:
		pay, err := s.payment(b.Cur, b.Period, b.No)
		return demand{author: pay.Payee}, err
	case *Failed:
		pay, err := s.payment(b.Cur, b.Period, b.No)
		return demand{author: pay.Payee, also: []PartyID{1}}, err
	case *Result:
		c, err := s.openCase(b.Case)
		if err != nil {
			return demand{}, err
		}
		return demand{author: c.utility}, nil
	case *End:
		return s.demandEnd(b)
	case *Anchor, *Dispute, *Approve, *Partial:
		return demand{}, nil // the author alone; its role is a rule of Apply
	}
	return demand{}, refuse(ErrKind, "%s", e.Kind())
}

// ownBook refuses a source of money that no operator owns.
func ownBook(a Account) error {
	if a.Party() == 0 || a.Book() != Open {
		return refuse(ErrRole, "money leaves only an open book, not %v", a)
	}
	return nil
}

// ownerOf is the party that signs for an account: the common books are the
// aggregator's to sign for.
func ownerOf(a Account) PartyID {
	if a.Party() == 0 {
		return 1
	}
	return a.Party()
}

func (s *State) demandReverse(b *Reverse) (demand, error) {
	t, ok := s.transfers[b.Target]
	if !ok {
		return demand{}, refuse(ErrWindow, "entry %d is no transfer since the last close", b.Target)
	}
	return demand{author: ownerOf(t.to)}, nil
}

func (s *State) demandEnd(b *End) (demand, error) {
	c, err := s.openCase(b.Case)
	if err != nil {
		return demand{}, err
	}
	switch b.Outcome {
	case Release:
		return demand{author: c.requester}, nil
	case Cancel:
		return demand{author: 1}, nil
	}
	return demand{}, nil // expire: by anyone
}

// minusOne is l-1, the largest scalar, for multiplying a point by the order of
// the prime subgroup.
var minusOne = new(edwards25519.Scalar).Negate(one())

func one() *edwards25519.Scalar {
	b := [32]byte{1}
	s, err := new(edwards25519.Scalar).SetCanonicalBytes(b[:])
	if err != nil {
		panic(fmt.Sprintf("ledger: scalar one: %v", err))
	}
	return s
}

// CheckKey returns ErrMalformed unless pub is a canonical Ed25519 point of the
// prime-order subgroup: under ZIP-215 a key of small order or mixed torsion
// would let its owner deny signatures.
func CheckKey(pub Hash) error {
	if err := privacy.CheckKey(pub[:]); err != nil { // canonical, not of small order
		return refuse(ErrMalformed, "key: %v", err)
	}
	p, err := new(edwards25519.Point).SetBytes(pub[:])
	if err != nil {
		return refuse(ErrMalformed, "key is no curve point")
	}
	// (l-1)P + P is the identity only without a torsion part.
	lp := new(edwards25519.Point).ScalarMult(minusOne, p)
	lp.Add(lp, p)
	if !bytes.Equal(lp.Bytes(), edwards25519.NewIdentityPoint().Bytes()) {
		return refuse(ErrMalformed, "key has a part of small order")
	}
	return nil
}
