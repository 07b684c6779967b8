package world

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/note"
	"gridveil/privacy/pseudo"
	"gridveil/privacy/session"
)

// Plan is one session to run.
type Plan struct {
	Tag          string // for games: which session this is
	Driver, Home int
	Energy       session.Energy // at the end
	Ticks        int            // reports on the way, default 3
	Band         uint16         // default 20
	Mode         byte
	CutAfter     int    // the driver leaves after that many acks; 0 stays
	Unattended   bool   // agreed; with CutAfter the meter's word counts
	Trust        uint16 // the host's trust limit
	Lock         uint16 // minor units that the host locks at the start
	Pseudonym    *pseudo.Pseudonym
	// Tamper may change a message between two parties.
	Tamper func(to session.Role, msg []byte) []byte
}

// Run is a session under way.
type Run struct {
	w      *World
	Plan   Plan
	Host   *session.Host
	Driver *session.Driver
	HState []byte // last persisted states
	DState []byte
	hkey   ed25519.PrivateKey
	hcfg   session.HostConfig
	dcfg   session.DriverConfig
	home   *Home
	driver *Driver
	offer  session.Offer
	salts  [2][32]byte
	begin  time.Time
	energy session.Energy
	acks   int
	Orders []session.Order
	// Sends counts messages to the aggregator; Errors holds refusals of steps.
	Errors []error
}

// ErrStuck says that a session did not end as planned.
var ErrStuck = errors.New("session did not end")

// Open starts a session: pass, offer, pseudonym, opening, up to the answer.
func (w *World) Open(p Plan) (*Run, error) {
	if p.Ticks == 0 {
		p.Ticks = 3
	}
	if p.Band == 0 {
		p.Band = 20
	}
	r := &Run{w: w, Plan: p, home: w.Homes[p.Home], driver: w.Drivers[p.Driver], begin: w.Now}
	for _, party := range []string{r.home.Name, r.driver.Name, r.driver.Utility.Name, "evagg"} {
		w.View(party).Tag(p.Tag)
	}
	pass, err := r.home.takePass()
	if err != nil {
		return nil, err
	}
	for i := range r.salts {
		if _, err := io.ReadFull(w.rnd, r.salts[i][:]); err != nil {
			return nil, err
		}
	}
	r.offer = session.Offer{PassKey: pass.KeyID, MeterCommit: session.MeterCommit(r.salts[0], r.meterKey()), Terms: sha256.Sum256(Terms),
		PGrid: 320_000, PRes: 180_000, POut: 260_000, Currency: Currency, MaxPower: 110, Mode: p.Mode,
		Expires: uint32(w.Now.Add(10 * time.Minute).Unix())}
	r.hcfg = session.HostConfig{Net: Net, Suite: suite, EVAGG: w.EVAGG.ID, EVAGGKey: pub(w.EVAGG.Key), TrustLimit: p.Trust,
		Unattended: p.Unattended, Issuers: w.Issuers}
	r.hkey = pass.HSK
	var out session.Out
	if r.Host, out, err = session.NewHost(r.hcfg, pass.HSK, pass.Sig, r.offer); err != nil {
		return nil, err
	}
	r.HState, r.offer = out.Persist, r.Host.Offer()
	return r, r.accept(out.Send[0].Msg)
}

func (r *Run) meterKey() []byte { return r.home.Meter.Public().(ed25519.PublicKey) }

// accept is the driver's side of the offer.
func (r *Run) accept(offer []byte) error {
	w := r.w
	w.View(r.driver.Name).Note("offer", cut(offerLayout, offer)...)
	me := r.Plan.Pseudonym
	if me == nil {
		p, err := r.driver.Deck.Take(w.Now)
		if err != nil {
			return err
		}
		me = &p
	}
	r.dcfg = session.DriverConfig{Net: Net, Suite: suite, EVAGG: w.EVAGG.ID, EVAGGKey: pub(w.EVAGG.Key), EVAGGBox: w.EVAGG.Box.Pub,
		Rand: w.rnd, Fair: fair(&r.offer), Audit: audit}
	d, out, err := session.NewDriver(r.dcfg, w.Now, *me, offer, r.Plan.Band)
	if err != nil {
		return err
	}
	r.Driver = d
	r.fromDriver(out)
	return nil
}

// HostKey is the host's session key, for tests that sign in its name.
func (r *Run) HostKey() ed25519.PrivateKey { return r.hkey }

// fromDriver and fromHost store, then deliver.
func (r *Run) fromDriver(out session.Out) {
	if out.Persist != nil {
		r.DState = out.Persist
	}
	r.deliver(out.Send)
}

