package signal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	grid "gridveil/ev/signal"
	"gridveil/mesh/gossip"
	"gridveil/node/store"
)

// ErrLines means that too many sessions expect controls at once.
var ErrLines = errors.New("too many sessions expect controls")

// Expect looks out for the next controls of a session. Calling it again moves the
// line forward, never back: a control that was taken cannot be taken again.
func (b *Book) Expect(s Session) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.lines[s.Open]
	if l == nil {
		if len(b.lines) >= maxLines {
			return fmt.Errorf("%w: at most %d", ErrLines, maxLines)
		}
		l = &line{Key: s.Line.Key, Next: s.Line.Next}
	}
	next := *l
	if next.Key != s.Line.Key {
		next.Key, next.Next = s.Line.Key, s.Line.Next
	}
	next.Next, next.own = max(next.Next, s.Line.Next), s.Own
	if err := b.saveLine(s.Open, &next, nil); err != nil {
		return err
	}
	b.watch(s.Open)
	return nil
}

// Forget ends a session's line.
func (b *Book) Forget(open [32]byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lines[open] == nil {
		return nil
	}
	if err := remove(b.c.Store, under(lineSpace, open[:])); err != nil {
		return err
	}
	delete(b.lines, open)
	b.unwatch(open)
	return nil
}

// saveLine makes a line durable, then current. more joins the same update.
func (b *Book) saveLine(open [32]byte, l *line, more *judged) error {
	raw, err := json.Marshal(l)
	if err != nil {
		return err
	}
	write := func(tx *store.Tx) error { return tx.Set(under(lineSpace, open[:]), raw) }
	if more != nil {
		err = b.record(*more, write)
	} else {
		err = b.c.Store.Update(write)
	}
	if err == nil {
		b.lines[open] = l
	}
	return err
}

// watch fills the table of tags with the next ones of a session.
func (b *Book) watch(open [32]byte) {
	b.unwatch(open)
	l := b.lines[open]
	for i := range uint64(window) {
		b.tags[l.Key.Tag(l.Next+i)] = place{open, l.Next + i}
	}
}

func (b *Book) unwatch(open [32]byte) {
	for tag, p := range b.tags {
		if p.open == open {
			delete(b.tags, tag)
		}
	}
}

// Control judges a control if it is meant for a session of this home. Everything
// else costs one look into a table, so that a home need not try to open what is
// meant for others. fresh says that the control's line moved: held registers may
// now be recognised that were not before.
func (b *Book) Control(e gossip.Envelope, m Measured, now time.Time) (v grid.Verdict, mine bool, err error) {
	b.mu.Lock()
	at, mine := b.tags[e.Key]
	var l line
	if mine {
		l = *b.lines[at.open]
	}
	b.mu.Unlock()
	if !mine || l.own == nil {
		return v, false, nil
	}
	c, err := l.Key.Open(at.counter, e.Body)
	if err != nil {
		return v, true, nil // a stranger hit upon the tag, or it was altered: the number stays free
	}
	own := l.own() // without the lock: the session has its own
	own.Now, own.ClockSure, own.Open = now.UnixMilli(), m.ClockSure, at.open
	own.HasMHz, own.MilliHertz, own.HasMV, own.MilliVolt = m.HasMHz, m.MilliHertz, m.HasMV, m.MilliVolt
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.lines[at.open]
	if held == nil || held.Next > at.counter {
		return v, false, nil // taken or forgotten meanwhile
	}
	own.Recent = held.Recent
	v = grid.Plausible(c, own)
	next := *held
	next.Next = at.counter + 1
	if v.OK() {
		next.follow(c, own, b.start(c, at.counter), now)
	}
	entry := judged{Hash: sha256.Sum256(e.Encode()), Kind: e.Kind.String(), Reason: v.Reason, At: now.UnixMilli(), Text: describe(c)}
	if err := b.saveLine(at.open, &next, &entry); err != nil {
		return v, true, err
	}
	b.watch(at.open)
	return v, true, nil
}

// start is when this home follows a control. The shift comes from a secret of the
// home: nobody who sends controls can foresee it, and judging the same control again
// after a crash draws no second one.
func (b *Book) start(c *grid.Control, counter uint64) int64 {
	mac := hmac.New(sha256.New, b.shift[:])
	mac.Write([]byte("gridveil/shift/v1"))
	mac.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(c.From)), counter))
	return c.Start(binary.BigEndian.Uint64(mac.Sum(nil)))
}

// follow makes c the line's set point from start on.
func (l *line) follow(c *grid.Control, own grid.Own, start int64, now time.Time) {
	if c.Kind == grid.Release {
		l.Set = nil
		return
	}
	l.Set = &set{W: c.SetW, Lo: own.EnvelopeLo, Hi: own.EnvelopeHi, From: start, To: c.To, Instruction: c.Instruction}
	l.Recent = append(slices.Clone(l.Recent), grid.Set{At: now.UnixMilli(), W: c.SetW})
	l.Recent = l.Recent[max(0, len(l.Recent)-maxRecent):]
}
