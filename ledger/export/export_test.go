package export

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/tile"
)

var long = flag.Bool("long", false, "run the long versions of the tests")

// memory is a log in memory, as a Source.
type memory struct {
	log  [][]byte
	note []byte
}

func (m memory) Checkpoint() ([]byte, error) { return m.note, nil }

func (m memory) Bundle(n uint64, width int) ([]byte, error) {
	var b []byte
	for i := range width {
		b = ledger.AppendBundle(b, m.log[int(n)*tile.Width+i])
	}
	return b, nil
}

// rootOf is the tree hash over a log.
func rootOf(log [][]byte) [32]byte {
	var e tile.Edge
	for _, raw := range log {
		e.Append(ledger.LeafHash(raw), func(tile.Tile, []byte) {})
	}
	return e.Root()
}

var built struct {
	once  sync.Once
	scene *scene.Scene
	src   memory
}

// town is a log of 300 entries: the whole story, then transfers. It is made once
// and shared, so tests must not change the entries.
func town(t testing.TB) (*scene.Scene, memory) {
	t.Helper()
	built.once.Do(func() { built.scene, built.src = build(t) })
	built.scene.TB = t
	return built.scene, built.src
}

func build(t testing.TB) (*scene.Scene, memory) {
	t.Helper()
	s := scene.New(t, 11)
	s.Story(func(st scene.Step) uint64 {
		at := s.Do(st)
		if st.Body.Kind() == ledger.KindReverse {
			s.Transfers(20) // so that there is something to net
		}
		return at
	})
	s.Transfers(300 - len(s.Log))
	return s, memory{s.Log, s.Checkpoint(uint64(len(s.Log)), rootOf(s.Log), "uta", "utb")}
}

func banks() []BankAccount {
	var out []BankAccount
	for p := scene.Evagg; p <= scene.Utc; p++ {
		out = append(out, BankAccount(scene.Account(p)))
	}
	return out
}

// exported writes the town and returns its directory.
func exported(t testing.TB) (*scene.Scene, memory, string) {
	t.Helper()
	s, src := town(t)
	dir := filepath.Join(t.TempDir(), "export")
	if _, err := Archive(dir, src, Config{Policy: s.Policy(), Accounts: banks()}); err != nil {
		t.Fatal(err)
	}
	return s, src, dir
}

