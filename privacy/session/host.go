package session

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/pseudo"
)

// HostConfig is what a gateway knows before a session. It is not stored with
// the session: LoadHost takes it again.
type HostConfig struct {
	Net      privacy.Net
	Suite    privacy.Suite // of the network
	EVAGG    [16]byte      // the aggregator
	EVAGGKey [32]byte      // its record key
	// TrustLimit is the most, in currency units, that the host risks when no
	// answer comes and the driver shows its certificate; 0 never trusts.
	TrustLimit uint16
	// Unattended says that the offer's terms agree to a session without Acks;
	// the offer must have ModeShown.
	Unattended bool
	// Shown says that the session followed an instruction of the pool: what the
	// meter signed goes to the aggregator whatever the offer's mode.
	Shown bool
	// Issuers are the utilities' certificate keys as the gateway last saw them
	// on the ledger; only needed with TrustLimit.
	Issuers pseudo.IssuerKeys
}

// Host is the gateway's side of one session. It is not safe for concurrent use.
type Host struct {
	cfg HostConfig
	hostState
}

// hostState is all that is stored; state.go encodes it.
type hostState struct {
	key   ed25519.PrivateKey // of hpk
	pass  [PassSize]byte
	phase Phase
	offer Offer

	open    Open
	box     []byte
	since   int64 // ms: AuthReq sent, tick sent or record sent, whichever the phase waits on
	asked   bool  // Ask was sent
	cert    []byte
	answer  []byte // the aggregator's, once it came
	band    uint16 // the cap in force
	lock    []byte
	locked  int64 // acknowledged by the aggregator
	paused  bool  // for want of an Ack
	last    step  // last tick made
	acked   step  // last tick with an Ack
	ack     Ack
	ending  *Ending
	record  Record
	settle  []byte
	receipt []byte
}

// step is a Tick with the amounts behind its sum, and when it was made.
type step struct {
	tick    Tick
	amounts Amounts
	at      int64 // ms
}

// Ending is what the house knows when the transaction is over.
type Ending struct {
	Energy     Energy
	Amounts    Amounts
	Begin, End time.Time
	Evidence   *Evidence // nil for an unmetered session
}

// Rhythm of Ticks.
const (
	tickEvery  = 60 * time.Second
	tickEnergy = 100_000 // mWh
)

// NewHost signs an offer with key, which must be new, and whose public half the
// pass is for. It fills o.HPK.
func NewHost(cfg HostConfig, key ed25519.PrivateKey, pass [PassSize]byte, o Offer) (*Host, Out, error) {
	if cfg.Unattended && o.Mode&ModeShown == 0 {
		return nil, Out{}, fmt.Errorf("%w: unattended sessions need shown evidence", ErrOffer)
	}
	o.HPK = pub(key)
	o.Sig = privacy.Sign(key, privacy.KindOffer, cfg.Net, o.body())
	h := &Host{cfg: cfg, hostState: hostState{key: key, pass: pass, phase: Offered, offer: o}}
	return h, h.out(Stay, Send{ToDriver, o.Bytes()}), nil
}

// LoadHost restores a session from Out.Persist; then send Outbox again.
func LoadHost(cfg HostConfig, state []byte) (*Host, error) {
	s, err := parseHostState(state)
	if err != nil {
		return nil, err
	}
	return &Host{cfg: cfg, hostState: s}, nil
}

// out stores the state before anything leaves.
func (h *Host) out(o Order, send ...Send) Out {
	return Out{Persist: h.hostState.bytes(), Send: send, Order: o}
}

// String shows the phase only: the state holds keys.
func (h *Host) String() string { return "host session, " + h.phase.String() }

// GoString is String.
func (h *Host) GoString() string { return h.String() }

// Phase tells where the session stands.
func (h *Host) Phase() Phase { return h.phase }

// Trusted says that the session began on a shown certificate, without answer.
func (h *Host) Trusted() bool { return h.cert != nil }

// Offer is the offer as made.
func (h *Host) Offer() Offer { return h.offer }

