package meshtest

import (
	"net"
	"sync"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Proxy stands on the line between two nodes: it forwards TCP, at a given rate, until it is cut.
type Proxy struct {
	Addr ma.Multiaddr // to dial instead of the target

	target string
	bps    int
	ln     net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	cut   bool
	seen  func(up bool, bytes int)
}

// Watch shows what a stranger on the line sees from now on: each read of the proxy, up from whoever dialled. seen is
// called by several goroutines.
func (p *Proxy) Watch(seen func(up bool, bytes int)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = seen
}

func (p *Proxy) watcher() func(up bool, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// NewProxy forwards to target at bps bits per second in each direction; 0 means as fast as possible.
func NewProxy(t testing.TB, target ma.Multiaddr, bps int) *Proxy {
	t.Helper()
	to, err := manet.ToNetAddr(target)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := manet.FromNetAddr(ln.Addr())
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: addr, target: to.String(), bps: bps, ln: ln, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() { ln.Close(); p.Cut(); p.wg.Wait() })
	return p
}

// Cut breaks every connection and refuses new ones until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

// Mend lets connections through again.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
}

func (p *Proxy) accept() {
	for {
		in, err := p.ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		p.mu.Lock()
		if err != nil || p.cut {
			p.mu.Unlock()
			in.Close()
			if err == nil {
				out.Close()
			}
			continue
		}
		p.conns[in], p.conns[out] = true, true
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(out, in, true) })
		p.wg.Go(func() { p.copy(in, out, false) })
	}
}

// copy forwards one direction; a small buffer makes the rate felt at once.
func (p *Proxy) copy(to, from net.Conn, up bool) {
	defer to.Close()
	defer from.Close()
	for _, c := range []net.Conn{to, from} {
		c.(*net.TCPConn).SetReadBuffer(16 << 10)
		c.(*net.TCPConn).SetWriteBuffer(16 << 10)
	}
	buf := make([]byte, 4<<10)
	free := time.Now()
	for {
		n, err := from.Read(buf)
		if seen := p.watcher(); n > 0 && seen != nil {
			seen(up, n)
		}
		if n > 0 && p.bps > 0 {
			if now := time.Now(); free.Before(now) {
				free = now
			}
			free = free.Add(time.Duration(n) * 8 * time.Second / time.Duration(p.bps))
			time.Sleep(time.Until(free))
		}
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
