package member

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// ProtocolHello is the libp2p protocol on which hellos travel, before anything else.
const ProtocolHello = "/gridveil/hello/1"

// Limits of the hello exchange.
const (
	MaxHello     = 8 << 10         // 3 certificates of 2 KiB and the fixed part
	HelloTimeout = 5 * time.Second // for the whole exchange; no verdict by then: close
	MaxClockOff  = 30 * time.Second
	VerdictSize  = 13
	helloFixed   = 45
)

// ErrHello is a hello or verdict that does not have its layout.
var ErrHello = errors.New("hello is malformed")

// Hello is how a node introduces itself on a new connection; the responder
// speaks first, so that a false substation collects no certificates of homes.
//
//	"GVH1" | minVer u16 | maxVer u16 | network 16 | now u64 | role u8 | want u8 (1 feed) | 0 u16 | bundle ver u64 | n u8 {len u16, DER}*
type Hello struct {
	MinVersion, MaxVersion uint16 // protocol versions spoken, inclusive
	Network                NetworkID
	Now                    time.Time // sender's clock, ms
	Role                   Role
	WantFeed               bool // a leaf that wants registers pushed
	BundleVersion          uint64
	Chain                  [][]byte // certificates, leaf first, DER
}

// Encode gives the wire form, or ErrHello if a limit is exceeded.
func (h Hello) Encode() ([]byte, error) {
	if len(h.Chain) == 0 || len(h.Chain) > MaxChain {
		return nil, fmt.Errorf("%w: %d certificates, want 1 to %d", ErrHello, len(h.Chain), MaxChain)
	}
	b := append(make([]byte, 0, 1024), "GVH1"...)
	b = binary.BigEndian.AppendUint16(b, h.MinVersion)
	b = binary.BigEndian.AppendUint16(b, h.MaxVersion)
	b = append(b, h.Network[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Now.UnixMilli()))
	b = append(b, byte(h.Role), boolByte(h.WantFeed), 0, 0)
	b = binary.BigEndian.AppendUint64(b, h.BundleVersion)
	b = append(b, byte(len(h.Chain)))
	for _, der := range h.Chain {
		if len(der) == 0 || len(der) > MaxCertificate {
			return nil, fmt.Errorf("%w: certificate of %d bytes, want 1 to %d", ErrHello, len(der), MaxCertificate)
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(der)))
		b = append(b, der...)
	}
	return b, nil
}

// ParseHello is the inverse of Encode. The result does not alias raw.
func ParseHello(raw []byte) (Hello, error) {
	if len(raw) < helloFixed || len(raw) > MaxHello || string(raw[:4]) != "GVH1" {
		return Hello{}, fmt.Errorf("%w: %d bytes or wrong first word", ErrHello, len(raw))
	}
	h := Hello{
		MinVersion: binary.BigEndian.Uint16(raw[4:]), MaxVersion: binary.BigEndian.Uint16(raw[6:]),
		Network: NetworkID(raw[8:24]), Role: Role(raw[32]), BundleVersion: binary.BigEndian.Uint64(raw[36:]),
	}
	var err error
	if h.Now, err = timeOf(binary.BigEndian.Uint64(raw[24:])); err != nil {
		return Hello{}, fmt.Errorf("%w: %w", ErrHello, err)
	}
	if raw[33] > 1 || raw[34] != 0 || raw[35] != 0 || !h.Role.Valid() || h.MinVersion > h.MaxVersion {
		return Hello{}, fmt.Errorf("%w: want, role, version range or zero bytes", ErrHello)
	}
	h.WantFeed = raw[33] == 1
	var rest []byte
	if h.Chain, rest, err = parseChain(raw[helloFixed-1:]); err != nil || len(rest) > 0 {
		return Hello{}, fmt.Errorf("%w: certificate list", ErrHello)
	}
	return h, nil
}

// parseChain reads n u8 {len u16, DER}* and returns what follows it.
func parseChain(b []byte) (chain [][]byte, rest []byte, err error) {
	bad := errors.New("certificate list is malformed")
	if len(b) < 1 || b[0] == 0 || b[0] > MaxChain {
		return nil, nil, bad
	}
	n, b := int(b[0]), b[1:]
	for range n {
		if len(b) < 2 {
			return nil, nil, bad
		}
		size := int(binary.BigEndian.Uint16(b))
		if size == 0 || size > MaxCertificate || len(b) < 2+size {
			return nil, nil, bad
		}
		chain = append(chain, append([]byte(nil), b[2:2+size]...))
		b = b[2+size:]
	}
	return chain, b, nil
}

