package export

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gridveil/ledger"
)

// camtEntryText is one entry of a statement; fields may be left out.
func camtEntryText(id, amount, direction, more string) string {
	return `<Ntry><Amt Ccy="EUR">` + amount + `</Amt><CdtDbtInd>` + direction + `</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts><AcctSvcrRef>BANK-` + amount + `</AcctSvcrRef>
<BkTxCd><Prtry><Cd>NTRF</Cd></Prtry></BkTxCd><NtryDtls><TxDtls><Refs><EndToEndId>` + id + `</EndToEndId></Refs>` + more + `</TxDtls></NtryDtls></Ntry>
`
}

func camtText(entries ...string) string {
	return `<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt>
<GrpHdr><MsgId>M1</MsgId><CreDtTm>2026-06-16T12:00:00Z</CreDtTm></GrpHdr>
<Stmt><Id>S1</Id><Acct><Id><IBAN>DE89370400440532013000</IBAN></Id></Acct>
<Bal><Tp><CdOrPrtry><Cd>CLBD</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">0</Amt><CdtDbtInd>CRDT</CdtDbtInd><Dt><Dt>2026-06-16</Dt></Dt></Bal>
` + strings.Join(entries, "") + `</Stmt></BkToCstmrStmt></Document>
`
}

const (
	idOne   = "GVABCDEFGHIJKLMNOP-1"
	idTwo   = "GVABCDEFGHIJKLMNOP-2"
	idThree = "GVABCDEFGHIJKLMNOP-3"
	idFour  = "GVABCDEFGHIJKLMNOP-4"
)

func TestStatementKeepsOnlyBookingsOfOurs(t *testing.T) {
	text := camtText(camtEntryText(idOne, "6.40", "CRDT", ""), camtEntryText("INVOICE 7", "99.00", "CRDT", ""), camtEntryText("NOTPROVIDED", "1", "DBIT", ""),
		camtEntryText(idTwo, "7", "CRDT", "<RtrInf><Rsn><Cd>AC04</Cd></Rsn></RtrInf>"),
		strings.Replace(camtEntryText(idThree, "8.00", "CRDT", ""), "BOOK", "PDNG", 1))
	s, err := ParseStatement(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Booking{
		{Line: 7, Account: "DE89370400440532013000", EndToEnd: idOne, Currency: "EUR", Micro: 6_400_000, Credit: true, Ref: "BANK-6.40"},
		{Line: 13, Account: "DE89370400440532013000", EndToEnd: idTwo, Currency: "EUR", Micro: 7_000_000, Credit: true, Returned: true, Ref: "BANK-7"},
	}
	if !slices.Equal(s.Bookings, want) {
		t.Errorf("got %+v\nwant %+v", s.Bookings, want)
	}
	if s.Message != "camt.053.001.08" || s.ID != "S1" || s.Others != 3 || len(s.Accounts) != 1 {
		t.Errorf("got %+v", s)
	}
}

func TestABookedBatchGivesEachDetailItsOwnAmount(t *testing.T) {
	batch := `<Ntry><Amt Ccy="EUR">10.00</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts>BOOK</Sts><NtryDtls>
<TxDtls><Refs><EndToEndId>` + idOne + `</EndToEndId><AcctSvcrRef>A</AcctSvcrRef></Refs><Amt Ccy="EUR">4.00</Amt><CdtDbtInd>CRDT</CdtDbtInd></TxDtls>
<TxDtls><Refs><EndToEndId>` + idTwo + `</EndToEndId></Refs><AmtDtls><TxAmt><Amt Ccy="EUR">6.00</Amt></TxAmt></AmtDtls></TxDtls></NtryDtls></Ntry>`
	text := strings.NewReplacer("camt.053.001.08", "camt.054.001.02", "BkToCstmrStmt", "BkToCstmrDbtCdtNtfctn", "<Stmt>", "<Ntfctn>", "</Stmt>", "</Ntfctn>").Replace(camtText(batch))
	s, err := ParseStatement(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Bookings) != 2 || s.Bookings[0].Micro != 4_000_000 || s.Bookings[0].Ref != "A" || s.Bookings[1].Micro != 6_000_000 || !s.Bookings[1].Credit {
		t.Errorf("got %+v", s.Bookings)
	}
	text = strings.Replace(text, `<AmtDtls><TxAmt><Amt Ccy="EUR">6.00</Amt></TxAmt></AmtDtls>`, "", 1)
	if _, err := ParseStatement(strings.NewReader(text)); !errors.Is(err, ErrStatement) {
		t.Errorf("a detail of a batch without an amount: %v", err)
	}
}

func TestStatementErrorsNameTheLine(t *testing.T) {
	good := camtText(camtEntryText(idOne, "6.40", "CRDT", ""))
	for _, c := range []struct {
		name, text string
		line       int
	}{
		{"nothing", "", 1},
		{"a payment file", strings.ReplaceAll(good, "camt.053.001.08", "pain.001.001.09"), 2},
		{"a text file", "hello", 1},
		{"an unclosed element", strings.Replace(good, "</Ntry>", "", 1), 8},
		{"an amount with a comma", strings.Replace(good, ">6.40<", ">6,40<", 1), 7},
		{"a negative amount", strings.Replace(good, ">6.40<", ">-6.40<", 1), 7},
		{"an amount of nothing", strings.Replace(good, ">6.40<", ">0.00<", 1), 7},
		{"six places", strings.Replace(good, ">6.40<", ">6.400000<", 1), 7},
		{"no direction", strings.Replace(good, "<CdtDbtInd>CRDT</CdtDbtInd><Sts>", "<Sts>", 1), 7},
		{"no currency", strings.Replace(good, `<Ntry><Amt Ccy="EUR">`, "<Ntry><Amt>", 1), 7},
		{"entities", strings.Replace(good, "<Document", "<!DOCTYPE a [<!ENTITY b \"c\">]>\n<Document", 1), 2},
		{"nested too deep", strings.Replace(good, "<Stmt>", strings.Repeat("<a>", maxDepth), 1), 4},
		{"two documents", good + good, 10},
	} {
		_, err := ParseStatement(strings.NewReader(c.text))
		var bad *StatementError
		if !errors.Is(err, ErrStatement) || !errors.As(err, &bad) || bad.Line != c.line {
			t.Errorf("%s: got %v, want an error in line %d", c.name, err, c.line)
		}
	}
	if _, err := parseStatement(endless{}, 1000); !errors.Is(err, ErrStatement) || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a file without end: %v", err)
	}
}

