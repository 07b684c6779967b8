package model

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// ErrInvalidOrder counts against the peer that sent the bytes.
var ErrInvalidOrder = errors.New("model: invalid order")

// TAF is a tariff use case of BSI TR-03109-1: what a data profile lets leave.
type TAF uint8

// The profiles in use. Numbers are those of the BSI.
const (
	TAFDataSparse TAF = 1  // registers once a billing period
	TAFBands      TAF = 2  // band registers daily: the default of a home
	TAFOnDemand   TAF = 6  // one reading on request
	TAFSeries     TAF = 7  // load profile, by contract or consent
	TAFFeedIn     TAF = 9  // feed-in now
	TAFGrid       TAF = 10 // grid state; only as private shares
	TAFHighFreq   TAF = 14 // fine series; only as private shares
)

// Valid says whether t is one of the profiles in use.
func (t TAF) Valid() bool {
	switch t {
	case TAFDataSparse, TAFBands, TAFOnDemand, TAFSeries, TAFFeedIn, TAFGrid, TAFHighFreq:
		return true
	}
	return false
}

// SharesOnly says that data of the profile leave a home only as private shares.
func (t TAF) SharesOnly() bool { return t == TAFGrid || t == TAFHighFreq }

// Basis is why a profile may exist.
type Basis uint8

// The bases of a profile.
const (
	BasisContract Basis = iota + 1
	BasisLaw
	BasisConsent // signed by the customer's LFID key, ends on withdrawal
)

// Profile is a signed permission: what, for whom, how often, on which basis.
type Profile struct {
	TAF           TAF
	Basis         Basis
	Recipient     SourceID
	CapturePeriod time.Duration // finest slot that may leave
	ReportPeriod  time.Duration // how often a report may leave
	From, To      int64         // UTC ms, half-open; To 0 = until withdrawn
	Channels      []Channel     // ascending
	Consent       [64]byte      // by the LFID key, only when Basis is BasisConsent
}

// ActiveAt says whether the profile holds at t.
func (p Profile) ActiveAt(t int64) bool { return t >= p.From && (p.To == 0 || t < p.To) }

// Permits says whether channel c may leave under p.
func (p Profile) Permits(c Channel) bool {
	for _, have := range p.Channels {
		if have == c {
			return true
		}
	}
	return false
}

// RosterEntry maps an ordinal to a usage point.
type RosterEntry struct {
	Ordinal    uint32 // at least 1
	UsagePoint UsagePoint
	State      ReadingState
	LimitMW    int64 // connection limit, mW; 0 = unknown
	Masked     bool  // the home masks its load: skip statistical rules
}

// Roster says which meters a source reports. A meter outside it is
// quarantined: read and shown, never reported or billed.
type Roster struct {
	Version uint32
	Entries []RosterEntry // ascending by ordinal, at most MaxRoster
}

// MaxRoster bounds the meters of one source.
const MaxRoster = 16384

