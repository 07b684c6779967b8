// Package config reads gridveil.toml, the one file that an operator owns.
//
// The program writes it once, in `gridveil init`, and never again. It holds
// facts of the installation only; what people change day by day lives in the
// node's store. [Load] decodes strictly and reports every mistake with file,
// line and column, and the nearest valid key.
package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// FileName is the configuration's name inside a data directory.
const FileName = "gridveil.toml"

// MaxBytes bounds the file; the longest sensible one has a few kilobytes.
const MaxBytes = 256 << 10

// Config is what gridveil.toml may say. Every key is optional but role; zero
// values are replaced by the defaults named in the comments.
type Config struct {
	// Role is what this node does: gateway, ssn, headend, utility, aggregator, wallet or verifier.
	Role string `toml:"role"`
	// Name is shown on the node's own pages and never leaves it. Default: the role.
	Name string `toml:"name"`

	Mesh       Mesh       `toml:"mesh"`
	Web        Web        `toml:"web"`
	Log        Log        `toml:"log"`
	Meter      Meter      `toml:"meter"`
	Battery    Battery    `toml:"battery"`
	PV         PV         `toml:"pv"`
	EVSE       EVSE       `toml:"evse"`
	Hosting    Hosting    `toml:"hosting"`
	Aggregator Aggregator `toml:"aggregator"`
	Wallet     Wallet     `toml:"wallet"`
	Ledger     Ledger     `toml:"ledger"`

	// Dir is the data directory, set by Load.
	Dir string `toml:"-"`
}

// Mesh is how the node meets its neighbours.
type Mesh struct {
	// Listen holds multiaddrs such as "/ip4/0.0.0.0/tcp/4100". Gateways and wallets dial out only and leave it empty, unless a gateway relays.
	Listen []string `toml:"listen"`
	// Announce are the addresses to publish instead of those of listen, behind a NAT or a name: "/dns4/mesh.example.org/tcp/4100".
	Announce []string `toml:"announce"`
	// Parents are the addresses of the SSNs that a gateway or wallet stays connected to, with /p2p/ peer ids. Filled by enrolment.
	Parents []string `toml:"parents"`
	// Relay lets a gateway pass on sealed packets of other homes. It needs listen, a port that the router forwards, and, unless listen
	// names a public address, announce. Everybody in the network then sees that this home is a member: its address, zone,
	// operator and key, and when it is away. With H homes and R relays it takes about 19*H/R MB a day each way; it stops for the day
	// before anything else of daily_mb suffers. Default false.
	Relay bool `toml:"relay"`
	// MinSet is how many homes a message of a gateway or wallet must be able to come from, at least. It only raises the network's own floor; while it is not met, this node sends more cover than others do, which its link shows. Default: the network's.
	MinSet int `toml:"min_set"`
	// MinHomes is how many homes must take part in the network before a gateway or wallet sends private messages. It only raises the network's own floor. Default: the network's.
	MinHomes int `toml:"min_homes"`
	// Decoys lets a gateway or wallet send the burst of packets with which a car asks to charge also when none does: four times a day at random times, experimental. Somebody who watches this line sees that it does so often, and is less sure that a burst is a guest. It takes 0.1 MB a day. Default false.
	Decoys bool `toml:"decoys"`
	// DailyMB caps the traffic of a gateway or wallet per UTC day and direction, 8 or more; alarms are never held back. Default 30.
	DailyMB int `toml:"daily_mb"`
}

// Web is the local dashboard. The same address serves /livez, /readyz and, as Prometheus text without identities,
// /metrics: `gridveil_mesh_bytes_total`, `gridveil_mesh_drop_total`, `gridveil_mesh_gossip_total`, `gridveil_mesh_hold_packets`,
// `gridveil_mesh_loops_lost_ratio`, `gridveil_mesh_rcmgr_blocked_total`, `gridveil_mesh_set`.
type Web struct {
	// Listen is the loopback address of the pages, "off" for none. Default "127.0.0.1:7080".
	Listen string `toml:"listen"`
}

// Log is what goes to standard error.
type Log struct {
	// Level is debug, info, warn or error. Default info.
	Level string `toml:"level"`
}

// Meter is where readings come from.
type Meter struct {
	// Source is p1, replay or sim; empty for a node without a meter. A simulated meter says so in reports and on screen.
	Source string `toml:"source"`
	// Address is "tcp://host:port" or a serial device for p1, a CSV file for replay.
	Address string `toml:"address"`
	// Zone is the IANA time zone of the replayed file and of the household contract. Default "Europe/Berlin".
	Zone string `toml:"zone"`
	// ReadPeriod is how often a reading is taken. Default "15m".
	ReadPeriod Duration `toml:"read_period"`
	// ReportPeriod is how often readings are sent. Default "1h".
	ReportPeriod Duration `toml:"report_period"`
	// ConnectionLimitW is the connection's power limit, for plausibility. Default 17250 (3 x 25 A).
	ConnectionLimitW int `toml:"connection_limit_w"`
}

