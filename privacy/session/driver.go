package session

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/note"
	"gridveil/privacy/pseudo"
)

// DriverConfig is what a wallet knows before a session. It is not stored with
// the session: LoadDriver takes it again.
type DriverConfig struct {
	Net      privacy.Net
	Suite    privacy.Suite // of the network
	EVAGG    [16]byte      // the aggregator, the audience of the certificate
	EVAGGKey [32]byte      // its record key
	EVAGGBox []byte        // its HPKE key of the week
	Rand     io.Reader
	// Fair judges a Tick by the agreed terms and says what the host owes by
	// then, millionths; an error leaves it without Ack. Package ev supplies it.
	Fair func(t Tick) (owed int64, err error)
	// Audit checks a final record: the meter's signatures, that Record.Energy
	// is what they say, that Record.Amounts follow from the terms. It returns
	// the aggregator's fee, millionths. Package ev supplies it.
	Audit func(o Offer, r Record, v *Evidence) (fee int64, err error)
}

func (c *DriverConfig) check() error {
	if c.Rand == nil || c.Fair == nil || c.Audit == nil {
		return fmt.Errorf("driver: %w", ErrConfig)
	}
	return nil
}

// Driver is the wallet's side of one session. It is not safe for concurrent use.
type Driver struct {
	cfg DriverConfig
	driverState
}

// driverState is all that is stored; state.go encodes it.
type driverState struct {
	phase    Phase
	me       pseudo.Pseudonym
	exporter privacy.Exporter
	nonce    [16]byte
	offer    Offer
	open     Open
	box      []byte
	trust    uint16 // cap on trust, after consent; 0 without
	answer   []byte // the aggregator's last
	cause    Cause
	fee      FeeTerms
	locked   int64 // the host's lock, as the aggregator confirmed it
	last     Tick
	closed   []byte // what was signed at the end: a Settle
	evidence []byte // the Close behind it
	opening  *Opening
}

// NewDriver accepts an offer up to band under pseudonym me, which must have
// left its deck durably (pseudo.Deck.Take): Out.Persist and that deck are stored
// together before Out.Send leaves. It returns ErrOffer, ErrSignature, or
// pseudo.ErrLimit.
func NewDriver(cfg DriverConfig, now time.Time, me pseudo.Pseudonym, offer []byte, band uint16) (*Driver, Out, error) {
	if err := cfg.check(); err != nil {
		return nil, Out{}, err
	}
	o, err := ParseOffer(offer)
	if err != nil {
		return nil, Out{}, err
	}
	if err := o.Check(cfg.Net, now); err != nil {
		return nil, Out{}, err
	}
	if err := pseudo.CheckBand(band, me.Cert.Arg()); err != nil {
		return nil, Out{}, err
	}
	d := &Driver{cfg: cfg, driverState: driverState{phase: Asked, me: me, offer: o}}
	if err := d.seal(band); err != nil {
		return nil, Out{}, err
	}
	return d, d.out(Stay, Send{ToHost, d.Opening()}), nil
}

// seal makes Box and Open.
func (d *Driver) seal(band uint16) error {
	if _, err := io.ReadFull(d.cfg.Rand, d.nonce[:]); err != nil {
		return fmt.Errorf("draw mandate nonce: %w", err)
	}
	auth := billAuth{EVAGG: d.cfg.EVAGG, Epoch: d.me.Cert.Epoch(), Band: band, Nonce: d.nonce}
	x := boxed{Cert: d.me.Cert, BPK: pub(d.me.BSK), BSalt: d.me.BSalt, Nonce: d.nonce,
		Sig: privacy.Sign(d.me.BSK, privacy.KindBillAuth, d.cfg.Net, auth.body())}
	box, exporter, err := sealBox(d.cfg.Rand, d.cfg.Suite, d.cfg.EVAGGBox, d.cfg.Net, x)
	if err != nil {
		return fmt.Errorf("seal box: %w", err)
	}
	d.box, d.exporter = box, exporter
	d.open = Open{Offer: d.offer.Hash(d.cfg.Net), SPK: pub(d.me.SSK), EVAGG: d.cfg.EVAGG, Band: band, Box: sha256.Sum256(box)}
	d.open.Sig = privacy.Sign(d.me.SSK, privacy.KindOpen, d.cfg.Net, d.open.body())
	return nil
}

// LoadDriver restores a session from Out.Persist.
func LoadDriver(cfg DriverConfig, state []byte) (*Driver, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s, err := parseDriverState(state)
	if err != nil {
		return nil, err
	}
	return &Driver{cfg: cfg, driverState: s}, nil
}

func (d *Driver) out(o Order, send ...Send) Out {
	return Out{Persist: d.driverState.bytes(), Send: send, Order: o}
}

