package main

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"gridveil/node"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gridveil": main})
}

// TestScripts runs the real command line. In a script, `exits N gridveil ...`
// wants that exit code; `joins FILE DIR` joins with the link in FILE,
// `types FILE DIR` with the code in the JSON of FILE; `taken
// FILE` replaces TAKEN in it by a port that somebody else listens at; `met DIR
// ROLE` waits until the node in DIR is connected to a member of that role, `cut
// DIR` until it is connected to nobody; `revokes BY DIR REASON` lets the node
// in BY revoke the one in DIR; `contains FILE TEXT` waits until FILE does.
func TestScripts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() }) // after the scripts, which are parallel subtests
	taken := func(ts *testscript.TestScript, _ bool, args []string) {
		_, port, err := net.SplitHostPort(l.Addr().String())
		ts.Check(err)
		text := strings.ReplaceAll(ts.ReadFile(args[0]), "TAKEN", port)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
	}
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "joins": joins, "types": types, "taken": taken, "met": met, "cut": cut, "revokes": revokes, "contains": contains}})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE program [arguments]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("%v exited %d, want %d", args[1:], got, want)
	}
}

func joins(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: joins FILE DIR")
	}
	switch err := ts.Exec("gridveil", "join", strings.TrimSpace(ts.ReadFile(args[0])), "--data", args[1]); {
	case neg && err == nil:
		ts.Fatalf("%s joined", args[1])
	case !neg:
		ts.Check(err)
	}
}

func types(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: types FILE DIR [flags]")
	}
	var inv node.Invitation
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &inv))
	err := ts.Exec("gridveil", append([]string{"join", strings.ToLower(inv.Code), "--data", args[1]}, args[2:]...)...)
	if neg && err == nil {
		ts.Fatalf("the code was taken")
	}
	if !neg {
		ts.Check(err)
	}
}

func met(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: met DIR ROLE")
	}
	await(ts, args[0], "met no "+args[1], func(s peers) bool { return s.Peers[args[1]] > 0 })
}

func cut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: cut DIR")
	}
	await(ts, args[0], "is still connected", func(s peers) bool { return len(s.Peers) == 0 })
}

func contains(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: contains FILE TEXT")
	}
	for until := time.Now().Add(90 * time.Second); !strings.Contains(ts.ReadFile(args[0]), args[1]); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(until) {
			ts.Fatalf("%s never contained %q", args[0], args[1])
		}
	}
}

func revokes(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: revokes BY DIR REASON")
	}
	if err := ts.Exec("gridveil", "revoke", statusOf(ts, args[1]).Key, "--reason", args[2], "--data", args[0]); (err != nil) != neg {
		ts.Fatalf("revoke: %v", err)
	}
}

// peers is the part of a status that scripts ask for.
type peers struct {
	Key   string
	Peers map[string]int
}

func statusOf(ts *testscript.TestScript, dir string) (s peers) {
	ts.Check(ts.Exec("gridveil", "status", "--json", "--wait", "20s", "--data", dir))
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &s))
	return s
}

// await asks the node in dir until ok.
func await(ts *testscript.TestScript, dir, what string, ok func(peers) bool) {
	for until := time.Now().Add(90 * time.Second); !ok(statusOf(ts, dir)); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(until) {
			ts.Fatalf("%s %s", dir, what)
		}
	}
}

func TestReportLabelsWhatHappenedAndWhatToDo(t *testing.T) {
	root := rootCommand()
	for _, c := range []struct {
		name string
		err  error
		code int
		want string
	}{
		{"nothing", nil, exitOK, ""},
		{"a failure with a hint", errors.New("no node is running here\nnext: start it"), exitFailed, "gridveil: error: no node is running here\ngridveil: hint: start it\n"},
		{"several mistakes", errors.New("f:1:1: a\nf:2:1: b"), exitFailed, "gridveil: error: f:1:1: a\ngridveil:        f:2:1: b\n"},
		{"a wrong command line", usage("want a link"), exitUsage, "gridveil: error: want a link\ngridveil: hint: see `gridveil --help`\n"},
		{"missing flags", errors.New(`required flag(s) "a", "b" not set`), exitUsage, "gridveil: error: --a and --b must be given\ngridveil: hint: see `gridveil --help`\n"},
		{"a degraded node", &exitError{exitDegraded}, exitDegraded, ""},
	} {
		var out writer
		if code := report(&out, root, c.err); code != c.code || string(out) != c.want {
			t.Errorf("%s: exit %d and %q, want %d and %q", c.name, code, out, c.code, c.want)
		}
	}
}

type writer []byte

func (w *writer) Write(p []byte) (int, error) { *w = append(*w, p...); return len(p), nil }
