package node

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"gridveil/mesh/member"
	"gridveil/node/control"
	"gridveil/node/enrol"
	"gridveil/node/role"
)

// Status is what `gridveil status` shows.
type Status struct {
	Role      string         `json:"role"`
	Key       string         `json:"key"` // member key, hexadecimal: by it an operator opens a contract
	Name      string         `json:"name"`
	Operator  string         `json:"operator"`
	Zone      string         `json:"zone,omitempty"`
	Ready     bool           `json:"ready"`
	Uptime    string         `json:"uptime"`
	Now       time.Time      `json:"now"`
	Addresses []string       `json:"addresses"`
	Peers     map[string]int `json:"peers"` // by role
	Onion     map[string]any `json:"onion"`
	MemoryMB  float64        `json:"memory_mb"`
	Warnings  []role.Warning `json:"warnings"`
	// Cluster says what this machine does among those that are one aggregator.
	Cluster string `json:"cluster,omitempty"`
}

// AskStatus asks the running node in dir.
func AskStatus(ctx context.Context, dir string) (Status, error) {
	var s Status
	err := control.Call(ctx, dir, "status", nil, &s)
	return s, err
}

// commands registers what every role answers on the control socket.
func (n *Node) commands() {
	n.Control.Handle("status", func(context.Context, json.RawMessage) (any, error) { return n.Status(), nil })
	n.Control.Handle("invite", func(_ context.Context, in json.RawMessage) (any, error) {
		var q struct{ Role, Zone string }
		if err := json.Unmarshal(in, &q); err != nil {
			return nil, errors.New("want {role, zone}")
		}
		return n.invite(q.Role, q.Zone)
	})
	n.memberCommands()
	if n.machine != nil {
		n.machine.commands(n.Control)
	}
	n.Control.Handle("alarms", func(context.Context, json.RawMessage) (any, error) { return n.alarms() })
	n.Control.Handle("alarm-ack", func(_ context.Context, in json.RawMessage) (any, error) {
		var id string
		if err := json.Unmarshal(in, &id); err != nil {
			return nil, errors.New("want the beginning of an alarm's id")
		}
		return n.acknowledge(id)
	})
	n.Control.Handle("alarm-evidence", func(_ context.Context, in json.RawMessage) (any, error) {
		var id string
		if err := json.Unmarshal(in, &id); err != nil {
			return nil, errors.New("want the beginning of an alarm's id")
		}
		return n.alarmEvidence(id)
	})
	n.meshCommands()
	n.Control.Handle("doctor", func(ctx context.Context, _ json.RawMessage) (any, error) { return n.doctor(ctx), nil })
	n.Control.Handle("store-check", func(ctx context.Context, _ json.RawMessage) (any, error) {
		return nil, describeDamage(n.Store.Check(ctx), nil)
	})
}

// Status is a snapshot of the node.
func (n *Node) Status() Status {
	self := n.Host.Self()
	s := Status{Role: n.Config.Role, Key: hex.EncodeToString(self.Key[:]), Name: n.Config.Name, Operator: self.Operator, Zone: self.Zone, Ready: true, Now: n.Clock.Now(),
		Uptime: time.Since(n.started).Round(time.Second).String(), Peers: map[string]int{}, Warnings: n.Warnings()}
	for _, a := range n.Host.Addrs() {
		s.Addresses = append(s.Addresses, a.String())
	}
	for _, p := range n.Host.Peers() {
		s.Peers[p.Role.String()]++
	}
	st := n.Onion.Stats()
	s.Onion = map[string]any{"relayed": st.Relayed, "sent": st.Sent, "loops_sent": st.LoopsSent, "loops_lost": st.LoopsLost}
	n.privateClasses(s.Onion)
	if n.machine != nil {
		s.Cluster = n.machine.String()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.MemoryMB = float64(m.Sys-m.HeapReleased) / (1 << 20)
	return s
}

// invite opens a one-time code and says how to reach this node with it.
func (n *Node) invite(roleName, zone string) (Invitation, error) {
	if n.registrar == nil {
		return Invitation{}, enrol.ErrNoCA
	}
	r, err := member.ParseRole(roleName)
	if err != nil {
		return Invitation{}, err
	}
	addr, ok := reachable(n.Host.Addrs())
	if !ok {
		return Invitation{}, errors.New("this node listens nowhere: set mesh.listen, so that the invited can reach it")
	}
	inv, err := n.registrar.Invite(r, zone)
	if err != nil {
		return Invitation{}, err
	}
	b := n.Host.Bundle()
	link := member.Link{Code: inv.Code, Network: b.Network, Bundle: b.Hash(), Seed: n.Host.Self().Key, Address: addr.String()}
	return Invitation{Code: inv.Code.String(), Link: link.String(), Role: roleName, Zone: zone, Expires: inv.Expires}, nil
}

// reachable is the address that others find a node at: a public one first, then
// one of the local network, and its loopback only where it has no other.
func reachable(addrs []ma.Multiaddr) (best ma.Multiaddr, ok bool) {
	rank := func(a ma.Multiaddr) int {
		switch {
		case manet.IsIPLoopback(a):
			return 0
		case manet.IsPrivateAddr(a):
			return 1
		}
		return 2
	}
	for _, a := range addrs {
		if !ok || rank(a) > rank(best) {
			best, ok = a, true
		}
	}
	return best, ok
}

// String is what `gridveil run` prints once the node is up, one fact a line.
func (n *Node) String() string {
	self := n.Host.Self()
	where := ""
	if self.Zone != "" {
		where = ", zone " + self.Zone
	}
	addrs := "dials out only"
	if a := n.Host.Addrs(); len(a) > 0 {
		addrs = fmt.Sprint(a)
	}
	text := fmt.Sprintf("role       %s of operator %s%s\nstore      sound, commit %d\naddresses  %s\nready in   %v", n.Config.Role, self.Operator, where, n.Store.Head(), addrs, time.Since(n.started).Round(time.Millisecond))
	if n.pagesAt != nil {
		text += fmt.Sprintf("\ndashboard  http://%s", n.pagesAt.Addr())
	}
	if n.Config.Role == "wallet" && n.Config.Wallet.Listen != "off" {
		text += fmt.Sprintf("\nwallet     http://%s", n.Config.Wallet.Listen)
	}
	return text
}
