package node

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"gridveil/mesh"
	"gridveil/node/control"
	"gridveil/node/site"
	"gridveil/node/web"
)

// MeshStatus is what `gridveil mesh status` shows.
type MeshStatus struct {
	Off      bool        `json:"off"` // switched off by the owner
	OffSince *time.Time  `json:"off_since,omitempty"`
	Summary  string      `json:"summary"`
	Classes  []MeshClass `json:"classes"` // of nodes that send private messages
	Peers    int         `json:"peers"`
	Relays   int         `json:"relays"` // in the directory
	Packets  web.Packets `json:"packets"`
	Relay    *MeshRelay  `json:"relay,omitempty"` // of a gateway
	Today    MeshToday   `json:"today"`
	Waiting  []Waiting   `json:"waiting"`
}

// MeshClass says whether messages of a kind may leave.
type MeshClass struct {
	Name     string  `json:"name"`
	Open     bool    `json:"open"`
	Set      float64 `json:"set"`               // homes that a message could come from
	MinSet   int     `json:"min_set,omitempty"` // at least so many; 0 where the class has no such floor
	Homes    int     `json:"homes"`             // that take part
	MinHomes int     `json:"min_homes,omitempty"`
	Reason   string  `json:"reason,omitempty"`
	Next     string  `json:"next,omitempty"`
}

// MeshRelay is how a gateway relays for other homes.
type MeshRelay struct {
	Chosen       bool   `json:"chosen"` // mesh.relay is set
	On           bool   `json:"on"`
	Reason       string `json:"reason,omitempty"` // why not now, and what to do
	PacketsToday uint64 `json:"packets_today"`
	SharePercent int    `json:"share_percent"` // of today's data so far
}

// MeshToday is the traffic of the present UTC day.
type MeshToday struct {
	UpBytes   int64 `json:"up_bytes"`
	DownBytes int64 `json:"down_bytes"`
	CapBytes  int64 `json:"cap_bytes"` // of each direction; 0 without one
}

// Waiting is what has not left yet.
type Waiting struct {
	What  string     `json:"what"`
	Count int        `json:"count"`
	Since *time.Time `json:"since,omitempty"` // of the oldest, where known
}

// SwitchMesh turns private messages and relaying of the node that runs in dir off
// or on, durably, and gives its state after.
func SwitchMesh(ctx context.Context, dir string, on bool) (s MeshStatus, err error) {
	err = control.Call(ctx, dir, "mesh-switch", on, &s)
	return s, err
}

// meshCommands registers the mesh's commands.
func (n *Node) meshCommands() {
	n.Control.Handle("mesh", func(context.Context, json.RawMessage) (any, error) { return n.MeshStatus(), nil })
	n.Control.Handle("mesh-switch", func(_ context.Context, in json.RawMessage) (any, error) {
		var on bool
		if err := json.Unmarshal(in, &on); err != nil {
			return nil, errors.New("want true or false")
		}
		if err := n.Onion.Switch(on); err != nil {
			return nil, err
		}
		return n.MeshStatus(), nil
	})
}

// MeshStatus is the mesh page as the command line shows it.
func (n *Node) MeshStatus() MeshStatus {
	p := site.MeshPage(web.HomeRef{ID: "self", Name: n.Config.Name}, n.Env, n.Role)
	s := MeshStatus{Off: p.Off, OffSince: known(p.OffSince), Summary: p.Headline, Classes: []MeshClass{}, Peers: len(p.Peers) + p.MorePeers, Relays: n.Onion.Health().Relays,
		Packets: p.Packets, Today: MeshToday{p.Traffic.Up, p.Traffic.Down, p.Traffic.Cap}, Waiting: []Waiting{}}
	if r := p.Relaying; r.Shown {
		s.Relay = &MeshRelay{r.Chosen, r.On, r.Why, r.Packets, r.Share}
	}
	for _, c := range p.Classes {
		s.Classes = append(s.Classes, MeshClass{c.Name, c.Open, c.Set, c.MinSet, c.Homes, c.MinHomes, c.Reason, c.Next})
	}
	for _, w := range p.Waiting {
		s.Waiting = append(s.Waiting, Waiting{w.What, w.Count, known(w.Since)})
	}
	return s
}

// known is nil for a time that is not.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// privateClasses says of each private class whether it may send, for `gridveil
// status`. A node that sends none reads the same reason in both.
func (n *Node) privateClasses(out map[string]any) {
	for _, c := range []mesh.Class{mesh.Meter, mesh.Session} {
		out[c.String()] = "ok"
		if err := n.Onion.Status(c).Err; err != nil {
			out[c.String()] = err.Error()
		}
	}
}
