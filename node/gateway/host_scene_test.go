package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	mrand "math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"gridveil/battery"
	"gridveil/ev/evsim"
	"gridveil/mesh/member"
	"gridveil/node/clock"
	"gridveil/node/config"
	"gridveil/node/identity"
	"gridveil/node/plant"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/wallet"
	"gridveil/node/wallet/markettest"
)

// speed of the test's clock: a minute in 60 ms. Tests that restart nodes take a
// slower one, so that a restart is not an hour.
const (
	speed     = 1000
	slowSpeed = 200
)

// scene is a house with a real OCPP wallbox and guest door, a driver with a
// wallet, and the operators behind both.
type scene struct {
	t      *testing.T
	clock  *clock.Accelerated
	market *markettest.Market
	cp     *evsim.ChargePoint
	meter  *ecdsa.PrivateKey
	home   *node
	guest  *node
	host   *hosting
	wallet *wallet.Wallet

	mu       sync.Mutex // guards the house
	g        gauges
	loadW    int64
	pvW      int64
	carW     int64
	battery  *battery.Store // nil: the house has none
	flowed   plant.Registers
	metered  []int64 // power at the meter, minute by minute
	ocpp     string
	door     string
	onHost   func(*hosting)
	onWallet func(*wallet.Wallet)
}

// node is one running role with its own store and folder.
type node struct {
	dir  string
	key  ed25519.PrivateKey
	env  *role.Env
	stop func() error
}

// freeAddress finds a free port outside of the range that the system hands out,
// so that nobody takes it before it is used.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 12_000+mrand.IntN(18_000))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

type sceneOptions struct {
	loadW, pvW int64
	unsigned   bool
	config     func(*config.Config)
	wallet     func(*config.Config)
	version    string
	speed      float64 // 0 means speed
	batteryWh  int     // 0: none; else its mask holds the meter, with 3 kW
}

func newScene(t *testing.T, o sceneOptions) *scene {
	t.Helper()
	if o.speed == 0 {
		o.speed = speed
	}
	s := &scene{t: t, clock: clock.NewAccelerated(markettest.Epoch, o.speed), loadW: o.loadW, pvW: o.pvW, ocpp: freeAddress(t), door: freeAddress(t)}
	s.market = markettest.New(t, s.clock)
	s.market.Late = time.Duration(o.speed * float64(2*time.Second))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	running.Go(func() { _ = s.clock.Run(ctx) })
	var err error
	if s.meter, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	version := o.version
	if version == "" {
		version = "2.0.1"
	}
	s.cp, err = evsim.New(evsim.Config{ID: "box", URL: "ws://" + s.ocpp + "/ocpp", Version: version, Key: s.meter, Serial: "SIM-1", Phases: 3, MaxW: 11_000, V2X: true, Clock: s.clock})
	if err != nil {
		t.Fatal(err)
	}
	pub, err := s.cp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	if o.batteryWh > 0 {
		spec := battery.Reference(battery.WattHours(o.batteryWh), 3000)
		s.battery = &battery.Store{Spec: spec, E: spec.Capacity / 2}
	}
	s.home = s.newNode("gateway", func(c *config.Config) {
		c.Battery.Policy = "veil"
		c.EVSE = config.EVSE{Listen: s.ocpp, MaxW: 11_000, Station: "box", MeterKey: hex.EncodeToString(pub)}
		c.Hosting.Enabled, c.Hosting.Listen = true, s.door
		if o.unsigned {
			c.EVSE.MeterKey = ""
		}
		if o.config != nil {
			o.config(c)
		}
	})
	s.guest = s.newNode("wallet", func(c *config.Config) {
		c.Wallet.Listen = "off"
		if o.wallet != nil {
			o.wallet(c)
		}
	})
	s.market.Enrol(s.guest.env.ID.Member.Key)
	s.startHost()
	s.startWallet()
	t.Cleanup(func() { s.stopNode(s.guest); s.stopNode(s.home) })
	running.Go(func() { _ = s.cp.Run(ctx) })
	running.Go(func() { s.liveHouse(ctx) })
	s.eventually("wallbox online", func() bool { return s.cp.Status().Online })
	s.eventually("host passes", func() bool { return s.h().canHost(week(s.clock.Now())) })
	s.eventually("the house's registers", func() bool {
		s.h().mu.Lock()
		defer s.h().mu.Unlock()
		return len(s.h().samples.marks) >= 2
	})
	s.eventually("pseudonyms", func() bool { return len(s.w().Decks()) > 0 })
	return s
}

