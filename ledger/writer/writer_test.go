package writer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/verifier"
	"gridveil/ledger/writer"
)

// story is a log in which every kind of entry happens, then transfers.
func story(t testing.TB, transfers int) *scene.Scene {
	t.Helper()
	s := scene.New(t, 1)
	s.Story(s.Do)
	s.Transfers(transfers)
	return s
}

// transfers is a log of genesis, a tick and n transfers between operators.
func transfers(t testing.TB, n int) *scene.Scene {
	t.Helper()
	s := scene.New(t, 1).Begin()
	s.Transfers(n)
	return s
}

func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func stateOf(w *writer.Writer) (hash [32]byte) {
	w.Read(func(m ledger.Machine) { hash = m.Hash() })
	return hash
}

func TestEntriesBecomeFinalUnderTheCosignaturesOfReplayingVerifiers(t *testing.T) {
	s := story(t, 600)
	tw := town.New(t, s)
	verifiers := tw.Verifiers()
	w, _ := tw.Writer(tw.WriterConfig())
	results := tw.Submit(w, s.Log)
	tw.Final(w, uint64(len(s.Log)))
	for i, r := range results {
		if r.Exists || r.Receipt.Index != uint64(i) || r.Receipt.Leaf != ledger.LeafHash(s.Log[i]) {
			t.Fatalf("entry %d: receipt %+v", i, r.Receipt)
		}
		if err := r.Receipt.Verify(scene.Origin, scene.Pub(s.Receipt)); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		if i%97 != 0 {
			continue
		}
		p, err := w.Proof(uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Verify(tw.Policy, r.Receipt.Leaf); err != nil {
			t.Errorf("proof of entry %d: %v", i, err)
		}
	}
	if stateOf(w) != s.State.Hash() {
		t.Error("the writer's state is not the scene's")
	}
	for name, v := range verifiers {
		v.Read(func(m ledger.Machine) {
			if st := v.Status(); st.Cosigned == uint64(len(s.Log)) && m.Hash() != s.State.Hash() {
				t.Errorf("%s cosigned another state", name)
			}
		})
	}
	eventually(t, func() bool { return len(w.Status().Cosigners) == 3 })
}

// eventually waits for what other goroutines bring about.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
		<-time.After(2 * time.Millisecond)
	}
}

// TestTheSameEntryCountsOnce is guarantee G7 for the writer.
func TestTheSameEntryCountsOnce(t *testing.T) {
	s := transfers(t, 200)
	tw := town.New(t, s)
	w, stop := tw.Writer(tw.WriterConfig())
	first := tw.Submit(w, s.Log)
	again := func(w *writer.Writer) {
		t.Helper()
		log := slices.Clone(s.Log)
		slices.Reverse(log)
		for i, r := range tw.Submit(w, log) {
			old := first[len(first)-1-i].Receipt
			if !r.Exists || r.Receipt.Index != old.Index || r.Receipt.Leaf != old.Leaf {
				t.Fatalf("entry %d sent again: %+v", old.Index, r)
			}
			if err := r.Receipt.Verify(scene.Origin, scene.Pub(s.Receipt)); err != nil {
				t.Fatal(err)
			}
		}
		if w.Size() != uint64(len(s.Log)) {
			t.Errorf("the log has %d entries", w.Size())
		}
	}
	again(w)
	stop()
	w, _ = tw.Writer(tw.WriterConfig())
	again(w)
	changed, err := ledger.NewEntry(scene.Uta, 1, &ledger.Anchor{Topic: ledger.TopicTask})
	if err != nil {
		t.Fatal(err)
	}
	if err := ledger.Sign(changed, scene.Origin, s.Keys[scene.Uta]); err != nil {
		t.Fatal(err)
	}
	var conflict *ledger.SeqConflictError
	if r := w.Submit(background(t), [][]byte{changed.Bytes()})[0]; !errors.As(r.Err, &conflict) {
		t.Errorf("other bytes under a used number: %v", r.Err)
	}
}

