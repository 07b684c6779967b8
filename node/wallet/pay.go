package wallet

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"gridveil/ev"
	"gridveil/ev/guest"
	"gridveil/node/clock"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/leak"
	"gridveil/privacy/pseudo"
	"gridveil/privacy/session"
)

// Options say what a driver wants of one session.
type Options struct {
	Band      uint16 // most it may cost, currency units: one of pseudo.Bands; 0 means 20
	WantMWh   int64  // energy into the car, 0 for as much as fits
	GiveMWh   int64  // energy that the house may take out of the car, 0 for none
	FloorMWh  int64  // energy that must be in by Departure, whatever it costs
	Departure int64  // UTC ms, 0 if unknown
	GiveFrom  int64  // UTC ms, when the house may begin to take energy out of the car; 0 for at once
	OnCall    bool   // it may take energy only when the grid operator asks for it and pays
	Fixed     bool   // the aggregator may not move the session's power, for no pay
	// ShowUtility agrees beforehand that a host which cannot reach the aggregator
	// may see the certificate, and so the utility.
	ShowUtility bool
	// Seen is Prices.Seen of the offer that the driver agreed to; a host that
	// shows another one then is refused. Zero takes what is shown.
	Seen [32]byte
}

const defaultBand = 20

func (o *Options) check() error {
	if o.Band == 0 {
		o.Band = defaultBand
	}
	switch {
	case !session.IsBand(o.Band):
		return fmt.Errorf("band of %d: choose one of %v euros", o.Band, pseudo.Bands)
	case o.WantMWh < 0 || o.GiveMWh < 0 || o.FloorMWh < 0 || o.FloorMWh > o.WantMWh:
		return errors.New("energies are not negative, and the least one is at most the wanted one")
	case o.GiveMWh == 0 && (o.GiveFrom != 0 || o.OnCall):
		return errors.New("when energy may be taken out of the car is said, but not how much")
	case o.GiveFrom < 0 || o.Departure > 0 && o.GiveFrom >= o.Departure:
		return errors.New("energy may be taken out of the car before it leaves only")
	case o.Fixed && o.OnCall:
		return errors.New("the car's power may not be moved, so the grid operator cannot ask for its energy: choose one of both")
	}
	return nil
}

// wishes are what the wallet says first: what the car should get, then what the
// house may take.
func (o Options) wishes() [2]guest.Need {
	return [2]guest.Need{{Want: o.WantMWh, Floor: o.FloorMWh, Departure: o.Departure}, {Want: o.GiveMWh, Departure: o.Departure, NotBefore: o.GiveFrom, OnCall: o.OnCall}}
}

// Prices are an offer as a driver reads it, millionths of a euro per kWh.
type Prices struct {
	Solar, Grid, Fee      int64
	ToHouse, FedIn        int64 // paid to the driver
	MaxW                  int64
	Discharge, Unattended bool
	SolarFirst            bool // the car gets the roof's energy before the house
	Seen                  [32]byte
	Gift                  bool   // the host takes no money
	Text                  string // why there is no offer
}

// Limits of the wallet's patience, wall time: they concern sockets.
const (
	dialTimeout  = 15 * time.Second
	offerTimeout = 30 * time.Second
)

// visit is one open door with the offer behind it.
type visit struct {
	conn    *guest.Conn
	welcome guest.Welcome
	offer   session.Offer
	raw     []byte
	note    *guest.Note // instead of an offer
}

// enter dials a link, says the wishes and reads the offer.
func enter(ctx context.Context, link string, o Options) (*visit, error) {
	l, err := guest.ParseLink(link)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, offerTimeout)
	defer cancel()
	conn, err := dial(ctx, l)
	if err != nil {
		return nil, err
	}
	v := &visit{conn: conn}
	for _, wish := range o.wishes() {
		if err := conn.Send(ctx, wish.Message()); err != nil {
			conn.Close()
			return nil, err
		}
	}
	if err := v.read(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return v, nil
}

