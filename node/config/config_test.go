package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMistakesAreNamedWithPlaceAndNearestKey(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"unknown key names the nearest", "role = \"gateway\"\n[battery]\ncapacity_kwh = 5", `x.toml:3:1: unknown key battery.capacity_kwh (did you mean battery.capacity_wh?)`},
		{"unknown table", "role = \"ssn\"\n[batery]\npower_w = 5", `x.toml:2:2: unknown key batery`},
		{"wrong multiaddr", "role = \"ssn\"\n[mesh]\nlisten = [\"0.0.0.0:4100\"]", `x.toml:3:1: mesh.listen[0]: want a multiaddr such as "/ip4/0.0.0.0/tcp/4100", got "0.0.0.0:4100"`},
		{"unknown role", "role = \"gatway\"", `x.toml:1:8: role: want one of gateway, ssn`},
		{"no role", "name = \"x\"", `x.toml: role: want one of gateway`},
		{"syntax", "role = ", `x.toml:1:`},
		{"wrong type", "role = \"gateway\"\n[battery]\ncapacity_wh = \"5\"", `x.toml:3:15: `},
		{"bad duration", "role = \"gateway\"\n[meter]\nread_period = \"15 min\"", `want a duration such as "15m"`},
		{"read period off the hour", "role = \"gateway\"\n[meter]\nread_period = \"7m\"", `x.toml:3:15: meter.read_period: want a divisor of an hour`},
		{"open pages", "role = \"gateway\"\n[web]\nlisten = \"0.0.0.0:80\"", `only a loopback address is allowed`},
		{"marking price", "role = \"gateway\"\n[hosting]\np_res = 181234", `x.toml:3:9: hosting.p_res: want millionths per kWh`},
		{"listening leaf", "role = \"wallet\"\n[mesh]\nlisten = [\"/ip4/0.0.0.0/tcp/1\"]", `a wallet dials out only`},
		{"listening gateway", "role = \"gateway\"\n[mesh]\nlisten = [\"/ip4/0.0.0.0/tcp/1\"]", `x.toml:3:1: mesh.listen: a gateway dials out only, unless it relays for others`},
		{"relaying wallet", "role = \"wallet\"\n[mesh]\nrelay = true", `mesh.relay: only a gateway chooses to relay`},
		{"decoys of a substation", "role = \"ssn\"\n[mesh]\ndecoys = true", `mesh.decoys: role ssn sends no private messages of its own`},
		{"relay that does not listen", "role = \"gateway\"\n[mesh]\nrelay = true", `mesh.relay: a home that relays has to be reachable: set mesh.listen`},
		{"relay without a public address", "role = \"gateway\"\n[mesh]\nrelay = true\nlisten = [\"/ip4/0.0.0.0/tcp/4100\"]", `mesh.relay: others cannot dial "/ip4/0.0.0.0/tcp/4100" (it stands for every address of this machine): set mesh.announce`},
		{"relay with a private address", "role = \"gateway\"\n[mesh]\nrelay = true\nlisten = [\"/ip4/0.0.0.0/tcp/4100\"]\nannounce = [\"/ip4/192.168.1.2/tcp/4100\"]", `mesh.announce[0]: others cannot dial "/ip4/192.168.1.2/tcp/4100": it is private`},
		{"relay behind its provider's NAT", "role = \"gateway\"\n[mesh]\nrelay = true\nlisten = [\"/ip4/0.0.0.0/tcp/4100\"]\nannounce = [\"/ip4/100.70.1.2/tcp/4100\"]", `it is private to this house or its provider`},
		{"relay over UDP", "role = \"gateway\"\n[mesh]\nrelay = true\nlisten = [\"/ip4/0.0.0.0/tcp/4100\"]\nannounce = [\"/ip4/198.51.100.7/udp/4100/quic-v1\"]", `mesh.announce[0]: others cannot dial "/ip4/198.51.100.7/udp/4100/quic-v1": it is no address and TCP port`},
		{"relay with text for an address", "role = \"gateway\"\n[mesh]\nrelay = true\nlisten = [\"/ip4/0.0.0.0/tcp/4100\"]\nannounce = [\"home.example.org\"]", `mesh.announce[0]: want a multiaddr`},
		{"floor below nothing", "role = \"gateway\"\n[mesh]\nmin_set = -1", `x.toml:3:11: mesh.min_set: want 0 to 10000, got -1`},
		{"floor of a node that sends nothing", "role = \"ssn\"\n[mesh]\nlisten = [\"/ip4/0.0.0.0/tcp/1\"]\nmin_homes = 30", `mesh.min_homes: role ssn sends no private messages of its own`},
		{"guest without wallbox", "role = \"gateway\"\n[hosting]\nenabled = true", `hosting guests needs a wallbox`},
		{"a battery without an address", "role = \"gateway\"\n[meter]\nsource = \"p1\"\naddress = \"tcp://h:1\"\n[battery]\ncapacity_wh = 5000\ndriver = \"sunspec\"", `battery.address: want the inverter's "tcp://host:port", usually port 502, got ""`},
		{"a battery that may neither charge nor discharge", "role = \"gateway\"\n[battery]\nsoc_min_pct = 90\nsoc_max_pct = 20", `x.toml:3:15: battery.soc_min_pct: want less than battery.soc_max_pct (20), got 90`},
		{"a battery that is all reserve", "role = \"gateway\"\n[battery]\ncapacity_wh = 5000\nreserve_wh = 5000", `x.toml:4:14: battery.reserve_wh: want 0 to less than the highest charge (5000 Wh), got 5000`},
		{"an address of a modelled battery", "role = \"gateway\"\n[battery]\naddress = \"tcp://h:502\"", `x.toml:3:11: battery.address: an address is for driver "sunspec"`},
		{"an inverter of no known size", "role = \"gateway\"\n[meter]\nsource = \"sim\"\n[battery]\ndriver = \"sunspec\"\naddress = \"tcp://h:502\"", `battery.capacity_wh: driver "sunspec" needs the usable capacity`},
		{"a cluster without an address", "role = \"aggregator\"\n[ledger.cluster]\nmembers = [\"x\"]", `ledger.cluster.members: the cluster is off without ledger.cluster.address`},
		{"a cluster of two", "role = \"aggregator\"\n[ledger.cluster]\naddress = \"a:1\"\nmembers = [\"x\", \"y\"]", `ledger.cluster.members: want the 3 or 5 machines that found the cluster, got 2`},
		{"a machine without a key", "role = \"aggregator\"\n[ledger.cluster]\naddress = \"a:1\"\nmembers = [\"carol c:1\"]", `ledger.cluster.members[0]: want a machine's key and address such as`},
		{"a machine twice", "role = \"aggregator\"\n[ledger.cluster]\naddress = \"a:1\"\nmembers = [\"" + strings.Repeat("0a", 32) + " a:1\", \"" + strings.Repeat("0b", 32) + " a:1\"]", `ledger.cluster.members[1]: has the key or address of ledger.cluster.members[0]`},
		{"a cluster that nobody reaches", "role = \"aggregator\"\n[ledger.cluster]\naddress = \"0.0.0.0:7090\"", `ledger.cluster.address: want where the other machines reach this one`},
		{"a cluster of wallets", "role = \"wallet\"\n[ledger.cluster]\naddress = \"a:1\"", `ledger.cluster.address: only an aggregator runs on several machines`},
		{"a hasty cluster", "role = \"aggregator\"\n[ledger.cluster]\naddress = \"a:1\"\nelection = \"1ms\"", `ledger.cluster.election: want 200 to 60000, got 1`},
		{"p1 without address", "role = \"gateway\"\n[meter]\nsource = \"p1\"", `needs an address`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse("x.toml", []byte(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want it to contain %q", err, tc.want)
			}
		})
	}
}

