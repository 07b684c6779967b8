package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

//go:embed templates/*.html static
var files embed.FS

// livePeriod is how often live values are compared and sent, in wall time.
const livePeriod = 500 * time.Millisecond

// maxStreams bounds how many pages may be live at once.
const maxStreams = 64

// Server is the dashboard as an http.Handler.
type Server struct {
	site    Site
	log     *slog.Logger
	mux     *http.ServeMux
	pages   map[string]*template.Template
	assets  map[string]string // static path -> short hash, for immutable URLs
	streams chan struct{}
	kind    string // of the site; an open page of another one loads anew
}

// pages in the order of the menu.
var menu = []struct{ Name, Path, Label, Icon string }{
	{"overview", "/", "Overview", "home"},
	{"energy", "/energy", "Energy", "bolt"},
	{"sessions", "/sessions", "Sessions", "car"},
	{"guests", "/guests", "Guests", "key"},
	{"money", "/money", "Money", "coin"},
	{"ledger", "/ledger", "Ledger", "book"},
	{"disputes", "/disputes", "Disputes", "scale"},
	{"alarms", "/alarms", "Alarms", "bell"},
	{"privacy", "/privacy", "Privacy", "eye"},
	{"mesh", "/mesh", "Mesh", "net"},
}

// New makes the dashboard of site.
func New(site Site, log *slog.Logger) (*Server, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s, err := newServer(site, log, "overview", "energy", "sessions", "session", "guests", "ledger", "entry", "money", "disputes", "alarms", "privacy", "party", "mesh", "error")
	if err != nil {
		return nil, err
	}
	s.routes()
	return s, nil
}

// newServer prepares a server with these pages and no routes.
func newServer(site Site, log *slog.Logger, names ...string) (*Server, error) {
	s := &Server{site: site, log: log, mux: http.NewServeMux(), pages: map[string]*template.Template{},
		assets: map[string]string{}, streams: make(chan struct{}, maxStreams)}
	if err := s.hashAssets(); err != nil {
		return nil, err
	}
	for _, name := range names {
		t, err := template.New("layout.html").Funcs(s.funcs()).ParseFS(files, "templates/layout.html", "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("page %s: %w", name, err)
		}
		s.pages[name] = t
	}
	return s, nil
}

func (s *Server) routes() {
	s.mux.HandleFunc("GET /{$}", s.overview)
	s.mux.HandleFunc("GET /energy", s.energy)
	s.mux.HandleFunc("GET /sessions", s.sessions)
	s.mux.HandleFunc("GET /sessions/{id}", s.session)
	s.mux.HandleFunc("GET /guests", s.guests)
	s.mux.HandleFunc("GET /ledger", s.ledger)
	s.mux.HandleFunc("GET /ledger/{index}", s.entry)
	s.mux.HandleFunc("GET /ledger/{index}/proof", s.proof)
	s.mux.HandleFunc("GET /money", s.money)
	s.mux.HandleFunc("GET /money/files/{name}", s.paymentFile)
	s.mux.HandleFunc("GET /disputes", s.disputes)
	s.mux.HandleFunc("GET /alarms", s.alarms)
	s.mux.HandleFunc("GET /privacy", s.privacy)
	s.mux.HandleFunc("POST /privacy/battery", s.orderBattery)
	s.mux.HandleFunc("POST /privacy/dial", s.turnDial)
	s.mux.HandleFunc("GET /party/{id}", s.party)
	s.mux.HandleFunc("GET /mesh", s.mesh)
	s.mux.HandleFunc("POST /mesh", s.switchMesh)
	s.mux.HandleFunc("GET /metrics", s.metrics)
	s.commonRoutes()
}

// commonRoutes are those that every site has.
func (s *Server) commonRoutes() {
	s.mux.HandleFunc("GET /live", s.live)
	s.mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "alive") })
	s.mux.HandleFunc("GET /readyz", s.readyz)
	s.mux.HandleFunc("GET /static/", s.static)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, http.StatusNotFound, "There is no such page", "The address may be from an older version. Everything is reachable from the overview.")
	})
}

// ServeHTTP answers a request; state-changing requests of other origins and
// names that are not this machine's are refused.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	if !localName(r.Host) {
		// A page elsewhere that points its own name at this machine must not read it.
		http.Error(w, "gridveil answers to localhost only", http.StatusMisdirectedRequest)
		return
	}
	http.NewCrossOriginProtection().Handler(s.mux).ServeHTTP(w, r)
}

