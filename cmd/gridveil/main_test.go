package main

import (
	"errors"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gridveil": main})
}

// TestScripts runs the real command line. In a script, `exits N gridveil ...`
// wants that exit code.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits}})
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
