package node

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/node/clock"
	"gridveil/node/control"
	"gridveil/node/enrol"
	"gridveil/node/role"
)

// Members is what `gridveil members` shows of a node that certifies others.
type Members struct {
	Operator string         `json:"operator"`
	Now      time.Time      `json:"now"`
	Homes    int            `json:"homes"`          // homes with a good certificate of this node, each once
	Enrolled int            `json:"homes_enrolled"` // what the bundle says for all operators together
	List     uint64         `json:"list"`           // number of the revocation list; 0: nobody was revoked
	Renew    time.Time      `json:"list_renewed,omitzero"`
	Issued   []enrol.Issued `json:"certificates"`
}

// Revocation is what `gridveil revoke` shows.
type Revocation struct {
	Number    uint64         `json:"list"`
	Published bool           `json:"published"` // false: it leaves within a minute or two, by itself
	Revoked   []enrol.Issued `json:"revoked"`
}

// revokeRequest is the body of control command "revoke".
type revokeRequest struct {
	Members []string `json:"members"`
	Reason  string   `json:"reason"`
}

// AskMembers asks the running node in dir for the certificates that it gave out.
func AskMembers(ctx context.Context, dir string) (Members, error) {
	var m Members
	err := control.Call(ctx, dir, "members", nil, &m)
	return m, err
}

// Revoke lets the running node in dir take back certificates of members, each
// named by the beginning of its serial or key.
func Revoke(ctx context.Context, dir string, members []string, reason string) (Revocation, error) {
	var r Revocation
	err := control.Call(ctx, dir, "revoke", revokeRequest{members, reason}, &r)
	return r, err
}

func (n *Node) memberCommands() {
	n.Control.Handle("members", func(context.Context, json.RawMessage) (any, error) { return n.members() })
	n.Control.Handle("revoke", func(_ context.Context, in json.RawMessage) (any, error) {
		var q revokeRequest
		if err := json.Unmarshal(in, &q); err != nil || len(q.Members) == 0 {
			return nil, errors.New("want {members, reason}")
		}
		return n.revoke(q)
	})
	n.Control.Handle("bundle-publish", func(ctx context.Context, in json.RawMessage) (any, error) {
		var q signedBundle
		if err := json.Unmarshal(in, &q); err != nil {
			return nil, errors.New("want {bundle, signatures}")
		}
		ctx, cancel := context.WithTimeout(ctx, publishPatience)
		defer cancel()
		return nil, n.publishBundle(ctx, q)
	})
}

// Publish lets the running node in dir spread a newer network bundle with its
// root signatures; it holds here when Publish returns.
func Publish(ctx context.Context, dir string, raw, sig []byte) error {
	return control.Call(ctx, dir, "bundle-publish", signedBundle{raw, sig}, nil)
}

// signedBundle is the body of control command "bundle-publish".
type signedBundle struct {
	Raw []byte `json:"bundle"`
	Sig []byte `json:"signatures"`
}

// publishBundle spreads a bundle and waits until it is in force here.
func (n *Node) publishBundle(ctx context.Context, q signedBundle) error {
	next, err := n.Host.Bundle().Replace(q.Raw, q.Sig)
	if err != nil {
		return err
	}
	if n.Host.Self().Role.Leaf() {
		return errors.New("a home publishes nothing: name the data directory of an operator's node")
	}
	if err := n.Host.PublishBundle(q.Raw, q.Sig); err != nil {
		if errors.Is(err, gossip.ErrRefused) {
			err = fmt.Errorf("%w\nnext: a node publishes one list or bundle a minute; try again in a minute", err)
		}
		return err
	}
	for n.Host.Bundle().Version < next.Version {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond): // machine time: the register is durable and on its way to its follower
		}
	}
	return nil
}

func (n *Node) members() (Members, error) {
	if n.registrar == nil {
		return Members{}, enrol.ErrNoCA
	}
	l := n.registrar.List()
	return Members{Operator: n.Host.Self().Operator, Now: n.Clock.Now(), Homes: n.registrar.Homes(), Enrolled: n.Host.Bundle().Policy.HomesEnrolled,
		List: l.Number, Renew: l.Renew, Issued: n.registrar.Issued()}, nil
}

// revoke takes members out: durably, then here, then everywhere.
func (n *Node) revoke(q revokeRequest) (Revocation, error) {
	if n.registrar == nil {
		return Revocation{}, enrol.ErrNoCA
	}
	self := n.Host.Self()
	for _, name := range q.Members {
		if name = strings.ToLower(name); strings.HasPrefix(self.Serial, name) || strings.HasPrefix(hex.EncodeToString(self.Key[:]), name) {
			return Revocation{}, fmt.Errorf("%q may be this node itself, which would be cut off with the list that it signs: give more digits, or revoke it from another node of %s", name, self.Operator)
		}
	}
	hit, err := n.registrar.Revoke(q.Members, q.Reason, n.heldList())
	if err != nil {
		return Revocation{}, err
	}
	n.Log.Info("members revoked", "certificates", len(hit))
	l := n.registrar.List()
	if err := n.Host.Revoke(l.DER); err != nil {
		return Revocation{}, fmt.Errorf("the list is signed and kept, but does not fit this network's bundle: %w", err)
	}
	err = n.publishList(l)
	if err != nil && !errors.Is(err, gossip.ErrRefused) {
		return Revocation{}, fmt.Errorf("the list is signed and kept, and goes out as soon as it can: %w", err)
	}
	return Revocation{Number: l.Number, Published: err == nil, Revoked: hit}, nil
}

const (
	listsPeriod = 15 * time.Second
	listsLate   = 3 * time.Minute // one list a minute may be published

	publishPatience = 30 * time.Second // wall time for a new bundle to come into force here
)

// keepRevocations publishes the own revocation list until the mesh holds it, and
// renews it in time.
func (n *Node) keepRevocations(ctx context.Context) error {
	if n.registrar == nil {
		<-ctx.Done()
		return nil
	}
	for clock.Sleep(ctx, n.Clock, listsPeriod) {
		_, err := n.registrar.RenewList(n.heldList())
		if err == nil {
			err = n.publishList(n.registrar.List())
		}
		n.Warn.Set(err != nil, role.Warning{Code: "revocation-unpublished", Severity: role.Problem, After: listsLate, Title: "A revocation has not gone out",
			Text: "This node no longer talks to whom you revoked, but others do not know of it yet.", Next: "See that this node is connected (`gridveil doctor`); it tries again by itself."}, n.Clock.Now())
	}
	return nil
}

// publishList spreads l unless the mesh holds it, or a newer one, already.
func (n *Node) publishList(l enrol.List) error {
	if l.Number == 0 {
		return nil
	}
	if held := n.heldList(); held != nil {
		if _, number, err := n.Host.Bundle().CRLSigner(held); err == nil && number >= l.Number {
			return nil
		}
	}
	return n.Host.PublishCRL(l.DER)
}

// heldList is the newest list of the own CA that the mesh holds, nil for none.
func (n *Node) heldList() []byte {
	ca, err := member.CAOf(n.ID.CA.Certificate)
	if err != nil {
		return nil // the CA was read from the bundle, which parsed it
	}
	for _, e := range n.Host.Registers(gossip.KindTrust) {
		if e.Key == member.CRLKey(ca) {
			return e.Body
		}
	}
	return nil
}
