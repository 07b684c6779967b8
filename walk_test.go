package gridveil

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gridveil/node/loopback"
)

// The documents' commands, run. A console block holds commands, which begin with
// "$ ", each with the output that it is said to have. Output fits when it has as
// many lines, of as many words, and words are equal, where
//
//   - a word with a digit stands for any word with a digit: a key, a time, a port;
//   - a line "…" stands for any number of lines;
//   - no output at all says nothing.
//
// What is compared is standard output or, where there is none, standard error. A
// command fails exactly when its output begins with "gridveil: error:". A key or
// a usage point that was shown stands in later commands for the one of this run,
// and a link for the newest that was printed.

// changed is what the test runs instead of a documented command, and why.
var changed = []struct{ command, instead, why string }{
	{"go run ./cmd/gridveil demo", "gridveil demo --homes 6 --listen 127.0.0.1:0", "41 nodes take a minute to start, and 7080 may be taken"},
	{"go run ./cmd/gridveil demo --once --homes 6 --data ./day", "gridveil demo --once --homes 6 --data ./day --hours 2", "a whole day takes minutes; invariants of what happens later are not printed"},
	{"make test", "", "it would run this test again; that the target exists is another test"},
	{"make build", "", "every command here is run by what it builds"},
	{`gridveil wallet pay "http://192.0.2.7:8480/g/..." --band 20 --want 15 --data ./car`, "", "it needs a wallbox with a car; node/e2e has one"},
	{"gridveil meter evidence 3f9a --from 2026-06-01T00:00:00Z --to 2026-07-01T00:00:00Z --out reports.json --data /srv/headend", "", "the first report comes after an hour; node/e2e waits for one of a minute"},
	{"gridveil alarm evidence 5d0c --out alarm.json --data /srv/uta", "", "nothing has happened; node/demo raises an alarm"},
	{"gridveil verify reports.json --network network.toml", "", "there is no report yet; the script evidence.txtar judges one"},
}

// asks are commands whose answer grows while nodes meet: they are repeated until
// it fits.
var asks = regexp.MustCompile(`^gridveil (status|contract list|meter read|signals --)`)

const (
	patience = 75 * time.Second // a contract reaches the head-end within a minute
	slowest  = 4 * time.Minute  // the demonstration, on a machine that is busy
)

func TestDocumentedCommandsRun(t *testing.T) {
	if testing.Short() {
		t.Skip("runs nodes and a demonstration")
	}
	docs := read(t, ".md")
	june, err := os.ReadFile("node/monthly/testdata/host.json") // a month with a session, which here would take an hour
	if err != nil {
		t.Fatal(err)
	}
	w := &walk{t: t, binary: build(t), dir: t.TempDir(), shown: map[string]string{}}
	t.Chdir(w.dir)
	t.Cleanup(w.stopAll)
	// The reader of README.md has a utility that sends a link.
	for _, c := range []string{"gridveil network plan > plan.toml", "gridveil network new --plan plan.toml --out ./net", "gridveil init --role utility --data ./theirs --network ./net --operator utility-a",
		"gridveil run --data ./theirs", "gridveil invite --role gateway --zone elm --data ./theirs"} {
		w.step(step{command: c})
	}
	w.read("README.md", docs["README.md"])
	w.stopAll()
	for old, name := range map[string]string{"net": "", "home": "", "plan.toml": "", "day/export": "export", "day/export/policy": "utility.policy"} {
		w.move(old, name)
	}
	if err := os.WriteFile("june.json", june, 0o600); err != nil {
		t.Fatal(err)
	}
	w.read("doc/first-day.md", docs["doc/first-day.md"])
}

// binaryOf is built once for all tests of this package.
var binaryOf = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gridveil-docs-")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "gridveil")
	c := exec.Command("make", "build", "BIN="+binary)
	if _, err := exec.LookPath("make"); err != nil {
		c = exec.Command("go", "build", "-o", binary, "./cmd/gridveil")
	}
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", c.Args, err, out)
	}
	return binary, nil
})

// TestMain removes the binary.
func TestMain(m *testing.M) {
	code := m.Run()
	if built {
		if b, err := binaryOf(); err == nil {
			os.RemoveAll(filepath.Dir(b))
		}
	}
	os.Exit(code)
}

var built bool // some test wanted the binary

func build(t *testing.T) string {
	t.Helper()
	built = true
	b, err := binaryOf()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// step is a documented command.
type step struct {
	where   string
	command string
	output  []string
}

// steps parses the console blocks of a document.
func steps(name, text string) (out []step) {
	inside := false
	for i, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case inside && strings.HasPrefix(line, "$ "):
			command, _, _ := strings.Cut(line[2:], "  #")
			out = append(out, step{where: fmt.Sprintf("%s:%d", name, i+1), command: strings.TrimSpace(command)})
		case inside && len(out) > 0:
			out[len(out)-1].output = append(out[len(out)-1].output, line)
		}
	}
	return out
}

