package member

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// MaxInvites is how many codes a registrar holds; a town's installers share one.
const MaxInvites = 16_384

// ErrInvites means that MaxInvites codes are open.
var ErrInvites = errors.New("too many open invitations: wait until some expire")

// ErrInviteRecord is a stored invitation that does not have its layout.
var ErrInviteRecord = errors.New("stored invitation is malformed")

// Invite is the durable record of one code.
type Invite struct {
	Code    Code
	Role    Role
	Zone    string
	Expires time.Time
	Wrong   uint8 // wrong proofs so far; MaxWrong kill the code

	Used   bool // consumed by the holder of CSR
	CSR    [32]byte
	UsedAt time.Time
	Nonces [][32]byte // of the tries with the right CSR, at most MaxAnswers
}

// Registrar decides about enrolments. It is a state machine: the caller
// persists Decision.Save before it acts on anything else in the decision, and
// loads the records with Restore after a restart. Not safe for concurrent use.
//
//	Decide -> save -> issue certificate -> answer
//
// A crash after save and before the answer is harmless: the same CSR is served
// again for 24 hours, another CSR never.
type Registrar struct {
	invites map[InviteID]*Invite
}

// NewRegistrar makes a registrar that holds the given records.
func NewRegistrar(held []Invite) *Registrar {
	r := &Registrar{invites: map[InviteID]*Invite{}}
	for _, inv := range held {
		r.invites[inv.Code.ID] = &inv
	}
	return r
}

// Invite opens a code for role in zone, good for 72 hours. The record must be
// durable before the code is shown.
func (r *Registrar) Invite(role Role, zone string, now time.Time, rnd io.Reader) (Invite, error) {
	missing, surplus := zone == "" && role.needsZone(), zone != "" && role == RoleWallet
	if !role.Valid() || missing || surplus || zone != "" && !validName(zone) {
		return Invite{}, fmt.Errorf("%w: role %s with zone %q", ErrRole, role, zone)
	}
	if len(r.invites) >= MaxInvites {
		return Invite{}, ErrInvites
	}
	code, err := NewCode(rnd)
	if err != nil {
		return Invite{}, err
	}
	inv := Invite{Code: code, Role: role, Zone: zone, Expires: now.Add(CodeLife).UTC().Truncate(time.Millisecond)}
	r.invites[code.ID] = &inv
	return inv.clone(), nil
}

// Decision is what to do with a request, in this order: Save, then Raise, then
// issue or refuse.
type Decision struct {
	Save    *Invite // persist before anything else; nil when nothing changed
	Raise   bool    // report: a code was tried with another key after its use, or killed by wrong proofs
	Refusal Refusal // RefusedNot: issue Grant and answer
	Grant   Grant
}

// Decide judges request q that arrived on channel ch at now.
func (r *Registrar) Decide(q Request, ch Channel, now time.Time) Decision {
	inv, known := r.invites[q.Invite]
	if !known || inv.Wrong >= MaxWrong {
		return Decision{Refusal: RefusedUnknown}
	}
	want := q.proof(inv.Code.Secret, ch)
	if !hmac.Equal(want[:], q.Proof[:]) {
		return r.wrongProof(inv)
	}
	if q.checkCSR(ch.Pledge) != nil {
		return Decision{Refusal: RefusedRequest}
	}
	csr := sha256.Sum256(q.CSR)
	switch {
	case inv.Used && csr != inv.CSR:
		return Decision{Refusal: RefusedUsed, Raise: true}
	case inv.Used && (now.Sub(inv.UsedAt) > AnswerLife || len(inv.Nonces) >= MaxAnswers || slices.Contains(inv.Nonces, q.Nonce)):
		return Decision{Refusal: RefusedUsed}
	case !inv.Used && now.After(inv.Expires):
		return Decision{Refusal: RefusedExpired}
	case !inv.Used:
		inv.Used, inv.CSR, inv.UsedAt = true, csr, now.UTC().Truncate(time.Millisecond)
	}
	inv.Nonces = append(inv.Nonces, q.Nonce)
	return Decision{Save: inv.copy(), Grant: Grant{ch.Network, ch.Pledge, inv.Role, inv.Zone}}
}

