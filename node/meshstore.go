package node

import (
	"errors"
	"fmt"

	"gridveil/mesh/gossip"
	"gridveil/node/store"
)

// meshStore keeps the mesh's registers and small states in the node's store.
type meshStore struct{ st *store.Store }

func registerKey(id gossip.ID) []byte { return store.SpaceMesh.Key([]byte("reg"), id[:]) }

func stateKey(name string) []byte { return store.SpaceMesh.Key([]byte("state"), []byte(name)) }

func (m meshStore) LoadRegisters() (out []gossip.Envelope, err error) {
	err = m.st.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceMesh.Key([]byte("reg")), func(_, v []byte) error {
			e, err := gossip.ParseEnvelope(v)
			if err != nil {
				return fmt.Errorf("stored register: %w", err)
			}
			out = append(out, e)
			return nil
		})
	})
	return out, err
}

func (m meshStore) SaveRegisters(list []gossip.Envelope) error {
	return m.st.Update(func(tx *store.Tx) error {
		for _, e := range list {
			if err := tx.Set(registerKey(e.ID()), e.Encode()); err != nil {
				return err
			}
		}
		return nil
	})
}

func (m meshStore) DropRegisters(ids []gossip.ID) error {
	return m.st.Update(func(tx *store.Tx) error {
		for _, id := range ids {
			if err := tx.Delete(registerKey(id)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (m meshStore) LoadState(name string) ([]byte, error) {
	v, err := m.st.Get(stateKey(name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return v, err
}

func (m meshStore) SaveState(name string, value []byte) error {
	return m.st.Set(stateKey(name), value)
}
