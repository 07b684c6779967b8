package config

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/multiformats/go-multiaddr"

	"gridveil/ledger"
	"gridveil/ledger/cluster"
	"gridveil/mesh"
)

// fault is one value that decodes but makes no sense.
type fault struct{ key, text string }

type faults []fault

func (f *faults) add(key, format string, args ...any) {
	*f = append(*f, fault{key, fmt.Sprintf(format, args...)})
}

func (f *faults) oneOf(key, got string, want ...string) {
	if !slices.Contains(want, got) {
		f.add(key, "want one of %s, got %q", strings.Join(want, ", "), got)
	}
}

func (f *faults) between(key string, got, lo, hi int64) {
	if got < lo || got > hi {
		f.add(key, "want %d to %d, got %d", lo, hi, got)
	}
}

func (c *Config) check() faults {
	var f faults
	f.oneOf("role", c.Role, Roles...)
	f.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	c.checkMesh(&f)
	c.checkWeb(&f)
	c.checkMeter(&f)
	c.checkBattery(&f)
	f.between("pv.peak_w", int64(c.PV.PeakW), 0, 100_000)
	c.checkHosting(&f)
	f.between("aggregator.fee_per_kwh", c.Aggregator.FeePerKWh, 0, 1_000_000)
	c.checkLedger(&f)
	return f
}

func (c *Config) checkLedger(f *faults) {
	l := c.Ledger
	f.oneOf("ledger.body", l.Body, "regulator", "consumer-body", "dso")
	if (l.IBAN == "") != (l.BIC == "") {
		f.add("ledger.iban", "ledger.iban and ledger.bic belong together: set both or none")
	}
	if l.Bucket.D() < time.Minute || l.Bucket.D() > 7*24*time.Hour {
		f.add("ledger.bucket", "want 1m to 168h, got %q", l.Bucket.D())
	}
	f.between("ledger.min_batch", int64(l.MinBatch), 0, 1_000_000)
	f.between("ledger.close_every", int64(l.CloseEvery), 1, 366)
	if l.Notice.D() < 0 || l.Notice.D() > 30*24*time.Hour {
		f.add("ledger.notice", "want 0s to 720h, got %q", l.Notice.D())
	}
	if l.HTTP != "" {
		checkHostPort(f, "ledger.http", l.HTTP)
	}
	for i, m := range l.Mirrors {
		key, at, _ := strings.Cut(m, " ")
		if _, err := ledger.ParseVerifierKey(key); err != nil || !strings.HasPrefix(at, "http://") && !strings.HasPrefix(at, "https://") {
			f.add(fmt.Sprintf("ledger.mirrors[%d]", i), "want a key and a URL such as \"verifier-1a2b3c4d+0a1b2c3d+BA… http://mirror.example.org:7082\", got %q", m)
		}
	}
	c.checkCluster(f)
	if l.Export.D() < 0 || l.Export.D() > 0 && l.Export.D() < time.Minute {
		f.add("ledger.export", "want 0s, or 1m and more, got %q", l.Export.D())
	}
}

func (c *Config) checkCluster(f *faults) {
	x := c.Ledger.Cluster
	if x.Address == "" {
		if len(x.Members) > 0 {
			f.add("ledger.cluster.members", "the cluster is off without ledger.cluster.address, where the others reach this machine: set it, or remove the key")
		}
		return
	}
	if c.Role != "aggregator" {
		f.add("ledger.cluster.address", "only an aggregator runs on several machines, and this node is of role %s: remove [ledger.cluster]", c.Role)
	}
	checkReach(f, "ledger.cluster.address", x.Address)
	checkHostPort(f, "ledger.cluster.listen", x.Listen)
	f.between("ledger.cluster.election", x.Election.D().Milliseconds(), 200, 60_000)
	if n := len(x.Members); n != 3 && n != cluster.MaxMembers {
		f.add("ledger.cluster.members", "want the 3 or %d machines that found the cluster, got %d: two cannot outvote a lost one, and four lose no more than three", cluster.MaxMembers, n)
	}
	seen := map[string]string{}
	for i, text := range x.Members {
		key := fmt.Sprintf("ledger.cluster.members[%d]", i)
		m, err := ParseMember(text)
		if err != nil {
			f.add(key, "%v", err)
			continue
		}
		for _, part := range []string{m.ID, m.Address} {
			if other, twice := seen[part]; twice {
				f.add(key, "has the key or address of %s: each machine has its own", other)
			}
			seen[part] = key
		}
	}
}

