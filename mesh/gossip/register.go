package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/route"
)

const maxAhead = 2 * time.Minute // clocks of admitted backbone members differ by at most 30 s; the rest is slack

// Action is what happens to an offered envelope.
type Action uint8

// Actions. Reject also blames the forwarder; Ignore does not.
const (
	Accept Action = iota
	Ignore
	Reject
)

// String gives the action's word for metrics.
func (a Action) String() string { return [...]string{"accept", "ignore", "reject"}[a] }

// Reason is why an envelope was not accepted: a short stable word for metrics and logs.
type Reason string

// Reasons, in the order of the checks.
const (
	ReasonLayout      Reason = "layout"       // 1 Reject
	ReasonTopic       Reason = "topic"        // 1 Reject: kind is not the topic's, or another network
	ReasonFuture      Reason = "future"       // 2
	ReasonExpired     Reason = "expired"      // 2
	ReasonLife        Reason = "life"         // 2
	ReasonOld         Reason = "old"          // 3: a newer version is held
	ReasonSame        Reason = "same"         // 3: these bytes are held
	ReasonCertUnknown Reason = "cert-unknown" // 4: fetch NeedCert, then pull again
	ReasonCertExpired Reason = "cert-expired" // 4
	ReasonCertRevoked Reason = "cert-revoked" // 4
	ReasonPublisher   Reason = "publisher"    // 4 Reject: role, zone or operator may not publish this
	ReasonUnheld      Reason = "unheld"       // 4: a home says that it has stopped relaying, and nobody here knew that it did
	ReasonSignature   Reason = "signature"    // 5 Reject
	ReasonEquivocates Reason = "equivocates"  // 6: Evidence is set
	ReasonRate        Reason = "rate"         // 7
	ReasonFull        Reason = "full"         // 7
)

// Verdict is what a body check says, and what Offer decided.
type Verdict struct {
	Action Action
	Reason Reason // "" when accepted
}

// Decision is the outcome of Offer.
type Decision struct {
	Verdict
	Envelope Envelope      // valid unless Reason is ReasonLayout
	Member   member.Member // the publisher; valid from check 4 on
	NeedCert bool          // fetch the certificate Envelope.CertHash
	Evidence []byte        // body of an alarm that proves equivocation; nil if it does not fit or is not provable
}

// Source says how an envelope reached us.
type Source struct {
	Topic  Kind // 0 when it did not come by pubsub
	Pulled bool // we asked for it: the publisher's rate does not apply to a backlog
}

// Certificates answers which member a certificate hash stands for; member.Roll does.
type Certificates interface {
	Lookup(hash [32]byte, now time.Time) (member.Member, error)
	Bundle() *member.Bundle
}

// Registers holds the newest envelope of every register and is the only
// validator. It does no I/O and is not safe for concurrent use.
type Registers struct {
	network [8]byte
	certs   Certificates
	checks  [len(rules)]func(Envelope) Verdict
	held    map[ID]*Envelope
	count   [len(rules)]int
	own     map[share]int
	rates   map[share]bucket
}

// share counts one publisher's part of one kind.
type share struct {
	publisher member.Key
	kind      Kind
}

// bucket is a token bucket; tokens are scaled so that one register costs the period.
type bucket struct {
	level time.Duration // time worth of tokens
	at    time.Time
}

// maxRates bounds the rate table: members times kinds, far above the directory's 2048 registers.
const maxRates = 1 << 16

// NewRegisters makes an empty set of registers for the network of certs' bundle.
func NewRegisters(certs Certificates) *Registers {
	return &Registers{
		network: certs.Bundle().Tag(), certs: certs,
		held: map[ID]*Envelope{}, own: map[share]int{}, rates: map[share]bucket{},
	}
}

// Check sets the body check of kind k: price bounds, ranges, quorum. It runs
// last, must not block and decides with a reason. nil accepts every body.
func (r *Registers) Check(k Kind, check func(Envelope) Verdict) { r.checks[k] = check }

// Load puts back what this node saved. It was validated before it was saved,
// so only network and signature are checked again: certificates may not be
// known yet after a restart. Expired registers keep their version number. It
// returns how many were refused, for a log line.
func (r *Registers) Load(saved []Envelope, now time.Time) (refused int) {
	for _, e := range saved {
		held := r.held[e.ID()]
		switch {
		case e.Network != r.network, !e.Kind.Valid(), !e.Verify():
			refused++
		case !now.Before(tombUntil(&e)), held != nil && held.Version >= e.Version: // no longer needed
		case !r.room(&e, now):
			refused++
		default:
			r.put(&e)
		}
	}
	return refused
}

