package aggregator_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/node/party"
)

// bankText is a statement of one account, with credits or returned credits.
func bankText(iban string, lines ...string) string {
	return `<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt><Stmt><Id>S</Id><Acct><Id><IBAN>` + iban +
		`</IBAN></Id></Acct>` + strings.Join(lines, "\n") + `</Stmt></BkToCstmrStmt></Document>`
}

func creditText(id, amount, more string) string {
	return `<Ntry><Amt Ccy="EUR">` + amount + `</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts><AcctSvcrRef>77</AcctSvcrRef><NtryDtls><TxDtls><Refs><EndToEndId>` +
		id + `</EndToEndId></Refs>` + more + `</TxDtls></NtryDtls></Ntry>`
}

const sentBack = `<RtrInf><Rsn><Cd>AC04</Cd></Rsn></RtrInf>`

// TestBankStatementsEndWhatIsDue nets two debts, confirms one from the payee's
// statement exactly once, and puts the other, which the bank sent back, on the
// open books again with both signatures.
func TestBankStatementsEndWhatIsDue(t *testing.T) {
	s := newScene(t, "bucket = \"1m\"\nclose_every = 1\n", "home", "driver", "ssn-oak", "ssn-mill")
	payer, payee := s.utility("utility-b").Party(), s.utility("utility-a").Party()
	s.eventually("both utilities on the ledger", func() bool { return payer.ID() != 0 && payee.ID() != 0 })
	owe := func(n byte, to ledger.PartyID, micro int64) {
		s.must(payer.Post([32]byte{n}, &ledger.Transfer{From: ledger.OpenAccount(payer.ID(), 0), To: ledger.OpenAccount(to, 0), X: micro, Purpose: ledger.PurposeFee}))
	}
	// due finds what payer owes to by bank, once payee's copy shows it as final.
	due := func(to ledger.PartyID) (p export.Expected) {
		s.eventually(fmt.Sprintf("a payment to party %d", to), func() bool {
			c, ok := payee.Teller().Copy()
			if !ok {
				return false
			}
			list, err := c.Expected()
			s.must(err)
			for _, x := range list {
				if x.Payee == to && x.State == ledger.PayDue {
					p = x
					return true
				}
			}
			return false
		})
		return p
	}
	reconcile := func(tell *party.Teller, text string, overdue, post bool) party.Reconciliation {
		t.Helper()
		st, err := export.ParseStatement(strings.NewReader(text))
		s.must(err)
		r, err := tell.Reconcile(s.ctx, st, overdue, post)
		s.must(err)
		return r
	}
	balance := func(p ledger.PartyID) (x int64) {
		s.evagg().Read(func(st *ledger.State) { x = st.Balance(ledger.DueAccount(p, 0)) })
		return x
	}
	const ibanA, ibanEvagg = "DE89370400440532013000", "DE02500105170137075030"

	owe(1, payee.ID(), 6_400_000)
	p := due(payee.ID())
	if r := reconcile(payee.Teller(), bankText(ibanA, creditText(p.EndToEnd, "6.39", "")), false, true); r.Proposals != 0 || r.Rows[0].Verdict != export.VerdictAmount {
		t.Errorf("a cent less: %+v", r)
	}
	if r := reconcile(payee.Teller(), bankText(ibanEvagg, creditText(p.EndToEnd, "6.40", "")), false, true); r.Proposals != 0 {
		t.Errorf("a statement of another operator: %+v", r)
	}
	good := bankText(ibanA, creditText(p.EndToEnd, "6.40", ""))
	if r := reconcile(payee.Teller(), good, false, false); r.Proposals != 1 || r.Rows[0].Verdict != export.VerdictPaid || r.Rows[0].Due != "EUR 6.40" {
		t.Errorf("a dry run: %+v", r)
	}
	reconcile(payee.Teller(), good, false, true)
	reconcile(payee.Teller(), good, false, true)
	s.eventually("what is due to be gone", func() bool { return balance(payee.ID()) == 0 && balance(payer.ID()) == 0 })
	s.eventually("the payee's copy", func() bool { return reconcile(payee.Teller(), good, false, true).Proposals == 0 })
	if n := s.kinds()[ledger.KindPaid]; n != 1 {
		t.Errorf("%d confirmations of one payment", n)
	}

	owe(2, payee.ID(), 5_000_000)
	p = due(payee.ID())
	back := bankText(ibanA, creditText(p.EndToEnd, "5.00", sentBack))
	s.eventually("the grace time to end", func() bool { return reconcile(payee.Teller(), back, false, true).Proposals == 1 })
	s.eventually("the payment on the open books", func() bool { return s.kinds()[ledger.KindFailed] == 1 })

	owe(3, 1, 1_000_000)
	due(1)
	nothing := bankText(ibanEvagg)
	s.eventually("the aggregator's grace time to end", func() bool {
		if r := reconcile(s.evagg().Teller(), nothing, false, true); r.Proposals != 0 {
			t.Fatalf("overdue was entered without being asked for: %+v", r)
		}
		return reconcile(s.evagg().Teller(), nothing, true, true).Proposals > 0
	})
	s.eventually("a second failed payment", func() bool { return s.kinds()[ledger.KindFailed] >= 2 })
	files, err := s.evagg().PaymentFiles()
	s.must(err)
	s.eventually("an export with the same files", func() bool {
		dir := t.TempDir() + "/export"
		if _, err := s.evagg().Export(dir); err != nil {
			return false
		}
		for _, f := range files {
			if string(must(os.ReadFile(filepath.Join(dir, "payments", f.Name)))) != string(f.XML) {
				t.Fatalf("%s differs from the export", f.Name)
			}
		}
		return len(files) > 1
	})

	k := payee.Clerk()
	if st := must(k.Status()); !st.Sound() || st.Name != "northgrid" || st.Final == 0 || st.Due == "" {
		t.Errorf("status of a follower: %+v", st)
	}
	if r := must(k.Verify()); r.Kinds["paid"] != 1 || len(r.Cosigners) == 0 {
		t.Errorf("a follower's replay: %+v", r)
	}
	if st := must(k.Statement("southpower", 1, "EUR")); len(st.Lines) == 0 || !st.Closed {
		t.Errorf("a follower's statement: %+v", st)
	}
	proof := must(k.Prove(0))
	if _, err := proof.Verify(must(s.operators("utility-a").Policy()), ledger.LeafHash(must(payee.Entry(0)))); err != nil {
		t.Errorf("a follower's proof: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "backup")
	head := must(k.Backup(dir))
	if got, err := export.CheckBackup(dir, nil); err != nil || got != head || got.Size == 0 {
		t.Errorf("a follower's backup: %+v, %v", got, err)
	}
}
