package monthly

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"gridveil/ev"
	"gridveil/ev/ocmf"
	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/node/ask"
	"gridveil/privacy"
	"gridveil/privacy/session"
)

// MaxStatement is the most that a statement's file may have, bytes: a month of
// sessions has some 10 KiB each.
const MaxStatement = 16 << 20

// Papers are what both sides of a session signed, for a reader who trusts neither.
// Layouts stand in doc/wire.md; bytes are base64 in JSON.
type Papers struct {
	Network string `json:"network"` // that all signatures are bound to, 16 hex digits
	Offer   []byte `json:"offer"`   // the host's prices, signed before the first Wh
	Open    []byte `json:"open"`    // the driver's acceptance of this very offer
	Close   []byte `json:"close"`   // the record, with terms, meter key and meter records
	Tick    []byte `json:"tick,omitempty"`
	Ack     []byte `json:"ack,omitempty"`
	Fees    []byte `json:"fees"` // fee sheet that the terms name
	// Booked is what a driver has beside: the ledger's entry that stands for the record.
	Booked *Booked `json:"booked,omitempty"`
}

// Booked is the ledger's entry of a session. It commits to SHA-256(Salt Record).
type Booked struct {
	Salt       []byte `json:"salt"` // 32 bytes
	Entry      []byte `json:"entry"`
	EntryProof string `json:"entry_proof"` // .tlog-proof
}

// PapersOf are a session's papers in their file form.
func PapersOf(net privacy.Net, p session.Papers, fees []byte) *Papers {
	return &Papers{Network: hex.EncodeToString(net[:]), Offer: p.Offer, Open: p.Open, Close: p.Close, Tick: p.Tick, Ack: p.Ack, Fees: fees}
}

// ErrStatement says that a statement contradicts what it carries.
var ErrStatement = errors.New("statement does not hold")

// Judgement is what a statement shows by its file alone.
type Judgement struct {
	Of       string   `json:"of"`
	Month    string   `json:"month"`
	Sessions []Judged `json:"sessions"`
	Proved   int      `json:"proved"`   // sessions whose energy and amounts were recomputed from papers
	Unproved int      `json:"unproved"` // listed without papers
	// Unsettled are sessions that were signed and never settled. They are in no count.
	Unsettled []Judged `json:"unsettled,omitempty"`
}

// Judged is what one session's papers show.
type Judged struct {
	ID       string `json:"session"`
	Proved   bool   `json:"proved"`
	Agreed   string `json:"agreed"`              // whose word it rests on
	MeterKey string `json:"meter_key,omitempty"` // to compare with the meter's label
	InMWh    int64  `json:"in_mwh"`
	OutMWh   int64  `json:"out_mwh"`
	Paid     int64  `json:"paid_micro"`
	Earned   int64  `json:"earned_micro"`
	Prices   Prices `json:"prices_micro"` // zero if not proved
	OnLedger bool   `json:"on_ledger"`    // a final entry under the policy stands for exactly this record
	Notes    int    `json:"notes_proved"` // claims of notes that an entry of the ledger covers
	Open     int    `json:"notes_open"`   // claims that are not proved, or not looked at for want of a policy
}

// Prices are what both sides had signed before the first Wh, millionths per kWh.
type Prices struct {
	Roof   int64 `json:"roof"`   // own energy into the car
	Grid   int64 `json:"grid"`   // energy of the grid into the car
	House  int64 `json:"house"`  // the car's energy used in the house
	Export int64 `json:"export"` // the car's energy fed into the grid
}

