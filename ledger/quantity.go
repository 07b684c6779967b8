package ledger

import (
	"fmt"
	"math/bits"
)

// Hash is a SHA-256 value: a leaf, a root, a salted commitment.
type Hash = [32]byte

// PartyID numbers a registered operator from 1; party 1 is the aggregator that
// writes the log. Zero owns the three common books of each currency.
type PartyID uint32

// Book selects one of the accounts that a party has in a currency.
type Book uint8

// Books of an operator (Open, Due) and of party 0 (Earned, Notes, Unclaimed).
const (
	Open Book = 0 // what the operator is owed (+) or owes (-), not yet instructed
	Due  Book = 1 // instructed to the bank by a close, not yet confirmed

	Earned    Book = 0 // owed to households, not yet issued as notes
	Notes     Book = 1 // in circulation as bearer notes
	Unclaimed Book = 2 // notes that lapsed; no way out in this version
)

// Account names one balance: party<<8 | currency<<2 | book.
type Account uint32

// OpenAccount is the open book of operator p in the currency with index cur.
func OpenAccount(p PartyID, cur uint8) Account { return account(p, cur, Open) }

// DueAccount is the due book of operator p in the currency with index cur.
func DueAccount(p PartyID, cur uint8) Account { return account(p, cur, Due) }

// EarnedAccount is the common book of what households have earned.
func EarnedAccount(cur uint8) Account { return account(0, cur, Earned) }

// NotesAccount is the common book of notes in circulation.
func NotesAccount(cur uint8) Account { return account(0, cur, Notes) }

// UnclaimedAccount is the common book of lapsed notes.
func UnclaimedAccount(cur uint8) Account { return account(0, cur, Unclaimed) }

func account(p PartyID, cur uint8, b Book) Account {
	return Account(uint32(p)<<8 | uint32(cur)<<2 | uint32(b))
}

// Party is the owner, 0 for the common books.
func (a Account) Party() PartyID { return PartyID(a >> 8) }

// Currency is the index into the genesis list of currencies.
func (a Account) Currency() uint8 { return uint8(a>>2) & 63 }

// Book is the book of the owner; Open and Earned share code 0, Due and Notes 1.
func (a Account) Book() Book { return Book(a & 3) }

// String prints the account as people speak of it: "3/open#0", "earned#0".
func (a Account) String() string {
	operator := [4]string{"open", "due", "book2", "book3"}
	common := [4]string{"earned", "notes", "unclaimed", "book3"}
	if a.Party() == 0 {
		return fmt.Sprintf("%s#%d", common[a.Book()], a.Currency())
	}
	return fmt.Sprintf("%d/%s#%d", a.Party(), operator[a.Book()], a.Currency())
}

// Posting is one side of a transfer: Amount millionths onto Account, above zero
// when the account is owed more afterwards.
type Posting struct {
	Account Account
	Amount  int64
}

// Currency is a money of the log, fixed in genesis; entries name it by index.
type Currency struct {
	ISO4217 uint16 // numeric code, 978 for EUR
	Exp     uint8  // decimal places of the minor unit, 0..6
}

// Minor is one minor unit (a cent) in millionths: 10^(6-Exp).
func (c Currency) Minor() int64 {
	m := int64(1)
	for i := c.Exp; i < 6; i++ {
		m *= 10
	}
	return m
}

// currencyCodes maps the numeric codes that a distribution area is likely to
// meet; others print as their number.
var currencyCodes = map[uint16]string{
	36: "AUD", 124: "CAD", 203: "CZK", 208: "DKK", 348: "HUF", 352: "ISK", 356: "INR", 392: "JPY",
	410: "KRW", 578: "NOK", 752: "SEK", 756: "CHF", 826: "GBP", 840: "USD", 946: "RON", 978: "EUR", 985: "PLN",
}

// Code is the three-letter code, or X and the number if it is not in our table.
func (c Currency) Code() string {
	if s, ok := currencyCodes[c.ISO4217]; ok {
		return s
	}
	return fmt.Sprintf("X%03d", c.ISO4217)
}

// addAmount adds without wrapping.
func addAmount(a, b int64) (int64, bool) {
	sum := a + b
	return sum, (sum > a) == (b > 0)
}

// mulAmount multiplies two amounts that are not negative without wrapping.
func mulAmount(a, b uint64) (int64, bool) {
	hi, lo := bits.Mul64(a, b)
	return int64(lo), hi == 0 && lo < 1<<63
}

// wideSum adds amounts in 128 bits, so a sum of balances cannot wrap to zero.
type wideSum struct{ hi, lo uint64 }

func (w *wideSum) add(v int64) {
	var carry uint64
	w.lo, carry = bits.Add64(w.lo, uint64(v), 0)
	w.hi, _ = bits.Add64(w.hi, uint64(v>>63), carry)
}

// Amount writes millionths as a decimal with six places, for people and files.
func Amount(v int64) string {
	sign, u := "", uint64(v)
	if v < 0 {
		sign, u = "-", -uint64(v)
	}
	return fmt.Sprintf("%s%d.%06d", sign, u/1_000_000, u%1_000_000)
}
