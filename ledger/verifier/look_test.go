package verifier_test

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/verifier"
)

// othersOf is another history with the same beginning.
func othersOf(t *testing.T, seed uint64, n int) [][]byte {
	s := scene.New(t, seed).Begin()
	s.Transfers(100)
	s.Bytes32()
	s.Transfers(n)
	return s.Log
}

// TestASplitViewIsFoundByLookingElsewhere shows us one history and somebody else
// another; whoever serves the other one has its tiles.
func TestASplitViewIsFoundByLookingElsewhere(t *testing.T) {
	for name, c := range map[string]struct {
		size int
		kind ledger.EvidenceKind
	}{"of the same size": {300, ledger.TwoRoots}, "smaller": {200, ledger.OtherHistory}, "larger": {400, ledger.OtherHistory}} {
		t.Run(name, func(t *testing.T) {
			tw := small(t, 500)
			fork := newLog(t, tw, othersOf(t, 1, 400))
			fork.served = fork.sign(fork.at(c.size))
			tw.Net.Put("other", fork)
			l := newLog(t, tw, tw.Scene.Log)
			l.served = l.sign(l.at(300))
			v, _ := tw.Verifier(tw.VerifierConfig("uta"))
			ctx := context.Background()
			if _, err := v.Look(ctx, "", true); err != nil {
				t.Fatal(err)
			}
			if note, err := v.Look(ctx, "http://other", false); !errors.Is(err, ledger.ErrFork) || note == nil {
				t.Fatalf("got %v", err)
			}
			list, err := v.Held()
			if err != nil || len(list) != 1 || list[0].Kind != c.kind {
				t.Fatalf("held %v, %v", list, err)
			}
			if err := list[0].Check(tw.Policy); err != nil {
				t.Errorf("a stranger refuses it: %v", err)
			}
		})
	}
}

func TestALargerCheckpointElsewhereIsComparedNotTaken(t *testing.T) {
	tw := small(t, 500)
	l := newLog(t, tw, tw.Scene.Log)
	ahead := newLog(t, tw, tw.Scene.Log)
	ahead.served = ahead.sign(ahead.at(400))
	tw.Net.Put("other", ahead)
	tw.Net.Put("log", l)
	l.served = l.sign(l.at(300))
	v, _ := tw.Verifier(tw.VerifierConfig("uta"))
	ctx := context.Background()
	for _, prefix := range []string{"", "http://other"} {
		if _, err := v.Look(ctx, prefix, prefix == ""); err != nil {
			t.Fatal(err)
		}
	}
	if got := v.Status(); got.Size != 300 || got.Evidence != nil {
		t.Errorf("status %+v", got)
	}
	// With the log away, its mirror will do.
	tw.Net.Put("log", nil)
	if _, err := v.Look(ctx, "", true); err == nil {
		t.Error("the log is away and was looked at")
	}
	if _, err := v.Look(ctx, "http://other", true); err != nil {
		t.Fatal(err)
	}
	if got := v.Status(); got.Size != 400 || got.Cosigned != 400 {
		t.Errorf("status %+v", got)
	}
}

func TestAReceiptThatTheLogBreaksIsEvidence(t *testing.T) {
	s := scene.New(t, 1)
	s.Story(func(st scene.Step) uint64 { return s.Do(st) }) // it registers the receipt key
	tw := town.New(t, s)
	l := newLog(t, tw, s.Log)
	l.served = l.sign(l.at(len(s.Log)))
	v, _ := tw.Verifier(tw.VerifierConfig("uta"))
	ctx := context.Background()
	if _, err := v.Look(ctx, "", true); err != nil {
		t.Fatal(err)
	}
	pledge := func(index uint64, leaf ledger.Hash) ledger.Receipt {
		return ledger.SignReceipts(s.Receipt, ledger.Receipt{Origin: ledger.OriginHash(scene.Origin), Index: index, Leaf: leaf})[0]
	}
	if e, err := v.CheckReceipt(ctx, pledge(7, ledger.LeafHash(s.Log[7]))); e != nil || err != nil {
		t.Errorf("kept: %v, %v", e, err)
	}
	if _, err := v.CheckReceipt(ctx, pledge(uint64(len(s.Log)), ledger.Hash{})); !errors.Is(err, ledger.ErrBusy) {
		t.Errorf("beyond our copy: %v", err)
	}
	forged := ledger.SignReceipts(s.LogKey, ledger.Receipt{Origin: ledger.OriginHash(scene.Origin), Index: 7})[0]
	if _, err := v.CheckReceipt(ctx, forged); !errors.Is(err, ledger.ErrSignature) {
		t.Errorf("of another key: %v", err)
	}
	e, err := v.CheckReceipt(ctx, pledge(7, ledger.Hash{1}))
	if err != nil || e == nil {
		t.Fatalf("broken: %v, %v", e, err)
	}
	if err := e.Check(tw.Policy, scene.Pub(s.Receipt)); err != nil {
		t.Error(err)
	}
	if v.Status().Evidence == nil {
		t.Error("the status does not show it")
	}
}

