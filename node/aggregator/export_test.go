package aggregator

import (
	"errors"
	"time"

	"gridveil/node/clock"
	"gridveil/node/role"
	"gridveil/node/store"
)

// Keys under which the tests store RSA keys that they made before.
var (
	MonthKey = monthKey
	PassKey  = func(zone uint16, week uint32) []byte { return passKey(passSlot{zone, week}) }
)

// LookAgain has the desk look for issuers and keys now, not at its next turn.
func (a *Aggregator) LookAgain() error { return a.refreshDesk() }

// ForgetAll drops what an aggregator that does not run no longer needs at now.
func ForgetAll(st *store.Store, now time.Time) error {
	m, err := openMemory(st)
	for more := err == nil; more && err == nil; {
		more, err = m.Forget(now)
	}
	a := &Aggregator{env: &role.Env{Store: st, Clock: clock.NewAccelerated(now, 1)}}
	return errors.Join(err, a.forgetRecords())
}
