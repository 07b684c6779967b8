package e2e

import (
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"gridveil/ev/evsim"
	"gridveil/node/gateway"
	"gridveil/node/utility"
)

// folk is one process per role; box is what the gateway must know of its wallbox.
func folk(box string) []citizen {
	return []citizen{
		{name: "utility-a", role: "utility", operator: "northgrid", founder: true},
		{name: "utility-b", role: "utility", operator: "southpower", founder: true},
		{name: "ssn-mill", role: "ssn", operator: "towngrid", zone: "mill", founder: true},
		{name: "evagg", role: "aggregator", operator: "evagg", founder: true, toml: "[ledger]\nbucket = \"1m\"\nfounders = [\"northgrid\", \"southpower\", \"watchdog\"]\n"},
		{name: "watchdog", role: "verifier", operator: "watchdog", founder: true},
		{name: "ssn-elm", role: "ssn", operator: "northgrid", zone: "elm"},
		{name: "ssn-oak", role: "ssn", operator: "southpower", zone: "oak"},
		{name: "headend", role: "headend", operator: "northgrid"},
		{name: "home", role: "gateway", operator: "northgrid", zone: "elm",
			toml: "[meter]\nsource = \"sim\"\nread_period = \"1m\"\nreport_period = \"1m\"\n[pv]\npeak_w = 6000\n" + box},
		{name: "driver", role: "wallet", operator: "southpower", toml: "[wallet]\nlisten = \"off\"\n"},
	}
}

// step is one part of the day. Those marked short run also with -short.
type step struct {
	name  string
	short bool
	run   func(*day)
}

// day is the town and what the steps pass on.
type day struct {
	*town
	point   string    // usage point of the home
	since   time.Time // first full minute at which the home's meter was read
	box     *wallbox
	car     *evsim.Car
	session string // as the wallet calls it
}

var steps = []step{
	{"a network is founded", true, func(d *day) { d.found() }},
	{"every role is enrolled and runs", true, func(d *day) { d.settle(); d.givePassword() }},
	{"everybody is connected", true, func(d *day) { d.connected() }},
	{"the home gets a contract", true, (*day).contract},
	{"the home knows the prices of a day", false, (*day).prices},
	{"the ledger is founded", false, (*day).ledgerFounded},
	{"a driver gets a contract and pseudonyms", false, (*day).customer},
	{"a guest's car charges", false, (*day).pay},
	{"each process is killed while the car charges", false, (*day).killEach},
	{"the grid sets a limit and the car follows", false, (*day).limit},
	{"the car leaves, processes are killed again, the session is settled", false, (*day).leave},
	{"it is settled once, and verifies from files", false, (*day).settledOnce},
	{"host and driver prove it to an outsider", false, (*day).proofs},
	{"the utility reads the meter now", true, (*day).readNow},
	{"readings become a bill without a gap", false, (*day).bill},
	{"what the meter reported is proved to an outsider", false, (*day).evidence},
	{"memory and time to ready", true, (*day).footprint},
	{"every store is sound and everybody stops in order", true, (*day).stopAll},
}

func TestADayOfRealProcesses(t *testing.T) {
	began := time.Now()
	box, toml := newWallbox(t)
	d := &day{town: newTown(t, folk(toml)), box: box}
	for _, s := range steps {
		if testing.Short() && !s.short {
			continue
		}
		at := time.Now()
		s.run(d)
		t.Logf("%5.1f s  %s", time.Since(at).Seconds(), s.name)
	}
	t.Logf("%5.1f s  in all", time.Since(began).Seconds())
}

// contract opens the household's contract and waits until its order has arrived.
func (d *day) contract() {
	d.since = time.Now().Truncate(time.Minute).Add(time.Minute)
	d.point = cli(d.t, "contract", "open", d.p("home").status().Key, "--read", "1m", "--report", "1m", "--data", d.path("utility-a"))
	eventually(d.t, 90*time.Second, func() string {
		for _, c := range cliJSON[[]utility.Contract](d.t, "contract", "list", "--json", "--data", d.path("utility-a")) {
			if hex.EncodeToString(c.UsagePoint[:]) == d.point && c.Placed {
				return ""
			}
		}
		return "the contract is not on the head-end's list"
	})
}

