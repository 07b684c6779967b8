package cluster

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"gridveil/ledger"
)

const segmentBytes = 16 << 20 // of the raft log: some groups of the largest size

// disk is the raft log of a member. With a key the data of its entries is sealed,
// as the store's is. raft-wal takes a codec for this, but writes the name of its
// own into new segments and does not open them again.
type disk struct {
	*wal.WAL
	aead cipher.AEAD // nil: not sealed
}

// openDisk opens or creates the raft log below dir.
func openDisk(dir string, key []byte, log hclog.Logger) (*disk, error) {
	dir = filepath.Join(dir, "log")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create directory of the raft log: %w", err)
	}
	d := &disk{}
	if key != nil {
		sub, err := hkdf.Key(sha256.New, key, nil, "gridveil/ledger/cluster/v1 log", 32)
		if err != nil {
			return nil, err
		}
		block, err := aes.NewCipher(sub)
		if err != nil {
			return nil, err
		}
		if d.aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
			return nil, err
		}
	}
	var err error
	if d.WAL, err = wal.Open(dir, wal.WithSegmentSize(segmentBytes), wal.WithLogger(log)); err != nil {
		return nil, fmt.Errorf("open the raft log: %w", err)
	}
	return d, nil
}

// place ties sealed data to where it stands.
func place(l *raft.Log) []byte {
	b := binary.BigEndian.AppendUint64(nil, l.Index)
	b = binary.BigEndian.AppendUint64(b, l.Term)
	return append(b, byte(l.Type))
}

// StoreLog implements raft.LogStore.
func (d *disk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (d *disk) StoreLogs(list []*raft.Log) error {
	if d.aead == nil {
		return d.WAL.StoreLogs(list)
	}
	sealed := make([]*raft.Log, len(list))
	for i, l := range list {
		c := *l // raft goes on using l
		c.Data = d.aead.Seal(nil, nil, l.Data, place(l))
		sealed[i] = &c
	}
	return d.WAL.StoreLogs(sealed)
}

// GetLog implements raft.LogStore. It returns ErrDamaged for data that was
// altered or sealed with another key.
func (d *disk) GetLog(index uint64, l *raft.Log) error {
	if err := d.WAL.GetLog(index, l); err != nil || d.aead == nil {
		return err
	}
	data, err := d.aead.Open(nil, nil, l.Data, place(l))
	if err != nil {
		return fmt.Errorf("%w: entry %d of the raft log", ledger.ErrDamaged, index)
	}
	l.Data = data
	return nil
}
