package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/mod/sumdb/tlog"

	"gridveil/ledger"
	"gridveil/ledger/durable"
	"gridveil/ledger/internal/tile"
)

// recovery brings Badger, journal and head file to one state before anything is
// written or signed. Source: design/ledger.md, 4.8.
type recovery struct {
	*Store
	slot   slot
	places []place // readable journal records
	edge   *tile.Edge
	group  uint64
}

// recover opens the files and settles on the longest state that both copies
// allow and the head slot demands, then replays it.
func (s *Store) recover() error {
	r, err := s.openFiles()
	if err != nil {
		return err
	}
	return r.settle(r.mend, r.extend, r.trim, r.mendJournal, r.finish)
}

// openFiles opens head file, journal and Badger as they are.
func (s *Store) openFiles() (*recovery, error) {
	if err := makeDir(s.dir); err != nil {
		return nil, err
	}
	if err := s.openHead(); err != nil {
		return nil, err
	}
	key, err := s.opt.subkey("journal")
	if err != nil {
		return nil, err
	}
	if s.journal, err = openJournal(s.dir, key, s.opt.SegmentBytes, s.opt.journalBytes()); err != nil {
		return nil, err
	}
	r := &recovery{Store: s, slot: s.head.file.last}
	r.group = r.slot.group
	if r.places, err = s.journal.scan(); err != nil {
		return nil, err
	}
	return r, r.openDB()
}

// settle runs the steps of a recovery and replays what they found.
func (r *recovery) settle(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return r.reload()
}

func (s *Store) openHead() error {
	file, fresh, err := openHead(s.dir)
	if err != nil {
		return err
	}
	if fresh {
		for _, part := range []string{badgerDir, journalDir} {
			if _, err := os.Stat(filepath.Join(s.dir, part)); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%w: there is a %s directory but no head file", ledger.ErrDamaged, part)
			}
		}
		if file, err = createHead(s.dir); err != nil {
			return err
		}
	}
	s.head.file = file
	return nil
}

// openDB opens Badger. If it refuses its files and the journal has everything,
// the files are set aside and written anew.
func (r *recovery) openDB() (err error) {
	if r.db, err = openBadger(r.dir, r.opt); err == nil {
		return durable.SyncDir(r.dir) // the name of Badger's directory
	}
	if errors.Is(err, badger.ErrEncryptionKeyMismatch) && len(r.places) == 0 && (r.journal.foreign || r.slot.size == 0) {
		// If the journal opens, or has no whole record either, Badger's registry is
		// damaged and the key may be right.
		return fmt.Errorf("ledger store: the key does not open the database: %w", err)
	}
	if strings.Contains(err.Error(), "directory lock") {
		return fmt.Errorf("ledger store: another process has this log open: %w", err)
	}
	if !r.journalReaches(0) {
		return fmt.Errorf("%w: database cannot be opened: %w", ledger.ErrDamaged, err)
	}
	dir := filepath.Join(r.dir, badgerDir)
	if err := os.Rename(dir, fmt.Sprintf("%s.damaged-%d", dir, r.slot.no)); err != nil {
		return fmt.Errorf("set damaged database aside: %w", err)
	}
	r.note("database rewritten: %v", err)
	if r.db, err = openBadger(r.dir, r.opt); err != nil {
		return fmt.Errorf("open a new database: %w", err)
	}
	return durable.SyncDir(r.dir)
}

func (r *recovery) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.repaired = append(r.repaired, text)
	r.opt.Log.Warn("ledger store repaired", "what", text)
}

// journalReaches reports whether the journal holds, without a gap, the entries
// from a size on up to the acknowledged size, and gives its root there.
func (r *recovery) journalReaches(from uint64) bool {
	if r.slot.size == 0 {
		return true
	}
	next := from
	for _, p := range r.places {
		if p.first != next {
			if next == from {
				continue
			}
			return false
		}
		next = p.next
		if next == r.slot.size {
			rec, err := r.journal.read(p)
			return err == nil && rec.root == r.slot.root
		}
	}
	return false
}

// mend makes Badger hold what the head slot acknowledges, from the journal if
// it does not.
func (r *recovery) mend() error {
	damage := r.checkBadger()
	if damage == nil {
		return nil
	}
	if len(r.places) == 0 || !r.journalReaches(r.places[0].first) {
		return fmt.Errorf("%w: neither database nor journal reaches entry %d: %w", ledger.ErrDamaged, r.slot.size, damage)
	}
	edge, err := r.edgeOf(r.places[0].first)
	if err != nil {
		return fmt.Errorf("%w: database is damaged before the journal begins: %w", ledger.ErrDamaged, err)
	}
	for _, p := range r.places {
		if p.next > r.slot.size {
			break // extend decides on the rest
		}
		if err := r.copyRecord(edge, p); err != nil {
			return err
		}
	}
	if err := r.checkBadger(); err != nil {
		return fmt.Errorf("%w: still damaged after a repair: %w", ledger.ErrDamaged, err)
	}
	r.note("database refilled from the journal: %v", damage)
	return nil
}