// Offer validates raw and, if it is accepted, makes it the newest of its
// register. The checks run in a fixed order and the first that fails decides.
func (r *Registers) Offer(raw []byte, from Source, now time.Time) Decision {
	e, err := ParseEnvelope(raw)
	if err != nil {
		return Decision{Verdict: Verdict{Reject, ReasonLayout}}
	}
	return r.offer(e, from, now)
}

func (r *Registers) offer(e Envelope, from Source, now time.Time) Decision {
	d := Decision{Envelope: e}
	held := r.held[e.ID()]
	if d.Verdict = r.checkFrame(&e, held, from, now); d.Action != Accept {
		return d
	}
	m, err := r.certs.Lookup(e.CertHash, now)
	d.Member = m
	if d.Verdict = r.checkPublisher(&e, held, m, err); d.Action != Accept {
		d.NeedCert = d.Reason == ReasonCertUnknown
		return d
	}
	if !e.Verify() {
		d.Verdict = Verdict{Reject, ReasonSignature}
		return d
	}
	if held != nil && held.Version == e.Version {
		d.Verdict, d.Evidence = equivocation(held, &e)
		return d
	}
	if d.Verdict = r.checkLoad(&e, m, from, now); d.Action != Accept {
		return d
	}
	if check := r.checks[e.Kind]; check != nil {
		if d.Verdict = check(e); d.Action != Accept {
			return d
		}
	}
	r.put(&e)
	return d
}

// checkFrame runs checks 1 to 3: what can be said without knowing the publisher.
func (r *Registers) checkFrame(e, held *Envelope, from Source, now time.Time) Verdict {
	switch {
	case from.Topic != 0 && from.Topic != e.Kind, e.Network != r.network:
		return Verdict{Reject, ReasonTopic}
	case e.Issued.After(now.Add(maxAhead)):
		return Verdict{Ignore, ReasonFuture}
	case !e.Expires.After(now):
		return Verdict{Ignore, ReasonExpired}
	case e.Expires.Sub(e.Issued) > e.Kind.MaxLife(e.Key):
		return Verdict{Ignore, ReasonLife}
	case held != nil && e.Version < held.Version:
		return Verdict{Ignore, ReasonOld}
	case held != nil && e.Version == held.Version && e.Signature == held.Signature && bytes.Equal(e.Body, held.Body):
		return Verdict{Ignore, ReasonSame}
	}
	return Verdict{}
}

// checkPublisher runs check 4.
func (r *Registers) checkPublisher(e, held *Envelope, m member.Member, err error) Verdict {
	switch {
	case errors.Is(err, member.ErrUnknown):
		return Verdict{Ignore, ReasonCertUnknown}
	case errors.Is(err, member.ErrRevoked):
		return Verdict{Ignore, ReasonCertRevoked}
	case err != nil:
		return Verdict{Ignore, ReasonCertExpired}
	case m.Key != e.Publisher, !rules[e.Kind].publish(m, e, r.certs.Bundle()):
		return Verdict{Reject, ReasonPublisher}
	case m.Role.Leaf() && held == nil && !relays(e):
		return Verdict{Ignore, ReasonUnheld}
	}
	return Verdict{}
}

// relays reads the relay flag of a `keys` register.
func relays(e *Envelope) bool {
	k, err := route.ParseKeys(e.Body)
	return err == nil && k.Flags&route.FlagRelay != 0
}

// equivocation is check 6: one version number, two contents, both signed.
func equivocation(held, e *Envelope) (Verdict, []byte) {
	if bytes.Equal(held.Body, e.Body) {
		return Verdict{Ignore, ReasonSame}, nil // signed twice with other times; harmless
	}
	if held.Publisher != e.Publisher {
		return Verdict{Ignore, ReasonEquivocates}, nil // trust: the publisher only carries what a root or CA signed
	}
	evidence, err := EncodeEvidence(held, e)
	if err != nil {
		return Verdict{Ignore, ReasonEquivocates}, nil // trust bodies of up to 60 KiB do not fit
	}
	return Verdict{Ignore, ReasonEquivocates}, evidence
}

