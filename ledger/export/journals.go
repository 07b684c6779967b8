package export

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"gridveil/ledger"
)

// dateOf is the day of a log time; entries before the first tick stand at the
// start of time.
func dateOf(t time.Time) string {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return t.UTC().Format(time.DateOnly)
}

// Hledger writes the log as a plain-text journal for hledger: one transaction
// per entry with postings, and at the end an assertion of every balance, so that
// hledger refuses the file if it computes others.
func (b *Book) Hledger() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "; %s, %d entries, root %x\n; above zero: the account is owed money\n\n", b.Origin, b.Checkpoint.Size, b.Checkpoint.Root)
	for _, c := range b.State.Currencies() {
		fmt.Fprintf(&out, "commodity 1000.000000 %s\n", c.Code())
	}
	fmt.Fprintf(&out, "\naccount households:earned\naccount households:notes\naccount households:unclaimed\n")
	for _, p := range b.State.Parties() {
		fmt.Fprintf(&out, "account operators:P%d:open  ; %s, %s\naccount operators:P%d:due\n", p.Party, p.Name, p.Role, p.Party)
	}
	for _, m := range b.Moves {
		fmt.Fprintf(&out, "\n%s * (%d) %s | %s\n", dateOf(m.Time), m.Index, m.Kind, m.Ref)
		for _, p := range m.Postings {
			fmt.Fprintf(&out, "    %s  %s %s\n", hledgerName(p.Account), ledger.Amount(p.Amount), b.currency(p.Account).Code())
		}
	}
	fmt.Fprintf(&out, "\n%s * (%d) balances\n", dateOf(b.State.LogTime()), b.Checkpoint.Size)
	for _, a := range b.accounts() {
		code := b.currency(a).Code()
		fmt.Fprintf(&out, "    %s  0.000000 %s = %s %s\n", hledgerName(a), code, ledger.Amount(b.State.Balance(a)), code)
	}
	return out.Bytes()
}

func hledgerName(a ledger.Account) string {
	book := booksOf(a.Party())[a.Book()]
	if a.Party() == 0 {
		return "households:" + book
	}
	return fmt.Sprintf("operators:P%d:%s", a.Party(), book)
}

// Beancount writes the same journal for beancount.
func (b *Book) Beancount() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "; %s, %d entries, root %x\n; above zero: the account is owed money\n", b.Origin, b.Checkpoint.Size, b.Checkpoint.Root)
	fmt.Fprintf(&out, "option \"title\" %q\n", b.Origin)
	for _, c := range b.State.Currencies() {
		fmt.Fprintf(&out, "option \"operating_currency\" %q\n", c.Code())
	}
	out.WriteByte('\n')
	for _, a := range b.accounts() {
		if a.Currency() == 0 { // once for all currencies
			fmt.Fprintf(&out, "1970-01-01 open %s\n", beancountName(a))
		}
	}
	for _, p := range b.State.Parties() {
		fmt.Fprintf(&out, "1970-01-01 note %s \"%s, %s\"\n", beancountName(ledger.OpenAccount(p.Party, 0)), p.Name, p.Role)
	}
	for _, m := range b.Moves {
		fmt.Fprintf(&out, "\n%s * \"%s\" \"entry %d: %s\"\n", dateOf(m.Time), m.Kind, m.Index, m.Ref)
		for _, p := range m.Postings {
			fmt.Fprintf(&out, "  %s  %s %s\n", beancountName(p.Account), ledger.Amount(p.Amount), b.currency(p.Account).Code())
		}
	}
	out.WriteByte('\n')
	end := dateOf(b.State.LogTime().AddDate(0, 0, 1)) // balances hold at the start of a day
	if b.State.LogTime().IsZero() {
		end = "1970-01-02"
	}
	for _, a := range b.accounts() {
		fmt.Fprintf(&out, "%s balance %s  %s %s\n", end, beancountName(a), ledger.Amount(b.State.Balance(a)), b.currency(a).Code())
	}
	return out.Bytes()
}

func beancountName(a ledger.Account) string {
	book := booksOf(a.Party())[a.Book()]
	book = strings.ToUpper(book[:1]) + book[1:]
	if a.Party() == 0 {
		return "Liabilities:Households:" + book
	}
	return fmt.Sprintf("Liabilities:Operators:P%d:%s", a.Party(), book)
}