// String shows the phase only: the state holds keys.
func (d *Driver) String() string { return "driver session, " + d.phase.String() }

// GoString is String.
func (d *Driver) GoString() string { return d.String() }

// Phase tells where the session stands.
func (d *Driver) Phase() Phase { return d.phase }

// Opening is what goes to the host first, and again after a lost link.
func (d *Driver) Opening() []byte { return append(d.open.Bytes(), d.box...) }

// Session is H(Open).
func (d *Driver) Session() [32]byte { return d.open.Hash(d.cfg.Net) }

// Ref is the session's name on the ledger: a dispute about it shows there.
func (d *Driver) Ref() [32]byte { return d.me.Cert.Ref() }

// Code is the identity that the meter signs, see Code.
func (d *Driver) Code() string { return Code(d.open.SPK, d.offer.HPK) }

// Cause says why the session was refused.
func (d *Driver) Cause() Cause { return d.cause }

// Fee is what the aggregator said it takes; zero before its answer.
func (d *Driver) Fee() FeeTerms { return d.fee }

// Last is the newest acknowledged Tick.
func (d *Driver) Last() Tick { return d.last }

// Opened is the opening of the driver's ledger entry; nil before the receipt.
func (d *Driver) Opened() *Opening { return d.opening }

// Kept is what the driver keeps for a dispute: the Close with evidence, and the
// Settle as signed. Both are nil before the end.
func (d *Driver) Kept() (close, settle []byte) { return d.evidence, d.closed }

// Step takes bytes that came over the link to the host.
func (d *Driver) Step(now time.Time, msg []byte) (Out, error) {
	if len(msg) == 0 {
		return Out{}, fmt.Errorf("%w: no bytes", ErrMalformed)
	}
	switch privacy.Kind(msg[0]) {
	case privacy.KindAuthOK, privacy.KindAuthNo:
		return d.onAnswer(msg)
	case kindAsk:
		return d.onAsk(msg)
	case privacy.KindTick:
		return d.onTick(msg)
	case kindClose:
		return d.onClose(now, msg)
	case privacy.KindReceipt:
		return d.onReceipt(msg)
	}
	return Out{}, fmt.Errorf("%w: kind %d", ErrMalformed, msg[0])
}

func (d *Driver) onAnswer(msg []byte) (Out, error) {
	a, err := ParseAnswer(msg)
	if err != nil {
		return Out{}, err
	}
	if bytes.Equal(msg, d.answer) {
		return Out{}, nil
	}
	if err := a.verify(d.cfg.Net, d.cfg.EVAGGKey); err != nil {
		return Out{}, err
	}
	if d.answer != nil || d.phase > Settling || d.phase < Asked {
		return Out{}, fmt.Errorf("answer: %w", ErrOrder)
	}
	if !a.OK {
		return d.onNo(&a, msg)
	}
	x, err := d.inner(&a)
	if err != nil {
		return Out{}, err
	}
	if a.Session != d.Session() || a.Band != d.open.Band || x.Cause != CauseNone || x.Band != a.Band || x.Expires != a.Expires {
		return Out{}, fmt.Errorf("answer: %w", ErrMismatch)
	}
	d.answer, d.fee, d.cause = bytes.Clone(msg), x.Fee, CauseNone
	if d.phase == Asked {
		d.phase = Running
	}
	return d.out(Stay), nil
}

// onNo ends the session, unless the aggregator was only busy. A no whose inner
// part does not open comes from an aggregator that could not read the Box.
func (d *Driver) onNo(a *Answer, msg []byte) (Out, error) {
	d.cause = CauseIssuer
	if x, err := d.inner(a); err == nil {
		if x.Session != d.Session() {
			return Out{}, fmt.Errorf("answer: %w", ErrMismatch)
		}
		d.cause = x.Cause
	}
	if a.Reason == ReasonRetry {
		return d.out(Stay), nil
	}
	d.answer = bytes.Clone(msg)
	if d.closed == nil {
		d.phase = Refused
	}
	return d.out(Stop), nil
}

func (d *Driver) inner(a *Answer) (inner, error) {
	pt, err := d.exporter.Open(privacy.KindAuthInner, a.Inner)
	if err != nil {
		return inner{}, fmt.Errorf("answer: %w", err)
	}
	return parseInner(pt)
}

func (d *Driver) onAsk(msg []byte) (Out, error) {
	a, err := ParseAsk(msg)
	if err != nil {
		return Out{}, err
	}
	if d.phase != Asked || a.Session != d.Session() || a.Limit == 0 || a.Limit > d.open.Band {
		return Out{}, fmt.Errorf("ask: %w", ErrOrder)
	}
	d.trust = a.Limit
	return d.out(Consent), nil
}