// checkBadger proves that Badger holds the acknowledged entries and tiles. It
// re-hashes what the journal holds too or has no snapshot; older entries are
// under Badger's checksums.
func (r *recovery) checkBadger() error {
	n, err := r.extent()
	if err != nil {
		return err
	}
	if n < r.slot.size {
		return fmt.Errorf("%w: database holds %d of %d entries", ledger.ErrDamaged, n, r.slot.size)
	}
	if r.edge, err = r.edgeOf(r.slot.size); err != nil {
		return err
	}
	if r.edge.Root() != r.slot.root {
		return fmt.Errorf("%w: database has another root at size %d", ledger.ErrDamaged, r.slot.size)
	}
	for l := 0; r.slot.size>>(tile.Height*(l+1)) > 0; l++ {
		if err := r.checkLevel(l, r.slot.size>>(tile.Height*(l+1))); err != nil {
			return err
		}
	}
	if err := r.listSnapshots(r.slot.size); err != nil {
		return err
	}
	from := uint64(0)
	if k := len(r.marks.taken); k > 0 {
		from = r.marks.taken[k-1]
	}
	if len(r.places) > 0 {
		from = min(from, r.places[0].first)
	}
	return r.checkEntries(from / tile.Width * tile.Width)
}

// checkLevel proves that the first n full tiles of a level are there.
func (r *recovery) checkLevel(l int, n uint64) error {
	next := uint64(0)
	prefix := []byte{keyTile, byte(l)}
	err := r.keys(prefix, prefix, func(key []byte, _ byte) bool {
		if len(key) != 10 || binary.BigEndian.Uint64(key[2:]) != next {
			return false
		}
		next++
		return next < n
	})
	if err == nil && next < n {
		err = fmt.Errorf("%w: tile %d of level %d is missing", ledger.ErrDamaged, next, l)
	}
	return err
}

// checkEntries re-hashes full blocks of entries and compares them with their
// tiles; edgeOf has hashed the last block.
func (r *recovery) checkEntries(from uint64) error {
	var leaves []byte
	return r.Entries(from, r.slot.size/tile.Width*tile.Width, func(i uint64, raw []byte) error {
		leaf := ledger.LeafHash(raw)
		leaves = append(leaves, leaf[:]...)
		if len(leaves) < tile.Size {
			return nil
		}
		t := tile.Tile{L: 0, N: i / tile.Width, W: tile.Width}
		data, err := r.get(tileKey(t))
		if err == nil && !bytes.Equal(data, leaves) {
			err = fmt.Errorf("%w: entries %d to %d differ from their tile", ledger.ErrDamaged, i+1-tile.Width, i)
		}
		leaves = leaves[:0]
		return err
	})
}

// edgeOf rebuilds the right edge of the first n entries from entries and full
// tiles in Badger.
func (r *recovery) edgeOf(n uint64) (*tile.Edge, error) {
	e := new(tile.Edge)
	err := e.Restore(n, func(t tile.Tile) (data []byte, err error) {
		if t.L == 0 {
			first := t.N * tile.Width
			err = r.Entries(first, first+uint64(t.W), func(_ uint64, raw []byte) error {
				leaf := ledger.LeafHash(raw)
				data = append(data, leaf[:]...)
				return nil
			})
			return data, err
		}
		for i := range uint64(t.W) {
			child := tile.Tile{L: t.L - 1, N: t.N*tile.Width + i, W: tile.Width}
			hashes, err := r.get(tileKey(child))
			if err != nil {
				return nil, err
			}
			if len(hashes) != tile.Size {
				return nil, fmt.Errorf("%w: %s is missing", ledger.ErrDamaged, child.Path())
			}
			data = append(data, tileRoot(hashes)...)
		}
		return data, nil
	})
	return e, err
}

// tileRoot is the hash of a full tile as it stands one level up.
func tileRoot(hashes []byte) []byte {
	var e tile.Edge
	for i := 0; i < len(hashes); i += tlog.HashSize {
		e.Append([32]byte(hashes[i:]), func(tile.Tile, []byte) {})
	}
	return e.Partial(1)
}

