package mesh

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

const (
	protoHTTP protocol.ID = "/gridveil/http/1"

	maxDoorName = 64 // of a listener
	doorQueue   = 16 // streams waiting for Accept; more are reset
	doorTimeout = 10 * time.Second
)

// Listener opens a named byte-stream door for other backbone members, for protocols that bring their own framing such
// as HTTP. It panics on a leaf's host, a second listener of the same name, or a name of more than 64 bytes.
func (h *Host) Listener(name string) net.Listener {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.self.Role.Backbone() || h.doors[name] != nil || len(name) == 0 || len(name) > maxDoorName {
		panic(fmt.Sprintf("mesh: cannot listen as %q: not on a leaf, once per name, at most %d bytes", name, maxDoorName))
	}
	l := &listener{host: h, name: name, room: make(chan struct{}, doorQueue), queue: make(chan *doorConn, doorQueue), done: make(chan struct{})}
	h.doors[name] = l
	return l
}

// Dial opens a byte stream to the listener called name at another backbone member. Errors: ErrOffline, ErrNotAllowed,
// ErrRefused when there is no such listener or its queue is full.
func (h *Host) Dial(ctx context.Context, to peer.ID, name string) (net.Conn, error) {
	if len(name) == 0 || len(name) > maxDoorName {
		return nil, fmt.Errorf("dial: name of %d bytes, want 1 to %d", len(name), maxDoorName)
	}
	l, err := h.reach(ctx, to)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", name, err)
	}
	if self := h.Self(); !self.Role.Backbone() || !l.role().Backbone() {
		return nil, fmt.Errorf("dial %s: %w", name, ErrNotAllowed)
	}
	s, err := openOn(ctx, l.conn, protoHTTP)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w: %w", name, ErrOffline, err)
	}
	_ = s.SetDeadline(time.Now().Add(doorTimeout)) // a stream that cannot set it fails in Write
	var answer [1]byte
	_, err = s.Write(append([]byte{byte(len(name))}, name...))
	if err == nil {
		_, err = io.ReadFull(s, answer[:])
	}
	if err != nil || answer[0] != 0 {
		_ = s.Reset() // refused or broken
		return nil, fmt.Errorf("dial %s: %w", name, ErrRefused)
	}
	_ = s.SetDeadline(time.Time{}) // the caller sets its own
	h.mu.Lock()
	defer h.mu.Unlock()
	return &doorConn{Stream: s, self: h.self, member: l.member}, nil
}

// serveDoor hands an inbound stream to its listener.
func (h *Host) serveDoor(from Member, s network.Stream) {
	_ = s.SetDeadline(time.Now().Add(doorTimeout)) // a stream that cannot set it fails in Read
	name, err := readDoorName(s)
	if err != nil || !from.Role.Backbone() {
		_ = s.Reset() // not for us
		return
	}
	h.mu.Lock()
	l, self := h.doors[name], h.self
	h.mu.Unlock()
	if l == nil || !l.offer(&doorConn{Stream: s, self: self, member: from}) {
		_ = s.Reset() // the dialler sees ErrRefused
	}
}

// readDoorName reads len u8 | name, 1 to 64 bytes.
func readDoorName(r io.Reader) (string, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return "", err
	}
	if n[0] == 0 || n[0] > maxDoorName {
		return "", fmt.Errorf("door name of %d bytes, want 1 to %d", n[0], maxDoorName)
	}
	name := make([]byte, n[0])
	_, err := io.ReadFull(r, name)
	return string(name), err
}

// listener is the accepting side of one door.
type listener struct {
	host  *Host
	name  string
	room  chan struct{} // one for each stream in queue, taken before its dialler is told
	queue chan *doorConn
	done  chan struct{} // closed once, under Host.mu
}

// offer queues a stream and tells the dialler, unless the listener is closed or full.
func (l *listener) offer(c *doorConn) bool {
	select {
	case <-l.done:
		return false
	default:
	}
	select {
	case l.room <- struct{}{}:
	default:
		return false
	}
	if _, err := c.Write([]byte{0}); err != nil {
		<-l.room
		return false
	}
	_ = c.SetDeadline(time.Time{}) // the server sets its own
	l.queue <- c                   // there is room
	return true
}

// Accept waits for the next stream; it returns net.ErrClosed once the listener or the host is closed.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		<-l.room
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept; open connections stay.
func (l *listener) Close() error {
	l.host.mu.Lock()
	defer l.host.mu.Unlock()
	l.shut()
	return nil
}

// shut closes the listener once; Host.mu is held.
func (l *listener) shut() {
	select {
	case <-l.done:
	default:
		close(l.done)
		delete(l.host.doors, l.name)
	}
}

// Addr names the listener.
func (l *listener) Addr() net.Addr { return doorAddr(l.host.ID().String()) }

// doorConn makes a stream a net.Conn.
type doorConn struct {
	network.Stream
	self, member Member
}

func (c *doorConn) LocalAddr() net.Addr  { return doorAddr(c.self.Peer.String()) }
func (c *doorConn) RemoteAddr() net.Addr { return doorAddr(c.member.Peer.String()) }

// doorAddr is a peer id as an address.
type doorAddr string

func (doorAddr) Network() string  { return "gridveil" }
func (a doorAddr) String() string { return string(a) }
