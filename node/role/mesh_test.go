package role

import (
	"testing"
	"time"

	"gridveil/mesh"
)

func TestMeshWarningsStandAmongTheOthersWorstFirst(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	old := now.Add(-time.Hour)
	board := []Warning{{Code: "records-waiting", Severity: Problem}, {Code: "old-software", Severity: Notice}}
	for _, c := range []struct {
		fact string
		mesh []mesh.Warning
		want string
	}{
		{"nothing of the mesh", nil, "records-waiting old-software "},
		{"a revoked certificate is a fault", []mesh.Warning{{Code: mesh.WarnRevoked, Since: old}}, "revoked records-waiting old-software "},
		{"a wrong clock is a fault", []mesh.Warning{{Code: mesh.WarnClockOff, Since: old}}, "clock-off records-waiting old-software "},
		{"split, few relays and lost loops limit", []mesh.Warning{{Code: mesh.WarnDirectorySplit, Since: old}, {Code: mesh.WarnFewRelays, Since: old}, {Code: mesh.WarnLoopsLost, Since: old}},
			"directory-split few-relays loops-lost records-waiting old-software "},
		{"a start begins without relays", []mesh.Warning{{Code: mesh.WarnFewRelays, Since: now}, {Code: mesh.WarnStaleDirectory, Since: now}}, "records-waiting old-software "},
		{"the switch hides what follows from it", []mesh.Warning{{Code: mesh.WarnOff, Since: old}, {Code: mesh.WarnSmallSet, Since: old}, {Code: mesh.WarnFewRelays, Since: old}}, "mesh-off records-waiting old-software "},
		{"class lab has its banner", []mesh.Warning{{Code: mesh.WarnLab, Since: old}}, "records-waiting old-software "},
	} {
		if got := codes(withMesh(board, c.mesh, now)); got != c.want {
			t.Errorf("%s: got %q, want %q", c.fact, got, c.want)
		}
	}
	for code, w := range meshWarnings {
		if w.Title == "" || w.Text == "" || w.Next == "" || w.Severity == "" {
			t.Errorf("%s: %+v leaves something unsaid", code, w)
		}
	}
}
