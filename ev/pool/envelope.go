// Package pool bundles the flexibility of many charging sessions into bids, shares out what the grid operator buys, and
// pays for what was delivered.
//
// The chain of one event, each step a pure function whose inputs and result are public or committed to the ledger:
//
//	Flex       every 15 minutes a gateway offers an envelope around its own certified plan     Book.Admit
//	baselines  the Merkle root of all offers is anchored before gate closure                   Book.Close
//	bid        sum of envelopes less a reserve; none below the market's minimum                MakeBid
//	instruct   the operator's signed Instruction is anchored                                   Instruction.Verify
//	dispatch   integer water-filling, exact or with a stated shortfall                         Dispatch
//	controls   leaves of one anchored root; each session checks its own                        Tree, CheckProof
//	prove      metered change against the anchored baseline, from signed meter records         Delivered
//	pay        largest remainder over delivery x availability                                  Pay
//
// Guaranteed: no euro is paid that no instruction earned, a baseline cannot be changed after the gate closed, and sums
// are exact. Not guaranteed: privacy of the meter key towards the aggregator, which sees it for as long as it pays.
//
// Power is int64 W, energy int64 mWh, money int64 millionths, time UTC milliseconds.
package pool

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
)

// Slots is how many 15-minute slots an offer covers.
const Slots = 8

// SlotMS is the length of a slot.
const SlotMS = 900_000

// Errors.
var (
	ErrMessage   = errors.New("pool: malformed message")
	ErrSignature = errors.New("pool: signature does not verify")
	ErrLate      = errors.New("pool: the gate for this slot is closed")
	ErrQuota     = errors.New("pool: too many offers from one key or zone")
	ErrMeter     = errors.New("pool: the meter's certificate does not cover this offer")
	ErrUnknown   = errors.New("pool: no authorised session of this name")
)

// MeterCert says that a meter of at most MaxW stands in a zone: an operator's signature over the hash of its key.
type MeterCert struct {
	Key  [32]byte // hash of the meter's public key
	Zone uint32
	MaxW uint32
	Sig  [64]byte // of the operator (dso or installer)
}

const meterCertSize = 32 + 4 + 4 + 64

func (m MeterCert) body() []byte {
	b := append(make([]byte, 0, meterCertSize), m.Key[:]...)
	b = binary.BigEndian.AppendUint32(b, m.Zone)
	return binary.BigEndian.AppendUint32(b, m.MaxW)
}

// SignMeter makes a certificate.
func SignMeter(operator ed25519.PrivateKey, net [8]byte, key [32]byte, zone, maxW uint32) MeterCert {
	m := MeterCert{Key: key, Zone: zone, MaxW: maxW}
	m.Sig = sign(operator, "meter-cert", net, m.body())
	return m
}

// Verify checks the operator's signature.
func (m MeterCert) Verify(operator ed25519.PublicKey, net [8]byte) error {
	return verify(operator, "meter-cert", net, m.body(), m.Sig)
}

// Encode returns key[32] zone:u32 maxW:u32 sig.
func (m MeterCert) Encode() []byte { return append(m.body(), m.Sig[:]...) }

// DecodeMeterCert reads exactly what Encode writes; it does not check the signature. Errors wrap ErrMessage.
func DecodeMeterCert(b []byte) (MeterCert, error) {
	if len(b) != meterCertSize {
		return MeterCert{}, fmt.Errorf("%w: meter certificate of %d bytes, want %d", ErrMessage, len(b), meterCertSize)
	}
	return MeterCert{Key: [32]byte(b), Zone: binary.BigEndian.Uint32(b[32:]), MaxW: binary.BigEndian.Uint32(b[36:]), Sig: [64]byte(b[40:])}, nil
}

// Envelope is what one session offers for one slot around its baseline, W.
type Envelope struct {
	BaselineW int32  // planned power; negative: discharge
	UpW       uint32 // less consumption or more discharge, by at most this
	DownW     uint32 // more consumption, by at most this
}

// Flex is the offer of one session: its plan and how far it may be moved.
type Flex struct {
	Open      [32]byte // H(Open): the session
	Meter     MeterCert
	From      int64 // UTC ms, a multiple of SlotMS: begin of the first slot
	Envelopes [Slots]Envelope
	MinMWh    int64 // least and most energy of all slots together that the car can bear
	MaxMWh    int64
	HostSig   [64]byte // by hpk
	DriverSig [64]byte // by spk
}

// FlexSize is the length of an encoded Flex.
const FlexSize = flexBody + 2*64

