package store

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gridveil/ledger"
	"gridveil/ledger/durable"
)

const (
	journalDir    = "journal"
	journalSuffix = ".gvj"
	journalMagic  = "GVJ1"
	sealedMagic   = "GVJ2" // payload is nonce || AES-256-GCM
	journalHead   = 24     // magic, length, first, count, crc32c
	maxRecord     = maxGroupBytes + 2*MaxGroup + 32 + 64
)

// record is one group in the journal.
type record struct {
	first   uint64
	entries [][]byte
	root    ledger.Hash // after the group
}

func (r *record) next() uint64 { return r.first + uint64(len(r.entries)) }

// place is where a record stands.
type place struct {
	first, next uint64
	seg         uint64
	at, end     int64
}

// journal is the second copy of the newest groups: files that only grow.
type journal struct {
	dir      string
	aead     cipher.AEAD // nil: not encrypted
	segBytes int64
	keep     int64 // bytes before the end that are never deleted
	foreign  bool  // a whole record did not open: it was sealed with another key

	f    *os.File
	seg  uint64
	end  int64
	used []segmentUse // closed segments, oldest first
}

type segmentUse struct {
	no    uint64
	bytes int64
}

// openJournal prepares the journal; scan or begin must follow.
func openJournal(dir string, key []byte, segBytes, keep int64) (*journal, error) {
	j := &journal{dir: filepath.Join(dir, journalDir), segBytes: segBytes, keep: keep}
	if key != nil {
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		if j.aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
			return nil, err
		}
	}
	return j, makeDir(j.dir)
}

func (j *journal) path(seg uint64) string {
	return filepath.Join(j.dir, fmt.Sprintf("%016x%s", seg, journalSuffix))
}

// segments lists the files by number.
func (j *journal) segments() ([]uint64, error) {
	names, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fmt.Errorf("list journal: %w", err)
	}
	var out []uint64
	for _, n := range names {
		hex, ok := strings.CutSuffix(n.Name(), journalSuffix)
		if seg, err := strconv.ParseUint(hex, 16, 64); ok && err == nil {
			out = append(out, seg)
		}
	}
	slices.Sort(out)
	return out, nil
}

// scan lists the readable records in order. In each segment it stops at the
// first one that is cut or altered.
func (j *journal) scan() ([]place, error) {
	segs, err := j.segments()
	if err != nil {
		return nil, err
	}
	var out []place
	for _, seg := range segs {
		f, err := os.Open(j.path(seg))
		if err != nil {
			return nil, fmt.Errorf("open journal: %w", err)
		}
		r := bufio.NewReaderSize(f, 1<<20)
		for at := int64(0); ; {
			rec, n, err := j.parse(r)
			if err != nil {
				break
			}
			out = append(out, place{rec.first, rec.next(), seg, at, at + n})
			at += n
		}
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("close journal: %w", err)
		}
	}
	return out, nil
}

// read reads the record at a place.
func (j *journal) read(p place) (*record, error) {
	f, err := os.Open(j.path(p.seg))
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	rec, _, err := j.parse(io.NewSectionReader(f, p.at, p.end-p.at))
	return rec, errors.Join(err, f.Close())
}

// parse reads the next record and its length. Every error means that the journal
// ends here.
func (j *journal) parse(r io.Reader) (*record, int64, error) {
	var h [journalHead]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, 0, err
	}
	magic, n := string(h[:4]), binary.BigEndian.Uint32(h[4:])
	if (magic != journalMagic && magic != sealedMagic) || n > maxRecord {
		return nil, 0, fmt.Errorf("%w: no journal record", ledger.ErrDamaged)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return nil, 0, err
	}
	if binary.BigEndian.Uint32(h[20:]) != checksum(h[:20], payload) {
		return nil, 0, fmt.Errorf("%w: checksum of a journal record", ledger.ErrDamaged)
	}
	if sealed := magic == sealedMagic; sealed != (j.aead != nil) {
		j.foreign = true
		return nil, 0, fmt.Errorf("%w: journal record of another key", ledger.ErrDamaged)
	} else if sealed {
		var err error
		if payload, err = j.aead.Open(nil, nil, payload, h[:20]); err != nil {
			j.foreign = true
			return nil, 0, fmt.Errorf("%w: journal record", ledger.ErrDamaged)
		}
	}
	rec, err := parseGroup(binary.BigEndian.Uint64(h[8:]), binary.BigEndian.Uint32(h[16:]), payload)
	return rec, journalHead + int64(n), err
}

func parseGroup(first uint64, count uint32, payload []byte) (*record, error) {
	if len(payload) < 32 {
		return nil, fmt.Errorf("%w: journal record of %d bytes", ledger.ErrDamaged, len(payload))
	}
	frames, root := payload[:len(payload)-32], payload[len(payload)-32:]
	entries, err := ledger.ParseBundle(frames, MaxGroup)
	if err != nil || len(entries) == 0 || uint32(len(entries)) != count || first > 1<<62 {
		return nil, fmt.Errorf("%w: entries of a journal record", ledger.ErrDamaged)
	}
	return &record{first, entries, ledger.Hash(root)}, nil
}