// timeOf turns Unix ms into UTC; years beyond 9999 do not exist.
func timeOf(ms uint64) (time.Time, error) {
	const year10000 = 253402300800000
	if ms >= year10000 {
		return time.Time{}, errors.New("time is beyond the year 9999")
	}
	return time.UnixMilli(int64(ms)).UTC(), nil
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// VerdictCode is the answer to a hello.
type VerdictCode uint8

// Verdicts. Everything but VerdictOK closes the connection.
const (
	VerdictOK          VerdictCode = 0
	VerdictNetwork     VerdictCode = 1
	VerdictVersion     VerdictCode = 2
	VerdictCertificate VerdictCode = 3
	VerdictExpired     VerdictCode = 4
	VerdictRevoked     VerdictCode = 5
	VerdictRole        VerdictCode = 6
	VerdictBusy        VerdictCode = 7
	VerdictClock       VerdictCode = 8
)

var verdictText = [...]string{
	"admitted",
	"the other node is of another network: check network.toml",
	"the two programs share no protocol version: update the older one",
	"the certificate is not of this network: enrol again with a new code",
	"the certificate has expired: renew it, or enrol again with a new code",
	"the certificate was revoked: ask the operator",
	"the operator may not give out this role or zone: ask the operator",
	"the other node is busy: the program tries again by itself",
	"the clock is more than 30 s off: check the time source",
}

// String says what happened and what to do.
func (c VerdictCode) String() string {
	if int(c) >= len(verdictText) {
		return fmt.Sprintf("verdict %d", uint8(c))
	}
	return verdictText[c]
}

// Verdict closes the hello exchange: code u8 | retry s u32 | now u64.
type Verdict struct {
	Code         VerdictCode
	RetrySeconds uint32 // earliest next try; 0 means no advice
	Now          time.Time
}

// Encode gives the 13-byte wire form.
func (v Verdict) Encode() []byte {
	b := append(make([]byte, 0, VerdictSize), byte(v.Code))
	b = binary.BigEndian.AppendUint32(b, v.RetrySeconds)
	return binary.BigEndian.AppendUint64(b, uint64(v.Now.UnixMilli()))
}

// ParseVerdict is the inverse of Encode.
func ParseVerdict(raw []byte) (Verdict, error) {
	if len(raw) != VerdictSize || int(raw[0]) >= len(verdictText) {
		return Verdict{}, fmt.Errorf("%w: verdict of %d bytes", ErrHello, len(raw))
	}
	now, err := timeOf(binary.BigEndian.Uint64(raw[5:]))
	if err != nil {
		return Verdict{}, fmt.Errorf("%w: %w", ErrHello, err)
	}
	return Verdict{VerdictCode(raw[0]), binary.BigEndian.Uint32(raw[1:]), now}, nil
}

// Gate decides about hellos. It reads Bundle and Revoked only; the caller
// guards them against change while Accept runs.
type Gate struct {
	Bundle                 *Bundle
	Revoked                *Revocations
	MinVersion, MaxVersion uint16 // what this program speaks
}

// Admission is what an accepted hello gives. One refused for its clock has Member, ClockOff and ClockBad, others are zero.
type Admission struct {
	Member   Member
	Version  uint16        // highest version both speak
	ClockOff time.Duration // the peer's clock minus ours
	ClockBad bool          // a leaf's clock is more than 30 s off: warn with clock-off, still admitted
}

// Accept decides about hello h that arrived at now on a connection whose
// secure channel proved remote. The verdict's code tells the peer what is
// wrong; the admission counts only with VerdictOK. Reason is for our log and
// holds no identity.
func (g Gate) Accept(h Hello, remote peer.ID, now time.Time) (Admission, Verdict, error) {
	a, code, err := g.decide(h, remote, now)
	return a, Verdict{Code: code, Now: now}, err
}

func (g Gate) decide(h Hello, remote peer.ID, now time.Time) (Admission, VerdictCode, error) {
	if h.MinVersion > g.MaxVersion || h.MaxVersion < g.MinVersion {
		return Admission{}, VerdictVersion, fmt.Errorf("peer speaks versions %d to %d, we %d to %d", h.MinVersion, h.MaxVersion, g.MinVersion, g.MaxVersion)
	}
	if h.Network != g.Bundle.Network {
		return Admission{}, VerdictNetwork, ErrBundleOther
	}
	m, err := g.Bundle.Verify(h.Chain, now)
	if err != nil {
		return Admission{}, codeOf(err), err
	}
	// The channel proved the key inside remote, so this binds the certificate to the connection.
	if m.Peer != remote {
		return Admission{}, VerdictCertificate, fmt.Errorf("%w: key is not the one of the connection", ErrCertificate)
	}
	if m.Role != h.Role {
		return Admission{}, VerdictRole, fmt.Errorf("%w: hello says %s, certificate %s", ErrRole, h.Role, m.Role)
	}
	if g.Revoked.Revoked(m) {
		return Admission{}, VerdictRevoked, ErrRevoked
	}
	off := h.Now.Sub(now)
	bad := off.Abs() > MaxClockOff
	if bad && m.Role.Backbone() {
		return Admission{Member: m, ClockOff: off, ClockBad: true}, VerdictClock, fmt.Errorf("relay's clock is %s off, at most %s is allowed", off.Round(time.Second), MaxClockOff)
	}
	return Admission{m, min(h.MaxVersion, g.MaxVersion), off, bad}, VerdictOK, nil
}

// codeOf maps a certificate error to the verdict that the peer is told.
func codeOf(err error) VerdictCode {
	switch {
	case errors.Is(err, ErrExpired):
		return VerdictExpired
	case errors.Is(err, ErrRevoked):
		return VerdictRevoked
	case errors.Is(err, ErrRole):
		return VerdictRole
	}
	return VerdictCertificate
}
