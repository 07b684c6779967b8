package session_test

import (
	"bytes"
	"testing"

	"gridveil/privacy"
	"gridveil/privacy/internal/world"
	"gridveil/privacy/session"
)

// FuzzStep feeds foreign bytes to each machine in the middle of a session, and
// to machines loaded from foreign states. Nothing panics, and only messages that
// belong here move a session on.
func FuzzStep(f *testing.F) {
	w, err := world.New(world.Config{Seed: "fuzz step", Drivers: 2, Homes: 1})
	if err != nil {
		f.Fatal(err)
	}
	var seen [][]byte
	r, err := w.Open(world.Plan{Energy: mixed, Tamper: func(_ session.Role, msg []byte) []byte {
		seen = append(seen, msg)
		return msg
	}})
	if err != nil {
		f.Fatal(err)
	}
	if err := r.Charge(); err != nil {
		f.Fatal(err)
	}
	host, driver := bytes.Clone(r.HState), bytes.Clone(r.DState)
	if err := r.Finish(); err != nil {
		f.Fatal(err)
	}
	for _, m := range seen {
		f.Add(m)
	}
	f.Add(host)
	f.Add(driver)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, d := r.Reload(t, host, driver)
		before := h.Phase()
		if out, err := h.Step(w.Now, b); err != nil && (out.Persist != nil || h.Phase() != before) {
			t.Error("a refused message moved the host")
		}
		before = d.Phase()
		if out, err := d.Step(w.Now, b); err != nil && (out.Persist != nil || d.Phase() != before) {
			t.Error("a refused message moved the driver")
		}
		if len(b) > 0 && privacy.Kind(b[0]) != privacy.KindSettle {
			_, _ = w.EVAGG.Settler.Authorise(w.Now, b)
		}
		_, _, _ = w.EVAGG.Settler.Settle(w.Now, b)
		_, _, _ = w.EVAGG.Settler.CheckLock(b)
		_, _, _, _ = w.EVAGG.Settler.Claim(w.Now, b)
		_, _ = w.EVAGG.Settler.Shares(b)
		_, _ = d.OpenShares(b)
		if s, err := session.ParseShares(b); err == nil && !bytes.Equal(s.Bytes(), b) {
			t.Error("shares that were read are written otherwise")
		}
		r.LoadForeign(w.Now, b)
	})
}
