package cluster

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"gridveil/ledger"
	"gridveil/ledger/store"
)

// What a connection between members is for, as negotiated in TLS.
const (
	protoRaft     = "gridveil-cluster-raft/1"
	protoFetch    = "gridveil-cluster-fetch/1"
	protoBeside   = "gridveil-cluster-beside/1"
	protoStanding = "gridveil-cluster-standing/1"
)

// Limits of connections, on the wall clock.
const (
	handshakeTimeout = 5 * time.Second
	fetchTimeout     = 30 * time.Second // for one part of the log
	maxFetches       = 16               // at once; there are four other members at most
)

// link carries everything between members: TLS 1.3, where both sides show a
// certificate of their member key and accept no key that is no member's.
type link struct {
	node   *Node
	ln     net.Listener
	cert   tls.Certificate
	raft   chan net.Conn
	addr   net.Addr
	closed chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
}

// advertised is the address under which the others reach a member.
type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }

func newLink(n *Node, ln net.Listener) (*link, error) {
	cert, err := selfSigned(n.cfg.Key)
	if err != nil {
		return nil, err
	}
	l := &link{node: n, ln: ln, cert: cert, raft: make(chan net.Conn), addr: advertised(n.cfg.Address), closed: make(chan struct{})}
	l.wg.Go(l.accept)
	return l, nil
}

// selfSigned wraps a member key into the certificate that TLS wants; only its key
// counts.
func selfSigned(key ed25519.PrivateKey) (tls.Certificate, error) {
	t := x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, &t, &t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make the certificate of this member: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func (l *link) config(allowed func(id raft.ServerID) bool, protos ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{l.cert}, ClientAuth: tls.RequireAnyClientCert,
		NextProtos: protos, SessionTicketsDisabled: true,
		InsecureSkipVerify: true, // VerifyConnection compares the key itself
		VerifyConnection: func(s tls.ConnectionState) error {
			key, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
			if !ok || !allowed(raft.ServerID(hex.EncodeToString(key))) {
				return errors.New("the key of the other side is no member's")
			}
			if s.NegotiatedProtocol == "" {
				return errors.New("the other side names no protocol of the cluster")
			}
			return nil
		}}
}

// accept takes connections until the link is closed.
func (l *link) accept() {
	fetches := make(chan struct{}, maxFetches)
	cfg := l.config(l.node.member, protoRaft, protoFetch, protoBeside, protoStanding)
	for {
		conn, err := l.ln.Accept()
		if err != nil {
			select {
			case <-l.closed:
				return
			case <-time.After(handshakeTimeout / 100): // such as too many open files
				continue
			}
		}
		l.wg.Go(func() { l.greet(tls.Server(conn, cfg), fetches) })
	}
}

// greet learns who is there and what for.
func (l *link) greet(conn *tls.Conn, fetches chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		l.node.log.Debug("connection to the cluster refused", "err", err)
		conn.Close() // nothing was said
		return
	}
	serve := l.node.serveFetch
	switch conn.ConnectionState().NegotiatedProtocol {
	case protoRaft:
		select {
		case l.raft <- conn:
		case <-l.closed:
			conn.Close() // the other side tries again
		}
		return
	case protoBeside:
		serve = l.node.serveBeside
	case protoStanding:
		serve = l.node.serveStanding
	}
	defer conn.Close() // what was asked for is sent or the reader is gone
	select {
	case fetches <- struct{}{}:
		defer func() { <-fetches }()
	default:
		return
	}
	if err := serve(conn); err != nil {
		l.node.log.Debug("answer to another member", "err", err)
	}
}

// Accept implements raft.StreamLayer.
func (l *link) Accept() (net.Conn, error) {
	select {
	case c := <-l.raft:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Addr implements raft.StreamLayer.
func (l *link) Addr() net.Addr { return l.addr }

// Close implements raft.StreamLayer; it does not wait for open connections.
func (l *link) Close() (err error) {
	l.once.Do(func() {
		close(l.closed)
		err = l.ln.Close()
	})
	return err
}

// Dial implements raft.StreamLayer.
func (l *link) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return l.dial(ctx, addr, protoRaft)
}

func (l *link) dial(ctx context.Context, addr raft.ServerAddress, proto string) (net.Conn, error) {
	raw, err := l.node.cfg.Dial(ctx, "tcp", string(addr))
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, l.config(func(id raft.ServerID) bool { return l.node.at(id, addr) }, proto))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("member at %s: %w", addr, err), raw.Close())
	}
	return conn, nil
}

// serveFetch answers one request for entries, counted over all shards: from:u64
// to:u64 is answered with parts of len:u32 and a bundle, in order, and a part of
// length 0.
func (n *Node) serveFetch(conn net.Conn) error {
	var ask [16]byte
	if err := conn.SetDeadline(time.Now().Add(fetchTimeout)); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, ask[:]); err != nil {
		return err
	}
	from, to := binary.BigEndian.Uint64(ask[:]), binary.BigEndian.Uint64(ask[8:])
	if size, _ := n.size(); to > size || from > to {
		return fmt.Errorf("%w: entries %d to %d of %d", ledger.ErrMalformed, from, to, size)
	}
	var part []byte
	count := 0
	flush := func() error {
		if err := conn.SetDeadline(time.Now().Add(fetchTimeout)); err != nil {
			return err
		}
		_, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(part))), part...))
		part, count = part[:0], 0
		return err
	}
	err := n.entries(from, to, func(raw []byte) error {
		if count == store.MaxGroup || len(part)+2+len(raw) > n.store().GroupBytes() {
			if err := flush(); err != nil {
				return err
			}
		}
		part, count = ledger.AppendBundle(part, raw), count+1
		return nil
	})
	if err == nil && count > 0 {
		err = flush()
	}
	if err == nil {
		err = flush() // the end
	}
	return err
}