func dial(ctx context.Context, l guest.Link) (*guest.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return guest.Dial(ctx, l)
}

// read takes the host's documents and the offer that they belong to.
func (v *visit) read(ctx context.Context) error {
	for {
		m, err := v.conn.Receive(ctx)
		if err != nil {
			return err
		}
		switch m.Type {
		case guest.Hello:
			if v.welcome, err = guest.ParseWelcome(m.Body); err != nil {
				return err
			}
		case guest.Session:
			v.raw = m.Body
			v.offer, err = session.ParseOffer(m.Body)
			return err
		case guest.Notice:
			n, err := guest.ParseNote(m.Body)
			v.note = &n
			return err
		default:
			return fmt.Errorf("%w: type %d instead of an offer", guest.ErrMessage, m.Type)
		}
	}
}

// seen names what a driver agreed to: prices, terms and mode, not the offer's
// own key, which is new each time.
func seen(o session.Offer) [32]byte {
	o.HPK, o.PassKey, o.MeterCommit, o.Expires, o.Sig = [32]byte{}, [8]byte{}, [32]byte{}, 0, privacy.Signature{}
	return sha256.Sum256(o.Bytes())
}

// Look shows what a host asks, without opening anything.
func (w *Wallet) Look(ctx context.Context, link string, o Options) (Prices, error) {
	if err := o.check(); err != nil {
		return Prices{}, err
	}
	v, err := enter(ctx, link, o)
	if err != nil {
		return Prices{}, err
	}
	defer v.conn.Close()
	if v.note != nil {
		return Prices{Gift: v.note.State == uint8(ev.GiftEnd), Text: v.note.Text}, nil
	}
	t := newTrip()
	d, err := t.accept(v.welcome, v.offer)
	if err != nil {
		return Prices{}, err
	}
	return Prices{Solar: d.Res, Grid: d.Grid, Fee: d.Fee.PerKWhIn, ToHouse: d.Out, FedIn: d.Terms.PExport, MaxW: int64(v.offer.MaxPower) * 100,
		Discharge: v.offer.Mode&session.ModeDischarge != 0, Unattended: d.Terms.Unattended, SolarFirst: d.Terms.Policy == ev.EVFirst, Seen: seen(v.offer)}, nil
}

// Pay opens a session through a link and returns its name once the host has an
// answer: authorised, begun on trust, a gift, or refused (an error then). The
// session goes on by itself until its receipt is here.
func (w *Wallet) Pay(ctx context.Context, link string, o Options) (id string, err error) {
	if err := o.check(); err != nil {
		return "", err
	}
	t := newTrip()
	t.rec.Link, t.rec.Options, t.rec.Begun = link, o, w.env.Clock.Now().UnixMilli()
	if _, err := io.ReadFull(w.env.Rand, t.rec.ID[:]); err != nil {
		return "", fmt.Errorf("draw session id: %w", err)
	}
	v, err := enter(ctx, link, o)
	if err != nil {
		return "", err
	}
	if err := w.openTrip(t, v); err != nil {
		v.conn.Close()
		return "", err
	}
	t.first = v.conn
	select {
	case w.begun <- t:
	default:
		v.conn.Close()
		return "", fmt.Errorf("%d sessions are under way: end one first", maxTrips)
	}
	select {
	case <-t.told:
	case <-ctx.Done():
		return t.name(), ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.rec.Refused {
		return t.name(), errors.New(t.rec.Reason)
	}
	return t.name(), nil
}

// openTrip burns a pseudonym and makes the Open durable. Nothing has left yet.
func (w *Wallet) openTrip(t *trip, v *visit) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.env.Clock.Now()
	if v.note != nil {
		if v.note.State != uint8(ev.GiftEnd) {
			return errors.New(v.note.Text)
		}
		t.rec.Gift = true
		t.tell(now, "gift", v.note.Text)
		close(t.told)
		w.trips[t.rec.ID] = t
		return w.change(t)
	}
	d, err := t.accept(v.welcome, v.offer)
	if err != nil {
		return err
	}
	if t.rec.Options.Seen != [32]byte{} && t.rec.Options.Seen != seen(v.offer) {
		return fmt.Errorf("%w: the prices have changed since you saw them; look again", session.ErrOffer)
	}
	me, deck, err := w.take(now)
	if err != nil {
		return err
	}
	driver, out, err := session.NewDriver(w.driverConfig(t), now, me, v.raw, t.rec.Options.Band)
	if err != nil {
		return errors.Join(err, w.putBack())
	}
	t.driver, t.offer, t.code = driver, v.offer, driver.Code()
	t.rec.Driver, t.rec.Offer = out.Persist, v.raw
	t.tell(now, "opened", fmt.Sprintf("offer accepted, up to EUR %d; solar %s, grid %s per kWh", t.rec.Options.Band, euros(d.Res), euros(d.Grid)))
	spk := driver.Session()
	err = w.change(t, func(tx *store.Tx) error { return tx.Set(deckKey(deck.Epoch), deck.Bytes()) },
		w.leaves(leak.Opening, leak.HostHome, spk, len(driver.Opening())), w.leaves(leak.Opening, leak.Aggregator, spk, session.BoxSize))
	if err != nil {
		return errors.Join(err, w.putBack())
	}
	w.trips[t.rec.ID] = t
	return nil
}

