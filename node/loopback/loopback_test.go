package loopback

import (
	"net"
	"strconv"
	"testing"
)

func TestPortsAreFreeAndGivenOnce(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		p, err := Port()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := strconv.Atoi(p); err != nil || n < from || n >= to || seen[p] {
			t.Fatalf("port %q, seen before: %v", p, seen[p])
		}
		seen[p] = true
		l, err := net.Listen("tcp", "127.0.0.1:"+p)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
}