// readNow reads the meter through head-end, substation and gateway. A home lets that
// happen once a minute, and an answer may be lost while processes are killed.
func (d *day) readNow() {
	eventually(d.t, 4*time.Minute, func() string {
		out, err := tryCLI(d.t, "meter", "read", d.point[:8], "--data", d.path("utility-a"))
		if err != nil {
			return err.Error()
		}
		if len(out) < 10 {
			return "no registers in " + out
		}
		return ""
	})
}

// prices waits until the home knows a day of prices.
func (d *day) prices() {
	eventually(d.t, 30*time.Second, func() string {
		s := cliJSON[gateway.SignalStatus](d.t, "signals", "--json", "--data", d.path("home"))
		if len(s.Prices) == 0 || time.Until(s.Prices[len(s.Prices)-1].To) < 24*time.Hour {
			return fmt.Sprintf("prices known: %v", s.Prices)
		}
		return ""
	})
}

// killEach cuts the power of every process, one after the other, while the car
// charges; but not at the moment of a reading, which nobody could take.
func (d *day) killEach() {
	for _, c := range d.cast {
		d.cut(c.name)
		time.Sleep(2 * time.Second) // it works on before the next one fails
	}
	d.connected()
}

func (d *day) cut(name string) {
	if s := time.Now().Second(); s > 55 || s < 2 {
		time.Sleep(time.Duration((62-s)%60) * time.Second)
	}
	d.p(name).kill()
	d.p(name).start()
}

// bill waits for a bill over at least a minute, and holds it against the
// registers: no minute is missing, nothing is counted twice.
func (d *day) bill() {
	var b struct {
		Slots int
		Ends  []struct{ Opening, Closing int64 }
		Lines []struct{ Energy int64 }
		Total int64
	}
	from := d.since
	eventually(d.t, 150*time.Second, func() string {
		to := time.Now().Truncate(time.Minute)
		for ; to.Sub(from) >= time.Minute; to = to.Add(-time.Minute) {
			out, err := tryCLI(d.t, "contract", "bill", d.point, "--from", from.UTC().Format(time.RFC3339), "--to", to.UTC().Format(time.RFC3339), "--data", d.path("utility-a"))
			if err == nil {
				decodeInto(d.t, out, &b)
				return ""
			}
			if to.Sub(from) == time.Minute {
				return err.Error()
			}
		}
		return "a minute between two readings has not passed"
	})
	var billed, metered int64
	for _, l := range b.Lines {
		billed += l.Energy
	}
	for _, e := range b.Ends {
		metered += e.Closing - e.Opening
	}
	if billed != metered || b.Slots < 2 || metered == 0 {
		d.t.Errorf("billed %d mWh of %d metered in %d slots", billed, metered, b.Slots)
	}
}

// Goals of one gateway process.
const (
	goalMemoryMB = 64
	goalReady    = time.Second
)

// footprint wants one gateway process within its memory, and prints what each needs. Times are printed only: other work
// on the machine stretches them.
func (d *day) footprint() {
	home := d.p("home")
	mb := home.memoryMB()
	d.t.Logf("gateway: %.1f MB resident (goal %d), ready in %v (goal %v)", mb, goalMemoryMB, home.took.Round(time.Millisecond), goalReady)
	if mb > goalMemoryMB {
		d.t.Errorf("the gateway holds %.1f MB, want at most %d", mb, goalMemoryMB)
	}
	for _, c := range d.cast {
		p := d.p(c.name)
		d.t.Logf("%-10s %5.1f MB, ready in %v", c.name, p.memoryMB(), p.took.Round(time.Millisecond))
	}
}

// stopAll checks the stores while they are open and closed.
func (d *day) stopAll() {
	cli(d.t, "store", "check", "--data", d.path("home"))
	for i := len(d.cast) - 1; i >= 0; i-- {
		d.p(d.cast[i].name).stop()
	}
	for _, c := range d.cast {
		cli(d.t, "store", "check", "--data", d.path(c.name))
	}
}
