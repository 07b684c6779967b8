// Package demo runs a whole neighbourhood in one process: real hosts, stores,
// websockets and signatures over simulated copper, on an accelerated clock.
//
// scene.go builds and runs the nodes, story.go makes the day happen, judge.go
// says whether every invariant holds, site.go shows it all on one dashboard.
package demo

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gridveil/ledger/durable"
	"gridveil/mesh/member"
	"gridveil/node"
	"gridveil/node/clock"
	"gridveil/node/config"
	"gridveil/node/identity"
	"gridveil/node/loopback"
	"gridveil/node/party"
	"gridveil/node/plant"
	"gridveil/node/ssn"
	"gridveil/privacy/agg"
	"gridveil/privacy/committee"
)

// Options are the flags of `gridveil demo`.
type Options struct {
	Homes  int     // default 25
	Hours  int     // length of a day with --once, default 24
	Seed   uint64  // the same seed gives the same bills
	Speed  float64 // of the clock
	Dir    string  // kept there; empty means a temporary folder that is removed
	Traces string  // folder with home_*.csv; empty means generated households
	Listen string  // address of the dashboard, default 127.0.0.1:7080
	Ledger string  // address at which the log is served over plain HTTP; empty means nowhere
	Log    *slog.Logger
	Talk   io.Writer // what a person should read while it runs; nil discards
}

// Speeds: at LiveSpeed a day takes six minutes and a car can be watched; a
// single day runs as fast as the nodes keep up, at most at OnceSpeed.
const (
	LiveSpeed = 240
	OnceSpeed = 3000
)

// Sizes of a scene.
const (
	maxHomes     = 200
	wallboxes    = 5
	drivers      = 6
	floorHomes   = 20 // below it the private classes refuse, and the scene runs class lab
	batteryEvery = 4  // homes without battery: one in so many
)

// Start is the first instant of every demonstration: a Tuesday in June, so that
// the hour before it is of the same week, whose passes and pseudonyms it needs.
var Start = time.Date(2026, 6, 16, 0, 0, 0, 0, time.UTC)

// openSpeed is that of the clock until every node runs: all houses then begin in
// the same minute, on a slow machine too.
const openSpeed = 0.01

// warmUp is how long before Start the nodes begin to run: they find each other,
// relays measure, wallets and hosts equip themselves.
const warmUp = 2 * time.Hour

// hop is the mean hold of a relay. In a town of this size it hides a home among
// enough others with slots every 30 s; with the usual 30 s of hold homes would
// have to send every 10 s.
const hop = 40 * time.Second

var zones = []string{"elm", "oak", "mill"}

// Operators of the scene.
const (
	utilityA  = "northgrid"  // bills the homes, runs the grid
	utilityB  = "southpower" // bills the drivers
	towngrid  = "towngrid"
	evagg     = "evagg"
	watchdog  = "watchdog"
	consumers = "consumers"
)

// Member is one node of the scene.
type Member struct {
	Name     string
	Role     member.Role
	Operator string
	Zone     string
	Dir      string
	Home     *Home // of gateways

	mu     sync.Mutex
	node   *node.Node // nil while stopped
	cancel context.CancelFunc
	done   chan error
}

// Home is the physical side of a gateway.
type Home struct {
	Load       plant.Load
	Roof       plant.Source
	BatteryWh  int
	Wallbox    *Wallbox // nil without
	OCPPListen string
	DoorListen string
	password   string // of the wallbox
	// feeder tells the zone's transformer what flows here.
	feeder func(at time.Time, importMWh, exportMWh int64)
}

// Scene is a running neighbourhood.
type Scene struct {
	Options
	Clock     *clock.Accelerated
	Lab       bool
	Members   []*Member
	network   *identity.Network
	openers   committee.Public
	feeders   map[string]*plant.Feeder // transformers, by zone
	rng       *rand.Rand
	shares    [committee.Seats]committee.Share
	contracts map[string]string // of drivers at their utility, hexadecimal
	temp      bool
}

// Build founds the network and prepares every node's directory.
func Build(o Options) (*Scene, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	s := &Scene{Options: o, Clock: clock.NewAccelerated(Start.Add(-warmUp), openSpeed), Lab: o.Homes < floorHomes, rng: rand.New(rand.NewPCG(o.Seed, 0x64656d6f)), feeders: map[string]*plant.Feeder{}, contracts: map[string]string{}}
	for _, z := range zones {
		s.feeders[z] = plant.NewFeeder()
	}
	if s.Dir == "" {
		dir, err := os.MkdirTemp("", "gridveil-demo-")
		if err != nil {
			return nil, fmt.Errorf("temporary folder: %w", err)
		}
		s.Dir, s.temp = dir, true
	} else if list, err := os.ReadDir(s.Dir); err == nil && len(list) > 0 {
		return nil, fmt.Errorf("%s is not empty: a demonstration starts in a new folder", s.Dir)
	}
	if err := s.found(); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	if err := s.cast(); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	return s, nil
}