func TestAllMistakesAreListedInFileOrder(t *testing.T) {
	_, err := Parse("x.toml", []byte("role = \"x\"\n[log]\nlevel = \"loud\"\ncolour = 1\n"))
	ps, ok := err.(Problems)
	if !ok || len(ps) != 3 {
		t.Fatalf("got %v, want three problems", err)
	}
	if ps[0].Line != 1 || ps[1].Line != 3 || ps[2].Line != 4 {
		t.Errorf("problems stand at lines %d, %d, %d, want 1, 3, 4", ps[0].Line, ps[1].Line, ps[2].Line)
	}
}

func TestEveryFaultOfABatteryIsListed(t *testing.T) {
	_, err := Parse("x.toml", []byte("role = \"gateway\"\n[battery]\ncapacity_wh = -1\npower_w = 5\npolicy = \"magic\"\ndriver = \"sunspec\"\naddress = \"192.0.2.7\"\nunit = 300\nsoc_max_pct = 101\nefficiency_pct = 7\nramp_w_per_s = -1\nreserve_wh = -4\n"))
	ps, _ := err.(Problems)
	for i, key := range []string{"driver", "capacity_wh", "power_w", "policy", "address", "unit", "soc_max_pct", "efficiency_pct", "ramp_w_per_s", "reserve_wh"} {
		if err == nil || !strings.Contains(err.Error(), "battery."+key+": ") {
			t.Errorf("fault %d, battery.%s, is not listed in\n%v", i, key, err)
		}
	}
	if len(ps) != 10 {
		t.Errorf("%d faults, want 10:\n%v", len(ps), err)
	}
}

