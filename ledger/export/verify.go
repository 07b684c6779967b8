package export

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gridveil/ledger"
	"gridveil/ledger/internal/tile"
)

// Limits of files that are read whole before they are judged.
const (
	maxBundle   = tile.Width * (2 + ledger.MaxEntry)
	maxAccounts = 1 << 20
	maxCarried  = 4 << 30 // 40 bytes for each of the notes and sessions that may still be shown again
)

// FileError names the file of an export that is wrong.
type FileError struct {
	Path string // relative to the export, with slashes
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("%s: %v", e.Path, e.Err) }

// Unwrap gives the cause.
func (e *FileError) Unwrap() error { return e.Err }

// Reasons why a file of an export is refused.
var (
	ErrDiffers    = errors.New("file differs from what the log gives")
	ErrMissing    = errors.New("file is missing")
	ErrUnexpected = errors.New("file does not belong to the export")
)

// Verify judges the export in dir by its files alone: every entry, signature,
// note, commitment, rule, state hash, netting, tile and cosignature, and every
// derived file by recomputing it. A missing, changed or additional file is an
// error. It returns an *EntryError or a *FileError that names the culprit.
//
// policy says which log and witnesses the caller trusts; nil takes the policy
// inside the export, which then vouches for itself only: Report.Trusted is
// false.
func Verify(dir string, policy *ledger.Policy) (Report, error) {
	r, _, err := verify(dir, policy)
	return r, err
}

// VerifyShards judges exports of logs of which each goes on where the one before
// was sealed: each as Verify does, and that the next begins with the final
// checkpoint of the one before, cosigned by the quorum, and with exactly what its
// state carries over. policy is that of the first log; the others have the same
// key and witnesses. It returns the reports so far, and a *ShardError.
func VerifyShards(dirs []string, policy *ledger.Policy) (out []Report, err error) {
	var before *Book
	for i, dir := range dirs {
		own := policy
		if i > 0 && before.State.Sealed() == "" {
			return out, &ShardError{dirs[i-1], fmt.Errorf("%w: the log is not sealed, so nothing goes on from it", ledger.ErrKind)}
		}
		if i > 0 && policy != nil {
			own = policy.As(before.State.Sealed())
		}
		r, book, err := verify(dir, own)
		if err == nil && i > 0 {
			err = follows(before, book, policyBefore(out[i-1].Origin, dirs[i-1], policy))
		}
		if err != nil {
			return out, &ShardError{dir, err}
		}
		out, before = append(out, r), book
	}
	return out, nil
}

// Carry verifies the export of a sealed log and gives its origin and what it
// carries over. policy is that of the log that goes on, or of any of them.
func Carry(dir string, policy *ledger.Policy) (origin string, carried []byte, err error) {
	own, err := Dir(dir).Policy()
	if err != nil {
		return "", nil, err
	}
	origin = own.Log.Name()
	_, book, err := verify(dir, policy.As(origin))
	if err != nil {
		return "", nil, err
	}
	if carried, err = book.State.Carry(); err != nil {
		return "", nil, err
	}
	return origin, carried, nil
}

// ShardError names the export that is wrong.
type ShardError struct {
	Dir string
	Err error
}

func (e *ShardError) Error() string { return fmt.Sprintf("%s: %v", e.Dir, e.Err) }

// Unwrap gives the cause.
func (e *ShardError) Unwrap() error { return e.Err }

// policyBefore is the policy under which a sealed log's checkpoint must be
// final.
func policyBefore(origin, dir string, policy *ledger.Policy) func() (*ledger.Policy, error) {
	return func() (*ledger.Policy, error) {
		if policy == nil {
			return Dir(dir).Policy()
		}
		return policy.As(origin), nil
	}
}

// follows checks that next begins where before ended.
func follows(before, next *Book, policy func() (*ledger.Policy, error)) error {
	if before.State.Sealed() != next.Origin {
		return &EntryError{0, fmt.Errorf("%w: the log before is sealed in favour of %q, not %q", ledger.ErrState, before.State.Sealed(), next.Origin)}
	}
	p, err := policy()
	if err != nil {
		return err
	}
	c, err := p.OpenFinal(next.sealed)
	if err == nil && c != before.Checkpoint {
		err = fmt.Errorf("%w: it begins after entry %d with root %x, the log before ended at %d with %x", ledger.ErrState, c.Size, c.Root[:6], before.Checkpoint.Size, before.Checkpoint.Root[:6])
	}
	if err != nil {
		return &EntryError{0, err}
	}
	carried, err := before.State.Carry()
	if err != nil {
		return &EntryError{0, err}
	}
	if sum := sha256.Sum256(carried); sum != next.carried {
		return &EntryError{0, fmt.Errorf("%w: it carries %x over, the log before ends with %x", ledger.ErrState, next.carried[:6], sum[:6])}
	}
	return nil
}

