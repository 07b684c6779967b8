package cluster_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/cluster"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/store"
	"gridveil/ledger/writer"
)

const memberEnv = "GRIDVEIL_TEST_CLUSTER_MEMBER"

// process is one member as a process of its own.
type process struct {
	Dir, Address, HTTP string
	Key                []byte
	Members            []cluster.Member

	cmd   *exec.Cmd
	stdin io.Closer
}

// config is the log of a process, without witnesses.
func (p *process) config(t *testing.T, s *scene.Scene) writer.Config {
	cfg := town.New(t, s).WriterConfig()
	cfg.Dir, cfg.Policy = filepath.Join(p.Dir, "log"), ledger.NewPolicy(cfg.Policy.Log)
	return cfg
}

// start runs the member until it is killed or this process ends.
func (p *process) start(t *testing.T) {
	t.Helper()
	spec, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0], "-test.run", "^TestMemberProcess$")
	p.cmd.Env = append(os.Environ(), memberEnv+"="+string(spec), "TMPDIR="+p.Dir)
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// kill is kill -9.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait() // says that it was killed
	p.stdin.Close()
}

// TestMemberProcess is what a process runs; by itself it has nothing to do.
func TestMemberProcess(t *testing.T) {
	spec := os.Getenv(memberEnv)
	if spec == "" {
		t.Skip("started by TestKilledLeadersLoseNoReceipt")
	}
	var p process
	if err := json.Unmarshal([]byte(spec), &p); err != nil {
		t.Fatal(err)
	}
	n, err := cluster.Open(cluster.Config{Writer: p.config(t, scene.New(t, 1)), Dir: filepath.Join(p.Dir, "cluster"), Key: p.Key, Address: p.Address,
		Members: p.Members, ElectionTimeout: election})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", p.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(ln, n.Writer().Handler()) // ends with the process
	ctx, cancel := context.WithCancel(context.Background())
	go func() { io.Copy(io.Discard, os.Stdin); cancel() }() // ends with whoever started us
	if err := n.Serve(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestKilledLeadersLoseNoReceipt kills the leader of three processes while a
// client submits.
func TestKilledLeadersLoseNoReceipt(t *testing.T) {
	runs, kills := 1, 1
	if *long {
		runs, kills = 34, 30
	}
	for seed := range runs {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { killLeaders(t, uint64(seed), kills) })
	}
}

func killLeaders(t *testing.T, seed uint64, kills int) {
	moment := rand.New(rand.NewPCG(seed, 0))
	const each = 200
	s := transfers(t, each*(kills+1))
	ps, c := processes(t, scene.New(t, 2))
	receipts := map[uint64]ledger.Hash{}
	at := 0
	send := func(to int) {
		for at < min(to, len(s.Log)) {
			at += submitSome(t, c, s.Log[at:min(at+8, len(s.Log))], receipts)
		}
	}
	send(each)
	for i := range kills {
		var l *process
		eventually(t, "a leader", func() bool { l = leads(ps); return l != nil })
		killed := make(chan struct{})
		go func() { // waited for below
			defer close(killed)
			time.Sleep(time.Duration(moment.IntN(60)) * time.Millisecond) // somewhere in the load; nothing is proved by it
			l.kill()
		}()
		send(each*(i+1) + each/2)
		<-killed
		send(each * (i + 2))
		l.start(t)
	}
	send(len(s.Log))
	// The last to be started catches up before all are ended.
	for _, p := range ps {
		eventually(t, "everybody has everything", func() bool {
			note, err := (&writer.Client{URL: "http://" + p.HTTP}).Checkpoint(t.Context())
			if err != nil {
				return false
			}
			cp, _, err := ledger.OpenCheckpoint(note, p.config(t, s).Policy.Log)
			return err == nil && cp.Size == uint64(len(s.Log))
		})
	}
	for _, p := range ps {
		p.kill()
	}
	for i, p := range ps {
		cfg := p.config(t, s)
		st, err := store.Open(cfg.Dir, cfg.Machine, cfg.Store)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Machine.Hash() != s.State.Hash() {
			t.Errorf("process %d has another state", i)
		}
		for index, leaf := range receipts {
			if raw, err := st.Entry(index); err != nil || ledger.LeafHash(raw) != leaf {
				t.Errorf("process %d lacks entry %d, which has a receipt: %v", i, index, err)
			}
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
}

// processes starts three members and gives a client of all.
func processes(t *testing.T, s *scene.Scene) (ps []*process, c *writer.Client) {
	t.Helper()
	port := func() string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return ln.Addr().String()
	}
	c = &writer.Client{Members: map[string]string{}, HTTP: &http.Client{Timeout: 5 * time.Second}}
	var members []cluster.Member
	for range 3 {
		p := &process{Dir: t.TempDir(), Address: port(), HTTP: port(), Key: s.Key()}
		id := cluster.ID(ed25519.PrivateKey(p.Key).Public().(ed25519.PublicKey))
		members = append(members, cluster.Member{ID: id, Address: p.Address})
		c.Members[id], c.URL = "http://"+p.HTTP, "http://"+p.HTTP
		ps = append(ps, p)
	}
	for _, p := range ps {
		p.Members = members
		p.start(t)
		t.Cleanup(p.kill)
	}
	return ps, c
}

// leads asks who takes entries, nil while nobody does: an empty request is a
// mistake to the leader and nothing to the others.
func leads(ps []*process) *process {
	for _, p := range ps {
		resp, err := http.Post("http://"+p.HTTP+"/entries", "application/octet-stream", http.NoBody)
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusBadRequest {
			return p
		}
	}
	return nil
}

// submitSome sends entries until the first of them have receipts, and says how
// many.
func submitSome(t *testing.T, c *writer.Client, raw [][]byte, receipts map[uint64]ledger.Hash) (n int) {
	t.Helper()
	eventually(t, "receipts", func() bool {
		results, err := c.Submit(t.Context(), raw)
		if err != nil {
			return false
		}
		for i, r := range results {
			if r.Err != nil {
				if !errors.Is(r.Err, ledger.ErrBusy) && !errors.Is(r.Err, ledger.ErrHalted) {
					t.Fatalf("entry refused: %v", r.Err)
				}
				break
			}
			leaf := ledger.LeafHash(raw[i])
			if was, ok := receipts[r.Receipt.Index]; ok && was != leaf {
				t.Fatal(fmt.Errorf("two receipts for index %d", r.Receipt.Index))
			}
			receipts[r.Receipt.Index], n = leaf, i+1
		}
		return n > 0
	})
	return n
}
