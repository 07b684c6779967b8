package mesh

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"gridveil/mesh/lane"
	"gridveil/mesh/member"
)

const (
	protoLane protocol.ID = "/gridveil/lane/1"

	helloVersion = 1                // the only one so far
	enrolTimeout = 30 * time.Second // a stranger may stay this long, once it has begun to enrol
)

// link is one connection, from the first byte to the last.
type link struct {
	conn    network.Conn
	lanes   *lane.Link
	ctx     context.Context // ends with the connection
	cancel  context.CancelFunc
	settled chan struct{} // closed once admitted or refused

	// Guarded by Host.mu.
	member    Member
	chain     [][]byte // its certificates
	admitted  bool
	done      bool // settled is closed
	wantsFeed bool
	enrolling bool
	err       error         // why it was refused
	shown     [32]byte      // our certificate that the peer has accepted last
	showing   bool          // another one is being shown
	unkept    time.Time     // since when nobody keeps the peer; zero while somebody does
	since     time.Time     // of admission
	trip      time.Duration // of the hello, wall time; 0 when it was not measured
}

// role reads the peer's role; it never changes on a connection.
func (l *link) role() member.Role { return l.member.Role }

// notifee hears of connections from libp2p.
type notifee Host

func (n *notifee) Listen(network.Network, ma.Multiaddr)      {}
func (n *notifee) ListenClose(network.Network, ma.Multiaddr) {}
func (n *notifee) Connected(_ network.Network, c network.Conn) {
	(*Host)(n).linkOf(c)
}
func (n *notifee) Disconnected(_ network.Network, c network.Conn) { (*Host)(n).lost(c) }

