// Package role is what every role of a node is given ([Env]), what it must be
// able to do ([Role]), and the list of standing problems that the command line,
// the dashboard and /readyz all show ([Board]).
package role

import (
	"context"
	"io"
	"log/slog"

	"gridveil/ledger/cluster"
	"gridveil/mesh"
	"gridveil/mesh/onion"
	"gridveil/node/clock"
	"gridveil/node/config"
	"gridveil/node/control"
	"gridveil/node/identity"
	"gridveil/node/keys"
	"gridveil/node/store"
	"gridveil/privacy"
)

// Env is the node around a role. A role keeps it for its life; nothing in it is
// replaced.
type Env struct {
	Config  *config.Config
	Clock   clock.Clock
	Log     *slog.Logger // writes no identity of a home or person
	ID      *identity.Identity
	Store   *store.Store
	Host    *mesh.Host
	Onion   *onion.Onion
	Keys    *keys.Ring
	Dir     keys.Directory
	Warn    *Board
	Rand    io.Reader // crypto/rand, or seeded in a demonstration
	Net     privacy.Net
	Control *control.Server // a role adds the commands that only it answers
	Cluster *cluster.Node   // of an aggregator on several machines, of which this one leads; else nil
}

// Role is one part of a running node.
type Role interface {
	// Serve works until ctx ends. With every remote down it keeps working on
	// what needs none. An error means that the node must stop.
	Serve(ctx context.Context) error
}

// WarnFork is the code of the warning that the ledger shows two histories.
const WarnFork = "ledger-fork"

// LedgerForked says whether the aggregator was caught with two histories of the
// ledger: what would be settled on it waits, and charging goes on.
func (e *Env) LedgerForked() bool { return e.Warn.Has(WarnFork) }

// Operator is the 16-byte name of an operator of this network in messages.
func (e *Env) Operator(name string) [16]byte {
	return keys.OperatorID(e.ID.Bundle.Network, name)
}

// Lab says whether the network's policy allows class lab, so that the slow
// private classes are replaced and every page says so.
func (e *Env) Lab() bool { return e.Host.Bundle().Policy.Lab }

// Class is the onion class that a service of class c travels in here: lab where
// the network is a trial below the anonymity floors, else c itself.
func (e *Env) Class(c mesh.Class) mesh.Class {
	if e.Lab() {
		return mesh.Lab
	}
	return c
}
