package gridveil

import (
	"os/exec"
	"strings"
	"testing"
)

// allowed says which sibling rooms each top-level room may import.
var allowed = map[string][]string{
	"privacy": {},
	"battery": {},
	"mesh":    {"privacy"},
	"ledger":  {"privacy"},
	"ev":      {"ledger", "privacy"},
	"node":    {"battery", "ev", "ledger", "mesh", "privacy"},
	"cmd":     {"node"},
	"":        {},
}

// banned lists outside modules that a room must never reach for directly.
var banned = map[string][]string{
	"privacy": {"github.com/libp2p/", "github.com/dgraph-io/badger", "net/http"},
	"battery": {"github.com/libp2p/", "github.com/dgraph-io/badger", "net/http"},
	"mesh":    {"github.com/dgraph-io/badger"},
	"ledger":  {"github.com/libp2p/"},
	"ev":      {"github.com/libp2p/", "github.com/dgraph-io/badger"},
}

func TestPackagesImportOnlyTheirNeighbours(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}|{{.Doc}}|{{join .Imports " "}}`, "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		part := strings.SplitN(line, "|", 3)
		path, doc, imports := part[0], part[1], strings.Fields(part[2])
		if doc == "" {
			t.Errorf("%s has no package comment", path)
		}
		room := roomOf(path)
		friends, known := allowed[room]
		if !known {
			t.Errorf("%s stands in %q, which is not one of the fixed rooms", path, room)
		}
		for _, imp := range imports {
			checkImport(t, path, room, imp, friends)
		}
	}
}

func checkImport(t *testing.T, path, room, imp string, friends []string) {
	t.Helper()
	for _, b := range banned[room] {
		if strings.HasPrefix(imp, b) {
			t.Errorf("%s imports %s, which %s must never touch", path, imp, room)
		}
	}
	if !strings.HasPrefix(imp, "gridveil/") {
		return
	}
	other := roomOf(imp)
	if other == room {
		return
	}
	for _, f := range friends {
		if f == other {
			return
		}
	}
	t.Errorf("%s imports %s: %s may import only %v", path, imp, room, friends)
}

// roomOf gives the top-level folder of an import path, "" for the root.
func roomOf(path string) string {
	rest := strings.TrimPrefix(strings.TrimPrefix(path, "gridveil"), "/")
	room, _, _ := strings.Cut(rest, "/")
	return room
}