// Session is H(Open), the session's name; zero before the Open.
func (h *Host) Session() [32]byte {
	if h.phase == Offered {
		return [32]byte{}
	}
	return h.open.Hash(h.cfg.Net)
}

// Key signs what belongs to this session besides its own messages: package
// pool's offers. It is secret.
func (h *Host) Key() ed25519.PrivateKey { return h.key }

// Guest is the driver's key of this session; zero before the Open.
func (h *Host) Guest() [32]byte { return h.open.SPK }

// Code is the transaction's idTag, see Code; empty before the Open.
func (h *Host) Code() string {
	if h.phase == Offered {
		return ""
	}
	return Code(h.open.SPK, h.offer.HPK)
}

// Band is the cap in force, currency units: the band authorised or trusted.
func (h *Host) Band() uint16 { return h.band }

// Locked is the value behind what the host may come to owe, millionths.
func (h *Host) Locked() int64 { return h.locked }

// Last is the record as signed so far and the evidence behind it; ok is false
// before End.
func (h *Host) Last() (r Record, v *Evidence, ok bool) {
	if h.ending == nil || h.record.HostSig == (privacy.Signature{}) {
		return Record{}, nil, false
	}
	return h.record, h.ending.Evidence, true
}

// Receipt is the aggregator's receipt of the settled session, nil before it.
func (h *Host) Receipt() []byte { return h.receipt }

// Claim is what proves a trusted session in a dispute: certificate, Open and
// Settle. It is empty unless the session was trusted and settled.
func (h *Host) Claim() (cert, open, settle []byte) {
	if h.cert == nil || h.settle == nil {
		return nil, nil, nil
	}
	return h.cert, h.open.Bytes(), h.settle
}

// Outbox lists the messages to the aggregator that still lack their answer.
// They are repeated unchanged, with random delay, for up to LateFor.
func (h *Host) Outbox() []Send {
	var out []Send
	if h.phase >= Asked && h.phase <= Settling && h.answer == nil {
		out = append(out, Send{ToAggregator, h.authReq()})
		return out // neither Lock nor Settle mean anything before
	}
	if h.lock != nil && h.locked == 0 {
		out = append(out, Send{ToAggregator, h.lock})
	}
	if h.phase == Settling {
		out = append(out, Send{ToAggregator, h.settle})
	}
	return out
}

// toDriver lists what a driver that came back may have missed.
func (h *Host) toDriver() (out []Send) {
	add := func(msg []byte) {
		if msg != nil {
			out = append(out, Send{ToDriver, msg})
		}
	}
	add(h.answer)
	switch {
	case h.phase == Running && h.waiting():
		add(h.last.tick.Bytes())
	case h.phase == Closing:
		c := Close{Record: h.record, Evidence: h.ending.Evidence}
		add(c.Bytes())
	}
	add(h.receipt)
	return out
}

// Step takes bytes from the driver or the aggregator. Bytes that do not belong
// here give an error and change nothing.
func (h *Host) Step(now time.Time, msg []byte) (Out, error) {
	if len(msg) == 0 {
		return Out{}, fmt.Errorf("%w: no bytes", ErrMalformed)
	}
	switch privacy.Kind(msg[0]) {
	case privacy.KindOpen:
		return h.onOpening(now, msg)
	case privacy.KindAuthOK, privacy.KindAuthNo:
		return h.onAnswer(now, msg)
	case kindShown:
		return h.onShown(now, msg)
	case privacy.KindAck:
		return h.onAck(msg)
	case privacy.KindSettle:
		return h.onClosed(msg)
	case privacy.KindReceipt:
		return h.onReceipt(msg)
	}
	return Out{}, fmt.Errorf("%w: kind %d", ErrMalformed, msg[0])
}

