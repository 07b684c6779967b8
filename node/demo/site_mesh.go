package demo

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"gridveil/node/site"
	"gridveil/node/web"
)

// Members lists every node of the scene.
func (s *Site) Members(context.Context) (out []web.HomeRef) {
	for _, m := range s.scene.Members {
		out = append(out, refOf(m))
	}
	return out
}

// Mesh is one node's end of the mesh.
func (s *Site) Mesh(_ context.Context, id string) (web.Mesh, bool) {
	m := s.scene.Get(id)
	if m == nil {
		return web.Mesh{}, false
	}
	n := m.peek()
	if n == nil {
		return web.Mesh{Node: refOf(m), Offline: true, Headline: titleOf(m) + " is offline: nothing leaves it now."}, true
	}
	return site.MeshPage(refOf(m), n.Env, n.Role), true
}

// SwitchMesh turns private messages and relaying of one node off or on.
func (s *Site) SwitchMesh(_ context.Context, id string, on bool) error {
	m := s.scene.Get(id)
	if m == nil {
		return errors.New("There is no such node in this scene.")
	}
	n := m.peek()
	if n == nil {
		return errors.New("This node is offline. Try again when it runs.")
	}
	return site.SwitchMesh(n.Env, on)
}

// Metrics is nil: a scene has many nodes, and each of them counts for itself.
func (s *Site) Metrics() prometheus.Gatherer { return nil }