// endless is a file that begins well and goes on with spaces.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestStatementSampleMatchesTheSchema(t *testing.T) {
	dir := os.Getenv("GRIDVEIL_CONFORMANCE")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "conformance")
	}
	xsd := filepath.Join(dir, "iso20022", "camt.053.001.08.xsd")
	if _, err := os.Stat(xsd); err != nil {
		t.Skip("no schema beside the repository: set GRIDVEIL_CONFORMANCE")
	}
	xmllint := tool(t, "xmllint")
	file := filepath.Join(t.TempDir(), "statement.xml")
	text := camtText(camtEntryText(idOne, "6.40", "CRDT", ""), camtEntryText(idTwo, "7", "CRDT", "<RtrInf><Rsn><Cd>AC04</Cd></Rsn></RtrInf>"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(xmllint, "--noout", "--nonet", "--schema", xsd, file).CombinedOutput(); err != nil {
		t.Errorf("the tests read what no bank writes: %v\n%s", err, out)
	}
}

func TestReconcileProposesWhatTheStatementShows(t *testing.T) {
	expected := func(id string, payer, payee ledger.PartyID, minor uint64, state ledger.PayState) Expected {
		return Expected{Payment: ledger.Payment{Pay: ledger.Pay{Payer: payer, Payee: payee, Minor: minor}, Period: 1, No: uint16(id[len(id)-1] - '0'), Grace: 10, State: state, Ended: 77},
			EndToEnd: id, Currency: "EUR", Micro: int64(minor) * 10_000}
	}
	in := func(id string, micro int64) Booking {
		return Booking{EndToEnd: id, Currency: "EUR", Micro: micro, Credit: true, Account: "A"}
	}
	sentBack := func(id string, micro int64) Booking {
		b := in(id, micro)
		b.Returned = true
		return b
	}
	out := in(idOne, 6_400_000)
	out.Credit = false
	for _, c := range []struct {
		name     string
		payment  Expected
		bookings []Booking
		bucket   uint64
		want     []Verdict
		kinds    string // of the proposals, overdue ones included
	}{
		{"a credit of the amount", expected(idOne, 3, 2, 640, ledger.PayDue), []Booking{in(idOne, 6_400_000)}, 5, []Verdict{VerdictPaid}, "paid"},
		{"the same file again, after it was entered", expected(idOne, 3, 2, 640, ledger.PayPaid), []Booking{in(idOne, 6_400_000)}, 5, []Verdict{VerdictKnown}, ""},
		{"a cent less", expected(idOne, 3, 2, 640, ledger.PayDue), []Booking{in(idOne, 6_390_000)}, 20, []Verdict{VerdictAmount}, ""},
		{"another currency", expected(idOne, 3, 2, 640, ledger.PayDue), []Booking{{EndToEnd: idOne, Currency: "SEK", Micro: 6_400_000, Credit: true, Account: "A"}}, 5, []Verdict{VerdictAmount}, ""},
		{"the credit twice", expected(idOne, 3, 2, 640, ledger.PayDue), []Booking{in(idOne, 6_400_000), in(idOne, 6_400_000)}, 5, []Verdict{VerdictPaid, VerdictTwice}, "paid"},
		{"a credit that was taken back", expected(idOne, 3, 2, 640, ledger.PayDue), []Booking{in(idOne, 6_400_000), sentBack(idOne, 6_400_000)}, 10, []Verdict{VerdictReturned, VerdictReturned}, "failed failed"},
		{"sent back within the grace time", expected(idOne, 3, 2, 640, ledger.PayDue), []Booking{sentBack(idOne, 6_400_000)}, 9, []Verdict{VerdictReturned}, ""},
		{"sent back after it was confirmed", expected(idOne, 3, 2, 640, ledger.PayPaid), []Booking{sentBack(idOne, 6_400_000)}, 10, []Verdict{VerdictReturned}, ""},
		{"a stranger's id", expected(idOne, 3, 2, 640, ledger.PayDue), []Booking{in(idTwo, 6_400_000)}, 5, []Verdict{VerdictUnknown, VerdictMissing}, ""},
		{"nothing, and the grace time is over", expected(idOne, 3, 2, 640, ledger.PayDue), nil, 10, []Verdict{VerdictOverdue}, "failed"},
		{"another account", expected(idOne, 3, 2, 640, ledger.PayDue), []Booking{{EndToEnd: idOne, Currency: "EUR", Micro: 6_400_000, Credit: true, Account: "B"}}, 5, []Verdict{VerdictUnknown, VerdictMissing}, ""},
		{"our own payment", expected(idOne, 2, 3, 640, ledger.PayDue), []Booking{out}, 5, []Verdict{VerdictOut}, ""},
		{"our own payment came back", expected(idOne, 2, 3, 640, ledger.PayDue), []Booking{sentBack(idOne, 6_400_000)}, 20, []Verdict{VerdictOutBack}, ""},
		{"a payment between others", expected(idOne, 4, 3, 640, ledger.PayDue), []Booking{in(idOne, 6_400_000)}, 20, []Verdict{VerdictUnknown}, ""},
		{"a debit with the id of a credit", expected(idOne, 3, 2, 640, ledger.PayDue), []Booking{out}, 20, []Verdict{VerdictUnknown}, ""},
		{"a failed payment that arrives late", expected(idOne, 3, 2, 640, ledger.PayFailed), []Booking{in(idOne, 6_400_000)}, 20, []Verdict{VerdictKnown}, ""},
	} {
		var got []Verdict
		var kinds []string
		for _, m := range Reconcile(2, "A", []Expected{c.payment}, &BankStatement{Bookings: c.bookings}, c.bucket) {
			got = append(got, m.Verdict)
			if body := m.Proposal(c.bucket, true); body != nil {
				kinds = append(kinds, body.Kind().String())
			}
		}
		if !slices.Equal(got, c.want) || strings.Join(kinds, " ") != c.kinds {
			t.Errorf("%s: got %v and %v, want %v and %q", c.name, got, kinds, c.want, c.kinds)
		}
	}
}

func TestPaymentsOfTheLogCarryTheIdsOfTheirFiles(t *testing.T) {
	_, _, dir := exported(t)
	book, err := OpenBook(dir)
	if err != nil {
		t.Fatal(err)
	}
	files, err := book.Payments(banks())
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		all.Write(f.XML)
	}
	states := map[ledger.PayState]int{}
	for _, p := range book.State.Payments(0) {
		states[p.State]++
		for i := range book.Closes {
			if c := &book.Closes[i]; c.Period == p.Period && c.Index == p.Close {
				id := EndToEnd(c.Leaf, int(p.No))
				if !Ours(id) || len(id) > 35 || !strings.Contains(all.String(), "<EndToEndId>"+id+"</EndToEndId>") {
					t.Errorf("payment %d of close %d: id %q stands in no file", p.No, p.Period, id)
				}
			}
		}
	}
	if states[ledger.PayPaid] != 1 || states[ledger.PayFailed] != 1 {
		t.Errorf("payments by state: %v", states)
	}
}

