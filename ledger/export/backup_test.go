package export

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
)

// TestABackupReplaysToTheSameRoot takes a backup whose last entries are not
// final, then changes each of its parts.
func TestABackupReplaysToTheSameRoot(t *testing.T) {
	s := scene.New(t, 3).Begin()
	s.Transfers(40)
	const final = 30
	src := memory{s.Log, s.Checkpoint(final, rootOf(s.Log[:final]), "uta", "utb")}
	dir := filepath.Join(t.TempDir(), "backup")
	head, err := Backup(dir, src, s.Log[final:], Config{Policy: s.Policy()})
	if err != nil {
		t.Fatal(err)
	}
	root := rootOf(s.Log)
	if head.Size != uint64(len(s.Log)) || head.Final != final || head.Root != hex.EncodeToString(root[:]) {
		t.Errorf("got %+v, want %d entries of root %x", head, len(s.Log), root)
	}
	if got, err := CheckBackup(dir, s.Policy()); err != nil || got != head {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := Backup(dir, src, nil, Config{Policy: s.Policy()}); err == nil {
		t.Error("a backup was written over another")
	}
	change := func(name string, edit func(b []byte) []byte) error {
		t.Helper()
		file := filepath.Join(dir, filepath.FromSlash(name))
		old, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, edit(bytes.Clone(old)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, failed := CheckBackup(dir, s.Policy())
		if err := os.WriteFile(file, old, 0o600); err != nil {
			t.Fatal(err)
		}
		return failed
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	for name, edit := range map[string]func(b []byte) []byte{
		"archive/checkpoint": flip, "archive/manifest": flip, "tail": flip, "head.json": flip,
	} {
		if err := change(name, edit); err == nil {
			t.Errorf("a changed bit in %s went unnoticed", name)
		}
	}
	lost := func(b []byte) []byte { return b[:2+int(b[0])<<8+int(b[1])] }
	if err := change("tail", lost); !errors.Is(err, ErrBackup) {
		t.Errorf("lost entries behind the final ones: got %v, want %v", err, ErrBackup)
	}
	var entry *EntryError
	swap := func(b []byte) []byte {
		list, err := ledger.ParseBundle(b, maxTail)
		if err != nil {
			t.Fatal(err)
		}
		list[0], list[1] = list[1], list[0]
		var out []byte
		for _, raw := range list {
			out = ledger.AppendBundle(out, raw)
		}
		return out
	}
	if err := change("tail", swap); err == nil || !errors.As(err, &entry) && !errors.Is(err, ErrBackup) {
		t.Errorf("exchanged entries: got %v", err)
	}
}
