package ledger

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Window names a part of the used-sets that is forgotten as a whole: the refs of
// a settlement bucket, or the nullifiers of an epoch. Its bytes are a kind, the
// currency of the epoch, and the number of bucket or epoch, big-endian.
type Window [6]byte

// Kinds of windows.
const (
	windowNotes = 'n'
	windowRefs  = 'r'
)

func notesWindow(k epochKey) Window {
	return Window(binary.BigEndian.AppendUint32([]byte{windowNotes, k.cur}, k.epoch))
}

func refsWindow(bucket uint32) Window {
	return Window(binary.BigEndian.AppendUint32([]byte{windowRefs, 0}, bucket))
}

// Used is what one window needs to be written down with the next snapshot.
type Used struct {
	Window
	Whole   bool   // Records stand in place of all that was saved of the window
	Records []byte // by digest; of a digest that was saved before, the newest record counts
}

// bucketRefs are the refs of one bucket. Of them list[:saved] are written down;
// lines is how many records that took, which is more if a record was written
// again or has moved to another bucket.
type bucketRefs struct {
	list  []digest
	saved int
	lines int
	left  bool // some that were written down are no longer of this bucket
}

// usedSet holds the nullifiers of one epoch with the leaf index of their use.
type usedSet struct {
	saved, fresh map[digest]uint64 // written down, and not yet
}

func (u *usedSet) index(d digest) (index uint64, used bool) {
	if u == nil {
		return 0, false
	}
	if index, used = u.fresh[d]; !used {
		index, used = u.saved[d]
	}
	return index, used
}

func (u *usedSet) add(d digest, index uint64) {
	if u.fresh == nil {
		u.fresh = map[digest]uint64{}
	}
	u.fresh[d] = index
}

func (u *usedSet) len() int {
	if u == nil {
		return 0
	}
	return len(u.fresh) + len(u.saved)
}

// sorted lists all digests.
func (u *usedSet) sorted() []digest {
	if u == nil {
		return nil
	}
	return slices.SortedFunc(func(yield func(digest) bool) {
		for _, m := range []map[digest]uint64{u.saved, u.fresh} {
			for d := range m {
				if !yield(d) {
					return
				}
			}
		}
	}, byBytes)
}

// save writes what is fresh and counts it as saved.
func (u *usedSet) save() []byte {
	var w encoder
	for _, d := range sorted(u.fresh, byBytes) {
		putSpent(&w, d, u.fresh[d])
		if u.saved == nil {
			u.saved = map[digest]uint64{}
		}
		u.saved[d] = u.fresh[d]
	}
	u.fresh = nil
	return w.b
}

// spentIn is the set of an epoch, made if there is none yet.
func (s *State) spentIn(k epochKey) *usedSet {
	if s.spent[k] == nil {
		s.spent[k] = &usedSet{}
	}
	return s.spent[k]
}

// remember lists a ref under its bucket.
func (s *State) remember(bucket uint32, d digest) {
	l := s.refs[bucket]
	if l == nil {
		l = &bucketRefs{}
		s.refs[bucket] = l
	}
	l.list = append(l.list, d)
}

// past says that refs of the bucket are kept only as long as they wait for money.
func (s *State) past(bucket uint32) bool { return uint64(bucket)+refWindow < uint64(s.Bucket()) }

// Save encodes the state without its used-sets, and what changed in those since
// the last Save or Load; after New, Restore and Succeed that is all of them. It
// lists every window that is not empty, also those without a change; what was
// saved of others may be dropped. Parts that are not written down are lost: then
// the state must be loaded again.
func (s *State) Save() (core []byte, used []Used) {
	touched := map[uint32][]digest{}
	for _, d := range s.touched {
		if r := s.cdrs[d]; r != nil {
			touched[r.bucket] = append(touched[r.bucket], d)
		}
	}
	s.touched = nil
	for bucket, l := range s.refs {
		if u := s.saveRefs(bucket, l, touched[bucket]); l.lines > 0 {
			used = append(used, u)
		}
	}
	for k, set := range s.spent {
		used = append(used, Used{Window: notesWindow(k), Records: set.save()})
	}
	slices.SortFunc(used, func(a, b Used) int { return bytes.Compare(a.Window[:], b.Window[:]) })
	var w encoder
	w.raw([]byte(coreMagic))
	s.putCore(&w)
	s.putRecent(&w, true)
	return w.b, used
}