const (
	flexBody = 32 + meterCertSize + 8 + Slots*12 + 2*8
	maxWatt  = 1 << 20 // 1 MW per session
	maxMWh   = 1_000_000_000_000
	maxTime  = 253_402_300_800_000
)

func (f *Flex) body() []byte {
	b := append(make([]byte, 0, FlexSize), f.Open[:]...)
	b = append(b, f.Meter.Encode()...)
	b = binary.BigEndian.AppendUint64(b, uint64(f.From))
	for _, e := range f.Envelopes {
		b = binary.BigEndian.AppendUint32(b, uint32(e.BaselineW))
		b = binary.BigEndian.AppendUint32(b, e.UpW)
		b = binary.BigEndian.AppendUint32(b, e.DownW)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(f.MinMWh))
	return binary.BigEndian.AppendUint64(b, uint64(f.MaxMWh))
}

// Encode returns H(Open) MeterCert from:u64 8 x {baseline:i32 up:u32 down:u32} min:i64 max:i64 sigs.
func (f *Flex) Encode() []byte {
	return append(append(f.body(), f.HostSig[:]...), f.DriverSig[:]...)
}

// SignHost and SignDriver set the two signatures; neither covers the other.
func (f *Flex) SignHost(hpk ed25519.PrivateKey, net [8]byte) {
	f.HostSig = sign(hpk, "flex", net, f.body())
}

// SignDriver sets the driver's signature.
func (f *Flex) SignDriver(spk ed25519.PrivateKey, net [8]byte) {
	f.DriverSig = sign(spk, "flex", net, f.body())
}

// DecodeFlex reads exactly what Encode writes and checks ranges, not signatures. Errors wrap ErrMessage.
func DecodeFlex(b []byte) (*Flex, error) {
	if len(b) != FlexSize {
		return nil, fmt.Errorf("%w: offer of %d bytes, want %d", ErrMessage, len(b), FlexSize)
	}
	u32 := binary.BigEndian.Uint32
	meter, err := DecodeMeterCert(b[32 : 32+meterCertSize])
	if err != nil {
		return nil, err
	}
	f := &Flex{Open: [32]byte(b), Meter: meter}
	b = b[32+meterCertSize:]
	f.From, b = int64(binary.BigEndian.Uint64(b)), b[8:]
	for i := range f.Envelopes {
		f.Envelopes[i] = Envelope{int32(u32(b)), u32(b[4:]), u32(b[8:])}
		b = b[12:]
	}
	f.MinMWh, f.MaxMWh = int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))
	f.HostSig, f.DriverSig = [64]byte(b[16:]), [64]byte(b[80:])
	return f, f.check()
}

func (f *Flex) check() error {
	if f.From < 0 || f.From > maxTime || f.From%SlotMS != 0 {
		return fmt.Errorf("%w: offer does not begin at a quarter of an hour", ErrMessage)
	}
	if f.MinMWh < -maxMWh || f.MaxMWh > maxMWh || f.MinMWh > f.MaxMWh {
		return fmt.Errorf("%w: energy window", ErrMessage)
	}
	for i, e := range f.Envelopes {
		low, high := int64(e.BaselineW)-int64(e.UpW), int64(e.BaselineW)+int64(e.DownW)
		if low < -maxWatt || high > maxWatt {
			return fmt.Errorf("%w: slot %d is beyond 1 MW", ErrMessage, i)
		}
		if limit := int64(f.Meter.MaxW); low < -limit || high > limit {
			return fmt.Errorf("%w: slot %d", ErrMeter, i)
		}
	}
	return nil
}

// Verify checks the meter's certificate and both signatures.
func (f *Flex) Verify(operator, hpk, spk ed25519.PublicKey, net [8]byte) error {
	if err := f.Meter.Verify(operator, net); err != nil {
		return fmt.Errorf("meter certificate: %w", err)
	}
	if err := f.VerifyHost(hpk, net); err != nil {
		return err
	}
	return f.VerifyDriver(spk, net)
}

// VerifyHost checks the host's signature alone; it returns ErrSignature.
func (f *Flex) VerifyHost(hpk ed25519.PublicKey, net [8]byte) error {
	if err := verify(hpk, "flex", net, f.body(), f.HostSig); err != nil {
		return fmt.Errorf("offer, host: %w", err)
	}
	return nil
}