// copyRecord writes a journal record into Badger in place of what is there.
func (r *recovery) copyRecord(edge *tile.Edge, p place) error {
	rec, err := r.journal.read(p)
	if err != nil {
		return err
	}
	if rec.first != edge.Size() {
		return fmt.Errorf("%w: journal has a gap before entry %d", ledger.ErrDamaged, rec.first)
	}
	writes, root := r.regrow(edge, rec)
	if root != rec.root {
		return fmt.Errorf("%w: journal has another root at size %d", ledger.ErrDamaged, rec.next())
	}
	keep := map[string]bool{}
	for _, w := range writes {
		keep[string(w.Key)] = true
	}
	err = r.keys([]byte{keyChunk}, chunkKey(rec.first), func(key []byte, _ byte) bool {
		if binary.BigEndian.Uint64(key[1:]) >= rec.next() {
			return false
		}
		if !keep[string(key)] {
			writes = append(writes, &badger.Entry{Key: key})
		}
		return true
	})
	if err != nil {
		return err
	}
	return r.put(writes...)
}

// regrow appends the entries of a record to a tree and gives what Badger stores
// of them.
func (r *recovery) regrow(edge *tile.Edge, rec *record) (writes []*badger.Entry, root ledger.Hash) {
	for _, raw := range rec.entries {
		edge.Append(ledger.LeafHash(raw), func(t tile.Tile, data []byte) {
			writes = append(writes, badger.NewEntry(tileKey(t), data))
		})
	}
	for _, c := range cut(rec.first, rec.entries, r.opt.chunkBytes()) {
		writes = append(writes, c.entry())
	}
	return writes, edge.Root()
}

// extend keeps what is whole beyond the head slot: a crash came before W3, and
// whoever sends these entries again is told that they exist.
func (r *recovery) extend() error {
	for _, p := range r.places {
		if p.first != r.edge.Size() {
			continue
		}
		trial, err := r.edgeOf(r.edge.Size())
		if err != nil {
			return err
		}
		if err := r.copyRecord(trial, p); errors.Is(err, ledger.ErrDamaged) {
			break
		} else if err != nil {
			return err
		}
		r.edge = trial
		r.group++
	}
	return r.extendFromBadger()
}

// extendFromBadger keeps a group that reached Badger but not the journal.
func (r *recovery) extendFromBadger() error {
	record, err := r.get([]byte{keyHead})
	if err != nil {
		return err
	}
	h, ok := parseHeadRecord(record)
	n, err := r.extent()
	if err != nil {
		return err
	}
	if !ok || h.size <= r.edge.Size() || h.size > n {
		return nil
	}
	trial, err := r.edgeOf(h.size)
	if err != nil || trial.Root() != h.root {
		return nil // not whole: trim drops it
	}
	if err := r.checkTail(h.size); err != nil {
		return nil
	}
	r.edge, r.group = trial, max(r.group, h.group)
	return nil
}

// checkTail compares the entries beyond the slot with the tiles that they
// completed.
func (r *recovery) checkTail(size uint64) error {
	acknowledged := r.slot.size
	defer func() { r.slot.size = acknowledged }()
	r.slot.size = size
	return r.checkEntries(acknowledged / tile.Width * tile.Width)
}

// trim drops what follows the settled size and makes Badger's head record say
// that size.
func (r *recovery) trim() error {
	size := r.edge.Size()
	var writes []*badger.Entry
	drop := func(key []byte, _ byte) bool {
		writes = append(writes, &badger.Entry{Key: key})
		return len(writes) < MaxGroup
	}
	if err := r.keys([]byte{keyChunk}, chunkKey(size), drop); err != nil {
		return err
	}
	for l := 0; l < 8; l++ {
		t := tile.Tile{L: l, N: size >> (tile.Height * (l + 1))}
		if err := r.keys(tileKey(t)[:2], tileKey(t), drop); err != nil {
			return err
		}
	}
	if err := r.listSnapshots(size); err != nil {
		return err
	}
	record, err := r.get([]byte{keyHead})
	if err != nil {
		return err
	}
	if h, ok := parseHeadRecord(record); size > 0 && (!ok || h.size != size || h.root != r.edge.Root()) {
		record = headRecord(head{size, r.edge.Root(), r.group}, [32]byte{})
		writes = append(writes, badger.NewEntry([]byte{keyHead}, record))
	}
	r.prev = sha256.Sum256(record)
	if len(writes) == 0 {
		return nil
	}
	return r.put(writes...)
}

