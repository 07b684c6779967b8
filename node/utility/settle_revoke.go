package utility

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/keys"
	"gridveil/node/party"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/pseudo"
)

// revokeKey is set while the aggregator has an older list than ours.
var revokeKey = store.SpaceSettings.Key([]byte("revoke"))

// revokedRows are the unbilled pseudonyms of ended contracts that could still
// open a session. A billed one in the list would let the aggregator look up old
// sessions.
func (s *settlement) revokedRows() (list []pseudo.BillRow, err error) {
	prefix := store.SpaceBill.Key([]byte("row"))
	now := s.env.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(prefix, func(k, v []byte) error {
			var r row
			if err := json.Unmarshal(v, &r); err != nil {
				return fmt.Errorf("stored row: %w", err)
			}
			d, known := s.drivers[r.Contract]
			_, to := pseudo.Window(pseudo.Driver, r.Epoch)
			if !known || d.Active || r.Billed || r.Pledged != [32]byte{} || now.After(to) {
				return nil
			}
			list = append(list, pseudo.BillRow{BPK: [32]byte(k[len(prefix):]), Contract: r.Contract, Epoch: r.Epoch})
			return nil
		})
	})
	return list, err
}

// sendRevocation hands the aggregator a new list after a contract has ended.
func (s *settlement) sendRevocation(ctx context.Context) error {
	if _, err := s.env.Store.Get(revokeKey); errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	now := s.env.Clock.Now()
	h, ok := s.env.Dir.One(member.RoleAggregator, "")
	if !ok {
		return ask.ErrNoOperator
	}
	box, ok := h.Sheet.At(keys.Box, now)
	if !ok {
		return ask.ErrNoOperator
	}
	signer, err := s.env.Keys.Signer(keys.Issuer, now)
	if err != nil {
		return err
	}
	rows, err := s.revokedRows()
	if err != nil {
		return err
	}
	list, err := pseudo.NewRevocation(s.env.Rand, s.env.Net, s.env.Operator(s.env.Host.Self().Operator), signer, rows, now, privacy.SuiteX25519, box)
	if err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := party.Call(call, s.env.Host, h.Member.Peer, mesh.LedgerSubmit, party.OpRevoke, list); err != nil {
		return fmt.Errorf("revocation not taken yet: %w", err)
	}
	return s.env.Store.Update(func(tx *store.Tx) error { return tx.Delete(revokeKey) })
}
