package verifier

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/store"
)

// Repair fills a new store from a peer that has a copy of the log, and puts it in
// the place of the damaged one in cfg.Dir, which is kept beside it under a new
// name. It serves writers and verifiers: of cfg it uses Dir, Store, Machine,
// Policy, Transport, Clock and Log. peer is the URL prefix of the log or of a
// verifier's copy, such as http://host/<sha256(origin)>.
//
// Everything is checked as in a replay. It returns ErrFork if the peer's log is
// not the one that was signed here, and ErrDamaged if it is shorter: then ask
// another peer. Entries that were accepted but reached no peer are lost.
func Repair(ctx context.Context, cfg Config, peer string) error {
	cfg.defaults()
	signed, root, err := store.LastSigned(cfg.Dir)
	if err != nil && !errors.Is(err, ledger.ErrDamaged) {
		return err
	}
	fresh := cfg.Dir + ".repair"
	if err := os.RemoveAll(fresh); err != nil { // of a repair that was interrupted
		return fmt.Errorf("clear %s: %w", fresh, err)
	}
	if err := refill(ctx, cfg, fresh, peer, signed, root); err != nil {
		return err
	}
	aside := cfg.Dir + ".damaged-" + cfg.Clock.Now().UTC().Format("20060102T150405")
	for n := 1; exists(aside); n++ {
		aside = fmt.Sprintf("%s.damaged-%s-%d", cfg.Dir, cfg.Clock.Now().UTC().Format("20060102T150405"), n)
	}
	if err := os.Rename(cfg.Dir, aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("set the damaged log aside: %w", err)
	}
	if err := os.Rename(fresh, cfg.Dir); err != nil {
		return fmt.Errorf("put the repaired log in place: %w", err)
	}
	cfg.Log.Info("ledger store repaired from a peer", "damaged", aside)
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// refill replays the peer's log into dir.
func refill(ctx context.Context, cfg Config, dir, peer string, signed uint64, root ledger.Hash) (err error) {
	st, err := store.Open(dir, cfg.Machine, cfg.Store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	f := follower{st, newSource(peer, cfg.Transport)}
	msg, err := f.from.checkpoint(ctx)
	if err != nil {
		return err
	}
	c, _, err := ledger.OpenCheckpoint(msg, cfg.Policy.Log)
	if err != nil {
		return fmt.Errorf("checkpoint of the peer: %w", err)
	}
	if c.Origin != cfg.Policy.Log.Name() || c.Size < signed {
		return fmt.Errorf("%w: the peer has %d entries of %q, we signed %d; ask another peer", ledger.ErrDamaged, c.Size, c.Origin, signed)
	}
	started := time.Now()
	if err := f.follow(ctx, c, msg); err != nil {
		return fmt.Errorf("replay the peer's log: %w", err)
	}
	if signed > 0 {
		got, err := st.RootAt(signed)
		if err != nil {
			return err
		}
		if got != root {
			return fmt.Errorf("%w: the peer has another root at size %d, which we signed", ledger.ErrFork, signed)
		}
	}
	if _, err := st.SealAt(c.Size); err != nil {
		return err
	}
	cfg.Log.Info("log replayed from a peer", "size", c.Size, "elapsed", time.Since(started))
	return st.Publish(c.Size, msg)
}
