package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/store"
	"gridveil/ledger/verifier"
)

const page = 4096

// disk is a directory as bytes: files by name, of each the pages that are not
// zero.
type disk map[string]*content

type content struct {
	size  int64
	pages map[int64][]byte // never changed in place
}

// pages are shared between images.
var pages sync.Map

func keep(b []byte) []byte {
	p, _ := pages.LoadOrStore(sha256.Sum256(b), bytes.Clone(b))
	return p.([]byte)
}

var zeros [page]byte

func contentOf(b []byte) *content {
	c := &content{int64(len(b)), map[int64][]byte{}}
	for at := 0; at < len(b); at += page {
		if p := b[at:min(at+page, len(b))]; !bytes.Equal(p, zeros[:len(p)]) {
			c.pages[int64(at)] = keep(p)
		}
	}
	return c
}

func (c *content) bytes() []byte {
	b := make([]byte, c.size)
	for at, p := range c.pages {
		copy(b[min(at, c.size):], p)
	}
	return b
}

// written is where the last byte that is not zero stands, plus one.
func (c *content) written() (end int64) {
	for at, p := range c.pages {
		end = max(end, at+int64(len(bytes.TrimRight(p, "\x00"))))
	}
	return min(end, c.size)
}

// capture reads a directory as a crash would leave it: what was written, synced
// or not. Badger's own goroutines may work on it meanwhile, so it is read until
// two readings name the same files.
func capture(dir string) (disk, error) {
	for {
		before := names(dir)
		d, err := readDisk(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil && slices.Equal(before, names(dir)) {
			return d, nil
		}
	}
}

func names(dir string) (list []string) {
	filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error { // an error shows in readDisk
		list = append(list, path)
		return nil
	})
	return list
}

func readDisk(dir string) (disk, error) {
	d := disk{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "LOCK" {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		d[rel] = contentOf(b)
		return err
	})
	return d, err
}