// Battery is the home battery that masks the load.
type Battery struct {
	// CapacityWh is the usable capacity; 0 means no battery.
	CapacityWh int `toml:"capacity_wh"`
	// PowerW is the inverter's limit both ways. Default 3000.
	PowerW int `toml:"power_w"`
	// Policy is veil, hold, ls2, lkm or none. Default veil.
	Policy string `toml:"policy"`
	// Driver is sim, a model in the simulated house, or sunspec: an inverter that speaks SunSpec (models 124 and 713 or 802, or 702, 704 and 713) over Modbus TCP. Default sim.
	Driver string `toml:"driver"`
	// Address is "tcp://host:port" of a sunspec inverter; the port is usually 502.
	Address string `toml:"address"`
	// Unit is its Modbus unit number, 1 to 247. Default 1.
	Unit int `toml:"unit"`
	// ReserveWh is kept for outages and never discharged. Default 0.
	ReserveWh int `toml:"reserve_wh"`
	// SoCMinPct is the lowest state of charge that the mask uses, in percent. Default 0.
	SoCMinPct int `toml:"soc_min_pct"`
	// SoCMaxPct is the highest. Default 100.
	SoCMaxPct int `toml:"soc_max_pct"`
	// EfficiencyPct is what remains of energy on its way in, and again on its way out. Default 95.
	EfficiencyPct int `toml:"efficiency_pct"`
	// RampWPerS is how fast the mask changes the battery's power, in watts per second; 0 as fast as the inverter can.
	RampWPerS int `toml:"ramp_w_per_s"`
	// LeaveCar keeps the mask from moving the power of a charging car within what its driver agreed to. Default false.
	LeaveCar bool `toml:"leave_car"`
}

// PV is the roof.
type PV struct {
	// PeakW is the installed power; 0 means no PV.
	PeakW int `toml:"peak_w"`
}

// EVSE is the wallbox: the gateway is its OCPP central system.
type EVSE struct {
	// Listen is the address for wallboxes, such as "0.0.0.0:8887"; empty means no wallbox.
	Listen string `toml:"listen"`
	// MaxW is what wiring and fuse allow. Default 11000.
	MaxW int `toml:"max_w"`
	// MeterKey is the wallbox meter's public key (hex or base64 of its DER, point or oca: form), pinned at pairing.
	MeterKey string `toml:"meter_key"`
	// Password is a file (0600) with the station's Basic password.
	PasswordFile string `toml:"password_file"`
	// Station is the OCPP identity that is accepted without a click.
	Station string `toml:"station"`
}

// Hosting is whether, and at what price, strangers may charge here. Prices are
// millionths of a currency unit per kWh and multiples of 5000.
type Hosting struct {
	Enabled bool `toml:"enabled"`
	// Listen is the guest door's address. Default "0.0.0.0:8443".
	Listen string `toml:"listen"`
	// PRes is the price of own solar energy. Default 180000.
	PRes int64 `toml:"p_res"`
	// PGrid is the price of energy bought from the grid. Default 320000.
	PGrid int64 `toml:"p_grid"`
	// POut is paid for energy that a car gives to the house. Default 260000.
	POut int64 `toml:"p_out"`
	// PExport is paid for energy that a car feeds into the grid. Default 80000.
	PExport int64 `toml:"p_export"`
	// Policy is ev-first, home-first or pro-rata. Default ev-first.
	Policy string `toml:"policy"`
	// OfflineGuest is what a guest gets while the aggregator is away: trust, gift or refuse. Default trust.
	OfflineGuest string `toml:"offline_guest"`
	// TrustLimit is the most a trusted offline session may cost, in millionths. Default 10000000.
	TrustLimit int64 `toml:"trust_limit"`
	// OnCut is what happens when the driver's phone is gone for five minutes: stop, gift or unattended. Default stop.
	OnCut string `toml:"on_cut"`
}

// Aggregator is set on EVAGG nodes.
type Aggregator struct {
	// FeePerKWh is the driver's fee in millionths per kWh. Default 15000.
	FeePerKWh int64 `toml:"fee_per_kwh"`
}

// Wallet is set on a driver's node.
type Wallet struct {
	// Listen is the loopback address of the wallet's own page. Default "127.0.0.1:8470".
	Listen string `toml:"listen"`
}