// catchUp fetches the entries up to a size from other members and takes them
// through the same commit path.
func (n *Node) catchUp(size uint64, root ledger.Hash) error {
	var errs []error
	for _, m := range n.members() {
		if own, _ := n.size(); own >= size {
			break
		}
		if raft.ServerID(m.ID) != n.self {
			errs = append(errs, n.fetch(m, size))
		}
	}
	if own, _ := n.size(); own < size {
		return errors.Join(append(errs, fmt.Errorf("%w: this store has %d of %d entries and no member sends the rest", ledger.ErrBusy, own, size))...)
	}
	own, err := n.store().RootAt(size - n.base())
	if err == nil && own != root {
		err = n.fatal(fmt.Errorf("%w: members have different roots at size %d", ledger.ErrFork, size))
	}
	return err
}

// fetch takes the entries up to a size from one member.
func (n *Node) fetch(m Member, to uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	conn, err := n.link.dial(ctx, raft.ServerAddress(m.Address), protoFetch)
	if err != nil {
		return fmt.Errorf("fetch entries: %w", err)
	}
	defer conn.Close() // everything was read, or nothing more is wanted
	from, _ := n.size()
	ask := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, from), to)
	if _, err := conn.Write(ask); err != nil {
		return fmt.Errorf("fetch entries: %w", err)
	}
	r := bufio.NewReader(conn)
	for {
		if err := conn.SetDeadline(time.Now().Add(fetchTimeout)); err != nil {
			return err
		}
		raw, err := readPart(r)
		if err != nil || raw == nil {
			return err
		}
		if size, _ := n.size(); size+uint64(len(raw)) > to {
			return fmt.Errorf("%w: a member sends more entries than were asked for", ledger.ErrMalformed)
		}
		list, err := n.take(raw, nil)
		if err != nil {
			return err
		}
		for _, x := range list {
			if x.Err != nil {
				return n.fatal(fmt.Errorf("%w: an entry of another member is refused: %w", ledger.ErrFork, x.Err))
			}
		}
	}
}

// readPart reads the next part of an answer; nil is its end.
func readPart(r io.Reader) ([][]byte, error) {
	var h [4]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, fmt.Errorf("fetch entries: %w", err)
	}
	size := binary.BigEndian.Uint32(h[:])
	if size == 0 {
		return nil, nil
	}
	if size > maxProposal {
		return nil, fmt.Errorf("%w: part of %d bytes", ledger.ErrMalformed, size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("fetch entries: %w", err)
	}
	raw, err := ledger.ParseBundle(b, store.MaxGroup)
	if err == nil && len(raw) == 0 {
		err = fmt.Errorf("%w: empty part", ledger.ErrMalformed)
	}
	return raw, err
}

// serveBeside sends the state beside the log to a member that asks at:u64, the
// least position that helps it: parts of len:u32 and bytes, and one of length 0.
func (n *Node) serveBeside(conn net.Conn) error {
	var ask [8]byte
	if err := conn.SetDeadline(time.Now().Add(fetchTimeout)); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, ask[:]); err != nil {
		return err
	}
	if n.cfg.Beside == nil {
		return nil
	}
	if own, _, known := n.cfg.Beside.Position(); !known || own < binary.BigEndian.Uint64(ask[:]) {
		return nil // somebody else has it
	}
	w := bufio.NewWriterSize(partWriter{conn}, partBytes)
	if err := errors.Join(n.cfg.Beside.Dump(w), w.Flush()); err != nil {
		return err
	}
	_, err := partWriter{conn}.Write(nil) // the end
	return err
}

const partBytes = 64 << 10 // of the state beside the log

// partWriter sends what is written as one part.
type partWriter struct{ conn net.Conn }

func (w partWriter) Write(b []byte) (int, error) {
	if err := w.conn.SetDeadline(time.Now().Add(fetchTimeout)); err != nil {
		return 0, err
	}
	if _, err := w.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// partReader reads parts as one stream, which ends with the part of length 0.
type partReader struct {
	r    io.Reader
	left uint32
	done bool
	more func() error // before each part
}

func (p *partReader) Read(b []byte) (int, error) {
	if p.left == 0 && !p.done {
		var h [4]byte
		if err := p.more(); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(p.r, h[:]); err != nil {
			return 0, errors.Join(io.ErrUnexpectedEOF, err)
		}
		p.left = binary.BigEndian.Uint32(h[:])
		p.done = p.left == 0
	}
	if p.done {
		return 0, io.EOF
	}
	n, err := p.r.Read(b[:min(len(b), int(p.left))])
	p.left -= uint32(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// fetchBeside takes over the state of one member.
func (n *Node) fetchBeside(m Member, at uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	conn, err := n.link.dial(ctx, raft.ServerAddress(m.Address), protoBeside)
	if err != nil {
		return fmt.Errorf("fetch the state beside the ledger: %w", err)
	}
	defer conn.Close() // everything was read, or nothing more is wanted
	more := func() error { return conn.SetDeadline(time.Now().Add(fetchTimeout)) }
	if err := more(); err != nil {
		return err
	}
	if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, at)); err != nil {
		return fmt.Errorf("fetch the state beside the ledger: %w", err)
	}
	r := &partReader{r: bufio.NewReader(conn), more: more}
	if err := n.cfg.Beside.Load(r); err != nil {
		return fmt.Errorf("fetch the state beside the ledger: %w", err)
	}
	return nil
}
