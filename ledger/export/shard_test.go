package export

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
)

// heir is a log in memory that goes on from a sealed one.
type heir struct {
	memory
	carried []byte
}

func (h heir) Carried() ([]byte, error) { return h.carried, nil }

// shards are three logs of one ledger, exported.
func shards(t *testing.T) (s *scene.Scene, policy *ledger.Policy, dirs []string, states []*ledger.State) {
	t.Helper()
	s = scene.New(t, 21).Begin()
	policy = s.Policy()
	var carried []byte
	for n := range 3 {
		s.Transfers(40)
		s.Pass(3)
		s.By(scene.Evagg, &ledger.Close{Period: s.State.NextClose(0), Pays: s.State.Net(0)})
		s.Transfers(260) // more than one bundle
		own, state, dir := s.Policy(), s.State, filepath.Join(t.TempDir(), fmt.Sprint(2026+n))
		log, note, next := s.Log, []byte(nil), []byte(nil)
		if n < 2 {
			log, note, next = s.GoOn(fmt.Sprintf("%s/%d", scene.Origin, 2027+n))
		} else {
			note = s.Final("uta", "independent")
		}
		var src Source = memory{log, note}
		if n > 0 {
			src = heir{memory{log, note}, carried}
		}
		if _, err := Archive(dir, src, Config{Policy: own, Accounts: banks()}); err != nil {
			t.Fatal(err)
		}
		carried, dirs, states = next, append(dirs, dir), append(states, state)
	}
	return s, policy, dirs, states
}

// TestShardsAreVerifiedAsOneLedger judges three yearly logs by their files: each
// alone and all in a row, under the policy of the first.
func TestShardsAreVerifiedAsOneLedger(t *testing.T) {
	_, policy, dirs, states := shards(t)
	list, err := VerifyShards(dirs, policy)
	if err != nil || len(list) != 3 {
		t.Fatalf("%d reports, %v", len(list), err)
	}
	for i, r := range list {
		if !r.Trusted || (r.After == "") != (i == 0) || (r.Sealed == "") != (i == 2) {
			t.Errorf("report %d: %+v", i, r)
		}
		book, err := OpenBook(dirs[i])
		if err != nil {
			t.Fatal(err)
		}
		if i == 2 && book.State.Hash() != states[i].Hash() {
			t.Error("the last state is another")
		}
		for _, a := range book.accounts() {
			if book.State.Balance(a) != states[i].Balance(a) {
				t.Errorf("shard %d, %v: %d, want %d", i, a, book.State.Balance(a), states[i].Balance(a))
			}
		}
		if _, err := Verify(dirs[i], nil); err != nil {
			t.Errorf("shard %d alone: %v", i, err)
		}
		judge(t, dirs[i])
	}
	if _, err := VerifyShards(dirs, nil); err != nil {
		t.Errorf("by their own policies: %v", err)
	}
	var shard *ShardError
	for name, wrong := range map[string][]string{"out of order": {dirs[1], dirs[0]}, "one left out": {dirs[0], dirs[2]}, "on after the last": {dirs[2], dirs[0]}, "twice": {dirs[0], dirs[0]}} {
		if _, err := VerifyShards(wrong, nil); !errors.As(err, &shard) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// judge lets the programs of others compute the balances of a shard.
func judge(t *testing.T, dir string) {
	t.Helper()
	for _, c := range [][]string{{"hledger", "check", "--strict", "-f", filepath.Join(dir, fileHledger)}, {"bean-check", filepath.Join(dir, fileBeancount)}} {
		if _, err := exec.LookPath(c[0]); err != nil {
			t.Logf("%s is not installed: its judgement is left out", c[0])
			continue
		}
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", c[0], err, out)
		}
	}
}

// TestWhatAShardCarriesCannotBeChanged flips bytes of what was carried over, of
// the next log's first entry and of the sealed log's end.
func TestWhatAShardCarriesCannotBeChanged(t *testing.T) {
	s, policy, dirs, _ := shards(t)
	all := files(t, dirs[1])
	carried := all[fileCarried]
	step := max(len(carried)/25, 1)
	if *long {
		step = 1
	}
	for i := s.N(step); i < len(carried); i += step {
		bad := bytes.Clone(carried)
		bad[i] ^= byte(1 << s.N(8))
		mustWrite(t, dirs[1], fileCarried, bad)
		refusedByName(t, dirs[1], policy.As(scene.Origin+"/2027"), fileCarried, i)
	}
	if err := os.Remove(filepath.Join(dirs[1], fileCarried)); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dirs[1], nil); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), fileCarried) {
		t.Errorf("without what was carried: %v", err)
	}
	mustWrite(t, dirs[1], fileCarried, carried)
	mustWrite(t, dirs[0], fileCarried, carried)
	if _, err := Verify(dirs[0], nil); !errors.Is(err, ErrUnexpected) {
		t.Errorf("a first log that carries something: %v", err)
	}
}

// TestAShardThatGoesOnFromAnotherEndIsRefused begins a log with another state
// than the sealed one ended with, or with a checkpoint without its quorum.
func TestAShardThatGoesOnFromAnotherEndIsRefused(t *testing.T) {
	build := func(seed uint64, n int, witnesses ...string) (first, second string, policy *ledger.Policy) {
		s := scene.New(t, seed).Begin()
		policy = s.Policy()
		s.Transfers(n)
		const next = scene.Origin + "/2027"
		s.By(scene.Evagg, &ledger.Seal{Next: next})
		dir := t.TempDir()
		first, second = filepath.Join(dir, "1"), filepath.Join(dir, "2")
		if _, err := Archive(first, memory{s.Log, s.Final("uta", "utb")}, Config{Policy: policy}); err != nil {
			t.Fatal(err)
		}
		carried, err := s.State.Carry()
		if err != nil {
			t.Fatal(err)
		}
		sealed := s.Final(witnesses...)
		if s.State, err = ledger.Succeed(s.Here, next, carried); err != nil {
			t.Fatal(err)
		}
		s.Here, s.Log = next, nil
		s.By(scene.Evagg, s.State.NewShard(s.State.Params(), sealed))
		if _, err := Archive(second, heir{memory{s.Log, s.Final("uta", "utb")}, carried}, Config{Policy: s.Policy()}); err != nil {
			t.Fatal(err)
		}
		return first, second, policy
	}
	one, two, policy := build(3, 20, "uta", "utb")
	if _, err := VerifyShards([]string{one, two}, policy); err != nil {
		t.Fatal(err)
	}
	_, other, _ := build(3, 21, "uta", "utb")
	var entry *EntryError
	if _, err := VerifyShards([]string{one, other}, policy); !errors.As(err, &entry) || entry.Index != 0 || !errors.Is(err, ledger.ErrState) {
		t.Errorf("another end: %v", err)
	}
	three, four, policy := build(4, 20, "uta")
	if _, err := VerifyShards([]string{three, four}, policy); !errors.As(err, &entry) || !errors.Is(err, ledger.ErrSignature) {
		t.Errorf("without the quorum: %v", err)
	}
}