// mendJournal makes the journal end where Badger does: it goes on after what
// agrees, or starts anew from Badger when something does not.
func (r *recovery) mendJournal() error {
	agreed, ok, err := r.agreement()
	if err != nil {
		return err
	}
	if !ok {
		agreed = r.journalStart()
		if err := r.journal.clear(); err != nil {
			return err
		}
		r.places = nil
		r.note("journal rewritten from the database")
	} else if agreed < r.slot.size {
		r.note("journal completed from the database from entry %d", agreed)
	}
	if err := r.resumeJournal(); err != nil {
		return err
	}
	return r.fillJournal(agreed)
}

// errDiffers ends a walk over entries that are not those of the journal.
var errDiffers = errors.New("journal and database differ")

// agreement walks the journal beside Badger: ok is false if it has a gap or says
// something else, agreed is the size that it reaches.
func (r *recovery) agreement() (agreed uint64, ok bool, err error) {
	if len(r.places) == 0 {
		return 0, r.edge.Size() == 0, nil
	}
	for i, p := range r.places {
		if p.next > r.edge.Size() || i > 0 && p.first != r.places[i-1].next {
			return 0, false, nil
		}
	}
	edge, err := r.edgeOf(r.places[0].first)
	if err != nil {
		return 0, false, err
	}
	rec, left := new(record), r.places
	err = r.Entries(edge.Size(), left[len(left)-1].next, func(at uint64, raw []byte) error {
		if at == left[0].first {
			var unread error
			if rec, unread = r.journal.read(left[0]); unread != nil {
				return errDiffers
			}
		}
		if !bytes.Equal(raw, rec.entries[at-rec.first]) {
			return errDiffers
		}
		edge.Append(ledger.LeafHash(raw), func(tile.Tile, []byte) {})
		if at+1 < rec.next() {
			return nil
		}
		left = left[1:]
		if edge.Root() != rec.root {
			return errDiffers
		}
		return nil
	})
	if errors.Is(err, errDiffers) {
		return 0, false, nil
	}
	return edge.Size(), err == nil, err
}

// journalStart is the entry from which a new journal must hold the log.
func (r *recovery) journalStart() uint64 {
	const smallest = 100 // bytes of an entry, at least: Parse demands 92
	span := uint64(r.opt.journalBytes()/smallest) / tile.Width * tile.Width
	size := r.edge.Size()
	if size <= span {
		return 0
	}
	return (size - span) / tile.Width * tile.Width
}

// resumeJournal opens the last segment behind its last good record.
func (r *recovery) resumeJournal() error {
	segs, err := r.journal.segments()
	if err != nil || len(segs) == 0 {
		return err
	}
	ends := map[uint64]int64{}
	for _, p := range r.places {
		ends[p.seg] = p.end
	}
	var used []segmentUse
	last := segs[len(segs)-1]
	for _, seg := range segs[:len(segs)-1] {
		used = append(used, segmentUse{seg, ends[seg]})
	}
	return r.journal.resume(last, ends[last], used)
}

// fillJournal copies the entries from a size on from Badger.
func (r *recovery) fillJournal(from uint64) error {
	if from >= r.edge.Size() {
		return nil
	}
	edge, err := r.edgeOf(from)
	if err != nil {
		return err
	}
	rec, bytes := record{first: from}, 0
	flush := func() error {
		_, rec.root = r.regrow(edge, &rec)
		err := r.journal.append(&rec)
		rec, bytes = record{first: edge.Size()}, 0
		return err
	}
	err = r.Entries(from, r.edge.Size(), func(_ uint64, raw []byte) error {
		if len(rec.entries) == MaxGroup || bytes+2+len(raw) > r.opt.groupBytes() {
			if err := flush(); err != nil {
				return err
			}
		}
		rec.entries, bytes = append(rec.entries, raw), bytes+2+len(raw)
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// finish proves that what was signed is still there, and writes the settled
// state to the head file.
func (r *recovery) finish() error {
	sealed, err := r.edgeOf(r.slot.signed.size)
	if err != nil {
		return err
	}
	if sealed.Root() != r.slot.signed.root {
		return fmt.Errorf("%w: the log differs from what was signed at size %d", ledger.ErrDamaged, r.slot.signed.size)
	}
	v := r.slot
	if r.head.file.alone {
		// The lost slot may have allowed to sign any of what is here.
		v.signed = signed{r.edge.Size(), r.edge.Root()}
		if sealed, err = r.edgeOf(v.signed.size); err != nil {
			return err
		}
		r.note("a head slot was lost")
	}
	v.head = head{r.edge.Size(), r.edge.Root(), r.group}
	v.seg, v.end = r.journal.seg, r.journal.end
	v.epoch++
	if err := r.head.file.write(v); err != nil {
		return err
	}
	r.Store.edge, r.checked = *r.edge, *sealed
	r.head.durable, r.head.signed = v.head, v.signed
	return r.loadPublished(v.size)
}
