package site

import (
	"github.com/prometheus/client_golang/prometheus"

	"gridveil/mesh"
	"gridveil/node/role"
)

// meshMetrics are the counters of a node's mesh. Labels are causes, verdicts,
// lanes and directions: fixed words of the program, never who.
type meshMetrics struct{ env *role.Env }

var (
	descDrop      = describe("drop_total", "Packets, requests and registers thrown away, by cause.", "cause")
	descSet       = describe("set", "Homes that a slow private message of this node could come from; 0 on nodes that send none.")
	descLoops     = describe("loops_lost_ratio", "Share of the last hour's loops that did not come back, 0 to 1.")
	descHold      = describe("hold_packets", "Onion packets that this node holds to be forwarded.")
	descGossip    = describe("gossip_total", "Registers offered to this node, by verdict.", "verdict")
	descBlocked   = describe("rcmgr_blocked_total", "Connections and streams that the resource limits refused.")
	descBytes     = describe("bytes_total", "Bytes on this node's links, by lane and direction; lane onion is private packets.", "lane", "direction")
	meshDescribed = []*prometheus.Desc{descDrop, descSet, descLoops, descHold, descGossip, descBlocked, descBytes}
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("gridveil", "mesh", name), help, labels, nil)
}

// Metrics gathers the counters of a node's mesh: names as in doc/config.md.
func Metrics(env *role.Env) prometheus.Gatherer {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(meshMetrics{env}) // a fresh registry takes it
	return r
}

// Describe lists the metrics.
func (m meshMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range meshDescribed {
		out <- d
	}
}

// Collect reads the counters once.
func (m meshMetrics) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	host, st, health := m.env.Host.Metrics(), m.env.Onion.Stats(), m.env.Onion.Health()
	for _, drops := range []map[mesh.Drop]uint64{host.Drops, st.Dropped} { // the causes of both differ
		for cause, n := range drops {
			counter(descDrop, n, string(cause))
		}
	}
	for verdict, n := range host.Gossip {
		counter(descGossip, n, verdict)
	}
	counter(descBlocked, host.Blocked)
	for _, p := range m.env.Host.Usage().Parts {
		counter(descBytes, uint64(p.Total.Up), p.Name, "sent")
		counter(descBytes, uint64(p.Total.Down), p.Name, "received")
	}
	gauge(descSet, m.env.Onion.Status(mesh.Meter).Set)
	gauge(descLoops, health.LostRatio)
	gauge(descHold, float64(st.Held))
}
