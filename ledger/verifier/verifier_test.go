package verifier_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/tile"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/verifier"
)

// fakeLog is a log that a test shapes as it likes: it serves tiles of any
// entries and signs any checkpoint.
type fakeLog struct {
	t       testing.TB
	town    *town.Town
	entries [][]byte
	hashes  *tile.Hashes
	served  []byte // GET /checkpoint
}

func newLog(t testing.TB, tw *town.Town, entries [][]byte) *fakeLog {
	t.Helper()
	l := &fakeLog{t: t, town: tw, entries: entries, hashes: new(tile.Hashes)}
	for _, raw := range entries {
		if err := l.hashes.Append(ledger.LeafHash(raw)); err != nil {
			t.Fatal(err)
		}
	}
	tw.Net.Put("log", l)
	return l
}

func (l *fakeLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/checkpoint" {
		w.Write(l.served)
		return
	}
	x, err := tile.Parse(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	if x.L == tile.Entries {
		var b []byte
		for _, e := range l.entries[int(x.N)*tile.Width : int(x.N)*tile.Width+x.W] {
			b = ledger.AppendBundle(b, e)
		}
		w.Write(b)
		return
	}
	data, err := l.hashes.Tile(x)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Write(data)
}

// at is the checkpoint of the first n entries.
func (l *fakeLog) at(n int) ledger.Checkpoint {
	root, err := l.hashes.Root(uint64(n))
	if err != nil {
		l.t.Fatal(err)
	}
	if n == 0 {
		root = ledger.EmptyRoot()
	}
	return ledger.Checkpoint{Origin: scene.Origin, Size: uint64(n), Root: root}
}

func (l *fakeLog) sign(c ledger.Checkpoint) []byte {
	msg, err := ledger.SignCheckpoint(c, ledger.LogSigner(scene.Origin, l.town.Scene.LogKey))
	if err != nil {
		l.t.Fatal(err)
	}
	return msg
}

// grow is the request that brings a witness from one size to another.
func (l *fakeLog) grow(from, to int) *ledger.AddCheckpoint {
	req := &ledger.AddCheckpoint{Old: uint64(from), Checkpoint: l.sign(l.at(to))}
	if from > 0 && from < to {
		var err error
		if req.Proof, err = ledger.ProveConsistency(uint64(from), uint64(to), l.hashes); err != nil {
			l.t.Fatal(err)
		}
	}
	return req
}

// post sends raw bytes to a witness.
func post(t *testing.T, tw *town.Town, witness string, body []byte) (status int, answer []byte, kind string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+witness+"/add-checkpoint", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tw.Net.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	answer, _ = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, resp.Header.Get("Content-Type")
}

func get(t *testing.T, tw *town.Town, url string) (status int, body []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tw.Net.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ = io.ReadAll(resp.Body)
	return resp.StatusCode, body
}

func prefix() string {
	h := sha256.Sum256([]byte(scene.Origin))
	return "http://uta/" + hex.EncodeToString(h[:])
}

// small is a log of 2 + n entries.
func small(t *testing.T, n int) *town.Town {
	t.Helper()
	s := scene.New(t, 1).Begin()
	s.Transfers(n)
	return town.New(t, s)
}

// cosigned posts a request that must be answered with our cosignature.
func cosigned(t *testing.T, tw *town.Town, l *fakeLog, size int, req *ledger.AddCheckpoint) {
	t.Helper()
	status, lines, _ := post(t, tw, "uta", req.Encode())
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, lines)
	}
	n, err := note.Open(append(l.sign(l.at(size)), lines...), note.VerifierList(tw.Policy.Witnesses[0].Key))
	if err != nil || len(n.Sigs) != 1 {
		t.Fatalf("cosignature: %v", err)
	}
	at, err := ledger.CosignedAt(n.Sigs[0])
	if d := tw.Clock.Now().Sub(at); err != nil || d < 0 || d > time.Hour {
		t.Errorf("cosigned %v ago, %v", d, err)
	}
}

