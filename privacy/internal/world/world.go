// Package world runs whole guest sessions between simulated parties in memory
// and records what each party gets to see, so that claims about privacy can be
// tested on the real protocol code: who could tell two drivers apart, where a
// marker turns up, what a utility still holds after issuing.
//
// A World has one aggregator, utilities with drivers, and homes in one zone.
// Every party's View holds each message as the party can read it: opened, and
// cut into its fields. All randomness except RSA keys comes from one seed.
//
// Start with New, World.Session and View. For tests only.
package world

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/committee"
	"gridveil/privacy/note"
	"gridveil/privacy/pseudo"
	"gridveil/privacy/session"
)

// Net is the simulated network.
var Net = privacy.Net{'w', 'o', 'r', 'l', 'd'}

// Start is when every world begins: a Wednesday noon.
var Start = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// Origin and Payee are the ledger that notes are spent on, and the aggregator's
// account there.
const (
	Origin = "world"
	Payee  = 1
)

// Currency of every world: euro.
const Currency = 978

// suite of the simulated network.
const suite = privacy.SuiteX25519

// Terms of every host, so that no host stands out by its prices.
var Terms = []byte("terms of the house")

// passMint signs host passes of the zone; generated once per process.
var passMint = sync.OnceValues(func() (*note.PassMint, error) { return note.NewPassMint(3, pseudo.Week(Start)) })

// Mint is the aggregator's mint of the month; its 13 RSA keys take seconds, so
// that only worlds about money ask for it.
var Mint = sync.OnceValues(func() (*note.Mint, error) { return note.NewMint(Currency, note.Epoch(Start)) })

// Config sizes a world.
type Config struct {
	Seed      string
	Utilities int // default 1
	Drivers   int // contracts, dealt to the utilities in turn
	Homes     int
	Deck      int // pseudonyms per driver, default 4
}

// World is the simulated neighbourhood.
type World struct {
	Now       time.Time
	EVAGG     *Aggregator
	Utilities []*Utility
	Drivers   []*Driver
	Homes     []*Home
	Issuers   pseudo.IssuerKeys
	Committee committee.Public
	Seats     [committee.Seats]committee.Share
	rnd       io.Reader
	views     map[string]*View
}

// New builds a world. Randomness comes from cfg.Seed.
func New(cfg Config) (*World, error) {
	if cfg.Utilities == 0 {
		cfg.Utilities = 1
	}
	if cfg.Deck == 0 {
		cfg.Deck = 4
	}
	w := &World{Now: Start, rnd: privacy.SeededReader("gridveil world", []byte(cfg.Seed)), Issuers: pseudo.IssuerKeys{}, views: map[string]*View{}}
	var err error
	if w.Committee, w.Seats, err = committee.Deal(w.rnd); err != nil {
		return nil, err
	}
	for i := range cfg.Utilities {
		u, err := w.newUtility(i, w.Committee.Y)
		if err != nil {
			return nil, err
		}
		w.Utilities = append(w.Utilities, u)
	}
	if w.EVAGG, err = w.newAggregator(); err != nil {
		return nil, err
	}
	for i := range cfg.Homes {
		h, err := w.newHome(i)
		if err != nil {
			return nil, err
		}
		w.Homes = append(w.Homes, h)
	}
	for i := range cfg.Drivers {
		d, err := w.newDriver(i, w.Utilities[i%cfg.Utilities], cfg.Deck)
		if err != nil {
			return nil, err
		}
		w.Drivers = append(w.Drivers, d)
	}
	return w, nil
}

// View gives what a party saw, by name: "ua0" (home 0's gateway), "ub0" (driver
// 0's wallet), "utb0" (utility 0), "evagg".
func (w *World) View(party string) *View {
	v := w.views[party]
	if v == nil {
		v = &View{}
		w.views[party] = v
	}
	return v
}

// Parties lists who has a view.
func (w *World) Parties() []string {
	var out []string
	for p := range w.views {
		out = append(out, p)
	}
	return out
}

func (w *World) bytes16(label string) (b [16]byte, err error) {
	copy(b[:], label)
	_, err = io.ReadFull(w.rnd, b[len(label):])
	return b, err
}

// pub is the public half as an array.
func pub(k ed25519.PrivateKey) [32]byte { return [32]byte(k.Public().(ed25519.PublicKey)) }

