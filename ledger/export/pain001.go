package export

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"gridveil/ledger"
)

// ErrBank says that account data is not what the operator registered: somebody
// may have exchanged the account number.
var ErrBank = errors.New("bank account is not the registered one")

// BankAccount is where an operator is paid. The log holds only its salted hash.
type BankAccount struct {
	Party ledger.PartyID
	Salt  [32]byte
	IBAN  string // electronic form, without spaces
	BIC   string
}

// Hash is what the registration of the operator carries in its field bank:
// SHA-256(salt || IBAN || BIC).
func (a BankAccount) Hash() ledger.Hash {
	return sha256.Sum256([]byte(string(a.Salt[:]) + a.IBAN + a.BIC))
}

var (
	ibanForm = regexp.MustCompile(`^[A-Z]{2}[0-9]{2}[A-Z0-9]{1,30}$`)
	bicForm  = regexp.MustCompile(`^[A-Z0-9]{4}[A-Z]{2}[A-Z0-9]{2}([A-Z0-9]{3})?$`)
)

// Check returns ErrBank for an IBAN or BIC that cannot be one. Source: ISO
// 13616, check digits modulo 97.
func (a BankAccount) Check() error {
	if !ibanForm.MatchString(a.IBAN) || !bicForm.MatchString(a.BIC) {
		return fmt.Errorf("%w: party %d has no valid IBAN and BIC", ErrBank, a.Party)
	}
	rest := 0
	for _, r := range a.IBAN[4:] + a.IBAN[:4] {
		if r >= 'A' {
			rest = (rest*100 + int(r-'A') + 10) % 97
		} else {
			rest = (rest*10 + int(r-'0')) % 97
		}
	}
	if rest != 1 {
		return fmt.Errorf("%w: check digits of the IBAN of party %d", ErrBank, a.Party)
	}
	return nil
}

// registered finds the account of each party and holds it against the log.
func (b *Book) registered(accounts []BankAccount) (map[ledger.PartyID]BankAccount, error) {
	parties := b.State.Parties()
	out := map[ledger.PartyID]BankAccount{}
	for _, a := range accounts {
		if err := a.Check(); err != nil {
			return nil, err
		}
		if a.Party < 1 || int(a.Party) > len(parties) || parties[a.Party-1].Bank != a.Hash() {
			return nil, fmt.Errorf("%w: party %d", ErrBank, a.Party)
		}
		if _, twice := out[a.Party]; twice {
			return nil, fmt.Errorf("%w: party %d is listed twice", ErrBank, a.Party)
		}
		out[a.Party] = a
	}
	return out, nil
}

// formatAccounts writes the accounts file: party, salt, IBAN, BIC per line,
// sorted by party.
func formatAccounts(b *Book, accounts []BankAccount) ([]byte, error) {
	known, err := b.registered(accounts)
	if err != nil {
		return nil, &FileError{fileAccounts, err}
	}
	list := make([]BankAccount, 0, len(known))
	for _, a := range known {
		list = append(list, a)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Party < list[j].Party })
	var out bytes.Buffer
	for _, a := range list {
		fmt.Fprintf(&out, "%d %x %s %s\n", a.Party, a.Salt, a.IBAN, a.BIC)
	}
	return out.Bytes(), nil
}

func parseAccounts(text []byte) ([]BankAccount, error) {
	var out []BankAccount
	for i, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		f := strings.Fields(line)
		if len(f) != 4 {
			return nil, fmt.Errorf("line %d: want party, salt, IBAN and BIC", i+1)
		}
		party, err := strconv.ParseUint(f[0], 10, 32)
		salt, saltErr := hex.DecodeString(f[1])
		if err != nil || saltErr != nil || len(salt) != 32 {
			return nil, fmt.Errorf("line %d: party or salt is no number", i+1)
		}
		out = append(out, BankAccount{ledger.PartyID(party), [32]byte(salt), f[2], f[3]})
	}
	return out, nil
}

// PaymentFile is one pain.001 file.
type PaymentFile struct {
	Name   string // "EUR-1-3.xml": currency, close, payer
	Payer  ledger.PartyID
	Period uint32
	XML    []byte
}

// Payments writes the payment files of all closes: one per close and payer, if
// the accounts of the payer and of everyone it pays are known. Every account is
// held against the hash in the log first: a mismatch is ErrBank, and no file is
// written. A currency that is not in our table of ISO 4217 has no files.
func (b *Book) Payments(accounts []BankAccount) ([]PaymentFile, error) {
	known, err := b.registered(accounts)
	if err != nil {
		return nil, err
	}
	var out []PaymentFile
	for i := range b.Closes {
		c := &b.Closes[i]
		cur := b.State.Currencies()[c.Cur]
		for _, payer := range payers(c.Pays) {
			lines := paysOf(c, payer)
			if !allKnown(known, payer, lines) || len(cur.Code()) != 3 {
				continue
			}
			xml, err := b.pain001(c, cur, payer, lines, known)
			if err != nil {
				return nil, err
			}
			out = append(out, PaymentFile{fmt.Sprintf("%s-%d-%d.xml", cur.Code(), c.Period, payer), payer, c.Period, xml})
		}
	}
	return out, nil
}