func (r *Run) fromHost(out session.Out) {
	if out.Persist != nil {
		r.HState = out.Persist
	}
	if out.Order != session.Stay {
		r.Orders = append(r.Orders, out.Order)
	}
	r.deliver(out.Send)
}

func (r *Run) deliver(sends []session.Send) {
	for _, s := range sends {
		msg := s.Msg
		if r.Plan.Tamper != nil {
			if msg = r.Plan.Tamper(s.To, msg); msg == nil {
				continue
			}
		}
		switch s.To {
		case session.ToDriver:
			r.toDriver(msg)
		case session.ToHost:
			r.toHost(msg)
		case session.ToAggregator:
			answer, err := r.w.EVAGG.Handle(msg)
			if err != nil {
				r.Errors = append(r.Errors, err)
			} else if answer != nil {
				r.toHost(answer)
			}
		}
	}
}

func (r *Run) toDriver(msg []byte) {
	if r.gone() {
		return
	}
	out, err := r.Driver.Step(r.w.Now, msg)
	if err != nil {
		r.Errors = append(r.Errors, err)
		return
	}
	if msg[0] == byte(privacy.KindTick) {
		r.acks++
	}
	if out.Order == session.Consent {
		if out, err = r.Driver.Show(); err != nil {
			r.Errors = append(r.Errors, err)
			return
		}
	}
	r.fromDriver(out)
}

func (r *Run) gone() bool { return r.Plan.CutAfter > 0 && r.acks >= r.Plan.CutAfter }

func (r *Run) toHost(msg []byte) {
	r.w.sawHost(r.home.Name, msg)
	out, err := r.Host.Step(r.w.Now, msg)
	if err != nil {
		r.Errors = append(r.Errors, err)
		return
	}
	r.fromHost(out)
}

// Wake lets time pass for the host until its next deadline.
func (r *Run) Wake() error {
	due := r.Host.Deadline()
	if due.IsZero() {
		return nil
	}
	if due.After(r.w.Now) {
		r.w.Now = due
	}
	out, err := r.Host.Wake(r.w.Now)
	r.fromHost(out)
	return err
}

// Restart throws both machines away and loads them from their stored states.
func (r *Run) Restart() error {
	h, err := session.LoadHost(r.hcfg, r.HState)
	if err != nil {
		return fmt.Errorf("load host: %w", err)
	}
	d, err := session.LoadDriver(r.dcfg, r.DState)
	if err != nil {
		return fmt.Errorf("load driver: %w", err)
	}
	r.Host, r.Driver = h, d
	return nil
}

// Flush sends the host's outbox again, as after an outage.
func (r *Run) Flush() {
	for range 3 { // authorisation, lock and settle follow each other
		r.deliver(r.Host.Outbox())
	}
}

// Charge runs the session's ticks.
func (r *Run) Charge() error {
	for i := range r.Plan.Ticks {
		r.w.Now = r.w.Now.Add(61 * time.Second)
		part := func(v int64) int64 { return v * int64(i+1) / int64(r.Plan.Ticks) }
		e := session.Energy{Grid: part(r.Plan.Energy.Grid), Res: part(r.Plan.Energy.Res), Out: part(r.Plan.Energy.Out)}
		out, err := r.Host.Meter(r.w.Now, e, Quote(&r.offer, e))
		if err != nil {
			return err
		}
		r.energy = e
		r.fromHost(out)
	}
	return nil
}

// Finish ends the transaction and closes the session.
func (r *Run) Finish() error {
	if r.gone() && !r.Plan.Unattended {
		for r.Host.Phase() == session.Running { // pause, then give up
			if err := r.Wake(); err != nil {
				return err
			}
		}
	}
	v := &session.Evidence{Salt: r.salts[1], MeterSalt: r.salts[0], MeterKey: r.meterKey(), Terms: Terms,
		Records: [][]byte{meterRecord(r.home.Meter, r.Host.Code(), r.energy)}}
	end := session.Ending{Energy: r.energy, Amounts: Quote(&r.offer, r.energy), Begin: r.begin, End: r.w.Now, Evidence: v}
	out, err := r.Host.End(r.w.Now, end)
	if err != nil {
		return err
	}
	r.fromHost(out)
	return nil
}