func TestAWitnessCosignsGrowthAndServesItsCopy(t *testing.T) {
	tw := small(t, 600)
	l := newLog(t, tw, tw.Scene.Log)
	v, _ := tw.Verifier(tw.VerifierConfig("uta"))
	if status, _ := get(t, tw, prefix()+"/checkpoint"); status != http.StatusNotFound {
		t.Errorf("before the first cosignature: status %d", status)
	}
	from := 0
	for _, size := range []int{10, 10, 300, 512, len(l.entries)} {
		cosigned(t, tw, l, size, l.grow(from, size))
		if got := v.Status(); got.Cosigned != uint64(size) || got.Err != nil {
			t.Errorf("status %+v", got)
		}
		from = size
	}
	_, body := get(t, tw, prefix()+"/checkpoint")
	if c, cosigners, err := tw.Policy.Open(body); err != nil || c != l.at(len(l.entries)) || len(cosigners) != 1 {
		t.Errorf("monitoring: %+v %v %v", c, cosigners, err)
	}
	status, body := get(t, tw, prefix()+"/tile/entries/001")
	if list, err := ledger.ParseBundle(body, 256); status != 200 || err != nil || !bytes.Equal(list[0], l.entries[256]) {
		t.Errorf("copy of the log: %d %v", status, err)
	}
	for _, path := range []string{"/tile/0/009", "/tile/0/000.p/0", "/evidence", "/objection", "/bad-entry"} {
		if status, _ := get(t, tw, prefix()+path); status != http.StatusNotFound {
			t.Errorf("%s: status %d", path, status)
		}
	}
}

func TestAWitnessRefusesAsTheProtocolDemands(t *testing.T) {
	tw := small(t, 600)
	l := newLog(t, tw, tw.Scene.Log)
	v, _ := tw.Verifier(tw.VerifierConfig("uta"))
	cosigned(t, tw, l, 300, l.grow(0, 300))
	with := func(change func(*ledger.AddCheckpoint)) []byte {
		req := l.grow(300, 500)
		change(req)
		return req.Encode()
	}
	witnessed, err := ledger.SignCheckpoint(l.at(500), ledger.Cosigner("utb.test", tw.Scene.Witness["utb"], tw.Clock.Now()))
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) func(*ledger.AddCheckpoint) {
		return func(r *ledger.AddCheckpoint) { r.Checkpoint = bytes.Replace(r.Checkpoint, []byte(old), []byte(new), 1) }
	}
	for _, c := range []struct {
		name string
		want int
		body []byte
	}{
		{"no request", 400, []byte("hello")},
		{"old size with a zero", 400, bytes.Replace(l.grow(300, 500).Encode(), []byte("old 3"), []byte("old 03"), 1)},
		{"old above the checkpoint", 400, with(func(r *ledger.AddCheckpoint) { r.Old = 501 })},
		{"another log", 404, with(replace(scene.Origin, "other.log"))},
		{"not signed by the log", 403, with(replace("\n500\n", "\n501\n"))},
		{"signed by a witness only", 403, with(func(r *ledger.AddCheckpoint) { r.Checkpoint = witnessed })},
		{"wrong proof", 422, with(func(r *ledger.AddCheckpoint) { r.Proof[0][0] ^= 1 })},
		{"proof too long", 422, with(func(r *ledger.AddCheckpoint) { r.Proof = append(r.Proof, ledger.Hash{}) })},
		{"no proof", 422, with(func(r *ledger.AddCheckpoint) { r.Proof = nil })},
		{"stale old size", 409, l.grow(10, 500).Encode()},
		{"old size 0", 409, l.grow(0, 500).Encode()},
		{"rollback", 409, l.grow(10, 200).Encode()},
		{"too long", 400, make([]byte, 100<<10)},
	} {
		status, answer, kind := post(t, tw, "uta", c.body)
		if status != c.want || v.Status().Cosigned != 300 {
			t.Errorf("%s: status %d, want %d: %s; cosigned %d", c.name, status, c.want, answer, v.Status().Cosigned)
		}
		if c.want == 409 && (kind != "text/x.tlog.size" || string(answer) != "300\n") {
			t.Errorf("%s: %q %q", c.name, kind, answer)
		}
	}
	cosigned(t, tw, l, 500, l.grow(300, 500)) // and goes on
}

func TestSizeZeroIsTheEmptyTree(t *testing.T) {
	tw := small(t, 1)
	l := newLog(t, tw, tw.Scene.Log)
	tw.Verifier(tw.VerifierConfig("uta"))
	if status, answer, _ := post(t, tw, "uta", l.grow(0, 0).Encode()); status != http.StatusOK {
		t.Errorf("empty log: %d %s", status, answer)
	}
	wrong := ledger.Checkpoint{Origin: scene.Origin, Root: ledger.Hash{1}}
	req := ledger.AddCheckpoint{Checkpoint: l.sign(wrong)}
	if status, _, _ := post(t, tw, "uta", req.Encode()); status != http.StatusUnprocessableEntity {
		t.Errorf("size 0 with a root: status %d", status)
	}
	req = *l.grow(0, 2)
	req.Proof = []ledger.Hash{{}}
	if status, _, _ := post(t, tw, "uta", req.Encode()); status != http.StatusUnprocessableEntity {
		t.Errorf("proof from size 0: status %d", status)
	}
}

