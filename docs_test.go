package gridveil

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// read gives the tree's files whose names end in suffix, by path.
func read(t *testing.T, suffix string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, suffix) {
			return nil
		}
		b, err := os.ReadFile(path)
		files[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

var (
	link    = regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]*)?\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

func TestLinksOfTheDocumentsLeadSomewhere(t *testing.T) {
	docs := read(t, ".md")
	for name, text := range docs {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			target := name
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(name), m[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			} else if m[2] != "" && !slices.Contains(anchors(docs[target]), m[2][1:]) {
				t.Errorf("%s links to %s%s, and no heading is called so", name, m[1], m[2])
			}
		}
	}
}

// anchors are the names under which a page's headings are linked.
func anchors(text string) (out []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		out = append(out, strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return out
}

var (
	testName = regexp.MustCompile(`\b(Test[A-Z]\w*)(?:/(\w+))?`)
	testFunc = regexp.MustCompile(`(?m)^func (Test[A-Z]\w*)\(`)
	goTest   = regexp.MustCompile("`go test [^`]*`")
	folder   = regexp.MustCompile(`\./[\w/]+`)
	target   = regexp.MustCompile("(?:`|\\$ )make (\\w+)")
)

// TestEveryTestThatTheDocumentsNameExists holds doc/threats.md and the others to
// the tree: a claim whose test is gone is no claim.
func TestEveryTestThatTheDocumentsNameExists(t *testing.T) {
	in := map[string]string{} // the file of a test
	sources := read(t, "_test.go")
	for _, text := range sources {
		for _, m := range testFunc.FindAllStringSubmatch(text, -1) {
			in[m[1]] += text
		}
	}
	for name, text := range read(t, ".md") {
		for _, m := range testName.FindAllStringSubmatch(text, -1) {
			if in[m[1]] == "" {
				t.Errorf("%s names %s, which is no test of this tree", name, m[1])
			} else if m[2] != "" && !strings.Contains(in[m[1]], m[2]) {
				t.Errorf("%s names %s, and its file knows no %s", name, m[0], m[2])
			}
		}
		for _, command := range goTest.FindAllString(text, -1) {
			for _, dir := range folder.FindAllString(command, -1) {
				if _, err := os.Stat(dir); err != nil {
					t.Errorf("%s says %s: %v", name, command, err)
				}
			}
		}
	}
}

func TestEveryMakeTargetThatTheDocumentsNameExists(t *testing.T) {
	b, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range read(t, ".md") {
		for _, m := range target.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(string(b), "\n"+m[1]+":") {
				t.Errorf("%s says make %s, and the Makefile has no such target", name, m[1])
			}
		}
	}
}

var (
	inTicks   = regexp.MustCompile("`gridveil( [^`\n]*)`")
	inConsole = regexp.MustCompile(`(?m)^\$ (?:gridveil|go run \./cmd/gridveil)( .*)$`)
	inHelp    = regexp.MustCompile(`(?m)^  gridveil( .*)$`)
)

// TestEveryCommandThatIsNamedExists follows each `gridveil ...` of documents,
// error texts, comments and examples through the command tree, with its flags.
func TestEveryCommandThatIsNamedExists(t *testing.T) {
	tree := &tree{t: t, binary: build(t), helps: map[string]help{}}
	for name, text := range read(t, ".md") {
		for _, m := range slices.Concat(inTicks.FindAllStringSubmatch(text, -1), inConsole.FindAllStringSubmatch(text, -1)) {
			tree.check(name, m[1])
		}
	}
	for name, text := range read(t, ".go") {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, m := range inTicks.FindAllStringSubmatch(text, -1) {
			tree.check(name, m[1])
		}
	}
	tree.checkExamples("")
}

// tree is the command tree as `--help` shows it.
type tree struct {
	t      *testing.T
	binary string
	helps  map[string]help
}

type help struct {
	text  string
	subs  []string
	flags []string
}

var (
	helpSub  = regexp.MustCompile(`^  ([a-z-]+) +[A-Z]`)
	helpFlag = regexp.MustCompile(`^ +(?:-\w, )?--([a-z-]+)`)
)

func (c *tree) help(path string) help {
	if h, ok := c.helps[path]; ok {
		return h
	}
	c.t.Helper()
	out, err := exec.Command(c.binary, append(strings.Fields(path), "--help")...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("gridveil%s --help: %v\n%s", path, err, out)
	}
	h := help{text: string(out)}
	_, listed, _ := strings.Cut(h.text, "\nUsage:\n")
	for line := range strings.SplitSeq(listed, "\n") {
		if m := helpSub.FindStringSubmatch(line); m != nil {
			h.subs = append(h.subs, m[1])
		}
		if m := helpFlag.FindStringSubmatch(line); m != nil {
			h.flags = append(h.flags, m[1])
		}
	}
	c.helps[path] = h
	return h
}

// check wants words to begin with a command and to use only flags of it.
func (c *tree) check(where, words string) {
	c.t.Helper()
	words, _, _ = strings.Cut(words, " # ")
	path, rest := "", strings.Fields(words)
	for len(rest) > 0 && slices.Contains(c.help(path).subs, rest[0]) {
		path, rest = path+" "+rest[0], rest[1:]
	}
	h := c.help(path)
	lone := len(rest) > 0 && regexp.MustCompile(`^[a-z]+$`).MatchString(rest[0])
	if path == "" && (len(rest) == 0 || !strings.HasPrefix(rest[0], "--")) || lone && len(h.subs) > 0 {
		c.t.Errorf("%s names `gridveil%s`, and there is no such command", where, words)
		return
	}
	for _, w := range rest {
		if name, _, _ := strings.Cut(w, "="); strings.HasPrefix(name, "--") && !slices.Contains(h.flags, name[2:]) {
			c.t.Errorf("%s says `gridveil%s`, and gridveil%s has no flag %s", where, words, path, name)
		}
	}
}

// checkExamples checks the help texts of path and below.
func (c *tree) checkExamples(path string) {
	c.t.Helper()
	h := c.help(path)
	_, examples, _ := strings.Cut(h.text, "\nExamples:\n")
	examples, _, _ = strings.Cut(examples, "\n\n")
	for _, m := range inHelp.FindAllStringSubmatch(examples, -1) {
		c.check("gridveil"+path+" --help", m[1])
	}
	for _, sub := range h.subs {
		if sub != "completion" { // cobra's own
			c.checkExamples(path + " " + sub)
		}
	}
}