// Show answers an Ask after the user agreed that the host may learn which
// utility is theirs. The session then runs up to Trust.
func (d *Driver) Show() (Out, error) {
	if d.phase != Asked || d.trust == 0 {
		return Out{}, fmt.Errorf("show: %w", ErrOrder)
	}
	d.phase = Running
	s := Shown{Session: d.Session(), Cert: d.me.Cert}
	return d.out(Stay, Send{ToHost, s.Bytes()}), nil
}

// Trust is the most that a session without answer may cost, currency units.
func (d *Driver) Trust() uint16 { return d.trust }

// cap is the most a session may cost now, millionths.
func (d *Driver) cap() int64 {
	if d.answer == nil {
		return int64(d.trust) * unit
	}
	return int64(d.open.Band) * unit
}

func (d *Driver) onTick(msg []byte) (Out, error) {
	t, err := ParseTick(msg)
	if err != nil {
		return Out{}, err
	}
	if d.phase != Running {
		return Out{}, fmt.Errorf("tick: %w", ErrOrder)
	}
	if err := t.verify(d.cfg.Net, d.offer.HPK); err != nil {
		return Out{}, err
	}
	if t == d.last {
		return Out{Send: []Send{d.ackOf(&t)}}, nil
	}
	prev := d.Session()
	if d.last.Seq > 0 {
		prev = d.last.Hash(d.cfg.Net)
	}
	if err := t.follows(&d.last, prev); err != nil {
		return Out{}, err
	}
	if t.Cum > d.cap() {
		return Out{}, fmt.Errorf("tick: %w", ErrBand)
	}
	owed, err := d.cfg.Fair(t)
	if err != nil {
		return Out{}, fmt.Errorf("tick: %w", err)
	}
	if owed > d.locked {
		return Out{Order: Stop}, fmt.Errorf("tick: %w", ErrNoLock)
	}
	d.last = t
	return d.out(Stay, d.ackOf(&t)), nil
}

func (d *Driver) ackOf(t *Tick) Send {
	a := Ack{Tick: t.Hash(d.cfg.Net)}
	a.Sig = privacy.Sign(d.me.SSK, privacy.KindAck, d.cfg.Net, a.body())
	return Send{ToHost, a.Bytes()}
}

// onClose checks the record and signs it.
func (d *Driver) onClose(now time.Time, msg []byte) (Out, error) {
	c, err := ParseClose(msg)
	if err != nil {
		return Out{}, err
	}
	if d.closed != nil && bytes.Equal(msg, d.evidence) {
		return Out{Send: []Send{{ToHost, d.closed}}}, nil
	}
	if d.phase != Running {
		return Out{}, fmt.Errorf("close: %w", ErrOrder)
	}
	fee, err := d.audit(now, &c)
	if err != nil {
		return Out{}, fmt.Errorf("close: %w", err)
	}
	r := c.Record
	r.DriverSig = privacy.Sign(d.me.SSK, privacy.KindRecord, d.cfg.Net, r.body())
	r.Amounts.Fee = fee
	s := stub{BPK: pub(d.me.BSK), EVAGG: d.cfg.EVAGG, Epoch: d.me.Cert.Epoch(), In: RoundEnergy(r.Energy.In()),
		Out: RoundEnergy(r.Energy.Out), Total: r.Amounts.Total(), Currency: r.Currency, AuthNonce: d.nonce}
	s.Sig = privacy.Sign(d.me.BSK, privacy.KindStub, d.cfg.Net, s.body())
	box, err := d.exporter.Seal(d.cfg.Rand, privacy.KindStub, s.bytes())
	if err != nil {
		return Out{}, fmt.Errorf("seal stub: %w", err)
	}
	settle := Settle{Record: r, Stub: box}
	d.closed, d.evidence, d.phase = settle.Bytes(), bytes.Clone(msg), Settling
	return d.out(Stay, Send{ToHost, d.closed}), nil
}

// audit checks everything that the record says, and returns the fee.
func (d *Driver) audit(now time.Time, c *Close) (int64, error) {
	r := &c.Record
	if err := r.verifyHost(d.cfg.Net, d.offer.HPK); err != nil {
		return 0, err
	}
	var last [32]byte
	if d.last.Seq > 0 {
		last = d.last.Hash(d.cfg.Net)
	}
	switch {
	case r.Form != Both || r.Open != d.Session() || r.Offer != d.open.Offer || r.Currency != d.offer.Currency || r.LastTick != last:
		return 0, ErrMismatch
	case !r.Energy.covers(d.last.Energy):
		return 0, fmt.Errorf("%w: the record is below the last tick", ErrChain)
	case now.Add(slotSeconds*time.Second).Unix() < int64(r.T1)*slotSeconds-slotSeconds:
		return 0, fmt.Errorf("%w: the record ends in the future", ErrMismatch)
	}
	if c.Evidence == nil && r.Evidence != ([32]byte{}) {
		return 0, fmt.Errorf("%w: it was not handed over", ErrEvidence)
	}
	if c.Evidence != nil {
		if err := c.Evidence.opens(&d.offer, r); err != nil {
			return 0, err
		}
	}
	fee, err := d.cfg.Audit(d.offer, *r, c.Evidence)
	if err != nil {
		return 0, err
	}
	a := r.Amounts
	a.Fee = fee
	if err := a.Check(d.offer.Mode); err != nil {
		return 0, err
	}
	if a.Total() > d.cap() {
		return 0, ErrBand
	}
	if a.Owed > d.locked {
		return 0, ErrNoLock
	}
	return fee, nil
}

