package mesh_test

import (
	"errors"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

// A home that has much to say, on a line with the smallest cap: it must come to the end of the day with less than the
// cap on the wire, cover traffic and a restart included, and its alarms go to the last.
func TestADaysBytesStayUnderTheCap(t *testing.T) {
	const capBytes = mesh.LeastDailyMB << 20
	n := meshtest.Start(t, meshtest.Options{SSNs: 3, Homes: 1, Onion: true, Speed: 8000, Ready: collect(func(mesh.Service, []byte) {}),
		Config: func(d *meshtest.Node, c *mesh.Config) { c.DailyMB = mesh.LeastDailyMB }})
	n.AwaitDirectory()
	home, to := n.Homes[0], n.SSNs[0].Member.Peer
	var refused [2]bool // reports and other requests
	most, alarms, restarted := mesh.ThriftNone, 0, false
	midnight := meshtest.Epoch.Truncate(24 * time.Hour).Add(24 * time.Hour)
	var loops uint64 // sent once nothing but slots and alarms was
	var up, down int64
	warned := false
	for n.Clock.Now().Before(midnight.Add(-30 * time.Minute)) {
		for i, s := range []mesh.Service{mesh.Report, mesh.Probe} {
			if _, err := home.Host.Call(t.Context(), to, s, make([]byte, 20<<10)); errors.Is(err, mesh.ErrBusy) {
				refused[i] = true
			}
		}
		u, d := home.Host.Spent()
		if u > capBytes || d > capBytes {
			t.Fatalf("at %v the home has sent %d and received %d bytes of %d", n.Clock.Now(), u, d, capBytes)
		}
		if n.Clock.Now().Before(midnight) { // a busy machine may have slept over it
			up, down, warned = u, d, warned || warns(home.Host, mesh.WarnDataCap)
		}
		level := home.Host.Thrift()
		most = max(most, level)
		if level >= mesh.ThriftScarce {
			loops = max(loops, home.Onion.Stats().LoopsSent)
			if alarms < 100 { // their bytes count as well, and may pass the cap
				if _, err := home.Host.CallParents(t.Context(), mesh.Alarm, []byte("voltage lost")); err == nil {
					alarms++
				}
			}
			time.Sleep(10 * time.Millisecond) // an alarm in a minute of the day
		}
		if level >= mesh.ThriftSlow && !restarted {
			restarted = true
			up, down := home.Host.Spent()
			home.Restart()
			if u, d := home.Host.Spent(); u < up || d < down {
				t.Fatalf("after a restart the home counts %d and %d bytes, before it %d and %d", u, d, up, down)
			}
			meshtest.Eventually(t, "the home is back", func() bool { _, up := home.Host.Connected(to); return up })
		}
	}
	t.Logf("before midnight: %.1f%% up, %.1f%% down of the cap; thrift %d, %d alarms, %d loops at the end",
		100*float64(up)/capBytes, 100*float64(down)/capBytes, most, alarms, loops)
	if !refused[0] || !refused[1] || alarms == 0 || !restarted || loops == 0 {
		t.Errorf("reports refused %t, requests %t, %d alarms, restarted %t, %d loops", refused[0], refused[1], alarms, restarted, loops)
	}
	if max(up, down) < capBytes/2 {
		t.Error("the home was held back although half of its day's data was left")
	}
	if !warned {
		t.Error("nobody is told that the day's data is nearly used")
	}
	meshtest.Eventually(t, "the next day all is well", func() bool {
		_, err := home.Host.Call(t.Context(), to, mesh.Report, []byte("r"))
		return err == nil && !warns(home.Host, mesh.WarnDataCap)
	})
}

func TestOnlyALeafsOwnBytesAreCounted(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Homes: 1, Speed: 1})
	home, ssn := n.Homes[0], n.SSNs[0]
	before, _ := home.Host.Spent()
	if _, err := home.Host.Call(t.Context(), ssn.Member.Peer, mesh.Probe, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	up, down := home.Host.Spent()
	// Noise, yamux and TCP come on top of what the lane carries, both ways.
	if up -= before; up < 101_000 || up > 120_000 || down < 101_000 {
		t.Errorf("100,000 bytes there and back count as %d up and %d down in all", up, down)
	}
	if up, down := ssn.Host.Spent(); up != 0 || down != 0 || ssn.Member.Role.Leaf() {
		t.Errorf("a %v has no cap and counts %d and %d", member.RoleSSN, up, down)
	}
}
