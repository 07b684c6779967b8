package utility

import (
	"errors"
	"sync"

	"gridveil/ledger/durable"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/privacy/committee"
)

// committeeOf reads party.CommitteeFile until it is there, and then remembers it.
func committeeOf(env *role.Env) func() (committee.Public, error) {
	var mu sync.Mutex
	var known *committee.Public
	return func() (committee.Public, error) {
		mu.Lock()
		defer mu.Unlock()
		if known != nil {
			return *known, nil
		}
		pub, err := party.LoadCommittee(env)
		if errors.Is(err, party.ErrNoCommittee) {
			return pub, ErrNoCommittee
		}
		if err == nil {
			known = &pub
		}
		return pub, err
	}
}

// Install writes the openers' public key into the data directory. It is never
// replaced: certificates under another key could not be opened any more.
func (u *Utility) Install(pub committee.Public) error {
	if err := pub.Check(); err != nil {
		return err
	}
	if old, err := u.settlement.openers(); err == nil {
		if old.Y != pub.Y {
			return errors.New("another committee is installed; its certificates could not be opened any more")
		}
		return nil
	}
	return durable.WriteFile(u.env.Config.Path(party.CommitteeFile), []byte(party.EncodeCommittee(pub)))
}