func checksum(parts ...[]byte) uint32 {
	var sum uint32
	for _, p := range parts {
		sum = crc32.Update(sum, castagnoli, p)
	}
	return sum
}

// encode is "GVJ1" len:u32 first:u64 count:u32 crc32c:u32, then the framed
// entries and the root; with a key the latter two are sealed.
func (j *journal) encode(r *record) []byte {
	n := len(r.root)
	for _, e := range r.entries {
		n += 2 + len(e)
	}
	magic, size := journalMagic, n
	if j.aead != nil {
		magic, size = sealedMagic, n+j.aead.Overhead()
	}
	b := make([]byte, 0, journalHead+size)
	b = append(b, magic...)                                      // 0
	b = binary.BigEndian.AppendUint32(b, uint32(size))           // 4
	b = binary.BigEndian.AppendUint64(b, r.first)                // 8
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.entries))) // 16
	head, payload := b, b[journalHead:journalHead]
	if j.aead != nil {
		payload = make([]byte, 0, n)
	}
	for _, e := range r.entries {
		payload = ledger.AppendBundle(payload, e)
	}
	payload = append(payload, r.root[:]...)
	if j.aead != nil {
		payload = j.aead.Seal(b[journalHead:journalHead], nil, payload, head)
	}
	binary.BigEndian.AppendUint32(head, checksum(head, payload)) // 20
	return b[:journalHead+size]
}

// resume goes on writing after the last good record of segment seg. What stood
// behind it is zeroed.
func (j *journal) resume(seg uint64, end int64, used []segmentUse) error {
	f, err := os.OpenFile(j.path(seg), os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	j.f, j.seg, j.end, j.used = f, seg, end, used
	torn, err := j.dirtyTail()
	if err != nil || !torn {
		return err
	}
	err = errors.Join(f.Truncate(end), preallocate(f, max(j.segBytes, end)), f.Sync())
	if err != nil {
		return fmt.Errorf("cut journal: %w", err)
	}
	return nil
}

// dirtyTail reports whether anything but zeros follows the end.
func (j *journal) dirtyTail() (bool, error) {
	r := io.NewSectionReader(j.f, j.end, 1<<62)
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return true, nil
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read journal: %w", err)
		}
	}
}

// begin starts the next segment, with room for a record of n bytes.
func (j *journal) begin(n int64) error {
	if j.f != nil {
		j.used = append(j.used, segmentUse{j.seg, j.end})
		if err := j.f.Close(); err != nil {
			return fmt.Errorf("close journal: %w", err)
		}
		j.f = nil
	}
	f, err := os.OpenFile(j.path(j.seg+1), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create journal segment: %w", err)
	}
	j.f, j.seg, j.end = f, j.seg+1, 0
	if err := errors.Join(preallocate(f, max(j.segBytes, n)), f.Sync(), durable.SyncDir(j.dir)); err != nil {
		return fmt.Errorf("create journal segment: %w", err)
	}
	return j.prune()
}

// prune deletes segments that are not needed to refill Badger: the keep bytes
// before the end hold everything that Badger may still have only in its
// memtable log.
func (j *journal) prune() error {
	var after int64
	for i := len(j.used) - 1; i >= 0; i-- {
		if after >= j.keep {
			for _, u := range j.used[:i+1] {
				if err := os.Remove(j.path(u.no)); err != nil {
					return fmt.Errorf("delete journal segment: %w", err)
				}
			}
			j.used = j.used[i+1:]
			return nil
		}
		after += j.used[i].bytes
	}
	return nil
}

// append makes a group durable.
func (j *journal) append(r *record) error {
	b := j.encode(r)
	if j.f == nil || (j.end > 0 && j.end+int64(len(b)) > j.segBytes) {
		if err := j.begin(int64(len(b))); err != nil {
			return err
		}
	}
	if _, err := j.f.WriteAt(b, j.end); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := durable.SyncData(j.f); err != nil {
		return fmt.Errorf("sync journal: %w", err)
	}
	j.end += int64(len(b))
	return nil
}

// clear deletes every segment; the next record starts a new one.
func (j *journal) clear() error {
	segs, err := j.segments()
	if err != nil {
		return err
	}
	for _, seg := range segs {
		if err := os.Remove(j.path(seg)); err != nil {
			return fmt.Errorf("delete journal segment: %w", err)
		}
		j.seg = max(j.seg, seg)
	}
	j.used = nil
	return durable.SyncDir(j.dir)
}

func (j *journal) close() error {
	if j.f == nil {
		return nil
	}
	return j.f.Close()
}