// linkOf finds the link of a connection, or begins one. It is nil when the host is not served or the connection is
// closed.
func (h *Host) linkOf(c network.Conn) *link {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.links[c]; l != nil {
		return l
	}
	if !h.serving || c.IsClosed() {
		go func() { _ = c.Close() }() // not ours to serve; ends at the latest with the socket, which shut closes
		return nil
	}
	l := &link{conn: c, settled: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(h.run)
	cfg := lane.Config{Handle: h.answer(l), Clock: h.clock, Count: h.countLane}
	if c.Stat().Direction == network.DirOutbound {
		cfg.Open = func(ctx context.Context) (lane.Stream, error) { return openOn(ctx, c, protoLane) }
	}
	l.lanes = lane.New(cfg)
	h.links[c] = l
	h.wg.Go(func() { h.attend(l) })
	return l
}

// attend carries a connection through hello and runs its lanes until it ends.
func (h *Host) attend(l *link) {
	if l.conn.Stat().Direction == network.DirOutbound {
		if err := h.greet(l); err != nil {
			h.refuse(l, err)
			return
		}
	} else if !h.awaitHello(l) {
		return
	}
	_ = l.lanes.Serve(l.ctx) // ends only with the connection
	_ = l.conn.Close()       // closed already, or the host shuts
}

// awaitHello waits for the dialler's hello and reports whether it was admitted.
func (h *Host) awaitHello(l *link) bool {
	limit := time.NewTimer(member.HelloTimeout)
	defer limit.Stop()
	for {
		select {
		case <-l.settled:
			h.mu.Lock()
			defer h.mu.Unlock()
			return l.admitted
		case <-l.ctx.Done():
			return false
		case <-limit.C:
		}
		h.mu.Lock()
		enrolling := l.enrolling
		l.enrolling = false
		h.mu.Unlock()
		if !enrolling {
			h.refuse(l, errors.New("no hello in time"))
			return false
		}
		limit.Reset(enrolTimeout)
	}
}

// refuse ends a link without admission, or an admitted one for cause; nil is a link that has ended already.
func (h *Host) refuse(l *link, err error) {
	if l == nil {
		return
	}
	h.mu.Lock()
	l.err = err
	l.settle()
	h.mu.Unlock()
	h.log.Debug("connection refused", "err", err, "admitted", l.admitted)
	l.cancel()
	if errors.Is(err, member.ErrHello) || errors.Is(err, lane.ErrFrame) {
		h.gate.deny(l.conn.RemotePeer())
	}
	_ = l.conn.Close() // nothing more to say
}

// settle closes settled once; Host.mu is held.
func (l *link) settle() {
	if !l.done {
		l.done = true
		close(l.settled)
	}
}

// admit makes the link a member's. A second hello on the same connection (a renewed certificate) updates it; of two that
// crossed, the certificate that ends later counts.
func (h *Host) admit(l *link, a member.Admission, hello member.Hello) error {
	h.mu.Lock()
	if !h.serving || l.ctx.Err() != nil {
		h.mu.Unlock()
		return errors.New("connection ended during hello")
	}
	first := !l.admitted
	if !first && (l.member.Role != a.Member.Role || l.member.Zone != a.Member.Zone) {
		h.mu.Unlock()
		return fmt.Errorf("%w: role or zone changed on an open connection", member.ErrRole)
	}
	feed := first || l.wantsFeed != hello.WantFeed || hello.WantFeed
	if first || !l.member.NotAfter.After(a.Member.NotAfter) {
		l.member, l.chain = a.Member, hello.Chain
	}
	l.admitted, l.wantsFeed = true, hello.WantFeed
	newcomer := first && len(h.peers[a.Member.Peer]) == 0
	if first {
		l.since = h.clock.Now()
		h.peers[a.Member.Peer] = append(h.peers[a.Member.Peer], l)
		delete(h.failures, a.Member.Peer)
	}
	l.settle()
	h.mu.Unlock()
	if a.Member.Role.Backbone() {
		h.trust.Lock()
		// The hello was just verified, so only a full roll can refuse it; registers of this member then wait for a pull.
		_, _ = h.roll.Add(hello.Chain, h.clock.Now())
		h.trust.Unlock()
	}
	if newcomer {
		h.regs.peerUp(a.Member)
	}
	if feed {
		h.regs.feedChanged(a.Member)
	}
	return nil
}

// lost forgets a closed connection.
func (h *Host) lost(c network.Conn) {
	h.mu.Lock()
	l := h.links[c]
	delete(h.links, c)
	if l == nil {
		h.mu.Unlock()
		return
	}
	if l.err == nil {
		l.err = ErrOffline
	}
	l.settle()
	id := c.RemotePeer()
	gone := false
	if ls := h.peers[id]; l.admitted {
		if ls = slices.DeleteFunc(ls, func(o *link) bool { return o == l }); len(ls) > 0 {
			h.peers[id] = ls
		} else {
			delete(h.peers, id)
			gone = true
		}
	}
	h.mu.Unlock()
	l.cancel()
	if gone {
		h.regs.befriend(l.member)
		h.regs.feedChanged(l.member)
	}
}

// serveLane hands an inbound stream to its link.
func (h *Host) serveLane(s network.Stream) {
	l := h.linkOf(s.Conn())
	if l == nil {
		_ = s.Reset() // the connection is gone
		return
	}
	if err := l.lanes.Accept(l.ctx, s); errors.Is(err, lane.ErrFrame) {
		h.log.Debug("neighbour broke the lane protocol", "err", err)
		h.stats.drop(DropBadFrame)
		h.refuse(l, err)
	}
}

// hello is ours, as of now, and the hash of the certificate in it.
func (h *Host) hello(want bool) ([]byte, [32]byte, error) {
	b := h.Bundle()
	h.mu.Lock()
	cert := h.self.CertHash
	m := member.Hello{MinVersion: helloVersion, MaxVersion: helloVersion, Network: b.Network, Now: h.clock.Now(),
		Role: h.self.Role, WantFeed: want, BundleVersion: b.Version, Chain: h.chain}
	h.mu.Unlock()
	raw, err := m.Encode()
	return raw, cert, err
}

// judge decides about a hello that arrived between began and now. The peer wrote its time somewhere in between, so
// only what lies outside of that span counts as clock error.
func (h *Host) judge(raw []byte, remote peer.ID, began time.Time) (member.Hello, member.Admission, member.Verdict, error) {
	m, err := member.ParseHello(raw)
	if err != nil {
		return m, member.Admission{}, member.Verdict{}, err
	}
	at := h.clock.Now()
	if m.Now.Before(at) {
		at = m.Now
		if at.Before(began) {
			at = began
		}
	}
	h.trust.Lock()
	defer h.trust.Unlock()
	gate := member.Gate{Bundle: h.Bundle(), Revoked: h.revoked, MinVersion: helloVersion, MaxVersion: helloVersion}
	a, v, err := gate.Accept(m, remote, at)
	if a.Member.Role.Backbone() {
		h.heard.note(remote, ClockSample{Off: a.ClockOff, At: h.clock.Now()})
	}
	return m, a, v, err
}

// greet is the opener's side of hello: the responder speaks first.
func (h *Host) greet(l *link) error {
	began := h.clock.Now()
	ctx, cancel := context.WithTimeout(l.ctx, member.HelloTimeout)
	defer cancel()
	s, err := openOn(ctx, l.conn, member.ProtocolHello)
	if err != nil {
		return fmt.Errorf("%w: open hello: %w", ErrOffline, redact(err))
	}
	defer s.Reset()                                        // closed before, unless something failed
	_ = s.SetDeadline(time.Now().Add(member.HelloTimeout)) // a stream that cannot set it fails in Read
	raw, err := readSized(s)
	if err != nil {
		return fmt.Errorf("%w: read hello: %w", ErrOffline, redact(err))
	}
	theirs, a, verdict, err := h.judge(raw, l.conn.RemotePeer(), began)
	if err != nil {
		h.stats.drop(DropHello)
		if verdict.Code == member.VerdictClock {
			return fmt.Errorf("%w: %w", ErrClock, err)
		}
		return fmt.Errorf("responder's hello: %w", err)
	}
	ours, cert, err := h.hello(h.regs.wantsFeed(l.conn.RemotePeer()))
	if err != nil {
		return err
	}
	if err := writeSized(s, ours); err != nil {
		return fmt.Errorf("%w: write hello: %w", ErrOffline, redact(err))
	}
	asked := time.Now()
	answer := make([]byte, member.VerdictSize)
	if _, err := io.ReadFull(s, answer); err != nil {
		return fmt.Errorf("%w: read verdict: %w", ErrOffline, redact(err))
	}
	h.timed(l, time.Since(asked))
	if verdict, err = member.ParseVerdict(answer); err != nil {
		return err
	}
	if verdict.Code != member.VerdictOK {
		return verdictError(verdict)
	}
	h.compareClock(verdict.Now, began)
	h.mu.Lock()
	theirs.WantFeed = l.wantsFeed // only the opener of an exchange asks for the feed
	h.mu.Unlock()
	if err := h.admit(l, a, theirs); err != nil {
		return err
	}
	h.markShown(l, cert)
	return s.Close()
}

// timed notes how long the other side of a hello took to answer.
func (h *Host) timed(l *link, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.trip = took
}

// compareClock warns when a relay's time lies more than 30 s outside of the span from began to now. A leaf is admitted
// all the same, but what it signs bears the wrong time.
func (h *Host) compareClock(theirs, began time.Time) {
	if theirs.Before(began.Add(-member.MaxClockOff)) || theirs.After(h.clock.Now().Add(member.MaxClockOff)) {
		h.warn(WarnClockOff)
	} else {
		h.calm(WarnClockOff)
	}
}

// answerHello is the responder's side.
func (h *Host) answerHello(s network.Stream) {
	l := h.linkOf(s.Conn())
	if l == nil || !h.Go(func(context.Context) {
		if err := h.respond(l, s); err != nil {
			h.log.Debug("hello refused", "err", err)
			h.stats.drop(DropHello)
			h.refuse(l, err)
		}
	}) {
		_ = s.Reset() // the host shuts
	}
}

func (h *Host) respond(l *link, s network.Stream) error {
	defer s.Reset()                                        // closed before, unless something failed
	_ = s.SetDeadline(time.Now().Add(member.HelloTimeout)) // a stream that cannot set it fails in Write
	busy := h.beginHello()
	defer h.endHello()
	began := h.clock.Now()
	ours, cert, err := h.hello(false)
	if err != nil {
		return err
	}
	if err := writeSized(s, ours); err != nil {
		return fmt.Errorf("write hello: %w", redact(err))
	}
	asked := time.Now()
	raw, err := readSized(s)
	if err != nil {
		return fmt.Errorf("read hello: %w", redact(err))
	}
	h.timed(l, time.Since(asked))
	theirs, a, verdict, err := h.judge(raw, l.conn.RemotePeer(), began)
	if errors.Is(err, member.ErrHello) {
		return err
	}
	if err == nil && busy {
		verdict = member.Verdict{Code: member.VerdictBusy, RetrySeconds: 10, Now: h.clock.Now()}
		err = ErrBusy
	}
	if err == nil && !h.mayDialIn(a.Member) {
		verdict, err = member.Verdict{Code: member.VerdictRole, Now: h.clock.Now()}, fmt.Errorf("%w: a home serves no %s", member.ErrRole, a.Member.Role)
	}
	if err == nil {
		err = h.admit(l, a, theirs) // before the verdict leaves: the peer may use the connection as soon as it reads it
	}
	if err != nil && verdict.Code == member.VerdictOK {
		verdict.Code = member.VerdictRole
	}
	if _, werr := s.Write(verdict.Encode()); werr != nil && err == nil {
		return fmt.Errorf("write verdict: %w", redact(werr))
	}
	if err != nil {
		h.linger(s)
		return err
	}
	h.markShown(l, cert) // whoever did not accept it has closed, and sent no hello
	return s.Close()
}

func (h *Host) markShown(l *link, cert [32]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.shown = cert
}

// linger lets a refused peer read its verdict before the connection closes.
func (h *Host) linger(s network.Stream) {
	_ = s.CloseWrite()                                 // says that the verdict is all
	_ = s.SetReadDeadline(time.Now().Add(time.Second)) // a peer that does not close in time has had its chance
	_, _ = s.Read(make([]byte, 1))                     // ends when the peer has read and closed
}

// beginHello reports whether too many hellos run at once.
func (h *Host) beginHello() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hellos++
	return h.hellos > h.lim.TransientConns
}

