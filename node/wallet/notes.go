package wallet

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"gridveil/ev"
	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/node/ask"
	"gridveil/node/role"
	"gridveil/node/wallet/purse"
	"gridveil/privacy/commit"
	"gridveil/privacy/note"
	"gridveil/privacy/session"
)

// collectWithin bounds the random time between a receipt and the claim of its
// notes.
const collectWithin = 30 * time.Minute

// jitter is random in (0, d].
func (w *Wallet) jitter(d time.Duration) time.Duration {
	var b [8]byte
	if _, err := io.ReadFull(w.env.Rand, b[:]); err != nil {
		return d
	}
	return time.Duration(binary.BigEndian.Uint64(b[:])%uint64(d)) + 1
}

// claim is what the driver's notes of a trip are asked for by.
func (t *trip) claim() purse.Claim {
	return purse.Claim{Session: hex.EncodeToString(t.rec.ID[:]), Party: session.PartyDriver, Minor: uint16(t.driver.Due() / ev.MinorEUR)}
}

// claims lets the purse ask for the notes of this driver's sessions.
type claims struct{ w *Wallet }

func (c claims) trip(claim purse.Claim) (*trip, error) {
	var id tripID
	if err := id.UnmarshalText([]byte(claim.Session)); err != nil {
		return nil, err
	}
	t := c.w.trips[id]
	if t == nil || t.driver == nil {
		return nil, session.ErrUnknown
	}
	return t, nil
}

// Request makes the sealed request; the host that could carry it learns nothing.
func (c claims) Request(claim purse.Claim, epoch uint32, row note.Row) ([]byte, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	t, err := c.trip(claim)
	if err != nil {
		return nil, err
	}
	return t.driver.Collect(claim.Party, epoch, row)
}

// Name is the hash of the request inside the box.
func (c claims) Name(claim purse.Claim, msg []byte) ([32]byte, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	t, err := c.trip(claim)
	if err != nil {
		return [32]byte{}, err
	}
	return t.driver.CollectName(msg)
}

// Open reads the sealed answer.
func (c claims) Open(claim purse.Claim, answer []byte) (session.Collected, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	t, err := c.trip(claim)
	if err != nil {
		return session.Collected{}, err
	}
	return t.driver.OpenCollected(answer)
}

// Collected notes that the car's earnings are here.
func (c claims) Collected(claim purse.Claim, issue uint64) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	t, err := c.trip(claim)
	if err != nil {
		return
	}
	text := "what the car earned is here, backed by entry %d of the ledger"
	if claim.Party == session.PartyPool {
		t.rec.Pool.Paid, text = true, "the car's share of what the grid operator paid is here, backed by entry %d of the ledger"
	} else {
		t.rec.Paid = true
	}
	t.tell(c.w.env.Clock.Now(), "paid", fmt.Sprintf(text, issue))
	if err := c.w.change(t); err != nil {
		c.w.env.Log.Warn("collected notes not noted on their session", "err", err)
	}
}

// Rhythm of looking at the ledger.
const (
	casesEvery = 6 * time.Hour
	bookedMin  = 20 * time.Minute
)

// serveCases looks, from time to time and not at the time of any session,
// whether a dispute names one of this driver's sessions and whether its entries
// are what was signed.
func (w *Wallet) serveCases(ctx context.Context) error {
	for {
		next := casesEvery/2 + w.jitter(casesEvery)
		if w.unbooked() {
			next = bookedMin + w.jitter(bookedMin)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.env.Clock.After(next):
		}
		if err := w.LookAtLedger(ctx); err != nil && ctx.Err() == nil {
			w.env.Log.Debug("ledger not looked at", "err", err)
		}
	}
}

func (w *Wallet) unbooked() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.trips {
		if t.rec.Over && !t.rec.Booked && t.driver != nil && t.driver.Opened() != nil {
			return true
		}
	}
	return false
}

