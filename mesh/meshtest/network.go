package meshtest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/onion"
	"gridveil/mesh/route"
)

// Options says what network to start. Zero fields take the defaults named here.
type Options struct {
	Speed     float64       // of the clock; default 200
	Patient   bool          // the clock waits for the machine: for many hosts, and for what is counted rather than timed
	SSNs      int           // one zone each, named z1, z2, ...; operators dso1, dso2, ... issue them in turn
	Operators int           // of SSNs; default 3
	Others    []member.Role // further backbone members, of operator market
	Homes     int           // gateways, zones in turn, of the zone's operator
	Wallets   int           // of operator market
	Policy    member.Policy // zero fields take the bundle's defaults; HomesEnrolled defaults to Homes
	Config    func(n *Node, c *mesh.Config)
	Onion     bool // each node has an onion too, with its store
	OnionOf   func(n *Node, c *onion.Config)
	Ready     func(n *Node) error // runs between New and Serve of each node
}

// Network is a running test network.
type Network struct {
	T      testing.TB
	Clock  *Clock
	Bundle *member.Bundle
	Raw    []byte // network.toml
	Sig    []byte // its signatures
	Root   ed25519.PrivateKey
	CAs    map[string]member.CA // by operator

	SSNs    []*Node
	Others  []*Node
	Homes   []*Node
	Wallets []*Node

	o  Options
	mu sync.Mutex
}

// Node is one member of the network.
type Node struct {
	Net    *Network
	Host   *mesh.Host   // nil while stopped
	Onion  *onion.Onion // with Options.Onion
	Key    crypto.PrivKey
	Member mesh.Member
	Chain  [][]byte
	Store  *Store
	Addrs  []ma.Multiaddr // where it listened first; kept over Restart

	cancel context.CancelFunc
	done   chan error
}

// Market is the operator of everything but substations and homes.
const Market = "market"

// Start founds a network, starts its nodes and waits until each is connected to its parents.
func Start(t testing.TB, o Options) *Network {
	t.Helper()
	n := Found(t, o)
	for i := range n.o.SSNs {
		n.SSNs = append(n.SSNs, n.Add(member.RoleSSN, n.zone(i)))
	}
	for _, r := range n.o.Others {
		n.Others = append(n.Others, n.Add(r, ""))
	}
	for i := range n.o.Homes {
		n.Homes = append(n.Homes, n.Add(member.RoleGateway, n.zone(i)))
	}
	for range n.o.Wallets {
		n.Wallets = append(n.Wallets, n.Add(member.RoleWallet, ""))
	}
	n.AwaitConnected()
	return n
}

// Found makes bundle and CAs without starting anybody.
func Found(t testing.TB, o Options) *Network {
	t.Helper()
	if o.Speed == 0 {
		o.Speed = 200
	}
	if o.Operators == 0 {
		o.Operators = 3
	}
	if o.Policy.HomesEnrolled == 0 {
		o.Policy.HomesEnrolled = o.Homes
	}
	clock := NewClock(o.Speed)
	if o.Patient {
		clock = NewPatientClock(t, o.Speed)
	}
	n := &Network{T: t, Clock: clock, CAs: map[string]member.CA{}, o: o}
	_, n.Root, _ = ed25519.GenerateKey(rand.Reader)
	b := &member.Bundle{Version: 1, RootKeys: []member.RootKey{member.RootKey(n.Root.Public().(ed25519.PublicKey))}, RootThreshold: 1, Policy: o.Policy}
	rand.Read(b.Network[:])
	for i := range max(o.SSNs, 1) {
		b.Zones = append(b.Zones, member.Zone{Name: n.zone(i), Region: 1})
	}
	for i := range o.Operators {
		op := member.Operator{Name: n.operator(i), Roles: []member.Role{member.RoleSSN, member.RoleGateway}}
		for z := range b.Zones {
			if z%o.Operators == i {
				op.Zones = append(op.Zones, b.Zones[z].Name)
			}
		}
		b.Operators = append(b.Operators, n.withCA(op))
	}
	market := member.Operator{Name: Market, Roles: []member.Role{member.RoleHeadend, member.RoleUtility, member.RoleAggregator,
		member.RoleWallet, member.RoleVerifier}}
	for _, z := range b.Zones {
		market.Zones, market.DSOZones = append(market.Zones, z.Name), append(market.DSOZones, z.Name)
	}
	b.Operators = append(b.Operators, n.withCA(market))
	n.Install(b)
	return n
}

