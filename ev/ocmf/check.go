package ocmf

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"gridveil/ev/internal/decimal"
)

// Signed is what a session's records prove.
type Signed struct {
	ImportMWh, ExportMWh int64 // energy between begin and end
	HasImport, HasExport bool  // a register of that direction was signed
	Begin, End           int64 // TM of begin and end, UTC ms; trustworthy only if TimeOK
	TimeOK               bool  // both times synchronised, none flagged
	Bound                bool  // ID is the session's code
	Serial               string
	Key                  [32]byte // PublicKey.Hash
	First, Last          Page     // pages of begin and end: with Key they name the records for ever
	StepMWh              int64    // one step of the coarsest billed register
}

// MaxSkew is how far signed times may lie from the gateway's, ms, for prices that depend on time.
const MaxSkew = 30_000

// TimedAt reports whether the signed times may select prices: synchronised, and within MaxSkew of the begin and end
// that the gateway saw, UTC ms.
func (s Signed) TimedAt(begin, end int64) bool {
	near := func(a, b int64) bool { return a-b <= MaxSkew && b-a <= MaxSkew }
	return s.TimeOK && near(s.Begin, begin) && near(s.End, end)
}

// Check decides whether the records of one transaction may be billed, and what energy they prove.
//
// recs are the records as found, in any order, equal ones counted once; records without a begin or end are verified and
// otherwise ignored. key is the key that the owner confirmed when the wallbox was paired. code is the session's code
// (session.Code of package privacy/session): a record that holds another ID is refused. An empty code means that the
// station signs no ID; then Bound is false, and who bills must keep (Key, First, Last) to refuse reuse.
//
// Errors are ErrOCMF and name the first check that failed. Source: doc/design.md, OCMF.
func Check(recs [][]byte, key PublicKey, code string) (Signed, error) {
	if len(recs) == 0 {
		return Signed{}, refuse(Empty, -1)
	}
	if len(recs) > MaxRecords {
		return Signed{}, refuse(TooLarge, -1)
	}
	if key.IsZero() {
		return Signed{}, refuse(Unpinned, -1)
	}
	if key.Weak() {
		return Signed{}, refuse(Weak, -1)
	}
	list, err := verifyAll(distinct(recs), key, code)
	if err != nil {
		return Signed{}, err
	}
	begin, end, err := ends(list)
	if err != nil {
		return Signed{}, err
	}
	s := Signed{Bound: code != "", Serial: list[0].Meter(), Key: key.Hash(), First: begin.page, Last: end.page,
		Begin: begin.at, End: end.at, TimeOK: begin.timed && end.timed, StepMWh: 1}
	return s, s.measure(begin, end)
}

func distinct(recs [][]byte) [][]byte {
	var out [][]byte
	for _, r := range recs {
		r = bytes.TrimSpace(r)
		if !slices.ContainsFunc(out, func(x []byte) bool { return bytes.Equal(x, r) }) {
			out = append(out, r)
		}
	}
	return out
}

// verifyAll parses the records, checks signatures, code, serial and pages, and sorts by page.
func verifyAll(recs [][]byte, key PublicKey, code string) ([]Record, error) {
	list := make([]Record, 0, len(recs))
	for i, raw := range recs {
		r, err := Parse(raw)
		if err == nil {
			err = r.Verify(key)
		}
		if err != nil {
			var e *ErrOCMF
			if errors.As(err, &e) {
				return nil, refuse(e.Reason, i)
			}
			return nil, err
		}
		if code != "" && !strings.EqualFold(r.ID, code) {
			return nil, refuse(ForeignID, i)
		}
		if r.Meter() == "" || i > 0 && r.Meter() != list[0].Meter() {
			return nil, refuse(Serial, i)
		}
		if r.PG.Context != 'T' || slices.ContainsFunc(list, func(x Record) bool { return x.PG == r.PG }) {
			return nil, refuse(Pagination, i)
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b Record) int {
		if a.PG.Number < b.PG.Number {
			return -1
		}
		return 1 // pages are distinct
	})
	return list, nil
}

// mark is the begin or the end: its page, time and all readings that belong to it.
type mark struct {
	page     Page
	at       int64
	timed    bool
	readings []Reading
}