func week(t time.Time) uint32 { return uint32(t.Sub(weekStart(0)) / (7 * 24 * time.Hour)) }

// newNode makes the folder, keys and configuration of a node.
func (s *scene) newNode(kind string, edit func(*config.Config)) *node {
	s.t.Helper()
	dir := s.t.TempDir()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := config.Parse("test.toml", []byte("role = \""+kind+"\"\n"))
	if err != nil {
		s.t.Fatal(err)
	}
	c.Dir = dir
	edit(c)
	n := &node{dir: dir, key: key}
	self := member.Member{Key: member.Key(key.Public().(ed25519.PublicKey)), Operator: markettest.Utility, Zone: "elm"}
	n.env = &role.Env{Config: c, Clock: s.clock, Log: slog.New(slog.DiscardHandler), Warn: role.NewBoard(), Rand: rand.Reader, Net: markettest.Net,
		ID: &identity.Identity{Key: key, Member: self, Bundle: &member.Bundle{Network: member.NetworkID(markettest.Network), Zones: []member.Zone{{Name: "oak"}, {Name: "elm"}}}}}
	if os.Getenv("HOST_LOG") != "" {
		n.env.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", kind)
	}
	return n
}

// openStore opens a node's store, as a start does.
func (s *scene) openStore(n *node) {
	s.t.Helper()
	key, err := store.LoadOrCreateKey(n.dir + "/store.key")
	if err != nil {
		s.t.Fatal(err)
	}
	st, err := store.Open(n.dir+"/store", key, store.Options{MinFree: -1, Now: n.env.Clock.Now})
	if err != nil {
		s.t.Fatal(err)
	}
	env := *n.env // what died keeps its own
	env.Store = st
	s.mu.Lock()
	n.env = &env
	s.mu.Unlock()
}

// run serves a role until its node stops.
func (s *scene) run(n *node, serve func(context.Context) error) {
	st := n.env.Store
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }() // stopNode waits for it
	n.stop = func() error {
		cancel()
		return errors.Join(<-done, st.Close())
	}
}

func (s *scene) stopNode(n *node) {
	s.t.Helper()
	if n.stop == nil {
		return
	}
	if err := n.stop(); err != nil {
		s.t.Error(err)
	}
	n.stop = nil
}

func (s *scene) startHost() {
	s.t.Helper()
	s.openStore(s.home)
	j, err := openJournal(s.home.env.Store)
	if err != nil {
		s.t.Fatal(err)
	}
	var m *mask
	if s.battery != nil {
		if m, err = newMask(s.t.Context(), s.home.env, s.battery.Spec, sharedPrior); err != nil {
			s.t.Fatal(err)
		}
	}
	h, err := openHosting(s.home.env, j, s.market, m)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.onHost != nil {
		s.onHost(h)
	}
	s.mu.Lock()
	s.host = h
	s.mu.Unlock()
	s.run(s.home, h.serve)
}

func (s *scene) startWallet() {
	s.t.Helper()
	s.openStore(s.guest)
	w, err := wallet.Open(s.guest.env, s.market)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.onWallet != nil {
		s.onWallet(w)
	}
	s.mu.Lock()
	s.wallet = w
	s.mu.Unlock()
	s.run(s.guest, w.Serve)
}

// h and w are the house and the wallet as of now: a restart makes new ones.
func (s *scene) h() *hosting {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.host
}

func (s *scene) w() *wallet.Wallet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wallet
}

// liveHouse steps wallbox and house minute by minute, as a simulated house does.
func (s *scene) liveHouse(ctx context.Context) {
	next := clock.Next(s.clock.Now(), time.Minute)
	for clock.Until(ctx, s.clock, next) {
		release := clock.Hold(s.clock)
		s.minute(next)
		release()
		next = next.Add(time.Minute)
	}
}