// TestACrashOfTheWriterLosesNoReceipt kills the writer before each step while
// operators submit, opens it again, and lets them send again what they have no
// receipt for.
func TestACrashOfTheWriterLosesNoReceipt(t *testing.T) {
	for _, step := range []string{"W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			s := transfers(t, 240)
			tw := town.New(t, s)
			tw.Verifiers()
			cfg := tw.WriterConfig()
			var mu sync.Mutex
			times := 0
			cfg.Store.Fail = func(name string) error {
				mu.Lock()
				defer mu.Unlock()
				if name == step {
					if times++; times == 3 {
						return errors.New("crash")
					}
				}
				return nil
			}
			w, err := writer.Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			tw.Net.Put("log", w.Handler())
			stopped := tw.Run(w.Serve)
			receipts := map[uint64]ledger.Hash{}
			for from := 0; from < len(s.Log); from += 20 {
				results := w.Submit(background(t), s.Log[from:min(from+20, len(s.Log))])
				for i, r := range results {
					if r.Err == nil {
						receipts[r.Receipt.Index] = ledger.LeafHash(s.Log[from+i])
					}
				}
				if results[0].Err != nil {
					break
				}
				waitFinal(t, w, uint64(len(receipts))) // so that W5 to W9 happen in between
			}
			if err := stopped(); !errors.Is(err, ledger.ErrHalted) {
				t.Fatalf("Serve: %v", err)
			}
			w.Close()
			cfg.Store.Fail, cfg.Machine = nil, ledger.NewMoney(scene.Origin)
			w, _ = tw.Writer(cfg)
			for index, leaf := range receipts {
				raw, err := w.Entry(index)
				if err != nil || ledger.LeafHash(raw) != leaf {
					t.Fatalf("entry %d has a receipt and is gone: %v", index, err)
				}
			}
			tw.Submit(w, s.Log[max(0, len(receipts)-10):])
			tw.Final(w, uint64(len(s.Log)))
			if stateOf(w) != s.State.Hash() || w.Size() != uint64(len(s.Log)) {
				t.Errorf("after the crash the log is another one, size %d", w.Size())
			}
		})
	}
}

// waitFinal waits until a size is final or the writer has crashed.
func waitFinal(t *testing.T, w *writer.Writer, size uint64) {
	t.Helper()
	eventually(t, func() bool {
		c, _ := w.Final()
		return c.Size >= size || w.Status().Err != nil
	})
}

func TestFinalNeedsTheQuorum(t *testing.T) {
	s := transfers(t, 60)
	tw := town.New(t, s)
	_, stopUta := tw.Verifier(tw.VerifierConfig("uta"))
	w, _ := tw.Writer(tw.WriterConfig())
	tw.Submit(w, s.Log[:20])
	eventually(t, func() bool { return w.Status().Witnesses[0].Size == 20 })
	if c, msg := w.Final(); c.Size != 0 || msg != nil {
		t.Fatalf("final with one of three: size %d", c.Size)
	}
	if _, err := w.Proof(3); !errors.Is(err, ledger.ErrMalformed) {
		t.Errorf("a proof of what is not final: %v", err)
	}
	tw.Verifier(tw.VerifierConfig("utb"))
	tw.Final(w, 20)
	tw.Submit(w, s.Log[20:40])
	tw.Final(w, 40)
	stopUta()
	tw.Submit(w, s.Log[40:])
	eventually(t, func() bool { return w.Status().Witnesses[0].Err != nil })
	tw.Verifier(tw.VerifierConfig("independent"))
	tw.Final(w, uint64(len(s.Log)))
	_, msg := w.Final()
	if _, err := tw.Policy.OpenFinal(msg); err != nil {
		t.Error(err)
	}
	tw.Verifier(tw.VerifierConfig("uta")) // and who was away is asked again
	eventually(t, func() bool { return len(w.Status().Cosigners) == 3 })
}

func TestALogWithoutWitnessesIsFinalAtOnce(t *testing.T) {
	s := transfers(t, 20)
	tw := town.New(t, s)
	cfg := tw.WriterConfig()
	cfg.Policy = ledger.NewPolicy(tw.Policy.Log)
	w, _ := tw.Writer(cfg)
	tw.Submit(w, s.Log)
	tw.Final(w, uint64(len(s.Log)))
}