// TestHistoryCannotBeShownDifferently is guarantee G4: each kind of second
// history is answered with evidence that a stranger can check.
func TestHistoryCannotBeShownDifferently(t *testing.T) {
	other := func(t *testing.T) [][]byte { // the same beginning, then other transfers
		s := scene.New(t, 1).Begin()
		s.Transfers(100)
		s.Bytes32()
		s.Transfers(400)
		return s.Log
	}
	for _, c := range []struct {
		name     string
		kind     ledger.EvidenceKind
		size     int // of the other history's checkpoint
		observed bool
	}{
		{"the same size with another root", ledger.TwoRoots, 300, false},
		{"a larger log that did not grow out of ours", ledger.OtherHistory, 400, false},
		{"the same size, heard by gossip", ledger.TwoRoots, 300, true},
		{"a smaller log, heard by gossip", ledger.OtherHistory, 200, true},
		{"a larger log, heard by gossip", ledger.OtherHistory, 400, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			tw := small(t, 500)
			l := newLog(t, tw, tw.Scene.Log)
			cfg := tw.VerifierConfig("uta")
			v, stop := tw.Verifier(cfg)
			if status, answer, _ := post(t, tw, "uta", l.grow(0, 300).Encode()); status != http.StatusOK {
				t.Fatalf("%d %s", status, answer)
			}
			fork := newLog(t, tw, other(t))
			if c.observed {
				e, err := v.Observe(context.Background(), fork.sign(fork.at(c.size)))
				if e == nil || err == nil {
					t.Fatalf("got %v, %v", e, err)
				}
			} else if status, _, _ := post(t, tw, "uta", fork.grow(300, c.size).Encode()); status != http.StatusUnprocessableEntity {
				t.Fatalf("status %d", status)
			}
			convicted := func() {
				t.Helper()
				_, body := get(t, tw, prefix()+"/evidence")
				e, err := ledger.ParseEvidence(body)
				if err != nil || e.Kind != c.kind {
					t.Fatalf("evidence %+v, %v", e, err)
				}
				if err := e.Check(tw.Policy); err != nil {
					t.Errorf("a stranger refuses it: %v", err)
				}
				if status, _, _ := post(t, tw, "uta", l.grow(300, 450).Encode()); status != http.StatusServiceUnavailable {
					t.Errorf("cosigning goes on: status %d", status)
				}
			}
			convicted()
			stop()
			cfg.Machine = ledger.NewMoney(scene.Origin)
			v, _ = tw.Verifier(cfg)
			convicted() // a restart forgets nothing
			if v.Status().Evidence == nil {
				t.Error("the status does not show it")
			}
		})
	}
}

func TestAnOlderCheckpointOfOurHistoryIsFine(t *testing.T) {
	tw := small(t, 300)
	l := newLog(t, tw, tw.Scene.Log)
	v, _ := tw.Verifier(tw.VerifierConfig("uta"))
	if _, err := v.AddCheckpoint(context.Background(), l.grow(0, 300)); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 255, 256, 300} {
		if e, err := v.Observe(context.Background(), l.sign(l.at(n))); e != nil || err != nil {
			t.Errorf("size %d: %v, %v", n, e, err)
		}
	}
	if got := v.Status().Cosigned; got != 300 {
		t.Errorf("cosigned %d", got)
	}
}

func TestTheLogIsFollowedWithoutBeingAsked(t *testing.T) {
	tw := small(t, 300)
	clock := town.NewClock()
	tw.Clock = clock
	l := newLog(t, tw, tw.Scene.Log)
	v, _ := tw.Verifier(tw.VerifierConfig("uta"))
	l.served = l.sign(l.at(100))
	tw.Run(v.Serve)
	until(t, clock, func() bool { size, _ := v.Cosigned(); return size == 100 })
	if got := v.Status(); got.Cosigned != 100 || got.Err != nil {
		t.Errorf("status %+v", got)
	}
}

