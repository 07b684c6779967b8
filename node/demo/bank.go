package demo

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/node/clock"
	"gridveil/node/party"
)

// The demonstration's bank is simulated: it carries out the payment files of each
// close as they are, and prints statements, which the operators import as they
// would a real bank's. No money exists behind it.

// accounts of the operators at the simulated bank; the bank code is nobody's.
var accounts = []struct{ name, iban string }{
	{"evagg", "DE09000000000000000001"}, {"utility-a", "DE79000000000000000002"}, {"utility-b", "DE52000000000000000003"},
}

const (
	bankBIC    = "SIMBDE00XXX"
	bankEvery  = 2 * time.Hour    // of the bank's runs, on the scene's clock
	bankKeeps  = 200              // bookings of a statement
	bankSettle = 30 * time.Second // wall time for the last run
	bankLag    = 2                // settlement days
)

// bank is the simulated bank.
type bank struct {
	mu       sync.Mutex
	done     map[string]bool // names of files that were carried out
	bookings map[string][]bankBooking
}

// bankBooking is one line of an account.
type bankBooking struct {
	EndToEnd, Amount, Currency, Direction string
	No                                    int
	At                                    time.Time
}

// order is what the bank reads of a payment file.
type order struct {
	From  string `xml:"CstmrCdtTrfInitn>PmtInf>DbtrAcct>Id>IBAN"`
	Lines []struct {
		EndToEnd string `xml:"PmtId>EndToEndId"`
		Amount   struct {
			Currency string `xml:"Ccy,attr"`
			Value    string `xml:",chardata"`
		} `xml:"Amt>InstdAmt"`
		To string `xml:"CdtrAcct>Id>IBAN"`
	} `xml:"CstmrCdtTrfInitn>PmtInf>CdtTrfTxInf"`
}

// carryOut books a payment file once; it says how many payments that were.
func (b *bank) carryOut(f export.PaymentFile, at time.Time) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.done[f.Name] {
		return 0, nil
	}
	var o order
	if err := xml.Unmarshal(f.XML, &o); err != nil {
		return 0, fmt.Errorf("payment file %s: %w", f.Name, err)
	}
	if b.done == nil {
		b.done, b.bookings = map[string]bool{}, map[string][]bankBooking{}
	}
	b.done[f.Name] = true
	for _, l := range o.Lines {
		for iban, direction := range map[string]string{o.From: "DBIT", l.To: "CRDT"} {
			list := b.bookings[iban]
			no := 1
			if len(list) > 0 {
				no = list[len(list)-1].No + 1
			}
			list = append(list, bankBooking{l.EndToEnd, l.Amount.Value, l.Amount.Currency, direction, no, at})
			b.bookings[iban] = list[max(0, len(list)-bankKeeps):]
		}
	}
	return len(o.Lines), nil
}

// statement prints an account's newest bookings as camt.053.001.08.
func (b *bank) statement(iban string, at time.Time) ([]byte, error) {
	b.mu.Lock()
	list := slices.Clone(b.bookings[iban])
	b.mu.Unlock()
	id := fmt.Sprintf("SIM-%s-%d", iban[len(iban)-4:], at.Unix())
	doc := camtDocument{ID: id, Created: at.UTC().Format(time.RFC3339), Statement: id, IBAN: iban,
		Balance: camtBalance{Code: "CLBD", Amount: camtAmount{"EUR", "0.00"}, Direction: "CRDT", Date: at.UTC().Format(time.DateOnly)}}
	for _, x := range list {
		doc.Entries = append(doc.Entries, camtEntry{Amount: camtAmount{x.Currency, x.Amount}, Direction: x.Direction, Status: "BOOK",
			Date: x.At.UTC().Format(time.DateOnly), Ref: fmt.Sprintf("SIM%06d", x.No), Code: "NTRF", EndToEnd: x.EndToEnd})
	}
	body, err := xml.MarshalIndent(doc, "", " ")
	return append([]byte(xml.Header), body...), err
}

// The elements of camt.053.001.08 that the simulated bank writes, in the order
// of the schema. Balances are not simulated and stand at zero.
type camtDocument struct {
	XMLName   xml.Name    `xml:"urn:iso:std:iso:20022:tech:xsd:camt.053.001.08 Document"`
	ID        string      `xml:"BkToCstmrStmt>GrpHdr>MsgId"`
	Created   string      `xml:"BkToCstmrStmt>GrpHdr>CreDtTm"`
	Statement string      `xml:"BkToCstmrStmt>Stmt>Id"`
	IBAN      string      `xml:"BkToCstmrStmt>Stmt>Acct>Id>IBAN"`
	Balance   camtBalance `xml:"BkToCstmrStmt>Stmt>Bal"`
	Entries   []camtEntry `xml:"BkToCstmrStmt>Stmt>Ntry"`
}