// saveRefs writes the records of a bucket that are new or touched. One whose
// refs were forgotten in part is written whole: few are left, as a rule.
func (s *State) saveRefs(bucket uint32, l *bucketRefs, touched []digest) Used {
	u := Used{Window: refsWindow(bucket), Whole: l.lines == 0 || s.past(bucket) && (l.left || l.lines != l.saved)}
	list := touched
	if u.Whole {
		list, l.saved, l.lines, l.left = nil, 0, 0, false
	}
	list = append(list, l.list[l.saved:]...)
	slices.SortFunc(list, byBytes)
	var w encoder
	for _, d := range slices.Compact(list) {
		if r := s.cdrs[d]; r != nil && r.bucket == bucket {
			s.putRef(&w, d, r)
			l.lines++
		}
	}
	l.saved, u.Records = len(l.list), w.b
	return u
}

// Load reads what Save gave for the log with this origin: core, and from used the
// records of each window in the order in which they were saved, windows in
// ascending order. It returns the error of used, or ErrDamaged for other bytes,
// and never panics.
func Load(origin string, core []byte, used func(each func(Window, []byte) error) error) (*State, error) {
	r := decoder{b: core}
	if string(r.take(len(coreMagic))) != coreMagic {
		return nil, refuse(ErrDamaged, "not a ledger snapshot")
	}
	s := New(origin)
	n := s.getCore(&r)
	s.getRecent(&r)
	if !r.done() {
		return nil, refuse(ErrDamaged, "snapshot is cut or of another log")
	}
	lines := map[uint32]int{}
	if err := used(func(w Window, records []byte) error { return s.loadWindow(w, records, lines) }); err != nil {
		return nil, err
	}
	for d, c := range s.cdrs {
		s.remember(c.bucket, d)
	}
	for bucket, l := range s.refs {
		l.saved, l.lines = len(l.list), lines[bucket]
	}
	if err := s.loaded(n); err != nil {
		return nil, err
	}
	var w encoder
	w.raw([]byte(coreMagic))
	s.putCore(&w)
	s.putRecent(&w, true)
	if !bytes.Equal(w.b, core) {
		return nil, refuse(ErrDamaged, "snapshot is not canonical")
	}
	return s, nil
}

// loaded checks a state that was read.
func (s *State) loaded(n used) error {
	ok := n.refs == uint64(len(s.cdrs))
	for i, k := range sorted(s.denoms, byEpoch) {
		ok = ok && n.spent[i] == uint64(s.spent[k].len())
	}
	if !ok {
		return refuse(ErrDamaged, "snapshot and used-sets do not belong together")
	}
	if err := s.Audit(); err != nil {
		return refuse(ErrDamaged, "%v", err)
	}
	return nil
}

// loadWindow reads records of one window; lines counts those of refs by bucket.
func (s *State) loadWindow(w Window, records []byte, lines map[uint32]int) error {
	r, no := decoder{b: records}, binary.BigEndian.Uint32(w[2:])
	var last digest
	for n := 0; len(r.b) > 0 && !r.bad; n++ {
		var d digest
		switch w[0] {
		case windowRefs:
			var c *cdrRecord
			d, c = s.getRef(&r)
			r.want(w == refsWindow(no) && c.bucket == no)
			s.cdrs[d] = c
			lines[no]++
		case windowNotes:
			var index uint64
			d, index = getSpent(&r)
			k := epochKey{w[1], no}
			r.want(s.denoms[k] != nil)
			set := s.spentIn(k)
			if set.saved == nil {
				set.saved = map[digest]uint64{}
			}
			set.saved[d] = index
		default:
			r.bad = true
		}
		r.want(n == 0 || bytes.Compare(last[:], d[:]) < 0)
		last = d
	}
	if r.bad {
		return refuse(ErrDamaged, "used-set of window %x", w)
	}
	return nil
}
