package verifier_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/verifier"
)

func TestACrashOfAVerifierLosesNoCosignature(t *testing.T) {
	for _, step := range []string{"W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9"} {
		t.Run(step, func(t *testing.T) {
			tw := small(t, 100)
			l := newLog(t, tw, tw.Scene.Log)
			cfg := tw.VerifierConfig("uta")
			armed := false
			cfg.Store.Fail = func(name string) error {
				if armed && name == step {
					return errors.New("crash")
				}
				return nil
			}
			_, stop := tw.Verifier(cfg)
			if status, answer, _ := post(t, tw, "uta", l.grow(0, 50).Encode()); status != http.StatusOK {
				t.Fatalf("%d %s", status, answer)
			}
			armed = true
			if status, _, _ := post(t, tw, "uta", l.grow(50, 80).Encode()); status != http.StatusServiceUnavailable {
				t.Errorf("during the crash: status %d", status)
			}
			stop()
			cfg.Store.Fail, cfg.Machine = nil, ledger.NewMoney(scene.Origin)
			tw.Verifier(cfg)
			// The log asks as it would: from what it knows, then as 409 tells it.
			status, answer, _ := post(t, tw, "uta", l.grow(50, 90).Encode())
			if status == http.StatusConflict {
				own, err := strconv.Atoi(strings.TrimSpace(string(answer)))
				if err != nil || own != 80 {
					t.Fatalf("409 with %q", answer)
				}
				status, answer, _ = post(t, tw, "uta", l.grow(own, 90).Encode())
			}
			if status != http.StatusOK {
				t.Fatalf("%d %s", status, answer)
			}
		})
	}
}

func TestRepairRefillsADamagedLogFromAPeer(t *testing.T) {
	tw := small(t, 700)
	l := newLog(t, tw, tw.Scene.Log)
	tw.Verifier(tw.VerifierConfig("utb"))
	if status, answer, _ := post(t, tw, "utb", l.grow(0, 690).Encode()); status != http.StatusOK {
		t.Fatalf("%d %s", status, answer)
	}
	cfg := tw.VerifierConfig("uta")
	_, stop := tw.Verifier(cfg)
	if status, answer, _ := post(t, tw, "uta", l.grow(0, 600).Encode()); status != http.StatusOK {
		t.Fatalf("%d %s", status, answer)
	}
	stop()
	for _, part := range []string{"badger", "journal"} {
		if err := os.RemoveAll(filepath.Join(cfg.Dir, part)); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Machine = ledger.NewMoney(scene.Origin)
	if _, err := verifier.Open(cfg); !errors.Is(err, ledger.ErrDamaged) {
		t.Fatalf("opening the damaged log: %v", err)
	}
	peer := strings.Replace(prefix(), "uta", "utb", 1)
	tw.Net.Put("log", nil) // the log itself is away
	cfg.Machine = ledger.NewMoney(scene.Origin)
	if err := verifier.Repair(context.Background(), cfg, peer); err != nil {
		t.Fatal(err)
	}
	cfg.Machine = ledger.NewMoney(scene.Origin)
	v, _ := tw.Verifier(cfg)
	if got := v.Status(); got.Size != 690 || got.Cosigned != 690 {
		t.Errorf("status %+v", got)
	}
	tw.Net.Put("log", l)
	if status, answer, _ := post(t, tw, "uta", l.grow(690, 700).Encode()); status != http.StatusOK {
		t.Errorf("%d %s", status, answer)
	}
	if kept, _ := filepath.Glob(cfg.Dir + ".damaged-*"); len(kept) != 1 {
		t.Errorf("the damaged files are at %v", kept)
	}
}

func TestRepairRefusesAPeerWithLessOrOther(t *testing.T) {
	tw := small(t, 300)
	l := newLog(t, tw, tw.Scene.Log)
	cfg := tw.VerifierConfig("uta")
	_, stop := tw.Verifier(cfg)
	if status, answer, _ := post(t, tw, "uta", l.grow(0, 200).Encode()); status != http.StatusOK {
		t.Fatalf("%d %s", status, answer)
	}
	stop()
	repair := func() error {
		cfg.Machine = ledger.NewMoney(scene.Origin)
		return verifier.Repair(context.Background(), cfg, "http://log")
	}
	l.served = l.sign(l.at(199))
	if err := repair(); !errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("a shorter peer: got %v", err)
	}
	s := scene.New(t, 1).Begin()
	s.Bytes32()
	s.Transfers(300)
	fork := newLog(t, tw, s.Log)
	fork.served = fork.sign(fork.at(250))
	if err := repair(); !errors.Is(err, ledger.ErrFork) {
		t.Errorf("another history: got %v", err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, "HEAD"), make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	l = newLog(t, tw, tw.Scene.Log)
	l.served = l.sign(l.at(250))
	if err := repair(); !errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("own head lost, peer without the quorum: got %v", err)
	}
	l.served = tw.Scene.Checkpoint(250, l.at(250).Root, "utb", "independent")
	if err := repair(); err != nil {
		t.Errorf("own head lost, peer with the quorum: %v", err)
	}
}
