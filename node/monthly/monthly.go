// Package monthly is the statement of a month's sessions: for a host's books, a
// driver's, or an employer who pays for charging and wants the meter's own
// signatures.
//
// Text, JSON and CSV are three forms of one Statement, so that they cannot
// differ. Amounts are millionths of EUR and energies mWh, as they were signed;
// only Text rounds, to cents and Wh. Start with Make; Judge is for who gets one.
package monthly

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// Statement is a month's sessions of one wallbox or one wallet.
type Statement struct {
	Of       string    `json:"of"`    // "host" or "driver"
	Name     string    `json:"name"`  // of the node
	Month    string    `json:"month"` // "2026-06"
	From     time.Time `json:"from"`
	To       time.Time `json:"to"` // exclusive
	Currency string    `json:"currency"`
	Sessions []Session `json:"sessions"` // by end
	InMWh    int64     `json:"in_mwh"`
	OutMWh   int64     `json:"out_mwh"`
	Paid     int64     `json:"paid_micro"`   // by drivers, on their utility's bill
	Earned   int64     `json:"earned_micro"` // by whose statement it is, in notes; below zero if it owes
	Unbilled int       `json:"unbilled"`     // ended, and not in Sessions: refused, or not settled yet
	// Unsettled are those of Unbilled that were signed, with what they would pay and
	// earn. They are in no sum.
	Unsettled []Session `json:"unsettled,omitempty"`
}

// Session is one session that ended in the month.
type Session struct {
	ID       string    `json:"session"`
	Begin    time.Time `json:"begin"`
	End      time.Time `json:"end"`
	Case     string    `json:"case"` // pv, grid, mixed, v2g-house, v2g-grid, v2g, gift, own
	InMWh    int64     `json:"in_mwh"`
	OutMWh   int64     `json:"out_mwh"`
	Paid     int64     `json:"paid_micro"`
	Earned   int64     `json:"earned_micro"`
	MeterKey string    `json:"meter_key,omitempty"` // public key, hexadecimal
	Readings []Reading `json:"readings,omitempty"`  // only where they were asked for
	Claims   []Claim   `json:"claims,omitempty"`    // of whose statement it is, whose notes are here
	Papers   *Papers   `json:"papers,omitempty"`    // only where they were asked for: see Judge
}

// What a Claim is for.
const (
	ForEnergyIn    = "energy into the car"
	ForEnergyOut   = "energy out of the car"
	ForChange      = "what is left of the lock"
	ForFlexibility = "energy moved for the grid operator"
)

// Claim is what the ledger shows of notes that a session brought. An auditor who
// has the ledger's policy needs no more than a claim with its proof: the entry is
// final under the policy, and its root covers the leaf of request and amount.
type Claim struct {
	For       string `json:"for"`
	Minor     uint16 `json:"minor"`     // cents
	Issue     uint64 `json:"issue"`     // number of the entry, counted over all shards
	Proved    bool   `json:"proved"`    // the entry covers the claim
	Uncovered bool   `json:"uncovered"` // the entry is there and does not
	Verdict   string `json:"verdict"`   // the same in words
	// Proof is what shows it, where proofs were asked for.
	Proof *ClaimProof `json:"proof,omitempty"`
}

// ClaimProof is a claim's leaf in an issue entry, and the entry in the ledger.
// Bytes are base64 in JSON.
type ClaimProof struct {
	Request    []byte `json:"request"` // H(Collect)
	Salt       []byte `json:"salt"`
	Leaf       []byte `json:"leaf_proof"`
	Entry      []byte `json:"entry,omitempty"`
	EntryProof string `json:"entry_proof,omitempty"` // .tlog-proof
}

// ledger sums up a session's claims for a column.
func (x Session) ledger() string {
	words := ""
	for _, c := range x.Claims {
		switch {
		case c.Uncovered:
			return "not covered"
		case !c.Proved:
			words = "not yet"
		case words == "":
			words = "proved"
		}
	}
	return words
}

// Reading is a record as the meter signed it, byte for byte.
type Reading struct {
	OCMF    string `json:"ocmf"`
	OK      bool   `json:"verifies"`
	Verdict string `json:"verdict"`
}

// ErrMonth says that a month is not written as 2026-06.
var ErrMonth = errors.New("month: want a year and a month such as 2026-06")

// Span is the month in the zone: from its first instant to that of the next.
func Span(month string, zone *time.Location) (from, to time.Time, err error) {
	from, err = time.ParseInLocation("2006-01", month, zone)
	if err != nil {
		return from, to, fmt.Errorf("%w, got %q", ErrMonth, month)
	}
	return from, from.AddDate(0, 1, 0), nil
}

