package session

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/pseudo"
)

// ErrRetry, wrapped by an error of SettlerConfig.Pass, says that the pass cannot
// be judged now (a key list is still on its way): the host is told to retry and
// nothing is burned.
var ErrRetry = errors.New("cannot be judged now")

// SettlerConfig is an aggregator.
type SettlerConfig struct {
	Net     privacy.Net
	ID      [16]byte           // the audience of its certificates
	Key     ed25519.PrivateKey // record key
	Boxes   []privacy.BoxKey   // HPKE keys, this week's first, then those of the last LateFor
	Issuers pseudo.IssuerKeys  // the utilities' certificate keys
	// Revoked says whether a utility revoked a bill key of an epoch.
	Revoked func(issuer [16]byte, bpk [32]byte, epoch uint32) bool
	// Pass verifies a host pass at a time: its key, and the blind signature
	// over hpk. An error wrapping ErrRetry burns nothing.
	Pass func(key [8]byte, hpk [32]byte, sig [PassSize]byte, at time.Time) error
	// Price judges a finished session by tariff and evidence, and returns the
	// aggregator's fee, millionths. Package ev supplies it.
	Price func(c Case) (fee int64, err error)
	// Shares are what a settled session earned in the pool, final on the ledger;
	// ErrNotYet while one of its events goes on. nil pools nothing.
	Shares  func(session [32]byte) ([]Share, error)
	Fee     FeeTerms
	AuthFor time.Duration // an answer's life: the session must begin within
	Rand    io.Reader
	// Get reads what an earlier Put stored; nil means nothing there.
	Get func(key []byte) []byte
}

// Case is what Price judges.
type Case struct {
	Offer    Offer
	Band     uint16
	Record   Record
	Evidence *Evidence // nil when held
}

// Put is one thing to store before Reply.Msg leaves. It may be forgotten after
// Until.
type Put struct {
	Key, Value []byte
	Until      time.Time
}

// Reply is an answer and what must be durable before it leaves.
type Reply struct {
	Put []Put
	Msg []byte
}

// Settler is the aggregator's side of all sessions. It holds no state of its
// own: everything is read with Get and returned as Put. From a method's first
// Get until its Puts are durable no other method may run, or two requests could
// burn one pseudonym.
type Settler struct{ cfg SettlerConfig }

// String hides the configuration, which holds keys.
func (*Settler) String() string { return "settler" }

// GoString is String.
func (*Settler) GoString() string { return "settler" }

// NewSettler returns ErrConfig if a part of the configuration is missing.
func NewSettler(cfg SettlerConfig) (*Settler, error) {
	if cfg.Key == nil || len(cfg.Boxes) == 0 || cfg.Issuers == nil || cfg.Revoked == nil || cfg.Pass == nil ||
		cfg.Price == nil || cfg.Rand == nil || cfg.Get == nil || cfg.AuthFor <= 0 {
		return nil, fmt.Errorf("aggregator: %w", ErrConfig)
	}
	return &Settler{cfg}, nil
}

// Keys of the store: one letter and a name.
const (
	bySPK     = 's' // spk -> H(Open)
	byHPK     = 'h' // hpk -> H(Open)
	bySession = 'o' // H(Open) -> admitted
	byLock    = 'l' // H(Open) -> value, H(Lock), receipt
	bySettle  = 't' // H(Open) -> H(Settle), receipt, Settled
	byClaim   = 'c' // H(Open) party -> H(Collect), answer
)

func key(prefix byte, name [32]byte, more ...byte) []byte {
	return append(append([]byte{prefix}, name[:]...), more...)
}

// admitted is what the aggregator keeps of an authorised session.
type admitted struct {
	Offer    Offer
	Open     Open
	Box      boxed
	Exporter privacy.Exporter
	Expires  uint32
	Answer   []byte
}

func (a *admitted) bytes() []byte {
	var e enc
	e.raw(a.Offer.Bytes())
	e.raw(a.Open.Bytes())
	e.raw(a.Box.bytes())
	e.raw(a.Exporter[:])
	e.u32(a.Expires)
	e.blob(a.Answer)
	return e
}