func (d *Driver) onReceipt(msg []byte) (Out, error) {
	r, err := ParseReceipt(msg)
	if err != nil {
		return Out{}, err
	}
	if r.Session != d.Session() {
		return Out{}, fmt.Errorf("receipt: %w", ErrMismatch)
	}
	if err := r.Verify(d.cfg.Net, d.cfg.EVAGGKey); err != nil {
		return Out{}, err
	}
	if r.Taken == TakenLock {
		if d.phase != Running {
			return Out{}, fmt.Errorf("lock receipt: %w", ErrOrder)
		}
		d.locked = max(d.locked, r.Value)
		return d.out(Stay), nil
	}
	pt, err := d.exporter.Open(privacy.KindReceiptInner, r.Inner)
	if err != nil {
		return Out{}, fmt.Errorf("receipt: %w", err)
	}
	o, err := parseOpening(pt)
	if err != nil {
		return Out{}, err
	}
	if err := d.expects(&r, &o); err != nil {
		return Out{}, err
	}
	d.opening, d.phase = &o, Done
	return d.out(Stay), nil
}

// expects says whether a receipt settles what the driver signed. A session that
// the host cut has no such record; its opening is taken up to the band.
func (d *Driver) expects(r *Receipt, o *Opening) error {
	if o.Record != r.What {
		return fmt.Errorf("receipt: %w", ErrMismatch)
	}
	if d.closed == nil {
		if o.Values.Pay > d.cap() {
			return fmt.Errorf("receipt: %w", ErrBand)
		}
		return nil
	}
	s, err := ParseSettle(d.closed)
	if err != nil {
		return err
	}
	if s.Record.Hash(d.cfg.Net) != r.What {
		return fmt.Errorf("receipt: %w", ErrMismatch)
	}
	return nil
}

// Due is what the driver may collect for energy of the car, millionths; zero
// before the receipt.
func (d *Driver) Due() int64 {
	if d.phase != Done || d.closed == nil {
		return 0
	}
	s, err := ParseSettle(d.closed)
	if err != nil {
		return 0 // own bytes, parsed before
	}
	return s.Record.Amounts.Driver
}

// Key signs what belongs to this session besides its own messages: package
// pool's offers. It is secret.
func (d *Driver) Key() ed25519.PrivateKey { return d.me.SSK }

// Collect asks for the driver's notes, boxed so that whoever carries it learns
// nothing: row is blinded in the keys of month epoch, as PartyDriver for Due, as
// PartyPool for the sum of the session's Shares.
func (d *Driver) Collect(p Party, epoch uint32, row note.Row) ([]byte, error) {
	if !p.boxed() || p == PartyDriver && d.Due() == 0 || d.phase != Done {
		return nil, ErrNotDue
	}
	c := Collect{Session: d.Session(), Party: p, Epoch: epoch, Row: row}
	c.Sign(d.cfg.Net, d.me.SSK)
	// Seeded by the request itself: asking again gives the same bytes.
	rnd := privacy.SeededReader("gridveil-collect", d.exporter[:], c.Sig[:])
	return boxCollect(rnd, d.exporter, c.Session, c.Bytes())
}

// CollectName is H(Collect) of a request that Collect gave: what the ledger's
// issue entry must cover.
func (d *Driver) CollectName(msg []byte) ([32]byte, error) {
	_, box, err := splitBoxed(msg)
	if err != nil {
		return [32]byte{}, err
	}
	b, err := d.exporter.Open(privacy.KindCollectInner, box)
	if err != nil {
		return [32]byte{}, fmt.Errorf("collect: %w", err)
	}
	c, err := ParseCollect(b)
	return c.Hash(d.cfg.Net), err
}

// OpenCollected opens the answer to Collect.
func (d *Driver) OpenCollected(msg []byte) (Collected, error) {
	_, box, err := splitBoxed(msg)
	if err != nil {
		return Collected{}, err
	}
	pt, err := d.exporter.Open(privacy.KindCollectInner, box)
	if err != nil {
		return Collected{}, fmt.Errorf("collected: %w", err)
	}
	return ParseCollected(pt)
}
