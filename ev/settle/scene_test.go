package settle_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudflare/circl/group"

	"gridveil/ev"
	"gridveil/ev/ocmf"
	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/privacy"
	"gridveil/privacy/note"
	"gridveil/privacy/pseudo"
	"gridveil/privacy/session"
)

const (
	origin = "settle.test/ledger"
	euro   = 978
	suite  = privacy.SuiteX25519
	bucket = time.Hour
	evagg  = ledger.PartyID(1)
	uta    = ledger.PartyID(2)
	utb    = ledger.PartyID(3)
)

var (
	netID = privacy.Net{'s', 'e', 't', 't', 'l', 'e'}
	start = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

	// RSA keys take seconds: one set for all tests.
	mint     = sync.OnceValues(func() (*note.Mint, error) { return note.NewMint(euro, note.Epoch(start)) })
	passMint = sync.OnceValues(func() (*note.PassMint, error) { return note.NewPassMint(3, pseudo.Week(start)) })

	fees = ev.FeeSheet{Currency: euro, PerKWhIn: 15_000, PerKWhOut: 15_000}
)

// memory is a Store that can be made to fail at its n-th commit.
type memory struct {
	m      map[string][]byte
	failAt int // commits from now; 0 never
}

func (s *memory) Get(key []byte) []byte { return bytes.Clone(s.m[string(key)]) }

func (s *memory) Scan(prefix []byte, each func(key, value []byte) bool) error {
	for _, k := range slices.Sorted(maps.Keys(s.m)) {
		if strings.HasPrefix(k, string(prefix)) && !each([]byte(k), bytes.Clone(s.m[k])) {
			return nil
		}
	}
	return nil
}

var errCrash = errors.New("disk gone")

func (s *memory) Commit(writes []settle.Write) error {
	if s.failAt > 0 {
		if s.failAt--; s.failAt == 0 {
			return errCrash
		}
	}
	for _, w := range writes {
		if w.Value == nil {
			delete(s.m, string(w.Key))
			continue
		}
		s.m[string(w.Key)] = bytes.Clone(w.Value)
	}
	return nil
}

