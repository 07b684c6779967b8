package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"gridveil/node/control"
	"gridveil/node/store"
)

// describeDamage turns the store's finding into what the operator should do. A
// damaged store is closed: nothing may be decided on it.
func describeDamage(err error, st *store.Store) error {
	var d *store.DamageError
	if !errors.As(err, &d) {
		return err
	}
	if st != nil {
		err = errors.Join(err, st.Close())
	}
	return fmt.Errorf("%w\nnext: %s", err, d.Next())
}

// CheckStore re-hashes every commit and opens every value of the store in dir:
// through the node that runs there, or else by itself. The error says what is
// damaged and what to do.
func CheckStore(ctx context.Context, dir string) error {
	err := control.Call(ctx, dir, "store-check", nil, nil)
	if !errors.Is(err, control.ErrNotRunning) {
		return err
	}
	st, err := openStored(dir)
	if err != nil {
		return describeDamage(err, st)
	}
	return errors.Join(describeDamage(st.Check(ctx), nil), st.Close())
}

// AcceptDamage lets the node in dir, which must not run, start again although its
// store lost records: on what is left, or, where nothing of it can be opened, on
// an empty store, with the old one set aside in the folder that it names. What was
// lost stays lost; the caller has asked the owner. found is nil for a store that
// opens as it is, of which nothing is changed.
func AcceptDamage(dir string, now time.Time) (found *store.DamageError, aside string, err error) {
	st, err := openStored(dir)
	switch {
	case err == nil:
		return nil, "", st.Close()
	case !errors.As(err, &found):
		return nil, "", err
	case st == nil:
		aside, err = store.SetAside(filepath.Join(dir, "store"), now)
		return found, aside, err
	}
	return found, "", errors.Join(st.AcceptDamage(), st.Close())
}

// storedKeys says how far erasing is in a node that does not run.
func storedKeys(ctx context.Context, dir string) (store.DataKeys, error) {
	st, err := openStored(dir)
	if err != nil {
		return store.DataKeys{}, describeDamage(err, st)
	}
	k, err := st.DataKeys(ctx)
	return k, errors.Join(err, st.Close())
}

// openStored opens the store of a node that has run in dir.
func openStored(dir string) (*store.Store, error) {
	if _, err := os.Stat(filepath.Join(dir, "store")); err != nil {
		return nil, fmt.Errorf("no store in %s: a node makes it when it first runs", dir)
	}
	mk, err := store.LoadKey(filepath.Join(dir, "store.key"))
	if err != nil {
		return nil, err
	}
	return store.Open(filepath.Join(dir, "store"), mk, store.Options{})
}