// VerifyDriver checks the driver's signature alone; it returns ErrSignature.
func (f *Flex) VerifyDriver(spk ed25519.PublicKey, net [8]byte) error {
	if err := verify(spk, "flex", net, f.body(), f.DriverSig); err != nil {
		return fmt.Errorf("offer, driver: %w", err)
	}
	return nil
}

// EnergyMWh is the planned energy of all slots together.
func (f *Flex) EnergyMWh() (sum int64) {
	for _, e := range f.Envelopes {
		sum += int64(e.BaselineW) * SlotMS / 3600
	}
	return sum
}

// CapW is the most that the session can move from slot first to slot last, in W, the same in all of them: up says less
// consumption. Neither a slot's envelope nor the energy window is left.
func (f *Flex) CapW(first, last int, up bool) int64 {
	limit, spare := int64(maxWatt), f.MaxMWh-f.EnergyMWh()
	if up {
		spare = f.EnergyMWh() - f.MinMWh
	}
	for _, e := range f.Envelopes[first : last+1] {
		if up {
			limit = min(limit, int64(e.UpW))
		} else {
			limit = min(limit, int64(e.DownW))
		}
	}
	return min(limit, max(0, spare)*3600/(int64(last-first+1)*SlotMS))
}

// Instruction is the operator's order to the aggregator, signed and anchored on the ledger.
type Instruction struct {
	Zone      uint32
	From, To  int64  // UTC ms, multiples of SlotMS
	W         int64  // power change bought: positive up (less consumption), negative down
	PayMicro  int64  // paid for full delivery, millionths
	Currency  uint16 // ISO 4217 number
	Reference [32]byte
	Sig       [64]byte
}

// InstructionSize is the length of an encoded Instruction.
const InstructionSize = 4 + 8 + 8 + 8 + 8 + 2 + 32 + 64

func (i *Instruction) body() []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, InstructionSize), i.Zone)
	for _, v := range []int64{i.From, i.To, i.W, i.PayMicro} {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	return append(binary.BigEndian.AppendUint16(b, i.Currency), i.Reference[:]...)
}

// Encode returns zone:u32 from to w pay:i64 cur:u16 reference[32] sig.
func (i *Instruction) Encode() []byte { return append(i.body(), i.Sig[:]...) }

// Hash names the instruction in Controls and on the ledger.
func (i *Instruction) Hash() [32]byte { return hash("instruction", i.Encode()) }

// Sign sets the operator's signature.
func (i *Instruction) Sign(operator ed25519.PrivateKey, net [8]byte) {
	i.Sig = sign(operator, "instruction", net, i.body())
}

// Verify checks the operator's signature.
func (i *Instruction) Verify(operator ed25519.PublicKey, net [8]byte) error {
	return verify(operator, "instruction", net, i.body(), i.Sig)
}

// DecodeInstruction reads exactly what Encode writes and checks ranges, not the signature.
func DecodeInstruction(b []byte) (*Instruction, error) {
	if len(b) != InstructionSize {
		return nil, fmt.Errorf("%w: instruction of %d bytes, want %d", ErrMessage, len(b), InstructionSize)
	}
	i64 := func(at int) int64 { return int64(binary.BigEndian.Uint64(b[at:])) }
	i := &Instruction{Zone: binary.BigEndian.Uint32(b), From: i64(4), To: i64(12), W: i64(20), PayMicro: i64(28),
		Currency: binary.BigEndian.Uint16(b[36:]), Reference: [32]byte(b[38:]), Sig: [64]byte(b[70:])}
	bad := i.From < 0 || i.To <= i.From || i.To > maxTime || i.From%SlotMS != 0 || i.To%SlotMS != 0 ||
		i.W == 0 || i.W > maxMWh || i.W < -maxMWh || i.PayMicro < 0 || i.PayMicro > maxMWh || i.Currency == 0
	if bad {
		return nil, fmt.Errorf("%w: instruction out of range", ErrMessage)
	}
	return i, nil
}

// signed separates what is signed here from everything else in gridveil, in the form that package privacy uses.
func signed(kind string, net [8]byte, body []byte) []byte {
	return append(append([]byte("gridveil/1/pool-"+kind+"\x00"), net[:]...), body...)
}

func sign(key ed25519.PrivateKey, kind string, net [8]byte, body []byte) [64]byte {
	return [64]byte(ed25519.Sign(key, signed(kind, net, body)))
}

func verify(key ed25519.PublicKey, kind string, net [8]byte, body []byte, sig [64]byte) error {
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, signed(kind, net, body), sig[:]) {
		return ErrSignature
	}
	return nil
}
