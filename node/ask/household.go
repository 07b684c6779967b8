package ask

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"gridveil/ev"
	"gridveil/ledger"
	"gridveil/privacy/note"
)

// Currency of every session, contract and note of this version: the euro.
const Currency uint16 = 978

// What every driver's contract grants in this version: a deck of that many
// pseudonyms a week, each good for sessions up to that band.
const (
	DeckSize    = 16
	DriverLimit = 80
)

// ErrBody means that the body of a request or answer is malformed.
var ErrBody = errors.New("body is malformed")

// Contract is the 16-byte name under which a utility knows the home or driver
// with this member key: in deck requests, as the purpose of redeemed notes, and
// inside the capsule of a pseudonym. The member key is also the contract key
// (LK): the utility signed its certificate when the contract began.
func Contract(network [16]byte, home [32]byte) (id [16]byte) {
	h := sha256.New()
	h.Write([]byte("gridveil/contract/1"))
	h.Write(network[:])
	h.Write(home[:])
	copy(id[:], h.Sum(nil))
	return id
}

// WeekKey is what a host must know before it can make offers for a week: the
// key that signs the passes of its zone, and the fee sheet that its terms name.
type WeekKey struct {
	Zone    uint16 // the zone's number at the aggregator; small zones share one
	Week    uint32 // pseudo.Week
	Modulus [note.SlotSize]byte
	Fees    ev.FeeSheet
}

const weekKeySize = 2 + 4 + note.SlotSize + ev.FeeSheetSize

// Bytes encodes zone u16 | week u32 | modulus | fee sheet.
func (k WeekKey) Bytes() ([]byte, error) {
	fees, err := k.Fees.Encode()
	if err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, weekKeySize), k.Zone)
	b = binary.BigEndian.AppendUint32(b, k.Week)
	return append(append(b, k.Modulus[:]...), fees...), nil
}

// ParseWeekKey is the inverse of Bytes.
func ParseWeekKey(b []byte) (k WeekKey, err error) {
	if len(b) != weekKeySize {
		return k, fmt.Errorf("%w: week key of %d bytes", ErrBody, len(b))
	}
	k.Zone, k.Week = binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])
	copy(k.Modulus[:], b[6:])
	k.Fees, err = ev.DecodeFeeSheet(b[6+note.SlotSize:])
	if err != nil {
		return k, fmt.Errorf("%w: %w", ErrBody, err)
	}
	return k, nil
}

// PassRequest asks for a week's passes. Claim is random and used for this one
// request: the aggregator answers a claim once (note.Claims), and two weeks of
// one house share no value.
type PassRequest struct {
	Week  uint32
	Claim [32]byte
	Zone  string // of the house, as in its certificate
	Slots *note.PassSlots
}

const maxZone = 32

// Bytes encodes week u32 | claim | zone length u8 | zone | slots.
func (r PassRequest) Bytes() []byte {
	b := binary.BigEndian.AppendUint32(nil, r.Week)
	b = append(b, r.Claim[:]...)
	b = append(append(b, byte(len(r.Zone))), r.Zone...)
	return append(b, r.Slots.Bytes()...)
}

// ParsePassRequest is the inverse of Bytes.
func ParsePassRequest(b []byte) (r PassRequest, err error) {
	const head = 4 + 32 + 1
	if len(b) < head || b[head-1] > maxZone || len(b) != head+int(b[head-1])+note.PassSlotsSize {
		return r, fmt.Errorf("%w: pass request of %d bytes", ErrBody, len(b))
	}
	r.Week = binary.BigEndian.Uint32(b)
	copy(r.Claim[:], b[4:])
	n := int(b[head-1])
	r.Zone = string(b[head : head+n])
	if r.Slots, err = note.ParsePassSlots(b[head+n:]); err != nil {
		return r, fmt.Errorf("%w: %w", ErrBody, err)
	}
	return r, nil
}

// Proven is a ledger entry with its proof under a final checkpoint.
type Proven struct {
	Entry []byte // as it stands on the ledger
	Proof []byte // .tlog-proof
}

// Bytes encodes entry length u32 | entry | proof.
func (p Proven) Bytes() []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(p.Entry)))
	return append(append(b, p.Entry...), p.Proof...)
}

// ParseProven is the inverse of Bytes; Open checks what is in it.
func ParseProven(b []byte) (p Proven, err error) {
	if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
		return p, fmt.Errorf("%w: proven entry of %d bytes", ErrBody, len(b))
	}
	n := binary.BigEndian.Uint32(b)
	return Proven{Entry: b[4 : 4+n : 4+n], Proof: b[4+n:]}, nil
}

// Open gives the entry if the policy's quorum vouches for it.
func (p Proven) Open(policy *ledger.Policy) (*ledger.Entry, error) {
	e, _, _, err := p.open(policy)
	return e, err
}

