// Package loose reads the JSON that stations really send: numbers as text,
// text as numbers, times without a zone, fields of the wrong kind. A field that
// cannot be read is absent; nothing here fails, because a refused transaction
// message is dropped or repeated for ever by the station that sent it.
package loose

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// Object is a JSON object whose fields are read one by one. The nil Object has
// no fields.
type Object map[string]any

// Parse reads an object; anything else gives the nil Object. Numbers keep their
// text: a meter's digits are never rounded.
func Parse(b []byte) Object {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var o map[string]any
	if d.Decode(&o) != nil {
		return nil
	}
	return o
}

// Has reports whether the field is there and not null.
func (o Object) Has(key string) bool { return o[key] != nil }

// Object returns the field's object, nil if it is none.
func (o Object) Object(key string) Object {
	m, _ := o[key].(map[string]any)
	return m
}

// List returns the objects of an array. A single object counts as a list of
// one: some stations leave the brackets out.
func (o Object) List(key string) []Object {
	switch v := o[key].(type) {
	case map[string]any:
		return []Object{v}
	case []any:
		out := make([]Object, 0, len(v))
		for _, x := range v {
			if m, ok := x.(map[string]any); ok {
				out = append(out, m)
			}
		}
		return out
	}
	return nil
}

// Text returns a string, or the literal text of a number or boolean.
func (o Object) Text(key string) string {
	switch v := o[key].(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

// Int returns a whole number, also from text or from a float without fraction.
func (o Object) Int(key string) (int, bool) {
	s := strings.TrimSpace(o.Text(key))
	if n, err := strconv.Atoi(s); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int(f), true
}

// IntOr returns a whole number or the fallback.
func (o Object) IntOr(key string, fallback int) int {
	if n, ok := o.Int(key); ok {
		return n
	}
	return fallback
}

// Bool returns true for true, "true" and 1.
func (o Object) Bool(key string) bool {
	switch strings.ToLower(o.Text(key)) {
	case "true", "1":
		return true
	}
	return false
}

// layouts of times that stations send; those without a zone are UTC.
var layouts = []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04:05Z0700", "2006-01-02 15:04:05"}

// Millis returns a time as UTC milliseconds, 0 if it cannot be read.
func (o Object) Millis(key string) int64 {
	s := strings.TrimSpace(o.Text(key))
	for _, l := range layouts {
		if t, err := time.Parse(l, s); err == nil && t.Year() > 0 && t.Year() < 10_000 {
			return t.UnixMilli()
		}
	}
	return 0
}
