package ask

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/mesh/mailbox"
	"gridveil/mesh/member"
	"gridveil/node/keys"
	"gridveil/node/role"
	"gridveil/privacy/pseudo"
)

// ErrNoOperator means that the directory does not name the operator now: nothing
// was sent, try again when the mesh is back.
var ErrNoOperator = errors.New("the operator publishes no usable keys now")

// Aggregator is whom sessions are settled with.
type Aggregator struct {
	Key      member.Key
	Operator string
	ID       [16]byte
	Record   [32]byte // signs answers and receipts
	Box      []byte   // certificates of drivers are sealed to it
}

// Utility is an issuer of pseudonyms and payer of notes.
type Utility struct {
	Key    member.Key
	ID     [16]byte
	Issuer [32]byte // signs pseudonyms
	Issue  []byte   // requests for them are sealed to it, this day
}

// Operators asks the operators of this network by onion, and knows their keys
// from the directory, which outlives a restart without network.
type Operators struct{ Env *role.Env }

// Aggregator finds the network's aggregator.
func (o Operators) Aggregator() (Aggregator, error) {
	now := o.Env.Clock.Now()
	h, ok := o.Env.Dir.One(member.RoleAggregator, "")
	if !ok {
		return Aggregator{}, fmt.Errorf("aggregator: %w", ErrNoOperator)
	}
	record, ok1 := h.Sheet.At(keys.Record, now)
	box, ok2 := h.Sheet.At(keys.Box, now)
	if !ok1 || !ok2 || len(record) != 32 {
		return Aggregator{}, fmt.Errorf("aggregator's keys of this period: %w", ErrNoOperator)
	}
	return Aggregator{Key: h.Member.Key, Operator: h.Member.Operator, ID: o.Env.Operator(h.Member.Operator), Record: [32]byte(record), Box: box}, nil
}

// Utility finds a utility by its operator's name.
func (o Operators) Utility(operator string) (Utility, error) {
	now := o.Env.Clock.Now()
	h, ok := o.Env.Dir.One(member.RoleUtility, operator)
	if !ok {
		return Utility{}, fmt.Errorf("utility: %w", ErrNoOperator)
	}
	issuer, ok1 := h.Sheet.At(keys.Issuer, now)
	issue, ok2 := h.Sheet.At(keys.Issue, now)
	if !ok1 || !ok2 || len(issuer) != 32 {
		return Utility{}, fmt.Errorf("utility's keys of this period: %w", ErrNoOperator)
	}
	return Utility{Key: h.Member.Key, ID: o.Env.Operator(operator), Issuer: [32]byte(issuer), Issue: issue}, nil
}

// Issuers are the keys under which utilities sign pseudonyms, of every period
// that their sheets name.
func (o Operators) Issuers() pseudo.IssuerKeys { return o.issuers(keys.Issuer) }

// Ask sends one request and gives the body of its answer: *NotYetError and
// *RefusedError are the operator's, other errors the mesh's.
func (o Operators) Ask(ctx context.Context, to member.Key, s mesh.Service, op Op, body []byte) ([]byte, error) {
	return Long(func(req []byte) ([]byte, error) {
		answer, err := o.Env.Onion.Call(ctx, to, o.Env.Class(s.Class()), s, req)
		if err != nil {
			return nil, err
		}
		return ParseAnswer(answer)
	}, op, body)
}

// Keepers lists the substations that keep mailboxes now.
func (o Operators) Keepers() (out []mailbox.Candidate) {
	for _, m := range o.Env.Onion.Keepers() {
		out = append(out, mailbox.Candidate{Key: m.Key, Operator: m.Operator})
	}
	return out
}

// Mail asks a keeper of mailboxes and gives its answer. Errors are the mesh's.
func (o Operators) Mail(ctx context.Context, keeper mailbox.Key, request []byte) ([]byte, error) {
	return o.Env.Onion.Call(ctx, keeper, o.Env.Class(mesh.Mailbox.Class()), mesh.Mailbox, request)
}

// Lag is the time that a busy machine may take for what counts as instant.
func (o Operators) Lag() time.Duration { return o.Env.Host.Lag() }

// Origin names the ledger of the aggregator's operator.
func (o Operators) Origin() (string, error) {
	h, ok := o.Env.Dir.One(member.RoleAggregator, "")
	if !ok {
		return "", fmt.Errorf("ledger: %w", ErrNoOperator)
	}
	return LedgerOrigin(o.Env.ID.Bundle.Network, h.Member.Operator), nil
}

// LedgerOrigin is the origin line of an operator's ledger in a network.
func LedgerOrigin(network [16]byte, operator string) string {
	return fmt.Sprintf("%s.gridveil/%x", operator, network[:4])
}

// WitnessName is how a cosigner signs checkpoints.
func WitnessName(m mesh.Member) string {
	return fmt.Sprintf("%s.gridveil/%s-%x", m.Operator, m.Role, m.Key[:4])
}

// Policy says when a checkpoint of the network's ledger is final: the log's key,
// every utility and verifier that publishes a cosigning key, and their default
// quorum. It opens checkpoints of every shard that is known here.
func (o Operators) Policy() (*ledger.Policy, error) {
	p, err := Policy(o.Env.Dir)
	if err != nil {
		return nil, err
	}
	p.Shards, err = Shards(o.Env.Store, p)
	return p, err
}

// Policy is Operators.Policy for a directory.
func Policy(d keys.Directory) (*ledger.Policy, error) {
	log, ok := d.One(member.RoleAggregator, "")
	if !ok {
		return nil, fmt.Errorf("ledger: %w", ErrNoOperator)
	}
	pub, ok := log.Sheet.Find(keys.Log, 0)
	if !ok || len(pub) != 32 {
		return nil, fmt.Errorf("ledger's checkpoint key: %w", ErrNoOperator)
	}
	network := d.Host.Bundle().Network
	var witnesses []ledger.Witness
	for _, r := range []member.Role{member.RoleUtility, member.RoleVerifier} {
		for _, h := range d.All(r, "") {
			if key, ok := h.Sheet.Find(keys.Cosign, 0); ok && len(key) == 32 {
				name := WitnessName(h.Member)
				witnesses = append(witnesses, ledger.Witness{Name: name, Key: ledger.WitnessKey(name, ledger.Hash(key))})
			}
		}
	}
	if len(witnesses) == 0 {
		return nil, fmt.Errorf("cosigners of the ledger: %w", ErrNoOperator)
	}
	return ledger.NewPolicy(ledger.LogKey(LedgerOrigin(network, log.Member.Operator), ledger.Hash(pub)), witnesses...), nil
}