// walk runs commands in a directory of its own.
type walk struct {
	t      *testing.T
	binary string
	dir    string
	stops  []func()
	shown  map[string]string // what a document shows -> what this run has
	link   string            // the newest invitation
}

func (w *walk) read(name, text string) {
	w.t.Helper()
	for _, s := range steps(name, text) {
		if w.t.Failed() {
			return // what follows needs what failed
		}
		w.step(s)
	}
}

func (w *walk) step(s step) {
	w.t.Helper()
	command, subset := s.command, false
	for _, c := range changed {
		if c.command == s.command {
			if c.instead == "" {
				w.t.Logf("%s: `%s` is not run here: %s", s.where, s.command, c.why)
				return
			}
			command, subset = c.instead, strings.Contains(c.instead, "--once")
		}
	}
	args, out, ok := w.words(strings.Replace(command, "go run ./cmd/gridveil", "gridveil", 1))
	if !ok {
		w.t.Errorf("%s: `%s` is no command of gridveil, and no exception", s.where, s.command)
		return
	}
	began := time.Now()
	fits := fit
	if subset {
		fits = fitSubset
	}
	var got, bad, last string
	for {
		got, bad = w.try(args, out, len(s.output) > 0 && strings.HasPrefix(s.output[0], "gridveil: error:"))
		if bad == "" && len(s.output) > 0 {
			bad = fits(s.output, lines(got))
		}
		if bad == "" || !asks.MatchString(command) || time.Since(began) > patience {
			break
		}
		if bad != last {
			w.t.Logf("%s: `%s` not yet: %s %s", s.where, command, bad, got)
			last = bad
		}
		time.Sleep(500 * time.Millisecond) // other processes: nobody to wake us
	}
	if bad != "" {
		w.t.Errorf("%s: `%s`: %s\n%s", s.where, s.command, bad, got)
		return
	}
	w.t.Logf("%s: `%s` took %v", s.where, command, time.Since(began).Round(time.Millisecond))
	w.remember(s.output, lines(got))
}

// words splits a command line, puts what this run has in the place of what the
// document shows, and takes off a redirection.
func (w *walk) words(command string) (args []string, out string, ok bool) {
	for _, f := range regexp.MustCompile(`"[^"]*"|\S+`).FindAllString(command, -1) {
		f = strings.Trim(f, `"`)
		if strings.HasPrefix(f, "gridveil:join?") {
			f = w.link
		}
		for doc, real := range w.shown {
			if len(f) >= 4 && strings.HasPrefix(doc, f) {
				f = real[:len(f)]
				break
			}
		}
		args = append(args, f)
	}
	if n := len(args); n > 2 && args[n-2] == ">" {
		args, out = args[:n-2], args[n-1]
	}
	return args[1:], out, args[0] == "gridveil"
}

// try runs a command; bad says what is wrong with how it ended.
func (w *walk) try(args []string, file string, fails bool) (got, bad string) {
	switch {
	case args[0] == "run":
		return w.run(args)
	case args[0] == "demo" && !strings.Contains(strings.Join(args, " "), "--once"):
		return w.live(args)
	}
	ctx, cancel := context.WithTimeout(context.Background(), slowest)
	defer cancel()
	c := exec.CommandContext(ctx, w.binary, args...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	got = stdout.String()
	if got == "" {
		got = stderr.String()
	}
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		return got, err.Error()
	case fails != (err != nil):
		return got + stderr.String(), fmt.Sprintf("ended with %v", c.ProcessState)
	}
	if file != "" {
		if err := os.WriteFile(file, stdout.Bytes(), 0o600); err != nil {
			return got, err.Error()
		}
	}
	if l, ok := strings.CutPrefix(got, "gridveil:join?"); ok {
		w.link = "gridveil:join?" + strings.TrimSpace(l)
	}
	return got, ""
}

// run starts a node, after giving it addresses of its own, and gives what it says.
func (w *walk) run(args []string) (got, bad string) {
	dir := args[len(args)-1]
	if err := ownAddresses(filepath.Join(dir, "gridveil.toml")); err != nil {
		return "", err.Error()
	}
	stdout, _ := w.start(args)
	if out, err := exec.Command(w.binary, "status", "--wait", "20s", "--data", dir).CombinedOutput(); err != nil {
		return stdout() + string(out), "the node does not answer: " + err.Error()
	}
	return stdout(), ""
}

// start starts a process and gives what it has said so far and its end, which
// stopAll calls at the latest.
func (w *walk) start(args []string) (said func() string, stop func()) {
	out, err := os.CreateTemp(w.dir, "stdout-")
	if err != nil {
		w.t.Fatal(err)
	}
	defer out.Close()
	c := exec.Command(w.binary, args...)
	c.Stdout, c.Stderr = out, nil
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test that dies takes its processes with it
	if err := c.Start(); err != nil {
		w.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() { w.stop(c) })
	w.stops = append(w.stops, stop)
	return func() string {
		b, err := os.ReadFile(out.Name())
		if err != nil {
			return err.Error()
		}
		return string(b)
	}, stop
}