func TestDefaultsAreFilled(t *testing.T) {
	c, err := Parse("x.toml", []byte("role = \"gateway\""))
	if err != nil {
		t.Fatal(err)
	}
	if c.Meter.ReadPeriod.D() != 15*time.Minute || c.Hosting.PGrid != 320_000 || c.Name != "gateway" || c.Web.Listen != "127.0.0.1:7080" {
		t.Errorf("defaults: got %+v", c)
	}
}

func TestMissingFileSaysWhatToDo(t *testing.T) {
	_, err := Load(t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "gridveil init") {
		t.Errorf("got %v", err)
	}
}

func TestWrittenConfigurationReadsBack(t *testing.T) {
	dir := t.TempDir()
	for _, role := range Roles {
		if err := os.WriteFile(filepath.Join(dir, FileName), Template(role, "A home"), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(dir)
		if err != nil {
			t.Fatalf("template of %s: %v", role, err)
		}
		if c.Role != role || c.Name != "A home" || c.Dir != dir {
			t.Errorf("template of %s gave %q %q", role, c.Role, c.Name)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, r := range Roles {
		f.Add(Template(r, "x"))
	}
	f.Add([]byte("[[mesh]]\nlisten=1"))
	f.Add([]byte("mesh.listen = [[1]]\nmesh = 3"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := Parse("f", b); err == nil && c.Role == "" {
			t.Error("accepted a file without role")
		}
	})
}

func TestAHomeMayRelayWhereOthersCanDialIt(t *testing.T) {
	for _, mesh := range []string{
		"listen = [\"/ip4/0.0.0.0/tcp/4100\"]\nannounce = [\"/dns4/home.example.org/tcp/4100\"]",
		"listen = [\"/ip4/198.51.100.7/tcp/4100\"]",
		"listen = [\"/ip6/::/tcp/4100\"]\nannounce = [\"/ip6/2001:db8::7/tcp/4100\", \"/ip4/198.51.100.7/tcp/4100\"]",
		"listen = [\"/ip4/127.0.0.1/tcp/4100\"] # a trial on one machine",
	} {
		c, err := Parse("x.toml", []byte("role = \"gateway\"\n[mesh]\nrelay = true\nmin_set = 12\nmin_homes = 40\n"+mesh))
		if err != nil || !c.Mesh.Relay || c.Mesh.MinSet != 12 || c.Mesh.MinHomes != 40 {
			t.Errorf("%s: %v", mesh, err)
		}
	}
}