// ends finds the first begin and the last end, in page order.
func ends(list []Record) (begin, end mark, err error) {
	for _, r := range list {
		for _, rd := range r.RD {
			switch {
			case rd.TX == 'B' && begin.readings == nil:
				begin = marked(r, 'B')
			case strings.IndexByte("ELRAP", rd.TX) >= 0:
				end = marked(r, rd.TX)
			}
		}
	}
	switch {
	case begin.readings == nil:
		return begin, end, refuse(NoBegin, -1)
	case end.readings == nil:
		return begin, end, refuse(NoEnd, -1)
	case end.page.Number < begin.page.Number || end.at < begin.at:
		return begin, end, refuse(Order, -1)
	}
	return begin, end, nil
}

func marked(r Record, tx byte) mark {
	m := mark{page: r.PG, timed: true}
	for _, rd := range r.RD {
		if rd.TX == tx {
			m.readings = append(m.readings, rd)
			m.at = max(m.at, rd.At)
			m.timed = m.timed && rd.Sync == 'S' && !strings.Contains(rd.EF, "t")
		}
	}
	return m
}

// measure subtracts begin from end for each register and stores the energy of both directions.
func (s *Signed) measure(begin, end mark) error {
	used := map[direction]string{}
	for _, e := range end.readings {
		dir := directionOf(e.RI)
		if dir == noEnergy || e.Value == "" {
			continue
		}
		i := slices.IndexFunc(begin.readings, func(b Reading) bool { return b.RI == e.RI && b.Value != "" })
		if i < 0 {
			continue
		}
		if used[dir] != "" && used[dir] != e.RI {
			return refuse(Register, -1) // which of two registers is billed would be a guess
		}
		used[dir] = e.RI
		energy, err := s.difference(begin.readings[i], e)
		if err != nil {
			return err
		}
		if dir == imported {
			s.ImportMWh, s.HasImport = energy, true
		} else {
			s.ExportMWh, s.HasExport = energy, true
		}
	}
	if !s.HasImport && !s.HasExport {
		return refuse(Register, -1)
	}
	return nil
}

func (s *Signed) difference(b, e Reading) (int64, error) {
	for _, rd := range []Reading{b, e} {
		if rd.ST != "G" {
			return 0, refuse(Status, -1)
		}
		if strings.Contains(rd.EF, "E") {
			return 0, refuse(ErrorFlag, -1)
		}
	}
	from, step, err := energy(b)
	if err != nil {
		return 0, err
	}
	to, step2, err := energy(e)
	if err != nil {
		return 0, err
	}
	if to < from {
		return 0, refuse(Negative, -1)
	}
	s.StepMWh = max(s.StepMWh, step, step2)
	return to - from, nil
}

// energy returns the register in mWh and the step of its last digit.
func energy(rd Reading) (mwh, step int64, err error) {
	shift, ok := map[string]int{"Wh": 3, "kWh": 6}[rd.RU]
	if !ok {
		return 0, 0, refuse(Unit, -1)
	}
	mwh, err = decimal.Parse(rd.Value, shift)
	if err != nil || mwh < 0 {
		return 0, 0, refuse(Unit, -1)
	}
	_, fraction, _ := strings.Cut(rd.Value, ".")
	step = 1
	for range max(shift-len(fraction), 0) {
		step *= 10
	}
	return mwh, step, nil
}

type direction uint8

const (
	noEnergy direction = iota
	imported
	exported
)

// directionOf reads an OBIS code such as 1-0:1.8.0*198, 1-b:1.8.e, 01-00:01.08.00.FF or 01-00:B2.08.00*FF: C is 1 or
// B0..B3 for import, 2 or C0..C3 for export, and D is 8, the energy since the start. Source: IEC 62056-61; OCMF 1.0,
// "accumulation registers".
func directionOf(obis string) direction {
	_, value, ok := strings.Cut(obis, ":")
	if !ok {
		return noEnergy
	}
	groups := strings.FieldsFunc(value, func(r rune) bool { return r == '.' || r == '*' })
	if len(groups) < 3 || strings.TrimLeft(groups[1], "0") != "8" {
		return noEnergy
	}
	switch strings.ToUpper(strings.TrimLeft(groups[0], "0")) {
	case "1", "B0", "B1", "B2", "B3":
		return imported
	case "2", "C0", "C1", "C2", "C3":
		return exported
	}
	return noEnergy
}
