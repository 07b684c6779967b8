package export

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"gridveil/ledger"
	"gridveil/ledger/internal/tile"
)

// Names in a backup, beside the export of the final part.
const (
	backupArchive = "archive"
	backupTail    = "tail"
	backupHead    = "head.json"
	maxTail       = 64 << 20
)

// BackupHead says what a backup holds.
type BackupHead struct {
	Origin string `json:"origin"`
	Final  uint64 `json:"final"` // entries under the quorum's checkpoint, in the archive
	Size   uint64 `json:"size"`  // all entries, the last ones accepted but not final
	Root   string `json:"root"`  // of all, hex
}

// ErrBackup says that a backup is not whole or not what its head says.
var ErrBackup = errors.New("the backup is damaged")

// Backup writes a log as it is now into dir, which must be new or empty: the
// export of its final part, the entries behind that (tail), and a head that says
// which root they replay to. src and tail must not change meanwhile; entries of a
// log never do.
func Backup(dir string, src Source, tail [][]byte, cfg Config) (BackupHead, error) {
	if list, err := os.ReadDir(dir); err == nil && len(list) > 0 {
		return BackupHead{}, fmt.Errorf("%s is not empty: choose a new directory for each backup", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return BackupHead{}, err
	}
	if _, err := Archive(filepath.Join(dir, backupArchive), src, cfg); err != nil {
		return BackupHead{}, err
	}
	var frames []byte
	for _, raw := range tail {
		frames = ledger.AppendBundle(frames, raw)
	}
	if len(frames) > maxTail {
		return BackupHead{}, fmt.Errorf("%d bytes of entries wait to become final, a backup takes %d: see why the quorum is missing", len(frames), maxTail)
	}
	if err := os.WriteFile(filepath.Join(dir, backupTail), frames, 0o600); err != nil {
		return BackupHead{}, err
	}
	head, err := replayBackup(dir)
	if err != nil {
		return head, err
	}
	b, err := json.MarshalIndent(head, "", "  ")
	if err != nil {
		return head, err
	}
	return head, os.WriteFile(filepath.Join(dir, backupHead), append(b, '\n'), 0o600)
}

// CheckBackup proves that a backup replays to the root of its head: everything in
// the archive is verified as by Verify, then every entry behind it. A nil policy
// means that of the archive. It returns ErrBackup or what Verify returns.
func CheckBackup(dir string, policy *ledger.Policy) (BackupHead, error) {
	b, err := os.ReadFile(filepath.Join(dir, backupHead))
	if err != nil {
		return BackupHead{}, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	var want BackupHead
	if err := json.Unmarshal(b, &want); err != nil {
		return BackupHead{}, fmt.Errorf("%w: %s: %w", ErrBackup, backupHead, err)
	}
	if _, err := Verify(filepath.Join(dir, backupArchive), policy); err != nil {
		return BackupHead{}, err
	}
	got, err := replayBackup(dir)
	if err != nil {
		return got, err
	}
	if got != want {
		return got, fmt.Errorf("%w: it replays to %d entries with root %s, its head says %d with %s", ErrBackup, got.Size, got.Root, want.Size, want.Root)
	}
	return got, nil
}

// replayBackup applies archive and tail to an empty ledger.
func replayBackup(dir string) (BackupHead, error) {
	d := Dir(filepath.Join(dir, backupArchive))
	note, err := d.Checkpoint()
	if err != nil {
		return BackupHead{}, err
	}
	policy, err := d.Policy()
	if err != nil {
		return BackupHead{}, err
	}
	c, err := policy.OpenFinal(note)
	if err != nil {
		return BackupHead{}, &FileError{fileCheckpoint, err}
	}
	book, edge, err := replay(d, c.Origin, c.Size, follower{})
	if err != nil {
		return BackupHead{}, err
	}
	if edge.Root() != c.Root {
		return BackupHead{}, fmt.Errorf("%w: entries have another root than the checkpoint of size %d", ledger.ErrFork, c.Size)
	}
	st, err := os.Stat(filepath.Join(dir, backupTail))
	if err != nil || st.Size() > maxTail {
		return BackupHead{}, fmt.Errorf("%w: its tail is missing or too large", ErrBackup)
	}
	frames, err := os.ReadFile(filepath.Join(dir, backupTail))
	if err != nil {
		return BackupHead{}, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	tail, err := ledger.ParseBundle(frames, maxTail)
	if err != nil {
		return BackupHead{}, fmt.Errorf("%w: %s: %w", ErrBackup, backupTail, err)
	}
	if err := book.apply(tail); err != nil {
		return BackupHead{}, err
	}
	for _, raw := range tail {
		edge.Append(ledger.LeafHash(raw), func(tile.Tile, []byte) {})
	}
	return BackupHead{Origin: c.Origin, Final: c.Size, Size: c.Size + uint64(len(tail)), Root: fmt.Sprintf("%x", edge.Root())}, nil
}