// Utility is a driver's utility Utb.
type Utility struct {
	w      *World
	Name   string
	ID     [16]byte
	Issuer *pseudo.Issuer
	Sign   ed25519.PrivateKey
	Box    privacy.BoxKey // bill key of the month
	Store  map[string][]byte
	billed map[[32]byte]bool
}

func (w *World) newUtility(i int, committee [32]byte) (*Utility, error) {
	u := &Utility{w: w, Name: fmt.Sprintf("utb%d", i), Store: map[string][]byte{}, billed: map[[32]byte]bool{}}
	copy(u.ID[:], u.Name)
	key, err := privacy.NewKey(w.rnd)
	if err != nil {
		return nil, err
	}
	issue, err := privacy.NewBoxKey(w.rnd, suite)
	if err != nil {
		return nil, err
	}
	if u.Box, err = privacy.NewBoxKey(w.rnd, suite); err != nil {
		return nil, err
	}
	if u.Sign, err = privacy.NewKey(w.rnd); err != nil {
		return nil, err
	}
	u.Issuer = &pseudo.Issuer{Net: Net, ID: u.ID, Key: key, Box: issue, Committee: committee, Book: u}
	return u, w.Issuers.Add(u.ID, pub(key))
}

// Contract, Batch and HasBillKey make the utility its issuer's book.
func (u *Utility) Contract(h [16]byte) (pseudo.Contract, bool) {
	b := u.Store["contract"+string(h[:])]
	if b == nil {
		return pseudo.Contract{}, false
	}
	return pseudo.Contract{Kind: pseudo.Driver, LK: [32]byte(b), Arg: binary.BigEndian.Uint16(b[32:]), Deck: int(b[34]), Active: true}, true
}

// Batch reads an issued batch.
func (u *Utility) Batch(h [16]byte, epoch uint32, audience [16]byte) (pseudo.Batch, bool) {
	b := u.Store[batchKey(h, epoch, audience)]
	if b == nil {
		return pseudo.Batch{}, false
	}
	return pseudo.Batch{Request: [32]byte(b), Answer: b[32:], Until: u.w.Now.Add(pseudo.AnswerKept)}, true
}

func batchKey(h [16]byte, epoch uint32, audience [16]byte) string {
	return fmt.Sprintf("batch%s%d%s", h[:], epoch, audience[:])
}

// HasBillKey says whether a row stands for bpk.
func (u *Utility) HasBillKey(bpk [32]byte) bool { return u.Store["row"+string(bpk[:])] != nil }

// Row is session.Biller.Row.
func (u *Utility) Row(bpk [32]byte) (session.Row, bool) {
	b := u.Store["row"+string(bpk[:])]
	if b == nil {
		return session.Row{}, false
	}
	c, _ := u.Contract([16]byte(b[4:]))
	return session.Row{Epoch: binary.BigEndian.Uint32(b), Limit: c.Arg, Billed: u.billed[bpk]}, true
}

// issue answers one batch request, storing what the design says and no more.
func (u *Utility) issue(box []byte) ([]byte, error) {
	issued, err := u.Issuer.Issue(u.w.rnd, privacy.KindBatchReq, box, u.w.Now)
	if err != nil {
		return nil, err
	}
	u.Store[batchKey(issued.Contract, issued.Epoch, issued.Audience)] = append(issued.Batch.Request[:], issued.Batch.Answer...)
	v := u.w.View(u.Name)
	v.Note("deck", Fixed("contract", issued.Contract[:]), Number("epoch", int64(issued.Epoch)))
	for _, r := range issued.Rows {
		u.Store["row"+string(r.BPK[:])] = append(binary.BigEndian.AppendUint32(nil, r.Epoch), r.Contract[:]...)
		v.Note("row", Fixed("contract", r.Contract[:]), Random("bpk", r.BPK[:]))
	}
	return issued.Batch.Answer, nil
}

// ForgetAnswers is what the utility's store does a day later: stored answers go.
func (u *Utility) ForgetAnswers() {
	for k, v := range u.Store {
		if len(k) > 5 && k[:5] == "batch" {
			u.Store[k] = v[:32]
		}
	}
}

// Driver is a driver Ub with a wallet.
type Driver struct {
	w        *World
	Name     string
	Utility  *Utility
	Contract [16]byte
	LK       ed25519.PrivateKey
	Deck     *pseudo.Deck
	Wallet   *note.Wallet
}