func (o *Options) fill() error {
	if o.Homes == 0 {
		o.Homes = 25
	}
	if o.Hours == 0 {
		o.Hours = 24
	}
	if o.Speed == 0 {
		o.Speed = LiveSpeed
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:7080"
	}
	if o.Talk == nil {
		o.Talk = io.Discard
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Homes < wallboxes+1 || o.Homes > maxHomes:
		return fmt.Errorf("--homes %d: want %d to %d", o.Homes, wallboxes+1, maxHomes)
	case o.Hours < 1 || o.Hours > 24*31:
		return fmt.Errorf("--hours %d: want 1 to %d", o.Hours, 24*31)
	case o.Speed < 1 || o.Speed > 5000:
		return fmt.Errorf("--speed %g: want 1 to 5000", o.Speed)
	}
	return nil
}

// Remove deletes a temporary folder; one that --data named stays.
func (s *Scene) Remove() error {
	if !s.temp {
		return nil
	}
	return os.RemoveAll(s.Dir)
}

// reader is a node's random source: seeded, so that a demonstration repeats, and
// different for every node. It is never used outside demonstrations.
func (s *Scene) reader(name string) io.Reader {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], s.Seed)
	copy(seed[8:], name)
	return &lockedReader{r: rand.NewChaCha8(seed)}
}

type lockedReader struct {
	mu sync.Mutex
	r  *rand.ChaCha8
}

func (l *lockedReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}

func (s *Scene) found() error {
	p := identity.Plan{Roots: 3, Threshold: 2, Policy: member.Policy{HomesEnrolled: s.Homes, Lab: s.Lab, HopMS: hop.Milliseconds()}}
	for _, z := range zones {
		p.Zones = append(p.Zones, member.Zone{Name: z, Region: 1})
	}
	p.Operators = []identity.PlanOperator{
		{Name: utilityA, Roles: []member.Role{member.RoleGateway, member.RoleSSN, member.RoleHeadend, member.RoleUtility}, Zones: zones, DSOZones: zones},
		{Name: utilityB, Roles: []member.Role{member.RoleSSN, member.RoleUtility, member.RoleWallet}, Zones: zones},
		{Name: towngrid, Roles: []member.Role{member.RoleSSN, member.RoleVerifier}, Zones: zones},
		{Name: evagg, Roles: []member.Role{member.RoleAggregator}},
		{Name: watchdog, Roles: []member.Role{member.RoleVerifier}},
		{Name: consumers, Roles: []member.Role{member.RoleVerifier}},
	}
	n, err := identity.Found(p, Start.Add(-2*warmUp), s.reader("founders"))
	if err != nil {
		return fmt.Errorf("found the network: %w", err)
	}
	s.network = n
	if s.openers, s.shares, err = committee.Deal(s.reader("openers")); err != nil {
		return fmt.Errorf("openers' key: %w", err)
	}
	return n.Save(filepath.Join(s.Dir, "network"))
}

// cast prepares every member: SSNs and other backbone nodes first, since the
// homes need their addresses.
func (s *Scene) cast() error {
	ssnOperators := []string{utilityA, utilityB, towngrid}
	var parents []string
	for i, z := range zones {
		m := &Member{Name: "ssn-" + z, Role: member.RoleSSN, Operator: ssnOperators[i], Zone: z}
		addr, err := s.backbone(m, parents)
		if err != nil {
			return err
		}
		parents = append(parents, addr)
	}
	others := []*Member{
		{Name: "headend", Role: member.RoleHeadend, Operator: utilityA},
		{Name: "utility-a", Role: member.RoleUtility, Operator: utilityA},
		{Name: "utility-b", Role: member.RoleUtility, Operator: utilityB},
		{Name: "evagg", Role: member.RoleAggregator, Operator: evagg},
		{Name: "watchdog", Role: member.RoleVerifier, Operator: watchdog},
		{Name: "consumers", Role: member.RoleVerifier, Operator: consumers},
		{Name: "towngrid", Role: member.RoleVerifier, Operator: towngrid},
	}
	reach := map[string]string{}
	for _, m := range others {
		addr, err := s.backbone(m, parents)
		if err != nil {
			return err
		}
		reach[m.Name] = addr
	}
	if err := s.homes(append(slices.Clone(parents), reach["utility-a"])); err != nil {
		return err
	}
	for i := range drivers {
		m := &Member{Name: fmt.Sprintf("driver-%d", i+1), Role: member.RoleWallet, Operator: utilityB}
		if err := s.prepare(m, append(slices.Clone(parents), reach["utility-b"]), "[wallet]\nlisten = \"off\"\n"); err != nil {
			return err
		}
	}
	return nil
}

