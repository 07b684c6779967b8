package ocmf

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
)

// The scanner splits JSON that json.Valid has accepted. It exists because names must be compared exactly and may stand
// only once, else two parsers could read one signed text differently; encoding/json allows both.

// member is one name and value of an object.
type member struct {
	name  string
	value []byte
}

// fields are the members of an object in their order; records have about twenty.
type fields []member

var (
	errDuplicate = errors.New("member stands twice")
	errShape     = errors.New("not JSON of the expected shape")
)

// parseObject reads exactly one JSON object with blanks around it.
func parseObject(b []byte) (fields, error) {
	if !json.Valid(b) {
		return nil, errShape
	}
	return object(bytes.TrimSpace(b))
}

// object splits a valid JSON value that must be an object.
func object(b []byte) (fields, error) {
	if len(b) == 0 || b[0] != '{' {
		return nil, errShape
	}
	f := make(fields, 0, 24)
	for b = blank(b[1:]); b[0] != '}'; b = separator(b) {
		n := valueLength(b)
		name, err := text(b[:n])
		if err != nil {
			return nil, err
		}
		if f.has(name) {
			return nil, errDuplicate
		}
		b = blank(blank(b[n:])[1:]) // the colon
		n = valueLength(b)
		f = append(f, member{name, b[:n]})
		b = b[n:]
	}
	return f, nil
}

// array splits a valid JSON value that must be an array.
func array(b []byte) (items [][]byte, err error) {
	if len(b) == 0 || b[0] != '[' {
		return nil, errShape
	}
	for b = blank(b[1:]); b[0] != ']'; b = separator(b) {
		n := valueLength(b)
		items = append(items, b[:n])
		b = b[n:]
	}
	return items, nil
}

func blank(b []byte) []byte { return bytes.TrimLeft(b, " \t\r\n") }

// separator skips blanks and a comma.
func separator(b []byte) []byte {
	if b = blank(b); b[0] == ',' {
		b = blank(b[1:])
	}
	return b
}

// valueLength returns the length of the valid JSON value at the start of b.
func valueLength(b []byte) int {
	switch b[0] {
	case '"':
		return stringLength(b)
	case '{', '[':
		depth := 0
		for i := 0; ; i++ {
			switch b[i] {
			case '"':
				i += stringLength(b[i:]) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	}
	if n := bytes.IndexAny(b, ",]} \t\r\n"); n >= 0 {
		return n
	}
	return len(b)
}

func stringLength(b []byte) int {
	for i := 1; ; i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

// text returns the value of a JSON string.
func text(b []byte) (s string, err error) {
	if len(b) < 2 || b[0] != '"' {
		return "", errShape
	}
	if inner := b[1 : len(b)-1]; bytes.IndexByte(inner, '\\') < 0 {
		return string(inner), nil
	}
	err = json.Unmarshal(b, &s)
	return s, err
}

// get returns a member's value, nil if it is absent or null.
func (f fields) get(name string) []byte {
	for _, m := range f {
		if m.name == name && string(m.value) != "null" {
			return m.value
		}
	}
	return nil
}

// has reports whether the name stands in f, whatever its value.
func (f fields) has(name string) bool {
	for _, m := range f {
		if m.name == name {
			return true
		}
	}
	return false
}

// text stores a string member; absent and null leave v alone.
func (f fields) text(name string, v *string) (err error) {
	if raw := f.get(name); raw != nil {
		*v, err = text(raw)
	}
	return err
}

// value stores a member of any other type.
func (f fields) value(name string, v any) error {
	raw := f.get(name)
	if raw == nil {
		return nil
	}
	return json.Unmarshal(raw, v)
}

// number stores a number, or a string that holds one, as its decimal text.
func (f fields) number(name string, v *string) error {
	raw := f.get(name)
	switch {
	case raw == nil:
		return nil
	case raw[0] == '"':
		s, err := text(raw)
		*v = strings.TrimSpace(s)
		return err
	case raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9':
		*v = string(raw)
		return nil
	}
	return errShape
}
