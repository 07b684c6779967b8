package verifier

import (
	"context"
	"errors"
	"fmt"
	"os"

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
	known, err := lastSigned(cfg)
	if err != nil {
		return err
	}
	fresh := cfg.Dir + ".repair"
	if err := os.RemoveAll(fresh); err != nil { // of a repair that was interrupted
		return fmt.Errorf("clear %s: %w", fresh, err)
	}
	if err := refill(ctx, cfg, fresh, peer, known); err != nil {
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

// floor is what a repaired log must hold: what this node may have signed.
type floor struct {
	signed uint64
	root   ledger.Hash
	lost   bool // the head file cannot be read
}

func lastSigned(cfg Config) (floor, error) {
	size, root, err := store.LastSigned(cfg.Dir)
	if errors.Is(err, ledger.ErrDamaged) {
		return floor{lost: true}, nil
	}
	return floor{signed: size, root: root}, err
}

// admits checks the checkpoint that a peer serves. Without our own memory only
// one with the quorum will do.
func (k floor) admits(policy *ledger.Policy, msg []byte) (ledger.Checkpoint, error) {
	c, cosigners, err := policy.Open(msg)
	switch {
	case err != nil:
		return c, fmt.Errorf("checkpoint of the peer: %w", err)
	case c.Size < k.signed:
		return c, fmt.Errorf("%w: the peer has %d entries, we signed %d; ask another peer", ledger.ErrDamaged, c.Size, k.signed)
	case k.lost && !policy.Final(cosigners):
		return c, fmt.Errorf("%w: our head file is lost and the peer's checkpoint of size %d lacks the quorum; ask the log", ledger.ErrDamaged, c.Size)
	}
	return c, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// refill replays the peer's log into dir.
func refill(ctx context.Context, cfg Config, dir, peer string, known floor) (err error) {
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
	c, err := known.admits(cfg.Policy, msg)
	if err != nil {
		return err
	}
	if err := f.follow(ctx, c, msg); err != nil {
		return fmt.Errorf("replay the peer's log: %w", err)
	}
	for _, want := range []ledger.Checkpoint{c, {Size: known.signed, Root: known.root}} {
		got, err := st.RootAt(want.Size)
		if err != nil {
			return err
		}
		if got != want.Root && (want.Size > 0 || !known.lost) {
			return fmt.Errorf("%w: the peer has another root at size %d than was signed", ledger.ErrFork, want.Size)
		}
	}
	if _, err := st.SealAt(c.Size); err != nil {
		return err
	}
	return st.Publish(c.Size, msg)
}
