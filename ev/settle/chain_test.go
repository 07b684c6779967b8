package settle_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"gridveil/ev"
	"gridveil/ev/evsim"
	"gridveil/ev/guest"
	"gridveil/ev/ocmf"
	"gridveil/ev/ocpp"
	"gridveil/ev/ocpp/v16"
	"gridveil/ev/ocpp/v201"
	"gridveil/privacy/session"
)

// gateway is a host with a wallbox, a guest door and one guest at a time. All
// of its state belongs to one goroutine, which runs what comes in over acts.
type gateway struct {
	s       *scene
	ocpp    *ocpp.Server
	door    *guest.Door
	port    uint16
	box     *evsim.ChargePoint
	key     ocmf.PublicKey
	acts    chan func()
	host    *session.Host
	now     time.Time
	guest   *guest.Conn
	started chan struct{}
	done    chan struct{}
	end     sync.Once

	mu     sync.Mutex
	events []ev.Event
}

func (g *gateway) LoadStations() ([]ocpp.Record, error) { return nil, nil }
func (g *gateway) SaveStation(ocpp.Record) error        { return nil }

func (g *gateway) ingest(_ context.Context, _ string, e ev.Event) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, e)
	return nil
}

func (g *gateway) transaction() ev.Transaction {
	g.mu.Lock()
	defer g.mu.Unlock()
	return ev.Fold(g.events)
}

// Now and After make the gateway the clock of its parts.
func (g *gateway) Now() time.Time                       { return start }
func (g *gateway) After(time.Duration) <-chan time.Time { return nil }

// serve runs a part on a fresh loopback listener until the test ends.
func serve(t *testing.T, run func(context.Context, net.Listener) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	spin(t, func(ctx context.Context) error { return run(ctx, ln) })
	return ln.Addr().String()
}

