package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"gridveil/node/verifier"
	"gridveil/node/verifier/watchtest"
)

// once runs `gridveil verifier --once --json` and gives its report and exit code.
func once(t *testing.T, args ...string) (r verifier.Report, code int) {
	t.Helper()
	c := exec.Command(binary, append([]string{"verifier", "--once", "--json"}, args...)...)
	var talk bytes.Buffer
	c.Stderr = &talk
	out, err := c.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("exit %d: %v\n%s%s", code, err, out, talk.Bytes())
	}
	return r, code
}

// TestAVerifierSurvivesBeingKilled kills it at any moment of its first replay,
// again and again; what is left on disk always lets the next one go on.
func TestAVerifierSurvivesBeingKilled(t *testing.T) {
	n, kills := 2000, 6
	if *long {
		n, kills = 20000, 60
	}
	list := watchtest.Entries(t, n, n)
	l := watchtest.Serve(t, list)
	policy := filepath.Join(t.TempDir(), "policy")
	if err := os.WriteFile(policy, []byte(watchtest.Policy().String()), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--log", l.URL, "--policy", policy, "--data", filepath.Join(t.TempDir(), "v")}
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	var entries uint64
	for i := range kills {
		l.Show(n*(i+1)/(kills+1), "uta", "utb")
		c := exec.Command(binary, append([]string{"verifier", "--every", "1s"}, args...)...)
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rnd.IntN(400)) * time.Millisecond) // any moment will do
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait() // it was killed
		if i%3 == 2 {
			r, code := once(t, args...)
			if code != 0 || r.Verdict != verifier.Sound || r.Entries < entries {
				t.Fatalf("after kill %d: exit %d, %+v", i, code, r)
			}
			entries = r.Entries
		}
	}
	l.Show(n, "uta", "utb", "utc")
	if r, code := once(t, args...); code != 0 || r.Entries != uint64(n) || len(r.Cosigned) != 3 {
		t.Errorf("at the end: exit %d, %+v", code, r)
	}
	l.Show(n, "uta")
	fresh := append(args[:len(args)-1:len(args)-1], filepath.Join(t.TempDir(), "w"))
	if r, code := once(t, fresh...); code != 3 || r.Verdict != verifier.Unfinal {
		t.Errorf("without the quorum: exit %d, %+v", code, r)
	}
	l.Deaf(true)
	if r, code := once(t, args...); code != 3 || r.Verdict != verifier.Away || r.Entries != uint64(n) {
		t.Errorf("with the log away: exit %d, %+v", code, r)
	}
}

var ledgerLine = regexp.MustCompile(`ledger +(http://\S+) `)

// TestAVerifierChecksTheDemonstration follows `gridveil demo` from outside and
// mirrors it; another verifier reads the mirror. Behind -long: the nodes of the
// demonstration take their time to meet.
func TestAVerifierChecksTheDemonstration(t *testing.T) {
	if !*long {
		t.Skip("starts a demonstration: -long")
	}
	var out lines
	demo := exec.Command(binary, "demo", "--homes", "6", "--listen", "127.0.0.1:0")
	demo.Stdout, demo.Stderr = &out, &out
	demo.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { demo.Process.Signal(os.Interrupt); demo.Wait() }()
	at := out.await(t, ledgerLine)
	policy := filepath.Join(t.TempDir(), "policy")
	await(t, "the policy", func() bool {
		b, status := fetch(at + "/policy")
		return status == http.StatusOK && os.WriteFile(policy, b, 0o600) == nil
	})
	dir := t.TempDir()
	await(t, "a sound log", func() bool {
		r, code := once(t, "--log", at, "--policy", policy, "--data", filepath.Join(dir, "a"))
		if r.Verdict.Convicts() {
			t.Fatalf("the log is convicted: %+v", r)
		}
		return code == 0 && r.Entries > 2 && r.Final
	})
	var mirror lines
	v := exec.Command(binary, "verifier", "--log", at, "--policy", policy, "--data", filepath.Join(dir, "a"), "--serve", "127.0.0.1:0", "--every", "1s")
	v.Stdout, v.Stderr = &mirror, &mirror
	v.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := v.Start(); err != nil {
		t.Fatal(err)
	}
	copyAt := mirror.await(t, regexp.MustCompile(`mirror +(http://\S+)`))
	await(t, "the mirror's copy", func() bool {
		r, code := once(t, "--log", copyAt, "--peer", at, "--policy", policy, "--data", filepath.Join(dir, "b"))
		return code == 0 && len(r.Peers) == 1 && r.Peers[0].OK
	})
	if err := v.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := v.Wait(); err != nil {
		t.Errorf("the mirror ended with %v", err)
	}
}

func fetch(url string) ([]byte, int) {
	resp, err := http.Get(url)
	if err != nil {
		return nil, 0
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, 0
	}
	return b, resp.StatusCode
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(4 * time.Minute); !ok(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%s never came", what)
		}
	}
}

// lines collects what a program prints.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// await gives the first group of what matches, once it was printed.
func (l *lines) await(t *testing.T, what *regexp.Regexp) (found string) {
	t.Helper()
	await(t, what.String(), func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if m := what.FindStringSubmatch(l.buf.String()); m != nil {
			found = m[1]
		}
		return found != ""
	})
	return found
}