// TestAMirrorStandsInForTheLog serves a copy that another verifier follows and a
// damaged log is refilled from, with the log itself away.
func TestAMirrorStandsInForTheLog(t *testing.T) {
	tw := small(t, 600)
	l := newLog(t, tw, tw.Scene.Log)
	policy := tw.Scene.Policy()
	l.served = tw.Scene.Checkpoint(602, l.at(602).Root, "utb", "independent")
	mirror, _ := tw.Verifier(tw.VerifierConfig("uta"))
	ctx := context.Background()
	if _, err := mirror.Look(ctx, "", true); err != nil {
		t.Fatal(err)
	}
	tw.Net.Put("log", nil)
	tw.Net.Put("mirror", mirror.Mirror())
	cfg := tw.VerifierConfig("utb")
	cfg.Policy = tw.Scene.Policy()
	cfg.Policy.LogURL = "http://mirror"
	v, _ := tw.Verifier(cfg)
	note, err := v.Look(ctx, "", true)
	if err != nil {
		t.Fatal(err)
	}
	c, cosigners, err := policy.Open(note)
	if err != nil || c.Size != 602 || !policy.Final(cosigners) || len(cosigners) != 3 {
		t.Errorf("checkpoint of the mirror: %+v, %v, %v", c, cosigners, err)
	}
	status, body := get(t, tw, "http://mirror/proof/17")
	p, err := ledger.ParseProof(body)
	if status != http.StatusOK || err != nil {
		t.Fatalf("proof: %d, %v", status, err)
	}
	if _, err := p.Verify(policy, ledger.LeafHash(tw.Scene.Log[17])); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]int{"/evidence": 404, "/proof/602": 404, "/proof/x": 400, "/" + town.Hash() + "/checkpoint": 200, "/add-checkpoint": 404, "/nothing": 404} {
		if status, _ := get(t, tw, "http://mirror"+path); status != want {
			t.Errorf("%s: status %d, want %d", path, status, want)
		}
	}
	if status, _, _ := post(t, tw, "mirror", l.grow(0, 10).Encode()); status != http.StatusMethodNotAllowed && status != http.StatusNotFound {
		t.Errorf("a mirror cosigns when asked: %d", status)
	}
	writer := tw.WriterConfig()
	repair := verifier.Config{Dir: filepath.Join(tw.Dir, "log"), Store: writer.Store, Machine: writer.Machine, Policy: policy, Transport: tw.Net, Clock: tw.Clock}
	if err := verifier.Repair(ctx, repair, "http://mirror"); err != nil {
		t.Fatal(err)
	}
	w, _ := tw.Writer(tw.WriterConfig())
	if w.Size() < 602 {
		t.Errorf("the repaired log has %d entries", w.Size())
	}
}

func TestAnOldCosignatureOfALogAtRestIsRenewed(t *testing.T) {
	tw := small(t, 50)
	clock := town.NewClock()
	tw.Clock = clock
	l := newLog(t, tw, tw.Scene.Log)
	l.served = l.sign(l.at(52))
	cfg := tw.VerifierConfig("uta")
	cfg.RenewEvery = time.Hour
	v, _ := tw.Verifier(cfg)
	at := func() time.Time {
		if _, err := v.Look(context.Background(), "", true); err != nil {
			t.Fatal(err)
		}
		_, note := v.Cosigned()
		_, n, err := ledger.OpenCheckpoint(note, tw.Policy.Witnesses[0].Key)
		if err != nil {
			t.Fatal(err)
		}
		when, err := ledger.CosignedAt(n.Sigs[0])
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	first := at()
	clock.Move(30 * time.Minute)
	if got := at(); got != first {
		t.Errorf("renewed after half an hour: %v, %v", first, got)
	}
	clock.Move(time.Hour)
	if got := at(); got.Sub(first) != 90*time.Minute {
		t.Errorf("not renewed: %v, %v", first, got)
	}
}