func spin(t *testing.T, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func newGateway(s *scene, version string) *gateway {
	t := s.t
	g := &gateway{s: s, now: start, acts: make(chan func(), 16), started: make(chan struct{}), done: make(chan struct{})}
	var err error
	g.ocpp, err = ocpp.NewServer(ocpp.Config{Dialects: []ocpp.Dialect{v201.Dialect{}, v16.Dialect{}}, Ingest: g.ingest, Stations: g, HouseLimitW: 7360, Clock: g})
	s.must(err)
	addr := serve(t, g.ocpp.Serve)
	password, err := g.ocpp.Provision("WB")
	s.must(err)
	g.box, err = evsim.New(evsim.Config{ID: "WB", URL: "ws://" + addr + "/ocpp", Password: password, Version: version, Key: s.meter, Serial: "1", Clock: g})
	s.must(err)
	spin(t, g.box.Run)
	der, err := g.box.PublicKey()
	s.must(err)
	g.key, err = ocmf.NewKey(der)
	s.must(err)
	g.door, err = guest.NewDoor(guest.Config{Seed: [32]byte{1}, Guest: g.visit, Clock: g})
	s.must(err)
	_, port, _ := net.SplitHostPort(serve(t, g.door.Serve))
	n, _ := strconv.Atoi(port)
	g.port = uint16(n)
	spin(t, func(ctx context.Context) error {
		for {
			select {
			case act := <-g.acts:
				act()
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g
}

// offer makes the host's side of a session at one price for everything.
func (g *gateway) offer() guest.Welcome {
	s := g.s
	deal, terms := g.deal()
	der, err := g.box.PublicKey()
	s.must(err)
	sheet, err := fees.Encode()
	s.must(err)
	w := guest.Welcome{Terms: terms, FeeSheet: sheet, MeterSalt: [32]byte{2}, MeterKey: der, EVSE: 1, Phases: 1}
	hash, err := deal.Terms.Hash()
	s.must(err)
	pass := s.passes[0]
	s.passes = s.passes[1:]
	g.host, _, err = session.NewHost(session.HostConfig{Net: netID, Suite: suite, EVAGG: [16]byte{'e', 'v'}, EVAGGKey: pub(s.keys[evagg])}, pass.HSK, pass.Sig,
		session.Offer{PassKey: must(passMint()).Public().ID(), MeterCommit: session.MeterCommit(w.MeterSalt, der), Terms: hash, PGrid: 320_000, PRes: 320_000,
			POut: 80_000, Currency: euro, MaxPower: 73, Expires: uint32(s.now.Add(10 * time.Minute).Unix())})
	s.must(err)
	return w
}

func (g *gateway) deal() (ev.Deal, []byte) {
	sheet, err := fees.Hash()
	g.s.must(err)
	d := ev.Deal{Terms: ev.Terms{Price: ev.SinglePrice, PExport: 80_000, FeeSheet: sheet}, Grid: 320_000, Res: 320_000, Out: 80_000, Fee: fees, Minor: ev.MinorEUR}
	b, err := d.Terms.Encode()
	g.s.must(err)
	return d, b
}

// visit serves one wallet at the door.
func (g *gateway) visit(ctx context.Context, c *guest.Conn) {
	welcome := make(chan guest.Welcome, 1)
	g.acts <- func() { g.guest = c; welcome <- g.offer() }
	m, err := (<-welcome).Message()
	if err != nil || c.Send(ctx, m) != nil {
		return
	}
	g.acts <- func() { offer := g.host.Offer(); g.toGuest(offer.Bytes()) }
	for {
		m, err := c.Receive(ctx)
		if err != nil {
			return
		}
		g.acts <- func() { g.step(m.Body) }
	}
}

func (g *gateway) toGuest(msg []byte) {
	if err := g.guest.Send(context.Background(), guest.SessionMessage(msg)); err != nil {
		g.s.t.Errorf("to the guest: %v", err)
	}
}

// step gives a message to the host and does what it asks for.
func (g *gateway) step(msg []byte) {
	out, err := g.host.Step(g.now, msg)
	if err != nil {
		g.s.t.Errorf("host: %v", err)
		return
	}
	g.do(out)
}

func (g *gateway) do(out session.Out) {
	for _, m := range out.Send {
		if m.To == session.ToDriver {
			g.toGuest(m.Msg)
			continue
		}
		reply, err := g.s.desk.Take(g.now, m.Msg)
		if err != nil {
			g.s.t.Errorf("aggregator: %v", err)
			return
		}
		g.step(reply)
	}
	if out.Order == session.Start {
		st, _ := g.ocpp.Station("WB")
		if err := st.Start(context.Background(), 1, g.host.Code()); err != nil {
			g.s.t.Errorf("start: %v", err)
		}
		close(g.started)
	}
	if g.host.Phase() == session.Done {
		g.end.Do(func() { close(g.done) })
	}
}

// wallet scans the link and pays for one session.
func wallet(t *testing.T, s *scene, link string) (*session.Driver, error) {
	l, err := guest.ParseLink(link)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	c, err := guest.Dial(ctx, l)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	hello, err := c.Receive(ctx)
	if err != nil {
		return nil, err
	}
	w, err := guest.ParseWelcome(hello.Body)
	if err != nil {
		return nil, err
	}
	first, err := c.Receive(ctx)
	if err != nil {
		return nil, err
	}
	me, err := s.deck.Take(start)
	if err != nil {
		return nil, err
	}
	var d *session.Driver
	audit := func(o session.Offer, r session.Record, v *session.Evidence) (int64, error) {
		return check(o, r, v, w, d.Code())
	}
	d, out, err := session.NewDriver(session.DriverConfig{Net: netID, Suite: suite, EVAGG: [16]byte{'e', 'v'}, EVAGGKey: pub(s.keys[evagg]), EVAGGBox: s.box.Pub,
		Rand: rand.Reader, Fair: func(session.Tick) (int64, error) { return 0, nil }, Audit: audit}, start, me, first.Body, 10)
	for err == nil {
		for _, m := range out.Send {
			if err := c.Send(ctx, guest.SessionMessage(m.Msg)); err != nil {
				return nil, err
			}
		}
		if d.Phase() == session.Done {
			return d, nil
		}
		var m guest.Message
		if m, err = c.Receive(ctx); err == nil {
			out, err = d.Step(start.Add(time.Hour), m.Body)
		}
	}
	return nil, err
}

// check is the driver's audit of a record: meter, code, energies, shares.
func check(o session.Offer, r session.Record, v *session.Evidence, w guest.Welcome, code string) (int64, error) {
	terms, err := ev.DecodeTerms(w.Terms)
	if err != nil {
		return 0, err
	}
	sheet, err := ev.DecodeFeeSheet(w.FeeSheet)
	if err != nil {
		return 0, err
	}
	key, err := ocmf.NewKey(w.MeterKey)
	if err != nil {
		return 0, err
	}
	signed, err := ocmf.Check(v.Records, key, code)
	if err != nil {
		return 0, err
	}
	if signed.ImportMWh != r.Energy.In() || signed.ExportMWh != r.Energy.Out {
		return 0, fmt.Errorf("meter signed %d mWh, record says %d", signed.ImportMWh, r.Energy.In())
	}
	deal := ev.Deal{Terms: terms, Grid: int64(o.PGrid), Res: int64(o.PRes), Out: int64(o.POut), Fee: sheet, Minor: ev.MinorEUR}
	shares, err := ev.Split([]ev.Flow{{To: 1, Grid: r.Energy.Grid, Res: r.Energy.Res}}, deal)
	if err != nil {
		return 0, err
	}
	if shares.Host != r.Amounts.Host {
		return 0, fmt.Errorf("host asks for %d, the terms give %d", r.Amounts.Host, shares.Host)
	}
	return shares.Fee, nil
}

// TestScannedLinkToReceipt is the whole walk of a guest over real sockets: QR
// link, door, aggregator's yes, wallbox, signed record, both signatures, settle.
func TestScannedLinkToReceipt(t *testing.T) {
	for i, version := range []string{"1.6", "2.0.1"} {
		t.Run(version, func(t *testing.T) {
			s := newScene(t, uint64(20+i))
			g := newGateway(s, version)
			waitFor(t, func() bool { return g.box.Status().Online && g.box.Status().Queued == 0 })
			s.must(g.box.Plug(s.now, &evsim.Car{CapacityMWh: 60_000_000, MaxChargeW: 7360}))
			link, err := g.door.Link("127.0.0.1", 1, g.port)
			s.must(err)
			type result struct {
				d   *session.Driver
				err error
			}
			paid := make(chan result, 1)
			go func() {
				d, err := wallet(t, s, link.String())
				paid <- result{d, err}
			}()
			<-g.started
			now := start
			for range 30 {
				g.box.Step(now, time.Minute)
				now = now.Add(time.Minute)
			}
			waitFor(t, func() bool { return g.box.Status().Queued == 0 })
			st, _ := g.ocpp.Station("WB")
			s.must(st.Stop(context.Background(), st.Info().Running[1]))
			g.box.Step(now, time.Minute)
			waitFor(t, func() bool { return g.transaction().HasEnded && g.box.Status().Queued == 0 })
			g.acts <- func() { g.finish(now) }
			r := <-paid
			if r.err != nil {
				t.Fatalf("wallet: %v", r.err)
			}
			<-g.done
			// 3.68 kWh at 0.32: 1.1776, rounded down to cents; fee 0.0552.
			if o := r.d.Opened(); o == nil || o.Values.Pay != 1_170_000+50_000 || o.Values.Earn != 1_170_000 {
				t.Errorf("opening: got %+v", r.d.Opened())
			}
			if c := s.desk.Counts(); c.Queued != 1 {
				t.Errorf("desk: got %+v, want one booked session", c)
			}
		})
	}
}

// finish checks what the meter signed and closes the session.
func (g *gateway) finish(now time.Time) {
	s := g.s
	g.now = now
	tx := g.transaction()
	signed, err := ocmf.Check(tx.Signed, g.key, g.host.Code())
	s.must(err)
	deal, terms := g.deal()
	bill, err := ev.NewBill([]ev.Registers{{From: start.UnixMilli(), To: now.UnixMilli(), Import: signed.ImportMWh + 500_000, EVIn: signed.ImportMWh}},
		signed.ImportMWh, signed.ExportMWh, signed.StepMWh, deal, nil)
	s.must(err)
	der, err := g.box.PublicKey()
	s.must(err)
	energy := session.Energy{Grid: bill.Energy.Grid, Res: bill.Energy.Res, Out: bill.Energy.Out}
	out, err := g.host.End(now, session.Ending{Energy: energy, Amounts: session.Amounts{Host: bill.Shares.Host, Fee: bill.Shares.Fee}, Begin: start, End: now,
		Evidence: &session.Evidence{Salt: [32]byte{1}, MeterSalt: [32]byte{2}, MeterKey: der, Terms: terms, Records: tx.Signed}})
	s.must(err)
	g.do(out)
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	look, deadline := time.NewTicker(2*time.Millisecond), time.After(10*time.Second)
	defer look.Stop()
	for !ok() {
		select {
		case <-look.C:
		case <-deadline:
			t.Fatal("waited 10 s in vain")
		}
	}
}
