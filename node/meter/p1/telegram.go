// Package p1 reads and writes DSMR P1 telegrams: the customer port of most
// Dutch, Belgian, Luxembourg, Hungarian and Irish meters, and the older D0
// variant without checksum.
//
// Parse splits a telegram into objects and checks its CRC; Telegram.Frame turns
// the objects into integers in gridveil's units; Telegram.Encode is the inverse
// of Parse and gives the simulated meter real bytes. Scanner cuts telegrams out
// of a byte stream, Source reads them over TCP or a serial line.
//
// Identifying text (serial number, messages) never leaves this package: a frame
// carries a hash of the serial number.
//
// Source: DSMR P1 companion standard 5.0.2, IEC 62056-21.
package p1

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"gridveil/node/meter"
)

// MaxTelegram bounds a telegram; real ones have 400 to 2,000 bytes.
const MaxTelegram = 8 << 10

// maxObjects bounds the lines of a telegram; real ones have up to 60.
const maxObjects = 256

// Object is one line: an OBIS code and the texts in its brackets.
type Object struct {
	Code   string
	Values []string
}

// Telegram is a parsed telegram. CRC says that it carries a checksum; Parse has
// then verified it.
type Telegram struct {
	Ident   string // after the '/', for example "ISK5\2M550T-1012"
	Objects []Object
	CRC     bool
}

// crcTable is CRC-16/ARC: polynomial 8005 reflected (A001), initial value 0.
var crcTable = func() (t [256]uint16) {
	for i := range t {
		c := uint16(i)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xA001
			} else {
				c >>= 1
			}
		}
		t[i] = c
	}
	return t
}()

// Checksum is CRC-16/ARC of b; a telegram's covers '/' to '!', both included.
func Checksum(b []byte) (crc uint16) {
	for _, x := range b {
		crc = crc>>8 ^ crcTable[byte(crc)^x]
	}
	return crc
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: p1: %s", meter.ErrInvalidFrame, fmt.Sprintf(format, args...))
}

// Parse reads one telegram from '/' to the line end after '!'. It returns an
// error wrapping meter.ErrInvalidFrame that names the line, never its content.
func Parse(raw []byte) (Telegram, error) {
	if len(raw) == 0 || raw[0] != '/' {
		return Telegram{}, invalid("does not start with '/'")
	}
	if len(raw) > MaxTelegram {
		return Telegram{}, invalid("longer than %d bytes", MaxTelegram)
	}
	end := bytes.LastIndex(raw, []byte("\n!"))
	if end < 0 {
		return Telegram{}, invalid("no end mark")
	}
	checked, err := checkEnd(raw, end+1)
	if err != nil {
		return Telegram{}, err
	}
	t, err := parseLines(string(raw[1 : end+1]))
	if err != nil {
		return Telegram{}, err
	}
	if t.CRC = checked; !checked && t.mustCheck() {
		return Telegram{}, invalid("no checksum although the meter's version has one; check the cable")
	}
	return t, nil
}

// checkEnd verifies what follows the '!' at raw[mark]: up to four upper-case
// hexadecimal digits (some meters drop leading zeros) and a line end.
func checkEnd(raw []byte, mark int) (checked bool, err error) {
	tail := string(raw[mark+1:])
	hex := strings.TrimSuffix(strings.TrimSuffix(tail, "\n"), "\r")
	if len(hex) > 4 || len(hex) == len(tail) || strings.Trim(hex, "0123456789ABCDEF") != "" {
		return false, invalid("malformed end")
	}
	if hex == "" {
		return false, nil
	}
	want, err := strconv.ParseUint(hex, 16, 16)
	if err != nil {
		return false, invalid("malformed end")
	}
	if got := Checksum(raw[:mark+1]); got != uint16(want) {
		return false, invalid("checksum differs; check the cable and the baud rate")
	}
	return true, nil
}

func parseLines(body string) (Telegram, error) {
	var t Telegram
	line, rest, _ := strings.Cut(body, "\n")
	if t.Ident = strings.TrimSuffix(line, "\r"); len(t.Ident) == 0 {
		return t, invalid("line 1: identification")
	}
	t.Objects = make([]Object, 0, 48)
	values := make([]string, 0, 64) // one backing array for all lines
	for number := 2; rest != ""; number++ {
		line, rest, _ = strings.Cut(rest, "\n")
		line = strings.TrimSuffix(line, "\r")
		if line == "" {
			continue
		}
		at := strings.IndexByte(line, '(')
		if at < 0 || !validCode(line[:at]) && at > 0 {
			return t, invalid("line %d: want CODE(value)", number)
		}
		if at == 0 && len(t.Objects) == 0 || at > 0 && len(t.Objects) == maxObjects {
			return t, invalid("line %d: value without a code, or more than %d lines", number, maxObjects)
		}
		first := len(values)
		var ok bool
		if values, ok = appendValues(values, line[at:]); !ok {
			return t, invalid("line %d: brackets or characters", number)
		}
		own := values[first:len(values):len(values)]
		if at > 0 {
			t.Objects = append(t.Objects, Object{Code: line[:at], Values: own})
			continue
		}
		// A value on a line of its own belongs to the line before (DSMR 2 gas).
		last := &t.Objects[len(t.Objects)-1]
		last.Values = append(last.Values[:len(last.Values):len(last.Values)], own...)
	}
	return t, nil
}

// appendValues cuts "(a)(b)" into a and b; ok is false for anything else and
// for characters that are not printable.
func appendValues(values []string, s string) ([]string, bool) {
	for s != "" {
		if s[0] != '(' {
			return values, false
		}
		end := 1
		for end < len(s) && s[end] != ')' {
			if c := s[end]; c < 0x20 || c > 0x7e || c == '(' {
				return values, false
			}
			end++
		}
		if end == len(s) {
			return values, false
		}
		values = append(values, s[1:end])
		s = s[end+1:]
	}
	return values, true
}

// validCode accepts A-B:C.D.E with an optional *F, digits only.
func validCode(s string) bool {
	if len(s) < 5 || len(s) > 20 || s[0] < '0' || s[0] > '9' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > ':') && c != '-' && c != '.' && c != '*' {
			return false
		}
	}
	return true
}

// mustCheck says that the telegram's own version field promises a checksum:
// DSMR 4 and later, and the Belgian profile.
func (t Telegram) mustCheck() bool {
	for _, o := range t.Objects {
		switch o.Code {
		case "1-3:0.2.8":
			return len(o.Values) == 1 && o.Values[0] >= "40"
		case "0-0:96.1.4":
			return true
		}
	}
	return false
}

// Get returns the first value of a code, with or without a trailing "*255".
func (t Telegram) Get(code string) (string, bool) {
	for _, o := range t.Objects {
		if strings.TrimSuffix(o.Code, "*255") == code && len(o.Values) > 0 {
			return o.Values[0], true
		}
	}
	return "", false
}

// Encode writes the telegram with an empty second line, CRLF line ends and,
// when t.CRC is set, four checksum digits: Parse(Encode(t)) gives t.
func (t Telegram) Encode() []byte {
	b := make([]byte, 0, 1024)
	b = append(append(b, '/'), t.Ident...)
	b = append(b, "\r\n\r\n"...)
	for _, o := range t.Objects {
		b = append(b, o.Code...)
		for _, v := range o.Values {
			b = append(append(append(b, '('), v...), ')')
		}
		b = append(b, "\r\n"...)
	}
	b = append(b, '!')
	if t.CRC {
		b = fmt.Appendf(b, "%04X", Checksum(b))
	}
	return append(b, "\r\n"...)
}
