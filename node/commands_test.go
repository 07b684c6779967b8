package node

import (
	"testing"

	ma "github.com/multiformats/go-multiaddr"
)

func TestInvitationsNameAnAddressThatOthersReach(t *testing.T) {
	const loop, home, wide, name = "/ip4/127.0.0.1/tcp/4100", "/ip4/192.168.1.7/tcp/4100", "/ip4/198.51.100.7/tcp/4100", "/dns4/mesh.example.org/tcp/4100"
	for _, c := range []struct {
		what string
		have []string
		want string
	}{
		{"nothing", nil, ""},
		{"a demonstration on loopback", []string{loop}, loop},
		{"every interface of a machine in a house", []string{loop, home}, home},
		{"every interface of a server", []string{loop, home, wide}, wide},
		{"a name", []string{name}, name},
	} {
		addrs, err := multiaddrs(c.have)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := reachable(addrs)
		if ok != (c.want != "") || ok && !got.Equal(ma.StringCast(c.want)) {
			t.Errorf("%s: got %v, want %q", c.what, got, c.want)
		}
	}
}