func localName(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	ip := net.ParseIP(strings.Trim(name, "[]"))
	return name == "localhost" || strings.HasSuffix(name, ".localhost") || ip != nil && ip.IsLoopback()
}

// Serve answers on l until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("dashboard: %w", err)
	}
	return nil
}

// page is what every template gets.
type page struct {
	Meta   Meta
	Site   string // kind of the site
	Menu   []menuItem
	Active string
	Title  string
	Path   string // of this page, for the JSON and CSV links
	Asked  string // what its address asked for besides, encoded
	CSV    bool
	View   any
}

// As is the page's own address in another format.
func (p page) As(format string) string {
	if p.Asked == "" {
		return p.Path + "?format=" + format
	}
	return p.Path + "?" + p.Asked + "&format=" + format
}

type menuItem struct {
	Path, Label, Icon string
	Active            bool
}

// show renders a page, or its view as JSON when asked for.
func (s *Server) show(w http.ResponseWriter, r *http.Request, name, active, title string, view any, csv func() [][]string) {
	w.Header().Set("Cache-Control", "no-store")
	switch r.URL.Query().Get("format") {
	case "json":
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(view) // the reader hung up
		return
	case "csv":
		if csv == nil {
			s.fail(w, r, http.StatusNotFound, "This page has no table to export", "JSON is available: add ?format=json.")
			return
		}
		writeCSV(w, active, csv())
		return
	}
	p := page{Meta: s.site.Meta(r.Context()), Site: s.kind, Active: active, Title: title, Path: r.URL.Path, Asked: r.URL.Query().Encode(), CSV: csv != nil, View: view}
	p.Menu = s.menuFor(p.Meta, active)
	var b bytes.Buffer
	if err := s.pages[name].Execute(&b, p); err != nil {
		s.log.Error("page could not be rendered", "page", name, "cause", err.Error())
		http.Error(w, "this page could not be shown; the log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = b.WriteTo(w) // the reader hung up
}

func (s *Server) menuFor(m Meta, active string) []menuItem {
	var out []menuItem
	for _, e := range menu {
		if len(m.Pages) > 0 && !contains(m.Pages, e.Name) {
			continue
		}
		out = append(out, menuItem{e.Path, e.Label, e.Icon, e.Name == active})
	}
	return out
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, status int, title, text string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	p := page{Meta: s.site.Meta(r.Context()), Site: s.kind, Title: title, Path: "/", View: map[string]string{"Title": title, "Text": text}}
	p.Menu = s.menuFor(p.Meta, "")
	var b bytes.Buffer
	if err := s.pages["error"].Execute(&b, p); err != nil {
		http.Error(w, title, status)
		return
	}
	w.WriteHeader(status)
	_, _ = b.WriteTo(w)
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	m := s.site.Meta(r.Context())
	status := "ready"
	for _, warn := range m.Warnings {
		if warn.Severity == "fault" {
			status = "degraded"
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if status != "ready" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "warnings": m.Warnings})
}

// live streams the values that changed since the last look.
func (s *Server) live(w http.ResponseWriter, r *http.Request) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		http.Error(w, "too many open pages", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	rc := http.NewResponseController(w)
	tick := time.NewTicker(livePeriod)
	defer tick.Stop()
	sent := map[string]string{}
	for quiet := 0; ; quiet++ {
		changed := map[string]string{}
		note := func(k, v string) {
			if old, ok := sent[k]; !ok || old != v {
				changed[k], sent[k] = v, v
			}
		}
		note("site", s.kind)
		for k, v := range s.site.Live(r.Context()) {
			note(k, v)
		}
		if len(changed) > 0 || quiet >= 20 {
			b, err := json.Marshal(changed)
			if err != nil {
				return
			}
			_ = rc.SetWriteDeadline(time.Now().Add(10 * time.Second)) // a reader that is gone must not hold the stream
			if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil {
				return
			}
			if err := rc.Flush(); err != nil {
				return
			}
			quiet = 0
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Server) hashAssets() error {
	return fs.WalkDir(files, "static", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		s.assets["/"+path] = fmt.Sprintf("%x", sum[:6])
		return nil
	})
}

func (s *Server) static(w http.ResponseWriter, r *http.Request) {
	if v := r.URL.Query().Get("v"); v != "" && v == s.assets[r.URL.Path] {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.FileServerFS(files).ServeHTTP(w, r)
}

func (s *Server) asset(path string) string { return path + "?v=" + s.assets[path] }

func parseIndex(text string) (uint64, bool) {
	n, err := strconv.ParseUint(text, 10, 63)
	return n, err == nil
}
