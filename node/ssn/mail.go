package ssn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/mailbox"
	"gridveil/node/clock"
	"gridveil/node/role"
	"gridveil/node/store"
)

// sweepMail is how often expired items and boxes are removed, protocol time.
const sweepMail = time.Hour

// mail keeps items for recipients that are away. Who put one and who reads it
// nobody here can know; what is in it neither.
type mail struct {
	env    *role.Env
	keeper *mailbox.Keeper
}

func openMail(env *role.Env) (*mail, error) {
	k, err := mailbox.NewKeeper(env.Host.Self().Key, mailStore{env.Store})
	if err != nil {
		return nil, err
	}
	m := &mail{env, k}
	env.Onion.Handle(mesh.Mailbox, m.answer)
	return m, nil
}

// answer serves one request. Whatever it was, the answer has one size.
func (m *mail) answer(_ context.Context, request []byte) ([]byte, error) {
	return m.keeper.Answer(request, m.env.Clock.Now()), nil
}

// serve removes what has expired until ctx ends.
func (m *mail) serve(ctx context.Context) error {
	for clock.Sleep(ctx, m.env.Clock, sweepMail) {
		if err := m.keeper.Sweep(m.env.Clock.Now()); err != nil {
			m.env.Log.Warn("expired mail not removed; the next hour tries again", "err", err)
		}
	}
	return nil
}

// mailStore is a mailbox.Storage in the node's store.
type mailStore struct{ st *store.Store }

func (m mailStore) Each(prefix []byte, fn func(key, value []byte) error) error {
	return m.st.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceMail.Key(prefix), func(k, v []byte) error { return fn(k[1:], v) })
	})
}

func (m mailStore) Get(key []byte) ([]byte, error) {
	v, err := m.st.Get(store.SpaceMail.Key(key))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return v, err
}

func (m mailStore) Commit(writes []mailbox.Write) error {
	err := m.st.Update(func(tx *store.Tx) error {
		for _, w := range writes {
			var err error
			if key := store.SpaceMail.Key(w.Key); w.Value == nil {
				err = tx.Delete(key)
			} else {
				err = tx.Set(key, w.Value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store mail: %w", err)
	}
	return nil
}
