package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/ev"
	"gridveil/ev/guest"
	"gridveil/mesh"
	"gridveil/privacy"
	"gridveil/privacy/leak"
	"gridveil/privacy/session"
)

// guestLine is the connection to a wallet. What cannot be sent soon is dropped
// with the connection: the wallet dials again and gets what it missed.
type guestLine struct {
	out  chan guest.Message
	stop context.CancelFunc
}

const lineQueue = 64 // messages of a session that may wait for a slow phone

func (l *guestLine) send(m guest.Message) {
	select {
	case l.out <- m:
	default:
		l.stop()
	}
}

// guestLink is today's link to the wallbox, as the QR code on the Guests page
// holds it. gateway is the address under which guests reach the house; empty takes
// the door's own, or this machine's address in the home's network where the door
// listens on all of them.
func (h *hosting) guestLink(gateway string) (string, error) {
	if h.door == nil {
		return "", errors.New("guests are not welcome here: set hosting.enabled in the configuration")
	}
	host, port, err := net.SplitHostPort(h.env.Config.Hosting.Listen)
	if err != nil {
		return "", fmt.Errorf("hosting.listen: %w", err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", fmt.Errorf("hosting.listen: %w", err)
	}
	if gateway == "" {
		if gateway, err = reachable(host); err != nil {
			return "", err
		}
	}
	l, err := h.door.Link(gateway, evse, uint16(n))
	return l.String(), err
}

// reachable is where guests dial a door that listens on host.
func reachable(host string) (string, error) {
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return host, nil
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("addresses of this machine: %w", err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String(), nil
		}
	}
	return "", errors.New("this machine has no address in a network that guests could reach: connect it, or name one with --gateway")
}

// welcome serves one wallet: two wishes first (what the car should get, what the
// house may take), then the offer; or, for a wallet that comes back, the opening
// of its session at once. A house that can only give energy away says so, and a
// third wish, the first one again, takes the gift.
func (h *hosting) welcome(ctx context.Context, c *guest.Conn) {
	ctx, stop := context.WithCancel(ctx)
	line := &guestLine{out: make(chan guest.Message, lineQueue), stop: stop}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case m := <-line.out:
				if err := c.Send(ctx, m); err != nil {
					return err
				}
			}
		}
	})
	group.Go(func() error { defer stop(); return h.attend(ctx, c, line) })
	if err := group.Wait(); err != nil && !errors.Is(err, guest.ErrClosed) && !errors.Is(err, context.Canceled) {
		h.env.Log.Debug("guest sent away", "err", err)
	}
	h.leave(line)
}

// leave forgets a connection; its session goes on.
func (h *hosting) leave(line *guestLine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.visits {
		if v.line == line {
			v.line = nil
		}
	}
}

// attend reads what a wallet says until it hangs up.
func (h *hosting) attend(ctx context.Context, c *guest.Conn, line *guestLine) error {
	var wishes []guest.Need
	for {
		m, err := c.Receive(ctx)
		if err != nil {
			return err
		}
		switch m.Type {
		case guest.Wish:
			n, err := guest.ParseNeed(m.Body)
			if err != nil {
				return err
			}
			wishes = append(wishes, n)
			switch len(wishes) {
			case 2:
				err = h.show(line, wishOf(wishes))
			case 3: // said again: the guest takes the gift that was offered
				err = h.gift(line, wishOf(wishes))
			}
			if len(wishes) > 3 {
				return fmt.Errorf("%w: a fourth wish", guest.ErrMessage)
			}
		case guest.Session:
			err = h.fromGuest(line, m.Body, wishOf(wishes))
		case guest.Stop:
			err = h.guestStops(line)
		case guest.FlexOK:
			err = h.assented(line, m.Body)
		case guest.Mail:
			err = h.mailTo(line, m.Body)
		case guest.Carry:
			err = h.carry(ctx, line, m)
		default:
			err = fmt.Errorf("%w: type %d is not a wallet's", guest.ErrMessage, m.Type)
		}
		if err != nil {
			h.env.Log.Debug("message of a guest refused", "err", err)
		}
	}
}

func wishOf(list []guest.Need) want {
	var w want
	if len(list) > 0 {
		w.Need = list[0]
	}
	if len(list) > 1 {
		w.Give, w.GiveFrom, w.OnCall = list[1].Want, list[1].NotBefore, list[1].OnCall
	}
	return w
}

// show sends the offer that fits a wish, or says why there is none.
func (h *hosting) show(line *guestLine, w want) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.env.Clock.Now()
	s, err := h.offerFor(now, w)
	if errors.Is(err, errNoMeter) {
		line.send(guest.Note{State: uint8(ev.GiftEnd), Text: err.Error()}.Message())
		return nil
	}
	if err != nil {
		line.send(guest.Note{State: uint8(ev.Idle), Text: err.Error()}.Message())
		return nil
	}
	if err := h.env.Store.Update(h.left(leak.Offer, leak.Guest, s.host.Offer().HPK, len(s.offer))); err != nil {
		return err
	}
	line.send(s.welcome)
	line.send(guest.SessionMessage(s.offer))
	return nil
}

func (h *hosting) offerFor(now time.Time, w want) (*standing, error) {
	if v := h.current; v.s.State.Running() || v.s.State == ev.Starting || v.s.State == ev.Opened && v.s.Payer == ev.Guest && v.s.Until != 0 {
		return nil, errOccupied
	}
	return h.offer(now, w.Give > 0)
}

// gift lets a guest charge at the house's cost: the wallbox signs nothing that
// could be billed.
func (h *hosting) gift(line *guestLine, w want) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.key.IsZero() {
		return errors.New("this house gives nothing away")
	}
	v := h.current
	v.line, v.rec.Want = line, w
	if err := h.startOwn(h.env.Clock.Now(), true); err != nil {
		v.line = nil
		line.send(guest.Note{State: uint8(ev.Idle), Text: err.Error()}.Message())
	}
	return nil
}