func TestOursIsOnlyOurForm(t *testing.T) {
	for id, want := range map[string]bool{idOne: true, "GVABCDEFGHIJKLMNOP-12345": true, "": false, "GV-1": false, "GVABCDEFGHIJKLMNOP": false,
		"GVABCDEFGHIJKLMNOp-1": false, "GVABCDEFGHIJKLMNOP-": false, "GVABCDEFGHIJKLMNOP-1a": false, "XXABCDEFGHIJKLMNOP-1": false, "GVABCDEFGHIJKLMNOP-123456": false} {
		if Ours(id) != want {
			t.Errorf("Ours(%q): got %v", id, !want)
		}
	}
}

func FuzzStatement(f *testing.F) {
	f.Add([]byte(camtText(camtEntryText(idOne, "6.40", "CRDT", ""))))
	f.Add([]byte(camtText(camtEntryText(idTwo, "0.00001", "DBIT", "<RtrInf/>"), camtEntryText(idThree, "999999999999.99999", "CRDT", ""))))
	f.Add([]byte(strings.ReplaceAll(camtText(camtEntryText(idFour, "1", "CRDT", "")), "Stmt", "Ntfctn")))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseStatement(strings.NewReader(string(b)))
		if err != nil {
			if !errors.Is(err, ErrStatement) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		for _, k := range s.Bookings {
			if !Ours(k.EndToEnd) || k.Micro <= 0 || len(k.Currency) != 3 {
				t.Fatal(fmt.Sprintf("an impossible booking: %+v", k))
			}
		}
		Reconcile(2, "", nil, s, 0)
	})
}