// Install signs b as the network's bundle for nodes that start from now on.
func (n *Network) Install(b *member.Bundle) {
	n.T.Helper()
	raw, err := b.Encode()
	if err != nil {
		n.T.Fatalf("encode bundle: %v", err)
	}
	n.Raw, n.Sig = raw, member.SignBundle(raw, nil, n.Root)
	if n.Bundle, err = member.OpenBundle(n.Raw, n.Sig, nil); err != nil {
		n.T.Fatalf("open bundle: %v", err)
	}
}

func (n *Network) zone(i int) string { return fmt.Sprintf("z%d", i%max(n.o.SSNs, 1)+1) }

func (n *Network) operator(i int) string { return fmt.Sprintf("dso%d", i%n.o.Operators+1) }

func (n *Network) withCA(op member.Operator) member.Operator {
	ca, err := member.NewCA(op.Name, n.Clock.Now(), rand.Reader)
	if err != nil {
		n.T.Fatalf("make CA: %v", err)
	}
	n.CAs[op.Name] = ca
	op.CA = append(op.CA, ca.Certificate)
	return op
}

// Issuer names the operator that issues role in zone.
func (n *Network) Issuer(role member.Role, zone string) string {
	for _, op := range n.Bundle.Operators {
		if slices.Contains(op.Roles, role) && (zone == "" || slices.Contains(op.Zones, zone)) {
			return op.Name
		}
	}
	n.T.Fatalf("nobody issues role %v in zone %q", role, zone)
	return ""
}

// Issue makes a key and its certificate.
func (n *Network) Issue(role member.Role, zone string) (crypto.PrivKey, [][]byte) {
	n.T.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		n.T.Fatal(err)
	}
	return key, n.IssueFor(key, role, zone)
}

// IssueFor makes a certificate for a key.
func (n *Network) IssueFor(key crypto.PrivKey, role member.Role, zone string) [][]byte {
	n.T.Helper()
	raw, err := key.GetPublic().Raw()
	if err != nil {
		n.T.Fatal(err)
	}
	chain, err := n.CAs[n.Issuer(role, zone)].IssueMember(member.Grant{Network: n.Bundle.Network, Key: member.Key(raw), Role: role, Zone: zone},
		n.Clock.Now(), rand.Reader)
	if err != nil {
		n.T.Fatalf("issue certificate: %v", err)
	}
	return chain
}

// Add starts one more node with a fresh certificate. Leaves get up to three SSNs as parents, their own zone's first;
// backbone members get all SSNs that run.
func (n *Network) Add(role member.Role, zone string) *Node {
	n.T.Helper()
	key, chain := n.Issue(role, zone)
	return n.AddWith(key, chain)
}

// AddWith starts a node with a given certificate.
func (n *Network) AddWith(key crypto.PrivKey, chain [][]byte) *Node {
	n.T.Helper()
	m, err := n.Bundle.Verify(chain, n.Clock.Now())
	if err != nil {
		n.T.Fatalf("own certificate: %v", err)
	}
	node := &Node{Net: n, Key: key, Chain: chain, Member: m, Store: NewStore()}
	if err := node.Start(); err != nil {
		n.T.Fatalf("start %v: %v", m.Role, err)
	}
	n.T.Cleanup(func() { node.Stop() })
	return node
}

// Parents gives the addresses of SSNs as a node of this zone should dial them.
func (n *Network) Parents(m mesh.Member) []peer.AddrInfo {
	n.mu.Lock()
	defer n.mu.Unlock()
	var own, other []peer.AddrInfo
	for _, s := range n.SSNs {
		info := peer.AddrInfo{ID: s.Member.Peer, Addrs: s.Addrs}
		if s.Member.Zone == m.Zone {
			own = append(own, info)
		} else {
			other = append(other, info)
		}
	}
	all := append(own, other...)
	if m.Role.Leaf() {
		return all[:min(3, len(all))]
	}
	return all
}

