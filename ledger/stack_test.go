package ledger_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/writer"
	"gridveil/privacy/note"
)

// stack is the whole writer with its store on a disk, killed from time to time.
type stack struct {
	rt     *rapid.T
	s      *scene.Scene
	root   string
	cfg    writer.Config
	w      *writer.Writer
	stop   func()
	opened int
	kills  map[string]int

	mu    sync.Mutex // guards armed
	armed string     // the step at which the writer dies next
}

var errKilled = errors.New("killed")

// startStack runs a writer that has the entries of a scene so far.
func startStack(rt *rapid.T, tw *town.Town, root string, kills map[string]int) *stack {
	x := &stack{rt: rt, s: tw.Scene, root: root, cfg: tw.WriterConfig(), kills: kills}
	x.cfg.Policy = ledger.NewPolicy(tw.Policy.Log)
	x.cfg.CheckpointEvery = 20 * time.Second // 40 ms on this clock
	x.cfg.Dir = filepath.Join(root, "0")
	x.cfg.Store.Fail = func(step string) error {
		x.mu.Lock()
		defer x.mu.Unlock()
		if step != x.armed {
			return nil
		}
		x.armed = ""
		x.kills[step]++
		return errKilled
	}
	x.open()
	for i, r := range x.w.Submit(context.Background(), x.s.Log) {
		if r.Err != nil {
			rt.Fatalf("entry %d: %v", i, r.Err)
		}
	}
	x.sync()
	return x
}

func (x *stack) open() {
	x.cfg.Machine = ledger.NewMoney(scene.Origin)
	w, err := writer.Open(x.cfg)
	if err != nil {
		x.rt.Fatalf("open after %v: %v", x.kills, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { w.Serve(ctx); close(done) }() // waited for by stop
	x.w, x.stop = w, func() { cancel(); <-done; w.Close() }
	x.opened++
}

// reopen goes on from what is on disk, without an orderly end.
func (x *stack) reopen() {
	old, next := x.cfg.Dir, filepath.Join(x.root, strconv.Itoa(x.opened))
	for {
		err := os.CopyFS(next, os.DirFS(old))
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) { // else Badger tidied up meanwhile
			x.rt.Fatal(err)
		}
		os.RemoveAll(next)
	}
	x.stop()
	os.RemoveAll(old)
	x.cfg.Dir = next
	x.open()
	x.sync()
}

// sync makes the scene show the writer's state. Nothing changes it before the
// next enter.
func (x *stack) sync() {
	x.w.Read(func(m ledger.Machine) { x.s.State = m.(*ledger.Money).State })
}

func (x *stack) enter(body ledger.Body, author ledger.PartyID, signers []ledger.PartyID) ([32]byte, error) {
	if x.s.N(60) == 0 { // from the scene's seed: rapid prefers small numbers
		step := fmt.Sprintf("W%d", 1+x.s.N(9))
		if x.s.N(2) == 0 {
			step += " done"
		}
		x.mu.Lock()
		x.armed = step
		x.mu.Unlock()
	}
	e := x.s.Entry(scene.Step{Author: author, Body: body, Signers: x.s.As(signers...)})
	for range 10 { // one kill is armed at a time
		r := x.w.Submit(context.Background(), [][]byte{e.Bytes()})[0]
		if errors.Is(r.Err, ledger.ErrHalted) {
			x.reopen() // whoever has no receipt sends the same bytes again
			continue
		}
		x.sync()
		return e.Leaf(), r.Err
	}
	x.rt.Fatal("the writer stops again and again")
	return [32]byte{}, nil
}

func (x *stack) note(i int) note.Spent { return note.Spent{Note: x.s.Note(i)} }

func (x *stack) redeem(payee ledger.Account, n note.Spent) *ledger.Redeem {
	return x.s.Redeem(payee, n.Note)
}

// TestG2TheWholeStackAgreesWithAMap is guarantee G2 of the running writer: every
// entry is signed, checked, applied and made durable, and the writer is killed
// before or after its durable steps and goes on from its disk. Whatever had no
// receipt is sent again. Balances sum to zero after every entry, nothing is paid
// twice, and all agrees with a plain map. 2000 steps, 10^6 with -long.
func TestG2TheWholeStackAgreesWithAMap(t *testing.T) {
	runs, steps := 2, 1000
	if *long {
		runs = 1000
	}
	if err := flag.Set("rapid.checks", strconv.Itoa(runs)); err != nil {
		t.Fatal(err)
	}
	seen, kills := map[string]int{}, map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		root := town.RAM(t)
		defer os.RemoveAll(root)
		s := scene.New(t, uint64(rapid.Uint32().Draw(rt, "seed"))).Begin()
		s.By(scene.Evagg, s.Denoms())
		x := startStack(rt, town.New(t, s), root, kills)
		defer func() { x.stop() }()
		m := walk(rt, s, x, steps, seen)
		x.reopen()
		m.check()
	})
	t.Logf("accepted: %v", seen)
	t.Logf("killed at: %v", kills)
	total := 0
	for i := 1; i <= 9; i++ {
		n := kills[fmt.Sprintf("W%d", i)] + kills[fmt.Sprintf("W%d done", i)]
		if total += n; *long && n == 0 {
			t.Errorf("never killed at W%d", i)
		}
	}
	if total < 5 {
		t.Errorf("killed %d times only", total)
	}
	if *long {
		report(t, seen)
	}
}
