package demo

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gridveil/ledger/export"
)

// TestTheSimulatedBankWritesWhatABankWrites carries a payment file out once and
// reads the statements of both sides.
func TestTheSimulatedBankWritesWhatABankWrites(t *testing.T) {
	const id = "GVABCDEFGHIJKLMNOP-1"
	from, to := accounts[2].iban, accounts[0].iban
	for _, x := range accounts {
		if err := (export.BankAccount{IBAN: x.iban, BIC: bankBIC}).Check(); err != nil {
			t.Errorf("account of %s: %v", x.name, err)
		}
	}
	file := export.PaymentFile{Name: "EUR-1-3.xml", XML: []byte(`<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.001.001.09"><CstmrCdtTrfInitn><PmtInf>
<DbtrAcct><Id><IBAN>` + from + `</IBAN></Id></DbtrAcct><CdtTrfTxInf><PmtId><EndToEndId>` + id + `</EndToEndId></PmtId><Amt><InstdAmt Ccy="EUR">6.40</InstdAmt></Amt>
<CdtrAcct><Id><IBAN>` + to + `</IBAN></Id></CdtrAcct></CdtTrfTxInf></PmtInf></CstmrCdtTrfInitn></Document>`)}
	b := new(bank)
	for i, want := range []int{1, 0} {
		if n, err := b.carryOut(file, Start); err != nil || n != want {
			t.Errorf("run %d: %d payments, %v; want %d", i+1, n, err, want)
		}
	}
	for iban, credit := range map[string]bool{from: false, to: true} {
		text, err := b.statement(iban, Start)
		if err != nil {
			t.Fatal(err)
		}
		s, err := export.ParseStatement(strings.NewReader(string(text)))
		if err != nil || len(s.Bookings) != 1 {
			t.Fatalf("%v, %+v", err, s)
		}
		if k := s.Bookings[0]; k.EndToEnd != id || k.Micro != 6_400_000 || k.Credit != credit || k.Account != iban || k.Returned {
			t.Errorf("got %+v", k)
		}
		judgeSchema(t, text)
	}
	empty, err := b.statement(accounts[1].iban, Start)
	if err != nil {
		t.Fatal(err)
	}
	judgeSchema(t, empty)
}

// judgeSchema holds a statement against the schema of ISO 20022, where that and
// a tool for it are at hand.
func judgeSchema(t *testing.T, text []byte) {
	t.Helper()
	dir := os.Getenv("GRIDVEIL_CONFORMANCE")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "conformance")
	}
	xsd := filepath.Join(dir, "iso20022", "camt.053.001.08.xsd")
	lint, err := exec.LookPath("xmllint")
	if _, missing := os.Stat(xsd); missing != nil || err != nil {
		t.Log("no schema beside the repository (set GRIDVEIL_CONFORMANCE) or no xmllint: the form is not judged")
		return
	}
	file := filepath.Join(t.TempDir(), "statement.xml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(lint, "--noout", "--nonet", "--schema", xsd, file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
