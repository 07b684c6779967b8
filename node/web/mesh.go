package web

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// meshPage is the view of the mesh page.
type meshPage struct {
	Members []HomeRef
	Mesh
}

func (s *Server) mesh(w http.ResponseWriter, r *http.Request) {
	members := s.site.Members(r.Context())
	v, ok := s.site.Mesh(r.Context(), pick(r.URL.Query().Get("node"), members))
	if !ok {
		s.fail(w, r, http.StatusNotFound, "No such node here", "A node shows only its own end of the mesh; a demonstration shows all of its nodes.")
		return
	}
	s.show(w, r, "mesh", "mesh", "Mesh", meshPage{members, v}, func() [][]string { return peerTable(v.Peers) })
}

func peerTable(peers []Peer) [][]string {
	out := [][]string{{"role", "operator", "dialled", "since", "round_trip_ms"}}
	for _, p := range peers {
		trip := ""
		if p.RoundTripMs >= 0 {
			trip = strconv.FormatInt(p.RoundTripMs, 10)
		}
		out = append(out, []string{p.Role, p.Operator, strconv.FormatBool(p.Dialled), p.Since.UTC().Format(time.RFC3339), trip})
	}
	return out
}

// maxForm bounds the body of a form.
const maxForm = 1024

// switchMesh takes the switch's form. ServeHTTP has refused foreign origins.
func (s *Server) switchMesh(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	member, asked := r.PostFormValue("node"), r.PostFormValue("switch")
	if asked != "on" && asked != "off" {
		s.fail(w, r, http.StatusBadRequest, "Nothing was switched", "The form wants switch=on or switch=off. Open the Mesh page and use its button.")
		return
	}
	if err := s.site.SwitchMesh(r.Context(), member, asked == "on"); err != nil {
		s.fail(w, r, http.StatusConflict, "Nothing was switched", err.Error())
		return
	}
	http.Redirect(w, r, "/mesh?"+url.Values{"node": {member}}.Encode(), http.StatusSeeOther)
}

// metrics writes the node's counters in the Prometheus text format.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	g := s.site.Metrics()
	if g == nil {
		http.Error(w, "a demonstration has no metrics: a real node serves its own", http.StatusNotFound)
		return
	}
	promhttp.HandlerFor(g, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}