// Start makes the node's host, runs Options.Ready and serves it.
func (d *Node) Start() error {
	n := d.Net
	c := mesh.Config{Clock: n.Clock, Bundle: n.Bundle, Sig: n.Sig, Chain: d.Chain, Parents: n.Parents(d.Member)}
	if d.Member.Role.Backbone() {
		if c.Listen = d.Addrs; c.Listen == nil {
			c.Listen = []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/0")}
		}
	}
	c.SaveChain = func(chain [][]byte) error {
		d.Chain = chain
		return nil
	}
	if n.o.Config != nil {
		n.o.Config(d, &c)
	}
	h, err := mesh.New(c, d.Key, d.Store)
	if err != nil {
		return err
	}
	d.Host, d.Addrs = h, h.Addrs()
	if n.o.Onion {
		oc := onion.Config{Store: d.Store}
		if n.o.OnionOf != nil {
			n.o.OnionOf(d, &oc)
		}
		if d.Onion, err = onion.New(h, oc); err != nil {
			h.Close()
			return err
		}
	}
	if n.o.Ready != nil {
		if err := n.o.Ready(d); err != nil {
			h.Close()
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel, d.done = cancel, make(chan error, 1)
	go func() {
		var err error
		var wg sync.WaitGroup
		if o := d.Onion; o != nil {
			wg.Go(func() { err = o.Serve(ctx) })
		}
		served := h.Serve(ctx)
		wg.Wait()
		d.done <- errors.Join(served, err)
	}()
	return nil
}

// Stop ends the node and waits for it. A stopped node may be started again.
func (d *Node) Stop() {
	d.Net.T.Helper()
	if d.cancel == nil {
		return
	}
	d.cancel()
	select {
	case err := <-d.done:
		if err != nil {
			d.Net.T.Errorf("%v stopped with %v", d.Member.Role, err)
		}
	case <-time.After(20 * time.Second):
		d.Net.T.Errorf("%v did not stop", d.Member.Role)
	}
	d.cancel, d.Host, d.Onion = nil, nil, nil
}

// Restart stops the node and starts it again with its store, key and addresses.
func (d *Node) Restart() {
	d.Net.T.Helper()
	d.Stop()
	if err := d.Start(); err != nil {
		d.Net.T.Fatalf("restart %v: %v", d.Member.Role, err)
	}
}

// AwaitConnected waits until every node is connected to all its parents.
func (n *Network) AwaitConnected() {
	n.T.Helper()
	for _, d := range slices.Concat(n.SSNs, n.Others, n.Homes, n.Wallets) {
		for _, p := range n.Parents(d.Member) {
			if p.ID == d.Member.Peer || d.Host == nil {
				continue
			}
			Eventually(n.T, fmt.Sprintf("%v connects to its parents", d.Member.Role), func() bool {
				_, ok := d.Host.Connected(p.ID)
				return ok
			})
		}
	}
}

// AwaitDirectory waits until every leaf knows all relays and recipients that run, and has drawn its guards.
func (n *Network) AwaitDirectory() {
	n.T.Helper()
	guards, down := 0, func(d *Node) bool { return d.Host == nil }
	if len(slices.DeleteFunc(slices.Clone(n.SSNs), down)) >= route.MinRelays {
		guards = route.GuardCount
	}
	for _, d := range slices.Concat(n.SSNs, n.Others, n.Homes, n.Wallets) {
		Eventually(n.T, fmt.Sprintf("%v knows the directory", d.Member.Role), func() bool {
			if d.Onion == nil {
				return true
			}
			for _, other := range slices.Concat(n.SSNs, n.Others) {
				role := other.Member.Role
				if other.Host != nil && !slices.ContainsFunc(d.Onion.Recipients(role), func(m mesh.Member) bool { return m.Peer == other.Member.Peer }) {
					return false
				}
			}
			return !d.Member.Role.Leaf() || len(d.Onion.Guards()) >= guards
		})
	}
}

// Eventually waits until ok, at most 20 s of wall time, and fails the test otherwise.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	EventuallyWithin(t, 20*time.Second, what, ok)
}

// EventuallyWithin is Eventually with its own limit of wall time.
func EventuallyWithin(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for pause := time.Millisecond; !ok(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(pause)
	}
}