// LockNotes locks notes from the home's wallet.
func (r *Run) LockNotes(minor uint16) error {
	name := r.Host.Session()
	op, err := r.home.Wallet.Spend(r.w.Now, Currency, minor, Payee, name[:])
	if err != nil {
		return err
	}
	req, err := r.home.Wallet.RedeemRequest(op.ID)
	if err != nil {
		return err
	}
	out, err := r.Host.Lock(int64(minor)*cent, req.Payment)
	if err != nil {
		return err
	}
	r.fromHost(out)
	return r.home.Wallet.Done(op.ID)
}

// Collect fetches the notes of one party and swaps them. It returns their
// worth in minor units.
func (r *Run) Collect(p session.Party) (uint16, error) {
	mint, err := Mint()
	if err != nil {
		return 0, err
	}
	d := mint.Denoms()
	wallet, due := r.home.Wallet, r.Host.Due(p)
	if p == session.PartyDriver {
		wallet, due = r.driver.Wallet, r.Driver.Due()
	}
	if p == session.PartyPool {
		shares, err := r.Shares()
		if err != nil {
			return 0, err
		}
		wallet, due = r.driver.Wallet, shares.Sum()
	}
	op, err := wallet.Collect(d, uint16(due/cent))
	if err != nil {
		return 0, err
	}
	rows, err := wallet.Rows(op.ID, d)
	if err != nil {
		return 0, err
	}
	answer, err := r.claim(p, d.Epoch, rows[0])
	if err != nil {
		return 0, err
	}
	if err := wallet.Finish(op.ID, d, []*note.Row{&answer.Row}); err != nil {
		return 0, err
	}
	return uint16(due / cent), swap(r.w, wallet, mint)
}

// Shares asks what the session earned in the pool.
func (r *Run) Shares() (session.Shares, error) {
	msg, err := r.Driver.AskShares()
	if err != nil {
		return session.Shares{}, err
	}
	answer, err := r.w.EVAGG.Settler.Shares(msg)
	if err != nil {
		return session.Shares{}, err
	}
	return r.Driver.OpenShares(answer)
}

// claim sends a Collect and opens its answer.
func (r *Run) claim(p session.Party, epoch uint32, row *note.Row) (session.Collected, error) {
	if p == session.PartyDriver || p == session.PartyPool {
		msg, err := r.Driver.Collect(p, epoch, *row)
		if err != nil {
			return session.Collected{}, err
		}
		r.w.View(r.home.Name).Note("carried", Random("sealed", msg[34:]), Random("session", msg[2:34]))
		answer, err := r.w.EVAGG.Handle(msg)
		if err != nil {
			return session.Collected{}, err
		}
		return r.Driver.OpenCollected(answer)
	}
	c, err := r.Host.Collect(p, epoch, *row)
	if err != nil {
		return session.Collected{}, err
	}
	answer, err := r.w.EVAGG.Handle(c.Bytes())
	if err != nil {
		return session.Collected{}, err
	}
	return session.ParseCollected(answer)
}

// swap changes a wallet's fresh notes for new ones, a day later.
func swap(w *World, wallet *note.Wallet, mint *note.Mint) error {
	op, err := wallet.Swap(w.Now.Add(24*time.Hour), mint.Denoms(), 0, Payee)
	if err != nil {
		return err
	}
	req, err := wallet.SwapRequest(op.ID, mint.Denoms())
	if err != nil {
		return err
	}
	rows, err := mint.SignSwap(req)
	if err != nil {
		return err
	}
	return wallet.Finish(op.ID, mint.Denoms(), rows)
}

// Session runs a whole session. It returns ErrStuck, with the first refusal, if
// it did not reach a receipt.
func (w *World) Session(p Plan) (*Run, error) {
	r, err := w.Open(p)
	if err != nil {
		return nil, err
	}
	if r.Host.Phase() == session.Asked && p.Trust > 0 {
		if err := r.Wake(); err != nil {
			return r, err
		}
	}
	if r.Host.Phase() == session.Running && p.Lock > 0 {
		if err := r.LockNotes(p.Lock); err != nil {
			return r, err
		}
	}
	if r.Host.Phase() == session.Running {
		if err := r.Charge(); err != nil {
			return r, err
		}
		if err := r.Finish(); err != nil {
			return r, err
		}
	}
	if r.Host.Phase() != session.Done {
		return r, fmt.Errorf("%w: host %v, driver %v, %w", ErrStuck, r.Host.Phase(), r.Driver.Phase(), errors.Join(r.Errors...))
	}
	return r, nil
}

