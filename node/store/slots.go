package store

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gridveil/ledger/durable"
)

const (
	headName   = "HEAD"
	slotSize   = 512
	slotStride = 4096 // one slot per 4 KiB sector: a torn sector can only hit one
	slotMagic  = "GVS1"
)

// head is the newest acknowledged commit.
type head struct {
	n    uint64
	hash [32]byte
	gen  uint16 // of the data keys at that time, so that lost ones are missed
}

// slots is the file of two alternating head slots. It lives beside Badger, not
// in it, because it has to tell when Badger lost its tail.
type slots struct {
	f   *os.File
	mac []byte // key of the checksum
}

// openSlots opens or creates the head file in dir; fresh says that it is empty,
// as before the first start or after a crash in it.
func openSlots(dir string, k MasterKey) (s *slots, fresh bool, err error) {
	f, err := os.OpenFile(filepath.Join(dir, headName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("open head slots: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, false, errors.Join(fmt.Errorf("open head slots: %w", err), f.Close())
	}
	if err := lock(f); err != nil {
		return nil, false, errors.Join(ErrInUse, f.Close())
	}
	return &slots{f: f, mac: k.derive("head")}, info.Size() == 0, nil
}

func (s *slots) close() error { return s.f.Close() }

// write puts h into its slot and returns when it is on disk.
func (s *slots) write(h head) error {
	if _, err := s.f.WriteAt(s.encode(h), int64(h.n%2)*slotStride); err != nil {
		return fmt.Errorf("write head slot: %w", err)
	}
	if err := durable.SyncData(s.f); err != nil {
		return fmt.Errorf("sync head slot: %w", err)
	}
	return nil
}

// encode is magic 4 | zero 2 | generation 2 | n 8 | hash 32 | HMAC-SHA-256 32 | zeros to 512.
func (s *slots) encode(h head) []byte {
	b := make([]byte, slotSize)
	copy(b, slotMagic)
	binary.BigEndian.PutUint16(b[6:], h.gen)
	binary.BigEndian.PutUint64(b[8:], h.n)
	copy(b[16:], h.hash[:])
	copy(b[48:], s.sum(b[:48]))
	return b
}

func (s *slots) sum(b []byte) []byte {
	m := hmac.New(sha256.New, s.mac)
	m.Write(b)
	return m.Sum(nil)
}

// read returns the newest readable head; ok is false when neither slot is.
func (s *slots) read() (h head, ok bool, err error) {
	for i := range int64(2) {
		b := make([]byte, slotSize)
		if _, err := s.f.ReadAt(b, i*slotStride); err != nil {
			if errors.Is(err, io.EOF) {
				continue
			}
			return head{}, false, fmt.Errorf("read head slots: %w", err)
		}
		got := head{n: binary.BigEndian.Uint64(b[8:]), hash: [32]byte(b[16:48]), gen: binary.BigEndian.Uint16(b[6:])}
		if bytes.Equal(b, s.encode(got)) && (!ok || got.n > h.n) {
			h, ok = got, true
		}
	}
	return h, ok, nil
}