func TestAHostileSubmitterDelaysNobodyElse(t *testing.T) {
	s := transfers(t, 400)
	tw := town.New(t, s)
	w, _ := tw.Writer(tw.WriterConfig())
	tw.Submit(w, s.Log[:2])
	var forged [][]byte
	for i := range uint64(200) {
		e, err := ledger.NewEntry(scene.Regulator, 1+i, &ledger.Anchor{Topic: ledger.TopicTask, Ref: ledger.Hash{byte(i)}})
		if err == nil {
			err = ledger.Sign(e, scene.Origin, s.Keys[scene.Regulator])
		}
		if err != nil {
			t.Fatal(err)
		}
		raw := slices.Clone(e.Bytes())
		raw[len(raw)-1] ^= 1
		forged = append(forged, raw)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, r := range w.SubmitAs(background(t), "mallory", forged) {
			if !errors.Is(r.Err, ledger.ErrSignature) {
				t.Errorf("a forged entry: %v", r.Err)
			}
		}
	})
	for _, r := range w.SubmitAs(background(t), "uta", s.Log[2:]) {
		if r.Err != nil {
			t.Errorf("an honest entry: %v", r.Err)
		}
	}
	wg.Wait()
	if got := w.Status().Slowed; !slices.Equal(got, []string{"mallory"}) {
		t.Errorf("slowed: %v", got)
	}
	for range 20 {
		w.SubmitAs(background(t), "mallory", s.Log[2:3]) // behaves again
	}
	if got := w.Status().Slowed; len(got) > 0 {
		t.Errorf("still slowed: %v", got)
	}
}