// LookAtLedger asks the aggregator for open cases and for the entries of
// finished sessions, and checks both.
func (w *Wallet) LookAtLedger(ctx context.Context) error {
	agg, err := w.ops.Aggregator()
	if err != nil {
		return err
	}
	b, err := w.ops.Ask(ctx, agg.Key, mesh.Dispute, ask.Cases, nil)
	if err == nil {
		var list []ask.OpenCase
		if list, err = ask.ParseCases(b); err == nil {
			err = w.noteCases(list)
		}
	}
	return errors.Join(err, w.checkEntries(ctx, agg))
}

// noteCases tells the driver of every dispute that names a session of theirs.
func (w *Wallet) noteCases(list []ask.OpenCase) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.env.Clock.Now()
	named := 0
	for _, t := range w.trips {
		if t.driver == nil {
			continue
		}
		ref := t.driver.Ref()
		for _, c := range list {
			if c.Ref != ref {
				continue
			}
			named++
			text := fmt.Sprintf("case %x on the ledger names this session: %s", c.ID[:4], kindText(c.Kind))
			if t.rec.Case == text {
				continue
			}
			t.rec.Case = text
			t.tell(now, t.rec.State, text)
			if err := w.change(t); err != nil {
				return err
			}
		}
	}
	w.env.Warn.Set(named > 0, role.Warning{Code: "session-disputed", Severity: role.Problem, Title: "A dispute names one of your sessions",
		Text: "Somebody asks to hold, link or open it. Until openers of several operators agree, nobody learns that it was you.",
		Next: "Open the session and admit or contest it within 72 hours."}, now)
	return nil
}

func kindText(k ledger.CaseKind) string {
	switch k {
	case ledger.CaseHold:
		return "its money is on hold"
	case ledger.CaseHold + 1:
		return "somebody asks whether two sessions are of one driver"
	}
	return "somebody asks to open it"
}

// checkEntries compares the ledger's entry of each finished session with what
// its receipt opened.
func (w *Wallet) checkEntries(ctx context.Context, agg ask.Aggregator) error {
	policy, err := w.ops.Policy()
	if err != nil {
		return err
	}
	for _, t := range w.opened() {
		ref := t.driver.Ref()
		b, err := w.ops.Ask(ctx, agg.Key, mesh.Dispute, ask.Booked, ref[:])
		var later *ask.NotYetError
		if errors.As(err, &later) {
			continue
		}
		if err != nil {
			return err
		}
		proven, err := ask.ParseProven(b)
		if err != nil {
			return err
		}
		e, err := proven.Open(policy)
		if err != nil {
			return err
		}
		if err := w.judgeEntry(t, e, b); err != nil {
			return err
		}
	}
	return nil
}

func (w *Wallet) opened() []*trip {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*trip
	for _, t := range w.trips {
		if t.driver != nil && t.driver.Opened() != nil && !t.rec.Booked && t.rec.Case != wrongEntry {
			out = append(out, t)
		}
	}
	return out
}

const wrongEntry = "the ledger's entry is not what you signed: keep the receipt and tell your utility"

// judgeEntry checks that an entry hides exactly what the driver signed, and keeps
// it as it was shown, proof included.
func (w *Wallet) judgeEntry(t *trip, e *ledger.Entry, shown []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.env.Clock.Now()
	o := t.driver.Opened()
	_, raw := t.driver.Kept()
	s, perr := session.ParseSettle(raw)
	c, ok := e.Body().(*ledger.CDR)
	hidden, err := commit.New(o.Values, o.Blind)
	record := s.Record.Bytes()
	switch {
	case perr != nil: // cut by the host: the opening itself is within the band
		record = nil
	case err != nil:
		return err
	}
	good := ok && c.Ref == t.driver.Ref() && c.Commit == ledger.Hash(hidden)
	if record != nil {
		good = good && c.Evidence == sha256.Sum256(append(o.Salt[:len(o.Salt):len(o.Salt)], record...))
	}
	if good {
		t.rec.Booked, t.rec.Shown = true, shown
		t.tell(now, t.rec.State, "the ledger's entry holds exactly what was signed")
	} else {
		t.rec.Case = wrongEntry
		t.tell(now, "disputed", wrongEntry)
	}
	return w.change(t)
}
