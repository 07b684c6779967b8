package yardstick

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/tile"
)

const witnessName = "litewitness.test/judge"

// litewitness runs the witness of filippo.io/torchwood with a key of its own for
// our log, and gives its URL and verifier key.
func litewitness(t *testing.T, s *scene.Scene) (url string, key ledger.VerifierKey) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "litewitness")
	if out, err := exec.Command("go", "build", "-o", program, "filippo.io/torchwood/cmd/litewitness").CombinedOutput(); err != nil {
		t.Fatalf("build litewitness: %v\n%s", err, out)
	}
	private := s.Key()
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: &private}); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "agent")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ended by Close
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(ring, c)
		}
	}()
	addLog(t, filepath.Join(dir, "db"), s)
	pub, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	var said bytes.Buffer
	c := exec.Command(program, "-name", witnessName, "-db", filepath.Join(dir, "db"), "-ssh-agent", sock, "-listen", addr, "-key", ssh.FingerprintSHA256(pub))
	c.Stderr = &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Signal(os.Interrupt); c.Wait() })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("litewitness does not listen:\n%s", said.String())
		}
	}
	return "http://" + addr, ledger.WitnessKey(witnessName, ledger.Hash(private.Public().(ed25519.PublicKey)))
}

// addLog makes our log known to a litewitness, as its witnessctl does.
func addLog(t *testing.T, path string, s *scene.Scene) {
	t.Helper()
	db, err := sqlite.OpenConn(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = sqlitex.ExecScript(db, `
		CREATE TABLE log (origin TEXT PRIMARY KEY, tree_size INTEGER NOT NULL, tree_hash TEXT NOT NULL);
		CREATE TABLE key (origin TEXT NOT NULL, key TEXT NOT NULL, FOREIGN KEY(origin) REFERENCES log(origin));`)
	if err != nil {
		t.Fatal(err)
	}
	root := ledger.EmptyRoot()
	for query, args := range map[string][]any{
		"INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)": {scene.Origin, base64.StdEncoding.EncodeToString(root[:])},
		"INSERT INTO key (origin, key) VALUES (?, ?)":                     {scene.Origin, ledger.LogKey(scene.Origin, scene.Pub(s.LogKey)).String()},
	} {
		if err := sqlitex.Execute(db, query, &sqlitex.ExecOptions{Args: args}); err != nil {
			t.Fatal(err)
		}
	}
}

// history is a log as a tree in memory.
type history struct {
	t     *testing.T
	s     *scene.Scene
	tree  tile.Hashes
	final []byte // checkpoint note
}

func tell(t *testing.T, s *scene.Scene) *history {
	t.Helper()
	h := &history{t: t, s: s}
	for _, raw := range s.Log {
		if err := h.tree.Append(ledger.LeafHash(raw)); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// note is the signed checkpoint of the first n entries.
func (h *history) note(n uint64) []byte {
	h.t.Helper()
	root, err := h.tree.Root(n)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.s.Checkpoint(n, root)
}

// ask sends a checkpoint with a proof from another size.
func (h *history) ask(url string, from, to uint64) (status int, answer string) {
	h.t.Helper()
	req := ledger.AddCheckpoint{Old: from, Checkpoint: h.note(to)}
	if from > 0 && from < to {
		var err error
		if req.Proof, err = ledger.ProveConsistency(from, to, &h.tree); err != nil {
			h.t.Fatal(err)
		}
	}
	resp, err := http.Post(url+"/add-checkpoint", "text/plain", bytes.NewReader(req.Encode()))
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestLitewitnessJudgesOurCheckpoints lets a witness that others wrote cosign our
// log, and refuse one that is stale, forked or rolled back.
func TestLitewitnessJudgesOurCheckpoints(t *testing.T) {
	s := scene.New(t, 1).Begin()
	s.Transfers(300)
	url, key := litewitness(t, s)
	h, log := tell(t, s), ledger.LogKey(scene.Origin, scene.Pub(s.LogKey))
	for _, step := range [][2]uint64{{0, 100}, {100, 256}, {256, 300}} {
		status, lines := h.ask(url, step[0], step[1])
		if status != http.StatusOK {
			t.Fatalf("%d to %d: %d %s", step[0], step[1], status, lines)
		}
		msg, err := ledger.MergeCosignatures(h.note(step[1]), []byte(lines), log, key)
		if err != nil {
			t.Fatal(err)
		}
		if _, n, err := ledger.OpenCheckpoint(msg, log, key); err != nil || len(n.Sigs) != 2 {
			t.Errorf("size %d: %d signatures that we know, %v", step[1], len(n.Sigs), err)
		}
	}
	if status, size := h.ask(url, 100, 302); status != http.StatusConflict || strings.TrimSpace(size) != "300" {
		t.Errorf("a stale size: %d %s", status, size)
	}
	if status, text := h.ask(url, 300, 200); status != http.StatusBadRequest && status != http.StatusConflict && status != http.StatusUnprocessableEntity {
		t.Errorf("a log that was rolled back: %d %s", status, text)
	}
	other := scene.New(t, 1).Begin()
	other.Bytes32()
	other.Transfers(300)
	if status, text := tell(t, other).ask(url, 300, 302); status != http.StatusUnprocessableEntity {
		t.Errorf("a fork: %d %s", status, text)
	}
	forged := scene.New(t, 2).Begin()
	forged.Transfers(310)
	if status, text := tell(t, forged).ask(url, 300, 310); status != http.StatusForbidden {
		t.Errorf("another log key: %d %s", status, text)
	}
	if status, text := h.ask(url, 300, 302); status != http.StatusOK {
		t.Errorf("our log goes on: %d %s", status, text)
	}
}

// Checkpoint and Bundle make a history an export.Source.
func (h *history) Checkpoint() ([]byte, error) { return h.final, nil }

func (h *history) Bundle(n uint64, width int) (b []byte, err error) {
	for _, e := range h.s.Log[int(n)*tile.Width:][:width] {
		b = ledger.AppendBundle(b, e)
	}
	return b, nil
}

// TestTesseraFsckAcceptsOurExport lets tessera rebuild tree and tiles of an
// export, and refuse one with a flipped bit.
func TestTesseraFsckAcceptsOurExport(t *testing.T) {
	s := scene.New(t, 1)
	s.Story(s.Do)
	s.Transfers(700)
	h := tell(t, s)
	size := uint64(len(s.Log))
	root, err := h.tree.Root(size)
	if err != nil {
		t.Fatal(err)
	}
	h.final = s.Checkpoint(size, root, "uta", "utb")
	dir := filepath.Join(t.TempDir(), "export")
	if _, err := export.Archive(dir, h, export.Config{Policy: s.Policy()}); err != nil {
		t.Fatal(err)
	}
	check := func() error {
		f := fsck.New(scene.Origin, ledger.LogKey(scene.Origin, scene.Pub(s.LogKey)), client.FileFetcher{Root: dir}, leaves, fsck.Opts{N: 2})
		return f.Check(context.Background())
	}
	if err := check(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tile", "entries", "001")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if check() == nil {
		t.Error("a flipped bit passes")
	}
}

// leaves hashes the entries of a bundle.
func leaves(bundle []byte) (out [][]byte, err error) {
	list, err := ledger.ParseBundle(bundle, tile.Width)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	for _, e := range list {
		h := ledger.LeafHash(e)
		out = append(out, h[:])
	}
	return out, nil
}
