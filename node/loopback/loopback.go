// Package loopback finds ports for nodes that run side by side on one machine: in
// a demonstration and in tests.
package loopback

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports are drawn from this range: below those that operating systems give to
// outgoing connections, so that no connection of a node that runs already takes
// the port of one that is still to open.
const (
	from = 10_000
	to   = 30_000
)

var given struct {
	sync.Mutex
	ports map[int]bool
}

// ErrNone means that no free port was found.
var ErrNone = errors.New("no free port on loopback between 10000 and 30000")

// Port is a TCP port that nothing listens on and that this process has not been
// given before. Nothing is reserved: another process may still take it.
func Port() (string, error) {
	given.Lock()
	defer given.Unlock()
	if given.ports == nil {
		given.ports = map[int]bool{}
	}
	for range 1000 {
		port := from + rand.IntN(to-from)
		if given.ports[port] {
			continue
		}
		text := strconv.Itoa(port)
		l, err := net.Listen("tcp", "127.0.0.1:"+text)
		if err != nil {
			continue
		}
		given.ports[port] = true
		return text, l.Close()
	}
	return "", ErrNone
}
