package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