// files lists the files of an export with their content.
func files(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		out[filepath.ToSlash(rel)] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestExportVerifies(t *testing.T) {
	s, src, dir := exported(t)
	for name, policy := range map[string]*ledger.Policy{"its own policy": nil, "the policy of the caller": s.Policy()} {
		r, err := Verify(dir, policy)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r.Entries != 300 || r.Trusted != (policy != nil) || !slices.Equal(r.Cosigners, []string{"uta", "utb"}) || r.Kinds["cdr"] == 0 || len(r.Balances) == 0 {
			t.Errorf("%s: report %+v", name, r)
		}
	}
	before := files(t, dir)
	if _, err := Archive(dir, src, Config{Policy: s.Policy(), Accounts: banks()}); err != nil {
		t.Fatalf("second export: %v", err)
	}
	after := files(t, dir)
	for path, b := range before {
		if !bytes.Equal(after[path], b) {
			t.Errorf("%s differs in the second export", path)
		}
	}
	if len(after) != len(before) {
		t.Errorf("second export has %d files, the first %d", len(after), len(before))
	}
}

// TestG5 is guarantee G5: any changed byte of any file is refused, and the
// refusal names an entry or a file. By default each file is touched in a few
// places; -long changes every byte of what the log consists of.
func TestG5AnyChangedByteIsRefused(t *testing.T) {
	s, _, dir := exported(t)
	policy := s.Policy()
	all := files(t, dir)
	paths := make([]string, 0, len(all))
	for p := range all {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	tried := 0
	for _, path := range paths {
		b := all[path]
		derived := strings.HasPrefix(path, "statements/") || strings.HasPrefix(path, "journals/") || strings.HasPrefix(path, "payments/") || path == fileManifest
		step := max(len(b)/12, 1)
		switch {
		case *long && !derived:
			step = 1
		case *long:
			step = max(len(b)/100, 1)
		case derived || testing.Short():
			step = max(len(b)*2/3, 1)
		}
		for i := s.N(step); i < len(b); i += step {
			bad := bytes.Clone(b)
			bad[i] ^= byte(1 << s.N(8))
			mustWrite(t, dir, path, bad)
			refusedByName(t, dir, policy, path, i)
			tried++
		}
		mustWrite(t, dir, path, b)
	}
	if _, err := Verify(dir, policy); err != nil {
		t.Fatalf("after all is put back: %v", err)
	}
	t.Logf("%d changes in %d files", tried, len(paths))
}

func mustWrite(t testing.TB, dir, path string, b []byte) {
	t.Helper()
	if err := writeFile(filepath.Join(dir, filepath.FromSlash(path)), b); err != nil {
		t.Fatal(err)
	}
}

func refusedByName(t testing.TB, dir string, policy *ledger.Policy, path string, at int) {
	t.Helper()
	_, err := Verify(dir, policy)
	var file *FileError
	var entry *EntryError
	switch {
	case err == nil:
		t.Errorf("%s with byte %d changed is accepted", path, at)
	case !errors.As(err, &file) && !errors.As(err, &entry):
		t.Errorf("%s with byte %d changed: %v names neither entry nor file", path, at, err)
	}
}

func TestMissingAndAdditionalFilesAreRefused(t *testing.T) {
	s, _, dir := exported(t)
	var file *FileError
	for path, b := range files(t, dir) {
		if err := os.Remove(filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(dir, s.Policy()); !errors.As(err, &file) {
			t.Errorf("without %s: got %v", path, err)
		}
		mustWrite(t, dir, path, b)
	}
	for _, path := range []string{"more", "tile/0/001.p/43", "statements/EUR/1/99.txt"} {
		mustWrite(t, dir, path, []byte("x"))
		if _, err := Verify(dir, s.Policy()); !errors.As(err, &file) || file.Path != path || !errors.Is(err, ErrUnexpected) {
			t.Errorf("with %s: got %v", path, err)
		}
		if err := os.Remove(filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("checkpoint", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir, s.Policy()); !errors.Is(err, ErrUnexpected) {
		t.Errorf("with a link: got %v", err)
	}
}

func TestFirstBadEntryIsNamed(t *testing.T) {
	s, src := town(t)
	for _, at := range []int{1, 40, 255, 256, 299} {
		bad := memory{slices.Clone(src.log), nil}
		raw := bytes.Clone(bad.log[at])
		raw[len(raw)-1] ^= 1 // in the last signature
		bad.log[at] = raw
		bad.note = s.Checkpoint(300, rootOf(bad.log), "uta", "utb") // even the quorum signed it
		var entry *EntryError
		if _, err := Archive(filepath.Join(t.TempDir(), "x"), bad, Config{Policy: s.Policy()}); !errors.As(err, &entry) || entry.Index != uint64(at) || !errors.Is(err, ledger.ErrSignature) {
			t.Errorf("entry %d: got %v", at, err)
		}
	}
}

func TestExchangedHistoryIsRefused(t *testing.T) {
	s, src := town(t)
	short := memory{src.log[:299], src.note}
	other := scene.New(t, 11).Begin()
	for name, m := range map[string]memory{
		"a log of other entries": {append(slices.Clone(src.log[:298]), src.log[299], src.log[298]), src.note},
		"without the quorum":     {src.log, s.Checkpoint(300, rootOf(src.log), "uta")},
		"of another log":         {src.log, other.Checkpoint(300, h32(9), "uta", "utb")},
	} {
		if _, err := Archive(filepath.Join(t.TempDir(), "x"), m, Config{Policy: s.Policy()}); err == nil {
			t.Errorf("%s: exported", name)
		}
	}
	short.note = s.Checkpoint(299, rootOf(src.log), "uta", "utb")
	var file *FileError
	if _, err := Archive(filepath.Join(t.TempDir(), "x"), short, Config{Policy: s.Policy()}); !errors.As(err, &file) || file.Path != fileCheckpoint || !errors.Is(err, ledger.ErrFork) {
		t.Errorf("root of another log: got %v", err)
	}
}

func h32(b byte) (v [32]byte) { v[0] = b; return v }

func TestStrangersPolicyDoesNotTrustTheExport(t *testing.T) {
	_, _, dir := exported(t)
	stranger := scene.New(t, 99)
	var file *FileError
	if _, err := Verify(dir, stranger.Policy()); !errors.As(err, &file) || file.Path != fileCheckpoint {
		t.Errorf("got %v", err)
	}
}

func TestArchiveOverwritesOnlyExports(t *testing.T) {
	s, src := town(t)
	dir := t.TempDir()
	mustWrite(t, dir, "thesis.tex", []byte("x"))
	if _, err := Archive(dir, src, Config{Policy: s.Policy()}); err == nil {
		t.Error("a directory of other files was replaced")
	}
	if _, err := os.Stat(filepath.Join(dir, "thesis.tex")); err != nil {
		t.Error(err)
	}
}

func TestArchiveNeedsAPolicyThatCanBeWritten(t *testing.T) {
	s, src := town(t)
	bad := s.Policy()
	bad.Witnesses[0].Name = "two words"
	for name, policy := range map[string]*ledger.Policy{"none": nil, "a name of two words": bad} {
		if _, err := Archive(filepath.Join(t.TempDir(), "x"), src, Config{Policy: policy}); !errors.Is(err, ledger.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestAnEntryBeyondAnExportSaysWhatToDo: no user asked for a malformed entry.
func TestAnEntryBeyondAnExportSaysWhatToDo(t *testing.T) {
	_, src, dir := exported(t)
	n := uint64(len(src.log))
	for _, index := range []uint64{n, n + 100, 1 << 62} {
		_, proof := Prove(dir, index)
		_, entry := Dir(dir).Entry(index)
		for _, err := range []error{proof, entry} {
			var beyond *BeyondError
			if !errors.As(err, &beyond) || beyond.Size != n || beyond.Index != index || !errors.Is(err, ErrMissing) || errors.Is(err, ledger.ErrMalformed) {
				t.Fatalf("entry %d of %d: %v", index, n, err)
			}
			for _, want := range []string{fmt.Sprintf("has %d entries, numbers 0 to %d", n, n-1), "gridveil ledger export"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		}
	}
}

func TestProofsOfEveryEntry(t *testing.T) {
	s, src, dir := exported(t)
	for i := range src.log {
		p, err := Prove(dir, uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		back, err := ledger.ParseProof(p.Encode())
		if err != nil {
			t.Fatal(err)
		}
		raw, err := Dir(dir).Entry(uint64(i))
		if err != nil || !bytes.Equal(raw, src.log[i]) {
			t.Fatalf("entry %d: %v", i, err)
		}
		if _, err := back.Verify(s.Policy(), ledger.LeafHash(raw)); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
}

func TestStatementsAddUp(t *testing.T) {
	_, _, dir := exported(t)
	book, err := OpenBook(dir)
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]map[string]int64{}
	var total int64
	for _, s := range book.Statements() {
		key := fmt.Sprint(s.Party, s.Currency)
		sum := map[string]int64{}
		for _, b := range s.Opening {
			if s.Period > 1 && b.Amount != last[key][b.Book] {
				t.Errorf("party %d, period %d opens %s with %d, the last closed with %d", s.Party, s.Period, b.Book, b.Amount, last[key][b.Book])
			}
			sum[b.Book] = b.Amount
		}
		for _, l := range s.Lines {
			sum[l.Book] += l.Amount
			total += l.Amount
		}
		last[key] = map[string]int64{}
		for _, b := range s.Closing {
			if sum[b.Book] != b.Amount {
				t.Errorf("party %d, period %d: %s closes with %d, lines give %d", s.Party, s.Period, b.Book, b.Amount, sum[b.Book])
			}
			last[key][b.Book] = b.Amount
		}
	}
	if total != 0 {
		t.Errorf("all lines sum to %d", total)
	}
	for _, a := range book.accounts() {
		s, err := book.Statement(a.Party(), a.Currency(), book.openPeriod(a.Currency()))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Closing[a.Book()].Amount; got != book.State.Balance(a) {
			t.Errorf("%v: statement %d, state %d", a, got, book.State.Balance(a))
		}
	}
	if _, err := book.Statement(99, 0, 1); err == nil {
		t.Error("statement of nobody")
	}
	text, _ := book.Statement(scene.Utb, 0, 1)
	if out := string(text.Text()); !strings.Contains(out, "Utb Energie") || !strings.Contains(out, "settle") || !strings.Contains(out, "close 1") {
		t.Errorf("text statement:\n%s", out)
	}
}

// tool skips a test if a judge is not installed.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

func TestHledgerComputesTheSameBalances(t *testing.T) {
	hledger := tool(t, "hledger")
	_, _, dir := exported(t)
	file := filepath.Join(dir, fileHledger)
	if out, err := exec.Command(hledger, "-f", file, "check", "--strict").CombinedOutput(); err != nil {
		t.Fatalf("hledger check: %v\n%s", err, out)
	}
	judgeRefusesAnother(t, file, " = ", hledger, "-f", file, "check")
}

func TestBeancountComputesTheSameBalances(t *testing.T) {
	check := tool(t, "bean-check")
	_, _, dir := exported(t)
	file := filepath.Join(dir, fileBeancount)
	if out, err := exec.Command(check, file).CombinedOutput(); err != nil {
		t.Fatalf("bean-check: %v\n%s", err, out)
	}
	judgeRefusesAnother(t, file, " balance Liabilities:Operators:P2:Open  ", check, file)
}

// judgeRefusesAnother changes one asserted balance, so that the check is known
// to check.
func judgeRefusesAnother(t *testing.T, file, before string, command ...string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	i := strings.LastIndex(string(b), before)
	changed := string(b[:i+len(before)]) + "1" + string(b[i+len(before):])
	changed = strings.Replace(changed, "1-", "-1", 1)
	if err := os.WriteFile(file, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err == nil {
		t.Errorf("%s accepts another balance\n%s", command[0], out)
	}
}

func TestPaymentFilesMatchTheirSchema(t *testing.T) {
	_, _, dir := exported(t)
	paths, err := filepath.Glob(filepath.Join(dir, "payments", "*.xml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no payment files: %v", err)
	}
	xsd := os.Getenv("GRIDVEIL_CONFORMANCE")
	if xsd == "" {
		xsd = filepath.Join("..", "..", "..", "shared", "conformance")
	}
	xsd = filepath.Join(xsd, "iso20022", "pain.001.001.09.xsd")
	if _, err := os.Stat(xsd); err != nil {
		t.Skip("no schema beside the repository: set GRIDVEIL_CONFORMANCE")
	}
	xmllint := tool(t, "xmllint")
	for _, p := range paths {
		if out, err := exec.Command(xmllint, "--noout", "--nonet", "--schema", xsd, p).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", filepath.Base(p), err, out)
		}
	}
}

func TestPaymentsSumToTheClose(t *testing.T) {
	_, _, dir := exported(t)
	book, err := OpenBook(dir)
	if err != nil {
		t.Fatal(err)
	}
	list, err := book.Payments(banks())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range list {
		n += strings.Count(string(f.XML), "<CdtTrfTxInf>")
	}
	want := 0
	for _, c := range book.Closes {
		want += len(c.Pays)
	}
	if n != want || want == 0 {
		t.Errorf("%d transfers in the files, %d payments in the closes", n, want)
	}
	without, err := book.Payments(banks()[:1])
	if err != nil || len(without) >= len(list) {
		t.Errorf("with one known account: %d files, %v", len(without), err)
	}
}

func TestExchangedAccountsAreRefused(t *testing.T) {
	s, src := town(t)
	good := banks()
	for name, edit := range map[string]func(b []BankAccount) []BankAccount{
		"another IBAN":        func(b []BankAccount) []BankAccount { b[1].IBAN = b[2].IBAN; return b },
		"another BIC":         func(b []BankAccount) []BankAccount { b[1].BIC = "COBADEFFXXX"; return b },
		"another salt":        func(b []BankAccount) []BankAccount { b[1].Salt[0] ^= 1; return b },
		"wrong check digits":  func(b []BankAccount) []BankAccount { b[1].IBAN = "DE00" + b[1].IBAN[4:]; return b },
		"a small letter":      func(b []BankAccount) []BankAccount { b[1].IBAN = strings.ToLower(b[1].IBAN); return b },
		"one party twice":     func(b []BankAccount) []BankAccount { return append(b, b[1]) },
		"a party not on file": func(b []BankAccount) []BankAccount { b[1].Party = 99; return b },
	} {
		if _, err := Archive(filepath.Join(t.TempDir(), "x"), src, Config{Policy: s.Policy(), Accounts: edit(slices.Clone(good))}); !errors.Is(err, ErrBank) {
			t.Errorf("%s: got %v, want %v", name, err, ErrBank)
		}
	}
}

func TestMinorText(t *testing.T) {
	for _, c := range []struct {
		n    uint64
		exp  uint8
		want string
	}{{5, 2, "0.05"}, {640, 2, "6.40"}, {7, 0, "7"}, {1234567, 3, "1234.567"}} {
		if got := minorText(c.n, c.exp); got != c.want {
			t.Errorf("minorText(%d, %d): got %s, want %s", c.n, c.exp, got, c.want)
		}
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add([]byte("2 " + strings.Repeat("ab", 32) + " DE02120300000000202051 BYLADEM1001\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, err := parseAccounts(b); err == nil {
			for _, a := range list {
				a.Check() // must not panic
			}
		}
	})
}
