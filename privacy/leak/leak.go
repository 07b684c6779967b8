// Package leak says what leaves a house, to whom, and how much it tells.
//
// Table is the product's own statement: for every message and recipient, the
// fields that the recipient can read, the sphere each belongs to and an upper
// bound in bits of what it can distinguish. Journal counts what really left,
// day by day, and the page "what left my house" is its view with the table's
// words.
//
// Bits are log2 of the values a recipient could tell apart, summed over the
// fields: an upper bound on what one message says about the household, never an
// estimate of what an attacker learns from many. Fresh keys, salts, signatures
// and ciphertexts are independent of the household and count zero; the journal
// counts how often each pseudonym was used, which is what could link them.
//
// Start with Find and Journal.Record. Source: doc/design.md; privacy design 4.8
// and 4.9.
package leak

import (
	"fmt"
	"math"
)

// Sphere is one of the three spheres of personal data.
type Sphere byte

// Spheres. Strictly personal data never leaves: no row of Table may hold it.
const (
	Customer  Sphere = 1 // contract, bill and payment: daily or coarser
	Technical Sphere = 2 // operation of grid, network and wallbox: not under a name
	Personal  Sphere = 3 // finer than a minute, or what happens inside: stays
)

// String names the sphere as the page does.
func (s Sphere) String() string {
	switch s {
	case Customer:
		return "customer"
	case Technical:
		return "technical"
	case Personal:
		return "strictly personal"
	}
	return fmt.Sprintf("sphere %d", byte(s))
}

// Role is a recipient.
type Role byte

// Recipients outside the house.
const (
	Guest      Role = 1 // a driver's wallet at the guest door
	HostHome   Role = 2 // a stranger's gateway, seen from the wallet
	Aggregator Role = 3
	OwnUtility Role = 4
	GridOp     Role = 5
	SumLeader  Role = 6
	SumHelper  Role = 7
	Escrow     Role = 8
	Relay      Role = 9  // onion relays, each alone
	Ledger     Role = 10 // everybody
	Substation Role = 11
	Openers    Role = 12
	Keeper     Role = 13 // substations that keep mailboxes; they do not learn whose
	lastRole        = Keeper
)

// String names the recipient as the page does.
func (r Role) String() string {
	names := [...]string{"", "guest", "host", "aggregator", "own utility", "grid operator", "sum leader", "sum helper",
		"escrow", "relay", "ledger", "substation", "openers", "mail keeper"}
	if r >= Guest && r <= lastRole {
		return names[r]
	}
	return fmt.Sprintf("role %d", byte(r))
}

// Subject is what a field tells about.
type Subject byte

// Subjects of fields.
const (
	Who      Subject = 1 // names the home, its contract or devices, the same every day
	Load     Subject = 2 // what the home takes from the grid, and when
	Charging Subject = 3 // a charging session
)

// Field is one thing a recipient reads.
type Field struct {
	Name   string
	Sphere Sphere
	About  Subject
	// Values is how many values of it can be told apart; 1 for what is random
	// or the same for everybody.
	Values uint64
}

// Bits is log2 of Values.
func (f Field) Bits() float64 { return math.Log2(float64(max(f.Values, 1))) }

// Row is one message to one recipient.
type Row struct {
	Message Message
	To      Role
	Why     string // for the page: what it is good for
	Fields  []Field
}

// Bits is the upper bound of what one such message tells.
func (r *Row) Bits() float64 {
	var sum float64
	for _, f := range r.Fields {
		sum += f.Bits()
	}
	return sum
}

// About is the upper bound of what one such message tells about a subject.
func (r *Row) About(s Subject) float64 {
	var sum float64
	for _, f := range r.Fields {
		if f.About == s {
			sum += f.Bits()
		}
	}
	return sum
}

// Find gives the row of a message to a recipient; ok is false for a pair that
// must not occur, and the caller must then refuse to send.
func Find(m Message, to Role) (Row, bool) {
	for _, r := range table {
		if r.Message == m && r.To == to {
			return r, true
		}
	}
	return Row{}, false
}

// Table lists all rows, grouped by message.
func Table() []Row { return append([]Row(nil), table...) }
