package aggregator_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"gridveil/ev"
	"gridveil/ev/ocmf"
	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/privacy"
	"gridveil/privacy/note"
	"gridveil/privacy/pseudo"
	"gridveil/privacy/session"
)

// street is what the home and the driver of the scene hold between sessions.
type street struct {
	s      *scene
	passes []note.Pass
	fees   ev.FeeSheet
	deck   *pseudo.Deck
	meter  *ecdsa.PrivateKey
	page   uint64
	purse  *note.Wallet // of the home
	month  ask.Month

	contract ed25519.PrivateKey // of the driver
}

func (x *street) driverKey() member.Key { return member.Key(x.contract.Public().(ed25519.PublicKey)) }

// moveIn gives the home its passes and the driver its deck, by onion.
func moveIn(s *scene) *street {
	s.t.Helper()
	x := &street{s: s, contract: must(privacy.NewKey(rand.Reader)), meter: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	evagg := s.seenBy("home")
	b, err := s.asks("home", evagg.Key, mesh.Pass, ask.PassKey, ask.WeekBody(pseudo.Week(s.clock.Now()), "elm"))
	s.must(err)
	week := must(ask.ParseWeekKey(b))
	x.fees = week.Fees
	key := must(note.ParseKey(privacy.UsePass, week.Modulus[:]))
	seed := [32]byte{7}
	slots := must(note.RequestPasses(seed, key))
	req := ask.PassRequest{Week: week.Week, Claim: [32]byte{9}, Zone: "elm", Slots: slots}
	b, err = s.asks("home", evagg.Key, mesh.Pass, ask.Passes, req.Bytes())
	s.must(err)
	x.passes = must(note.FinishPasses(seed, key, must(note.ParsePassSlots(b))))
	x.fetchDeck()
	return x
}

func (x *street) fetchDeck() {
	s := x.s
	s.eventually("the driver's utility in the directory", func() bool { _, err := s.operators("driver").Utility("southpower"); return err == nil })
	s.eventually("the driver's utility in the aggregator's directory", func() bool { _, err := s.operators("evagg").Utility("southpower"); return err == nil })
	s.must(s.evagg().LookAgain())
	u := must(s.operators("driver").Utility("southpower"))
	env := s.places["driver"].node.Env
	lk := x.contract // not the node's own key: its wallet fetches a deck of its own
	if _, err := s.utility("utility-b").OpenDriver(x.driverKey(), ask.DriverLimit); err != nil {
		s.t.Fatal(err)
	}
	p := pseudo.Profile{Net: env.Net, Kind: pseudo.Driver, Contract: ask.Contract(env.ID.Bundle.Network, x.driverKey()), LK: lk, Arg: ask.DriverLimit,
		Deck: ask.DeckSize, Issuer: u.ID, IssuerKey: u.Issuer, Suite: privacy.SuiteX25519, IssueBox: u.Issue}
	evagg := s.seenBy("driver")
	pending := must(pseudo.NewBatch(rand.Reader, p, evagg.ID, pseudo.Week(s.clock.Now())))
	b, err := s.asks("driver", u.Key, mesh.Deck, ask.Deck, pending.Box)
	s.must(err)
	x.deck = must(pending.Finish(p, b))
}

// trip is one session to run, energies in mWh.
type trip struct {
	grid, res, home, export int64
	shown                   bool
	lock                    int64 // millionths
}

// visit is a session on its way.
type visit struct {
	x        *street
	host     *session.Host
	driver   *session.Driver
	auth     []byte
	settle   []byte
	cert     pseudo.Cert
	me       pseudo.Pseudonym
	pass     note.Pass
	end      time.Time // zero: now
	evidence *session.Evidence
	begin    time.Time
}

func (x *street) deal() (ev.Deal, []byte) {
	d := ev.Deal{Terms: ev.Terms{Price: ev.PerSource, PExport: 80_000, FeeSheet: must(x.fees.Hash())}, Grid: 320_000, Res: 180_000, Out: 260_000, Fee: x.fees, Minor: ev.MinorEUR}
	return d, must(d.Terms.Encode())
}

// drive runs a session up to its receipt.
func (x *street) drive(t trip) *visit {
	x.s.t.Helper()
	v := x.open(t)
	x.end(v, t)
	return v
}

// open runs a session up to the aggregator's yes.
func (x *street) open(t trip) *visit {
	s := x.s
	s.t.Helper()
	v, err := x.ask(t)
	s.must(err)
	if v.host.Phase() != session.Running {
		s.t.Fatalf("host is %v, driver: %v", v.host.Phase(), v.driver.Cause())
	}
	return v
}

// ask runs a session up to the aggregator's yes or no.
func (x *street) ask(t trip) (*visit, error) {
	s := x.s
	s.t.Helper()
	deal, terms := x.deal()
	pass := x.passes[0]
	x.passes = x.passes[1:]
	evagg := s.seenBy("home")
	env := s.places["home"].node.Env
	meterKey := must((&x.meter.PublicKey).Bytes())
	v := &visit{x: x, evidence: &session.Evidence{Salt: [32]byte{1}, MeterSalt: [32]byte{2}, MeterKey: meterKey, Terms: terms}, begin: s.clock.Now(), pass: pass}
	now := v.begin
	o := session.Offer{PassKey: pass.KeyID, MeterCommit: session.MeterCommit(v.evidence.MeterSalt, meterKey), Terms: must(deal.Terms.Hash()),
		PGrid: 320_000, PRes: 180_000, POut: 260_000, Currency: ask.Currency, MaxPower: 110, Expires: uint32(now.Add(50 * time.Minute).Unix())}
	if t.shown {
		o.Mode |= session.ModeShown
	}
	if t.home+t.export > 0 {
		o.Mode |= session.ModeDischarge
	}
	var out session.Out
	var err error
	v.host, out, err = session.NewHost(session.HostConfig{Net: env.Net, Suite: privacy.SuiteX25519, EVAGG: evagg.ID, EVAGGKey: evagg.Record}, pass.HSK, pass.Sig, o)
	s.must(err)
	me, err := x.deck.Take(now)
	s.must(err)
	v.cert, v.me = me.Cert, me
	_, _, amounts := x.bill(t)
	v.driver, out, err = session.NewDriver(session.DriverConfig{Net: env.Net, Suite: privacy.SuiteX25519, EVAGG: evagg.ID, EVAGGKey: evagg.Record, EVAGGBox: evagg.Box, Rand: rand.Reader,
		Fair: func(session.Tick) (int64, error) { return amounts.Owed, nil },
		Audit: func(_ session.Offer, r session.Record, _ *session.Evidence) (int64, error) {
			return settle.Pricer{Fees: x.fees}.Fee(r.Energy, true)
		}}, now, me, out.Send[0].Msg, 40)
	s.must(err)
	return v, x.deliver(v, out.Send)
}

func (x *street) bill(t trip) (session.Energy, ev.Flow, session.Amounts) {
	deal, _ := x.deal()
	flow := ev.Flow{To: 1, Grid: t.grid, Res: t.res, Home: t.home, Export: t.export}
	shares := must(ev.Split([]ev.Flow{flow}, deal))
	return session.Energy{Grid: t.grid, Res: t.res, Out: t.home + t.export}, flow,
		session.Amounts{Host: shares.Host, Owed: shares.HostOwes, Driver: shares.Driver, Fee: shares.Fee}
}

// end closes a session and hands it in.
func (x *street) end(v *visit, t trip) {
	s := x.s
	s.t.Helper()
	e, _, amounts := x.bill(t)
	begin, end := v.begin, s.clock.Now()
	if !v.end.IsZero() {
		end = v.end
	}
	v.evidence.Records = x.sign(v.driver.Code(), e, begin, end)
	out, err := v.host.Meter(end, e, amounts)
	s.must(err)
	s.must(x.deliver(v, out.Send))
	out, err = v.host.End(end, session.Ending{Energy: e, Amounts: amounts, Begin: begin, End: end, Evidence: v.evidence})
	s.must(err)
	s.must(x.deliver(v, out.Send))
	if v.host.Phase() != session.Done {
		s.t.Fatalf("host is %v", v.host.Phase())
	}
}

// sign makes the meter's begin and end records.
func (x *street) sign(code string, e session.Energy, begin, end time.Time) [][]byte {
	record := func(tx byte, at time.Time, in, out int64) []byte {
		x.page++
		read := func(obis string, v int64) ocmf.Reading {
			return ocmf.Reading{At: at.UnixMilli(), Sync: 'S', TX: tx, Value: ocmf.FormatEnergy(v), RI: obis, RU: "kWh", ST: "G"}
		}
		return must(ocmf.Sign(x.meter, ocmf.Payload{FV: "1.0", GI: "t", GS: "1", MS: "1", PG: ocmf.Page{Context: 'T', Number: x.page}, IS: true,
			IT: "CENTRAL", ID: code, RD: []ocmf.Reading{read("1-b:1.8.0", in), read("1-b:2.8.0", out)}}))
	}
	return [][]byte{record('B', begin, 1000, 2000), record('E', end, 1000+e.In(), 2000+e.Out)}
}

// deliver carries messages between host and driver, and to the aggregator by
// onion.
func (x *street) deliver(v *visit, sends []session.Send) error {
	for len(sends) > 0 {
		m := sends[0]
		sends = sends[1:]
		var out session.Out
		var err error
		now := x.s.clock.Now()
		switch m.To {
		case session.ToHost:
			out, err = v.host.Step(now, m.Msg)
		case session.ToDriver:
			out, err = v.driver.Step(now, m.Msg)
		case session.ToAggregator:
			var reply []byte
			if reply, err = x.hand(v, m.Msg); err == nil {
				out, err = v.host.Step(now, reply)
			}
		}
		if err != nil {
			return err
		}
		sends = append(sends, out.Send...)
	}
	return nil
}

// services say where a message of a kind goes.
func route(msg []byte) (mesh.Service, ask.Op) {
	switch privacy.Kind(msg[0]) {
	case privacy.KindAuthReq:
		return mesh.EVAuth, ask.Authorise
	case privacy.KindLock:
		return mesh.EVAuth, ask.Lock
	case privacy.KindSettle:
		return mesh.EVRecord, ask.Settle
	}
	return mesh.EVCollect, ask.Collect
}

func (x *street) hand(v *visit, msg []byte) ([]byte, error) {
	switch privacy.Kind(msg[0]) {
	case privacy.KindAuthReq:
		v.auth = msg
	case privacy.KindSettle:
		v.settle = msg
	}
	service, op := route(msg)
	return x.s.asks("home", x.s.seenBy("home").Key, service, op, msg)
}

// mintKeys fetches the month's keys with their proof, as wallets do.
func (x *street) mintKeys() {
	s := x.s
	s.t.Helper()
	ops := s.operators("home")
	evagg := s.seenBy("home")
	b, err := s.asks("home", evagg.Key, mesh.Notes, ask.Denoms, ask.DenomsBody(ask.Currency, 0))
	s.must(err)
	e, err := must(ask.ParseProven(b)).Open(must(ops.Policy()))
	s.must(err)
	x.month = must(ask.MonthOf(e, ask.Currency))
	x.purse = note.NewWallet([32]byte{3}, must(ops.Origin()))
}

// collect fetches what a session earned and checks its proof.
func (x *street) collect(v *visit) int64 {
	s := x.s
	s.t.Helper()
	due := v.host.Due(session.PartyHost)
	op := must(x.purse.Collect(x.month.Denoms, uint16(due/ev.MinorEUR)))
	rows := must(x.purse.Rows(op.ID, x.month.Denoms))
	c := must(v.host.Collect(session.PartyHost, x.month.Denoms.Epoch, *rows[0]))
	b, err := s.asks("home", s.seenBy("home").Key, mesh.EVCollect, ask.Collect, c.Bytes())
	s.must(err)
	got := must(session.ParseCollected(b))
	if got.Request != c.Hash(s.places["home"].node.Env.Net) {
		s.t.Errorf("the answer is to request %x", got.Request[:6])
	}
	shown, err := s.asks("home", s.seenBy("home").Key, mesh.EVCollect, ask.Issue, ask.IssueBody(got.Issue))
	s.must(err)
	policy := must(s.operators("home").Policy())
	e := must(must(ask.ParseProven(shown)).OpenAt(policy, got.Issue))
	s.must(settle.VerifyClaim(&got, uint32(due/ev.MinorEUR), e.Body().(*ledger.Issue)))
	if err := settle.VerifyClaim(&got, uint32(due/ev.MinorEUR)+1, e.Body().(*ledger.Issue)); !errors.Is(err, session.ErrEvidence) {
		s.t.Errorf("a cent more is proved as well: %v", err)
	}
	if _, err := must(ask.ParseProven(shown)).OpenAt(policy, got.Issue+1); !errors.Is(err, ask.ErrBody) {
		s.t.Errorf("the entry passes for the one after it: %v", err)
	}
	if err := refusedWith(lastOf(s.asks("home", s.seenBy("home").Key, mesh.EVCollect, ask.Issue, ask.IssueBody(0)))); err != nil {
		s.t.Errorf("an entry of another kind: %v", err)
	}
	s.must(x.purse.Finish(op.ID, x.month.Denoms, []*note.Row{&got.Row}))
	return due
}

// swap exchanges every note of the home for full steps and a rest.
func (x *street) swap() {
	s := x.s
	s.t.Helper()
	op := must(x.purse.Swap(s.clock.Now(), x.month.Denoms, 0, uint32(ledger.EarnedAccount(0))))
	r := must(x.purse.SwapRequest(op.ID, x.month.Denoms))
	b, err := s.asks("home", s.seenBy("home").Key, mesh.Notes, ask.Swap, r.Bytes())
	s.must(err)
	s.must(x.purse.Finish(op.ID, x.month.Denoms, must(note.ParseRowsReply(b))))
}

// entryOf reads an entry of the aggregator's ledger.
func (s *scene) entryOf(index uint64) (*ledger.Entry, error) {
	p, err := s.evagg().Proof(index)
	if err != nil {
		return nil, err
	}
	raw, err := s.utility("utility-a").Party().Entry(index)
	if err != nil {
		return nil, err
	}
	e, err := ledger.Parse(raw)
	if err != nil {
		return nil, err
	}
	_, err = p.Verify(must(s.operators("home").Policy()), e.Leaf())
	return e, err
}

// kinds counts the ledger's entries.
func (s *scene) kinds() map[ledger.Kind]int {
	out := map[ledger.Kind]int{}
	var size uint64
	s.evagg().Read(func(st *ledger.State) { size = st.Size() })
	for i := range size {
		raw, err := s.evagg().Entry(i)
		if err != nil {
			s.t.Fatal(err)
		}
		e, err := ledger.Parse(raw)
		if err != nil {
			s.t.Fatal(err)
		}
		out[e.Kind()]++
	}
	return out
}

// refusedWith wants a refusal.
func refusedWith(err error) error {
	var no *ask.RefusedError
	if !errors.As(err, &no) {
		return fmt.Errorf("got %v, want a refusal", err)
	}
	return nil
}
