package config

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
)

//go:embed config.go
var source string

// Manual is doc/config.md: every key with its comment, made from this package's
// own source, so that the two cannot differ.
func Manual() (string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", source, parser.ParseComments)
	if err != nil {
		return "", err
	}
	structs := map[string]*ast.StructType{}
	about := map[string]string{}
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, s := range g.Specs {
			if t, ok := s.(*ast.TypeSpec); ok {
				if st, ok := t.Type.(*ast.StructType); ok {
					structs[t.Name.Name], about[t.Name.Name] = st, g.Doc.Text()
				}
			}
		}
	}
	var b strings.Builder
	b.WriteString("# gridveil.toml\n\nEvery key, made from the source by `go test ./node/config -update`. `gridveil config check` reports mistakes with their place.\n")
	b.WriteString("Unknown keys are errors. Prices are millionths of a currency unit per kWh.\n")
	section(&b, "", structs["Config"], structs, about)
	return b.String(), nil
}

func section(b *strings.Builder, prefix string, st *ast.StructType, structs map[string]*ast.StructType, about map[string]string) {
	var nested []func()
	wrote := false
	for _, f := range st.Fields.List {
		if f.Tag == nil {
			continue
		}
		key := reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("toml")
		if key == "" || key == "-" {
			continue
		}
		if id, ok := f.Type.(*ast.Ident); ok && structs[id.Name] != nil {
			nested = append(nested, func() {
				fmt.Fprintf(b, "\n## [%s%s]\n\n%s\n", prefix, key, strings.ReplaceAll(strings.TrimSpace(about[id.Name]), "\n", " "))
				section(b, prefix+key+".", structs[id.Name], structs, about)
			})
			continue
		}
		if !wrote {
			b.WriteString("\n| key | type | meaning |\n|---|---|---|\n")
			wrote = true
		}
		fmt.Fprintf(b, "| `%s%s` | %s | %s |\n", prefix, key, typeWord(f.Type), strings.ReplaceAll(strings.TrimSpace(f.Doc.Text()), "\n", " "))
	}
	for _, n := range nested {
		n()
	}
}

func typeWord(e ast.Expr) string {
	switch t := e.(type) {
	case *ast.ArrayType:
		return "list of " + typeWord(t.Elt)
	case *ast.Ident:
		switch t.Name {
		case "string":
			return "text"
		case "bool":
			return "true, false"
		case "Duration":
			return "duration"
		}
	}
	return "whole number"
}