// scene is a small ledger with an aggregator's desk, a host and drivers.
type scene struct {
	t       *testing.T
	now     time.Time
	rnd     io.Reader
	desk    *settle.Desk
	cfg     settle.Config
	store   *memory
	state   *ledger.State
	keys    map[ledger.PartyID]ed25519.PrivateKey
	sent    map[[32]byte]uint64 // the poster's memory: order -> index
	issues  map[uint64]*ledger.Issue
	total   map[ledger.Kind]int
	issuer  *pseudo.Issuer
	book    *book
	deck    *pseudo.Deck
	box     privacy.BoxKey
	issuers pseudo.IssuerKeys
	passes  []note.Pass
	meter   *ecdsa.PrivateKey
	page    uint64
	wallet  *note.Wallet // of the host
	purse   *note.Wallet // of the driver
	reject  func(session.Line) session.RejectCode
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func newScene(t *testing.T, seed uint64) *scene {
	t.Helper()
	var b [32]byte
	b[0] = byte(seed)
	s := &scene{t: t, now: start, rnd: mathrand.NewChaCha8(b), store: &memory{m: map[string][]byte{}}, state: ledger.New(origin),
		keys: map[ledger.PartyID]ed25519.PrivateKey{}, sent: map[[32]byte]uint64{}, issues: map[uint64]*ledger.Issue{}, total: map[ledger.Kind]int{},
		issuers: pseudo.IssuerKeys{}, wallet: note.NewWallet([32]byte{1, byte(seed)}, origin), purse: note.NewWallet([32]byte{2, byte(seed)}, origin)}
	var err error
	s.box, err = privacy.NewBoxKey(s.rnd, suite)
	s.must(err)
	s.meter, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	s.genesis()
	s.enrol()
	s.openDesk()
	return s
}

func (s *scene) key() ed25519.PrivateKey {
	k, err := privacy.NewKey(s.rnd)
	s.must(err)
	return k
}

func pub(k ed25519.PrivateKey) [32]byte { return [32]byte(k.Public().(ed25519.PublicKey)) }

// genesis starts the ledger with three parties and the month's mint keys.
func (s *scene) genesis() {
	p := ledger.DefaultParams()
	p.BucketMs, p.MinBatch, p.MaxWait = uint64(bucket.Milliseconds()), 2, 3
	g := &ledger.Genesis{Rules: 1, Origin: origin, Network: "settletest", Params: p, Currencies: []ledger.Currency{{ISO4217: euro, Exp: 2}}}
	roles := []ledger.Role{ledger.Aggregator, ledger.Utility, ledger.Utility}
	for i, role := range roles {
		id := ledger.PartyID(i + 1)
		s.keys[id] = s.key()
		g.Parties = append(g.Parties, ledger.Party{Party: id, Role: role, Approver: id == uta, Limit: 1_000_000_000, Name: fmt.Sprint("party ", id), Pub: pub(s.keys[id])})
	}
	s.post(g, s.keys[evagg], s.keys[uta], s.keys[utb])
	s.tick()
	m, err := mint()
	s.must(err)
	_, redeemTo, swapTo := note.Windows(note.Epoch(start))
	d := &ledger.Denoms{Epoch: note.Epoch(start), IssueTo: uint64(redeemTo.UnixMilli()) - 1, RedeemTo: uint64(redeemTo.UnixMilli()), SwapTo: uint64(swapTo.UnixMilli())}
	for i, k := range m.Denoms().Keys {
		d.Keys = append(d.Keys, ledger.DenomKey{Minor: 1 << i, N: k.Modulus()})
	}
	s.post(d, s.keys[evagg])
}

// post enters a body and returns its index.
func (s *scene) post(body ledger.Body, signers ...ed25519.PrivateKey) uint64 {
	s.t.Helper()
	index, err := s.try(body, signers...)
	s.must(err)
	return index
}

func (s *scene) try(body ledger.Body, signers ...ed25519.PrivateKey) (uint64, error) {
	e, err := ledger.NewEntry(evagg, s.state.NextSeq(evagg), body)
	if err != nil {
		return 0, err
	}
	if err := ledger.Sign(e, origin, signers...); err != nil {
		return 0, err
	}
	index := s.state.Size()
	e, err = ledger.Parse(e.Bytes())
	if err != nil {
		return 0, err
	}
	checks, err := s.state.Checks(e)
	if err == nil {
		err = ledger.VerifyOne(checks)
	}
	if err == nil {
		_, err = s.state.Apply(e)
	}
	if err == nil {
		s.total[body.Kind()]++
	}
	return index, err
}

func (s *scene) tick() { s.post(s.state.NextTick(uint64(s.now.UnixMilli())), s.keys[evagg]) }

// pass moves time on and ticks the ledger.
func (s *scene) pass(d time.Duration) {
	s.now = s.now.Add(d)
	s.tick()
}

// book is the utility's memory of what it issued.
type book struct {
	contract pseudo.Contract
	rows     map[[32]byte]session.Row
}

func (b *book) Contract([16]byte) (pseudo.Contract, bool)             { return b.contract, true }
func (b *book) Batch([16]byte, uint32, [16]byte) (pseudo.Batch, bool) { return pseudo.Batch{}, false }
func (b *book) HasBillKey(bpk [32]byte) bool                          { _, ok := b.rows[bpk]; return ok }
func (b *book) Row(bpk [32]byte) (session.Row, bool)                  { r, ok := b.rows[bpk]; return r, ok }

// enrol gives the driver a deck and the host its passes.
func (s *scene) enrol() {
	committee, err := group.Ristretto255.HashToElement([]byte("Y"), []byte("test")).MarshalBinaryCompress()
	s.must(err)
	issueBox, err := privacy.NewBoxKey(s.rnd, suite)
	s.must(err)
	lk := s.key()
	s.book = &book{contract: pseudo.Contract{Kind: pseudo.Driver, LK: pub(lk), Arg: 80, Deck: 16, Active: true}, rows: map[[32]byte]session.Row{}}
	s.issuer = &pseudo.Issuer{Net: netID, ID: [16]byte{'u', 't', 'b'}, Key: s.key(), Box: issueBox, Committee: [32]byte(committee), Book: s.book}
	s.must(s.issuers.Add(s.issuer.ID, pub(s.issuer.Key)))
	p := pseudo.Profile{Net: netID, Kind: pseudo.Driver, Contract: [16]byte{'c'}, LK: lk, Arg: 80, Deck: 16, Issuer: s.issuer.ID,
		IssuerKey: pub(s.issuer.Key), Suite: suite, IssueBox: issueBox.Pub}
	pending, err := pseudo.NewBatch(s.rnd, p, [16]byte{'e', 'v'}, pseudo.Week(s.now))
	s.must(err)
	issued, err := s.issuer.Issue(s.rnd, privacy.KindBatchReq, pending.Box, s.now)
	s.must(err)
	for _, r := range issued.Rows {
		s.book.rows[r.BPK] = session.Row{Epoch: r.Epoch, Limit: 80}
	}
	s.deck, err = pending.Finish(p, issued.Batch.Answer)
	s.must(err)
	m, err := passMint()
	s.must(err)
	slots, err := note.RequestPasses([32]byte{'h'}, m.Public())
	s.must(err)
	signed, err := m.Sign(slots)
	s.must(err)
	s.passes, err = note.FinishPasses([32]byte{'h'}, m.Public(), signed)
	s.must(err)
}

func (s *scene) openDesk() {
	m, err := mint()
	s.must(err)
	pm, err := passMint()
	s.must(err)
	registry := &note.Registry{}
	registry.Add(m.Denoms())
	sheet, err := fees.Hash()
	s.must(err)
	s.cfg = settle.Config{
		Session: session.SettlerConfig{Net: netID, ID: [16]byte{'e', 'v'}, Key: s.keys[evagg], Boxes: []privacy.BoxKey{s.box}, Issuers: s.issuers,
			Revoked: func([16]byte, [32]byte, uint32) bool { return false },
			Pass: func(_ [8]byte, hpk [32]byte, sig [session.PassSize]byte, _ time.Time) error {
				return note.VerifyPass(pm.Public(), hpk, sig)
			},
			Fee:     session.FeeTerms{PerKWhIn: uint32(fees.PerKWhIn), PerKWhOut: uint32(fees.PerKWhOut), Sheet: sheet},
			AuthFor: 24 * time.Hour, Rand: s.rnd},
		Pricer:     settle.Pricer{Fees: fees},
		Currencies: []ledger.Currency{{ISO4217: euro, Exp: 2}},
		Party:      func(id [16]byte) (ledger.PartyID, bool) { return utb, id == s.issuer.ID },
		Mint: func(currency uint16, month uint32) *note.Mint {
			if currency == euro && month == note.Epoch(start) {
				return m
			}
			return nil
		},
		Registry: registry, Origin: origin, Store: s.store, ReleaseAfter: bucket, Rand: s.rnd,
	}
	s.desk, err = settle.Open(s.cfg)
	s.must(err)
}

// restart forgets everything that was not committed.
func (s *scene) restart() {
	var err error
	s.desk, err = settle.Open(s.cfg)
	s.must(err)
}

// sync lets the desk and the ledger do all that they can: plan, post, settle
// with the utility's signature, become final.
func (s *scene) sync() {
	s.t.Helper()
	for range 10 {
		before := s.state.Size()
		orders, err := s.desk.Plan(s.now, s.state)
		s.must(err)
		for _, o := range orders {
			s.carry(o)
		}
		s.must(s.desk.Final(s.now, s.state.Size()))
		if s.state.Size() == before && len(orders) == 0 {
			return
		}
	}
	s.t.Fatal("desk and ledger do not come to rest")
}

// carry posts one order, once, as the aggregator's poster does.
func (s *scene) carry(o settle.Order) {
	s.t.Helper()
	signers := []ed25519.PrivateKey{s.keys[evagg]}
	if o.Payer != 0 {
		rejects, err := settle.Countersign(s.biller(), o.Batch, o.Body.(*ledger.Settle), utb, euro)
		s.must(err)
		if len(rejects) > 0 {
			s.must(s.desk.Rejected(o.ID, pub(s.keys[utb]), rejects))
			return
		}
		signers = append(signers, s.keys[utb])
	}
	index, done := s.sent[o.ID]
	if !done {
		var err error
		if index, err = s.try(o.Body, signers...); err != nil {
			s.must(s.desk.Refused(o.ID, err))
			return
		}
		s.sent[o.ID] = index
	}
	if body, ok := o.Body.(*ledger.Issue); ok {
		s.issues[index] = body
	}
	s.must(s.desk.Posted(o.ID, index))
}

func (s *scene) biller() *session.Biller {
	return &session.Biller{Net: netID, EVAGG: [16]byte{'e', 'v'}, Key: pub(s.keys[evagg]), Sign: s.keys[utb], Row: func(bpk [32]byte) (session.Row, bool) {
		r, ok := s.book.Row(bpk)
		if s.reject != nil && s.reject(session.Line{BPK: bpk}) != 0 {
			r.Billed = true
		}
		return r, ok
	}}
}

// balances are the totals of the ledger: utb, uta, evagg, earned, notes.
func (s *scene) balances() [5]int64 {
	return [5]int64{s.state.Total(utb, 0), s.state.Total(uta, 0), s.state.Total(evagg, 0),
		s.state.Balance(ledger.EarnedAccount(0)), s.state.Balance(ledger.NotesAccount(0))}
}

// plan is one session to run.
type plan struct {
	in, res, home, export int64 // mWh: grid in, roof in, out to the house, out to the grid
	shown                 bool
	lock                  int64 // millionths
	spoil                 func(*session.Evidence)
}

// visitor is a finished session.
type visitor struct {
	host   *session.Host
	driver *session.Driver
	settle []byte
	lock   []byte
}

// terms of the example in the ev design, 4.5.
func (s *scene) deal() (ev.Deal, []byte) {
	sheet, err := fees.Hash()
	s.must(err)
	d := ev.Deal{Terms: ev.Terms{Price: ev.PerSource, PExport: 80_000, FeeSheet: sheet}, Grid: 320_000, Res: 180_000, Out: 260_000, Fee: fees, Minor: ev.MinorEUR}
	b, err := d.Terms.Encode()
	s.must(err)
	return d, b
}

// run drives one session through the desk, up to the receipt.
func (s *scene) run(p plan) visitor {
	s.t.Helper()
	g, err := s.tryRun(p)
	s.must(err)
	return g
}

func (s *scene) tryRun(p plan) (visitor, error) {
	s.t.Helper()
	deal, terms := s.deal()
	pass := s.passes[0]
	s.passes = s.passes[1:]
	meterKey, err := (&s.meter.PublicKey).Bytes()
	s.must(err)
	e := session.Energy{Grid: p.in, Res: p.res, Out: p.home + p.export}
	flow := ev.Flow{To: 1, Grid: p.in, Res: p.res, Home: p.home, Export: p.export}
	shares, err := ev.Split([]ev.Flow{flow}, deal)
	s.must(err)
	amounts := session.Amounts{Host: shares.Host, Owed: shares.HostOwes, Driver: shares.Driver, Fee: shares.Fee}
	v := &session.Evidence{Salt: [32]byte{1}, MeterSalt: [32]byte{2}, MeterKey: meterKey, Terms: terms}
	hash, err := deal.Terms.Hash()
	s.must(err)
	o := session.Offer{PassKey: must(passMint()).Public().ID(), MeterCommit: session.MeterCommit(v.MeterSalt, meterKey), Terms: hash,
		PGrid: 320_000, PRes: 180_000, POut: 260_000, Currency: euro, MaxPower: 110, Expires: uint32(s.now.Add(10 * time.Minute).Unix())}
	if p.shown {
		o.Mode |= session.ModeShown
	}
	if e.Out > 0 {
		o.Mode |= session.ModeDischarge
	}
	host, out, err := session.NewHost(session.HostConfig{Net: netID, Suite: suite, EVAGG: [16]byte{'e', 'v'}, EVAGGKey: pub(s.keys[evagg])}, pass.HSK, pass.Sig, o)
	s.must(err)
	me, err := s.deck.Take(s.now)
	s.must(err)
	driver, dout, err := session.NewDriver(session.DriverConfig{Net: netID, Suite: suite, EVAGG: [16]byte{'e', 'v'}, EVAGGKey: pub(s.keys[evagg]),
		EVAGGBox: s.box.Pub, Rand: s.rnd, Fair: func(session.Tick) (int64, error) { return amounts.Owed, nil },
		Audit: func(_ session.Offer, r session.Record, _ *session.Evidence) (int64, error) {
			return s.cfg.Pricer.Fee(r.Energy, true)
		}},
		s.now, me, out.Send[0].Msg, 10)
	s.must(err)
	g := visitor{host: host, driver: driver}
	if err := s.deliver(&g, dout.Send); err != nil {
		return g, err
	}
	if host.Phase() != session.Running {
		return g, fmt.Errorf("host is %v", host.Phase())
	}
	if p.lock > 0 {
		s.locks(&g, p.lock)
	}
	begin := s.now
	s.pass(30 * time.Minute)
	v.Records = s.sign(driver.Code(), e, begin)
	if p.spoil != nil {
		p.spoil(v)
	}
	out, err = host.Meter(s.now, e, amounts)
	s.must(err)
	s.must(s.deliver(&g, out.Send))
	out, err = host.End(s.now, session.Ending{Energy: e, Amounts: amounts, Begin: begin, End: s.now, Evidence: v})
	s.must(err)
	return g, s.deliver(&g, out.Send)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// sign makes the begin and end records of a session.
func (s *scene) sign(code string, e session.Energy, begin time.Time) [][]byte {
	record := func(tx byte, at time.Time, in, out int64) []byte {
		s.page++
		read := func(obis string, v int64) ocmf.Reading {
			return ocmf.Reading{At: at.UnixMilli(), Sync: 'S', TX: tx, Value: ocmf.FormatEnergy(v), RI: obis, RU: "kWh", ST: "G"}
		}
		b, err := ocmf.Sign(s.meter, ocmf.Payload{FV: "1.0", GI: "t", GS: "1", MS: "1", PG: ocmf.Page{Context: 'T', Number: s.page}, IS: true,
			IT: "CENTRAL", ID: code, RD: []ocmf.Reading{read("1-b:1.8.0", in), read("1-b:2.8.0", out)}})
		s.must(err)
		return b
	}
	return [][]byte{record('B', begin, 1000, 2000), record('E', s.now, 1000+e.In(), 2000+e.Out)}
}

// deliver carries messages between host, driver and desk until none is left.
func (s *scene) deliver(g *visitor, sends []session.Send) error {
	s.t.Helper()
	for len(sends) > 0 {
		m := sends[0]
		sends = sends[1:]
		var out session.Out
		var err error
		switch m.To {
		case session.ToHost:
			out, err = g.host.Step(s.now, m.Msg)
		case session.ToDriver:
			out, err = g.driver.Step(s.now, m.Msg)
		case session.ToAggregator:
			if privacy.Kind(m.Msg[0]) == privacy.KindSettle {
				g.settle = m.Msg
			}
			reply, err := s.desk.Take(s.now, m.Msg)
			if err != nil {
				return err
			}
			out, err = g.host.Step(s.now, reply)
			if err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		sends = append(sends, out.Send...)
	}
	return nil
}

// locks puts notes behind what the host may owe.
func (s *scene) locks(g *visitor, value int64) {
	s.t.Helper()
	name := g.host.Session()
	op, err := s.wallet.Spend(s.now, euro, uint16(value/ev.MinorEUR), uint32(ledger.EarnedAccount(0)), name[:])
	s.must(err)
	notes, err := s.wallet.Spends(op.ID)
	s.must(err)
	out, err := g.host.Lock(value, note.Payment{Salt: op.Salt, Notes: notes})
	s.must(err)
	g.lock = out.Send[0].Msg
	if _, err := s.desk.Take(s.now, g.lock); !errors.Is(err, settle.ErrWait) {
		s.t.Fatalf("lock before its redeem is final: got %v, want ErrWait", err)
	}
	s.sync()
	receipt, err := s.desk.Take(s.now, g.lock)
	s.must(err)
	out, err = g.host.Step(s.now, receipt)
	s.must(err)
	s.must(s.deliver(g, out.Send))
	s.must(s.wallet.Done(op.ID))
	if g.host.Locked() != value {
		s.t.Fatalf("locked: got %d, want %d", g.host.Locked(), value)
	}
}

// collect fetches a party's notes into its wallet and checks the proof.
func (s *scene) collect(g visitor, party session.Party) int64 {
	s.t.Helper()
	m := must(mint())
	due, w := g.host.Due(party), s.wallet
	if party == session.PartyDriver {
		due, w = g.driver.Due(), s.purse
	}
	op, err := w.Collect(m.Denoms(), uint16(due/ev.MinorEUR))
	s.must(err)
	rows, err := w.Rows(op.ID, m.Denoms())
	s.must(err)
	var msg []byte
	if party == session.PartyDriver {
		msg, err = g.driver.Collect(party, note.Epoch(start), *rows[0])
		s.must(err)
	} else {
		c, err := g.host.Collect(party, note.Epoch(start), *rows[0])
		s.must(err)
		msg = c.Bytes()
	}
	reply, err := s.desk.Take(s.now, msg)
	if errors.Is(err, settle.ErrWait) {
		s.sync()
		reply, err = s.desk.Take(s.now, msg)
	}
	s.must(err)
	again, err := s.desk.Take(s.now, msg)
	if err != nil || !bytes.Equal(reply, again) {
		s.t.Errorf("a repeated collect got another answer: %v", err)
	}
	var got session.Collected
	if party == session.PartyDriver {
		got, err = g.driver.OpenCollected(reply)
	} else {
		got, err = session.ParseCollected(reply)
	}
	s.must(err)
	s.must(settle.VerifyClaim(&got, uint32(due/ev.MinorEUR), s.issues[got.Issue]))
	if settle.VerifyClaim(&got, uint32(due/ev.MinorEUR)+1, s.issues[got.Issue]) == nil {
		s.t.Error("the proof also covers another amount")
	}
	s.must(w.Finish(op.ID, m.Denoms(), []*note.Row{&got.Row}))
	return due
}

// swap exchanges the host's notes so that want can be paid exactly.
func (s *scene) swap(want uint16) {
	s.t.Helper()
	m := must(mint())
	op, err := s.wallet.Swap(s.now, m.Denoms(), want, uint32(ledger.EarnedAccount(0)))
	s.must(err)
	r, err := s.wallet.SwapRequest(op.ID, m.Denoms())
	s.must(err)
	if _, err := s.desk.Take(s.now, r.Bytes()); !errors.Is(err, settle.ErrWait) {
		s.t.Fatalf("swap: got %v, want ErrWait", err)
	}
	s.sync()
	s.pass(bucket) // the next issue of a small batch is due in the next bucket
	s.sync()
	reply, err := s.desk.Take(s.now, r.Bytes())
	s.must(err)
	rows, err := note.ParseRowsReply(reply)
	s.must(err)
	s.must(s.wallet.Finish(op.ID, m.Denoms(), rows))
}
