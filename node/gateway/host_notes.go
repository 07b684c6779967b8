package gateway

import (
	"time"

	"gridveil/ev"
	"gridveil/node/wallet/purse"
	"gridveil/privacy/note"
	"gridveil/privacy/session"
)

// collectWithin bounds the random time between a receipt and the claim of its
// notes.
const collectWithin = 30 * time.Minute

// claimNotes hands what the session earned, and what is left of its lock, to the
// purse, in the update that stores the receipt.
func (t *turn) claimNotes() {
	v := t.v
	due := false
	for _, p := range []session.Party{session.PartyHost, session.PartyChange} {
		if amount := v.host.Due(p); amount > 0 {
			due = true
			t.purse().Add(purse.Claim{Session: v.claim(), Party: p, Minor: uint16(amount / ev.MinorEUR)}, t.now.Add(t.h.jitter(collectWithin)))
		}
	}
	if !due {
		t.session(ev.PaidOut{})
	}
}

// lockTaken passes the confirmed lock to the visit and ends its payment.
func (h *hosting) lockTaken(t *turn) {
	v := t.v
	if v.host.Locked() == 0 || v.rec.Lock.Over {
		return
	}
	if err := t.purse().Spent(v.rec.Lock.Op); err != nil {
		h.env.Log.Warn("locked notes stay reserved", "err", err)
	}
	v.rec.Lock.Over = true
	v.note(t.now, "the lock is confirmed: the car may sell energy")
	t.session(ev.Locked{Value: v.host.Locked()})
	t.notice("EUR " + euros(v.host.Locked()) + " in notes are locked for what the car gives")
}

// claims lets the purse ask for the notes of the house's sessions.
type claims struct{ h *hosting }

// Request signs with the session's host key.
func (c claims) Request(claim purse.Claim, epoch uint32, row note.Row) ([]byte, error) {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	v, ok := c.h.byClaim(claim.Session)
	if !ok || v.host == nil {
		return nil, session.ErrUnknown
	}
	m, err := v.host.Collect(claim.Party, epoch, row)
	if err != nil {
		return nil, err
	}
	return m.Bytes(), nil
}

// Name is the request's hash.
func (c claims) Name(_ purse.Claim, msg []byte) ([32]byte, error) {
	m, err := session.ParseCollect(msg)
	return m.Hash(c.h.env.Net), err
}

// Open reads the aggregator's answer.
func (c claims) Open(_ purse.Claim, answer []byte) (session.Collected, error) {
	return session.ParseCollected(answer)
}

// Collected ends the session once none of its notes are outstanding.
func (c claims) Collected(claim purse.Claim, issue uint64) {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	v, ok := c.h.byClaim(claim.Session)
	if !ok {
		return
	}
	t := c.h.turn(v, c.h.env.Clock.Now())
	v.rec.Outcome.Issue = issue
	if !c.h.purse.Pending(claim.Session) {
		v.rec.Outcome.Collected = true
		t.session(ev.PaidOut{})
	}
	if err := t.commit(); err != nil {
		c.h.env.Log.Warn("collected notes not noted on their session; the next start does", "err", err)
	}
}