func verify(dir string, policy *ledger.Policy) (Report, *Book, error) {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real // a walk of a folder does not follow a link to it
	}
	d := Dir(dir)
	own, err := d.Policy()
	if err != nil {
		return Report{}, nil, err
	}
	checkpoint, err := d.Checkpoint()
	if err != nil {
		return Report{}, nil, err
	}
	accounts, err := d.accounts()
	if err != nil {
		return Report{}, nil, err
	}
	b := &builder{policy: own, accounts: accounts, put: d.compare}
	report, err := b.build(d, checkpoint)
	if err != nil {
		return Report{}, nil, d.blame(err)
	}
	if err := d.onlyThese(b.sums); err != nil {
		return Report{}, nil, err
	}
	if policy != nil {
		if report.Cosigners, err = trusted(policy, checkpoint); err != nil {
			return Report{}, nil, &FileError{fileCheckpoint, err}
		}
		report.Trusted = true
	}
	return report, b.book, nil
}

// trusted opens the checkpoint under the caller's policy.
func trusted(policy *ledger.Policy, checkpoint []byte) ([]string, error) {
	if _, err := policy.OpenFinal(checkpoint); err != nil {
		return nil, err
	}
	_, cosigners, err := policy.Open(checkpoint)
	return cosigners, err
}

// Dir is an export on disk; it is a Source.
type Dir string

// Policy reads the policy that came with the export.
func (d Dir) Policy() (*ledger.Policy, error) {
	text, err := d.read(filePolicy, ledger.MaxCheckpoint)
	if err != nil {
		return nil, err
	}
	p, err := ledger.ParsePolicy(text)
	if err != nil {
		return nil, &FileError{filePolicy, err}
	}
	return p, nil
}

// Checkpoint implements Source.
func (d Dir) Checkpoint() ([]byte, error) { return d.read(fileCheckpoint, ledger.MaxCheckpoint) }

// Bundle implements Source.
func (d Dir) Bundle(n uint64, width int) ([]byte, error) {
	return d.read(tile.Tile{L: tile.Entries, N: n, W: width}.Path(), maxBundle)
}

// Carried implements Heir.
func (d Dir) Carried() ([]byte, error) { return d.read(fileCarried, maxCarried) }

func (d Dir) accounts() ([]BankAccount, error) {
	text, err := d.read(fileAccounts, maxAccounts)
	if errors.Is(err, ErrMissing) {
		return nil, nil // an export without payment files
	}
	if err != nil {
		return nil, err
	}
	list, err := parseAccounts(text)
	if err != nil {
		return nil, &FileError{fileAccounts, err}
	}
	return list, nil
}

// read gives a file of at most limit bytes.
func (d Dir) read(path string, limit int64) ([]byte, error) {
	name := filepath.Join(string(d), filepath.FromSlash(path))
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &FileError{path, ErrMissing}
	case err != nil:
		return nil, &FileError{path, err}
	case !info.Mode().IsRegular():
		return nil, &FileError{path, ErrUnexpected}
	case info.Size() > limit:
		return nil, &FileError{path, fmt.Errorf("%w: %d bytes, the most is %d", ErrDiffers, info.Size(), limit)}
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, &FileError{path, err}
	}
	return data, nil
}

// compare is the put of a builder that verifies.
func (d Dir) compare(path string, want []byte) error {
	got, err := d.read(path, int64(len(want)))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		i := 0
		for i < len(got) && got[i] == want[i] {
			i++
		}
		return &FileError{path, fmt.Errorf("%w from byte %d on", ErrDiffers, i)}
	}
	return nil
}

// onlyThese refuses files that the log does not give.
func (d Dir) onlyThese(known map[string][32]byte) error {
	return filepath.WalkDir(string(d), func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(string(d), name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if _, ok := known[rel]; (!ok && rel != fileManifest) || !e.Type().IsRegular() {
			return &FileError{rel, ErrUnexpected}
		}
		return nil
	})
}

