package storetest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"gridveil/ledger/durable"
	"gridveil/node/store"
)

// Thief reads what somebody can who has a copy of a store's directory, its master
// key, and the key files of the same store from another directory: it tries every
// key there, and the one that follows from the master key, on every version of every
// value that lies in the database. It knows the layouts from doc/wire.md alone. blobs
// is how many sealed values there are.
func Thief(tb testing.TB, dir, keysOf string, master store.MasterKey) (values [][]byte, blobs int) {
	tb.Helper()
	sub := func(purpose string) []byte {
		k, err := hkdf.Key(sha256.New, master[:], nil, "gridveil/store/v1/"+purpose, 32)
		if err != nil {
			tb.Fatal(err)
		}
		return k
	}
	keys := []cipher.AEAD{gcm(tb, sub("value"))}
	wrap := gcm(tb, sub("data keys"))
	for _, name := range []string{"data.keys", "data.keys.2"} {
		b, err := os.ReadFile(filepath.Join(keysOf, name))
		if err != nil {
			tb.Fatal(err)
		}
		for ; len(b) >= 512; b = b[min(4096, len(b)):] {
			if key, err := wrap.Open(nil, b[16:28], b[28:76], b[:16]); err == nil {
				keys = append(keys, gcm(tb, key))
			}
		}
	}
	own := filepath.Join(tb.TempDir(), "stolen")
	if err := os.CopyFS(own, os.DirFS(filepath.Join(dir, "badger"))); err != nil {
		tb.Fatal(err)
	}
	db, err := durable.Open(durable.Options(own, sub("badger"), 2<<20, 128<<10+36, nil).WithEncryptionKeyRotationDuration(time.Since(time.Unix(0, 0))))
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{AllVersions: true})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			name := it.Item().KeyCopy(nil)
			sealed, err := it.Item().ValueCopy(nil)
			if err != nil || len(sealed) < 36 || bytes.HasPrefix(name, []byte("!")) {
				continue
			}
			blobs++
			under := binary.BigEndian.AppendUint64(name, binary.BigEndian.Uint64(sealed))
			for _, k := range keys {
				if v, err := k.Open(nil, sealed[8:20], sealed[20:], under); err == nil {
					values = append(values, v)
				}
			}
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return values, blobs
}

func gcm(tb testing.TB, key []byte) cipher.AEAD {
	tb.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		tb.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		tb.Fatal(err)
	}
	return aead
}
