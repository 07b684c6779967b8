// Package golden compares what a test computed with vectors stored in
// testdata/vectors. A vector file holds lines "name: hex" and ends with
// "expect: ok"; -update rewrites it, and the commit then says why bytes of a
// signed or stored format changed.
package golden

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite testdata/vectors")

// Line is one named value of a vector.
type Line struct {
	Name  string
	Value []byte
}

// Check compares lines with testdata/vectors/<file>.txt.
func Check(t testing.TB, file string, lines ...Line) {
	t.Helper()
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%s: %s\n", l.Name, hex.EncodeToString(l.Value))
	}
	b.WriteString("expect: ok\n")
	path := filepath.Join("testdata", "vectors", file+".txt")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("vector %s: %v (run with -update to make it)", path, err)
	}
	if string(want) != b.String() {
		t.Errorf("%s: got\n%s\nwant\n%s", path, b.String(), want)
	}
}

// Read gives the values of testdata/vectors/<file>.txt by name, for vectors
// that come from outside.
func Read(t testing.TB, file string) map[string][]byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "vectors", file+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for line := range strings.Lines(string(raw)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || strings.HasPrefix(name, "#") || name == "expect" {
			continue
		}
		b, err := hex.DecodeString(value)
		if err != nil {
			t.Fatalf("vector %s, %s: %v", file, name, err)
		}
		out[name] = b
	}
	return out
}