// putBack reads the decks again after a step that was not stored.
func (w *Wallet) putBack() error {
	clear(w.decks)
	return w.loadDecks()
}

// euros is an amount in millionths as people read it, four decimals for prices.
func euros(micro int64) string { return fmt.Sprintf("%d.%04d", micro/currencyUnit, micro/100%10_000) }

// Pauses between two visits to a host that is away, protocol time.
const (
	redialMin = 5 * time.Second
	redialMax = 10 * time.Minute
)

// drive keeps a session going until nothing more is exchanged with its host.
func (w *Wallet) drive(ctx context.Context, t *trip) error {
	pause := redialMin
	for ctx.Err() == nil && !w.over(t) {
		over, err := w.visitHost(ctx, t)
		if over {
			w.setAway(t, false)
			return nil
		}
		w.setAway(t, true)
		if errors.Is(err, guest.ErrPin) {
			w.giveUp(t, "the host's door has a new key: if the receipt is missing, scan today's QR code there")
		}
		if err == nil {
			pause = redialMin
		}
		if w.env.Clock.Now().Sub(time.UnixMilli(t.rec.Begun)) > session.LateFor {
			w.giveUp(t, "no receipt came in 60 days")
			return nil
		}
		if !clock.Sleep(ctx, w.env.Clock, pause) {
			return nil
		}
		pause = min(2*pause, redialMax)
	}
	return nil
}

func (w *Wallet) giveUp(t *trip, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.rec.Reason = why
	if err := w.change(t); err != nil {
		w.env.Log.Warn("session not stored", "err", err)
	}
}

// visitHost is one connection to the host, from the opening to its end. over
// says that no other is needed.
func (w *Wallet) visitHost(ctx context.Context, t *trip) (over bool, err error) {
	conn, fresh := t.first, t.first != nil
	t.first = nil
	if !fresh {
		l, err := guest.ParseLink(t.rec.Link)
		if err != nil {
			return true, err
		}
		if conn, err = dial(ctx, l); err != nil {
			return false, err
		}
	}
	defer conn.Close()
	if t.driver == nil && !fresh {
		return true, w.endGift(t) // a gift leaves nothing to fetch
	}
	if err := conn.Send(ctx, t.greeting()); err != nil {
		return false, err
	}
	w.setAway(t, false)
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asking.Go(func() { t.sayStop(ctx, conn) })
	asking.Go(func() { w.sayMailbox(ctx, t, conn) })
	for {
		m, err := conn.Receive(ctx)
		if err != nil {
			return w.over(t), err
		}
		sends, err := w.hear(t, m)
		if err != nil {
			w.env.Log.Debug("message of a host refused", "err", err)
		}
		for _, s := range sends {
			if err := conn.Send(ctx, s); err != nil {
				return w.over(t), err
			}
		}
		if w.over(t) {
			return true, w.withdraw(ctx, t, conn)
		}
	}
}