// homes draws the households; the first ones have wallbox and roof, most have a
// battery.
func (s *Scene) homes(contacts []string) error {
	loads, err := s.loads()
	if err != nil {
		return err
	}
	for i := range s.Homes {
		h := &Home{Load: loads[i]}
		if i == showers-1 && s.Traces == "" {
			h.Load = shower{loads[i]}
		}
		var toml strings.Builder
		fmt.Fprintf(&toml, "[meter]\nsource = \"sim\"\nread_period = \"15m\"\nreport_period = \"1h\"\n")
		if i%batteryEvery != batteryEvery-1 {
			h.BatteryWh = []int{5000, 10_000}[s.rng.IntN(2)]
			fmt.Fprintf(&toml, "[battery]\ncapacity_wh = %d\npower_w = %d\n", h.BatteryWh, []int{3000, 5000}[s.rng.IntN(2)])
		}
		peak := 4000 + 500*float64(s.rng.IntN(9))
		switch sunny := s.rng.IntN(3) == 0; {
		case i < wallboxes: // a summer's day for those who host: the story needs some sun in every seed
			h.Roof = plant.Roof{PeakW: peak + 4000, Seed: s.Seed, Least: .45}
		case sunny:
			h.Roof = plant.Roof{PeakW: peak, Seed: s.Seed}
		}
		if i < wallboxes {
			if err := s.wallbox(h, i, &toml); err != nil {
				return err
			}
		}
		m := &Member{Name: fmt.Sprintf("home-%d", i+1), Role: member.RoleGateway, Operator: utilityA, Zone: zoneOf(i, s.Homes), Home: h}
		h.feeder = s.feeders[m.Zone].Connect()
		if err := s.prepare(m, contacts, toml.String()); err != nil {
			return err
		}
	}
	return nil
}

// zoneOf places home i of n: above the floor of private classes the first zone
// has as many homes as a private sum needs, and one that may be missing.
func zoneOf(i, n int) string {
	if n < floorHomes {
		return zones[i%len(zones)]
	}
	if i < min(agg.MinBatch+1, n-len(zones)+1) {
		return zones[0]
	}
	return zones[1+i%(len(zones)-1)]
}

func (s *Scene) loads() ([]plant.Load, error) {
	if s.Traces != "" {
		return plant.Traces(s.Traces, s.Homes)
	}
	loads := make([]plant.Load, s.Homes)
	for i := range loads {
		loads[i] = plant.NewHousehold(s.rng.Uint64())
	}
	return loads, nil
}

// backbone prepares a listening member and gives its address.
func (s *Scene) backbone(m *Member, contacts []string) (string, error) {
	port, err := loopback.Port()
	if err != nil {
		return "", err
	}
	listen := "/ip4/127.0.0.1/tcp/" + port
	if err := s.prepare(m, contacts, fmt.Sprintf("[mesh]\nlisten = [%q]\n", listen)+money(m.Name, s.Ledger)); err != nil {
		return "", err
	}
	id, err := identity.Load(m.Dir, Start.Add(-warmUp))
	if err != nil {
		return "", err
	}
	return listen + "/p2p/" + id.Member.Peer.String(), nil
}

func (s *Scene) prepare(m *Member, contacts []string, toml string) error {
	m.Dir = filepath.Join(s.Dir, m.Name)
	if err := os.MkdirAll(m.Dir, 0o700); err != nil {
		return fmt.Errorf("prepare %s: %w", m.Name, err)
	}
	head := fmt.Sprintf("role = %q\nname = %q\n\n[web]\nlisten = \"off\"\n\n", m.Role, m.Name)
	if err := durable.WriteFile(filepath.Join(m.Dir, config.FileName), []byte(head+toml)); err != nil {
		return err
	}
	if m.Home != nil && m.Home.password != "" {
		if err := durable.WriteFile(filepath.Join(m.Dir, "evse.password"), []byte(m.Home.password+"\n")); err != nil {
			return err
		}
	}
	if err := s.seat(m); err != nil {
		return err
	}
	keep := m.Role == member.RoleUtility
	if err := identity.Certify(m.Dir, s.network, m.Operator, m.Role, m.Zone, contacts, keep, Start.Add(-warmUp-time.Minute), s.reader(m.Name)); err != nil {
		return fmt.Errorf("prepare %s: %w", m.Name, err)
	}
	s.Members = append(s.Members, m)
	return nil
}

