package world

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Field is one thing a party reads.
type Field struct {
	Name   string
	Value  []byte
	random bool
}

// Fixed is a value that means something by itself.
func Fixed(name string, v []byte) Field { return Field{name, bytes.Clone(v), false} }

// Number is a fixed integer.
func Number(name string, v int64) Field {
	return Field{name, []byte(strconv.FormatInt(v, 10)), false}
}

// Random is a value that the protocol says is fresh: a key, hash, signature or
// ciphertext. Its length and where it turns up again are still part of a view.
func Random(name string, v []byte) Field { return Field{name, bytes.Clone(v), true} }

// Event is one message as its reader sees it.
type Event struct {
	Tag    string // which session of the scenario it belongs to; not part of the view
	What   string
	Fields []Field
}

// View is all that one party saw, in order.
type View struct {
	Events []Event
	Raw    [][]byte // every message as bytes, and its opened parts
	tag    string
}

// Tag marks the events that follow, for games that know which is which.
func (v *View) Tag(tag string) { v.tag = tag }

// Note adds an event.
func (v *View) Note(what string, fields ...Field) {
	v.Events = append(v.Events, Event{v.tag, what, fields})
	for _, f := range fields {
		v.Raw = append(v.Raw, f.Value)
	}
}

// Canonical renders the view with every random value renamed by its first
// appearance, so that two runs are equal if and only if their sequences, sizes,
// fixed values and repetitions are.
func (v *View) Canonical() string {
	names := map[string]string{}
	var b strings.Builder
	for _, e := range v.Events {
		b.WriteString(e.What)
		for _, f := range e.Fields {
			value := hex.EncodeToString(f.Value)
			if f.random {
				n, ok := names[value]
				if !ok {
					n = fmt.Sprintf("r%d(%d)", len(names), len(f.Value))
					names[value] = n
				}
				value = n
			}
			fmt.Fprintf(&b, " %s=%s", f.Name, value)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Holds says whether marker occurs in anything the party saw.
func (v *View) Holds(marker []byte) bool {
	for _, r := range v.Raw {
		if bytes.Contains(r, marker) {
			return true
		}
	}
	return false
}

// cut reads fields off a message by a layout such as "kind2 hpk32* cur2": name
// and size, a star for random values. Bytes behind the layout are a bug of the
// layout, and say so.
func cut(layout string, b []byte) []Field {
	var out []Field
	for _, part := range strings.Fields(layout) {
		random := strings.HasSuffix(part, "*")
		part = strings.TrimSuffix(part, "*")
		name := strings.TrimRight(part, "0123456789")
		n, err := strconv.Atoi(part[len(name):])
		if err != nil || n > len(b) {
			panic(fmt.Sprintf("world: layout %q does not fit at %q, %d bytes left", layout, part, len(b)))
		}
		out = append(out, Field{name, bytes.Clone(b[:n]), random})
		b = b[n:]
	}
	if len(b) != 0 {
		panic(fmt.Sprintf("world: layout %q leaves %d bytes", layout, len(b)))
	}
	return out
}

// Layouts of the messages, as privacy design 4.2 and 4.3 give them.
const (
	offerLayout   = "k2 hpk32* passkey8 mcom32* terms32 pgrid4 pres4 pout4 cur2 kw2 mode1 exp4 sig64*"
	openLayout    = "k2 offer32* spk32* evagg16 band2 boxhash32* sig64*"
	openingLayout = openLayout + " box560*"
	authLayout    = "k2 hpk32* passkey8 mcom32* terms32 pgrid4 pres4 pout4 cur2 kw2 mode1 exp4 sig64* band2 opensig64* box560* pass256*"
	boxLayout     = "k2 " + certLayout + " bpk32* bsalt16* nonce16* sig64*"
	certLayout    = "magic4 scheme1 ckind1 limit2 issuer16 audience16 epoch4 keyid8 spk32* bcom32* capE32* capC96* pok64* csig64*"
	yesLayout     = "k2 session32* band2 exp4 sig64* inner224*"
	noLayout      = "k2 request32* reason2 exp4 sig64* inner224*"
	innerLayout   = "k2 cause1 session32* band2 exp4 fs4 fi4 fo4 sheet32"
	tickLayout    = "k2 seq4 grid8 res8 out8 cum8 prev32* sig64*"
	ackLayout     = "k2 tick32* sig64*"
	recordLayout  = "offer32* open32* begin4 end4 grid8 res8 out8 host8 owed8 uta8 driver8 cur2 form1 last32* ocmf32* hsig64* dsig64*"
	signedLayout  = "k2 " + recordLayout + " stub224* shown1"
	receiptLayout = "k2 taken1 session32* what32* value8 sig64* inner416*"
	lineLayout    = "bpk32* form1 evagg16 epoch4 in8 out8 total8 cur2 nonce16* band2 sig64*"
)