// ParseMember reads "KEY HOST:PORT", one machine of a cluster.
func ParseMember(text string) (cluster.Member, error) {
	key, at, _ := strings.Cut(strings.TrimSpace(text), " ")
	m := cluster.Member{ID: strings.ToLower(key), Address: strings.TrimSpace(at)}
	_, port, err := net.SplitHostPort(m.Address)
	if b, bad := hex.DecodeString(m.ID); bad != nil || len(b) != ed25519.PublicKeySize || err != nil || port == "" {
		return m, fmt.Errorf("want a machine's key and address such as %q, got %q", "5d0c…64 hexadecimal digits a.example.org:7090", text)
	}
	return m, nil
}

// checkReach wants an address that another machine can dial.
func checkReach(f *faults, key, addr string) {
	host, _, err := net.SplitHostPort(addr)
	if ip, bad := netip.ParseAddr(host); err != nil || host == "" || bad == nil && ip.IsUnspecified() {
		f.add(key, "want where the other machines reach this one, such as \"a.example.org:7090\", got %q", addr)
	}
}

func (c *Config) checkMesh(f *faults) {
	for i, a := range c.Mesh.Listen {
		checkMultiaddr(f, fmt.Sprintf("mesh.listen[%d]", i), a, "/ip4/0.0.0.0/tcp/4100")
	}
	for i, a := range c.Mesh.Announce {
		checkMultiaddr(f, fmt.Sprintf("mesh.announce[%d]", i), a, "/dns4/mesh.example.org/tcp/4100")
	}
	for i, a := range c.Mesh.Parents {
		checkMultiaddr(f, fmt.Sprintf("mesh.parents[%d]", i), a, "/ip4/192.0.2.7/tcp/4100/p2p/12D3KooW…")
	}
	switch leaf := c.Role == "gateway" || c.Role == "wallet"; {
	case c.Mesh.Relay && c.Role != "gateway":
		f.add("mesh.relay", "only a gateway chooses to relay; remove the key")
	case c.Mesh.Relay:
		c.checkRelay(f)
	case c.Role == "gateway" && len(c.Mesh.Listen) > 0:
		f.add("mesh.listen", "a gateway dials out only, unless it relays for others; remove the key, or set mesh.relay = true")
	case leaf && len(c.Mesh.Listen) > 0:
		f.add("mesh.listen", "a %s dials out only; remove the key", c.Role)
	case !leaf && c.Mesh.Decoys:
		f.add("mesh.decoys", "role %s sends no private messages of its own; remove the key", c.Role)
	case !leaf && c.Mesh.MinSet != 0:
		f.add("mesh.min_set", "role %s sends no private messages of its own; remove the key", c.Role)
	case !leaf && c.Mesh.MinHomes != 0:
		f.add("mesh.min_homes", "role %s sends no private messages of its own; remove the key", c.Role)
	}
	f.between("mesh.min_set", int64(c.Mesh.MinSet), 0, 10_000)
	f.between("mesh.min_homes", int64(c.Mesh.MinHomes), 0, 10_000_000)
	if len(c.Mesh.Announce) > 0 && len(c.Mesh.Listen) == 0 {
		f.add("mesh.announce", "a node that listens nowhere cannot be reached: set mesh.listen, or remove the key")
	}
	if c.Mesh.DailyMB < mesh.LeastDailyMB || c.Mesh.DailyMB > 100_000 {
		f.add("mesh.daily_mb", "want %d to 100000, got %d: cover traffic at its slowest, the list of relays and keep-alives alone take %d MB a day",
			mesh.LeastDailyMB, c.Mesh.DailyMB, mesh.LeastDailyMB-1)
	}
}

