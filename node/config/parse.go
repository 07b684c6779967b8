package config

import (
	"errors"
	"fmt"
	"reflect"
	"sort"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Problem is one mistake in the file.
type Problem struct {
	File      string
	Line, Col int // 1-based; 0 when the place is unknown
	Text      string
}

func (p Problem) String() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.File, p.Text)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Col, p.Text)
}

// Problems is the error of Load and Parse: every mistake, in file order.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Parse decodes b strictly, fills the defaults and checks every value. name is
// the file name that the problems show.
func Parse(name string, b []byte) (*Config, error) {
	if len(b) > MaxBytes {
		return nil, Problems{{File: name, Text: fmt.Sprintf("file has %d bytes, at most %d are read", len(b), MaxBytes)}}
	}
	c := new(Config)
	var ps Problems
	dec := toml.NewDecoder(strings.NewReader(string(b))).DisallowUnknownFields()
	if err := dec.Decode(c); err != nil {
		var fatal bool
		if ps, fatal = decodeProblems(name, err); fatal {
			return nil, ps
		}
	}
	c.fill()
	at := positions(b)
	for _, f := range c.check() {
		line, col := at.find(f.key)
		ps = append(ps, Problem{name, line, col, f.key + ": " + f.text})
	}
	if len(ps) > 0 {
		sort.SliceStable(ps, func(i, j int) bool { return ps[i].Line < ps[j].Line })
		return nil, ps
	}
	return c, nil
}

// decodeProblems turns go-toml's errors into ours; fatal means that values
// behind the error were not read, so checking them would mislead.
func decodeProblems(name string, err error) (ps Problems, fatal bool) {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		for _, e := range strict.Errors {
			line, col := e.Position()
			key := strings.Join(e.Key(), ".")
			ps = append(ps, Problem{name, line, col, "unknown key " + key + suggest(key)})
		}
		return ps, false
	}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		line, col := de.Position()
		text := strings.TrimPrefix(de.Error(), "toml: ")
		if key := strings.Join(de.Key(), "."); key != "" && !strings.Contains(text, key) {
			text = key + ": " + text
		}
		return Problems{{name, line, col, text}}, true
	}
	return Problems{{File: name, Text: err.Error()}}, true
}

// suggest names the nearest valid key, if one is near enough to be meant.
func suggest(key string) string {
	best, dist := "", len(key)/2+1
	for _, k := range Keys() {
		if d := distance(last(key), last(k)); d < dist || d == dist && best != "" && distance(key, k) < distance(key, best) {
			best, dist = k, d
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

func last(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// Keys lists every valid key, dotted, in the order of the Config struct.
func Keys() []string {
	var keys []string
	walk(reflect.TypeOf(Config{}), "", func(key string) { keys = append(keys, key) })
	return keys
}

func walk(t reflect.Type, prefix string, visit func(key string)) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("toml")
		if tag == "-" {
			continue
		}
		if f.Type.Kind() == reflect.Struct {
			walk(f.Type, prefix+tag+".", visit)
			continue
		}
		visit(prefix + tag)
	}
}

// distance is the Levenshtein distance of two short keys.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diag
			if a[i-1] != b[j-1] {
				cost++
			}
			diag = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

// places maps dotted keys to where their value stands in the file.
type places map[string][2]int

// find gives the place of key, or of its table when the key is absent.
func (p places) find(key string) (line, col int) {
	if at, ok := p[key]; ok {
		return at[0], at[1]
	}
	if i := strings.IndexByte(key, '['); i > 0 {
		return p.find(key[:i])
	}
	return 0, 0
}

func positions(b []byte) places {
	at := make(places)
	var p unstable.Parser
	p.Reset(b)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		key := dotted(e)
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = key + "."
		case unstable.KeyValue:
			if raw := e.Value().Raw; raw.Length > 0 {
				s := p.Shape(raw).Start
				at[table+key] = [2]int{s.Line, s.Column}
			} else {
				k := e.Key()
				k.Next()
				s := p.Shape(k.Node().Raw).Start
				at[table+key] = [2]int{s.Line, s.Column}
			}
		}
	}
	return at
}

func dotted(e *unstable.Node) string {
	var parts []string
	for it := e.Key(); it.Next(); {
		parts = append(parts, string(it.Node().Data))
	}
	return strings.Join(parts, ".")
}
