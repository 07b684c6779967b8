package p1

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"go.bug.st/serial"

	"gridveil/node/meter"
	"gridveil/node/model"
)

// Scanner cuts telegrams out of a byte stream. The zero value is ready.
type Scanner struct {
	buf  []byte // from a '/' on; empty while looking for one
	Lost uint64 // telegrams given up: too long, or cut by the next one
}

// Feed takes the next bytes and calls fn for each complete telegram. The slice
// given to fn is valid until fn returns.
func (s *Scanner) Feed(p []byte, fn func(raw []byte) error) error {
	for len(p) > 0 {
		if len(s.buf) == 0 {
			at := bytes.IndexByte(p, '/')
			if at < 0 {
				return nil
			}
			p = p[at:]
		}
		line, rest, whole := cutLine(p)
		p = rest
		if len(s.buf) > 0 && s.buf[len(s.buf)-1] == '\n' && line[0] == '/' {
			s.Lost++ // the end of the one before was lost on the line
			s.buf = s.buf[:0]
		}
		s.buf = append(s.buf, line...)
		if len(s.buf) > MaxTelegram {
			s.Lost++
			s.buf = s.buf[:0]
			continue
		}
		if whole && s.ended() {
			raw := s.buf
			s.buf = s.buf[:0]
			if err := fn(raw); err != nil {
				return err
			}
		}
	}
	return nil
}

// cutLine splits after the first line feed.
func cutLine(p []byte) (line, rest []byte, whole bool) {
	if i := bytes.IndexByte(p, '\n'); i >= 0 {
		return p[:i+1], p[i+1:], true
	}
	return p, nil, false
}

// ended says that the newest line starts with '!'.
func (s *Scanner) ended() bool {
	at := bytes.LastIndexByte(s.buf[:len(s.buf)-1], '\n')
	return at >= 0 && s.buf[at+1] == '!'
}

// Waits of a line; sockets use the wall clock.
const (
	dialTimeout  = 10 * time.Second
	readTimeout  = 60 * time.Second // six telegrams of the slowest (DSMR 4) meters
	readChunk    = 1024
	defaultSpeed = 115200
)

// Source reads telegrams from a line. It implements meter.Source and
// meter.Gauge.
type Source struct {
	address string
	opt     Options
	open    func(ctx context.Context) (io.ReadCloser, error)
	good    atomic.Uint64
	bad     atomic.Uint64
}

// New makes a source of an address: "tcp://host:port" (a serial server), or
// "serial:///dev/ttyUSB0" with optional ?baud=9600&mode=7E1 for meters before
// DSMR 4. It opens nothing yet.
func New(address string, opt Options) (*Source, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("p1 address: %w", err)
	}
	s := &Source{address: address, opt: opt}
	switch u.Scheme {
	case "tcp":
		if _, _, err := net.SplitHostPort(u.Host); err != nil || u.Path != "" {
			return nil, fmt.Errorf("p1 address %q: want tcp://host:port", address)
		}
		s.open = dialer(u.Host)
	case "serial":
		mode, err := serialMode(u.Query())
		if err != nil || u.Path == "" || u.Host != "" {
			return nil, fmt.Errorf("p1 address %q: want serial:///dev/ttyUSB0, optionally ?baud=9600&mode=7E1", address)
		}
		s.open = func(context.Context) (io.ReadCloser, error) { return serial.Open(u.Path, mode) }
	default:
		return nil, fmt.Errorf("p1 address %q: want tcp://host:port or serial:///dev/...", address)
	}
	return s, nil
}

func dialer(host string) func(context.Context) (io.ReadCloser, error) {
	return func(ctx context.Context) (io.ReadCloser, error) {
		d := net.Dialer{Timeout: dialTimeout}
		conn, err := d.DialContext(ctx, "tcp", host)
		if err != nil {
			return nil, err
		}
		return deadlineConn{conn}, nil
	}
}

// deadlineConn ends a connection that stays silent.
type deadlineConn struct{ net.Conn }

func (c deadlineConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(readTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func serialMode(q url.Values) (*serial.Mode, error) {
	mode := &serial.Mode{BaudRate: defaultSpeed, DataBits: 8, Parity: serial.NoParity, StopBits: serial.OneStopBit}
	if b := q.Get("baud"); b != "" {
		n, err := strconv.Atoi(b)
		if err != nil || n < 300 || n > 921600 {
			return nil, fmt.Errorf("baud rate %q", b)
		}
		mode.BaudRate = n
	}
	switch q.Get("mode") {
	case "", "8N1":
	case "7E1":
		mode.DataBits, mode.Parity = 7, serial.EvenParity
	default:
		return nil, errors.New("mode")
	}
	return mode, nil
}

// Info describes the source.
func (s *Source) Info() meter.Info {
	return meter.Info{Kind: "p1", Integrity: model.IntegrityChecksum, ShortestPeriod: time.Second}
}

// Link counts good and bad telegrams.
func (s *Source) Link() meter.Link { return meter.Link{Good: s.good.Load(), Bad: s.bad.Load()} }

// Run reads telegrams until ctx ends or the line fails. A bad telegram is
// counted and skipped.
func (s *Source) Run(ctx context.Context, emit func(meter.Frame) error) error {
	line, err := s.open(ctx)
	if err != nil {
		return fmt.Errorf("open p1 line: %w", err)
	}
	// Closing is the only way to end a blocked read of a serial port.
	stop := context.AfterFunc(ctx, func() { line.Close() })
	defer func() {
		if stop() {
			line.Close()
		}
	}()
	var scan Scanner
	chunk := make([]byte, readChunk)
	silent := 0
	for {
		n, err := line.Read(chunk)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read p1 line: %w", err)
		}
		if n == 0 { // go.bug.st/serial reports a timeout or a pulled adapter like this
			if silent++; silent > 3 {
				return errors.New("p1 line is silent; check that the adapter is plugged in")
			}
			continue
		}
		silent = 0
		lost := scan.Lost
		err = scan.Feed(chunk[:n], func(raw []byte) error { return s.take(raw, emit) })
		s.bad.Add(scan.Lost - lost)
		if err != nil {
			return err
		}
	}
}

func (s *Source) take(raw []byte, emit func(meter.Frame) error) error {
	f, err := Decode(raw, s.opt)
	if err != nil {
		s.bad.Add(1)
		return nil // counted; the link gauge shows it
	}
	s.good.Add(1)
	return emit(f)
}

// Decode is Parse and Frame in one.
func Decode(raw []byte, opt Options) (meter.Frame, error) {
	t, err := Parse(raw)
	if err != nil {
		return meter.Frame{}, err
	}
	return t.Frame(opt)
}