func (h *Host) onOpening(now time.Time, msg []byte) (Out, error) {
	o, box, err := opening(msg, boxSize(h.cfg.Suite))
	if err != nil {
		return Out{}, err
	}
	if h.phase != Offered {
		if o == h.open { // the wallet came back
			return Out{Send: append(h.toDriver(), h.Outbox()...)}, nil
		}
		return Out{}, fmt.Errorf("%w: another driver opened this offer", ErrOrder)
	}
	if o.Offer != h.offer.Hash(h.cfg.Net) || o.EVAGG != h.cfg.EVAGG {
		return Out{}, fmt.Errorf("open: %w", ErrMismatch)
	}
	if err := h.offer.Check(h.cfg.Net, now); err != nil {
		return Out{}, err
	}
	if err := o.verify(h.cfg.Net); err != nil {
		return Out{}, err
	}
	h.open, h.box, h.phase, h.since = o, append([]byte(nil), box...), Asked, millis(now)
	return h.out(Stay, Send{ToAggregator, h.authReq()}), nil
}

func (h *Host) authReq() []byte {
	r := AuthReq{Offer: h.offer, Band: h.open.Band, OpenSig: h.open.Sig, Box: h.box, Pass: h.pass}
	return r.Bytes()
}

func (h *Host) onAnswer(now time.Time, msg []byte) (Out, error) {
	a, err := ParseAnswer(msg)
	if err != nil {
		return Out{}, err
	}
	if h.phase < Asked || h.phase > Settling || h.answer != nil {
		return Out{}, fmt.Errorf("answer: %w", ErrOrder)
	}
	if err := a.verify(h.cfg.Net, h.cfg.EVAGGKey); err != nil {
		return Out{}, err
	}
	if !a.OK {
		return h.onNo(&a, msg)
	}
	if a.Session != h.Session() || a.Band != h.open.Band {
		return Out{}, fmt.Errorf("answer: %w", ErrMismatch)
	}
	h.answer, h.band = bytes.Clone(msg), a.Band
	toDriver := Send{ToDriver, msg}
	if h.phase != Asked { // it began on trust
		return h.out(Stay, append([]Send{toDriver}, h.Outbox()...)...), nil
	}
	h.begin(now)
	return h.out(Start, toDriver), nil
}

func (h *Host) onNo(a *Answer, msg []byte) (Out, error) {
	if a.Session != sha256.Sum256(h.authReq()) {
		return Out{}, fmt.Errorf("answer: %w", ErrMismatch)
	}
	if a.Reason == ReasonRetry {
		return Out{Send: []Send{{ToDriver, msg}}}, nil
	}
	order := Stay
	if h.phase == Running {
		order = Stop
	}
	h.answer, h.phase = bytes.Clone(msg), Refused
	return h.out(order, Send{ToDriver, msg}), nil
}

func (h *Host) begin(now time.Time) {
	h.phase = Running
	h.last = step{at: millis(now)}
	h.acked = h.last
}

// onShown starts on trust: the certificate is verified here, without the
// aggregator, and the cap is the smallest of trust, certificate and band.
func (h *Host) onShown(now time.Time, msg []byte) (Out, error) {
	s, err := ParseShown(msg)
	if err != nil {
		return Out{}, err
	}
	if h.phase != Asked || !h.asked || h.cfg.TrustLimit == 0 {
		return Out{}, fmt.Errorf("shown certificate: %w", ErrOrder)
	}
	if s.Session != h.Session() || s.Cert.SPK() != h.open.SPK {
		return Out{}, fmt.Errorf("shown certificate: %w", ErrMismatch)
	}
	if err := pseudo.Verify(&s.Cert, h.cfg.Net, pseudo.Driver, h.cfg.EVAGG, h.cfg.Issuers, now); err != nil {
		return Out{}, fmt.Errorf("shown certificate: %w", err)
	}
	if err := pseudo.CheckBand(h.open.Band, s.Cert.Arg()); err != nil {
		return Out{}, fmt.Errorf("shown certificate: %w", err)
	}
	h.cert, h.band = s.Cert[:], min(h.cfg.TrustLimit, h.open.Band)
	h.begin(now)
	return h.out(Start), nil
}