func parseAdmitted(b []byte) (a admitted, err error) {
	d := &dec{b: b}
	if a.Offer, err = ParseOffer(d.take(OfferSize)); err != nil {
		return a, err
	}
	if a.Open, err = ParseOpen(d.take(OpenSize)); err != nil {
		return a, err
	}
	if a.Box, err = parseBoxed(d.take(boxPlain)); err != nil {
		return a, err
	}
	d.raw(a.Exporter[:])
	a.Expires = d.u32()
	a.Answer = d.blob(AnswerSize)
	return a, d.end("stored session")
}

// session loads an authorised session, or ErrUnknown.
func (s *Settler) session(name [32]byte) (admitted, error) {
	b := s.cfg.Get(key(bySession, name))
	if b == nil {
		return admitted{}, ErrUnknown
	}
	return parseAdmitted(b)
}

// refusal is a no on its way: what the host and what the driver may know.
type refusal struct {
	reason Reason
	cause  Cause
}

// Authorise decides an AuthReq. Every request that can be read gets an answer of
// one size; the same Open always gets the same yes. An error means that there is
// nothing to answer.
func (s *Settler) Authorise(now time.Time, msg []byte) (Reply, error) {
	r, err := ParseAuthReq(msg, s.cfg.Boxes[0].Suite)
	if err != nil {
		return Reply{}, err
	}
	a, no := s.open(&r)
	if no != nil {
		return s.no(msg, a, no)
	}
	name := a.Open.Hash(s.cfg.Net)
	if known := s.cfg.Get(key(bySPK, a.Open.SPK)); known != nil && [32]byte(known) == name {
		stored, err := s.session(name)
		if err != nil {
			return Reply{}, fmt.Errorf("stored answer: %w", err)
		}
		return Reply{Msg: stored.Answer}, nil
	}
	if no := s.admit(now, &r, a); no != nil {
		return s.no(msg, a, no)
	}
	return s.yes(now, name, a)
}

// open reads the Box and rebuilds the Open that the request implies.
func (s *Settler) open(r *AuthReq) (*admitted, *refusal) {
	for i := range s.cfg.Boxes {
		pt, exporter, err := privacy.Open(s.cfg.Boxes[i], privacy.KindBox, s.cfg.Net, r.Box)
		if err != nil {
			continue
		}
		a := &admitted{Offer: r.Offer, Exporter: exporter}
		if a.Box, err = parseBoxed(pt); err != nil {
			return a, &refusal{ReasonRefused, CauseIssuer}
		}
		a.Open = Open{Offer: r.Offer.Hash(s.cfg.Net), SPK: a.Box.Cert.SPK(), EVAGG: s.cfg.ID, Band: r.Band,
			Box: sha256.Sum256(r.Box), Sig: r.OpenSig}
		return a, nil
	}
	return nil, &refusal{ReasonRefused, CauseIssuer}
}

// admit is the list of checks, the host's part first: pass, offer, certificate,
// open, mandate, bill key, use, revocation, limit.
func (s *Settler) admit(now time.Time, r *AuthReq, a *admitted) *refusal {
	at, no := s.openedAt(now, &r.Offer)
	if no != nil {
		return no
	}
	if err := s.cfg.Pass(r.Offer.PassKey, r.Offer.HPK, r.Pass, at); errors.Is(err, ErrRetry) {
		return &refusal{ReasonRetry, CauseBusy}
	} else if err != nil {
		return &refusal{ReasonOffer, CauseOffer}
	}
	if r.Offer.verify(s.cfg.Net) != nil {
		return &refusal{ReasonOffer, CauseOffer}
	}
	cert := &a.Box.Cert
	if err := pseudo.Verify(cert, s.cfg.Net, pseudo.Driver, s.cfg.ID, s.cfg.Issuers, at); errors.Is(err, pseudo.ErrExpired) {
		return &refusal{ReasonRefused, CauseExpired}
	} else if err != nil {
		return &refusal{ReasonRefused, CauseIssuer}
	}
	if a.Open.verify(s.cfg.Net) != nil {
		return &refusal{ReasonRefused, CauseIssuer}
	}
	auth := billAuth{EVAGG: s.cfg.ID, Epoch: cert.Epoch(), Band: r.Band, Nonce: a.Box.Nonce}
	if !privacy.Verify(a.Box.BPK[:], privacy.KindBillAuth, s.cfg.Net, auth.body(), a.Box.Sig) || !cert.OpensBill(a.Box.BPK, a.Box.BSalt) {
		return &refusal{ReasonRefused, CauseIssuer}
	}
	switch {
	case s.cfg.Get(key(bySPK, a.Open.SPK)) != nil:
		return &refusal{ReasonRefused, CauseUsed}
	case s.cfg.Get(key(byHPK, r.Offer.HPK)) != nil:
		return &refusal{ReasonOffer, CauseOffer}
	case s.cfg.Revoked(cert.Issuer(), a.Box.BPK, cert.Epoch()):
		return &refusal{ReasonRefused, CauseRevoked}
	case pseudo.CheckBand(r.Band, cert.Arg()) != nil:
		return &refusal{ReasonRefused, CauseLimit}
	}
	return nil
}

