package web

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

// StandbySite is what a machine shows that stands by for another one of its
// cluster. Methods are called from many requests at once and ask no other machine.
type StandbySite interface {
	Standby(ctx context.Context) Standby
	Warnings(ctx context.Context) []Warning
}

// Standby is where such a machine is in what the cluster decides.
type Standby struct {
	Title    string // the node's name
	Now      time.Time
	Headline string // live "standby-headline"
	Standing string // "ok", "late" or "refused"; live "standby-standing"
	Word     string // live "standby-word"
	Leader   string // address of the machine that leads, empty while none does
	Applied  string // what is on this machine's disk, live "standby-applied"
	Behind   string // live "standby-behind"
	Took     string // when it took something last, live "standby-took"
	Entry    string // age of the newest entry, live "standby-entry"
	Disk     int64  // free bytes, negative where that is not known; live "standby-disk"
	Machines []StandbyMachine
	Commands []Pair // a command, and what it is for
}

// StandbyMachine is one machine of the cluster. Live keys: "machine-" + Key, and
// + "-standing", "-entries", "-changes", "-heard".
type StandbyMachine struct {
	Key, Address string // Key in short form
	This         bool   // the machine whose page it is
	Leads        bool
	Answers      bool   // now
	Text         string // how it does
	Heard        string // how long ago it answered last, or "never"
	Entries      uint64
	Changes      uint64
}

// Standing is "ok" for a machine that answers.
func (m StandbyMachine) Standing() string {
	if m.Answers {
		return "ok"
	}
	return "late"
}

// Held is how much of something a machine holds, as far as that is known.
func (m StandbyMachine) Held(n uint64) string {
	if !m.Answers {
		return "–"
	}
	return count(n)
}

// standbyPage lets the dashboard's server show one page of another site.
type standbyPage struct {
	Site // never called
	site StandbySite
}

// Meta implements Site.
func (p standbyPage) Meta(ctx context.Context) Meta {
	v := p.site.Standby(ctx)
	return Meta{Title: v.Title, Role: "aggregator", Now: v.Now, Speed: 1, Warnings: p.site.Warnings(ctx), Pages: []string{"overview"}}
}

// Live implements Site.
func (p standbyPage) Live(ctx context.Context) map[string]string {
	v := p.site.Standby(ctx)
	out := map[string]string{"now": v.Now.UTC().Format("2 Jan 2006 15:04"), "standby-headline": v.Headline, "standby-standing": v.Standing, "standby-word": signed(v.Standing, v.Word),
		"standby-applied": v.Applied, "standby-behind": v.Behind, "standby-took": v.Took, "standby-entry": v.Entry, "standby-disk": diskWords(v.Disk)}
	for _, m := range v.Machines {
		k := "machine-" + m.Key
		out[k], out[k+"-standing"], out[k+"-heard"] = signed(m.Standing(), m.Text), m.Standing(), m.Heard
		out[k+"-entries"], out[k+"-changes"] = m.Held(m.Entries), m.Held(m.Changes)
	}
	return out
}

// NewStandby makes the page of a machine that stands by. The pages of a node, which
// only the machine that leads has, say where that is.
func NewStandby(site StandbySite, log *slog.Logger) (*Server, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s, err := newServer(standbyPage{site: site}, log, "standby", "error")
	if err != nil {
		return nil, err
	}
	s.kind = "standby"
	s.mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		s.show(w, r, "standby", "overview", "This machine stands by", site.Standby(r.Context()), nil)
	})
	for _, e := range menu {
		if e.Path != "/" {
			s.mux.HandleFunc("GET "+e.Path, s.elsewhere(site))
			s.mux.HandleFunc("GET "+e.Path+"/", s.elsewhere(site))
		}
	}
	s.commonRoutes()
	return s, nil
}

// signed puts a standing's sign before its word, for who sees no colours.
func signed(standing, word string) string {
	switch standing {
	case "ok":
		return "✓ " + word
	case "refused":
		return "✗ " + word
	}
	return "! " + word
}

// diskWords say how much is free.
func diskWords(n int64) string {
	if n < 0 {
		return "not known"
	}
	return byteSize(n)
}

// elsewhere says who has a page that this machine has only when it leads.
func (s *Server) elsewhere(site StandbySite) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		text := "No machine of the cluster leads now. The overview says which ones answer."
		if at := site.Standby(r.Context()).Leader; at != "" {
			text = "The machine at " + at + " leads: open its dashboard there. This one shows the page as soon as it leads itself."
		}
		s.fail(w, r, http.StatusServiceUnavailable, "This machine stands by", text)
	}
}
