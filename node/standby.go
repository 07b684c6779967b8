package node

import (
	"context"
	"net"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/durable"
	"gridveil/node/role"
	"gridveil/node/site"
	"gridveil/node/web"
)

// page serves the dashboard of a machine that stands by.
func (m *machine) page(ctx context.Context, addr string) error {
	s, err := web.NewStandby(standby{m}, m.o.Log)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return s.Serve(ctx, l)
}

// standby is a machine as its page shows it.
type standby struct{ *machine }

// Warnings implements web.StandbySite.
func (s standby) Warnings(context.Context) (out []web.Warning) {
	for _, w := range s.warnings(s.known()) {
		out = append(out, web.Warning{Severity: string(w.Severity), Title: w.Title, Text: w.Text, Next: w.Next, Since: w.Since})
	}
	return out
}

// warnings are the standing problems that a machine sees while it stands by. Before
// the first survey there are none of the others.
func (m *machine) warnings(s ClusterStatus) []role.Warning {
	out := []role.Warning{}
	now := m.o.Clock.Now()
	if len(s.Members) > 0 && !s.Quorate() {
		out = append(out, role.Warning{Code: "cluster-stopped", Severity: role.Fault, Title: "No machine of the cluster leads",
			Text: "Sessions and records wait at the homes, and nothing enters the ledger.", Next: s.Next, Since: now})
	}
	if free, err := durable.FreeBytes(m.c.Dir); err == nil && free < lowDisk {
		out = append(out, role.Warning{Code: "cluster-disk", Severity: role.Problem, Title: "The disk of this machine is nearly full",
			Text: "When it is full the machine stops, and the others are one fewer.", Next: "Make room on the disk that holds " + m.c.Dir + ".", Since: now})
	}
	return out
}

// lowDisk is where the warning of a full disk begins; the stores keep a reserve of
// 64 MiB.
const lowDisk = 1 << 30

// Standby implements web.StandbySite.
func (s standby) Standby(context.Context) web.Standby {
	now := time.Now() // of the machines, not of the node
	st := s.cluster.Status()
	at, inStep := s.store().Position()
	v := web.Standby{Title: s.c.Name, Now: now, Headline: "This machine " + s.String() + ".", Commands: standbyCommands,
		Applied: site.Plural(st.Size, "entry", "entries") + ", " + site.Plural(at.N, "change", "changes"),
		Took:    since(now, st.Applied, "nothing since this machine started"), Entry: since(now, s.newest(), "none")}
	for _, m := range st.Members {
		if m.ID == st.Leader {
			v.Leader = m.Address
		}
	}
	place(&v, s.known(), inStep, st.Applied)
	var err error
	if v.Disk, err = durable.FreeBytes(s.c.Dir); err != nil {
		v.Disk = -1
	}
	return v
}

// stuckAfter is when a machine that lacks something and takes nothing is late: two
// surveys.
const stuckAfter = 10 * time.Second

// place fills in how the machines do as last heard, and where this one is among
// them, which took something last at took.
func place(v *web.Standby, c ClusterStatus, inStep bool, took time.Time) {
	v.Standing, v.Word, v.Behind = "ok", "has everything", "nothing"
	for _, m := range c.Members {
		row := web.StandbyMachine{Key: m.Key[:min(8, len(m.Key))], Address: m.Address, This: m.This, Leads: m.Leads, Answers: m.Answers, Text: m.Standing, Heard: "never", Entries: m.Entries, Changes: m.Changes}
		if m.Heard != nil {
			row.Heard = since(v.Now, *m.Heard, "never")
		}
		v.Machines = append(v.Machines, row)
		if m.This && m.Behind > 0 {
			v.Word, v.Behind = "follows", site.Plural(m.Behind, "entry or change", "entries and changes")
			if v.Now.Sub(took) > stuckAfter {
				v.Standing, v.Word = "late", "is behind and takes nothing"
			}
		}
	}
	switch {
	case len(c.Members) == 0:
		v.Standing, v.Word, v.Behind = "late", "asks the others", "not known yet"
	case !inStep:
		v.Standing, v.Word, v.Behind = "late", "takes over", "all that the others hold: it is being taken over"
	case !c.Quorate():
		v.Standing, v.Word = "refused", "nobody leads"
	}
}

// newest is the time that the newest tick of the ledger states.
func (s standby) newest() (at time.Time) {
	s.cluster.Writer().Read(func(m ledger.Machine) { at = m.LogTime() })
	return at
}

// known is how the machines do as last heard; nobody is asked.
func (m *machine) known() ClusterStatus { return m.judge(m.cluster.Known()) }

func since(now, at time.Time, never string) string {
	if at.IsZero() {
		return never
	}
	return site.Span(now.Sub(at)) + " ago"
}

// standbyCommands are what an operator can do here.
var standbyCommands = []web.Pair{
	{Name: "gridveil ledger cluster status", Value: "asks every machine how it does, on any of them"},
	{Name: "gridveil doctor", Value: "checks this machine: its ledger, its store, the lines to the others"},
	{Name: "gridveil ledger cluster add KEY ADDRESS", Value: "takes in a machine, on the one that leads"},
	{Name: "gridveil ledger cluster remove ADDRESS", Value: "takes out a lost one, on the one that leads"},
}