// Judge recomputes a statement in JSON from what it carries, without any node: the
// sums; for each session with papers the signatures of both sides, terms, prices,
// meter records, energies and amounts; and with a policy of the ledger the entries
// behind the sessions and their notes. It believes nothing else in the file. A nil policy leaves
// the ledger out.
//
// Its error wraps ErrStatement and names the first session that does not hold. That
// a meter's key is the meter's it cannot know.
func Judge(file io.Reader, policy *ledger.Policy) (j Judgement, err error) {
	b, err := io.ReadAll(io.LimitReader(file, MaxStatement+1))
	if err != nil {
		return j, err
	}
	if len(b) > MaxStatement {
		return j, fmt.Errorf("%w: it has more than %d bytes", ErrStatement, MaxStatement)
	}
	var s Statement
	if err := json.Unmarshal(b, &s); err != nil {
		return j, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	if s.Of != "host" && s.Of != "driver" {
		return j, fmt.Errorf("%w: it is of %q, want a host's or a driver's", ErrStatement, s.Of)
	}
	j = Judgement{Of: s.Of, Month: s.Month, Sessions: []Judged{}}
	sums, seen := s, map[string]bool{}
	for _, x := range s.Sessions {
		if sums.InMWh, sums.OutMWh, sums.Paid, sums.Earned, err = less(sums, x); err != nil {
			return j, err
		}
		v, err := judgeOnce(s.Of, x, policy, seen)
		if err != nil {
			return j, err
		}
		if v.Proved {
			j.Proved++
		} else {
			j.Unproved++
		}
		j.Sessions = append(j.Sessions, v)
	}
	for _, x := range s.Unsettled {
		v, err := judgeOnce(s.Of, x, policy, seen)
		if err != nil {
			return j, err
		}
		j.Unsettled = append(j.Unsettled, v)
	}
	if sums.InMWh != 0 || sums.OutMWh != 0 || sums.Paid != 0 || sums.Earned != 0 {
		return j, fmt.Errorf("%w: its sums are not those of its sessions", ErrStatement)
	}
	return j, nil
}

// judgeOnce judges a session that the statement may list only once.
func judgeOnce(of string, x Session, policy *ledger.Policy, seen map[string]bool) (Judged, error) {
	v, err := judge(of, x, policy)
	if err != nil {
		return v, fmt.Errorf("%w: session %.16q: %w", ErrStatement, x.ID, err)
	}
	if x.Papers != nil && seen[string(x.Papers.Open)] {
		return v, fmt.Errorf("%w: session %s is listed twice", ErrStatement, x.ID)
	}
	if v.Proved {
		seen[string(x.Papers.Open)] = true
	}
	return v, nil
}

// maxSum keeps sums of foreign numbers far from overflow; a session's limits are
// far below.
const maxSum = 1 << 50

// less takes one session out of a statement's sums.
func less(s Statement, x Session) (in, out, paid, earned int64, err error) {
	for _, v := range [...]int64{s.InMWh, s.OutMWh, s.Paid, s.Earned, x.InMWh, x.OutMWh, x.Paid, x.Earned} {
		if v > maxSum || v < -maxSum {
			return 0, 0, 0, 0, fmt.Errorf("%w: a number is out of range", ErrStatement)
		}
	}
	return s.InMWh - x.InMWh, s.OutMWh - x.OutMWh, s.Paid - x.Paid, s.Earned - x.Earned, nil
}

func judge(of string, x Session, policy *ledger.Policy) (v Judged, err error) {
	v = Judged{ID: x.ID, Agreed: "shown only: it carries nothing that was signed for others", InMWh: x.InMWh, OutMWh: x.OutMWh, Paid: x.Paid, Earned: x.Earned}
	for _, c := range x.Claims {
		ok, err := judgeClaim(c, policy)
		if err != nil {
			return v, err
		}
		if ok {
			v.Notes++
		} else {
			v.Open++
		}
	}
	if x.Papers == nil {
		return v, nil
	}
	p, err := x.Papers.open()
	if err != nil {
		return v, err
	}
	terms, fee, err := price(p, x.Papers.Fees)
	if err != nil {
		return v, err
	}
	if err := says(of, x, p, fee); err != nil {
		return v, err
	}
	if v.OnLedger, err = x.Papers.booked(p.Record, policy); err != nil {
		return v, err
	}
	v.Proved, v.MeterKey = true, x.MeterKey
	v.Prices = Prices{Roof: int64(p.Offer.PRes), Grid: int64(p.Offer.PGrid), House: int64(p.Offer.POut), Export: terms.PExport}
	v.Agreed = map[session.Form]string{session.Both: "signed by host and driver", session.Cut: "signed by the host; the driver left and had signed up to this",
		session.Unattended: "signed by the host; host and driver had agreed that the meter's word counts"}[p.Record.Form]
	return v, nil
}

// open checks everything in papers that is signed or committed to.
func (p *Papers) open() (v session.Proven, err error) {
	raw, err := hex.DecodeString(p.Network)
	var net privacy.Net
	if err != nil || len(raw) != len(net) {
		return v, fmt.Errorf("%w: network of %d digits", ErrStatement, len(p.Network))
	}
	copy(net[:], raw)
	return session.Papers{Offer: p.Offer, Open: p.Open, Close: p.Close, Tick: p.Tick, Ack: p.Ack}.Check(net)
}

// booked says whether the entry that papers carry is final under the policy and
// stands for the record. One that does not is an error.
func (p *Papers) booked(r session.Record, policy *ledger.Policy) (bool, error) {
	if p.Booked == nil || policy == nil {
		return false, nil
	}
	e, err := ask.Proven{Entry: p.Booked.Entry, Proof: []byte(p.Booked.EntryProof)}.Open(policy)
	if err != nil {
		return false, fmt.Errorf("its entry on the ledger: %w", err)
	}
	c, ok := e.Body().(*ledger.CDR)
	if salted := slices.Concat(p.Booked.Salt, r.Bytes()); !ok || len(p.Booked.Salt) != len(c.Evidence) || c.Evidence != sha256.Sum256(salted) {
		return false, errors.New("the entry on the ledger stands for another record")
	}
	return true, nil
}

// price follows energy and amounts from the meter's records and the prices of the
// offer, as the aggregator does, and returns the terms and
// the aggregator's fee.
func price(p session.Proven, sheet []byte) (terms ev.Terms, fee int64, err error) {
	fees, err := ev.DecodeFeeSheet(sheet)
	if err != nil {
		return terms, 0, err
	}
	if terms, err = ev.DecodeTerms(p.Evidence.Terms); err != nil {
		return terms, 0, err
	}
	if hash, err := fees.Hash(); err != nil || hash != terms.FeeSheet {
		return terms, 0, errors.New("the fee sheet is not the one that was agreed on")
	}
	if p.Record.Form == session.Unattended && !terms.Unattended {
		return terms, 0, errors.New("the driver's signature is missing, and the terms do not let the meter's word stand in for it")
	}
	key, err := ocmf.NewKey(p.Evidence.MeterKey)
	if err != nil {
		return terms, 0, err
	}
	signed, err := ocmf.Check(p.Evidence.Records, key, p.Code)
	if err != nil {
		return terms, 0, err
	}
	if !signed.Bound {
		return terms, 0, errors.New("the meter's records do not name this session")
	}
	// What the host owes is capped by notes that are not shown: as much as it signed for.
	locked := p.Record.Amounts.Owed
	fee, _, err = settle.Pricer{Fees: fees}.Price(session.Case{Offer: p.Offer, Band: p.Open.Band, Record: p.Record, Evidence: &p.Evidence}, locked)
	return terms, fee, err
}

// says compares what the statement says of a session with what was proved.
func says(of string, x Session, p session.Proven, fee int64) error {
	r := p.Record
	amounts := r.Amounts
	amounts.Fee = fee
	earned := amounts.Host - amounts.Owed
	if of == "driver" {
		earned = amounts.Driver
	}
	for _, c := range x.Claims {
		due := map[string]int64{ForEnergyIn: amounts.Host, ForEnergyOut: amounts.Driver}
		if most, ok := due[c.For]; ok && int64(c.Minor)*ev.MinorEUR > most {
			return fmt.Errorf("it shows notes of %d cents %s, its papers only %d", c.Minor, c.For, most/ev.MinorEUR)
		}
		if c.For == ForFlexibility { // what the grid operator pays stands on the ledger, not in the record
			earned += int64(c.Minor) * ev.MinorEUR
		}
	}
	name := r.Open
	switch {
	case x.ID != fmt.Sprintf("%02X%02X-%02X", name[0], name[1], name[2]):
		return errors.New("its papers are those of another session")
	case x.InMWh != r.Energy.In() || x.OutMWh != r.Energy.Out:
		return fmt.Errorf("it says %d mWh in and %d out, its papers %d and %d", x.InMWh, x.OutMWh, r.Energy.In(), r.Energy.Out)
	case x.Paid != amounts.Total() || x.Earned != earned:
		return fmt.Errorf("it says %d paid and %d earned, its papers %d and %d", x.Paid, x.Earned, amounts.Total(), earned)
	case x.MeterKey != hex.EncodeToString(p.Evidence.MeterKey):
		return errors.New("it names another meter than its papers")
	case x.End.Unix() < int64(r.T0)*slot || r.Form == session.Both && x.End.Unix() > int64(r.T1)*slot:
		return errors.New("it ends at another time than in its papers")
	}
	for _, reading := range x.Readings {
		in := func(raw []byte) bool { return bytes.Equal(raw, []byte(reading.OCMF)) }
		if !reading.OK || !slices.ContainsFunc(p.Evidence.Records, in) {
			return errors.New("it shows readings that its papers do not hold")
		}
	}
	return nil
}

// slot is the unit of a record's times, seconds.
const slot = 900

// judgeClaim says whether an entry that is final under the policy covers a claim.
// A proof that does not hold is an error only where the statement says it does.
func judgeClaim(c Claim, policy *ledger.Policy) (bool, error) {
	if !c.Proved || policy == nil {
		return false, nil
	}
	if c.Proof == nil || len(c.Proof.Request) != 32 || len(c.Proof.Salt) != 32 {
		return false, fmt.Errorf("notes %s are said to be proved, and the proof is missing: print the statement with --signed", c.For)
	}
	e, err := ask.Proven{Entry: c.Proof.Entry, Proof: []byte(c.Proof.EntryProof)}.OpenAt(policy, c.Issue)
	if err != nil {
		return false, fmt.Errorf("the entry behind notes %s: %w", c.For, err)
	}
	issue, ok := e.Body().(*ledger.Issue)
	if !ok {
		return false, fmt.Errorf("entry %d issues no notes", c.Issue)
	}
	answer := session.Collected{Issue: c.Issue, Request: [32]byte(c.Proof.Request), Salt: [32]byte(c.Proof.Salt), Proof: c.Proof.Leaf}
	return true, settle.VerifyClaim(&answer, uint32(c.Minor), issue)
}
