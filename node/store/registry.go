package store

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"

	"gridveil/ledger/durable"
)

// Badger's key registry is written once, when a store is created. Without it no
// value can be read, so it is kept twice.

const registryCopy = "KEYS" // HMAC 32 || bytes of badger/KEYREGISTRY

// restoreRegistry puts the key registry back from its copy if it is missing or
// does not begin with it.
func restoreRegistry(dir, badgerDir string, mac []byte) error {
	kept, err := os.ReadFile(filepath.Join(dir, registryCopy))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // before the first start, or the copy is lost: then Badger's own must do
	}
	if err != nil {
		return err
	}
	if len(kept) < 32 || !hmac.Equal(kept[:32], registrySum(mac, kept[32:])) {
		return nil // the copy is what is damaged
	}
	path := filepath.Join(badgerDir, badger.KeyRegistryFileName)
	have, err := os.ReadFile(path)
	if err == nil && bytes.HasPrefix(have, kept[32:]) { // keys are only ever appended
		return nil
	}
	if err := os.MkdirAll(badgerDir, 0o700); err != nil {
		return err
	}
	if err := durable.WriteFile(path, kept[32:]); err != nil {
		return fmt.Errorf("restore key registry: %w", err)
	}
	return nil
}

// keepRegistry writes the copy when there is none or an old one.
func keepRegistry(dir, badgerDir string, mac []byte) error {
	raw, err := os.ReadFile(filepath.Join(badgerDir, badger.KeyRegistryFileName))
	if err != nil {
		return fmt.Errorf("read key registry: %w", err)
	}
	want := append(registrySum(mac, raw), raw...)
	path := filepath.Join(dir, registryCopy)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return nil
	}
	return durable.WriteFile(path, want)
}

func registrySum(mac, raw []byte) []byte {
	m := hmac.New(sha256.New, mac)
	m.Write([]byte("key registry\x00"))
	m.Write(raw)
	return m.Sum(nil)
}
