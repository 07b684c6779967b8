// Package verifier is the node of an independent organisation that replays and
// cosigns the network's ledger. It moves no money and can change nothing: its
// signature says that the whole history obeys the rules, and its copy is a second
// place from which to read it.
package verifier

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/ledger"
	"gridveil/node/clock"
	"gridveil/node/keys"
	"gridveil/node/party"
	"gridveil/node/role"
)

const sheetPeriod = 6 * time.Hour

// bodies are what a verifier's operator may be on the ledger.
var bodies = map[string]ledger.Role{"regulator": ledger.Regulator, "consumer-body": ledger.ConsumerBody, "dso": ledger.DSO}

// Verifier is the verifier role.
type Verifier struct {
	env *role.Env
	*party.Party
}

// New prepares the role.
func New(env *role.Env) (*Verifier, error) {
	body, ok := bodies[env.Config.Ledger.Body]
	if !ok {
		return nil, fmt.Errorf("ledger.body %q is unknown", env.Config.Ledger.Body)
	}
	p, err := party.New(party.Config{Env: env, Role: body})
	if err != nil {
		return nil, err
	}
	return &Verifier{env: env, Party: p}, nil
}

// Serve follows the ledger until ctx ends.
func (v *Verifier) Serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return v.Party.Serve(ctx) })
	g.Go(func() error { return v.publish(ctx) })
	return g.Wait()
}

// publish keeps the verifier's key sheet known.
func (v *Verifier) publish(ctx context.Context) error {
	for {
		now := v.env.Clock.Now()
		sheet, err := v.env.Keys.Sheet(now, 1, keys.Entry, keys.Cosign)
		if err != nil {
			return fmt.Errorf("service keys: %w", err)
		}
		if err := v.env.Dir.Publish(sheet, now); err != nil {
			v.env.Log.Warn("key sheet not published; tried again", "err", err)
		}
		if !clock.Sleep(ctx, v.env.Clock, sheetPeriod) {
			return nil
		}
	}
}