// sayStop tells the host when the driver wants to end, as long as a visit lasts.
func (t *trip) sayStop(ctx context.Context, conn *guest.Conn) {
	select {
	case <-ctx.Done():
	case <-t.stop:
		if conn.Send(ctx, guest.Message{Type: guest.Stop}) != nil {
			t.askStop() // the next visit says it
		}
	}
}

// greeting is what the wallet says when it comes to the host: its opening, or
// for a gift its first wish again, which takes it.
func (t *trip) greeting() guest.Message {
	if t.driver == nil {
		return t.rec.Options.wishes()[0].Message()
	}
	return guest.SessionMessage(t.driver.Opening())
}

func (w *Wallet) endGift(t *trip) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.rec.Over = true
	return w.change(t)
}

// askStop lets the session end as soon as the host can be told.
func (t *trip) askStop() {
	select {
	case t.stop <- struct{}{}:
	default: // asked before
	}
}

func (w *Wallet) over(t *trip) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return t.rec.Over
}

// hear takes one message of the host: it is stored before the answer leaves.
func (w *Wallet) hear(t *trip, m guest.Message) ([]guest.Message, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch m.Type {
	case guest.Session:
		if t.driver != nil {
			return w.protocol(t, m.Body)
		}
	case guest.Notice:
		n, err := guest.ParseNote(m.Body)
		if err != nil {
			return nil, err
		}
		return nil, w.noticed(t, n)
	case guest.Flex:
		return w.assent(t, m.Body)
	case guest.Hello, guest.Carried:
		return nil, nil // of a visit that began anew; the offer is agreed already
	}
	return nil, fmt.Errorf("%w: type %d", guest.ErrMessage, m.Type)
}

// protocol steps the driver's machine. The caller holds mu.
func (w *Wallet) protocol(t *trip, msg []byte) ([]guest.Message, error) {
	now := w.env.Clock.Now()
	if err := w.refresh(t); err != nil {
		return nil, err
	}
	before := t.driver.Phase()
	out, err := t.driver.Step(now, msg)
	if out.Order == session.Stop {
		t.askStop()
	}
	if err != nil {
		if before == session.Running && errors.Is(err, session.ErrEvidence) || errors.Is(err, session.ErrAmount) {
			t.rec.Reason = "the host's bill does not hold, so it was not signed: " + err.Error()
			t.tell(now, "disputed", t.rec.Reason)
			return nil, errors.Join(err, w.change(t))
		}
		return nil, err
	}
	if out.Order == session.Consent && t.rec.Options.ShowUtility {
		if out, err = t.driver.Show(); err != nil {
			return nil, err
		}
		t.tell(now, "charging", "the aggregator is away: the host was shown your utility and trusts you")
		t.outcome()
	} else if out.Order == session.Consent {
		t.tell(now, "waiting", "the aggregator is away: the host could charge you now if it may see your utility; otherwise the car waits")
		t.rec.Reason = "pay again and allow the host to see your utility, or wait until the aggregator can be reached"
		t.outcome()
	}
	if out.Persist != nil {
		t.rec.Driver = out.Persist
	}
	return w.progress(t, now, before, msg, out)
}

