package ev

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
)

// Limits of the search for signed records in one message.
const (
	maxNesting = 6        // JSON in text in JSON ...: stations do it twice
	maxRecords = 64       // signed records per message
	maxTries   = 256      // places looked at per message: each costs a scan of up to maxRecord
	maxRecord  = 16 << 10 // bytes of one record
)

var ocmfPrefix = []byte("OCMF|")

// FindOCMF returns every OCMF record in a message payload, verbatim: in any text of the JSON, plain, in JSON within
// text (OCPP 1.6 signedMeterData), in base64 or in hex. Records longer than 16 KiB and more than 64 are left out. The
// bytes run from "OCMF|" to the end of the signature object; equal records are returned once.
func FindOCMF(raw []byte) [][]byte {
	f := finder{seen: map[string]bool{}}
	var v any
	if json.Unmarshal(raw, &v) == nil {
		f.walk(v, 0)
	} else {
		f.text(string(raw), 0)
	}
	return f.found
}

type finder struct {
	found [][]byte
	seen  map[string]bool
	tries int
}

func (f *finder) walk(v any, depth int) {
	switch v := v.(type) {
	case string:
		f.text(v, depth)
	case []any:
		for _, x := range v {
			f.walk(x, depth)
		}
	case map[string]any:
		for _, key := range sortedKeys(v) {
			f.walk(v[key], depth)
		}
	}
}

// text looks into one string: records in it, else what it encodes.
func (f *finder) text(s string, depth int) {
	if len(s) < 24 || depth > maxNesting {
		return
	}
	if f.cut([]byte(s)) {
		return
	}
	s = strings.TrimSpace(s)
	if s[0] == '{' || s[0] == '[' || s[0] == '"' {
		var v any
		if json.Unmarshal([]byte(s), &v) == nil {
			f.walk(v, depth+1)
		}
		return
	}
	if b, err := hex.DecodeString(s); err == nil {
		f.text(string(b), depth+1)
	} else if b, ok := fromBase64(s); ok {
		f.text(string(b), depth+1)
	}
}

// cut keeps the records that begin in b and reports whether there was one.
func (f *finder) cut(b []byte) (any bool) {
	for len(f.found) < maxRecords {
		i := bytes.Index(b, ocmfPrefix)
		if f.tries++; i < 0 || f.tries > maxTries {
			return any
		}
		b = b[i:]
		n := recordLength(b)
		if n == 0 {
			b = b[len(ocmfPrefix):]
			continue
		}
		if text := string(b[:n]); !f.seen[text] {
			f.seen[text] = true
			f.found = append(f.found, []byte(text))
		}
		b, any = b[n:], true
	}
	return any
}

// recordLength returns the length of "OCMF|{...}|{...}" at the start of b, zero if it is not one.
func recordLength(b []byte) int {
	n := len(ocmfPrefix)
	payload := objectLength(b[n:])
	n += payload
	if payload == 0 || n >= len(b) || b[n] != '|' {
		return 0
	}
	n++
	signature := objectLength(b[n:])
	if n += signature; signature == 0 || n > maxRecord {
		return 0
	}
	return n
}

// objectLength returns the length of the JSON object at the start of b with the blanks around it that the sender
// put there before a '|'.
func objectLength(b []byte) int {
	d := json.NewDecoder(bytes.NewReader(b[:min(len(b), maxRecord)]))
	var v json.RawMessage
	if d.Decode(&v) != nil || len(v) == 0 || v[0] != '{' {
		return 0
	}
	n := int(d.InputOffset())
	rest := bytes.TrimLeft(b[n:], " \t\r\n")
	if len(rest) > 0 && rest[0] == '|' {
		return len(b) - len(rest)
	}
	return n
}

func fromBase64(s string) ([]byte, bool) {
	s = strings.TrimRight(strings.NewReplacer("\n", "", "\r", "", "-", "+", "_", "/").Replace(s), "=")
	b, err := base64.RawStdEncoding.DecodeString(s)
	return b, err == nil
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