// until moves the clock by minutes until a condition holds.
func until(t *testing.T, clock *town.Clock, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
		clock.Move(time.Minute)
		<-time.After(time.Millisecond) // let the others run: their work is on disk, not on the clock
	}
}

func TestAVerifierThatWasAwayCatchesUpInSteps(t *testing.T) {
	tw := small(t, 3000)
	l := newLog(t, tw, tw.Scene.Log)
	v, _ := tw.Verifier(tw.VerifierConfig("uta"))
	if status, answer, _ := post(t, tw, "uta", l.grow(0, len(l.entries)).Encode()); status != http.StatusOK {
		t.Fatalf("%d %s", status, answer)
	}
	v.Read(func(m ledger.Machine) {
		if m.Hash() != tw.Scene.State.Hash() {
			t.Error("the replayed state is another")
		}
	})
}

// TestAnEntryThatBreaksARuleIsNeverCosigned shows logs whose tree is right but
// whose content is not.
func TestAnEntryThatBreaksARuleIsNeverCosigned(t *testing.T) {
	s := scene.New(t, 1).Begin()
	s.Transfers(20)
	forged := bytes.Clone(s.Log[5])
	forged[len(forged)-3] ^= 1
	for _, c := range []struct {
		name string
		code ledger.Code
		at   int
		log  [][]byte
	}{
		{"a signature is wrong", ledger.CodeOf(ledger.ErrSignature), 5, replaced(s.Log, 5, forged)},
		{"an entry stands twice", ledger.CodeOf(ledger.ErrExists), 8, replaced(s.Log, 8, s.Log[7])},
		{"an entry is missing", ledger.CodeOf(ledger.ErrSeqGap), -1, without(s.Log, 4)},
		{"an entry is no entry", ledger.CodeOf(ledger.ErrMalformed), 9, replaced(s.Log, 9, []byte("nonsense"))},
		{"the first wrong one counts", ledger.CodeOf(ledger.ErrSignature), 5, replaced(replaced(s.Log, 5, forged), 9, []byte("nonsense"))},
	} {
		t.Run(c.name, func(t *testing.T) {
			tw := town.New(t, s)
			tw.TB = t
			l := newLog(t, tw, c.log)
			cfg := tw.VerifierConfig("uta")
			v, stop := tw.Verifier(cfg)
			if status, answer, _ := post(t, tw, "uta", l.grow(0, 3).Encode()); status != http.StatusOK {
				t.Fatalf("%d %s", status, answer)
			}
			status, answer, _ := post(t, tw, "uta", l.grow(3, len(l.entries)).Encode())
			if status != http.StatusUnprocessableEntity {
				t.Fatalf("status %d: %s", status, answer)
			}
			_, body := get(t, tw, prefix()+"/objection")
			o, err := ledger.ParseObjection(body)
			if err != nil || o.Code != c.code || c.at >= 0 && o.Index != uint64(c.at) {
				t.Fatalf("objection %+v, %v", o, err)
			}
			if err := o.Verify(tw.Policy); err != nil {
				t.Error(err)
			}
			_, body = get(t, tw, prefix()+"/bad-entry")
			e, err := ledger.ParseEvidence(body)
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Check(tw.Policy); err != nil {
				t.Errorf("evidence: %v", err)
			}
			if got := v.Status(); got.Cosigned != 3 || got.Size != 3 || got.Objection == nil {
				t.Errorf("status %+v", got)
			}
			// What stands before the bad entry can still be cosigned, what contains
			// it never, not even after a restart.
			if status, answer, _ := post(t, tw, "uta", l.grow(3, 4).Encode()); status != http.StatusOK {
				t.Errorf("before the bad entry: %d %s", status, answer)
			}
			stop()
			cfg.Machine = ledger.NewMoney(scene.Origin)
			tw.Verifier(cfg)
			if status, _, _ := post(t, tw, "uta", l.grow(4, len(l.entries)).Encode()); status != http.StatusUnprocessableEntity {
				t.Errorf("after a restart: status %d", status)
			}
		})
	}
}

func replaced(log [][]byte, at int, raw []byte) [][]byte {
	out := append([][]byte(nil), log...)
	out[at] = raw
	return out
}

func without(log [][]byte, at int) [][]byte {
	return append(append([][]byte(nil), log[:at]...), log[at+1:]...)
}

