package ledger

import (
	"fmt"
)

// Kind says what an entry does. The codes are fixed; a changed layout takes a
// new code.
type Kind uint8

// Kinds of entries. Source: design/ledger.md, 4.2.
const (
	KindGenesis  Kind = 0x01
	KindParty    Kind = 0x02
	KindKey      Kind = 0x03
	KindDenoms   Kind = 0x04
	KindTariff   Kind = 0x05
	KindTick     Kind = 0x06
	KindAnchor   Kind = 0x07
	KindSeal     Kind = 0x08
	KindShard    Kind = 0x09
	KindCDR      Kind = 0x10
	KindSettle   Kind = 0x11
	KindTransfer Kind = 0x12
	KindReverse  Kind = 0x13
	KindIssue    Kind = 0x20
	KindRedeem   Kind = 0x21
	KindLapse    Kind = 0x22
	KindClose    Kind = 0x30
	KindPaid     Kind = 0x31
	KindFailed   Kind = 0x32
	KindDispute  Kind = 0x40
	KindApprove  Kind = 0x41
	KindPartial  Kind = 0x42
	KindResult   Kind = 0x43
	KindEnd      Kind = 0x44
)

// kinds maps each code to its name and the parser of its body.
var kinds = map[Kind]struct {
	name string
	get  func(*decoder) Body
}{
	KindGenesis:  {"genesis", getGenesis},
	KindParty:    {"party", func(r *decoder) Body { p := getParty(r); return &p }},
	KindKey:      {"key", getKey},
	KindDenoms:   {"denoms", getDenoms},
	KindTariff:   {"tariff", getTariff},
	KindTick:     {"tick", getTick},
	KindAnchor:   {"anchor", getAnchor},
	KindSeal:     {"seal", getSeal},
	KindShard:    {"shard", getShard},
	KindCDR:      {"cdr", getCDR},
	KindSettle:   {"settle", getSettle},
	KindTransfer: {"transfer", getTransfer},
	KindReverse:  {"reverse", getReverse},
	KindIssue:    {"issue", getIssue},
	KindRedeem:   {"redeem", getRedeem},
	KindLapse:    {"lapse", getLapse},
	KindClose:    {"close", getClose},
	KindPaid:     {"paid", getPaid},
	KindFailed:   {"failed", getFailed},
	KindDispute:  {"dispute", getDispute},
	KindApprove:  {"approve", getApprove},
	KindPartial:  {"partial", getPartial},
	KindResult:   {"result", getResult},
	KindEnd:      {"end", getEnd},
}

// String is the word used in statements and documents.
func (k Kind) String() string {
	if d, ok := kinds[k]; ok {
		return d.name
	}
	return fmt.Sprintf("kind 0x%02x", uint8(k))
}

// Body is the content of one entry, a pointer to one of the structs below.
type Body interface {
	Kind() Kind
	put(*encoder)
}

// EncodeBody gives the body bytes as they stand in an entry.
func EncodeBody(b Body) []byte {
	var w encoder
	b.put(&w)
	return w.b
}

// parseBody reads the body of kind k from exactly b.
func parseBody(k Kind, b []byte) (Body, error) {
	d, ok := kinds[k]
	if !ok {
		return nil, refuse(ErrKind, "%s is unknown", k)
	}
	r := decoder{b: b}
	body := d.get(&r)
	if !r.done() {
		return nil, refuse(ErrMalformed, "body of %s is not canonical", k)
	}
	return body, nil
}