type camtBalance struct {
	Code      string     `xml:"Tp>CdOrPrtry>Cd"`
	Amount    camtAmount `xml:"Amt"`
	Direction string     `xml:"CdtDbtInd"`
	Date      string     `xml:"Dt>Dt"`
}

type camtAmount struct {
	Currency string `xml:"Ccy,attr"`
	Value    string `xml:",chardata"`
}

type camtEntry struct {
	Amount    camtAmount `xml:"Amt"`
	Direction string     `xml:"CdtDbtInd"`
	Status    string     `xml:"Sts>Cd"`
	Date      string     `xml:"BookgDt>Dt"`
	Ref       string     `xml:"AcctSvcrRef"`
	Code      string     `xml:"BkTxCd>Prtry>Cd"`
	EndToEnd  string     `xml:"NtryDtls>TxDtls>Refs>EndToEndId"`
}

// bankHours lets the bank work from start to end.
func (st *Story) bankHours(ctx context.Context, start, end time.Time) error {
	for at := start.Add(bankEvery); at.Before(end); at = at.Add(bankEvery) {
		if !clock.Until(ctx, st.s.Clock, at) {
			return nil
		}
		if err := st.bankRun(ctx); err != nil {
			return fmt.Errorf("the simulated bank: %w", err)
		}
	}
	return nil
}

// bankRun carries out new payment files and hands every operator its statement,
// whole each time: what was entered before is not entered again. An operator
// that is away gets it at the next run.
func (st *Story) bankRun(ctx context.Context) error {
	a, err := st.s.aggregator()
	if err != nil {
		return nil // away: so are its payment files
	}
	files, err := a.PaymentFiles()
	if err != nil {
		return nil // its ledger is not open yet
	}
	now := st.s.Clock.Now()
	for _, f := range files {
		n, err := st.bank.carryOut(f, now)
		if err != nil {
			return err
		}
		if n > 0 {
			st.tell("ledger", "/money", "the simulated bank carries out payments of close %d", f.Period)
		}
	}
	for _, x := range accounts {
		text, err := st.bank.statement(x.iban, now)
		if err != nil {
			return err
		}
		s, err := export.ParseStatement(strings.NewReader(string(text)))
		if err != nil {
			return err
		}
		t := st.teller(x.name)
		if t == nil || len(s.Bookings) == 0 {
			continue
		}
		r, err := t.Reconcile(ctx, s, false, true)
		if err != nil {
			continue // not on the ledger yet, or it is away
		}
		if r.Proposals > 0 {
			st.tell("ledger", "/money", "%s confirms what arrived at its account", r.Operator)
		}
	}
	return nil
}

// teller is the operator's side of a member with an account, nil while it is away.
func (st *Story) teller(name string) *party.Teller {
	if name == "evagg" {
		if a, err := st.s.aggregator(); err == nil {
			return a.Teller()
		}
		return nil
	}
	if m := st.s.Get(name); m.Node() != nil {
		return st.s.partyOf(name).Teller()
	}
	return nil
}

// payments counts the payments of all final closes by how they stand.
func (st *Story) payments() (list []export.Expected, err error) {
	a, err := st.s.aggregator()
	if err != nil {
		return nil, err
	}
	c, ok := a.Teller().Copy()
	if !ok {
		return nil, errors.New("the ledger is not open")
	}
	return c.Expected()
}

// payOut runs the bank until nothing is due, or the wait is over.
func (st *Story) payOut(ctx context.Context) error {
	for until := time.Now().Add(bankSettle); time.Now().Before(until); {
		if err := st.bankRun(ctx); err != nil {
			return err
		}
		list, err := st.payments()
		if err == nil && !slices.ContainsFunc(list, func(p export.Expected) bool { return p.State == ledger.PayDue }) {
			return nil
		}
		if !clock.Sleep(ctx, clock.Wall{}, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil // the judgement says what is due
}

// judgePayments says whether what operators owe each other by bank has arrived.
// What closed less than bankLag settlement days ago may be on its way.
func (st *Story) judgePayments(sum *Summary) {
	list, err := st.payments()
	if err != nil {
		sum.hold("what operators owe by bank has arrived", err.Error())
		return
	}
	var today, grace uint64
	if a, err := st.s.aggregator(); err == nil {
		a.Read(func(s *ledger.State) { today, grace = uint64(s.Bucket()), s.Params().Grace })
	}
	var off []string
	closes := map[uint64]bool{}
	for _, p := range list {
		closes[p.Close] = true
		switch p.State {
		case ledger.PayPaid:
			sum.Payments.Arrived++
			sum.Payments.ArrivedMicro += p.Micro
		case ledger.PayDue:
			sum.Payments.Due++
		}
		if p.State != ledger.PayPaid && today+grace >= p.Grace+bankLag {
			off = append(off, fmt.Sprintf("payment %d of close %d: %s", p.No, p.Period, p.State))
		}
	}
	sum.Payments.Closes = len(closes)
	sum.hold("what operators owe by bank has arrived", off...)
}
