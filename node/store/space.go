package store

import (
	"encoding/binary"
	"fmt"
)

// Space is the first byte of every key: one per concern, so that two parts of
// a node can never write over each other.
type Space byte

// The spaces of a node's store. Adding one means adding its name below.
const (
	SpaceHead     Space = 'h' // chain heads: next seq and hash of each stream
	SpaceReport   Space = 'r' // signed reports, until finally acknowledged
	SpaceReading  Space = 'i' // own readings, one per (source, channel, slot)
	SpaceBlock    Space = 'b' // day blocks: usage point, channel, day, revision
	SpaceEvent    Space = 'e' // alarm and event records
	SpaceView     Space = 'v' // how each utility classifies an alarm
	SpaceOrder    Space = 'o' // orders, rosters, calendars, contracts
	SpaceCursor   Space = 's' // cursors and counters
	SpaceOutbox   Space = 'x' // messages that wait for an acknowledgement
	SpaceInbox    Space = 'n' // ids of messages already applied
	SpaceMesh     Space = 'm' // members, registers, replay filters
	SpaceSession  Space = 't' // charging sessions and their terms
	SpaceNote     Space = 'c' // credit notes, deck, nullifiers
	SpacePrivacy  Space = 'p' // private-class household data
	SpaceBattery  Space = 'y' // battery state and masking policy
	SpaceBill     Space = 'u' // bills and their lines
	SpaceAudit    Space = 'a' // access log entries
	SpaceJournal  Space = 'j' // what left the house
	SpaceSettings Space = 'd' // day-to-day choices made in the dashboard
	SpaceLedger   Space = 'l' // what a node remembers about ledgers it follows
	SpaceMail     Space = 'k' // boxes of others and the sealed items in them
	spaceCommit   Space = 'g' // commit chain, written by this package alone
	spaceReplica  Space = 'f' // position of a replica, written by this package alone
)

var spaceNames = map[Space]string{
	SpaceHead: "head", SpaceReport: "report", SpaceReading: "reading", SpaceBlock: "block", SpaceEvent: "event",
	SpaceView: "view", SpaceOrder: "order", SpaceCursor: "cursor", SpaceOutbox: "outbox", SpaceInbox: "inbox",
	SpaceMesh: "mesh", SpaceSession: "session", SpaceNote: "note", SpacePrivacy: "privacy", SpaceBattery: "battery",
	SpaceBill: "bill", SpaceAudit: "audit", SpaceJournal: "journal", SpaceSettings: "settings", SpaceLedger: "ledger",
	SpaceMail:   "mail",
	spaceCommit: "commit", spaceReplica: "replica",
}

// Name is the word for a space in errors and in doctor's output.
func (s Space) Name() string {
	if n, ok := spaceNames[s]; ok {
		return n
	}
	return fmt.Sprintf("unregistered %#02x", byte(s))
}

// maxKey bounds a key; the longest used is space + usage point + channel + day + revision.
const maxKey = 512

// Key joins a space and parts into one key. Parts are not separated: give
// fixed-size parts (U64, ids), or a variable one last.
func (s Space) Key(parts ...[]byte) []byte {
	n := 1
	for _, p := range parts {
		n += len(p)
	}
	key := make([]byte, 1, n)
	key[0] = byte(s)
	for _, p := range parts {
		key = append(key, p...)
	}
	return key
}

// U64 is v in eight big-endian bytes, so that keys sort by number.
func U64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// U16 is v in two big-endian bytes.
func U16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// GetU64 reads what U64 wrote; ok is false when b is not eight bytes.
func GetU64(b []byte) (v uint64, ok bool) {
	if len(b) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(b), true
}

// checkKey refuses keys that no concern owns.
func checkKey(key []byte) error {
	if len(key) == 0 {
		return fmt.Errorf("%w: empty key", ErrSpace)
	}
	if len(key) > maxKey {
		return fmt.Errorf("%w: key of %d bytes, limit %d", ErrTooLarge, len(key), maxKey)
	}
	if s := Space(key[0]); s == spaceCommit || s == spaceReplica || spaceNames[s] == "" {
		return fmt.Errorf("%w: %s", ErrSpace, s.Name())
	}
	return nil
}