// checkLoad runs check 7: rate of the publisher, room for the register.
func (r *Registers) checkLoad(e *Envelope, m member.Member, from Source, now time.Time) Verdict {
	if !from.Pulled && !r.takeToken(share{e.Publisher, e.Kind}, now) {
		return Verdict{Ignore, ReasonRate}
	}
	held := r.held[e.ID()]
	newcomer := held == nil || !held.Expires.After(now)
	if !r.room(e, now) || m.Role.Leaf() && newcomer && !r.roomForHome(m, now) {
		return Verdict{Ignore, ReasonFull}
	}
	return Verdict{}
}

// roomForHome reports whether one more home may be in the directory as a relay.
func (r *Registers) roomForHome(m member.Member, now time.Time) bool {
	all, own := 0, 0
	for _, e := range r.held {
		if e.Kind != KindDirectory || e.Key != KeyOnion || !e.Expires.After(now) {
			continue
		}
		if p, err := r.certs.Lookup(e.CertHash, now); err == nil && p.Role.Leaf() {
			all++
			if p.Operator == m.Operator {
				own++
			}
		}
	}
	return all < MaxHomes && own < MaxHomes/2
}

// room reports whether e's register exists or may be opened. One publisher may
// hold at most half of a kind, so that it cannot shut the others out.
func (r *Registers) room(e *Envelope, now time.Time) bool {
	if r.held[e.ID()] != nil {
		return true
	}
	rule := rules[e.Kind]
	if r.count[e.Kind] >= rule.Total {
		r.Sweep(now)
	}
	return r.count[e.Kind] < rule.Total && (rule.ByKeyOnly || r.own[share{e.Publisher, e.Kind}] < rule.Total/2)
}

// takeToken spends one registration of a publisher's rate.
func (r *Registers) takeToken(s share, now time.Time) bool {
	rule := rules[s.kind]
	cost := rule.Per / time.Duration(rule.Rate)
	b, known := r.rates[s]
	if !known {
		if len(r.rates) >= maxRates {
			r.dropIdleRates(now)
		}
		if len(r.rates) >= maxRates {
			return false
		}
		b = bucket{rule.Per, now}
	}
	b.level, b.at = min(rule.Per, b.level+max(0, now.Sub(b.at))), now
	if b.level < cost {
		r.rates[s] = b
		return false
	}
	b.level -= cost
	r.rates[s] = b
	return true
}

func (r *Registers) dropIdleRates(now time.Time) {
	for s, b := range r.rates {
		if now.Sub(b.at) >= rules[s.kind].Per {
			delete(r.rates, s)
		}
	}
}

func (r *Registers) put(e *Envelope) {
	id := e.ID()
	if old := r.held[id]; old != nil {
		r.count[e.Kind]--
		r.own[share{old.Publisher, old.Kind}]--
	}
	r.held[id] = e
	r.count[e.Kind]++
	r.own[share{e.Publisher, e.Kind}]++
}

// tombUntil is how long an expired register must keep its version number: until
// every older version, issued before it, has expired too.
func tombUntil(e *Envelope) time.Time { return e.Issued.Add(maxAhead + e.Kind.MaxLife(e.Key)) }

// Sweep forgets registers whose version number is no longer needed and returns
// their ids, to delete from the store.
func (r *Registers) Sweep(now time.Time) []ID {
	var gone []ID
	for id, e := range r.held {
		if e.Expires.After(now) || now.Before(tombUntil(e)) {
			continue
		}
		delete(r.held, id)
		r.count[e.Kind]--
		s := share{e.Publisher, e.Kind}
		if r.own[s]--; r.own[s] == 0 {
			delete(r.own, s)
		}
		gone = append(gone, id)
	}
	return gone
}

// Get gives the newest envelope of a register that has not expired.
func (r *Registers) Get(k Kind, publisher member.Key, key uint64, now time.Time) (Envelope, bool) {
	probe := Envelope{Kind: k, Publisher: publisher, Key: key}
	e := r.held[probe.ID()]
	if e == nil || !e.Expires.After(now) {
		return Envelope{}, false
	}
	return *e, true
}

// NextVersion is the version for our own next publication: above what is held,
// so that it grows also if the clock went back.
func (r *Registers) NextVersion(k Kind, publisher member.Key, key uint64, now time.Time) uint64 {
	probe := Envelope{Kind: k, Publisher: publisher, Key: key}
	next := uint64(now.UnixMilli())
	if e := r.held[probe.ID()]; e != nil {
		next = max(next, e.Version+1)
	}
	return next
}