// Meter takes the registers of the session and what they come to. It makes a
// Tick every 60 s or 0.1 kWh, one at a time: while one lacks its Ack, none
// follows. At the band it orders a pause; nothing above the band is ever billed,
// so package ev must stop counting there.
func (h *Host) Meter(now time.Time, e Energy, a Amounts) (Out, error) {
	if h.phase != Running {
		return Out{}, fmt.Errorf("meter value: %w", ErrOrder)
	}
	if !e.covers(h.last.tick.Energy) {
		return Out{}, fmt.Errorf("meter value: %w: a register runs backwards", ErrChain)
	}
	if err := a.Check(h.offer.Mode); err != nil {
		return Out{}, fmt.Errorf("meter value: %w", err)
	}
	if a.Owed > h.locked {
		return Out{Order: Pause}, fmt.Errorf("meter value: %w", ErrNoLock)
	}
	total := int64(h.band) * unit
	if a.Total() > total {
		return Out{Order: Pause}, nil
	}
	order := Stay
	if a.Total() == total {
		order = Pause
	}
	if h.waiting() || !h.tickDue(now, e) {
		return Out{Order: order}, nil
	}
	t := Tick{Seq: h.last.tick.Seq + 1, Energy: e, Cum: a.Total(), Prev: h.Session()}
	if h.last.tick.Seq > 0 {
		t.Prev = h.last.tick.Hash(h.cfg.Net)
	}
	t.Sig = privacy.Sign(h.key, privacy.KindTick, h.cfg.Net, t.body())
	h.last, h.since = step{t, a, millis(now)}, millis(now)
	return h.out(order, Send{ToDriver, t.Bytes()}), nil
}

func (h *Host) waiting() bool { return h.last.tick.Seq > h.acked.tick.Seq }

func (h *Host) tickDue(now time.Time, e Energy) bool {
	moved := e.In() + e.Out - h.last.tick.Energy.In() - h.last.tick.Energy.Out
	return moved >= tickEnergy || since(h.last.at, now, tickEvery)
}

func (h *Host) onAck(msg []byte) (Out, error) {
	a, err := ParseAck(msg)
	if err != nil {
		return Out{}, err
	}
	if h.phase != Running || !h.waiting() || a.Tick != h.last.tick.Hash(h.cfg.Net) {
		return Out{}, fmt.Errorf("ack: %w", ErrOrder)
	}
	if err := a.verify(h.cfg.Net, h.open.SPK); err != nil {
		return Out{}, err
	}
	order := Stay
	if h.paused {
		order = Resume
	}
	h.acked, h.ack, h.paused = h.last, a, false
	return h.out(order), nil
}

// Deadline is when Wake must be called at the latest; zero means never.
func (h *Host) Deadline() time.Time {
	after := func(d time.Duration) time.Time { return time.UnixMilli(h.since).Add(d) }
	switch {
	case h.phase == Asked && h.cfg.TrustLimit > 0 && !h.asked:
		return after(TrustAfter)
	case h.phase == Running && h.waiting() && !h.cfg.Unattended && !h.paused:
		return after(PauseAfter)
	case h.phase == Running && h.waiting() && !h.cfg.Unattended, h.phase == Closing:
		return after(CutAfter)
	}
	return time.Time{}
}

// Wake does what time alone asks for: it offers trust when no answer came,
// pauses without an Ack, and gives a driver up who stays away.
func (h *Host) Wake(now time.Time) (Out, error) {
	due := h.Deadline()
	if due.IsZero() || now.Before(due) {
		return Out{}, nil
	}
	switch {
	case h.phase == Asked:
		h.asked = true
		ask := Ask{Session: h.Session(), Limit: min(h.cfg.TrustLimit, h.open.Band)}
		return h.out(Stay, Send{ToDriver, ask.Bytes()}), nil
	case h.phase == Running && !h.paused:
		h.paused = true
		return h.out(Pause), nil
	case h.phase == Running:
		h.phase = Left
		return h.out(Stop), nil
	}
	return h.settleAlone()
}