// write makes the directory; its parts exist even without a file.
func (d disk) write(dir string) error {
	for _, part := range []string{"badger", "journal"} {
		if err := os.MkdirAll(filepath.Join(dir, part), 0o700); err != nil {
			return err
		}
	}
	for name, c := range d {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		err = f.Truncate(c.size)
		for at, p := range c.pages {
			if at < c.size && err == nil {
				_, err = f.WriteAt(p[:min(int64(len(p)), c.size-at)], at)
			}
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// shot is an image of a running log, and what it had promised by then.
type shot struct {
	at            string // the step that it was taken before or after
	acked, signed uint64
	disk
}

// film runs a log and takes shots before and after steps, at some of their
// times. With tables the log is closed and opened in between, so that its
// older half is in Badger's tables, and its journal is pruned.
func film(t *testing.T, tables bool) (shots []shot) {
	t.Helper()
	dir, o := filepath.Join(town.RAM(t), "log"), small
	o.Key = key
	var mu sync.Mutex // W1 and W2 run at once
	var acked, signed uint64
	times := map[string]int{}
	o.Fail = func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		times[step]++
		if n := times[step]; acked == 0 || n%3 != 1 || n > 10 {
			return nil
		}
		d, err := capture(dir)
		shots = append(shots, shot{step, acked, signed, d})
		return err
	}
	free := int64(1)
	o.MinFree, o.Free = 1, func(string) (int64, error) { return free, nil }
	log := telling().Log
	s := open(t, dir, o)
	if tables {
		if err := take(t, s, log[:300]...); err != nil {
			t.Fatal(err)
		}
		s.Close()
		s = open(t, dir, o)
		store.PruneEarly(s)
		acked = 300
	}
	for i := int(acked); i < len(log); i += 37 {
		next := log[i:min(i+37, len(log))]
		if i/37%4 == 3 {
			free = 0
			if err := take(t, s, next...); !errors.Is(err, store.ErrFull) {
				t.Fatalf("full disk: %v", err)
			}
			o.Fail("full disk")
			free = 1
		}
		if err := take(t, s, next...); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		acked += uint64(len(next))
		mu.Unlock()
		if err := s.Snapshot(); err != nil {
			t.Fatal(err)
		}
		size, _, err := s.Seal()
		if err != nil {
			t.Fatal(err)
		}
		if signed = size; i/37%2 == 0 {
			continue
		}
		if err := s.Publish(size, []byte("note")); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	for _, step := range []string{"snapshot used", "snapshot core", "snapshot title", "snapshot drop"} {
		if !slices.ContainsFunc(shots, func(s shot) bool { return s.at == step }) {
			t.Fatalf("no image was taken at %q", step)
		}
	}
	return shots
}

// harm makes a damaged image out of a shot; later is a shot of the same run
// taken after it. mild says that a mere crash may leave such an image, so the
// log must open without help of others.
type harm struct {
	name string
	mild bool
	do   func(r *rand.Rand, now, later disk) disk
}

var harms = []harm{
	{"killed at a step", true, func(_ *rand.Rand, now, _ disk) disk { return now }},
	{"later pages in part", true, laterPages},
	{"torn head slot", true, tornSlot},
	{"record cut by a full disk", true, cutRecord},
	{"bit in the database", false, func(r *rand.Rand, now, _ disk) disk { return flip(r, now, "badger") }},
	{"bit in the journal", false, func(r *rand.Rand, now, _ disk) disk { return flip(r, now, "journal") }},
	{"bit in the head file", false, func(r *rand.Rand, now, _ disk) disk { return flip(r, now, "HEAD") }},
	{"bits in both copies", false, func(r *rand.Rand, now, _ disk) disk { return flip(r, flip(r, now, "badger"), "journal") }},
	{"lost tail", false, lostTail},
	{"torn tail", false, tornTail},
	{"file missing", false, func(r *rand.Rand, now, _ disk) disk {
		out := maps.Clone(now)
		delete(out, now.any(r, ""))
		return out
	}},
}

// any draws a written file whose name begins so.
func (d disk) any(r *rand.Rand, prefix string) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(d)) {
		if strings.HasPrefix(name, prefix) && d[name].written() > 0 {
			list = append(list, name)
		}
	}
	return list[r.IntN(len(list))]
}

// with is d with other bytes in one file.
func (d disk) with(name string, b []byte) disk {
	out := maps.Clone(d)
	out[name] = contentOf(b)
	return out
}

// flip inverts one bit where something was written.
func flip(r *rand.Rand, d disk, prefix string) disk {
	name := d.any(r, prefix)
	b := d[name].bytes()
	b[r.Int64N(d[name].written())] ^= 1 << r.IntN(8)
	return d.with(name, b)
}

// tail draws where the end of a file was lost, half the time near its end.
func (d disk) tail(r *rand.Rand) (name string, at int64) {
	name = d.any(r, "")
	end := d[name].written()
	at = r.Int64N(end)
	if near := end - 1 - r.Int64N(min(end, 2*page)); r.IntN(2) == 0 {
		at = near
	}
	return name, at
}

func lostTail(r *rand.Rand, now, _ disk) disk {
	name, at := now.tail(r)
	b := now[name].bytes()
	if r.IntN(2) == 0 {
		return now.with(name, b[:at])
	}
	clear(b[at:])
	return now.with(name, b)
}

func tornTail(r *rand.Rand, now, _ disk) disk {
	name, at := now.tail(r)
	b := now[name].bytes()
	for i := at; i < min(at+page, int64(len(b))); i++ {
		b[i] = byte(r.Uint32())
	}
	return now.with(name, b)
}

// bothTails cuts the newer half off database and journal.
func bothTails(_ *rand.Rand, now, _ disk) disk {
	for name, c := range now {
		if strings.HasSuffix(name, ".mem") || strings.HasSuffix(name, ".gvj") {
			b := c.bytes()
			clear(b[c.written()/2:])
			now = now.with(name, b)
		}
	}
	return now
}

// laterPages puts some of the pages that were written later into the image, as a
// kernel may that was interrupted. A head slot is written whole, and only after
// its group.
func laterPages(r *rand.Rand, now, later disk) disk {
	out := maps.Clone(now)
	for name, c := range later {
		if name == "HEAD" {
			continue
		}
		old := now[name]
		if old == nil { // made later: absent, empty or there
			switch r.IntN(3) {
			case 0:
				out[name] = &content{size: 0}
			case 1:
				out[name] = c
			}
			continue
		}
		mixed := &content{max(old.size, c.size), maps.Clone(old.pages)}
		for at, p := range c.pages {
			if !bytes.Equal(p, old.pages[at]) && r.IntN(2) == 0 {
				mixed.pages[at] = p
			}
		}
		out[name] = mixed
	}
	return out
}

// tornSlot writes the older head slot in part, as of a newer state.
func tornSlot(r *rand.Rand, now, _ disk) disk {
	b := now["HEAD"].bytes()
	at := 0
	if bytes.Compare(b[8:16], b[page+8:page+16]) > 0 {
		at = page
	}
	slot := b[at : at+512]
	for i := 8 + r.IntN(400); i < len(slot); i++ {
		slot[i] ^= 0x55
	}
	return now.with("HEAD", b)
}

// cutRecord puts the beginning of the next journal record behind the last.
func cutRecord(r *rand.Rand, now, later disk) disk {
	for name, c := range later {
		if old := now[name]; strings.HasPrefix(name, "journal") && old != nil && c.written() > old.written() {
			b, end := c.bytes(), old.written()
			clear(b[end+r.Int64N(c.written()-end):])
			return now.with(name, b)
		}
	}
	return now
}

// mirror serves the whole log as a peer does.
type mirror struct {
	store *store.Store
	note  []byte
}

func (m mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/checkpoint" {
		w.Write(m.note)
		return
	}
	size, _ := m.store.Size()
	m.store.ServeTile(w, strings.TrimPrefix(r.URL.Path, "/"), size)
}