// All lists the registers of kind k that have not expired, ordered by id.
func (r *Registers) All(k Kind, now time.Time) []Envelope {
	var ids []ID
	for id, e := range r.held {
		if e.Kind == k && e.Expires.After(now) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	out := make([]Envelope, len(ids))
	for i, id := range ids {
		out[i] = *r.held[id]
	}
	return out
}

// DigestSize is one entry of a sync digest: kind 1 | id 8 | version 8.
const DigestSize = 17

// Have is one entry of a sync digest.
type Have struct {
	Kind    Kind
	ID      ID
	Version uint64
}

// Digest lists what is held of the given kinds, for a sync request.
func (r *Registers) Digest(now time.Time, kinds ...Kind) []Have {
	var out []Have
	for id, e := range r.held {
		if slices.Contains(kinds, e.Kind) && e.Expires.After(now) {
			out = append(out, Have{e.Kind, id, e.Version})
		}
	}
	slices.SortFunc(out, func(a, b Have) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return out
}

// Newer lists the envelopes of the given kinds that the owner of a digest lacks.
func (r *Registers) Newer(digest []Have, now time.Time, kinds ...Kind) []Envelope {
	theirs := make(map[ID]uint64, len(digest))
	for _, h := range digest {
		theirs[h.ID] = h.Version
	}
	var out []Envelope
	for _, k := range kinds {
		for _, e := range r.All(k, now) {
			if v, have := theirs[e.ID()]; !have || v < e.Version {
				out = append(out, e)
			}
		}
	}
	return out
}

// EncodeDigest gives the wire form of a digest.
func EncodeDigest(digest []Have) []byte {
	b := make([]byte, 0, DigestSize*len(digest))
	for _, h := range digest {
		b = append(append(b, byte(h.Kind)), h.ID[:]...)
		b = binary.BigEndian.AppendUint64(b, h.Version)
	}
	return b
}

// maxDigest is every register of every kind.
const maxDigest = 32_768

// ParseDigest is the inverse of EncodeDigest.
func ParseDigest(raw []byte) ([]Have, error) {
	if len(raw)%DigestSize != 0 || len(raw) > maxDigest*DigestSize {
		return nil, fmt.Errorf("%w: digest of %d bytes", ErrEnvelope, len(raw))
	}
	var out []Have
	for ; len(raw) > 0; raw = raw[DigestSize:] {
		h := Have{Kind(raw[0]), ID(raw[1:]), binary.BigEndian.Uint64(raw[9:])}
		if !h.Kind.Valid() {
			return nil, fmt.Errorf("%w: kind %d in a digest", ErrEnvelope, raw[0])
		}
		out = append(out, h)
	}
	return out, nil
}

const (
	evidenceMagic = "GVQ1"
	evidenceFixed = 8 // magic, two lengths
)

// EncodeEvidence packs two contradicting envelopes as the body of an alarm:
//
//	"GVQ1" | len u16 | envelope | len u16 | envelope
func EncodeEvidence(a, b *Envelope) ([]byte, error) {
	out := []byte(evidenceMagic)
	for _, e := range []*Envelope{a, b} {
		raw := e.Encode()
		if len(out)+2+len(raw) > maxAlarm {
			return nil, fmt.Errorf("%w: evidence does not fit an alarm", ErrEnvelope)
		}
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(raw))), raw...)
	}
	return out, nil
}

// ParseEvidence is the inverse of EncodeEvidence. It succeeds only if the two
// envelopes prove equivocation: same register, same version, other body, both
// signed by the same publisher.
func ParseEvidence(body []byte) (a, b Envelope, err error) {
	bad := fmt.Errorf("%w: alarm body is no evidence of equivocation", ErrEnvelope)
	if len(body) < evidenceFixed || string(body[:4]) != evidenceMagic {
		return a, b, bad
	}
	rest := body[4:]
	for _, e := range []*Envelope{&a, &b} {
		if len(rest) < 2 || len(rest) < 2+int(binary.BigEndian.Uint16(rest)) {
			return a, b, bad
		}
		size := int(binary.BigEndian.Uint16(rest))
		if *e, err = ParseEnvelope(rest[2 : 2+size]); err != nil {
			return a, b, err
		}
		rest = rest[2+size:]
	}
	same := a.Publisher == b.Publisher && a.Network == b.Network && a.ID() == b.ID() && a.Version == b.Version
	if len(rest) > 0 || !same || bytes.Equal(a.Body, b.Body) || !a.Verify() || !b.Verify() {
		return a, b, bad
	}
	return a, b, nil
}
