package session_test

import (
	"bytes"
	"errors"
	"testing"

	"gridveil/privacy/internal/world"
	"gridveil/privacy/session"
)

// TestPapersConvinceWhoeverWasNotThere has a session of each form: its papers
// hold by themselves, and after any change of one byte they do not.
func TestPapersConvinceWhoeverWasNotThere(t *testing.T) {
	for name, plan := range map[string]world.Plan{
		"signed by both":   {Energy: mixed},
		"cut":              {Energy: mixed, CutAfter: 2},
		"the meter's word": {Energy: mixed, CutAfter: 1, Unattended: true, Mode: session.ModeShown},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := mustSession(t, w, plan)
			p, ok := r.Host.Papers()
			if !ok {
				t.Fatal("the host has none")
			}
			v, err := p.Check(world.Net)
			if err != nil {
				t.Fatal(err)
			}
			rec, _, _ := r.Host.Last()
			if !bytes.Equal(v.Record.Bytes(), rec.Bytes()) || v.Code != r.Host.Code() || v.Offer != r.Host.Offer() || v.Open.Hash(world.Net) != r.Host.Session() {
				t.Errorf("they show %+v", v)
			}
			if own, ok := r.Driver.Papers(); ok != (rec.Form == session.Both) {
				t.Errorf("the driver has papers: %v", ok)
			} else if ok && (!bytes.Equal(own.Offer, p.Offer) || !bytes.Equal(own.Open, p.Open) || !bytes.Equal(own.Close, p.Close)) {
				t.Error("the driver's papers are others than the host's")
			}
			for part, b := range map[string][]byte{"offer": p.Offer, "open": p.Open, "close": p.Close, "tick": p.Tick, "ack": p.Ack} {
				for i := range b {
					b[i] ^= 1
					if _, err := p.Check(world.Net); err == nil {
						t.Errorf("%s with byte %d changed is believed", part, i)
					}
					b[i] ^= 1
				}
			}
		})
	}
}

// TestPapersOfTwoSessionsDoNotMix puts the parts of one session in place of
// another's: a price, a record or a meter that was agreed on elsewhere.
func TestPapersOfTwoSessionsDoNotMix(t *testing.T) {
	w := newWorld(t)
	one, _ := mustSession(t, w, world.Plan{Energy: mixed}).Host.Papers()
	two, _ := mustSession(t, w, world.Plan{Driver: 1, Home: 1, Energy: mixed}).Host.Papers()
	for name, p := range map[string]session.Papers{
		"offer": {Offer: two.Offer, Open: one.Open, Close: one.Close},
		"open":  {Offer: one.Offer, Open: two.Open, Close: one.Close},
		"close": {Offer: one.Offer, Open: one.Open, Close: two.Close},
	} {
		if _, err := p.Check(world.Net); !errors.Is(err, session.ErrMismatch) {
			t.Errorf("the %s of another session: got %v", name, err)
		}
	}
	if _, err := one.Check([8]byte{1}); !errors.Is(err, session.ErrSignature) {
		t.Errorf("in another network: got %v", err)
	}
}

func TestAnOpenSessionHasNoPapers(t *testing.T) {
	w := newWorld(t)
	r := mustOpen(t, w, world.Plan{Energy: mixed})
	_, host := r.Host.Papers()
	_, driver := r.Driver.Papers()
	if host || driver {
		t.Errorf("host %v, driver %v", host, driver)
	}
}