// sawHost notes what a gateway reads.
func (w *World) sawHost(home string, msg []byte) {
	v := w.View(home)
	switch privacy.Kind(msg[0]) {
	case privacy.KindOpen:
		v.Note("opening", cut(openingLayout, msg)...)
	case privacy.KindAuthOK:
		v.Note("yes", cut(yesLayout, msg)...)
	case privacy.KindAuthNo:
		v.Note("no", cut(noLayout, msg)...)
	case privacy.KindAck:
		v.Note("ack", cut(ackLayout, msg)...)
	case privacy.KindSettle:
		v.Note("signed", cut(signedLayout, msg)...)
	case privacy.KindReceipt:
		v.Note("receipt", cut(receiptLayout, msg)...)
	default:
		v.Note("shown", cut("k2 session32* "+certLayout, msg)...)
	}
}

// sawAuthReq notes what the aggregator reads, with the Box opened.
func (w *World) sawAuthReq(msg []byte, r session.Reply) {
	v := w.View("evagg")
	v.Note("authreq", append(cut(authLayout, msg), Number("at", w.Now.UnixMilli()))...)
	box := msg[len(msg)-session.PassSize-session.BoxSize : len(msg)-session.PassSize]
	if pt, _, err := privacy.Open(w.EVAGG.Box, privacy.KindBox, Net, box); err == nil {
		v.Note("box", cut(boxLayout, pt)...)
	}
	v.Note("answered", Number("puts", int64(len(r.Put))), Number("size", int64(len(r.Msg))))
}

// sawSettle notes a settlement as the aggregator reads and books it.
func (w *World) sawSettle(msg []byte, b *session.Settled) {
	v := w.View("evagg")
	record, proof := msg[:session.RecordSize], msg[session.RecordSize:]
	v.Note("settle", append(cut("k2 "+recordLayout, record), Random("proof", proof), Number("at", w.Now.UnixMilli()))...)
	v.Note("booked", append(cut(lineLayout, b.Line.Bytes()), Random("ref", b.Ref[:]), Fixed("payer", b.Payer[:]))...)
}

// Bill sends every utility its lines and returns what it found.
func (w *World) Bill() (map[string]session.Totals, error) {
	out := map[string]session.Totals{}
	for _, u := range w.Utilities {
		var lines []session.Line
		for _, b := range w.EVAGG.Booked {
			if b.Payer == u.ID {
				lines = append(lines, b.Line)
			}
		}
		if len(lines) == 0 {
			continue
		}
		batch, err := session.NewBillBatch(Net, w.EVAGG.Key, w.EVAGG.ID, Currency, [32]byte{1}, lines)
		if err != nil {
			return nil, err
		}
		b := session.Biller{Net: Net, EVAGG: w.EVAGG.ID, Key: pub(w.EVAGG.Key), Sign: u.Sign, Row: u.Row}
		read, sum, rejects, err := b.Check(batch.Bytes())
		if err != nil {
			return nil, err
		}
		if len(rejects) != 0 {
			return nil, fmt.Errorf("%s rejects %d of %d lines, first: %v", u.Name, len(rejects), len(lines), rejects[0].Code)
		}
		for i := range read.Lines {
			l := &read.Lines[i]
			u.billed[l.BPK] = true
			row := u.Store["row"+string(l.BPK[:])]
			w.View(u.Name).Note("line", append(cut(lineLayout, l.Bytes()), Fixed("contract", row[4:20]))...)
		}
		out[u.Name] = sum
	}
	w.EVAGG.Booked = nil
	return out, nil
}

// Reload builds both machines from given states.
func (r *Run) Reload(t testing.TB, host, driver []byte) (*session.Host, *session.Driver) {
	t.Helper()
	h, err := session.LoadHost(r.hcfg, host)
	if err != nil {
		t.Fatal(err)
	}
	d, err := session.LoadDriver(r.dcfg, driver)
	if err != nil {
		t.Fatal(err)
	}
	return h, d
}

// LoadForeign loads both machines from a damaged store, and if they load, uses
// them.
func (r *Run) LoadForeign(now time.Time, b []byte) {
	if h, err := session.LoadHost(r.hcfg, b); err == nil {
		h.Outbox()
		h.Deadline()
		_, _ = h.Wake(now)
		_, _ = h.Step(now, r.Driver.Opening())
		_, _ = h.Meter(now, r.energy, Quote(&r.offer, r.energy))
		h.Due(session.PartyHost)
	}
	if d, err := session.LoadDriver(r.dcfg, b); err == nil {
		d.Opening()
		d.Due()
		_, _ = d.Show()
		t := d.Last()
		_, _ = d.Step(now, t.Bytes())
	}
}