// examiner judges damaged images.
type examiner struct {
	open func(string, ledger.Machine, store.Options) (*store.Store, error)
	net  *town.Net
	o    store.Options
}

func newExaminer(t *testing.T) *examiner {
	t.Helper()
	x := &examiner{store.Open, &town.Net{}, small}
	x.o.Key = key
	s := open(t, filepath.Join(town.RAM(t), "peer"), x.o)
	if _, _, err := run(t, s, 0, 100); err != nil {
		t.Fatal(err)
	}
	size, root := s.Size()
	x.net.Put("peer", mirror{s, telling().Checkpoint(size, root, "uta", "utb")})
	return x
}

// Outcomes of an image; "" is a loss.
const (
	whole    = "whole"
	mended   = "mended from the other copy"
	fromPeer = "refused, then repaired from a peer"
)

// judge opens an image. The error says what was lost or went wrong.
func (x *examiner) judge(dir string, was shot) (outcome string, err error) {
	s, err := x.open(dir, ledger.NewMoney(scene.Origin), x.o)
	if err == nil {
		outcome = whole
		if len(s.Repaired()) > 0 {
			outcome = mended
		}
		if err = intact(s, was); err == nil {
			return outcome, s.Close()
		}
		s.Close()
	}
	if !errors.Is(err, ledger.ErrDamaged) {
		return "", err
	}
	if err := x.repair(dir, was); err != nil {
		return "", fmt.Errorf("after %w: repair: %w", err, err)
	}
	return fromPeer, nil
}

func (x *examiner) repair(dir string, was shot) error {
	p := telling().Policy()
	cfg := verifier.Config{Dir: dir, Store: x.o, Machine: ledger.NewMoney(scene.Origin), Policy: p, Transport: x.net, Clock: town.NewClock()}
	if err := verifier.Repair(context.Background(), cfg, "http://peer"); err != nil {
		return err
	}
	s, err := store.Open(dir, ledger.NewMoney(scene.Origin), x.o)
	if err != nil {
		return err
	}
	return errors.Join(intact(s, was), s.Close())
}

// intact proves that a store holds what was promised, and that it works.
func intact(s *store.Store, was shot) error {
	size, root := s.Size()
	if size < was.acked {
		return fmt.Errorf("%d entries were acknowledged, %d are there", was.acked, size)
	}
	if want, err := tree().Root(size); err != nil || root != want {
		return fmt.Errorf("the root of %d entries is another: %v", size, err)
	}
	log := telling().Log
	err := s.Entries(0, size, func(at uint64, raw []byte) error {
		if !bytes.Equal(raw, log[at]) {
			return fmt.Errorf("entry %d is another", at)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.Read(func(m ledger.Machine) {
		if m.Size() != size || stateOf(m) != states()[size] {
			err = fmt.Errorf("the state after %d entries is another", size)
		}
	})
	if err != nil {
		return err
	}
	if signed, _ := s.Signed(); signed < was.signed {
		return fmt.Errorf("signed up to %d, remembered is %d", was.signed, signed)
	}
	return goesOn(s, log[size:])
}

// goesOn enters some more entries and seals them.
func goesOn(s *store.Store, log [][]byte) error {
	var list []*store.Pending
	for _, raw := range log[:min(len(log), 9)] {
		p, err := s.Parse(raw)
		if err != nil {
			return err
		}
		list = append(list, p)
	}
	s.Check(list)
	if _, err := s.Take(list); err != nil {
		return err
	}
	for _, p := range list {
		if p.Err != nil {
			return fmt.Errorf("a new entry is refused: %w", p.Err)
		}
	}
	size, root, err := s.Seal()
	if err != nil {
		return err
	}
	if want, err := tree().Root(size); err != nil || root != want {
		return fmt.Errorf("a wrong root was sealed at %d: %v", size, err)
	}
	return nil
}

// trial is one damaged image.
type trial struct {
	harm
	shot
	disk disk
}

// trials draws images, as many of each kind.
func trials(r *rand.Rand, harms []harm, films [][]shot, n int) (list []trial) {
	for i := range n {
		h, shots := harms[i%len(harms)], films[i/len(harms)%len(films)]
		k := r.IntN(len(shots) - 1)
		now, later := shots[k], shots[k+1+r.IntN(min(8, len(shots)-k-1))]
		list = append(list, trial{h, now, h.do(r, now.disk, later.disk)})
	}
	return list
}

// tally counts outcomes by kind of damage.
type tally struct {
	mu      sync.Mutex
	counts  map[string]map[string]int
	control int // images in which Badger alone would have lost entries unnoticed
}

func (c *tally) add(kind, outcome string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts[kind] == nil {
		c.counts[kind] = map[string]int{}
	}
	c.counts[kind][outcome]++
}

func (c *tally) of(outcome string) (n int) {
	for _, by := range c.counts {
		n += by[outcome]
	}
	return n
}

// each runs f over the list on all processors, with a directory of its own.
func each(t *testing.T, list []trial, f func(dir string, x trial)) {
	root, work := town.RAM(t), make(chan int)
	var wg sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range work {
				dir := filepath.Join(root, fmt.Sprint(i))
				if err := list[i].disk.write(filepath.Join(dir, "log")); err != nil {
					t.Error(err)
				} else {
					f(dir, list[i])
				}
				os.RemoveAll(dir)
			}
		})
	}
	for i := range list {
		work <- i
	}
	close(work)
	wg.Wait()
}

