package config

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write doc/config.md")

func TestManualIsMadeFromTheSource(t *testing.T) {
	const path = "../../doc/config.md"
	want, err := Manual()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range Keys() {
		if !strings.Contains(want, "`"+k+"`") {
			t.Errorf("the manual lacks %s", k)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("doc/config.md is not what the source says: run go test ./node/config -update (%v)", err)
	}
}