// checkRelay wants an address of a relaying gateway that others can dial. Loopback addresses are for trials on one machine.
func (c *Config) checkRelay(f *faults) {
	if len(c.Mesh.Listen) == 0 {
		f.add("mesh.relay", "a home that relays has to be reachable: set mesh.listen, such as [\"/ip4/0.0.0.0/tcp/4100\"], and forward that port in the router")
		return
	}
	key, addrs := "mesh.announce", c.Mesh.Announce
	if len(addrs) == 0 {
		key, addrs = "mesh.listen", c.Mesh.Listen
	}
	for i, a := range addrs {
		m, err := multiaddr.NewMultiaddr(a)
		if err != nil {
			continue // told already
		}
		switch why := unreachable(m); {
		case why == "":
		case key == "mesh.listen":
			f.add("mesh.relay", "others cannot dial %q (%s): set mesh.announce to the public address or name under which the router forwards it, such as [\"/dns4/home.example.org/tcp/4100\"]", a, why)
		default:
			f.add(fmt.Sprintf("%s[%d]", key, i), "others cannot dial %q: %s", a, why)
		}
	}
}

// unreachable says why other homes cannot dial an address, "" if they may.
func unreachable(m multiaddr.Multiaddr) string {
	if len(m) != 2 || m[1].Protocol().Code != multiaddr.P_TCP {
		return "it is no address and TCP port such as /ip4/198.51.100.7/tcp/4100"
	}
	switch m[0].Protocol().Code {
	case multiaddr.P_DNS, multiaddr.P_DNS4, multiaddr.P_DNS6:
		return ""
	case multiaddr.P_IP4, multiaddr.P_IP6:
	default:
		return "it is no address and TCP port such as /ip4/198.51.100.7/tcp/4100"
	}
	ip, err := netip.ParseAddr(m[0].Value())
	switch carrier := netip.MustParsePrefix("100.64.0.0/10"); {
	case err != nil:
		return "it holds no IP address"
	case ip.IsUnspecified():
		return "it stands for every address of this machine"
	case ip.IsPrivate(), ip.IsLinkLocalUnicast(), ip.IsMulticast(), carrier.Contains(ip):
		return "it is private to this house or its provider"
	}
	return ""
}

func checkMultiaddr(f *faults, key, got, example string) {
	if _, err := multiaddr.NewMultiaddr(got); err != nil {
		f.add(key, "want a multiaddr such as %q, got %q", example, got)
	}
}

func (c *Config) checkWeb(f *faults) {
	for _, l := range []struct{ key, addr string }{{"web.listen", c.Web.Listen}, {"wallet.listen", c.Wallet.Listen}} {
		if l.addr == "off" {
			continue
		}
		host, _, err := net.SplitHostPort(l.addr)
		if err != nil {
			f.add(l.key, "want an address such as \"127.0.0.1:7080\" or \"off\", got %q", l.addr)
			continue
		}
		if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
			f.add(l.key, "the pages have no password, so only a loopback address is allowed, got %q", l.addr)
		}
	}
}

func (c *Config) checkMeter(f *faults) {
	m := c.Meter
	f.oneOf("meter.source", m.Source, "", "p1", "replay", "sim")
	if (m.Source == "p1" || m.Source == "replay") && m.Address == "" {
		f.add("meter.address", "meter.source %q needs an address", m.Source)
	}
	if _, err := time.LoadLocation(m.Zone); err != nil {
		f.add("meter.zone", "want an IANA time zone such as \"Europe/Berlin\", got %q", m.Zone)
	}
	read, report := m.ReadPeriod.D(), m.ReportPeriod.D()
	if read < time.Minute || read > time.Hour || time.Hour%read != 0 {
		f.add("meter.read_period", "want a divisor of an hour from 1m to 1h, got %q", read)
	} else if report < read || report > 24*time.Hour || report%read != 0 {
		f.add("meter.report_period", "want a multiple of read_period up to 24h, got %q", report)
	}
	f.between("meter.connection_limit_w", int64(m.ConnectionLimitW), 1000, 1_000_000)
}

