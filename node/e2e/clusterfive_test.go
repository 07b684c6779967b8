package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"gridveil/ledger/writer"
)

// checkpoint is the head of the log that a machine serves: origin, size and root.
func (a *aggregators) checkpoint(name string) string {
	resp, err := http.Get("http://" + a.log[name] + "/checkpoint")
	if err != nil {
		return err.Error()
	}
	text := new(strings.Builder)
	if err := errors.Join(resp.Write(text), resp.Body.Close()); err != nil {
		return err.Error()
	}
	_, body, _ := strings.Cut(text.String(), "\r\n\r\n")
	lines := strings.SplitN(body, "\n", 4)
	return strings.Join(lines[:min(3, len(lines))], "\n")
}

// same waits until all machines serve one log.
func (a *aggregators) same(names []string) {
	a.t.Helper()
	eventually(a.t, time.Minute, func() string {
		want := a.checkpoint(names[0])
		for _, name := range names[1:] {
			if got := a.checkpoint(name); got != want {
				return fmt.Sprintf("%s has %q, %s has %q", names[0], want, name, got)
			}
		}
		return ""
	})
}

// standing is what `gridveil ledger cluster status` prints on a machine; it ends with
// an error exactly while nothing is taken.
func (a *aggregators) standing(name string) string {
	a.t.Helper()
	out, err := tryCLI(a.t, "ledger", "cluster", "status", "--data", a.path(name))
	if (err != nil) != (strings.Contains(out, "nothing is taken:") || strings.Contains(out, "Nobody leads yet")) {
		a.t.Errorf("status of %s: %v\n%s", name, err, out)
	}
	return out
}

// TestFiveMachinesOutliveTwo kills two of five under load, one of them the machine
// that leads, and then three: nothing is taken, nothing is lost, and people are told.
func TestFiveMachinesOutliveTwo(t *testing.T) {
	if !*long {
		t.Skip("nine real processes for two minutes: with -long")
	}
	const each = 2000
	w, author := alone(t)
	author.send(t.Context(), each/4)
	names := []string{"evagg", "evagg-b", "evagg-c", "evagg-d", "evagg-e"}
	a := w.split(names[0], names[1:]...)
	a.whole(5)
	a.shown(a.leader(), names[4])
	if out := a.standing(names[0]); strings.Count(out, "127.0.0.1:") != 5 || !strings.Contains(out, "leads") {
		t.Errorf("status of five:\n%s", out)
	}

	// Two are away.
	first := a.leader()
	second := names[0]
	if first == second {
		second = names[1]
	}
	before := len(author.receipts)
	done := make(chan struct{})
	go func() { // awaited below
		defer close(done)
		author.send(t.Context(), each)
	}()
	eventually(t, time.Minute, func() string {
		author.mu.Lock()
		defer author.mu.Unlock()
		if len(author.receipts) == before {
			return "no receipt of the load yet"
		}
		return ""
	})
	began := time.Now()
	a.p(first).kill()
	a.p(second).kill()
	leads := a.leader(first, second)
	<-done
	t.Logf("%s, which led, and %s were killed; load through it took %v, the longest wait for receipts %v", first, second, time.Since(began).Round(time.Millisecond), author.longest.Round(time.Millisecond))
	eventually(t, time.Minute, func() string {
		out := a.standing(leads)
		for _, want := range []string{"Start the machines at ", a.address[first], a.address[second], "one more"} {
			if !strings.Contains(out, want) {
				return fmt.Sprintf("with two of five away the status does not say %q:\n%s", want, out)
			}
		}
		return ""
	})
	t.Logf("status with two away:\n%s", a.standing(leads))
	a.p(first).start()
	a.p(second).start()
	a.whole(5)
	a.same(names)
	for _, name := range names {
		author.has(a.log[name])
	}

	// Three are away.
	leads = a.leader()
	up := []string{leads, names[0]}
	if leads == names[0] {
		up[1] = names[1]
	}
	for _, name := range names {
		if !slices.Contains(up, name) {
			a.p(name).kill()
		}
	}
	before = len(author.receipts)
	author.refused = nil
	ctx, cancel := context.WithCancel(t.Context())
	done = make(chan struct{})
	go func() { // awaited below
		defer close(done)
		author.send(ctx, 8)
	}()
	for _, name := range up {
		eventually(t, time.Minute, func() string {
			if out := a.standing(name); !strings.Contains(out, "2 of 5 machines answer, so nothing is taken") {
				return fmt.Sprintf("%s does not say that nothing is taken:\n%s", name, out)
			}
			return ""
		})
	}
	c := writer.Client{URL: "http://" + a.log[up[1]]}
	for index, leaf := range author.receipts { // what is there stays readable
		if p, err := c.Proof(t.Context(), index); err != nil {
			t.Errorf("entry %d: %v", index, err)
		} else if _, err := p.Verify(author.policy(a.log[up[1]]), leaf); err != nil {
			t.Errorf("entry %d: %v", index, err)
		}
		break
	}
	var told error
	eventually(t, time.Minute, func() string {
		author.mu.Lock()
		defer author.mu.Unlock()
		if told = author.refused; told == nil {
			return "the author is not told anything"
		}
		return ""
	})
	cancel()
	<-done
	if len(author.receipts) != before {
		t.Errorf("two of five machines gave %d receipts", len(author.receipts)-before)
	}
	t.Logf("with three away the author is told: %v", told)
	t.Logf("status with three away:\n%s", a.standing(up[1]))
	for _, name := range names {
		if !slices.Contains(up, name) {
			a.p(name).start()
		}
	}
	author.send(t.Context(), each/4)
	a.whole(5)
	a.same(names)
	for _, name := range names {
		author.has(a.log[name])
	}
	t.Logf("%d receipts, none lost", len(author.receipts))
}