func TestAQueueHasItsLimit(t *testing.T) {
	s := transfers(t, 10)
	tw := town.New(t, s)
	w, err := writer.Open(tw.WriterConfig()) // nobody takes from the queues
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	flood := make([][]byte, 4097)
	for i := range flood {
		flood[i] = s.Log[2]
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	busy := 0
	for _, r := range w.SubmitAs(ctx, "mallory", flood) {
		if errors.Is(r.Err, ledger.ErrBusy) {
			busy++
		} else if !errors.Is(r.Err, context.DeadlineExceeded) {
			t.Fatal(r.Err)
		}
	}
	if busy != 1 {
		t.Errorf("%d of 4097 entries are one too many", busy)
	}
	stop := tw.Run(w.Serve)
	tw.Submit(w, s.Log[:3]) // another submitter has its own queue
	if err := stop(); err != nil {
		t.Error(err)
	}
	if r := w.Submit(background(t), s.Log[3:4])[0]; !errors.Is(r.Err, ledger.ErrHalted) {
		t.Errorf("after the end: %v", r.Err)
	}
}

// TestALogThatWasSetBackStopsSigning gives the writer an older copy of its disk.
func TestALogThatWasSetBackStopsSigning(t *testing.T) {
	s := transfers(t, 100)
	tw := town.New(t, s)
	tw.Verifiers()
	cfg := tw.WriterConfig()
	cfg.Dir += "-old"
	w, stop := tw.Writer(cfg)
	tw.Submit(w, s.Log[:30])
	tw.Final(w, 30)
	stop()
	copied := tw.WriterConfig()
	town.Copy(t, cfg.Dir, copied.Dir)
	cfg.Machine = ledger.NewMoney(scene.Origin)
	w, stop = tw.Writer(cfg)
	tw.Submit(w, s.Log[30:90])
	tw.Final(w, 90)
	eventually(t, func() bool { return len(w.Status().Cosigners) == 3 })
	stop()
	w, err := writer.Open(copied) // the disk of yesterday
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	stopped := tw.Run(w.Serve)
	w.Submit(background(t), s.Log[30:40])
	eventually(t, func() bool { return w.Status().Err != nil })
	if err := stopped(); !errors.Is(err, ledger.ErrDamaged) || !errors.Is(err, ledger.ErrHalted) {
		t.Errorf("Serve: %v", err)
	}
	repaired := tw.VerifierConfig("uta")
	repaired.Dir, repaired.Machine = copied.Dir, ledger.NewMoney(scene.Origin)
	w.Close()
	if err := verifier.Repair(background(t), repaired, "http://utb/"+town.Hash()); err != nil {
		t.Fatal(err)
	}
	copied.Machine = ledger.NewMoney(scene.Origin)
	w, _ = tw.Writer(copied)
	if w.Size() != 90 {
		t.Fatalf("repaired log has %d entries", w.Size())
	}
	tw.Submit(w, s.Log[80:])
	tw.Final(w, uint64(len(s.Log)))
}

// TestASecondWriterIsCaught runs two writers with the same keys from the same
// beginning, one after the other.
func TestASecondWriterIsCaught(t *testing.T) {
	s := transfers(t, 200)
	other := scene.New(t, 1).Begin() // the same operators, keys and beginning
	other.Transfers(28)
	other.Bytes32()
	other.Transfers(172)
	tw := town.New(t, s)
	verifiers := tw.Verifiers()
	cfg := tw.WriterConfig()
	cfg.Dir += "-first"
	second := tw.WriterConfig()
	w, stop := tw.Writer(cfg)
	tw.Submit(w, s.Log[:30])
	tw.Final(w, 30)
	stop()
	town.Copy(t, cfg.Dir, second.Dir)
	cfg.Machine = ledger.NewMoney(scene.Origin)
	w, stop = tw.Writer(cfg)
	tw.Submit(w, s.Log[30:90])
	tw.Final(w, 90)
	eventually(t, func() bool { return len(w.Status().Cosigners) == 3 })
	stop()
	w, _ = tw.Writer(second)
	tw.Submit(w, other.Log[30:120]) // its witnesses know 90 entries of another history
	for name, v := range verifiers {
		eventually(t, func() bool { return v.Status().Evidence != nil })
		if e := v.Status().Evidence; e.Check(tw.Policy) != nil || e.Kind != ledger.OtherHistory {
			t.Errorf("%s: evidence %+v", name, e)
		}
		if got := v.Status().Cosigned; got != 90 {
			t.Errorf("%s cosigned %d", name, got)
		}
	}
	if c, _ := w.Final(); c.Size != 30 {
		t.Errorf("the second history is final up to %d", c.Size)
	}
}

func TestAWitnessThatLiesAboutItsSizeStopsNothing(t *testing.T) {
	s := transfers(t, 40)
	tw := town.New(t, s)
	tw.Verifier(tw.VerifierConfig("uta"))
	tw.Verifier(tw.VerifierConfig("utb"))
	tw.Net.Put("independent", liar{})
	w, _ := tw.Writer(tw.WriterConfig())
	tw.Submit(w, s.Log)
	tw.Final(w, uint64(len(s.Log)))
	eventually(t, func() bool { return w.Status().Witnesses[2].Err != nil })
	if err := w.Status().Err; err != nil {
		t.Errorf("the writer stopped: %v", err)
	}
}

func TestTicksComeWithTrafficOnly(t *testing.T) {
	s := transfers(t, 100)
	tw := town.New(t, s)
	clock := town.NewClock()
	tw.Clock = clock
	for _, name := range []string{"uta", "utb"} {
		cfg := tw.VerifierConfig(name)
		cfg.MaxBehind, cfg.MaxAhead = 0, 0 // as in earnest
		tw.Verifier(cfg)
	}
	cfg := tw.WriterConfig()
	cfg.Tick = writer.MoneyTick(scene.Origin, s.Keys[scene.Evagg])
	w, _ := tw.Writer(cfg)
	tw.Submit(w, s.Log[:10])
	if w.Size() != 10 {
		t.Errorf("a tick although the last one is fresh: size %d", w.Size())
	}
	clock.Move(time.Minute)
	eventually(t, func() bool { return w.Size() == 11 })
	for range 20 {
		clock.Move(time.Minute)
		<-time.After(time.Millisecond)
	}
	if w.Size() != 11 {
		t.Fatalf("%d ticks without traffic", w.Size()-11)
	}
	clock.Move(100 * time.Hour)
	tw.Submit(w, s.Log[10:20])
	moving := tw.Run(func(ctx context.Context) error { // seconds pass
		for ctx.Err() == nil {
			clock.Move(100 * time.Millisecond)
			<-time.After(time.Millisecond)
		}
		return nil
	})
	tw.Final(w, 22) // what came after the silence is under a fresh tick
	moving()
	if at := w.Status().LogTime; clock.Now().Sub(at) > 5*time.Minute {
		t.Errorf("log time is %v behind", clock.Now().Sub(at))
	}
	size := w.Size()
	clock.Move(time.Second)
	if err := w.Tick(background(t)); err != nil || w.Size() != size+1 {
		t.Errorf("a demanded tick: size %d, %v", w.Size(), err)
	}
}

func TestOwnEntriesAndTicksShareOneSequence(t *testing.T) {
	s := transfers(t, 1)
	tw := town.New(t, s)
	tw.Clock = &town.Fast{Speed: 5000}
	cfg := tw.WriterConfig()
	cfg.Policy = ledger.NewPolicy(tw.Policy.Log)
	cfg.Tick = writer.MoneyTick(scene.Origin, s.Keys[scene.Evagg])
	money := cfg.Machine.(*ledger.Money)
	w, _ := tw.Writer(cfg)
	tw.Submit(w, s.Log)
	build := func(i int) func(context.Context) ([][]byte, error) {
		return func(context.Context) (raw [][]byte, err error) {
			var next uint64
			w.Read(func(ledger.Machine) { next = money.State.NextSeq(1) })
			<-time.After(2 * time.Millisecond) // another party signs
			for k := range uint64(2) {
				e, err := ledger.NewEntry(1, next+k, &ledger.Anchor{Topic: ledger.TopicTask, Ref: ledger.Hash{byte(i), byte(k)}})
				if err == nil {
					err = ledger.Sign(e, scene.Origin, s.Keys[scene.Evagg])
				}
				if err != nil {
					return nil, err
				}
				raw = append(raw, e.Bytes())
			}
			return raw, nil
		}
	}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			results, err := w.Post(background(t), build(i))
			if err != nil {
				t.Error(err)
				return
			}
			for _, r := range results {
				if r.Err != nil {
					t.Error(r.Err)
				}
			}
		})
	}
	wg.Wait()
	if ticks := w.Size() - uint64(len(s.Log)) - 80; ticks == 0 {
		t.Error("the test saw no tick")
	}
	refusal := fmt.Errorf("the payer is away")
	if _, err := w.Post(background(t), func(context.Context) ([][]byte, error) { return nil, refusal }); !errors.Is(err, refusal) {
		t.Errorf("got %v", err)
	}
}