func (w *World) newDriver(i int, u *Utility, deck int) (*Driver, error) {
	d := &Driver{w: w, Name: fmt.Sprintf("ub%d", i), Utility: u}
	var err error
	if d.Contract, err = w.bytes16("ctr"); err != nil {
		return nil, err
	}
	if d.LK, err = privacy.NewKey(w.rnd); err != nil {
		return nil, err
	}
	lk := pub(d.LK)
	u.Store["contract"+string(d.Contract[:])] = append(binary.BigEndian.AppendUint16(lk[:], 80), byte(deck))
	var seed [32]byte
	if _, err := io.ReadFull(w.rnd, seed[:]); err != nil {
		return nil, err
	}
	d.Wallet = note.NewWallet(seed, Origin)
	return d, d.fetch(deck)
}

// fetch gets the deck of the week.
func (d *Driver) fetch(deck int) error {
	p := pseudo.Profile{Net: Net, Kind: pseudo.Driver, Contract: d.Contract, LK: d.LK, Arg: 80, Deck: deck, Issuer: d.Utility.ID,
		IssuerKey: pub(d.Utility.Issuer.Key), Suite: suite, IssueBox: d.Utility.Issuer.Box.Pub}
	pending, err := pseudo.NewBatch(d.w.rnd, p, d.w.EVAGG.ID, pseudo.Week(d.w.Now))
	if err != nil {
		return err
	}
	answer, err := d.Utility.issue(pending.Box)
	if err != nil {
		return err
	}
	d.Deck, err = pending.Finish(p, answer)
	return err
}

// Home is a host's house Ua.
type Home struct {
	w      *World
	Name   string
	passes []note.Pass
	Meter  ed25519.PrivateKey
	Wallet *note.Wallet
}

func (w *World) newHome(i int) (*Home, error) {
	h := &Home{w: w, Name: fmt.Sprintf("ua%d", i)}
	var seed [32]byte
	if _, err := io.ReadFull(w.rnd, seed[:]); err != nil {
		return nil, err
	}
	var err error
	if h.passes, err = passesOf(i); err != nil {
		return nil, err
	}
	if h.Meter, err = privacy.NewKey(w.rnd); err != nil {
		return nil, err
	}
	h.Wallet = note.NewWallet(seed, Origin)
	return h, nil
}

// made holds each home's passes: 16 blind signatures take longer than all else
// in a world, and a world uses each only once.
var made sync.Map // home index -> []note.Pass

func passesOf(home int) ([]note.Pass, error) {
	if p, ok := made.Load(home); ok {
		return p.([]note.Pass), nil
	}
	mint, err := passMint()
	if err != nil {
		return nil, err
	}
	seed := [32]byte{'p', 'a', 's', 's', byte(home), byte(home >> 8)}
	slots, err := note.RequestPasses(seed, mint.Public())
	if err != nil {
		return nil, err
	}
	signed, err := mint.Sign(slots)
	if err != nil {
		return nil, err
	}
	p, err := note.FinishPasses(seed, mint.Public(), signed)
	if err != nil {
		return nil, err
	}
	made.Store(home, p)
	return p, nil
}

// takePass gives a pass that was not used.
func (h *Home) takePass() (note.Pass, error) {
	if len(h.passes) == 0 {
		return note.Pass{}, fmt.Errorf("%s has no pass left", h.Name)
	}
	p := h.passes[0]
	h.passes = h.passes[1:]
	return p, nil
}

// Aggregator is EVAGG.
type Aggregator struct {
	w       *World
	ID      [16]byte
	Key     ed25519.PrivateKey
	Box     privacy.BoxKey
	Settler *session.Settler
	Store   map[string][]byte
	Booked  []*session.Settled
	Revoked map[[32]byte]bool
	Issued  int64                        // minor units signed as notes
	spent   map[[32]byte]bool            // nullifiers
	Pool    map[[32]byte][]session.Share // what sessions earned in the pool; a session that is missing waits
	Down    bool                         // no answer at all
	Busy    bool                         // passes cannot be judged now
}

