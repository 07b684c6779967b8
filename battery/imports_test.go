package battery

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestNothingLeavesBattery: no file of the mask can write, send, log or read a clock;
// and none draws from randomness that everybody shares.
func TestNothingLeavesBattery(t *testing.T) {
	files, banned := 0, []string{"os", "log", "log/slog", "net", "net/http", "syscall", "unsafe", "crypto/rand", "math/rand", "html/template", "text/template"}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files++
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		for _, imp := range f.Imports {
			name, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			inside := strings.HasPrefix(name, "gridveil/battery")
			if slices.Contains(banned, name) || strings.Contains(name, ".") || strings.HasPrefix(name, "gridveil/") && !inside {
				t.Errorf("%s imports %s", path, name)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			of, _ := call.X.(*ast.Ident)
			switch {
			case of == nil:
			case of.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "Tick", "NewTimer", "NewTicker"}, call.Sel.Name):
				t.Errorf("%s reads the clock: time.%s", path, call.Sel.Name)
			case of.Name == "rand" && !slices.Contains([]string{"New", "NewPCG", "NewChaCha8", "Rand"}, call.Sel.Name):
				t.Errorf("%s draws from rand.%s", path, call.Sel.Name)
			}
			return true
		})
		return nil
	})
	if err != nil || files < 10 {
		t.Errorf("%d files read: %v", files, err)
	}
}