// minute lets the minute before end pass.
func (s *scene) minute(end time.Time) {
	car := s.cp.Step(end.Add(-time.Minute), time.Minute)
	s.mu.Lock()
	s.carW = car
	net := s.loadW + car - s.pvW - s.mask(end, car)
	s.metered = append(s.metered, net)
	s.g.At = end
	s.g.PV += s.pvW * 1000 / 60
	if net >= 0 {
		s.g.Import += net * 1000 / 60
	} else {
		s.g.Export += -net * 1000 / 60
	}
	s.g.MeterW, s.g.CarW, s.g.HasInverter = net, car, true
	g, h := s.g, s.host
	s.mu.Unlock()
	h.sample(g)
	for i := 0; i < 50 && s.cp.Status().Queued > 0 && s.cp.Status().Online; i++ {
		time.Sleep(time.Millisecond) // the wallbox's messages are on a real socket
	}
}

// mask is what the battery gives in the minute before end, W. The caller holds mu.
func (s *scene) mask(end time.Time, car int64) int64 {
	if s.battery == nil {
		return 0
	}
	begin := end.Add(-time.Minute)
	b := s.host.mask.step(plant.Flow{At: begin.Add(plant.Reaction), Load: float64(s.loadW), PV: float64(s.pvW), Car: float64(car), Stored: s.battery.E, Last: s.flowed})
	b = battery.Watts(math.Round(float64(b)))
	s.battery.Apply(b, time.Minute)
	s.flowed = plant.Registers{MeterW: float64(s.loadW + car - s.pvW - int64(b)), CarW: float64(car), BatteryW: float64(b)}
	s.g.BattOut += max(int64(b), 0) * 1000 / 60
	s.g.BattIn += max(-int64(b), 0) * 1000 / 60
	return int64(b)
}

func (s *scene) weather(loadW, pvW int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loadW, s.pvW = loadW, pvW
}

// plug brings a car.
func (s *scene) plug(c evsim.Car) {
	s.t.Helper()
	if err := s.cp.Plug(s.clock.Now(), &c); err != nil {
		s.t.Fatal(err)
	}
}

// electric is a car with room for 40 kWh that charges with 11 kW.
func electric() evsim.Car {
	return evsim.Car{CapacityMWh: 60_000_000, EnergyMWh: 20_000_000, MaxChargeW: 11_000}
}

// giving is a full car that can discharge.
func giving() evsim.Car {
	return evsim.Car{CapacityMWh: 60_000_000, EnergyMWh: 50_000_000, MaxChargeW: 11_000, MaxDischargeW: 10_000, ReserveMWh: 5_000_000}
}

// patience is what a busy machine may take for a step of a test, wall time.
const patience = 80 * time.Second

// eventually waits for a condition.
func (s *scene) eventually(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	s.describe()
	s.t.Fatalf("%s: not within %v", what, patience)
}

func (s *scene) describe() {
	for _, r := range s.h().Sessions() {
		x, _ := s.h().Session(r.ID)
		s.t.Logf("host: %+v", r)
		for _, st := range x.Steps {
			s.t.Logf("   %s %s", st.At.Format("15:04:05"), st.Text)
		}
	}
	for _, r := range s.w().Sessions() {
		x, _ := s.w().Session(r.ID)
		s.t.Logf("wallet: %+v", r)
		for _, st := range x.Steps {
			s.t.Logf("   %s %s", st.At.Format("15:04:05"), st.Text)
		}
	}
	s.t.Logf("now %s, wallbox %+v", s.clock.Now().Format("15:04:05"), s.cp.Status())
}

func (s *scene) link() string {
	s.t.Helper()
	l, err := s.h().guestLink("")
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

// pay opens a session and fails the test if it is refused.
func (s *scene) pay(o wallet.Options) string {
	s.t.Helper()
	id, err := s.tryPay(o)
	if err != nil {
		s.describe()
		s.t.Fatalf("pay: %v", err)
	}
	return id
}

func (s *scene) tryPay(o wallet.Options) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return s.w().Pay(ctx, s.link(), o)
}