// fromGuest takes a protocol message.
func (h *hosting) fromGuest(line *guestLine, msg []byte, w want) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.env.Clock.Now()
	if len(msg) > 0 && privacy.Kind(msg[0]) == privacy.KindOpen {
		return h.opened(now, line, msg, w)
	}
	for _, v := range h.visits {
		if v.line != line || v.host == nil {
			continue
		}
		t := h.turn(v, now)
		err := t.protocol(fromMessage, func(p *session.Host) (session.Out, error) { return p.Step(now, msg) })
		return errors.Join(err, t.commit())
	}
	return fmt.Errorf("%w: no session is open on this connection", session.ErrOrder)
}

// opened takes an Open: of a session that goes on, or of a standing offer.
func (h *hosting) opened(now time.Time, line *guestLine, msg []byte, w want) error {
	if len(msg) < session.OpenSize {
		return session.ErrMalformed
	}
	o, err := session.ParseOpen(msg[:session.OpenSize])
	if err != nil {
		return err
	}
	name := o.Hash(h.env.Net)
	for _, v := range h.visits {
		if v.host == nil || v.host.Session() != name {
			continue
		}
		v.line = line
		t := h.turn(v, now)
		err := t.protocol(fromMessage, func(p *session.Host) (session.Out, error) { return p.Step(now, msg) })
		t.notice(v.s.Reason)
		return errors.Join(err, t.commit())
	}
	for i, s := range h.offers {
		if s.host.Offer().HPK == (session.Offer{}).HPK || s.hash(h.env.Net) != o.Offer {
			continue
		}
		return h.take(now, i, line, msg, w)
	}
	line.send(guest.Note{State: uint8(ev.Idle), Text: "this offer is not open any more: ask for a new one"}.Message())
	return nil
}

func (s *standing) hash(net privacy.Net) [32]byte {
	o := s.host.Offer()
	return o.Hash(net)
}

// take turns a standing offer into a visit: from here on it is durable.
func (h *hosting) take(now time.Time, i int, line *guestLine, msg []byte, w want) error {
	s := h.offers[i]
	v := h.current
	if v.s.State.Running() || v.s.State == ev.Starting || v.host != nil {
		line.send(guest.Note{State: uint8(ev.Idle), Text: errOccupied.Error()}.Message())
		return nil
	}
	out, err := s.host.Step(now, msg)
	if err != nil {
		line.send(guest.Note{State: uint8(ev.Idle), Text: err.Error()}.Message())
		return err
	}
	h.offers = append(h.offers[:i], h.offers[i+1:]...)
	if err := h.begin(v, now); err != nil {
		return err
	}
	a := s.agreed
	v.host, v.line, v.rec.Agreed, v.rec.Want, v.rec.Host = s.host, line, &a, w, out.Persist
	t := h.turn(v, now)
	for _, m := range out.Send {
		if m.To == session.ToAggregator {
			t.toAggregator(m.Msg)
		}
	}
	t.session(ev.Open{Code: s.host.Code(), Rules: h.rules(v)})
	return t.commit()
}

// rules are the house's choices for a session.
func (h *hosting) rules(v *visit) ev.Rules {
	c := h.env.Config
	r := ev.Rules{Offline: map[string]ev.OfflineRule{"trust": ev.OfflineTrust, "gift": ev.OfflineGift, "refuse": ev.OfflineRefuse}[c.Hosting.OfflineGuest]}
	if c.Hosting.OnCut == "gift" {
		r.OnCut = ev.CutGift
	}
	if r.Offline == ev.OfflineTrust && c.Hosting.TrustLimit < currencyUnit {
		r.Offline = ev.OfflineRefuse
	}
	if d, err := h.deal(v); err == nil {
		r.Margin = ev.MarginFor(d, int64(c.EVSE.MaxW), reaction.Milliseconds())
	}
	return r
}

// guestStops ends the session of a connection, because its driver wants so.
func (h *hosting) guestStops(line *guestLine) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.visits {
		if v.line == line && v.open() {
			t := h.turn(v, h.env.Clock.Now())
			v.note(t.now, "the driver ends the session")
			t.session(ev.Stop{})
			return t.commit()
		}
	}
	return nil
}

// carry forwards sealed bytes for a wallet without network, and brings the
// answer back: the house learns their length.
func (h *hosting) carry(ctx context.Context, line *guestLine, m guest.Message) error {
	p, err := guest.ParseParcel(m)
	if err != nil {
		return err
	}
	answer := guest.Parcel{ID: p.ID, To: p.To, Service: p.Service, Failed: true}
	if body, err := h.forward(ctx, p); err == nil {
		answer.Failed, answer.Body = false, body
	}
	out, err := answer.Message(guest.Carried)
	if err != nil {
		return err
	}
	line.send(out)
	return nil
}

func (h *hosting) forward(ctx context.Context, p guest.Parcel) ([]byte, error) {
	agg, err := h.ops.Aggregator()
	if err != nil {
		return nil, err
	}
	if p.To != agg.ID || h.env.Onion == nil {
		return nil, errors.New("only the aggregator's post is carried")
	}
	if err := h.env.Store.Update(h.left(leak.CollectBoxed, leak.Aggregator, sha256.Sum256(p.Body), len(p.Body))); err != nil {
		return nil, err
	}
	class := mesh.Meter
	if mesh.Service(p.Service)+256 == mesh.EVAuth {
		class = mesh.Session
	}
	return h.env.Onion.Carry(ctx, agg.Key, h.env.Class(class), p.Body)
}