// TestNoAcknowledgedEntryIsLostUnnoticed is guarantee G3. Logs are killed at every
// step, pages of later writes reach the disk in part, tails are lost or torn,
// bits flip in every file, and the disk is full. Each image opens with all that
// was acknowledged, mended from its other copy where needed, or is refused as
// damaged and then repaired from a peer. Beside it runs the control: what Badger
// alone would have lost of the same images without an error.
func TestNoAcknowledgedEntryIsLostUnnoticed(t *testing.T) {
	n := 200
	if *long {
		n = 10_000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	x := newExaminer(t)
	films := [][]shot{film(t, false), film(t, true)}
	c := &tally{counts: map[string]map[string]int{}}
	r := rand.New(rand.NewPCG(seed, 1))
	for done := 0; done < n; done += 500 { // few at a time, for memory
		each(t, trials(r, harms, films, min(500, n-done)), func(dir string, tr trial) {
			if !tr.mild && x.control(t, filepath.Join(dir, "control"), tr) {
				c.mu.Lock()
				c.control++
				c.mu.Unlock()
			}
			outcome, err := x.judge(filepath.Join(dir, "log"), tr.shot)
			c.add(tr.name, outcome)
			switch {
			case err != nil:
				t.Errorf("%s, image at %q: LOST: %v", tr.name, tr.at, err)
			case tr.mild && outcome == fromPeer:
				t.Errorf("%s, image at %q: an ordinary crash was refused", tr.name, tr.at)
			}
		})
	}
	for _, h := range harms {
		by := c.counts[h.name]
		t.Logf("%-26s %5d whole, %5d mended here, %5d refused and repaired from a peer, %d lost", h.name, by[whole], by[mended], by[fromPeer], by[""])
	}
	t.Logf("%d images: %d whole, %d mended, %d repaired from a peer, %d lost; Badger alone would have lost entries of %d without an error",
		n, c.of(whole), c.of(mended), c.of(fromPeer), c.of(""), c.control)
	if c.control == 0 || c.of(mended) == 0 || c.of(fromPeer) == 0 {
		t.Error("the images are too harmless to prove anything")
	}
}

// control reports whether Badger alone opens the image without an error and
// lacks acknowledged entries.
func (x *examiner) control(t *testing.T, dir string, tr trial) bool {
	if err := tr.disk.write(dir); err != nil {
		t.Error(err)
		return false
	}
	n, err := store.DatabaseAlone(dir, x.o)
	return err == nil && n < tr.acked
}

// TestABrokenRecoveryIsNoticed runs the same images through stores whose
// recovery lacks something: each must fail.
func TestABrokenRecoveryIsNoticed(t *testing.T) {
	films := [][]shot{film(t, false)}
	hard := slices.DeleteFunc(slices.Clone(harms), func(h harm) bool { return h.mild })
	hard = append(hard, harm{"both tails lost", false, bothTails})
	for how := range store.Broken {
		t.Run(how, func(t *testing.T) {
			x := newExaminer(t)
			x.open = store.OpenBroken(how)
			var mu sync.Mutex
			lost := 0
			each(t, trials(rand.New(rand.NewPCG(7, 7)), hard, films, 8*len(hard)), func(dir string, tr trial) {
				if _, err := x.judge(filepath.Join(dir, "log"), tr.shot); err != nil {
					mu.Lock()
					lost++
					mu.Unlock()
				}
			})
			t.Logf("%d of %d images show it", lost, 8*len(hard))
			if lost == 0 {
				t.Error("a store that loses entries passes")
			}
		})
	}
}
