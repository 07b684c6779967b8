package wallet

import (
	"context"
	"errors"
	"slices"
	"time"

	"gridveil/ev/guest"
	"gridveil/mesh/mailbox"
	"gridveil/mesh/mix"
	"gridveil/privacy/leak"
	"gridveil/privacy/session"
)

// The receipt of a session comes a quarter of an hour after its end, when most
// drivers have left the house's network. So each session has a mailbox of its own
// at two substations of different operators, new keys each, and the host is told
// its address. While the host cannot be reached, the wallet looks into it.

const (
	mailDays   = mailbox.MaxDays
	mailRenew  = 10 * 24 * time.Hour // a box is opened anew when fewer days are left
	mailRetry  = 10 * time.Minute    // after a failed opening or closing
	mailGiveUp = session.LateFor     // after a session's begin nothing is waited for
)

// letterbox is a session's mailbox. It is stored with its session.
type letterbox struct {
	mailbox.Owner
	Until [2]int64 // UTC ms: how long each keeper holds the box, 0 while it does not
}

// setAway notes whether the host can be reached.
func (w *Wallet) setAway(t *trip, away bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.away != away || t.rec.Over {
		t.away, t.poll = away, time.Time{}
		w.pokeMail()
	}
}

func (w *Wallet) pokeMail() {
	select {
	case w.away <- struct{}{}:
	default: // the mail loop has not yet seen the last poke
	}
}

// sayMailbox tells the host where it may leave the receipt. Without two keepers of
// different operators there is no mailbox: the receipt then waits at the door.
func (w *Wallet) sayMailbox(ctx context.Context, t *trip, conn *guest.Conn) {
	address, err := w.address(t)
	if err == nil && address != nil {
		err = conn.Send(ctx, guest.Message{Type: guest.Mail, Body: address})
	}
	if err != nil && ctx.Err() == nil {
		w.env.Log.Debug("mailbox not named to the host; the next visit says it", "err", err)
	}
}

// address is the session's, nil for none; the first time it is made.
func (w *Wallet) address(t *trip) ([]byte, error) {
	keepers, err := mailbox.Choose(w.ops.Keepers(), w.env.Rand)
	few := errors.Is(err, mailbox.ErrFewKeepers)
	if err != nil && !few {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.driver == nil || t.rec.Over || t.rec.Mail == nil && few {
		return nil, nil
	}
	if t.rec.Mail == nil {
		o, err := mailbox.NewOwner(w.env.Rand, keepers)
		if err != nil {
			return nil, err
		}
		t.rec.Mail = &letterbox{Owner: *o}
		if err := w.change(t, w.leaves(leak.MailAddress, leak.HostHome, t.driver.Session(), mailbox.AddressSize)); err != nil {
			return nil, err
		}
		w.pokeMail()
	}
	a := t.rec.Mail.Address()
	return a.Encode(), nil
}

// withdraw tells the host, when the receipt came at the door, that nothing need be
// left.
func (w *Wallet) withdraw(ctx context.Context, t *trip, conn *guest.Conn) error {
	w.mu.Lock()
	named := t.rec.Mail != nil
	w.mu.Unlock()
	if !named {
		return nil
	}
	return conn.Send(ctx, guest.Message{Type: guest.Mail})
}

// serveMail opens, reads and closes the mailboxes of sessions until ctx ends, one
// request at a time.
func (w *Wallet) serveMail(ctx context.Context) error {
	failed := map[tripID]time.Time{} // when to try again what failed
	for {
		now, pause := w.env.Clock.Now(), mailbox.PollIdle
		for _, t := range w.letterboxes() {
			at := w.mailDue(t, now)
			if f := failed[t.rec.ID]; f.After(at) {
				at = f
			}
			if left := at.Sub(now); left > 0 {
				pause = min(pause, left)
				continue
			}
			delete(failed, t.rec.ID)
			if err := w.mailOf(ctx, t); err != nil && ctx.Err() == nil {
				w.env.Log.Debug("mailbox not reached", "err", err)
				failed[t.rec.ID] = w.env.Clock.Now().Add(w.jitter(mailRetry))
			}
			pause = 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.away:
		case <-w.env.Clock.After(pause):
		}
	}
}

// letterboxes are the sessions that have one.
func (w *Wallet) letterboxes() (out []*trip) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.trips {
		if t.rec.Mail != nil {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *trip) int { return slices.Compare(a.rec.ID[:], b.rec.ID[:]) })
	return out
}

