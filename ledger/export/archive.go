package export

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/internal/tile"
)

// Names of single files of an export.
const (
	fileCheckpoint = "checkpoint"
	filePolicy     = "policy"
	fileAccounts   = "accounts"
	fileCarried    = "carried"
	fileManifest   = "manifest"
	fileHledger    = "journals/ledger.journal"
	fileBeancount  = "journals/ledger.beancount"
)

// Config is what an export needs beside the log.
type Config struct {
	// Policy names the log and the quorum that makes its checkpoint final. It
	// is written into the export. Required.
	Policy *ledger.Policy
	// Accounts are the bank accounts of operators, for the payment files. They
	// are written into the export with their salts, so leave them out of an
	// export that is handed to others.
	Accounts []BankAccount
}

// Report sums up an export that was written or verified.
type Report struct {
	Origin    string            `json:"origin"`
	Network   string            `json:"network"`
	Entries   uint64            `json:"entries"`
	Root      string            `json:"root"` // hex
	LogTime   time.Time         `json:"log_time"`
	Cosigners []string          `json:"cosigners"`        // by the policy that was trusted
	Trusted   bool              `json:"trusted"`          // the policy came from outside the export
	After     string            `json:"after,omitempty"`  // origin of the sealed log that this one goes on from
	Sealed    string            `json:"sealed,omitempty"` // origin of the log that goes on from this one
	Kinds     map[string]int    `json:"kinds"`
	Balances  map[string]string `json:"balances"` // accounts other than zero, with currency
	Files     int               `json:"files"`
}

// Archive writes the export of the log into dir, which must be new, empty or an
// earlier export; it is replaced as a whole at the end. The log is verified on
// the way, so a log that breaks a rule gives an *EntryError and no export.
func Archive(dir string, src Source, cfg Config) (Report, error) {
	if cfg.Policy == nil {
		return Report{}, fmt.Errorf("%w: an export needs the policy of its log", ledger.ErrMalformed)
	}
	if _, err := ledger.ParsePolicy([]byte(cfg.Policy.String())); err != nil {
		return Report{}, &FileError{filePolicy, err} // names that do not survive the text form
	}
	if err := replaceable(dir); err != nil {
		return Report{}, err
	}
	checkpoint, err := src.Checkpoint()
	if err != nil {
		return Report{}, fmt.Errorf("read checkpoint: %w", err)
	}
	fresh := filepath.Clean(dir) + ".gridveil-new"
	if err := os.RemoveAll(fresh); err != nil {
		return Report{}, err
	}
	defer os.RemoveAll(fresh) // gone already if all went well
	b := &builder{policy: cfg.Policy, accounts: cfg.Accounts, put: func(path string, data []byte) error {
		return writeFile(filepath.Join(fresh, filepath.FromSlash(path)), data)
	}}
	report, err := b.build(src, checkpoint)
	if err != nil {
		return Report{}, err
	}
	return report, swap(fresh, dir)
}

// replaceable refuses to overwrite what is not an export.
func replaceable(dir string) error {
	list, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(list) == 0:
		return nil
	case err != nil:
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, fileManifest)); err != nil {
		return fmt.Errorf("%s holds files that are no ledger export: choose an empty directory", dir)
	}
	return nil
}

// swap puts fresh in the place of dir.
func swap(fresh, dir string) error {
	old := filepath.Clean(dir) + ".gridveil-old"
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, dir); err != nil {
		return errors.Join(err, os.Rename(old, dir))
	}
	return os.RemoveAll(old)
}

func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// builder makes all files of an export in a fixed order and hands each to put,
// which writes or compares it.
type builder struct {
	policy   *ledger.Policy
	accounts []BankAccount
	put      func(path string, data []byte) error
	sums     map[string][32]byte
	book     *Book // once the log was replayed
}

func (b *builder) emit(path string, data []byte) error {
	if b.sums == nil {
		b.sums = map[string][32]byte{}
	}
	b.sums[path] = sha256.Sum256(data)
	return b.put(path, data)
}