func TestTheNewestTickMustBeNearOurClock(t *testing.T) {
	for name, c := range map[string]struct {
		now time.Duration // after the tick
		ok  bool
	}{
		"180 s behind": {180 * time.Second, true}, "181 s behind": {181 * time.Second, false},
		"120 s ahead": {-120 * time.Second, true}, "121 s ahead": {-121 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			tw := small(t, 5)
			clock := town.NewClock()
			clock.Move(c.now)
			tw.Clock = clock
			l := newLog(t, tw, tw.Scene.Log)
			cfg := tw.VerifierConfig("uta")
			cfg.MaxBehind, cfg.MaxAhead = 0, 0
			v, _ := tw.Verifier(cfg)
			status, answer, _ := post(t, tw, "uta", l.grow(0, 7).Encode())
			if (status == http.StatusOK) != c.ok || !c.ok && status != http.StatusServiceUnavailable {
				t.Fatalf("status %d: %s", status, answer)
			}
			if c.ok {
				return
			}
			clock.Move(-c.now) // the clock is put right: the same request is answered
			if status, answer, _ := post(t, tw, "uta", l.grow(0, 7).Encode()); status != http.StatusOK {
				t.Errorf("status %d: %s", status, answer)
			}
			if v.Status().Err != nil {
				t.Errorf("status %+v", v.Status())
			}
		})
	}
}

func TestEntriesThatAreNotInTheTreeAreNotTaken(t *testing.T) {
	tw := small(t, 50)
	l := newLog(t, tw, tw.Scene.Log)
	v, _ := tw.Verifier(tw.VerifierConfig("uta"))
	req := l.grow(0, 40)
	l.entries = replaced(l.entries, 20, l.entries[21]) // what is served, not what was signed
	if status, _, _ := post(t, tw, "uta", req.Encode()); status != http.StatusUnprocessableEntity {
		t.Errorf("status %d", status)
	}
	if got := v.Status(); got.Size != 0 || got.Objection != nil || got.Evidence != nil {
		t.Errorf("status %+v", got)
	}
	l.entries = tw.Scene.Log
	if status, answer, _ := post(t, tw, "uta", req.Encode()); status != http.StatusOK {
		t.Errorf("status %d: %s", status, answer)
	}
}

func TestEvidenceOfOthersStopsUsToo(t *testing.T) {
	tw := small(t, 50)
	l := newLog(t, tw, tw.Scene.Log)
	v, _ := tw.Verifier(tw.VerifierConfig("uta"))
	if status, answer, _ := post(t, tw, "uta", l.grow(0, 20).Encode()); status != http.StatusOK {
		t.Fatalf("%d %s", status, answer)
	}
	pledge := ledger.SignReceipts(tw.Scene.Receipt, ledger.Receipt{Origin: ledger.OriginHash(scene.Origin), Index: 7, Leaf: ledger.Hash{1}})[0]
	proof, err := ledger.ProveInclusion(30, 7, l.hashes)
	if err != nil {
		t.Fatal(err)
	}
	e := &ledger.Evidence{Kind: ledger.BrokenPledge, B: l.sign(l.at(30)), Proof: proof, Receipt: pledge, Leaf: ledger.LeafHash(l.entries[7])}
	ctx := context.Background()
	if err := v.Convict(ctx, e); !errors.Is(err, ledger.ErrSignature) {
		t.Errorf("a receipt of an unknown key: got %v", err)
	}
	if err := v.Convict(ctx, &ledger.Evidence{Kind: ledger.BadEntry}); !errors.Is(err, ledger.ErrKind) {
		t.Errorf("an objection: got %v", err)
	}
	if status, answer, _ := post(t, tw, "uta", l.grow(20, 30).Encode()); status != http.StatusOK {
		t.Fatalf("what convicts nobody stops nothing: %d %s", status, answer)
	}
	if err := v.Convict(ctx, e, scene.Pub(tw.Scene.Receipt)); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := post(t, tw, "uta", l.grow(30, 40).Encode()); status != http.StatusServiceUnavailable {
		t.Errorf("cosigning goes on: status %d", status)
	}
}

func TestOpenWantsOurKeyInThePolicy(t *testing.T) {
	tw := small(t, 1)
	cfg := tw.VerifierConfig("uta")
	cfg.Key = tw.Scene.Witness["utb"]
	if _, err := verifier.Open(cfg); err == nil {
		t.Error("another witness's key was accepted")
	}
	cfg.Name = "nobody"
	if _, err := verifier.Open(cfg); err == nil {
		t.Error("a name that the policy lacks was accepted")
	}
}
