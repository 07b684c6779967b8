package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"gridveil/ledger"
	"gridveil/ledger/cluster"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/aggregator"
	service "gridveil/node/ask"
	"gridveil/node/identity"
	"gridveil/node/keys"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/privacy"
)

// env is what this machine's own parts see of a node.
func (m *machine) env() *role.Env {
	return &role.Env{Config: m.c, Clock: m.o.Clock, Log: m.o.Log, Warn: m.warn, Keys: keys.NewRing(m.st, m.o.Rand, privacy.SuiteX25519)}
}

// openShards finds the shards of the ledger that are on this machine.
func (m *machine) openShards() error {
	id, err := identity.LoadNewest(m.c.Dir, m.o.Clock.Now(), func(installed *member.Bundle, sig []byte) (*member.Bundle, []byte, error) {
		if err := m.takeChain(); err != nil {
			return nil, nil, err
		}
		return mesh.NewestBundle(installed, sig, meshStore{m.st})
	})
	if err != nil {
		return err
	}
	m.shards, err = party.OpenShards(m.env(), service.LedgerOrigin(id.Bundle.Network, id.Member.Operator))
	return notFounded(err)
}

// shardsOf are the shards of a machine as its cluster sees them.
type shardsOf struct{ *party.Shards }

// Crossed implements cluster.Shards.
func (s shardsOf) Crossed() (out []cluster.Border) {
	for _, x := range s.List() {
		if x.Sealed() {
			out = append(out, cluster.Border{End: x.Base + x.Size, Note: x.Note, Policy: x.Policy})
		}
	}
	return out
}

// Cross implements cluster.Shards.
func (s shardsOf) Cross(m ledger.Machine, b cluster.Border) error {
	policy, err := ledger.ParsePolicy([]byte(b.Policy))
	if err != nil {
		return err
	}
	return s.Shards.Cross(m.(*ledger.Money).State, b.Note, policy)
}

// sealed is the command `gridveil ledger seal` while this machine stands by: it
// only says how far a seal is that was begun where it led.
func (m *machine) sealed(_ context.Context, in json.RawMessage) (any, error) {
	var q aggregator.SealCall
	if err := json.Unmarshal(in, &q); err != nil {
		return nil, errors.New("want {next}")
	}
	list, w := m.shards.List(), m.cluster.Writer()
	p := aggregator.SealPlan{Origin: list[len(list)-1].Origin, Next: q.Next, Machines: len(m.cluster.Status().Members)}
	if q.Next != "" && p.Origin == q.Next && len(list) > 1 {
		p.Origin, p.Entries, p.Sealed, p.Begun = list[len(list)-2].Origin, list[len(list)-2].Size, true, w.Size() > 0
		return p, nil
	}
	w.Read(func(x ledger.Machine) { p.Sealed = q.Next != "" && ledger.Sealed(x) == q.Next })
	if p.Sealed {
		p.Entries = w.Size()
		return p, nil
	}
	return nil, fmt.Errorf("only the machine that leads seals the ledger; this one %s\nnext: run the command there", m)
}