// stop ends a process as Ctrl-C does.
func (w *walk) stop(c *exec.Cmd) {
	kill := time.AfterFunc(20*time.Second, func() { _ = c.Process.Kill() }) // it did not listen
	defer kill.Stop()
	if err := c.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		w.t.Errorf("%v: %v", c.Args[1:], err)
	}
	if err := c.Wait(); err != nil {
		w.t.Errorf("%v ended with %v", c.Args[1:], err)
	}
}

func (w *walk) stopAll() {
	for _, stop := range w.stops {
		stop()
	}
	w.stops = nil
}

// live starts the demonstration, waits for its dashboard, looks at it, and ends it.
func (w *walk) live(args []string) (got, bad string) {
	stdout, stop := w.start(args)
	defer stop()
	address := regexp.MustCompile(`(?s)dashboard +(http://\S+).*data `)
	for deadline := time.Now().Add(slowest); ; time.Sleep(200 * time.Millisecond) {
		if m := address.FindStringSubmatch(stdout()); m != nil {
			return stdout(), look(m[1])
		}
		if time.Now().After(deadline) {
			return stdout(), "no dashboard"
		}
	}
}

// look fetches a page; bad says what is wrong with it.
func look(url string) (bad string) {
	client := http.Client{Timeout: 20 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil || resp.StatusCode != http.StatusOK || !bytes.Contains(page, []byte("<html")) {
		return fmt.Sprintf("%s: %s, %v, %d bytes", url, resp.Status, err, len(page))
	}
	return ""
}

// ownAddresses edits a configuration as doc/first-day.md says for several nodes
// on one machine.
func ownAddresses(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text := string(b)
	for _, usual := range []string{"/ip4/0.0.0.0/tcp/4100", "127.0.0.1:7080", "127.0.0.1:8470"} {
		port, err := loopback.Port()
		if err != nil {
			return err
		}
		own := strings.NewReplacer("0.0.0.0", "127.0.0.1", "4100", port, "7080", port, "8470", port).Replace(usual)
		text = strings.Replace(text, usual, own, 1)
	}
	return os.WriteFile(file, []byte(text), 0o600)
}

// move puts a file or folder of one document to where the next expects it, or
// away when name is empty.
func (w *walk) move(old, name string) {
	w.t.Helper()
	if name == "" {
		name = old + ".before"
		if err := os.Rename(old, name); err != nil {
			w.t.Error(err)
		}
		return
	}
	if err := os.Symlink(old, name); err != nil {
		w.t.Error(err)
	}
}

func lines(s string) []string { return strings.Split(strings.TrimRight(s, "\n"), "\n") }

var digit = regexp.MustCompile(`[0-9]`)

// fitLine compares two lines word by word.
func fitLine(want, got string) bool {
	a, b := strings.Fields(want), strings.Fields(got)
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != strings.TrimPrefix(b[i], "./") && strings.TrimPrefix(a[i], "./") != b[i] && a[i] != b[i] && !(digit.MatchString(a[i]) && digit.MatchString(b[i])) {
			return false
		}
	}
	return true
}

// fit says where got is not what want shows.
func fit(want, got []string) string {
	for len(want) > 0 {
		if want[0] == "…" {
			for n := range len(got) + 1 {
				if fit(want[1:], got[n:]) == "" {
					return ""
				}
			}
			return fmt.Sprintf("nothing fits what follows %q", want[0])
		}
		if len(got) == 0 {
			return fmt.Sprintf("%q is missing in", want[0])
		}
		if !fitLine(want[0], got[0]) {
			return fmt.Sprintf("want a line like %q, got %q in", want[0], got[0])
		}
		want, got = want[1:], got[1:]
	}
	if len(got) > 0 {
		return fmt.Sprintf("the document does not show %q of", got[0])
	}
	return ""
}

// fitSubset wants every line of got to be one that want shows, in its order.
func fitSubset(want, got []string) string {
	for _, g := range got {
		for len(want) > 0 && !fitLine(want[0], g) {
			want = want[1:]
		}
		if len(want) == 0 {
			return fmt.Sprintf("the document does not show %q of", g)
		}
		want = want[1:]
	}
	return ""
}

// remember notes keys and usage points that a document shows.
func (w *walk) remember(want, got []string) {
	for i := range min(len(want), len(got)) {
		a, b := strings.Fields(want[i]), strings.Fields(got[i])
		for j := range min(len(a), len(b)) {
			if len(a[j]) >= 32 && len(a[j]) == len(b[j]) && digit.MatchString(a[j]) {
				w.shown[a[j]] = b[j]
			}
		}
	}
}
