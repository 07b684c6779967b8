package store

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"gridveil/ledger/durable"
)

// MasterKey opens one node's store. It prints as "[redacted]" everywhere.
type MasterKey [32]byte

// String hides the key.
func (MasterKey) String() string { return "[redacted]" }

// GoString hides the key from %#v.
func (MasterKey) GoString() string { return "store.MasterKey{[redacted]}" }

// LogValue hides the key from slog.
func (MasterKey) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// NewKey draws a key from rnd.
func NewKey(rnd io.Reader) (MasterKey, error) {
	var k MasterKey
	if _, err := io.ReadFull(rnd, k[:]); err != nil {
		return MasterKey{}, fmt.Errorf("draw master key: %w", err)
	}
	return k, nil
}

// LoadOrCreateKey reads the key file at path, or creates it with mode 0600
// when it does not exist. The file holds 64 hexadecimal digits and a line end.
// It returns ErrKeyFile when others may read the file or its text is no key.
func LoadOrCreateKey(path string) (MasterKey, error) {
	k, err := LoadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if k, err = NewKey(rand.Reader); err != nil {
		return MasterKey{}, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return MasterKey{}, fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	if err := writeKey(path, k); err != nil {
		return MasterKey{}, fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	return k, nil
}

// writeKey never replaces a key: whoever overwrites one has lost the store.
func writeKey(path string, k MasterKey) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, hex.EncodeToString(k[:]))
	err = errors.Join(err, f.Sync(), f.Close())
	return errors.Join(err, durable.SyncDir(filepath.Dir(path)))
}

// LoadKey reads an existing key file.
func LoadKey(path string) (MasterKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return MasterKey{}, fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return MasterKey{}, fmt.Errorf("%w: others can read %s (mode %04o); run chmod 600 on it", ErrKeyFile, path, mode)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return MasterKey{}, fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) != len(MasterKey{}) {
		return MasterKey{}, fmt.Errorf("%w: %s does not hold 64 hexadecimal digits; restore it from the backup", ErrKeyFile, path)
	}
	return MasterKey(raw), nil
}

// derive gives the key of one purpose; purposes never share bytes.
func (k MasterKey) derive(purpose string) []byte {
	out, err := hkdf.Key(sha256.New, k[:], nil, "gridveil/store/v1/"+purpose, 32)
	if err != nil {
		panic("store: hkdf refused constant parameters: " + err.Error())
	}
	return out
}