func (w *World) newAggregator() (*Aggregator, error) {
	a := &Aggregator{w: w, Store: map[string][]byte{}, Revoked: map[[32]byte]bool{}, spent: map[[32]byte]bool{}, Pool: map[[32]byte][]session.Share{}}
	copy(a.ID[:], "evagg")
	var err error
	if a.Key, err = privacy.NewKey(w.rnd); err != nil {
		return nil, err
	}
	if a.Box, err = privacy.NewBoxKey(w.rnd, suite); err != nil {
		return nil, err
	}
	mint, err := passMint()
	if err != nil {
		return nil, err
	}
	a.Settler, err = session.NewSettler(session.SettlerConfig{Net: Net, ID: a.ID, Key: a.Key, Boxes: []privacy.BoxKey{a.Box}, Issuers: w.Issuers,
		Revoked: func(_ [16]byte, bpk [32]byte, _ uint32) bool { return a.Revoked[bpk] },
		Pass: func(id [8]byte, hpk [32]byte, sig [session.PassSize]byte, at time.Time) error {
			if a.Busy {
				return session.ErrRetry
			}
			if id != mint.Public().ID() || pseudo.Week(at) != pseudo.Week(Start) {
				return note.ErrKey
			}
			return note.VerifyPass(mint.Public(), hpk, sig)
		},
		Shares: func(name [32]byte) ([]session.Share, error) {
			list, ok := a.Pool[name]
			if !ok {
				return nil, session.ErrNotYet
			}
			return list, nil
		},
		Price: price, Fee: Fees, AuthFor: 24 * time.Hour, Rand: w.rnd,
		Get: func(k []byte) []byte { return a.Store[string(k)] }})
	return a, err
}

// Handle answers one message that came by onion, storing first.
func (a *Aggregator) Handle(msg []byte) ([]byte, error) {
	if a.Down {
		return nil, nil
	}
	switch privacy.Kind(msg[0]) {
	case privacy.KindAuthReq:
		r, err := a.Settler.Authorise(a.w.Now, msg)
		if err != nil {
			return nil, err
		}
		a.store(r)
		a.w.sawAuthReq(msg, r)
		return r.Msg, nil
	case privacy.KindSettle:
		r, booked, err := a.Settler.Settle(a.w.Now, msg)
		if err != nil {
			return nil, err
		}
		a.store(r)
		if booked != nil {
			a.Booked = append(a.Booked, booked)
			a.w.sawSettle(msg, booked)
		}
		return r.Msg, nil
	}
	if msg[0] == byte(privacy.KindLock) {
		return a.lock(msg)
	}
	return a.collect(msg)
}

func (a *Aggregator) store(r session.Reply) {
	for _, p := range r.Put {
		a.Store[string(p.Key)] = p.Value
	}
}

// lock redeems a host's notes (in a world, by checking them) and confirms.
func (a *Aggregator) lock(msg []byte) ([]byte, error) {
	l, known, err := a.Settler.CheckLock(msg)
	if err != nil || known != nil {
		return known, err
	}
	mint, err := Mint()
	if err != nil {
		return nil, err
	}
	var reg note.Registry
	reg.Add(mint.Denoms())
	req := note.RedeemRequest{Currency: l.Currency, Payment: l.Payment}
	minor, err := req.CheckSpend(&reg, Origin, Payee, l.Session[:], a.w.Now)
	if err != nil {
		return nil, err
	}
	for i := range l.Payment.Notes {
		n := note.Nullifier(&l.Payment.Notes[i].Note)
		if a.spent[n] {
			return nil, note.ErrTwice
		}
		a.spent[n] = true
	}
	r, err := a.Settler.Locked(a.w.Now, &l, int64(minor)*cent)
	if err != nil {
		return nil, err
	}
	a.store(r)
	return r.Msg, nil
}

// collect answers a claim with the mint's blind signatures. A world has no
// ledger, so its proof is 64 zero bytes.
func (a *Aggregator) collect(msg []byte) ([]byte, error) {
	c, known, r, err := a.Settler.Claim(a.w.Now, msg)
	if err != nil || known != nil {
		return known, err
	}
	a.store(r)
	a.w.View("evagg").Note("collect", Random("session", c.Session[:]), Number("party", int64(c.Party)), Number("minor", int64(c.Minor)))
	mint, err := Mint()
	if err != nil {
		return nil, err
	}
	row, err := mint.Sign(c.Minor, &c.Row)
	if err != nil {
		return nil, err
	}
	a.Issued += int64(c.Minor)
	r, err = a.Settler.Collected(a.w.Now, &c, session.Collected{Row: *row, Proof: make([]byte, 64)})
	if err != nil {
		return nil, err
	}
	a.store(r)
	return r.Msg, nil
}
