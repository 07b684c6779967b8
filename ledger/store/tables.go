package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2"
)

// checkTables reads every table of a Badger directory and verifies its
// checksums, as Badger does when it opens them. Badger does so in goroutines of
// its own, where a damaged table is a panic that nobody can recover from; here it
// is an error, or a panic for openBadger to catch.
func checkTables(o badger.Options) error {
	m, err := manifest(o)
	if err != nil || len(m.Tables) == 0 {
		return err
	}
	keys, err := badger.OpenKeyRegistry(badger.KeyRegistryOptions{Dir: o.Dir, ReadOnly: true, EncryptionKey: o.EncryptionKey,
		EncryptionKeyRotationDuration: o.EncryptionKeyRotationDuration})
	if err != nil {
		return fmt.Errorf("key registry: %w", err)
	}
	indexes, err := ristretto.NewCache(&ristretto.Config[uint64, *fb.TableIndex]{NumCounters: 1000, MaxCost: 1 << 20, BufferItems: 64})
	if err != nil {
		return fmt.Errorf("cache of table indexes: %w", err)
	}
	defer indexes.Close()
	for id, entry := range m.Tables {
		key, err := keys.DataKey(entry.KeyID)
		if err != nil {
			return fmt.Errorf("key of table %d: %w", id, err)
		}
		b, err := os.ReadFile(table.NewFilename(id, o.Dir))
		if err != nil {
			return fmt.Errorf("read table: %w", err)
		}
		t, err := table.OpenInMemoryTable(b, id, &table.Options{ChkMode: options.OnTableRead, Compression: entry.Compression,
			DataKey: key, IndexCache: indexes})
		if err == nil {
			err = t.VerifyChecksum()
		}
		if err != nil {
			return fmt.Errorf("table %d: %w", id, err)
		}
	}
	return nil
}

// manifest lists the tables; there are none in a directory that is new.
func manifest(o badger.Options) (m badger.Manifest, err error) {
	f, err := os.Open(filepath.Join(o.Dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("open manifest: %w", err)
	}
	m, _, err = badger.ReplayManifestFile(f, o.ExternalMagicVersion, o)
	if err != nil {
		err = fmt.Errorf("manifest: %w", err)
	}
	return m, errors.Join(err, f.Close())
}