func (c *Config) checkBattery(f *faults) {
	b := c.Battery
	f.between("battery.capacity_wh", int64(b.CapacityWh), 0, 200_000)
	f.between("battery.power_w", int64(b.PowerW), 100, 50_000)
	f.oneOf("battery.policy", b.Policy, "veil", "hold", "ls2", "lkm", "none")
	f.oneOf("battery.driver", b.Driver, "sim", "sunspec")
	f.between("battery.unit", int64(b.Unit), 1, 247)
	f.between("battery.soc_min_pct", int64(b.SoCMinPct), 0, 99)
	f.between("battery.soc_max_pct", int64(b.SoCMaxPct), 1, 100)
	f.between("battery.efficiency_pct", int64(b.EfficiencyPct), 50, 100)
	f.between("battery.ramp_w_per_s", int64(b.RampWPerS), 0, 50_000)
	if b.SoCMinPct >= b.SoCMaxPct {
		f.add("battery.soc_min_pct", "want less than battery.soc_max_pct (%d), got %d: nothing would be left to mask with", b.SoCMaxPct, b.SoCMinPct)
	}
	if most := b.CapacityWh * b.SoCMaxPct / 100; b.ReserveWh < 0 || b.ReserveWh > 0 && b.ReserveWh >= most {
		f.add("battery.reserve_wh", "want 0 to less than the highest charge (%d Wh), got %d: what is kept for outages cannot mask", most, b.ReserveWh)
	}
	if b.Driver != "sunspec" {
		if b.Address != "" {
			f.add("battery.address", "an address is for driver \"sunspec\": set battery.driver, or remove the key")
		}
		return
	}
	if b.CapacityWh == 0 {
		f.add("battery.capacity_wh", "driver \"sunspec\" needs the usable capacity in Wh, as the inverter's data sheet has it")
	}
	if c.Meter.Source == "" || c.Meter.Source == "replay" {
		f.add("battery.driver", "a battery masks what a meter measures now: set meter.source to p1 or sim, got %q", c.Meter.Source)
	}
	if u, err := url.Parse(b.Address); err != nil || u.Scheme != "tcp" || u.Port() == "" || u.Hostname() == "" || u.Path != "" {
		f.add("battery.address", "want the inverter's \"tcp://host:port\", usually port 502, got %q", b.Address)
	}
}

func (c *Config) checkHosting(f *faults) {
	h := c.Hosting
	if c.EVSE.Listen != "" {
		checkHostPort(f, "evse.listen", c.EVSE.Listen)
	}
	f.between("evse.max_w", int64(c.EVSE.MaxW), 1380, 350_000)
	checkHostPort(f, "hosting.listen", h.Listen)
	if h.Enabled && c.EVSE.Listen == "" {
		f.add("hosting.enabled", "hosting guests needs a wallbox: set evse.listen")
	}
	for key, p := range map[string]int64{"hosting.p_res": h.PRes, "hosting.p_grid": h.PGrid, "hosting.p_out": h.POut, "hosting.p_export": h.PExport} {
		if p < 0 || p > 5_000_000 || p%5000 != 0 {
			f.add(key, "want millionths per kWh from 0 to 5000000 in steps of 5000, so that prices do not mark a host; got %d", p)
		}
	}
	f.oneOf("hosting.policy", h.Policy, "ev-first", "home-first", "pro-rata")
	f.oneOf("hosting.offline_guest", h.OfflineGuest, "trust", "gift", "refuse")
	f.oneOf("hosting.on_cut", h.OnCut, "stop", "gift", "unattended")
	f.between("hosting.trust_limit", h.TrustLimit, 0, 80_000_000)
}

func checkHostPort(f *faults, key, addr string) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		f.add(key, "want host:port, got %q", addr)
	}
}
