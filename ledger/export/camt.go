package export

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrStatement says that a file is no bank statement that we can read.
var ErrStatement = errors.New("not a bank statement")

// StatementError names the place in a bank statement that cannot be read.
type StatementError struct {
	Line, Column int // from 1
	Err          error
}

func (e *StatementError) Error() string {
	return fmt.Sprintf("line %d, column %d: %v", e.Line, e.Column, e.Err)
}

// Unwrap makes errors.Is(err, ErrStatement) true.
func (e *StatementError) Unwrap() []error { return []error{ErrStatement, e.Err} }

// Limits of a bank statement.
const (
	MaxStatement = 64 << 20 // bytes of a file
	MaxBookings  = 100_000  // of ours in a file
	maxDepth     = 64
	maxText      = 4096 // bytes of one element that are read; no field of ours is longer
	maxDetails   = 100_000
)

// BankStatement is what a bank statement says about payments of ours: bookings
// whose EndToEndId has our form. Everything else is only counted.
type BankStatement struct {
	Message  string    `json:"message"`  // "camt.053.001.08"
	ID       string    `json:"id"`       // of the first statement
	Accounts []string  `json:"accounts"` // IBANs
	Bookings []Booking `json:"bookings"`
	Others   int       `json:"others"` // bookings and pending lines that are not ours
}

// Booking is one booked payment of a bank statement.
type Booking struct {
	Line     int    `json:"line"` // where it begins in the file
	Account  string `json:"account,omitempty"`
	EndToEnd string `json:"end_to_end_id"`
	Currency string `json:"currency"`
	Micro    int64  `json:"amount_micro"` // above 0, millionths
	Credit   bool   `json:"credit"`       // money came in
	Returned bool   `json:"returned"`     // a reversal, or sent back with a reason
	Ref      string `json:"bank_ref"`     // the bank's own reference, or empty
}

// ParseStatement reads a bank statement (camt.053) or a notification of bookings
// (camt.054), UTF-8, as a stream: it keeps only bookings that carry an id of
// ours. It returns a *StatementError with the line at fault.
func ParseStatement(r io.Reader) (*BankStatement, error) { return parseStatement(r, MaxStatement) }

func parseStatement(r io.Reader, limit int64) (*BankStatement, error) {
	limited := &io.LimitedReader{R: r, N: limit + 1}
	c := &camt{d: xml.NewDecoder(limited), out: &BankStatement{Accounts: []string{}, Bookings: []Booking{}}}
	err := c.read()
	if limited.N <= 0 {
		err = fmt.Errorf("the file is larger than %d bytes", limit)
	}
	if err != nil {
		line, column := c.d.InputPos()
		return nil, &StatementError{line, column, err}
	}
	return c.out, nil
}

// camt is a statement being read. Elements are known by their path below the
// statement or the entry, so that what a bank adds elsewhere is passed over.
type camt struct {
	d     *xml.Decoder
	path  []string // open elements
	text  strings.Builder
	cur   string // attribute Ccy of the open element
	base  int    // depth of the open Ntry, 0 outside of one
	iban  string
	entry camtEntry
	out   *BankStatement
}

// camtEntry is an Ntry; its details repeat what differs.
type camtEntry struct {
	camtDetail
	status  string
	reverse bool
	list    []camtDetail
	details int // all of them, also those that are not ours
	open    camtDetail
}

// camtDetail is a TxDtls. Empty fields are those of the entry.
type camtDetail struct {
	line          int
	amount, cur   string
	direction     string
	endToEnd, ref string
	returned      bool
}

func (c *camt) read() error {
	for {
		t, err := c.d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return plainXML(err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			err = c.start(t)
		case xml.EndElement:
			err = c.end()
		case xml.CharData:
			c.text.Write(t[:min(len(t), maxText-c.text.Len())])
		case xml.Directive:
			return errors.New("a bank statement has no document type and no entities")
		}
		if err != nil {
			return err
		}
	}
	if c.out.Message == "" {
		return errors.New("the file is empty")
	}
	return nil
}

// plainXML strips the line that an XML error states: ours states it.
func plainXML(err error) error {
	var bad *xml.SyntaxError
	if errors.As(err, &bad) {
		return errors.New(bad.Msg)
	}
	return err
}

// camtSpace begins the namespaces of the messages that can be read.
const camtSpace = "urn:iso:std:iso:20022:tech:xsd:"

func (c *camt) start(t xml.StartElement) error {
	if len(c.path) == maxDepth {
		return fmt.Errorf("elements are nested deeper than %d", maxDepth)
	}
	if len(c.path) == 0 {
		name, ok := strings.CutPrefix(t.Name.Space, camtSpace)
		if c.out.Message != "" || !ok || t.Name.Local != "Document" || !strings.HasPrefix(name, "camt.053.001.") && !strings.HasPrefix(name, "camt.054.001.") {
			return fmt.Errorf("want a Document of camt.053 or camt.054, not %s of %q", t.Name.Local, t.Name.Space)
		}
		c.out.Message = name
	}
	c.path = append(c.path, t.Name.Local)
	c.text.Reset()
	c.cur = ""
	for _, a := range t.Attr {
		if a.Name.Local == "Ccy" {
			c.cur = a.Value
		}
	}
	line, _ := c.d.InputPos()
	switch c.where() {
	case "Document/BkToCstmrStmt/Stmt", "Document/BkToCstmrDbtCdtNtfctn/Ntfctn":
		c.iban = ""
	case "Document/BkToCstmrStmt/Stmt/Ntry", "Document/BkToCstmrDbtCdtNtfctn/Ntfctn/Ntry":
		c.base = len(c.path)
		c.entry = camtEntry{camtDetail: camtDetail{line: line}}
	}
	if c.below() == "NtryDtls/TxDtls" {
		c.entry.open = camtDetail{line: line}
	}
	return nil
}