// done says whether a session's box is of no more use. The caller holds mu.
func (t *trip) done(now time.Time) bool {
	return t.rec.Over || now.Sub(time.UnixMilli(t.rec.Begun)) > mailGiveUp
}

// mailDue is when something is to do for a session's box: to open or close it at
// once, to look into it at random times.
func (w *Wallet) mailDue(t *trip, now time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := t.rec.Mail; b == nil || t.done(now) || b.stale(now) >= 0 {
		return now
	}
	if t.poll.IsZero() {
		mean := mailbox.PollIdle
		if t.away {
			mean = mailbox.PollExpecting
		}
		d, err := mix.Exp(mean, w.env.Rand)
		if err != nil {
			d = mean
		}
		t.poll = now.Add(d)
	}
	return t.poll
}

// stale is the first keeper at which the box is to be opened, -1 for none.
func (b *letterbox) stale(now time.Time) int {
	return slices.IndexFunc(b.Until[:], func(until int64) bool { return now.Add(mailRenew).UnixMilli() > until })
}

// mailOf does what is due for a session's box.
func (w *Wallet) mailOf(ctx context.Context, t *trip) error {
	w.mu.Lock()
	now := w.env.Clock.Now()
	if t.rec.Mail == nil { // a failed store took it back
		w.mu.Unlock()
		return nil
	}
	b, over := *t.rec.Mail, t.done(now)
	w.mu.Unlock()
	c := mailbox.Client{Call: w.toKeeper(b.Address().Box), Now: w.env.Clock.Now, Rand: w.env.Rand, Net: w.env.Net}
	if over {
		return w.closeBox(ctx, c, t, b)
	}
	if i := b.stale(now); i >= 0 {
		until := now.Add(mailDays * 24 * time.Hour).UnixMilli()
		if err := c.Open(ctx, &b.Owner, b.Keepers[i], mailDays); err != nil {
			return err
		}
		return w.keepBox(t, func(b *letterbox) { b.Until[i] = until })
	}
	var err error
	for _, keeper := range b.Keepers {
		err = errors.Join(err, c.Fetch(ctx, &b.Owner, keeper, func(msg []byte) error { return w.letter(t, b.Owner, msg) }))
	}
	w.mu.Lock()
	t.poll = time.Time{}
	w.mu.Unlock()
	return err
}

// toKeeper asks a keeper; what leaves is in the journal before.
func (w *Wallet) toKeeper(box mailbox.BoxID) mailbox.Caller {
	return func(ctx context.Context, keeper mailbox.Key, request []byte) ([]byte, error) {
		if err := w.env.Store.Update(w.leaves(leak.MailAsk, leak.Keeper, box, len(request))); err != nil {
			return nil, err
		}
		return w.ops.Mail(ctx, keeper, request)
	}
}

// keepBox stores a change of a session's box.
func (w *Wallet) keepBox(t *trip, change func(*letterbox)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.rec.Mail == nil {
		return nil
	}
	b := *t.rec.Mail
	change(&b)
	t.rec.Mail = &b
	return w.change(t)
}

// letter takes what the host left. It is stored with what follows from it; what
// cannot be checked yet stays in the box.
func (w *Wallet) letter(t *trip, o mailbox.Owner, msg []byte) error {
	if _, err := session.ParseReceipt(msg); err != nil {
		return w.keepBox(t, func(b *letterbox) { b.Seen = o.Seen }) // nothing that we wait for
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.rec.Mail == nil || t.driver == nil || t.rec.Over {
		return nil
	}
	before := *t.rec.Mail
	b := before
	b.Seen = o.Seen
	t.rec.Mail = &b
	if _, err := w.protocol(t, msg); err != nil {
		if t.rec.Mail == &b {
			t.rec.Mail = &before // only Seen is taken back
		}
		return err
	}
	return nil
}

// closeBox removes the box from its keepers and forgets it.
func (w *Wallet) closeBox(ctx context.Context, c mailbox.Client, t *trip, b letterbox) error {
	for i, keeper := range b.Keepers {
		if b.Until[i] <= w.env.Clock.Now().UnixMilli() {
			continue // it was not opened, or is gone by now
		}
		if err := c.Close(ctx, &b.Owner, keeper); err != nil {
			return err
		}
		if err := w.keepBox(t, func(b *letterbox) { b.Until[i] = 0 }); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t.rec.Mail = nil
	return w.change(t)
}
