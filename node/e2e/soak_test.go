package e2e

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

var soakFor = flag.Duration("soak", 3*time.Minute, "with -long: how long a gateway process is watched at rest")

// cpuTime is what the process has used of the processor, from /proc (ticks of 10 ms).
func (p *process) cpuTime() time.Duration {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	const utime, stime = 11, 12 // counted from the state, which follows the name
	var ticks int64
	for _, i := range []int{utime, stime} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			p.t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// TestSoakGateway watches one gateway process on the wall clock: meter, battery, reports and cover in real slots, with
// three substations around it.
func TestSoakGateway(t *testing.T) {
	if !*long {
		t.Skip("minutes of real time; run with -long")
	}
	w := newTown(t, []citizen{
		{name: "utility-a", role: "utility", operator: "northgrid", founder: true},
		{name: "ssn-elm", role: "ssn", operator: "northgrid", zone: "elm", founder: true},
		{name: "ssn-oak", role: "ssn", operator: "southpower", zone: "oak", founder: true},
		{name: "ssn-mill", role: "ssn", operator: "towngrid", zone: "mill", founder: true},
		{name: "headend", role: "headend", operator: "northgrid"},
		{name: "home", role: "gateway", operator: "northgrid", zone: "elm",
			toml: "[meter]\nsource = \"sim\"\nread_period = \"1m\"\nreport_period = \"15m\"\n[pv]\npeak_w = 6000\n"},
	})
	w.found()
	w.settle()
	w.connected()
	home := w.p("home")
	const settling = 30 * time.Second // the start is not rest
	time.Sleep(settling)
	before, began, most := home.cpuTime(), time.Now(), 0.0
	for time.Since(began) < *soakFor {
		time.Sleep(5 * time.Second)
		most = max(most, home.memoryMB())
	}
	share := (home.cpuTime() - before).Seconds() / time.Since(began).Seconds()
	t.Logf("a gateway at rest: %.2f %% of a core over %v, at most %.1f MB resident", 100*share, *soakFor, most)
	if most > goalMemoryMB {
		t.Errorf("the gateway holds %.1f MB, want at most %d", most, goalMemoryMB)
	}
	if share > 0.1 { // ten times the goal: a fault, not a busy machine, which processor time does not count
		t.Errorf("a gateway at rest takes %.0f %% of a core", 100*share)
	}
}