// progress stores what a step changed, plans what follows and gives the answers.
func (w *Wallet) progress(t *trip, now time.Time, before session.Phase, msg []byte, out session.Out) ([]guest.Message, error) {
	var also []func(*store.Tx) error
	var sends []guest.Message
	id := t.driver.Session()
	for _, s := range out.Send {
		sends = append(sends, guest.SessionMessage(s.Msg))
		if m, known := leaksAs[privacy.Kind(s.Msg[0])]; known {
			also = append(also, w.leaves(m, leak.HostHome, id, len(s.Msg)))
		}
	}
	if r, err := session.ParseReceipt(msg); err == nil && r.Taken == session.TakenLock {
		t.rec.Locked = max(t.rec.Locked, r.Value)
	}
	after := t.driver.Phase()
	if after != before {
		t.phase(now, after)
	}
	if t.driver.Phase() == session.Running && t.driver.Fee() != (session.FeeTerms{}) {
		t.checkFee()
		t.outcome()
	}
	if after == session.Done && before != session.Done {
		return sends, w.received(t, now, also)
	}
	if err := w.change(t, also...); err != nil {
		return nil, err
	}
	return sends, nil
}

// leaksAs names what a message to the host is in the leak table.
var leaksAs = map[privacy.Kind]leak.Message{privacy.KindAck: leak.Ack, privacy.KindSettle: leak.Signed, shownKind: leak.ShownCert}

var shownKind = privacy.Kind((&session.Shown{}).Bytes()[0])

// phase tells the story.
func (t *trip) phase(now time.Time, p session.Phase) {
	switch p {
	case session.Running:
		t.tell(now, "charging", "authorised")
	case session.Settling:
		t.tell(now, "signed", "the meter's signature verifies and the amounts follow: record signed")
	case session.Done:
		t.tell(now, "receipted", "the aggregator holds the record; it is billed by your utility")
	case session.Refused:
		t.rec.Refused, t.rec.Over = true, true
		t.rec.Reason = t.driver.Cause().String()
		t.tell(now, "refused", t.rec.Reason)
	}
	if p == session.Refused {
		t.outcome()
	}
}

// outcome tells Pay that the opening was answered.
func (t *trip) outcome() {
	select {
	case <-t.told:
	default:
		close(t.told)
	}
}

// checkFee refuses a session whose fee is not the one that the terms name.
func (t *trip) checkFee() {
	d, err := t.deal(t.offer)
	if err == nil && t.driver.Fee().Sheet != d.Terms.FeeSheet {
		t.rec.Reason = "the aggregator charges another fee than the host's offer says"
		t.askStop()
	}
}

// received keeps the receipt and claims what the car earned, in one step.
func (w *Wallet) received(t *trip, now time.Time, also []func(*store.Tx) error) error {
	t.rec.Over = true
	w.plansShares(t, now)
	due := t.driver.Due()
	if due == 0 {
		t.rec.Paid = true
		return w.change(t, also...)
	}
	e := w.purse.Edit()
	e.Add(t.claim(), now.Add(w.jitter(collectWithin)))
	err := w.change(t, append(also, e.Write)...)
	e.Close(err)
	return err
}

// noticed takes what the host says about the car. The caller holds mu.
func (w *Wallet) noticed(t *trip, n guest.Note) error {
	now := w.env.Clock.Now()
	state := ev.State(n.State)
	t.tell(now, state.String(), n.Text)
	switch {
	case state == ev.GiftEnd, t.driver == nil && state.Final():
		t.rec.Over, t.rec.Gift = true, true
		t.outcome()
	case t.driver != nil && t.driver.Phase() == session.Asked && state.Running():
		t.rec.Gift = true // nobody answered, and this host gives energy away then
		t.outcome()
	case state == ev.Informational,
		t.driver != nil && (state == ev.Idle || state == ev.Plugged) && t.driver.Phase() == session.Asked:
		t.rec.Over, t.rec.Refused, t.rec.Reason = true, true, n.Text
		t.outcome()
	}
	return w.change(t)
}

// refresh gives the machine the aggregator's present keys.
func (w *Wallet) refresh(t *trip) error {
	d, err := session.LoadDriver(w.driverConfig(t), t.rec.Driver)
	if err == nil {
		t.driver = d
	}
	return err
}
