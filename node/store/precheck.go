package store

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/dgraph-io/ristretto/v2/z"
	"google.golang.org/protobuf/proto"
)

// Badger trusts its own files: over a damaged table it panics in a goroutine,
// ends the process or goes on without the table; without its manifest it deletes
// every table; without its key registry it makes a new one. precheck looks
// first, so that damage is an error and nothing is deleted.
//
// The key registry is written once, when a store is created, and kept twice.

const registryCopy = "KEYS" // HMAC 32 || bytes of badger/KEYREGISTRY

var errFiles = errors.New("database file is damaged")

// precheck verifies every table that the manifest names. A directory without
// tables passes.
func precheck(dir string, o badger.Options, mac []byte) error {
	if err := restoreRegistry(dir, o.Dir, mac); err != nil {
		return err
	}
	tables, err := filepath.Glob(filepath.Join(o.Dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		return err
	}
	manifest, err := readManifest(o)
	if err != nil {
		return err
	}
	keys, err := badger.OpenKeyRegistry(badger.KeyRegistryOptions{Dir: o.Dir, ReadOnly: true,
		EncryptionKey: o.EncryptionKey, EncryptionKeyRotationDuration: o.EncryptionKeyRotationDuration})
	if err != nil {
		return fmt.Errorf("%w: key registry: %w", errFiles, err)
	}
	defer keys.Close()
	cache, err := ristretto.NewCache(&ristretto.Config[uint64, *fb.TableIndex]{NumCounters: 64, MaxCost: 1 << 20, BufferItems: 64})
	if err != nil {
		return err
	}
	defer cache.Close()
	for id, t := range manifest.Tables {
		key, err := keys.DataKey(t.KeyID)
		if err != nil {
			return fmt.Errorf("%w: table %d: %w", errFiles, id, err)
		}
		opt := table.Options{ReadOnly: true, ChkMode: options.OnTableAndBlockRead, BlockSize: o.BlockSize, DataKey: key,
			Compression: t.Compression, IndexCache: cache, BloomFalsePositive: o.BloomFalsePositive}
		if err := checkTable(table.NewFilename(id, o.Dir), opt); err != nil {
			return fmt.Errorf("%w: table %d: %w", errFiles, id, err)
		}
	}
	return nil
}

func readManifest(o badger.Options) (badger.Manifest, error) {
	f, err := os.Open(filepath.Join(o.Dir, badger.ManifestFilename))
	if err != nil {
		return badger.Manifest{}, fmt.Errorf("%w: manifest: %w", errFiles, err)
	}
	defer f.Close()
	m, _, err := badger.ReplayManifestFile(f, o.ExternalMagicVersion, o)
	if err != nil {
		return badger.Manifest{}, fmt.Errorf("%w: manifest: %w", errFiles, err)
	}
	return m, nil
}

// checkTable opens a table as Badger will and verifies every block.
func checkTable(path string, opt table.Options) (err error) {
	if err := checkFooter(path); err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("index does not parse")
		}
	}()
	f, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	t, err := table.OpenTable(f, opt)
	if err != nil {
		return err
	}
	return t.Close(-1)
}

// checkFooter verifies the part that Badger's reader trusts: index, index
// length 4, checksum, checksum length 4.
func checkFooter(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	sum, rest, err := cutTail(raw)
	if err != nil {
		return err
	}
	var want pb.Checksum
	if err := proto.Unmarshal(sum, &want); err != nil {
		return fmt.Errorf("checksum: %w", err)
	}
	index, _, err := cutTail(rest)
	if err != nil {
		return err
	}
	if len(index) == 0 {
		return errors.New("no index")
	}
	return y.VerifyChecksum(index, &want)
}

// cutTail splits a big-endian length and as many bytes before it off the end.
func cutTail(b []byte) (tail, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, errors.New("file too short")
	}
	n, b := int(binary.BigEndian.Uint32(b[len(b)-4:])), b[:len(b)-4]
	if n > len(b) {
		return nil, nil, errors.New("length beyond the file")
	}
	return b[len(b)-n:], b[:len(b)-n], nil
}

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
	if err := writeDurable(path, kept[32:]); err != nil {
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
	return writeDurable(path, want)
}

func registrySum(mac, raw []byte) []byte {
	m := hmac.New(sha256.New, mac)
	m.Write([]byte("key registry\x00"))
	m.Write(raw)
	return m.Sum(nil)
}

// writeDurable replaces a small file so that a crash leaves the old or the new one.
func writeDurable(path string, raw []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return errors.Join(os.Rename(tmp, path), syncDir(filepath.Dir(path)))
}