// build follows the order: policy and checkpoint, log, books, manifest.
func (b *builder) build(src Source, checkpoint []byte) (Report, error) {
	c, err := b.policy.OpenFinal(checkpoint)
	if err != nil {
		return Report{}, &FileError{fileCheckpoint, err}
	}
	note, err := ledger.MergeCosignatures(checkpoint, nil, b.policy.Keys()...)
	if err != nil {
		return Report{}, &FileError{fileCheckpoint, err}
	}
	if err := errors.Join(b.emit(filePolicy, []byte(b.policy.String())), b.emit(fileCheckpoint, note)); err != nil {
		return Report{}, err
	}
	book, err := b.log(src, c)
	if err != nil {
		return Report{}, err
	}
	b.book = book
	if err := b.books(book); err != nil {
		return Report{}, err
	}
	if err := b.put(fileManifest, b.manifest()); err != nil {
		return Report{}, err
	}
	return b.report(book, note)
}

// log replays the entries and emits bundles and tiles.
func (b *builder) log(src Source, c ledger.Checkpoint) (*Book, error) {
	book, edge, err := replay(src, c.Origin, c.Size, follower{
		carried: func(data []byte) error { return b.emit(fileCarried, data) },
		bundle:  func(t tile.Tile, data []byte) error { return b.emit(t.Path(), data) },
		tile:    func(t tile.Tile, data []byte) error { return b.emit(t.Path(), data) },
	})
	if err != nil {
		return nil, err
	}
	for _, t := range tile.Of(c.Size) {
		if t.L != tile.Entries && t.W < tile.Width {
			if err := b.emit(t.Path(), edge.Partial(t.L)); err != nil {
				return nil, err
			}
		}
	}
	if edge.Root() != c.Root {
		return nil, &FileError{fileCheckpoint, fmt.Errorf("%w: the entries have another root", ledger.ErrFork)}
	}
	book.Checkpoint = c
	return book, nil
}

// books emits what people and banks read.
func (b *builder) books(book *Book) error {
	if len(b.accounts) > 0 {
		text, err := formatAccounts(book, b.accounts)
		if err != nil {
			return err
		}
		if err := b.emit(fileAccounts, text); err != nil {
			return err
		}
	}
	for _, s := range book.Statements() {
		if s.empty() {
			continue
		}
		base := fmt.Sprintf("statements/%s/%d/%d", s.Currency, s.Period, s.Party)
		json, err := s.JSON()
		if err != nil {
			return err
		}
		if err := errors.Join(b.emit(base+".txt", s.Text()), b.emit(base+".csv", s.CSV()), b.emit(base+".json", json)); err != nil {
			return err
		}
	}
	if err := errors.Join(b.emit(fileHledger, book.Hledger()), b.emit(fileBeancount, book.Beancount())); err != nil {
		return err
	}
	files, err := book.Payments(b.accounts)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := b.emit("payments/"+f.Name, f.XML); err != nil {
			return err
		}
	}
	return nil
}

// manifest lists all files but itself with their SHA-256, sorted by path, in
// the form of sha256sum.
func (b *builder) manifest() []byte {
	paths := make([]string, 0, len(b.sums))
	for p := range b.sums {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	var out bytes.Buffer
	for _, p := range paths {
		fmt.Fprintf(&out, "%x  %s\n", b.sums[p], p)
	}
	return out.Bytes()
}

func (b *builder) report(book *Book, note []byte) (Report, error) {
	_, cosigners, err := b.policy.Open(note)
	if err != nil {
		return Report{}, err
	}
	r := Report{Origin: book.Origin, Network: book.State.Network(), Entries: book.Checkpoint.Size, Root: fmt.Sprintf("%x", book.Checkpoint.Root),
		LogTime: book.State.LogTime(), Cosigners: cosigners, Kinds: book.Kinds, Balances: map[string]string{}, Files: len(b.sums) + 1}
	r.After, r.Sealed = book.After.Origin, book.State.Sealed()
	for _, a := range book.accounts() {
		if v := book.State.Balance(a); v != 0 {
			r.Balances[strings.TrimSuffix(a.String(), fmt.Sprintf("#%d", a.Currency()))+" "+book.currency(a).Code()] = ledger.Amount(v)
		}
	}
	return r, nil
}

// accounts lists every account of the log in the order currency, owner, book.
func (b *Book) accounts() []ledger.Account {
	var out []ledger.Account
	for cur := range b.State.Currencies() {
		c := uint8(cur)
		out = append(out, ledger.EarnedAccount(c), ledger.NotesAccount(c), ledger.UnclaimedAccount(c))
		for _, p := range b.State.Parties() {
			out = append(out, ledger.OpenAccount(p.Party, c), ledger.DueAccount(p.Party, c))
		}
	}
	return slices.Clip(out)
}

func (b *Book) currency(a ledger.Account) ledger.Currency { return b.State.Currencies()[a.Currency()] }
