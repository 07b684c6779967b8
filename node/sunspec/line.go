package sunspec

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/simonvetter/modbus"
)

// Waits of a line, in machine time.
const (
	requestTimeout = time.Second      // inverters answer within 100 to 300 ms
	firstPause     = time.Second      // after a failed connection
	longestPause   = 30 * time.Second // doubling up to this
)

// ErrDown means that the connection is lost and the pause before the next try is not over.
var ErrDown = errors.New("no connection")

// Line is the one connection to a host. Requests wait in line for it; it is
// opened by the first and opened again after an error. Safe for concurrent use.
type Line struct {
	address string

	mu    sync.Mutex // held for the length of a request
	conn  *modbus.ModbusClient
	pause time.Duration
	again time.Time // not opened before
}

// Dial makes a line to "tcp://host:port". It opens nothing yet.
func Dial(address string) (*Line, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "tcp" || u.Path != "" {
		return nil, fmt.Errorf("battery address %q: want tcp://host:port, usually port 502", address)
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		return nil, fmt.Errorf("battery address %q: want tcp://host:port, usually port 502", address)
	}
	return &Line{address: address}, nil
}

// Close ends the connection; a later request opens it again.
func (l *Line) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hangUp()
}

func (l *Line) hangUp() {
	if l.conn != nil {
		_ = l.conn.Close() // what is lost with it is asked for again
		l.conn = nil
	}
}

// read gives n registers of a unit, at most 125.
func (l *Line) read(unit uint8, at, n uint16) (out []uint16, err error) {
	err = l.with(unit, func(c *modbus.ModbusClient) (err error) {
		out, err = c.ReadRegisters(at, n, modbus.HOLDING_REGISTER)
		return err
	})
	return out, err
}

// write sets registers of a unit.
func (l *Line) write(unit uint8, at uint16, v ...uint16) error {
	return l.with(unit, func(c *modbus.ModbusClient) error { return c.WriteRegisters(at, v) })
}

func (l *Line) with(unit uint8, do func(*modbus.ModbusClient) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.open(); err != nil {
		return err
	}
	if err := l.conn.SetUnitId(unit); err != nil {
		return err
	}
	err := do(l.conn)
	if err != nil && !refused(err) {
		l.hangUp() // a late answer would be taken for that of the next request
	}
	return err
}

// open connects, unless the last try is too fresh.
func (l *Line) open() error {
	if l.conn != nil {
		return nil
	}
	now := time.Now() // machine time: a socket's pauses do not follow an accelerated clock
	if now.Before(l.again) {
		return ErrDown
	}
	c, err := modbus.NewClient(&modbus.ClientConfiguration{URL: l.address, Timeout: requestTimeout, Logger: log.New(io.Discard, "", 0)})
	if err == nil {
		err = c.Open()
	}
	if err != nil {
		l.pause = min(max(2*l.pause, firstPause), longestPause)
		l.again = now.Add(l.pause)
		return fmt.Errorf("connect to the battery: %w", err)
	}
	l.conn, l.pause = c, 0
	return nil
}

// refused says that the device answered, with an exception.
func refused(err error) bool {
	for _, e := range []error{modbus.ErrIllegalFunction, modbus.ErrIllegalDataAddress, modbus.ErrIllegalDataValue, modbus.ErrServerDeviceFailure,
		modbus.ErrAcknowledge, modbus.ErrServerDeviceBusy, modbus.ErrMemoryParityError, modbus.ErrGWPathUnavailable, modbus.ErrGWTargetFailedToRespond} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