// Make takes those of list that ended in the month of s, which names owner, month
// and span, and adds them up. signed says whether readings and keys of meters,
// papers of sessions and proofs of claims stay in it; a meter's key tells where a session was.
func Make(s Statement, list []Session, signed bool) Statement {
	s.Currency, s.Sessions = "EUR", []Session{}
	for _, x := range list {
		if x.End.Before(s.From) || !x.End.Before(s.To) {
			continue
		}
		s.Sessions = append(s.Sessions, x)
		s.InMWh, s.OutMWh = s.InMWh+x.InMWh, s.OutMWh+x.OutMWh
		s.Paid, s.Earned = s.Paid+x.Paid, s.Earned+x.Earned
	}
	for _, list := range [][]Session{s.Sessions, s.Unsettled} {
		slices.SortStableFunc(list, func(a, b Session) int { return a.End.Compare(b.End) })
		for i := range list {
			if !signed {
				list[i].unsign()
			}
		}
	}
	return s
}

// unsign takes out what was signed.
func (x *Session) unsign() {
	x.Readings, x.MeterKey, x.Papers, x.Claims = nil, "", nil, slices.Clone(x.Claims)
	for i := range x.Claims {
		x.Claims[i].Proof = nil
	}
}

// JSON is the statement for programs; fields are only ever added.
func (s Statement) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), err
}

// CSV is the statement for spreadsheets: one row per session, and with readings
// one per reading, the session's own fields in the first of them only.
func (s Statement) CSV() []byte {
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	rows := [][]string{{"session", "begin", "end", "case", "in_mwh", "out_mwh", "paid_micro", "earned_micro", "currency", "meter_key", "verdict", "ocmf", "ledger"}}
	num := func(v int64) string { return strconv.FormatInt(v, 10) }
	for _, x := range s.Sessions {
		row := []string{x.ID, x.Begin.UTC().Format(time.RFC3339), x.End.UTC().Format(time.RFC3339), x.Case, num(x.InMWh), num(x.OutMWh), num(x.Paid), num(x.Earned), s.Currency, x.MeterKey, "", "", x.ledger()}
		for i, r := range x.Readings {
			if i > 0 {
				rows = append(rows, row)
				row = make([]string, len(row))
				row[0], row[9] = x.ID, x.MeterKey
			}
			row[10], row[11] = r.Verdict, r.OCMF
		}
		rows = append(rows, row)
	}
	_ = w.WriteAll(rows) // a bytes.Buffer takes everything
	return out.Bytes()
}

// Text is the statement for people.
func (s Statement) Text() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "Charging statement of %s (%s), %s\n\n", s.Name, s.Of, s.Month)
	if len(s.Sessions) == 0 {
		fmt.Fprintln(&out, "No session ended in this month.")
	} else {
		w := s.table(&out, s.Sessions)
		fmt.Fprintf(w, "total\t\t\t\t%s\t%s\t%s\t%s\t\n", kWh(s.InMWh), kWh(s.OutMWh), euros(s.Paid), euros(s.Earned))
		w.Flush() // a bytes.Buffer takes everything
	}
	if s.Unbilled > 0 {
		fmt.Fprintf(&out, "\nEnded and not listed, for they were refused or are not settled yet: %d\n", s.Unbilled)
	}
	if len(s.Unsettled) > 0 {
		fmt.Fprintln(&out, "\nOf these were signed, and are not settled: nobody has paid them yet")
		s.table(&out, s.Unsettled).Flush()
	}
	for _, x := range slices.Concat(s.Sessions, s.Unsettled) {
		if len(x.Readings) == 0 {
			continue
		}
		fmt.Fprintf(&out, "\nSession %s, meter key %s\n", x.ID, x.MeterKey)
		for _, r := range x.Readings {
			fmt.Fprintf(&out, "  %s\n  %s\n", r.Verdict, r.OCMF)
		}
	}
	return out.Bytes()
}

// table writes one line per session; what goes below it may be added before Flush.
func (s Statement) table(out *bytes.Buffer, list []Session) *tabwriter.Writer {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "session\tbegin\tend\tcase\tcharged\tgiven\tpaid\tearned\tledger")
	for _, x := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.ID, x.Begin.In(s.From.Location()).Format("2 Jan 15:04"), x.End.In(s.From.Location()).Format("2 Jan 15:04"), x.Case, kWh(x.InMWh), kWh(x.OutMWh), euros(x.Paid), euros(x.Earned), x.ledger())
	}
	return w
}

func kWh(mWh int64) string {
	wh := (mWh + 500) / 1000
	return fmt.Sprintf("%d.%03d kWh", wh/1000, wh%1000)
}

func euros(micro int64) string {
	sign := ""
	if micro < 0 {
		sign, micro = "-", -micro
	}
	cents := (micro + 5000) / 10_000
	return fmt.Sprintf("%s%d.%02d EUR", sign, cents/100, cents%100)
}
