package export

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"gridveil/ledger"
)

// Statement lists what moved on the books of one owner in one currency between
// two closes. Amounts are millionths, above zero in the owner's favour.
type Statement struct {
	Origin   string         `json:"origin"`
	Party    ledger.PartyID `json:"party"` // 0 for the common books of the households
	Name     string         `json:"name"`
	Currency string         `json:"currency"`
	Period   uint32         `json:"period"` // ends with the close of this number
	Closed   bool           `json:"closed"`
	Opening  []BookBalance  `json:"opening"`
	Lines    []Line         `json:"lines"`
	Closing  []BookBalance  `json:"closing"`
	Size     uint64         `json:"checkpoint_size"`
	Root     string         `json:"checkpoint_root"` // hex
}

// BookBalance is the balance of one book.
type BookBalance struct {
	Book   string `json:"book"`
	Amount int64  `json:"amount_micro"`
}

// Line is one posting of a statement.
type Line struct {
	Index  uint64    `json:"index"` // of the entry
	Time   time.Time `json:"log_time"`
	Kind   string    `json:"kind"`
	Book   string    `json:"book"`
	Amount int64     `json:"amount_micro"`
	Ref    string    `json:"ref"`
}

const commonName = "households (common books)"

var (
	commonBooks   = []string{"earned", "notes", "unclaimed"}
	operatorBooks = []string{"open", "due"}
)

func booksOf(p ledger.PartyID) []string {
	if p == 0 {
		return commonBooks
	}
	return operatorBooks
}

// Statement gives the statement of a party (0 for the common books), currency
// index and period, from 1 to the period that is still open.
func (b *Book) Statement(party ledger.PartyID, cur uint8, period uint32) (Statement, error) {
	for _, s := range b.statements(func(p ledger.PartyID, c uint8, n uint32) bool { return p == party && c == cur && n == period }) {
		return s, nil
	}
	return Statement{}, fmt.Errorf("no statement of party %d, currency %d, period %d: the log has %d parties, %d currencies, and the open period is %d",
		party, cur, period, len(b.State.Parties()), len(b.State.Currencies()), b.openPeriod(cur))
}

// Statements gives all statements in the order currency, period, party.
func (b *Book) Statements() []Statement {
	return b.statements(func(ledger.PartyID, uint8, uint32) bool { return true })
}

func (b *Book) openPeriod(cur uint8) uint32 {
	if int(cur) >= len(b.periods) {
		return 0
	}
	return b.periods[cur]
}

// statements walks the moves of each currency once and cuts them at the closes.
func (b *Book) statements(want func(ledger.PartyID, uint8, uint32) bool) []Statement {
	var out []Statement
	for cur := range b.State.Currencies() {
		c := uint8(cur)
		balance := map[ledger.Account]int64{}
		next := 0
		for period := uint32(1); period <= b.openPeriod(c); period++ {
			page := b.page(c, period)
			for i := range page {
				page[i].Opening = balances(page[i].Party, c, balance)
			}
			for ; next < len(b.Moves); next++ {
				m := &b.Moves[next]
				if m.Postings[0].Account.Currency() != c {
					continue
				}
				if m.Period != period {
					break
				}
				for _, p := range m.Postings {
					balance[p.Account] += p.Amount
					s := &page[p.Account.Party()]
					s.Lines = append(s.Lines, Line{m.Index, m.Time, m.Kind.String(), booksOf(s.Party)[p.Account.Book()], p.Amount, m.Ref})
				}
			}
			for i := range page {
				page[i].Closing = balances(page[i].Party, c, balance)
				if want(page[i].Party, c, period) {
					out = append(out, page[i])
				}
			}
		}
	}
	return out
}

// page is one empty statement per party, the common books first.
func (b *Book) page(cur uint8, period uint32) []Statement {
	parties := b.State.Parties()
	out := make([]Statement, len(parties)+1)
	for i := range out {
		out[i] = Statement{Origin: b.Origin, Party: ledger.PartyID(i), Name: commonName, Currency: b.State.Currencies()[cur].Code(), Period: period,
			Closed: period < b.openPeriod(cur), Lines: []Line{}, Size: b.Checkpoint.Size, Root: fmt.Sprintf("%x", b.Checkpoint.Root)}
		if i > 0 {
			out[i].Name = parties[i-1].Name
		}
	}
	return out
}

func balances(p ledger.PartyID, cur uint8, all map[ledger.Account]int64) []BookBalance {
	var out []BookBalance
	for i, name := range booksOf(p) {
		out = append(out, BookBalance{name, all[ledger.Account(uint32(p)<<8|uint32(cur)<<2|uint32(i))]})
	}
	return out
}

// empty reports whether there is nothing to tell.
func (s Statement) empty() bool {
	for _, b := range s.Opening {
		if b.Amount != 0 {
			return false
		}
	}
	return len(s.Lines) == 0
}

// JSON is the statement for programs; fields are only ever added.
func (s Statement) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), err
}

// Text is the statement for people.
func (s Statement) Text() []byte {
	var out bytes.Buffer
	state := "open period"
	if s.Closed {
		state = "closed"
	}
	fmt.Fprintf(&out, "Statement of %s (party %d)\nLedger %s, period %d in %s, %s\n\n", s.Name, s.Party, s.Origin, s.Period, s.Currency, state)
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, b := range s.Opening {
		fmt.Fprintf(w, "opening\t\t\t%s\t%s\t\n", b.Book, ledger.Amount(b.Amount))
	}
	for _, l := range s.Lines {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", l.Index, l.Time.UTC().Format(time.RFC3339), l.Kind, l.Book, ledger.Amount(l.Amount), l.Ref)
	}
	for _, b := range s.Closing {
		fmt.Fprintf(w, "closing\t\t\t%s\t%s\t\n", b.Book, ledger.Amount(b.Amount))
	}
	w.Flush() // a bytes.Buffer takes everything
	fmt.Fprintf(&out, "\nCheckpoint: %d entries, root %s\n", s.Size, s.Root)
	return out.Bytes()
}

// CSV is the statement for spreadsheets: a header, then opening, lines, closing.
func (s Statement) CSV() []byte {
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	rows := [][]string{{"index", "log_time", "kind", "book", "amount", "currency", "ref"}}
	for _, b := range s.Opening {
		rows = append(rows, []string{"", "", "opening", b.Book, ledger.Amount(b.Amount), s.Currency, ""})
	}
	for _, l := range s.Lines {
		rows = append(rows, []string{fmt.Sprint(l.Index), l.Time.UTC().Format(time.RFC3339), l.Kind, l.Book, ledger.Amount(l.Amount), s.Currency, l.Ref})
	}
	for _, b := range s.Closing {
		rows = append(rows, []string{"", "", "closing", b.Book, ledger.Amount(b.Amount), s.Currency, ""})
	}
	w.WriteAll(rows) // a bytes.Buffer takes everything
	return out.Bytes()
}
