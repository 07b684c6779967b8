package leak

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Limits of a journal.
const (
	MaxDays    = 62   // two months on the page, then a day is forgotten
	MaxEntries = 4096 // a day's entries kept one by one; further ones are only counted
	maxNames   = 4096 // distinct pseudonyms counted per line of a day
	entrySize  = 1 + 1 + 8 + 8 + 4
)

// Errors of a journal.
var (
	// ErrRow: Table has no such message to such a recipient: do not send it.
	ErrRow = errors.New("message has no row in the leak table")
	// ErrMalformed: stored bytes are no journal entry.
	ErrMalformed = errors.New("not a journal entry")
)

// Entry is one message that left.
type Entry struct {
	Message Message
	To      Role
	// As is the short form of the identity it went out under: the first eight
	// bytes of a session key, a day identity or the LFID handle. It only serves
	// to count; it is never shown next to another identity.
	As    [8]byte
	Bytes uint32
	At    time.Time
}

// Store encodes the entry for the journal's store: message, recipient, time,
// identity, bytes.
func (e *Entry) Store() []byte {
	b := append(make([]byte, 0, entrySize), byte(e.Message), byte(e.To))
	b = binary.BigEndian.AppendUint64(b, uint64(e.At.UnixMilli()))
	b = append(b, e.As[:]...)
	return binary.BigEndian.AppendUint32(b, e.Bytes)
}

// ParseEntry is the inverse of Store.
func ParseEntry(b []byte) (Entry, error) {
	if len(b) != entrySize {
		return Entry{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	e := Entry{Message: Message(b[0]), To: Role(b[1]), At: time.UnixMilli(int64(binary.BigEndian.Uint64(b[2:]))).UTC(),
		As: [8]byte(b[10:]), Bytes: binary.BigEndian.Uint32(b[18:])}
	if _, ok := Find(e.Message, e.To); !ok {
		return Entry{}, fmt.Errorf("%w: %v to %v", ErrMalformed, e.Message, e.To)
	}
	return e, nil
}

// Journal counts what left, by day (UTC). The zero value is empty. It keeps no
// content. It is not safe for concurrent use.
type Journal struct{ days map[int64]*dayCount }

type dayCount struct {
	entries []Entry
	lines   map[pair]*count
}

type pair struct {
	m Message
	r Role
}

type count struct {
	messages int
	bytes    int64
	names    map[[8]byte]bool
}

// Record counts one message. The caller stores e.Store() if it wants the count
// to survive a restart, and records the stored entries again then. It returns
// ErrRow for a message that Table does not know: the caller must not send it.
func (j *Journal) Record(e Entry) error {
	if _, ok := Find(e.Message, e.To); !ok {
		return fmt.Errorf("%w: %v to %v", ErrRow, e.Message, e.To)
	}
	d := j.day(dayOf(e.At))
	if len(d.entries) < MaxEntries {
		d.entries = append(d.entries, e)
	}
	c := d.lines[pair{e.Message, e.To}]
	if c == nil {
		c = &count{names: map[[8]byte]bool{}}
		d.lines[pair{e.Message, e.To}] = c
	}
	c.messages++
	c.bytes += int64(e.Bytes)
	if len(c.names) < maxNames {
		c.names[e.As] = true
	}
	return nil
}

func dayOf(t time.Time) int64 { return t.Unix() / 86400 }

// day finds or makes a day and forgets the oldest beyond MaxDays.
func (j *Journal) day(n int64) *dayCount {
	if j.days == nil {
		j.days = map[int64]*dayCount{}
	}
	d := j.days[n]
	if d != nil {
		return d
	}
	d = &dayCount{lines: map[pair]*count{}}
	j.days[n] = d
	for len(j.days) > MaxDays {
		oldest := n
		for k := range j.days {
			oldest = min(oldest, k)
		}
		delete(j.days, oldest)
		if oldest == n {
			return &dayCount{lines: map[pair]*count{}} // older than everything kept: not counted
		}
	}
	return d
}

// Line is one message kind to one recipient on one day.
type Line struct {
	Row        Row
	Messages   int
	Bytes      int64
	Pseudonyms int     // identities it went out under
	Bits       float64 // upper bound over all its messages
}

// View is what left on one day.
type View struct {
	Day   time.Time // midnight UTC
	Lines []Line    // the most bits first
	Bits  float64   // over all recipients that are not everybody's relay
	Bytes int64
}

// Day shows what left on the day of t.
func (j *Journal) Day(t time.Time) View {
	v := View{Day: time.Unix(dayOf(t)*86400, 0).UTC()}
	d := j.days[dayOf(t)]
	if d == nil {
		return v
	}
	for p, c := range d.lines {
		row, _ := Find(p.m, p.r)
		l := Line{Row: row, Messages: c.messages, Bytes: c.bytes, Pseudonyms: len(c.names), Bits: row.Bits() * float64(c.messages)}
		v.Lines = append(v.Lines, l)
		v.Bits += l.Bits
		v.Bytes += l.Bytes
	}
	slices.SortFunc(v.Lines, func(a, b Line) int {
		switch {
		case a.Bits != b.Bits && a.Bits > b.Bits:
			return -1
		case a.Bits != b.Bits:
			return 1
		case a.Row.Message != b.Row.Message:
			return int(a.Row.Message) - int(b.Row.Message)
		}
		return int(a.Row.To) - int(b.Row.To)
	})
	return v
}

// Entries lists the day's messages one by one, oldest first, at most
// MaxEntries.
func (j *Journal) Entries(t time.Time) []Entry {
	if d := j.days[dayOf(t)]; d != nil {
		return slices.Clone(d.entries)
	}
	return nil
}

// Days lists the days with entries, newest first.
func (j *Journal) Days() []time.Time {
	var out []time.Time
	for n := range j.days {
		out = append(out, time.Unix(n*86400, 0).UTC())
	}
	slices.SortFunc(out, func(a, b time.Time) int { return b.Compare(a) })
	return out
}