// seats are the five openers: three of them open one session. Those that are no
// utilities say what they are on the ledger.
var seats = []struct{ name, body string }{{"utility-a", ""}, {"utility-b", ""}, {"watchdog", "regulator"}, {"consumers", "consumer-body"}, {"towngrid", "dso"}}

// seat gives an opener the committee's key and its own share.
func (s *Scene) seat(m *Member) error {
	i := slices.IndexFunc(seats, func(x struct{ name, body string }) bool { return x.name == m.Name })
	if i < 0 {
		return nil
	}
	if err := durable.WriteFile(filepath.Join(m.Dir, party.CommitteeFile), []byte(party.EncodeCommittee(s.openers))); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(m.Dir, party.ShareFile), []byte(hex.EncodeToString(s.shares[i].Bytes())+"\n"))
}

// money is what a member's configuration says about the ledger. Days of an hour
// and sums of one session let a short day show everything; the pages say so.
func money(name, serve string) string {
	bank := ""
	for _, x := range accounts {
		if x.name == name {
			bank = fmt.Sprintf("iban = %q\nbic = %q\n", x.iban, bankBIC)
		}
	}
	if name == "evagg" {
		return fmt.Sprintf("[ledger]\nhttp = %q\n", serve) + "bucket = \"1h\"\nmin_batch = 1\nnotice = \"30m\"\nclose_every = 6\nexport = \"0s\"\n" + bank
	}
	for _, x := range seats {
		if x.name != name {
			continue
		}
		if x.body == "" {
			return "[ledger]\nopener = true\n" + bank
		}
		return fmt.Sprintf("[ledger]\nopener = true\nbody = %q\n", x.body)
	}
	return ""
}

// open opens the node of m, ready to be served.
func (s *Scene) open(m *Member) (*node.Node, error) {
	o := node.Options{Clock: s.Clock, Log: s.Log.With("node", m.Name), Rand: s.reader(m.Name + "/run"), NoPages: true}
	if h := m.Home; h != nil {
		o.Hardware = &node.Hardware{Load: h.Load, Roof: h.Roof, Feeder: h.feeder}
		if h.Wallbox != nil {
			o.Hardware.Car, o.Hardware.Told = h.Wallbox, h.Wallbox.Told
		}
	}
	n, err := node.Open(m.Dir, o)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", m.Name, err)
	}
	return n, nil
}

// Run starts a member that is stopped.
func (s *Scene) Run(ctx context.Context, m *Member) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.node != nil {
		return nil
	}
	n, err := s.open(m)
	if err != nil {
		return err
	}
	if substation, ok := n.Role.(*ssn.SSN); ok {
		substation.SetFeeder(s.feeders[m.Zone])
	}
	ctx, m.cancel = context.WithCancel(ctx)
	m.node, m.done = n, make(chan error, 1)
	go func() { m.done <- n.Serve(ctx) }() // Stop waits for it
	if m.Home != nil && m.Home.Wallbox != nil && m.Home.Wallbox.cancel == nil {
		m.Home.Wallbox.Run(context.WithoutCancel(ctx)) // a wallbox outlives its gateway; StopAll ends it
	}
	return nil
}

// Stop ends a member and waits for it.
func (m *Member) Stop() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.node == nil {
		return nil
	}
	m.cancel()
	err := <-m.done
	m.node = nil
	return err
}

// Node is the running node, nil while stopped.
func (m *Member) Node() *node.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node
}

// Get finds a member by name.
func (s *Scene) Get(name string) *Member {
	for _, m := range s.Members {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// Of lists the members of a role, in the order of the cast.
func (s *Scene) Of(r member.Role) (out []*Member) {
	for _, m := range s.Members {
		if m.Role == r {
			out = append(out, m)
		}
	}
	return out
}

// RunAll starts everybody, the backbone first.
func (s *Scene) RunAll(ctx context.Context) error {
	for _, m := range s.Members {
		if err := s.Run(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// StopAll ends everybody: homes first, then those that they report to.
func (s *Scene) StopAll() error {
	var errs []error
	for i := len(s.Members) - 1; i >= 0; i-- {
		m := s.Members[i]
		if err := m.Stop(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
		}
		if m.Home != nil && m.Home.Wallbox != nil {
			if err := m.Home.Wallbox.Stop(); err != nil && !errors.Is(err, context.Canceled) {
				errs = append(errs, fmt.Errorf("wallbox of %s: %w", m.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}