// numbered is a payment and its number in the close, from 1.
type numbered struct {
	ledger.Pay
	no int
}

func payers(pays []ledger.Pay) []ledger.PartyID {
	var out []ledger.PartyID
	for _, p := range pays { // Net sorts by payer
		if len(out) == 0 || out[len(out)-1] != p.Payer {
			out = append(out, p.Payer)
		}
	}
	return out
}

func paysOf(c *Closing, payer ledger.PartyID) []numbered {
	var out []numbered
	for i, p := range c.Pays {
		if p.Payer == payer {
			out = append(out, numbered{p, i + 1})
		}
	}
	return out
}

func allKnown(known map[ledger.PartyID]BankAccount, payer ledger.PartyID, lines []numbered) bool {
	_, ok := known[payer]
	for _, l := range lines {
		_, has := known[l.Payee]
		ok = ok && has
	}
	return ok
}

// The elements of pain.001.001.09 that a credit transfer of ours needs, in the
// order of the schema.
type painDocument struct {
	XMLName xml.Name   `xml:"urn:iso:std:iso:20022:tech:xsd:pain.001.001.09 Document"`
	Header  painHeader `xml:"CstmrCdtTrfInitn>GrpHdr"`
	Payment painInfo   `xml:"CstmrCdtTrfInitn>PmtInf"`
}

type painHeader struct {
	MsgID   string `xml:"MsgId"`
	Created string `xml:"CreDtTm"`
	Count   int    `xml:"NbOfTxs"`
	Sum     string `xml:"CtrlSum"`
	Party   string `xml:"InitgPty>Nm"`
}

type painInfo struct {
	ID     string         `xml:"PmtInfId"`
	Method string         `xml:"PmtMtd"`
	Count  int            `xml:"NbOfTxs"`
	Sum    string         `xml:"CtrlSum"`
	Date   string         `xml:"ReqdExctnDt>Dt"`
	Debtor string         `xml:"Dbtr>Nm"`
	IBAN   string         `xml:"DbtrAcct>Id>IBAN"`
	BIC    string         `xml:"DbtrAgt>FinInstnId>BICFI"`
	Bearer string         `xml:"ChrgBr"`
	Lines  []painTransfer `xml:"CdtTrfTxInf"`
}

type painTransfer struct {
	EndToEnd string     `xml:"PmtId>EndToEndId"`
	Amount   painAmount `xml:"Amt>InstdAmt"`
	BIC      string     `xml:"CdtrAgt>FinInstnId>BICFI"`
	Creditor string     `xml:"Cdtr>Nm"`
	IBAN     string     `xml:"CdtrAcct>Id>IBAN"`
	Text     string     `xml:"RmtInf>Ustrd"`
}

type painAmount struct {
	Currency string `xml:"Ccy,attr"`
	Value    string `xml:",chardata"`
}

// pain001 writes one file. Source: ISO 20022 pain.001.001.09; design/ledger.md,
// 4.11.
func (b *Book) pain001(c *Closing, cur ledger.Currency, payer ledger.PartyID, lines []numbered, known map[ledger.PartyID]BankAccount) ([]byte, error) {
	name := func(p ledger.PartyID) string { return b.State.Parties()[p-1].Name }
	leaf := base32.StdEncoding.EncodeToString(c.Leaf[:])
	id := fmt.Sprintf("GV%s-%d", leaf[:20], payer)
	var total uint64 // below an int64: the parts of one netting
	for _, l := range lines {
		total += l.Minor
	}
	sum := minorText(total, cur.Exp)
	doc := painDocument{
		Header: painHeader{MsgID: id, Created: c.Time.UTC().Format(time.RFC3339), Count: len(lines), Sum: sum, Party: name(payer)},
		Payment: painInfo{ID: id, Method: "TRF", Count: len(lines), Sum: sum, Date: dateOf(c.Time), Debtor: name(payer),
			IBAN: known[payer].IBAN, BIC: known[payer].BIC, Bearer: "SLEV"},
	}
	for _, l := range lines {
		doc.Payment.Lines = append(doc.Payment.Lines, painTransfer{EndToEnd: EndToEnd(c.Leaf, l.no),
			Amount: painAmount{cur.Code(), minorText(l.Minor, cur.Exp)}, BIC: known[l.Payee].BIC, Creditor: name(l.Payee),
			IBAN: known[l.Payee].IBAN, Text: fmt.Sprintf("gridveil netting %d, payment %d", c.Period, l.no)})
	}
	body, err := xml.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("payment file of close %d: %w", c.Period, err)
	}
	return append([]byte(xml.Header), append(body, '\n')...), nil
}

// minorText writes minor units as a decimal of the currency.
func minorText(n uint64, exp uint8) string {
	if exp == 0 {
		return strconv.FormatUint(n, 10)
	}
	unit := uint64(1)
	for range exp {
		unit *= 10
	}
	return fmt.Sprintf("%d.%0*d", n/unit, int(exp), n%unit)
}
