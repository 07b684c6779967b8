package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"gridveil/ledger"
	"gridveil/ledger/durable"
)

const (
	headName   = "HEAD"
	slotMagic  = "GVS1"
	slotSize   = 512
	slotStride = 4096 // a torn 4 KiB sector can only hit one slot
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// slot is what one head slot says.
type slot struct {
	no     uint64 // the larger number is the newer slot
	head          // acknowledged: both copies must reach it
	seg    uint64 // where the journal ends
	end    int64
	signed signed // never sign below
	epoch  uint64 // how often the log was opened
}

// encode is "GVS1" crc32c no size root group segment end signed_size
// signed_root epoch, zeros to 512; the sum covers everything after it.
func (v *slot) encode() []byte {
	b := make([]byte, 0, slotSize)
	b = append(b, slotMagic...)                         // 0
	b = append(b, 0, 0, 0, 0)                           // 4 crc32c
	b = binary.BigEndian.AppendUint64(b, v.no)          // 8
	b = binary.BigEndian.AppendUint64(b, v.size)        // 16
	b = append(b, v.root[:]...)                         // 24
	b = binary.BigEndian.AppendUint64(b, v.group)       // 56
	b = binary.BigEndian.AppendUint64(b, v.seg)         // 64
	b = binary.BigEndian.AppendUint64(b, uint64(v.end)) // 72
	b = binary.BigEndian.AppendUint64(b, v.signed.size) // 80
	b = append(b, v.signed.root[:]...)                  // 88
	b = binary.BigEndian.AppendUint64(b, v.epoch)       // 120
	b = b[:slotSize]                                    // 128 zeros
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return b
}

// parseSlot reads exactly what encode writes.
func parseSlot(b []byte) (v slot, ok bool) {
	if len(b) != slotSize || string(b[:4]) != slotMagic ||
		binary.BigEndian.Uint32(b[4:]) != crc32.Checksum(b[8:], castagnoli) {
		return slot{}, false
	}
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	v = slot{no: u64(8), head: head{u64(16), ledger.Hash(b[24:56]), u64(56)}, seg: u64(64), end: int64(u64(72)),
		signed: signed{u64(80), ledger.Hash(b[88:120])}, epoch: u64(120)}
	return v, v.end >= 0 && v.signed.size <= v.size && string(v.encode()) == string(b)
}

// headFile holds two alternating slots beside Badger and the journal, because it
// has to tell when they lost their tails.
type headFile struct {
	f     *os.File
	last  slot
	alone bool // the other slot cannot be read: it may have been newer
}

// openHead opens the head file; fresh says that there is no log yet. It returns
// ErrDamaged if neither slot can be read.
func openHead(dir string) (h *headFile, fresh bool, err error) {
	path := filepath.Join(dir, headName)
	f, err := os.OpenFile(path, os.O_RDWR|dsync, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("open head file: %w", err)
	}
	h = &headFile{f: f}
	readable := 0
	for i := range 2 {
		b := make([]byte, slotSize)
		if _, err := f.ReadAt(b, int64(i)*slotStride); err != nil && !errors.Is(err, io.EOF) {
			return nil, false, errors.Join(fmt.Errorf("read head file: %w", err), f.Close())
		}
		if v, ok := parseSlot(b); ok && v.no%2 == uint64(i) {
			if readable++; readable == 1 || v.no > h.last.no {
				h.last = v
			}
		}
	}
	h.alone = readable == 1 && h.last.no > 0
	if readable == 0 {
		return nil, false, errors.Join(fmt.Errorf("%w: neither head slot can be read", ledger.ErrDamaged), f.Close())
	}
	return h, false, nil
}

// createHead makes the head file of an empty log: whole or not at all, so a log
// without a readable slot is damaged and never new.
func createHead(dir string) (*headFile, error) {
	v := slot{head: head{root: ledger.EmptyRoot()}, signed: signed{root: ledger.EmptyRoot()}}
	b := make([]byte, slotStride+slotSize)
	copy(b, v.encode())
	if err := durable.WriteFile(filepath.Join(dir, headName), b); err != nil {
		return nil, fmt.Errorf("create head file: %w", err)
	}
	h, _, err := openHead(dir)
	return h, err
}

// write puts v into the older slot and returns when it is on disk.
func (h *headFile) write(v slot) error {
	v.no = h.last.no + 1
	if _, err := h.f.WriteAt(v.encode(), int64(v.no%2)*slotStride); err != nil {
		return fmt.Errorf("write head slot: %w", err)
	}
	if dsync == 0 {
		if err := h.f.Sync(); err != nil {
			return fmt.Errorf("sync head slot: %w", err)
		}
	}
	h.last = v
	return nil
}

func (h *headFile) close() error { return h.f.Close() }

// LastSigned reads the newest signed size and root from the head file of a log
// that need not be whole, so that a repair does not fall below it.
func LastSigned(dir string) (size uint64, root ledger.Hash, err error) {
	h, fresh, err := openHead(dir)
	if err != nil {
		return 0, ledger.Hash{}, err
	}
	if fresh {
		return 0, ledger.Hash{}, fmt.Errorf("%w: there is no head file", ledger.ErrDamaged)
	}
	return h.last.signed.size, h.last.signed.root, h.close()
}
