package gateway

import (
	"net"
	"strings"
	"testing"
)

func TestALinkForGuestsNamesAnAddressThatTheyCanDial(t *testing.T) {
	for _, host := range []string{"192.168.178.20", "127.0.0.1", "fd00::20", "gateway.local"} {
		if got, err := reachable(host); err != nil || got != host {
			t.Errorf("a door on %s: got %q, %v", host, got, err)
		}
	}
	for _, all := range []string{"", "0.0.0.0", "::"} {
		got, err := reachable(all)
		if err != nil {
			if !strings.Contains(err.Error(), "--gateway") {
				t.Errorf("a door on %q: %v does not say what to do", all, err)
			}
			continue // this machine stands alone
		}
		if ip := net.ParseIP(got); ip == nil || !ip.IsGlobalUnicast() {
			t.Errorf("a door on %q: guests would dial %q", all, got)
		}
	}
}