func (p Proven) open(policy *ledger.Policy) (e *ledger.Entry, proof *ledger.Proof, c ledger.Checkpoint, err error) {
	if e, err = ledger.Parse(p.Entry); err != nil {
		return nil, nil, c, err
	}
	if proof, err = ledger.ParseProof(p.Proof); err != nil {
		return nil, nil, c, err
	}
	c, err = proof.Verify(policy, e.Leaf())
	return e, proof, c, err
}

// OpenAt is Open for the entry with this number, counted over all shards. It
// returns ErrBody for a proof of another one.
func (p Proven) OpenAt(policy *ledger.Policy, index uint64) (*ledger.Entry, error) {
	e, proof, c, err := p.open(policy)
	if err != nil {
		return nil, err
	}
	if base, ok := policy.Base(c.Origin); !ok || base+proof.Index != index {
		return nil, fmt.Errorf("%w: it proves entry %d of the log %q, not entry %d of the ledger", ErrBody, proof.Index, c.Origin, index)
	}
	return e, nil
}

// IssueBody asks for an issue entry by its number, counted over all shards.
func IssueBody(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

// ParseIssueBody is the inverse of IssueBody.
func ParseIssueBody(b []byte) (index uint64, err error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: %d bytes ask for an issue", ErrBody, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// Month is a month's mint keys with the ledger's number of their currency.
type Month struct {
	Cur    uint8
	Denoms *note.Denoms
}

// MonthOf reads a denominations entry of a currency (ISO 4217).
func MonthOf(e *ledger.Entry, currency uint16) (Month, error) {
	d, ok := e.Body().(*ledger.Denoms)
	if !ok || len(d.Keys) < note.Slots {
		return Month{}, fmt.Errorf("%w: entry of kind %v holds no denominations", ErrBody, e.Kind())
	}
	var moduli [note.Slots][note.SlotSize]byte
	for i := range moduli {
		if d.Keys[i].Minor != 1<<i {
			return Month{}, fmt.Errorf("%w: denomination %d is worth %d", ErrBody, i, d.Keys[i].Minor)
		}
		moduli[i] = d.Keys[i].N
	}
	keys, err := note.NewDenoms(currency, d.Epoch, moduli)
	return Month{Cur: d.Cur, Denoms: keys}, err
}

// DenomsBody asks for the keys of a month (yyyymm), 0 for the present one.
func DenomsBody(currency uint16, epoch uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, currency), epoch)
}

// ParseDenomsBody is the inverse of DenomsBody.
func ParseDenomsBody(b []byte) (currency uint16, epoch uint32, err error) {
	if len(b) != 6 {
		return 0, 0, fmt.Errorf("%w: %d bytes ask for denominations", ErrBody, len(b))
	}
	return binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:]), nil
}

// AccountAnswer is the ledger account that a utility's customers redeem to.
func AccountAnswer(a ledger.Account) []byte { return binary.BigEndian.AppendUint32(nil, uint32(a)) }

// ParseAccount is the inverse of AccountAnswer.
func ParseAccount(b []byte) (ledger.Account, error) {
	if len(b) != 4 {
		return 0, fmt.Errorf("%w: account of %d bytes", ErrBody, len(b))
	}
	return ledger.Account(binary.BigEndian.Uint32(b)), nil
}

// OpenCase is one session that a dispute names.
type OpenCase struct {
	Ref    [32]byte // of the session, pseudo.Cert.Ref
	ID     ledger.CaseID
	Kind   ledger.CaseKind
	Reason ledger.Reason
	Opened uint64 // ledger time, UTC ms
}

const (
	caseSize = 32 + 16 + 1 + 2 + 8
	maxCases = 150 // fit the answer of one onion request
)

// CasesAnswer encodes n u16 | n x {ref id kind u8 reason u16 opened u64}, the
// newest maxCases of list, which is ordered by time.
func CasesAnswer(list []OpenCase) []byte {
	list = list[max(0, len(list)-maxCases):]
	b := binary.BigEndian.AppendUint16(nil, uint16(len(list)))
	for _, c := range list {
		b = append(append(b, c.Ref[:]...), c.ID[:]...)
		b = append(b, byte(c.Kind))
		b = binary.BigEndian.AppendUint16(b, uint16(c.Reason))
		b = binary.BigEndian.AppendUint64(b, c.Opened)
	}
	return b
}

// ParseCases is the inverse of CasesAnswer.
func ParseCases(b []byte) ([]OpenCase, error) {
	if len(b) < 2 || binary.BigEndian.Uint16(b) > maxCases || len(b) != 2+caseSize*int(binary.BigEndian.Uint16(b)) {
		return nil, fmt.Errorf("%w: cases of %d bytes", ErrBody, len(b))
	}
	out := make([]OpenCase, 0, len(b)/caseSize)
	for b = b[2:]; len(b) > 0; b = b[caseSize:] {
		out = append(out, OpenCase{Ref: [32]byte(b), ID: ledger.CaseID(b[32:]), Kind: ledger.CaseKind(b[48]),
			Reason: ledger.Reason(binary.BigEndian.Uint16(b[49:])), Opened: binary.BigEndian.Uint64(b[51:])})
	}
	return out, nil
}