func TestWatchShowsEachFinalEntryOnce(t *testing.T) {
	s := transfers(t, 120)
	tw := town.New(t, s)
	tw.Verifiers()
	w, stop := tw.Writer(tw.WriterConfig())
	next := uint64(0)
	enough := errors.New("enough")
	watch := func(upTo uint64) func(uint64, []byte) error {
		return func(index uint64, raw []byte) error {
			if index != next || ledger.LeafHash(raw) != ledger.LeafHash(s.Log[index]) {
				t.Errorf("entry %d comes when %d is due", index, next)
			}
			if c, _ := w.Final(); c.Size <= index {
				t.Errorf("entry %d is not final", index)
			}
			if next++; next == upTo {
				return enough
			}
			return nil
		}
	}
	tw.Submit(w, s.Log[:50])
	if err := w.Watch(background(t), next, watch(40)); !errors.Is(err, enough) {
		t.Fatal(err)
	}
	stop()
	w, _ = tw.Writer(tw.WriterConfig())
	if c, _ := w.Final(); c.Size < 40 {
		t.Errorf("after a restart only %d entries are final", c.Size)
	}
	tw.Submit(w, s.Log[50:])
	if err := w.Watch(background(t), next, watch(uint64(len(s.Log)))); !errors.Is(err, enough) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.Watch(ctx, next, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestOpenRefusesAConfigThatCannotWork(t *testing.T) {
	s := transfers(t, 1)
	tw := town.New(t, s)
	for name, change := range map[string]func(*writer.Config){
		"no directory":      func(c *writer.Config) { c.Dir = "" },
		"no machine":        func(c *writer.Config) { c.Machine = nil },
		"no receipt key":    func(c *writer.Config) { c.ReceiptKey = nil },
		"another log's key": func(c *writer.Config) { c.LogKey = s.Receipt },
		"key of wrong size": func(c *writer.Config) { c.Store.Key = []byte("short") },
	} {
		cfg := tw.WriterConfig()
		change(&cfg)
		if w, err := writer.Open(cfg); err == nil {
			w.Close()
			t.Errorf("%s: opened", name)
		}
	}
}