// Ledger is how an operator takes part in the network's ledger.
type Ledger struct {
	// Policy is a policy file for verification; empty takes the network's.
	Policy string `toml:"policy"`
	// Opener says that this node holds an opener's seat: it votes on disputes and opens a pseudonym together with others.
	Opener bool `toml:"opener"`
	// Body is what the operator of a verifier or substation is on the ledger: regulator, consumer-body or dso. Default consumer-body.
	Body string `toml:"body"`
	// IBAN and BIC are where the operator is paid; the ledger holds only their salted hash. Empty: no payment files.
	IBAN string `toml:"iban"`
	BIC  string `toml:"bic"`
	// Founders are the operators that an aggregator's first entry waits for. Default: all that may run a utility or verifier.
	Founders []string `toml:"founders"`
	// Bucket is the length of a settlement day, fixed when the ledger is founded. Default "24h".
	Bucket Duration `toml:"bucket"`
	// MinBatch is the fewest sessions whose sum is opened, fixed when the ledger is founded. Default 32, and 1 in a network that allows class lab.
	MinBatch int `toml:"min_batch"`
	// CloseEvery is after how many settlement days debts are netted, fixed when the ledger is founded. Default 7.
	CloseEvery int `toml:"close_every"`
	// Notice is how long before a pseudonym is opened its driver is warned, fixed when the ledger is founded. Default "72h".
	Notice Duration `toml:"notice"`
	// HTTP is the address at which the aggregator serves its log to everybody, for reading: checkpoint, tiles and proofs, as `gridveil verifier` reads them, such as "0.0.0.0:7081". Empty: members of the mesh alone can read it.
	HTTP string `toml:"http"`
	// Mirrors are who keeps a public copy of the log: "KEY URL" each, as `gridveil verifier --serve` prints its key. The ledger's page says how much of the log they hold and since when.
	Mirrors []string `toml:"mirrors"`
	// Export is how often the aggregator writes its export folder; "0s" only when asked.
	Export Duration `toml:"export"`

	Cluster Cluster `toml:"cluster"`
}

// Cluster lets three or five machines of one operator be one aggregator: one of them leads, and when it is gone another takes
// over within seconds. Off without address. How to set one up: doc/cluster.md.
type Cluster struct {
	// Address is where the other machines reach this one, "host:port"; it turns the cluster on. Only the machines of the cluster may connect there.
	Address string `toml:"address"`
	// Listen is where this machine takes their connections, such as "0.0.0.0:7090". Default: the address.
	Listen string `toml:"listen"`
	// Members are the three or five machines that found the cluster, "KEY HOST:PORT" each, in the same order on all of them, as `gridveil ledger cluster key` prints its own. The others take over what the first one holds. A machine that is added later lists those that are members then.
	Members []string `toml:"members"`
	// Election is how long the machine that leads may be silent before the others choose another. Default "2s".
	Election Duration `toml:"election"`
}

// Roles in the order in which people meet them.
var Roles = []string{"gateway", "ssn", "headend", "utility", "aggregator", "wallet", "verifier"}

// Duration is a time.Duration written as "15m".
type Duration time.Duration

// UnmarshalText reads Go's duration syntax.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("want a duration such as \"15m\", got %q", b)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes Go's duration syntax.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// D is the duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// Load reads and checks dir/gridveil.toml and fills the defaults. Its error
// lists all mistakes, each as file:line:column.
func Load(dir string) (*Config, error) {
	path := filepath.Join(dir, FileName)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no %s in %s\nnext: run `gridveil init --data %s --role ROLE` first", FileName, dir, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c, err := Parse(path, b)
	if err != nil {
		return nil, err
	}
	c.Dir = dir
	return c, nil
}

// Path makes a path of the configuration absolute: relative ones start at Dir.
func (c *Config) Path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.Dir, p)
}

// Hosts says whether the node has a wallbox.
func (c *Config) Hosts() bool { return c.EVSE.Listen != "" }

func (c *Config) fill() {
	defaultTo(&c.Name, c.Role)
	defaultTo(&c.Mesh.DailyMB, 30)
	defaultTo(&c.Web.Listen, "127.0.0.1:7080")
	defaultTo(&c.Log.Level, "info")
	defaultTo(&c.Meter.Zone, "Europe/Berlin")
	defaultTo(&c.Meter.ReadPeriod, Duration(15*time.Minute))
	defaultTo(&c.Meter.ReportPeriod, Duration(time.Hour))
	defaultTo(&c.Meter.ConnectionLimitW, 17250)
	defaultTo(&c.Battery.PowerW, 3000)
	defaultTo(&c.Battery.Policy, "veil")
	defaultTo(&c.Battery.Driver, "sim")
	defaultTo(&c.Battery.Unit, 1)
	defaultTo(&c.Battery.SoCMaxPct, 100)
	defaultTo(&c.Battery.EfficiencyPct, 95)
	defaultTo(&c.EVSE.MaxW, 11000)
	h := &c.Hosting
	defaultTo(&h.Listen, "0.0.0.0:8443")
	defaultTo(&h.PRes, 180_000)
	defaultTo(&h.PGrid, 320_000)
	defaultTo(&h.POut, 260_000)
	defaultTo(&h.PExport, 80_000)
	defaultTo(&h.Policy, "ev-first")
	defaultTo(&h.OfflineGuest, "trust")
	defaultTo(&h.TrustLimit, 10_000_000)
	defaultTo(&h.OnCut, "stop")
	defaultTo(&c.Aggregator.FeePerKWh, 15_000)
	defaultTo(&c.Wallet.Listen, "127.0.0.1:8470")
	defaultTo(&c.Ledger.Body, "consumer-body")
	defaultTo(&c.Ledger.Bucket, Duration(24*time.Hour))
	defaultTo(&c.Ledger.CloseEvery, 7)
	defaultTo(&c.Ledger.Notice, Duration(72*time.Hour))
	defaultTo(&c.Ledger.Cluster.Listen, c.Ledger.Cluster.Address)
	defaultTo(&c.Ledger.Cluster.Election, Duration(2*time.Second))
}

func defaultTo[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
