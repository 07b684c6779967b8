package web

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

// WatchSite is what the page of a verifier shows that follows a log from
// outside.
type WatchSite interface {
	Watch() Watch
	// Evidence reads a file that Watch lists.
	Evidence(name string) ([]byte, error)
}

// Watch is what was checked, when, and what failed.
type Watch struct {
	Now       time.Time
	Headline  string // live "watch-headline"
	Standing  string // "ok", "late" or "refused"
	Word      string // the verdict in a word; live "watch-word"
	Origin    string
	Log       string
	Mirror    string // where our copy is served, empty if it is not
	Entries   uint64 // live "watch-entries"
	Root      string
	State     string
	LogTime   time.Time
	Looked    time.Time // live "watch-looked"
	Checked   time.Time
	Cosigners []Cosigner
	Final     bool
	Entry     string // the entry that breaks a rule, in words
	Evidence  []WatchFile
	Peers     []WatchPeer
	Receipts  []WatchPeer
	Failed    *WatchFailure
	Key       string
	Shards    []WatchLog // the sealed logs before this one, oldest first; each was found sound to its end
}

// WatchLog is a sealed log that was checked.
type WatchLog struct {
	Origin  string
	Entries uint64
	Root    string    // hexadecimal
	Checked time.Time // zero if that is not known any more
}

// WatchFile is evidence to download.
type WatchFile struct{ Name, Kind, SHA256 string }

// WatchPeer is another place that serves the log, or a receipt that it gave.
type WatchPeer struct {
	Name string
	Size uint64
	At   time.Time
	OK   bool
	Text string
}

// WatchFailure is the last look that failed.
type WatchFailure struct {
	At         time.Time
	Word, Text string
}

// watchPage lets the dashboard's server show one page of another site.
type watchPage struct {
	Site // never called
	site WatchSite
}

// Meta implements Site.
func (w watchPage) Meta(context.Context) Meta {
	v := w.site.Watch()
	return Meta{Title: v.Origin, Role: "verifier", Now: v.Now, Speed: 1, Pages: []string{"overview"}}
}

// Live implements Site.
func (w watchPage) Live(context.Context) map[string]string {
	v := w.site.Watch()
	return map[string]string{"now": v.Now.UTC().Format("2 Jan 2006 15:04"), "watch-headline": v.Headline, "watch-word": v.Word,
		"watch-entries": count(v.Entries), "watch-looked": v.Looked.UTC().Format("15:04:05")}
}

// NewWatch makes the page of a verifier that follows a log from outside.
func NewWatch(site WatchSite, log *slog.Logger) (*Server, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s, err := newServer(watchPage{site: site}, log, "watch", "error")
	if err != nil {
		return nil, err
	}
	s.mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		s.show(w, r, "watch", "overview", "What was checked", site.Watch(), nil)
	})
	s.mux.HandleFunc("GET /evidence/{name}", func(w http.ResponseWriter, r *http.Request) {
		b, err := site.Evidence(r.PathValue("name"))
		if err != nil {
			s.fail(w, r, http.StatusNotFound, "There is no such evidence", "It may have been of another log. The overview lists what is held.")
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Disposition", "attachment")
		_, _ = w.Write(b) // the reader hung up
	})
	s.commonRoutes()
	return s, nil
}
