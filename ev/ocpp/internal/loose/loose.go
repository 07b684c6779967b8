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
type Object map[string]json.RawMessage

// Parse reads an object; anything else gives the nil Object.
func Parse(b []byte) Object {
	var o Object
	if json.Unmarshal(b, &o) != nil {
		return nil
	}
	return o
}

// Object returns the field's object, nil if it is none.
func (o Object) Object(key string) Object { return Parse(o[key]) }

// List returns the objects of an array. A single object counts as a list of
// one: some stations leave the brackets out.
func (o Object) List(key string) []Object {
	var parts []json.RawMessage
	if json.Unmarshal(o[key], &parts) != nil {
		if one := Parse(o[key]); one != nil {
			return []Object{one}
		}
		return nil
	}
	out := make([]Object, 0, len(parts))
	for _, p := range parts {
		if one := Parse(p); one != nil {
			out = append(out, one)
		}
	}
	return out
}

// Text returns a string, or the literal text of a number or boolean.
func (o Object) Text(key string) string {
	b := bytes.TrimSpace(o[key])
	if len(b) == 0 {
		return ""
	}
	switch b[0] {
	case '"':
		var s string
		// Invalid text was already refused by the outer decoder.
		_ = json.Unmarshal(b, &s)
		return s
	case '{', '[', 'n':
		return ""
	}
	return string(b)
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