// openedAt is when the session was opened, as far as can be known: now, or for a
// request that comes late (the host was offline) the end of its offer. Pass and
// certificate are judged at that time.
func (s *Settler) openedAt(now time.Time, o *Offer) (time.Time, *refusal) {
	until := time.Unix(int64(o.Expires), 0)
	switch {
	case until.Sub(now) > MaxOfferAge:
		return now, &refusal{ReasonOffer, CauseOffer}
	case now.Sub(until) > LateFor:
		return now, &refusal{ReasonOffer, CauseExpired}
	case now.After(until):
		return until, nil
	}
	return now, nil
}

func (s *Settler) yes(now time.Time, name [32]byte, a *admitted) (Reply, error) {
	x := inner{Session: name, Band: a.Open.Band, Expires: uint32(now.Add(s.cfg.AuthFor).Unix()), Fee: s.cfg.Fee}
	box, err := a.Exporter.Seal(s.cfg.Rand, privacy.KindAuthInner, x.bytes())
	if err != nil {
		return Reply{}, fmt.Errorf("seal answer: %w", err)
	}
	ans := Answer{OK: true, Session: name, Band: x.Band, Expires: x.Expires, Inner: box}
	ans.Sig = privacy.Sign(s.cfg.Key, privacy.KindAuthOK, s.cfg.Net, ans.body())
	a.Expires, a.Answer = x.Expires, ans.Bytes()
	until := s.keepUntil(now, a)
	return Reply{Msg: a.Answer, Put: []Put{
		{key(bySPK, a.Open.SPK), name[:], until},
		{key(byHPK, a.Offer.HPK), name[:], until},
		{key(bySession, name), a.bytes(), until},
	}}, nil
}

// keepUntil is how long a burned pseudonym is remembered: past any time at which
// its certificate could still be taken for valid.
func (s *Settler) keepUntil(now time.Time, a *admitted) time.Time {
	_, end := pseudo.Window(pseudo.Driver, a.Box.Cert.Epoch())
	if end.Before(now) {
		end = now
	}
	return end.Add(KeepFor)
}

// no answers a refusal. Without an open Box there is nobody to tell the cause:
// random bytes stand in its place.
func (s *Settler) no(msg []byte, a *admitted, r *refusal) (Reply, error) {
	ans := Answer{Session: sha256.Sum256(msg), Reason: r.reason}
	var err error
	if a != nil {
		x := inner{Cause: r.cause, Session: a.Open.Hash(s.cfg.Net)}
		ans.Inner, err = a.Exporter.Seal(s.cfg.Rand, privacy.KindAuthInner, x.bytes())
	} else {
		ans.Inner = make([]byte, innerBox)
		_, err = io.ReadFull(s.cfg.Rand, ans.Inner)
	}
	if err != nil {
		return Reply{}, fmt.Errorf("seal answer: %w", err)
	}
	ans.Sig = privacy.Sign(s.cfg.Key, privacy.KindAuthNo, s.cfg.Net, ans.body())
	return Reply{Msg: ans.Bytes()}, nil
}