// Find returns the entry of an ordinal.
func (r Roster) Find(ordinal uint32) (RosterEntry, bool) {
	lo, hi := 0, len(r.Entries)
	for lo < hi {
		mid := (lo + hi) / 2
		if r.Entries[mid].Ordinal < ordinal {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(r.Entries) && r.Entries[lo].Ordinal == ordinal {
		return r.Entries[lo], true
	}
	return RosterEntry{}, false
}

// OrdinalOf returns the ordinal of a usage point.
func (r Roster) OrdinalOf(u UsagePoint) (uint32, bool) {
	for _, e := range r.Entries {
		if e.UsagePoint == u {
			return e.Ordinal, true
		}
	}
	return 0, false
}

// Group is meters read and reported with the same periods, in read order.
type Group struct {
	ReadPeriod   time.Duration
	ReportPeriod time.Duration
	Ordinals     []uint32
}

// Order is what the head-end asks of one source. It is signed, and valid
// without the head-end until a higher version arrives.
type Order struct {
	Version       uint32
	Source        SourceID
	Issuer        SourceID
	Issued        int64  // UTC ms
	Rules         uint32 // version of the rules to apply
	FirmwareFloor string // lowest accepted meter firmware, "" = any
	Groups        []Group
	Profiles      []Profile
	Roster        Roster
	SealDay       uint16     // day number of the first seal key, days since 1970-01-01
	SealKeys      [][32]byte // X25519 public keys, one per day
	Parents       []string   // peer ids to report through, best first
	Sig           [64]byte
}

// Limits of an order; the whole stays below 1 MiB.
const (
	maxGroups     = 256
	maxProfiles   = 64
	maxSealKeys   = 60
	maxParents    = 8
	maxOrderText  = 128
	orderMagic    = "GVO1"
	orderDomain   = "gridveil/order/v1\x00"
	maxOrderBytes = 1 << 20
)

// Sign sets Issuer's signature.
func (o *Order) Sign(key ed25519.PrivateKey) error {
	b, err := o.signed()
	if err == nil {
		copy(o.Sig[:], ed25519.Sign(key, b))
	}
	return err
}

// Verify checks the head-end's signature.
func (o Order) Verify(pub ed25519.PublicKey) error {
	b, err := o.signed()
	if err != nil {
		return err
	}
	if len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, b, o.Sig[:]) {
		return fmt.Errorf("%w: signature does not verify", ErrInvalidOrder)
	}
	return nil
}

func (o Order) signed() ([]byte, error) {
	b, err := o.Encode()
	if err != nil {
		return nil, err
	}
	return append([]byte(orderDomain), b[:len(b)-64]...), nil
}

// KeyFor returns the seal key of a day; ok is false outside the published days.
func (o Order) KeyFor(day uint16) (key [32]byte, ok bool) {
	i := int(day) - int(o.SealDay)
	if i < 0 || i >= len(o.SealKeys) {
		return key, false
	}
	return o.SealKeys[i], true
}

// Encode gives the order's bytes, signature last, or ErrInvalidOrder when a
// field is out of range.
func (o Order) Encode() ([]byte, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddBytes([]byte(orderMagic))
	b.AddUint32(o.Version)
	b.AddBytes(o.Source[:])
	b.AddBytes(o.Issuer[:])
	b.AddUint64(uint64(o.Issued))
	b.AddUint32(o.Rules)
	addText(&b, o.FirmwareFloor)
	b.AddUint16(uint16(len(o.Groups)))
	for _, g := range o.Groups {
		addGroup(&b, g)
	}
	b.AddUint8(uint8(len(o.Profiles)))
	for _, p := range o.Profiles {
		addProfile(&b, p)
	}
	addRoster(&b, o.Roster)
	b.AddUint16(o.SealDay)
	b.AddUint8(uint8(len(o.SealKeys)))
	for _, k := range o.SealKeys {
		b.AddBytes(k[:])
	}
	b.AddUint8(uint8(len(o.Parents)))
	for _, p := range o.Parents {
		addText(&b, p)
	}
	b.AddBytes(o.Sig[:])
	return b.Bytes()
}

func addText(b *cryptobyte.Builder, s string) {
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}

func addGroup(b *cryptobyte.Builder, g Group) {
	b.AddUint32(uint32(g.ReadPeriod.Milliseconds()))
	b.AddUint32(uint32(g.ReportPeriod.Milliseconds()))
	b.AddUint16(uint16(len(g.Ordinals)))
	for _, n := range g.Ordinals {
		b.AddUint32(n)
	}
}

func addProfile(b *cryptobyte.Builder, p Profile) {
	b.AddUint8(uint8(p.TAF))
	b.AddUint8(uint8(p.Basis))
	b.AddBytes(p.Recipient[:])
	b.AddUint32(uint32(p.CapturePeriod.Milliseconds()))
	b.AddUint32(uint32(p.ReportPeriod.Milliseconds()))
	b.AddUint64(uint64(p.From))
	b.AddUint64(uint64(p.To))
	b.AddUint8(uint8(len(p.Channels)))
	for _, c := range p.Channels {
		b.AddUint16(uint16(c))
	}
	if p.Basis == BasisConsent {
		b.AddBytes(p.Consent[:])
	}
}

func addRoster(b *cryptobyte.Builder, r Roster) {
	b.AddUint32(r.Version)
	b.AddUint16(uint16(len(r.Entries)))
	for _, e := range r.Entries {
		b.AddUint32(e.Ordinal)
		b.AddBytes(e.UsagePoint[:])
		flags := uint8(e.State)
		if e.Masked {
			flags |= 1 << 7
		}
		b.AddUint8(flags)
		b.AddUint64(uint64(e.LimitMW))
	}
}

func (o Order) check() error {
	bad := func(what string) error { return fmt.Errorf("%w: %s", ErrInvalidOrder, what) }
	if len(o.Groups) > maxGroups || len(o.Profiles) > maxProfiles || len(o.SealKeys) > maxSealKeys ||
		len(o.Parents) > maxParents || len(o.Roster.Entries) > MaxRoster {
		return bad("a list exceeds its limit")
	}
	if o.Issued < 0 || !cleanText(o.FirmwareFloor, 0) {
		return bad("issue time or firmware floor")
	}
	for _, p := range o.Parents {
		if !cleanText(p, 1) {
			return bad("parent")
		}
	}
	for _, g := range o.Groups {
		if !wholeMS(g.ReadPeriod) || !wholeMS(g.ReportPeriod) || len(g.Ordinals) > MaxRoster {
			return bad("group periods")
		}
	}
	for _, p := range o.Profiles {
		if err := p.check(); err != nil {
			return err
		}
	}
	last := uint32(0)
	for _, e := range o.Roster.Entries {
		if e.Ordinal <= last || e.State > ReadDisabled || e.LimitMW < 0 {
			return bad("roster entry")
		}
		last = e.Ordinal
	}
	return nil
}

func (p Profile) check() error {
	bad := func(what string) error { return fmt.Errorf("%w: profile: %s", ErrInvalidOrder, what) }
	switch {
	case !p.TAF.Valid() || p.Basis < BasisContract || p.Basis > BasisConsent:
		return bad("unknown use case or basis")
	case !wholeMS(p.CapturePeriod) || !wholeMS(p.ReportPeriod) || p.ReportPeriod < p.CapturePeriod:
		return bad("periods")
	case p.From < 0 || p.To < 0 || (p.To != 0 && p.To <= p.From):
		return bad("validity")
	case len(p.Channels) == 0 || len(p.Channels) > 64:
		return bad("channels")
	case p.Basis != BasisConsent && p.Consent != [64]byte{}:
		return bad("consent signature without consent")
	}
	last := Channel(0)
	for _, c := range p.Channels {
		if c <= last {
			return bad("channels out of order")
		}
		last = c
	}
	return nil
}

func wholeMS(d time.Duration) bool {
	return d >= time.Millisecond && d%time.Millisecond == 0 && d.Milliseconds() < 1<<32
}

func cleanText(s string, least int) bool {
	if len(s) < least || len(s) > maxOrderText {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// DecodeOrder parses an order; the caller verifies the signature. It returns
// ErrInvalidOrder for anything Encode would not have produced.
func DecodeOrder(raw []byte) (Order, error) {
	if len(raw) > maxOrderBytes {
		return Order{}, fmt.Errorf("%w: %d bytes", ErrInvalidOrder, len(raw))
	}
	d := decoder{s: cryptobyte.String(raw)}
	var o Order
	if string(d.bytes(4)) != orderMagic {
		return Order{}, fmt.Errorf("%w: not a GVO1 order", ErrInvalidOrder)
	}
	o.Version = d.u32()
	o.Source = SourceID(d.bytes(16))
	o.Issuer = SourceID(d.bytes(16))
	o.Issued = int64(d.u64())
	o.Rules = d.u32()
	o.FirmwareFloor = d.text()
	for range d.count16(maxGroups) {
		o.Groups = append(o.Groups, d.group())
	}
	for range d.count8(maxProfiles) {
		o.Profiles = append(o.Profiles, d.profile())
	}
	o.Roster = d.roster()
	o.SealDay = d.u16()
	for range d.count8(maxSealKeys) {
		o.SealKeys = append(o.SealKeys, [32]byte(d.bytes(32)))
	}
	for range d.count8(maxParents) {
		o.Parents = append(o.Parents, d.text())
	}
	o.Sig = [64]byte(d.bytes(64))
	if d.bad || !d.s.Empty() {
		return Order{}, fmt.Errorf("%w: malformed", ErrInvalidOrder)
	}
	return o, o.check()
}

// decoder reads fields; after a fault bad stays set and fields are zero.
type decoder struct {
	s   cryptobyte.String
	bad bool
}

func (d *decoder) bytes(n int) []byte {
	var out []byte
	if d.bad || !d.s.ReadBytes(&out, n) {
		d.bad = true
		return make([]byte, n)
	}
	return out
}

func (d *decoder) u8() (v uint8)   { d.bad = d.bad || !d.s.ReadUint8(&v); return v }
func (d *decoder) u16() (v uint16) { d.bad = d.bad || !d.s.ReadUint16(&v); return v }
func (d *decoder) u32() (v uint32) { d.bad = d.bad || !d.s.ReadUint32(&v); return v }
func (d *decoder) u64() (v uint64) { d.bad = d.bad || !d.s.ReadUint64(&v); return v }

func (d *decoder) text() string {
	return string(d.bytes(int(d.u8())))
}

func (d *decoder) limited(n, limit int) int {
	if d.bad || n > limit {
		d.bad = true
		return 0
	}
	return n
}

func (d *decoder) count8(limit int) int  { return d.limited(int(d.u8()), limit) }
func (d *decoder) count16(limit int) int { return d.limited(int(d.u16()), limit) }

func (d *decoder) period() time.Duration { return time.Duration(d.u32()) * time.Millisecond }

func (d *decoder) group() (g Group) {
	g.ReadPeriod, g.ReportPeriod = d.period(), d.period()
	for range d.count16(MaxRoster) {
		if d.bad {
			break
		}
		g.Ordinals = append(g.Ordinals, d.u32())
	}
	return g
}

func (d *decoder) profile() (p Profile) {
	p.TAF, p.Basis = TAF(d.u8()), Basis(d.u8())
	p.Recipient = SourceID(d.bytes(16))
	p.CapturePeriod, p.ReportPeriod = d.period(), d.period()
	p.From, p.To = int64(d.u64()), int64(d.u64())
	for range d.count8(64) {
		p.Channels = append(p.Channels, Channel(d.u16()))
	}
	if p.Basis == BasisConsent {
		p.Consent = [64]byte(d.bytes(64))
	}
	return p
}

func (d *decoder) roster() (r Roster) {
	r.Version = d.u32()
	for range d.count16(MaxRoster) {
		if d.bad {
			break
		}
		e := RosterEntry{Ordinal: d.u32(), UsagePoint: UsagePoint(d.bytes(16))}
		flags := d.u8()
		e.State, e.Masked = ReadingState(flags&0x7f), flags&(1<<7) != 0
		e.LimitMW = int64(d.u64())
		r.Entries = append(r.Entries, e)
	}
	return r
}
