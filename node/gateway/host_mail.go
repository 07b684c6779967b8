package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"gridveil/mesh/mailbox"
	"gridveil/mesh/mix"
	"gridveil/node/store"
	"gridveil/privacy/leak"
)

// A driver often leaves before the aggregator's receipt is here: by class meter
// it takes a quarter of an hour. The receipt then waits in a mailbox that the
// wallet named when it opened the session; the wallet takes the address back when
// it got the receipt at the door.

const (
	mailAfter = 10 * time.Minute // a wallet that is still there says within this that it has the receipt
	mailSoon  = 30 * time.Minute // mean time between the first tries; the box may not be open yet
	mailLate  = 6 * time.Hour    // and between later ones
	mailTries = 4                // that count as first ones
	mailFor   = 7 * 24 * time.Hour
	mailHead  = 8 // when it was put, UTC ms, before the request
)

// mailTo takes what a wallet says about its mailbox: an address, or nothing once
// it has its receipt.
func (h *hosting) mailTo(line *guestLine, body []byte) error {
	if len(body) > 0 {
		if _, err := mailbox.ParseAddress(body); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.visits {
		if v.line != line || v.host == nil {
			continue
		}
		t := h.turn(v, h.env.Clock.Now())
		if len(body) > 0 {
			if len(v.rec.Mailed) > 0 || bytes.Equal(v.rec.Mail, body) {
				return nil
			}
			v.rec.Mail = bytes.Clone(body)
			return t.commit()
		}
		v.rec.Mail = nil
		for _, id := range v.rec.Mailed {
			t.writes = append(t.writes, func(tx *store.Tx) error { return h.mailbag.DoneTx(tx, id) })
		}
		return t.commit()
	}
	return errors.New("a mailbox was named, but no session is open on this connection")
}

// mailReceipt puts the receipt into the mailbag, for both keepers of the box.
func (t *turn) mailReceipt() {
	v := t.v
	receipt := v.host.Receipt()
	if v.rec.Mail == nil || len(v.rec.Mailed) > 0 || receipt == nil {
		return
	}
	a, err := mailbox.ParseAddress(v.rec.Mail)
	var req []byte
	if err == nil {
		req, err = a.Put(t.h.env.Rand, t.h.env.Net, receipt)
	}
	if err != nil {
		t.h.env.Log.Warn("receipt cannot be left in the driver's mailbox; it waits at the guest door", "err", err)
		return
	}
	body := append(binary.BigEndian.AppendUint64(nil, uint64(t.now.UnixMilli())), req...)
	for _, keeper := range a.Keepers {
		id := sha256.Sum256(append(slices.Clone(keeper[:]), req...))
		v.rec.Mailed = append(v.rec.Mailed, id[:])
		t.writes = append(t.writes, func(tx *store.Tx) error {
			return t.h.mailbag.PutTx(tx, store.Message{ID: id[:], To: string(keeper[:]), Body: body})
		})
	}
	t.after = append(t.after, func() { poke(t.h.post) })
}

// letter is what is remembered of a waiting one between tries.
type letter struct {
	next  time.Time
	tries int
}

// serveMail leaves receipts in mailboxes, one request at a time, until ctx ends.
func (h *hosting) serveMail(ctx context.Context) error {
	letters := map[[32]byte]*letter{}
	for {
		waiting, err := h.mailbag.List(0, listOut)
		if err != nil {
			return fmt.Errorf("waiting mail: %w", err)
		}
		maps.DeleteFunc(letters, func(id [32]byte, _ *letter) bool {
			return !slices.ContainsFunc(waiting, func(m store.Message) bool { return [32]byte(m.ID) == id })
		})
		now, pause := h.env.Clock.Now(), longestPause
		for _, m := range waiting {
			l := letters[[32]byte(m.ID)]
			if l == nil {
				l = &letter{next: now.Add(mailAfter/2 + h.jitter(mailAfter/2))}
				letters[[32]byte(m.ID)] = l
			}
			if left := l.next.Sub(now); left > 0 {
				pause = min(pause, left)
				continue
			}
			if err := h.offerOnce(ctx, m, l); err != nil {
				return err
			}
			pause = 0 // look again: the list may have changed meanwhile
			break
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.post:
		case <-h.env.Clock.After(pause):
		}
	}
}

// offerOnce offers one letter and takes it out of the mailbag once a keeper has it.
func (h *hosting) offerOnce(ctx context.Context, m store.Message, l *letter) error {
	now := h.env.Clock.Now()
	if len(m.Body) != mailHead+mailbox.RequestSize || len(m.To) != len(mailbox.Key{}) {
		return errors.Join(h.mailbag.Done(m.ID), errors.New("stored mail has another length"))
	}
	put := time.UnixMilli(int64(binary.BigEndian.Uint64(m.Body)))
	if now.Sub(put) > mailFor {
		return h.mailbag.Done(m.ID) // nobody opened the box; the receipt is still at the door
	}
	mean := mailSoon
	if l.tries++; l.tries > mailTries {
		mean = mailLate
	}
	var err error
	if l.tries == 1 {
		err = h.env.Store.Update(h.left(leak.Mail, leak.Keeper, sha256.Sum256(m.Body), len(m.Body)))
	}
	if err == nil {
		err = h.offerLetter(ctx, m)
	}
	if err == nil {
		return h.mailbag.Done(m.ID)
	}
	h.env.Log.Debug("mail not taken yet", "err", err)
	pause, err := mix.Exp(mean, h.env.Rand)
	l.next = h.env.Clock.Now().Add(max(pause, time.Minute))
	return err
}

func (h *hosting) offerLetter(ctx context.Context, m store.Message) error {
	raw, err := h.ops.Mail(ctx, mailbox.Key([]byte(m.To)), m.Body[mailHead:])
	if err != nil {
		return err
	}
	a, err := mailbox.ParseAnswer(raw)
	if err != nil {
		return err
	}
	return a.Status.Err()
}