// where is the path of the open element, if it is at most four deep.
func (c *camt) where() string {
	if c.base > 0 || len(c.path) > 4 {
		return ""
	}
	return strings.Join(c.path, "/")
}

// below is the path of the open element inside its entry.
func (c *camt) below() string {
	if c.base == 0 || len(c.path) <= c.base {
		return ""
	}
	return strings.Join(c.path[c.base:], "/")
}

func (c *camt) end() error {
	text := strings.TrimSpace(c.text.String())
	c.text.Reset()
	switch {
	case c.base > 0 && len(c.path) == c.base:
		if err := c.book(); err != nil {
			return err
		}
		c.base = 0
	case c.base > 0:
		if err := c.field(text); err != nil {
			return err
		}
	default:
		c.header(strings.Join(c.path, "/"), text)
	}
	c.path = c.path[:len(c.path)-1]
	return nil
}

// header takes what stands before the entries.
func (c *camt) header(path, text string) {
	switch path {
	case "Document/BkToCstmrStmt/Stmt/Id", "Document/BkToCstmrDbtCdtNtfctn/Ntfctn/Id":
		if c.out.ID == "" {
			c.out.ID = text
		}
	case "Document/BkToCstmrStmt/Stmt/Acct/Id/IBAN", "Document/BkToCstmrDbtCdtNtfctn/Ntfctn/Acct/Id/IBAN":
		c.iban = text
		if len(c.out.Accounts) < MaxBookings {
			c.out.Accounts = append(c.out.Accounts, text)
		}
	}
}

// field takes one element of an entry.
func (c *camt) field(text string) error {
	e, d := &c.entry, &c.entry.open
	switch c.below() {
	case "Amt":
		e.amount, e.cur = text, c.cur
	case "CdtDbtInd":
		e.direction = text
	case "RvslInd":
		e.reverse = text == "true" || text == "1"
	case "Sts", "Sts/Cd":
		if text != "" {
			e.status = text
		}
	case "AcctSvcrRef":
		e.ref = text
	case "NtryDtls/TxDtls/Refs/EndToEndId":
		d.endToEnd = text
	case "NtryDtls/TxDtls/Refs/AcctSvcrRef":
		d.ref = text
	case "NtryDtls/TxDtls/Amt", "NtryDtls/TxDtls/AmtDtls/TxAmt/Amt":
		d.amount, d.cur = text, c.cur
	case "NtryDtls/TxDtls/CdtDbtInd":
		d.direction = text
	case "NtryDtls/TxDtls/RtrInf":
		d.returned = true
	case "NtryDtls/TxDtls":
		if e.details++; e.details > maxDetails {
			return fmt.Errorf("an entry has more than %d details", maxDetails)
		}
		if Ours(d.endToEnd) {
			e.list = append(e.list, *d)
		}
	}
	return nil
}

// book adds the bookings of an entry that is complete.
func (c *camt) book() error {
	e := &c.entry
	c.out.Others += max(e.details, 1) - len(e.list)
	if e.status != "BOOK" {
		c.out.Others += len(e.list) // pending: it comes again when it is booked
		return nil
	}
	for _, d := range e.list {
		if d.amount == "" && e.details == 1 {
			d.amount, d.cur = e.amount, e.cur
		}
		if d.direction == "" {
			d.direction = e.direction
		}
		if d.ref == "" {
			d.ref = e.ref
		}
		b := Booking{Line: d.line, Account: c.iban, EndToEnd: d.endToEnd, Currency: d.cur, Credit: d.direction == "CRDT",
			Returned: d.returned || e.reverse, Ref: d.ref}
		if d.direction != "CRDT" && d.direction != "DBIT" {
			return fmt.Errorf("the booking of line %d says %q where CRDT or DBIT is wanted", d.line, d.direction)
		}
		var err error
		if b.Micro, err = parseDecimal(d.amount); err != nil || len(d.cur) != 3 {
			return fmt.Errorf("the booking of line %d has no amount and currency: %q %q", d.line, d.amount, d.cur)
		}
		if len(c.out.Bookings) == MaxBookings {
			return fmt.Errorf("more than %d bookings of ours", MaxBookings)
		}
		c.out.Bookings = append(c.out.Bookings, b)
	}
	return nil
}

// parseDecimal reads an amount of ISO 20022, at most 18 digits of which 5 behind
// the point, as millionths above 0.
func parseDecimal(text string) (int64, error) {
	whole, part, _ := strings.Cut(text, ".")
	bad := fmt.Errorf("%q is no amount", text)
	if whole == "" || len(whole) > 12 || len(part) > 5 || strings.HasSuffix(text, ".") {
		return 0, bad
	}
	var v int64
	for _, r := range whole + part + "000000"[len(part):] {
		if r < '0' || r > '9' {
			return 0, bad
		}
		v = v*10 + int64(r-'0')
	}
	if v == 0 {
		return 0, bad
	}
	return v, nil
}
