package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gridveil/node"
	"gridveil/node/loopback"
)

// binary is the program under test, built by TestMain.
var binary string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gridveil-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "gridveil")
	build := exec.Command("go", "build", "-o", binary, "gridveil/cmd/gridveil")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "e2e: build the binary: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// process is one running role.
type process struct {
	t    *testing.T
	name string
	dir  string

	cmd   *exec.Cmd // nil while stopped
	done  chan error
	began time.Time
	took  time.Duration // from exec to the first answer
}

// start runs the role in dir and waits until it answers.
func (p *process) start() {
	p.t.Helper()
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command(binary, "run", "--data", p.dir)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// A test that dies takes its processes with it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	p.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(p.cmd, p.done)
	p.await()
	p.took = time.Since(p.began)
}

// await waits until the process answers, or says why it ended.
func (p *process) await() {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if _, err := node.AskStatus(context.Background(), p.dir); err == nil {
			return
		} else if time.Now().After(deadline) {
			p.t.Fatalf("%s does not answer within 20 s: %v\n%s", p.name, err, p.log())
		}
		select {
		case err := <-p.done:
			p.cmd = nil
			p.t.Fatalf("%s ended while starting: %v\n%s", p.name, err, p.log())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// kill ends the process as a power cut would.
func (p *process) kill() { p.end(syscall.SIGKILL) }

// stop ends the process as an operator would.
func (p *process) stop() { p.end(syscall.SIGTERM) }

func (p *process) end(sig syscall.Signal) {
	p.t.Helper()
	if p.cmd == nil {
		return
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("signal %s: %v", p.name, err)
	}
	select {
	case err := <-p.done:
		if sig == syscall.SIGTERM && err != nil {
			p.t.Errorf("%s ended with %v\n%s", p.name, err, p.log())
		}
	case <-time.After(20 * time.Second):
		p.t.Errorf("%s did not stop within 20 s of %v", p.name, sig)
		_ = p.cmd.Process.Kill() // Pdeathsig is behind it
		<-p.done
	}
	p.cmd = nil
}

// memoryMB is the process's resident memory.
func (p *process) memoryMB() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return kb / 1024
		}
	}
	p.t.Fatal("no VmRSS")
	return 0
}

// log is the end of what the process has said.
func (p *process) log() string {
	b, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// status asks the process how it is.
func (p *process) status() node.Status {
	p.t.Helper()
	s, err := node.AskStatus(p.t.Context(), p.dir)
	if err != nil {
		p.t.Fatalf("status of %s: %v\n%s", p.name, err, p.log())
	}
	return s
}

// cli runs the binary and gives its stdout.
func cli(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryCLI(t, args...)
	if err != nil {
		t.Fatalf("gridveil %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// tryCLI is cli for commands that may fail; the error holds stderr.
func tryCLI(t *testing.T, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, binary, args...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// cliJSON runs the binary and decodes its stdout.
func cliJSON[T any](t *testing.T, args ...string) (v T) {
	t.Helper()
	out := cli(t, args...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("gridveil %s: %v in %s", strings.Join(args, " "), err, out)
	}
	return v
}

// eventually waits until ok gives "", and fails with what it last gave.
func eventually(t *testing.T, limit time.Duration, ok func() string) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; {
		missing := ok()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, missing)
		}
		time.Sleep(100 * time.Millisecond) // other processes: nobody to wake us
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	port, err := loopback.Port()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func decodeInto(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}
