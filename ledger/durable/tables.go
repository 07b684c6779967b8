package durable

import (
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
	"google.golang.org/protobuf/proto"
)

// ErrFiles means that a file of a database is missing, cut or altered.
var ErrFiles = errors.New("database file is damaged")

// checkTables verifies manifest, key registry and every block of every table
// that the manifest names. A directory without tables passes.
func checkTables(o badger.Options) error {
	m, err := readManifest(o)
	if err != nil || len(m.Tables) == 0 {
		return err
	}
	keys, err := badger.OpenKeyRegistry(badger.KeyRegistryOptions{Dir: o.Dir, ReadOnly: true,
		EncryptionKey: o.EncryptionKey, EncryptionKeyRotationDuration: o.EncryptionKeyRotationDuration})
	if err != nil {
		return fmt.Errorf("%w: key registry: %w", ErrFiles, err)
	}
	defer keys.Close()
	indexes, err := ristretto.NewCache(&ristretto.Config[uint64, *fb.TableIndex]{NumCounters: 1000, MaxCost: 1 << 20, BufferItems: 64})
	if err != nil {
		return fmt.Errorf("cache of table indexes: %w", err)
	}
	defer indexes.Close()
	for id, t := range m.Tables {
		key, err := keys.DataKey(t.KeyID)
		if err == nil {
			err = checkTable(id, o.Dir, table.Options{ChkMode: options.OnTableRead, BlockSize: o.BlockSize, DataKey: key,
				Compression: t.Compression, IndexCache: indexes, BloomFalsePositive: o.BloomFalsePositive})
		}
		if err != nil {
			return fmt.Errorf("%w: table %d: %w", ErrFiles, id, err)
		}
	}
	return nil
}

// readManifest lists the tables. None is missing in a directory that is new; one
// that is missing beside tables would have them deleted.
func readManifest(o badger.Options) (m badger.Manifest, err error) {
	f, err := os.Open(filepath.Join(o.Dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		tables, listed := filepath.Glob(filepath.Join(o.Dir, "*.sst"))
		if listed == nil && len(tables) == 0 {
			return m, nil
		}
	}
	if err != nil {
		return m, fmt.Errorf("%w: manifest: %w", ErrFiles, err)
	}
	defer f.Close()
	if m, _, err = badger.ReplayManifestFile(f, o.ExternalMagicVersion, o); err != nil {
		return m, fmt.Errorf("%w: manifest: %w", ErrFiles, err)
	}
	return m, nil
}

// checkTable reads a table as Badger will, and every block of it.
func checkTable(id uint64, dir string, o table.Options) (err error) {
	raw, err := os.ReadFile(table.NewFilename(id, dir))
	if err != nil {
		return err
	}
	if err := checkFooter(raw); err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("a block or the index does not parse")
		}
	}()
	t, err := table.OpenInMemoryTable(raw, id, &o)
	if err != nil {
		return err
	}
	return t.VerifyChecksum()
}

// checkFooter verifies the part that Badger's reader trusts: index, index
// length 4, checksum, checksum length 4.
func checkFooter(raw []byte) error {
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