func (h *Host) endHello() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hellos--
}

// recheck closes every connection whose certificate has expired, was revoked or, with newBundle, is no longer accepted.
func (h *Host) recheck(newBundle bool) {
	now := h.clock.Now()
	var open []link // copies, for their fields under mu
	h.mu.Lock()
	for _, l := range h.links {
		if l.admitted {
			open = append(open, *l)
		}
	}
	h.mu.Unlock()
	for i := range open {
		l := &open[i]
		err := h.stillMember(l, newBundle, now)
		if err == nil {
			continue
		}
		end := func() {
			h.stats.drop(DropMembership)
			h.refuse(h.linkOf(l.conn), err)
		}
		ask := newBundle && !errors.Is(err, ErrRevoked) && !errors.Is(err, member.ErrExpired)
		if !ask || !h.Go(func(context.Context) { h.askAgain(h.linkOf(l.conn), end) }) {
			end()
		}
	}
}

// askAgain exchanges hellos with a member whose certificate the new bundle refuses: it may have a renewed one that we
// have not seen yet. end is for one that has not.
func (h *Host) askAgain(l *link, end func()) {
	if l == nil {
		return // gone meanwhile
	}
	if err := h.greet(l); err != nil {
		end()
	}
}

// stillMember says why a member that was admitted would be refused now, nil if it would not. Signatures are checked
// again only under a new bundle.
func (h *Host) stillMember(l *link, newBundle bool, now time.Time) error {
	h.trust.Lock()
	defer h.trust.Unlock()
	switch {
	case now.After(l.member.NotAfter):
		return member.ErrExpired
	case h.revoked.Revoked(l.member):
		return member.ErrRevoked
	case newBundle:
		_, err := h.Bundle().Verify(l.chain, now)
		return err
	}
	return nil
}

// readSized reads a u16 length and that many bytes, at most a hello's.
func readSized(r io.Reader) ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(n[:]))
	if size > member.MaxHello {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", member.ErrHello, size, member.MaxHello)
	}
	b := make([]byte, size)
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeSized(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}