// wrongProof counts a guess. A used code is not killed: its holder may still need the repeated answer.
func (r *Registrar) wrongProof(inv *Invite) Decision {
	if inv.Used {
		return Decision{Refusal: RefusedUnknown, Raise: true}
	}
	inv.Wrong++
	return Decision{Save: inv.copy(), Raise: inv.Wrong >= MaxWrong, Refusal: RefusedUnknown}
}

// Forget removes records that can no longer matter and returns their ids, to delete from the store.
func (r *Registrar) Forget(now time.Time) []InviteID {
	var gone []InviteID
	for id, inv := range r.invites {
		if now.After(inv.Expires.Add(AnswerLife)) && (!inv.Used || now.Sub(inv.UsedAt) > AnswerLife) {
			gone = append(gone, id)
			delete(r.invites, id)
		}
	}
	return gone
}

// Open lists the records, in no order.
func (r *Registrar) Open() []Invite {
	out := make([]Invite, 0, len(r.invites))
	for _, inv := range r.invites {
		out = append(out, inv.clone())
	}
	return out
}

func (inv *Invite) clone() Invite {
	out := *inv
	out.Nonces = slices.Clone(inv.Nonces)
	return out
}

func (inv *Invite) copy() *Invite {
	out := inv.clone()
	return &out
}

const inviteFixed = 4 + idSize + secretSize + 1 + 8 + 1 + 1 + 32 + 8 + 1 + 1

// Encode gives the stored form of a record:
//
//	"GVI1" | id 5 | secret 10 | role 1 | expires 8 | wrong 1 | used 1 | CSR hash 32 | used at 8 | n 1 | zone len 1 | nonces 32n | zone
func (inv Invite) Encode() []byte {
	b := append(make([]byte, 0, inviteFixed+32*len(inv.Nonces)+len(inv.Zone)), "GVI1"...)
	b = append(append(b, inv.Code.ID[:]...), inv.Code.Secret[:]...)
	b = append(b, byte(inv.Role))
	b = binary.BigEndian.AppendUint64(b, uint64(inv.Expires.UnixMilli()))
	b = append(b, inv.Wrong, boolByte(inv.Used))
	b = append(b, inv.CSR[:]...)
	b = binary.BigEndian.AppendUint64(b, usedMillis(inv))
	b = append(b, byte(len(inv.Nonces)), byte(len(inv.Zone)))
	for _, n := range inv.Nonces {
		b = append(b, n[:]...)
	}
	return append(b, inv.Zone...)
}

func usedMillis(inv Invite) uint64 {
	if !inv.Used {
		return 0
	}
	return uint64(inv.UsedAt.UnixMilli())
}

// ParseInvite is the inverse of Encode.
func ParseInvite(raw []byte) (Invite, error) {
	if len(raw) < inviteFixed || string(raw[:4]) != "GVI1" {
		return Invite{}, fmt.Errorf("%w: %d bytes", ErrInviteRecord, len(raw))
	}
	at := 4 + idSize + secretSize
	inv := Invite{Code: codeOfBytes(raw[4:at]), Role: Role(raw[at]), Wrong: raw[at+9], Used: raw[at+10] == 1, CSR: [32]byte(raw[at+11:])}
	expires, err1 := timeOf(binary.BigEndian.Uint64(raw[at+1:]))
	used, err2 := timeOf(binary.BigEndian.Uint64(raw[at+43:]))
	n, zone := int(raw[at+51]), int(raw[at+52])
	bad := errors.Join(err1, err2) != nil || raw[at+10] > 1 || !inv.Role.Valid() || n > MaxAnswers || len(raw) != inviteFixed+32*n+zone
	if bad || !inv.Used && (used.UnixMilli() != 0 || n > 0) {
		return Invite{}, ErrInviteRecord
	}
	inv.Expires = expires
	if inv.Used {
		inv.UsedAt = used
	}
	for i := range n {
		inv.Nonces = append(inv.Nonces, [32]byte(raw[inviteFixed+32*i:]))
	}
	inv.Zone = string(raw[inviteFixed+32*n:])
	return inv, nil
}
