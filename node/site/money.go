package site

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"gridveil/ledger"
	"gridveil/node/aggregator"
	"gridveil/node/party"
	"gridveil/node/web"
)

// Operator is a role with a side of the ledger: an operator's or its writer's.
type Operator interface {
	Log
	Teller() *party.Teller
	Proof(index uint64) (*ledger.Proof, error)
}

// settlementDay is the beginning of a day of the ledger, with its hour where days
// are not those of the calendar.
func settlementDay(s *ledger.State, n uint64) string {
	length := s.Params().BucketMs
	if length%(24*3600*1000) == 0 {
		return time.UnixMilli(int64(n * length)).UTC().Format("2 Jan 2006")
	}
	return time.UnixMilli(int64(n * length)).UTC().Format("2 Jan 2006 15:04")
}

// pagePayments bounds the list of payments.
const pagePayments = 100

// MoneyPage is the money page of an operator; me is its number on the ledger, 0
// for a page that shows everybody.
func MoneyPage(o Operator, me ledger.PartyID) web.Money {
	c, ok := o.Teller().Copy()
	if !ok {
		return web.Money{}
	}
	v := web.Money{Known: true}
	all, err := c.Expected()
	if err != nil {
		all = nil // the page shows what can be read; the store's warning says why
	}
	c.Read(func(s *ledger.State) {
		mine := func(parties ...ledger.PartyID) bool { return me == 0 || slices.Contains(parties, me) }
		if me != 0 {
			v.Operator = partyName(s, me)
		}
		v.Facts = []web.Pair{{Name: "the settlement day began", Value: settlementDay(s, uint64(s.Bucket()))}}
		for i, cur := range s.Currencies() {
			for _, p := range s.Parties() {
				for book, x := range map[string]int64{"open": s.Balance(ledger.OpenAccount(p.Party, uint8(i))), "due": s.Balance(ledger.DueAccount(p.Party, uint8(i)))} {
					if x != 0 && mine(p.Party) {
						v.Balances = append(v.Balances, web.Balance{Party: p.Name, Account: book, Amount: party.Money(x, cur), Exact: ledger.Amount(x)})
					}
				}
			}
			period, due := s.LastClose(uint8(i))
			v.Facts = append(v.Facts, web.Pair{Name: fmt.Sprintf("close %d in %s is due", period+1, cur.Code()), Value: settlementDay(s, uint64(due))})
			for _, p := range s.Net(uint8(i)) {
				if mine(p.Payer, p.Payee) {
					x := int64(p.Minor) * cur.Minor()
					v.Next = append(v.Next, web.Payment{Payer: partyName(s, p.Payer), Payee: partyName(s, p.Payee), Amount: party.Money(x, cur), Exact: ledger.Amount(x)})
				}
			}
		}
		for _, p := range slices.Backward(all) {
			if !mine(p.Payer, p.Payee) {
				continue
			}
			if len(v.Payments) == pagePayments {
				v.Older++
				continue
			}
			x := web.Payment{Period: p.Period, No: p.No, Payer: partyName(s, p.Payer), Payee: partyName(s, p.Payee), Amount: party.Money(p.Micro, s.Currencies()[p.Cur]),
				Exact: ledger.Amount(p.Micro), State: p.State.String(), EndToEnd: p.EndToEnd, Close: p.Close}
			if p.State == ledger.PayDue {
				x.Overdue = uint64(s.Bucket()) >= p.Grace
			} else {
				x.Ended = &p.Ended
			}
			v.Payments = append(v.Payments, x)
		}
	})
	slices.SortFunc(v.Balances, func(a, b web.Balance) int {
		return cmp.Or(strings.Compare(a.Party, b.Party), strings.Compare(b.Account, a.Account))
	})
	return v
}

// AddFiles lists an aggregator's payment files on a money page.
func AddFiles(v *web.Money, a *aggregator.Aggregator) {
	v.Keeps = true
	files, err := a.PaymentFiles()
	if err != nil {
		return // the ledger is not open: the page says so
	}
	a.Read(func(s *ledger.State) {
		for _, f := range slices.Backward(files) {
			v.Files = append(v.Files, web.MoneyFile{Name: f.Name, Payer: partyName(s, f.Payer), Period: f.Period, Bytes: len(f.XML)})
		}
	})
}

// PaymentFile reads one payment file.
func PaymentFile(a *aggregator.Aggregator, name string) ([]byte, bool) {
	files, err := a.PaymentFiles()
	if err != nil {
		return nil, false
	}
	for _, f := range files {
		if f.Name == name {
			return f.XML, true
		}
	}
	return nil, false
}

// CasesPage is the disputes page.
func CasesPage(log Log, list []party.CaseView, err error) web.Disputes {
	var v web.Disputes
	var notice, limit time.Duration
	v.Known = log.Read(func(s *ledger.State) {
		p := s.Params()
		v.Need, notice, limit = int(p.K), time.Duration(p.NoticeMs)*time.Millisecond, time.Duration(p.CaseMs)*time.Millisecond
	})
	v.Notice, v.Limit = span(notice), span(limit)
	if err != nil {
		return v // the store's warning says why
	}
	for _, c := range list {
		d := web.Dispute{ID: c.ID, Kind: c.Kind, Reason: c.Reason, Requester: c.Requester, Utility: c.Utility, Sessions: c.Sessions, Opened: c.Opened, Approvals: c.Approvals,
			Against: c.Against, Partials: c.Partials, State: c.State, Ended: c.Ended, Index: c.Index, Statement: c.Statement, Answer: c.Answer, Vote: c.Vote}
		if !c.Ended {
			d.Expires = c.Opened.Add(limit)
			if c.Kind != "hold" && c.Reason != "safety" {
				d.Notice = c.Opened.Add(notice)
			}
		}
		v.Cases = append(v.Cases, d)
	}
	return v
}

// span writes a long time for people.
func span(d time.Duration) string {
	switch {
	case d >= 48*time.Hour && d%(24*time.Hour) == 0:
		return Plural(int(d/(24*time.Hour)), "day", "days")
	case d >= time.Hour && d%time.Hour == 0:
		return Plural(int(d/time.Hour), "hour", "hours")
	}
	return Plural(int(d/time.Minute), "minute", "minutes")
}

// leafSearch is among how many of the newest entries a leaf hash is looked for.
const leafSearch = 20_000

// FindLeaf finds an entry by the first digits of its leaf hash, hexadecimal.
func FindLeaf(log Log, digits string) (uint64, bool) {
	if len(digits) < 8 || len(digits) > 64 || strings.Trim(digits, "0123456789abcdef") != "" {
		return 0, false
	}
	size := log.Ledger(1).Size
	for i := size; i > 0 && size-i < leafSearch; i-- {
		raw, err := log.Entry(i - 1)
		if err != nil {
			return 0, false
		}
		leaf := ledger.LeafHash(raw)
		if strings.HasPrefix(hex.EncodeToString(leaf[:]), digits) {
			return i - 1, true
		}
	}
	return 0, false
}

// WriteProof writes the .tlog-proof of a final entry.
func WriteProof(w io.Writer, o Operator, index uint64) error {
	p, err := o.Proof(index)
	if err != nil {
		return err
	}
	_, err = w.Write(p.Encode())
	return err
}

// Find is FindLeaf.
func (b book) Find(_ context.Context, leaf string) (uint64, bool) { return FindLeaf(b.log, leaf) }

// Proof writes the .tlog-proof of a final entry.
func (b book) Proof(_ context.Context, w io.Writer, index uint64) error {
	return WriteProof(w, b.log, index)
}