// blame turns a finding about a tile or root into one about an entry, if an
// entry is not the one that its tile was made of: tiles are what the checkpoint
// was signed over, so the entry was exchanged.
func (d Dir) blame(err error) error {
	var file *FileError
	if !errors.As(err, &file) {
		return err
	}
	t, parseErr := tile.Parse(file.Path)
	if parseErr != nil || t.L != 0 {
		return err
	}
	hashes, readErr := d.read(file.Path, tile.Size)
	bundle, bundleErr := d.Bundle(t.N, t.W)
	if readErr != nil || bundleErr != nil {
		return err
	}
	entries, bundleErr := ledger.ParseBundle(bundle, t.W)
	if bundleErr != nil {
		return err
	}
	for i, raw := range entries {
		leaf := ledger.LeafHash(raw)
		if (i+1)*32 > len(hashes) || !bytes.Equal(leaf[:], hashes[i*32:(i+1)*32]) {
			return fmt.Errorf("entry %d is not the one of its tile: %w", t.N*tile.Width+uint64(i), err)
		}
	}
	return err
}

// Prove takes the proof of one entry out of an export: that it stands at index
// under the export's checkpoint.
func Prove(dir string, index uint64) (*ledger.Proof, error) {
	d := Dir(dir)
	policy, err := d.Policy()
	if err != nil {
		return nil, err
	}
	note, err := d.Checkpoint()
	if err != nil {
		return nil, err
	}
	c, err := policy.OpenFinal(note)
	if err != nil {
		return nil, &FileError{fileCheckpoint, err}
	}
	if index >= c.Size {
		return nil, &BeyondError{Origin: c.Origin, Index: index, Size: c.Size}
	}
	hashes, err := ledger.ProveInclusion(c.Size, index, tile.Reader(c.Size, c.Root, func(t tile.Tile) ([]byte, error) {
		return d.read(t.Path(), tile.Size)
	}))
	if err != nil {
		return nil, err
	}
	return &ledger.Proof{Index: index, Hashes: hashes, Checkpoint: note}, nil
}

// BeyondError says that an export is shorter than was asked.
type BeyondError struct {
	Origin string
	Index  uint64
	Size   uint64 // entries of the export
}

func (e *BeyondError) Error() string {
	if e.Size == 0 {
		return fmt.Sprintf("the export of %s has no entries", e.Origin)
	}
	return fmt.Sprintf("entry %d is not in the export of %s, which has %d entries, numbers 0 to %d\nnext: make a newer export with `gridveil ledger export`; after a seal, entries of the next log are in its own export and count from 0 there",
		e.Index, e.Origin, e.Size, e.Size-1)
}

// Unwrap gives ErrMissing.
func (e *BeyondError) Unwrap() error { return ErrMissing }

// Entry reads one entry of an export. It returns a BeyondError.
func (d Dir) Entry(index uint64) ([]byte, error) {
	policy, err := d.Policy()
	if err != nil {
		return nil, err
	}
	note, err := d.Checkpoint()
	if err != nil {
		return nil, err
	}
	c, _, err := policy.Open(note)
	if err != nil {
		return nil, &FileError{fileCheckpoint, err}
	}
	if index >= c.Size {
		return nil, &BeyondError{Origin: c.Origin, Index: index, Size: c.Size}
	}
	n := index / tile.Width
	data, err := d.Bundle(n, int(min(c.Size-n*tile.Width, tile.Width)))
	if err != nil {
		return nil, err
	}
	list, err := ledger.ParseBundle(data, tile.Width)
	if err != nil {
		return nil, err
	}
	if i := int(index % tile.Width); i < len(list) {
		return list[i], nil
	}
	return nil, &EntryError{index, ErrMissing}
}

// OpenBook replays an export, for statements and pages that read it.
func OpenBook(dir string) (*Book, error) {
	d := Dir(dir)
	policy, err := d.Policy()
	if err != nil {
		return nil, err
	}
	note, err := d.Checkpoint()
	if err != nil {
		return nil, err
	}
	c, err := policy.OpenFinal(note)
	if err != nil {
		return nil, &FileError{fileCheckpoint, err}
	}
	return Replay(d, c)
}
