package wallet

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"gridveil/node/control"
	"gridveil/node/wallet/purse"
	"gridveil/node/web"
	"gridveil/privacy/pseudo"
)

// handleControl adds the commands that a wallet answers:
//
//	pay          {"link","band","want_kwh","give_kwh","floor_kwh","departure","fixed","show_utility"} -> {"session"}
//	stop         {"session"}   -> {}
//	sessions     {}            -> the list of the Sessions page
//	session      {"id"}        -> one of it in full
//	deck         {}            -> pseudonyms by week
//	notes        {}            -> the purse
//	notes-now    {}            -> {}   collect, swap, redeem without delay
//	cases        {}            -> {}   look now whether a dispute names a session
func (w *Wallet) handleControl() {
	c := w.env.Control
	if c == nil {
		return
	}
	handle(c, "pay", func(ctx context.Context, in payForm) (any, error) {
		id, err := w.Pay(ctx, in.Link, in.options())
		return map[string]string{"session": id}, err
	})
	handle(c, "stop", func(_ context.Context, in struct{ Session string }) (any, error) {
		return struct{}{}, w.Stop(in.Session)
	})
	handle(c, "sessions", func(context.Context, struct{}) (any, error) { return w.Sessions(), nil })
	handle(c, "month", func(_ context.Context, in struct {
		Month  string
		Signed bool
	}) (any, error) {
		return w.Month(in.Month, in.Signed)
	})
	handle(c, "session", func(_ context.Context, in struct{ ID string }) (any, error) {
		s, ok := w.Session(in.ID)
		if !ok {
			return nil, fmt.Errorf("no session %q here: `gridveil wallet sessions` lists them", in.ID)
		}
		return s, nil
	})
	handle(c, "deck", func(context.Context, struct{}) (any, error) { return w.Decks(), nil })
	handle(c, "notes", func(context.Context, struct{}) (any, error) { return w.Notes(), nil })
	handle(c, "notes-now", func(context.Context, struct{}) (any, error) { return struct{}{}, w.HurryNotes() })
	handle(c, "cases", func(ctx context.Context, _ struct{}) (any, error) { return struct{}{}, w.LookAtLedger(ctx) })
}

// payForm is what a driver says of a session, on the command line or the page.
type payForm struct {
	Link        string  `json:"link"`
	Band        uint16  `json:"band"`
	WantKWh     float64 `json:"want_kwh"`
	GiveKWh     float64 `json:"give_kwh"`
	ShowUtility bool    `json:"show_utility"`
	Fixed       bool    `json:"fixed"`
	FloorKWh    float64 `json:"floor_kwh"`
	Departure   int64   `json:"departure"` // UTC ms
	GiveFrom    int64   `json:"give_from"` // UTC ms
	OnCall      bool    `json:"on_call"`
	Seen        string  `json:"seen"`
}

// options turns kWh, which people type, into whole mWh.
func (f payForm) options() Options {
	o := Options{Band: f.Band, WantMWh: int64(f.WantKWh * 1e6), GiveMWh: int64(f.GiveKWh * 1e6), FloorMWh: int64(f.FloorKWh * 1e6), Departure: f.Departure, Fixed: f.Fixed,
		GiveFrom: f.GiveFrom, OnCall: f.OnCall, ShowUtility: f.ShowUtility}
	if b, err := hex.DecodeString(f.Seen); err == nil && len(b) == len(o.Seen) {
		o.Seen = [32]byte(b)
	}
	return o
}

func handle[In any](s *control.Server, name string, fn func(ctx context.Context, in In) (any, error)) {
	s.Handle(name, func(ctx context.Context, raw json.RawMessage) (any, error) {
		var in In
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &in); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		return fn(ctx, in)
	})
}

// Stop ends a running session as soon as its host can be told.
func (w *Wallet) Stop(id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.trips {
		if t.name() == id || hex.EncodeToString(t.rec.ID[:]) == id {
			if t.rec.Over {
				return fmt.Errorf("session %s is over", id)
			}
			t.askStop()
			return nil
		}
	}
	return fmt.Errorf("no session %q here", id)
}

// The wallet's page: what a scanned link opens, and nothing that needs a script.
var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{{.Title}}</title></head>
<body><main><h1>{{.Title}}</h1>
{{with .Error}}<p role="alert"><strong>{{.}}</strong></p>{{end}}
{{with .Prices}}
{{if .Text}}<p>{{.Text}}</p>{{else}}
<table>
<tr><th scope="row">Solar energy of the house</th><td>{{$.Price .Solar}}</td></tr>
<tr><th scope="row">Energy from the grid</th><td>{{$.Price .Grid}}</td></tr>
<tr><th scope="row">Aggregator's fee</th><td>{{$.Price .Fee}}</td></tr>
{{if .Discharge}}<tr><th scope="row">You get for energy used here</th><td>{{$.Price .ToHouse}}</td></tr>
<tr><th scope="row">You get for energy fed in</th><td>{{$.Price .FedIn}}</td></tr>{{end}}
<tr><th scope="row">Highest power</th><td>{{.MaxW}} W</td></tr>
</table>
<p>{{if .SolarFirst}}The car gets the roof's energy before the house.{{else}}The house uses the roof's energy first.{{end}} These prices hold for the whole session.</p>
{{if .Unattended}}<p>If your phone is away, the meter's signature alone decides, up to the amount that you choose.</p>{{end}}
{{end}}
<form method="post" action="/pay">
<input type="hidden" name="l" value="{{$.Link}}"><input type="hidden" name="seen" value="{{$.Seen}}">
<p><label>At most <select name="band">{{range $.Bands}}<option value="{{.}}"{{if eq . 20}} selected{{end}}>EUR {{.}}</option>{{end}}</select></label></p>
<p><label>Energy wanted, kWh (0: as much as fits) <input name="want" type="number" min="0" max="200" step="0.1" value="0"></label></p>
{{if .Discharge}}<p><label>Energy that the house may take, kWh <input name="give" type="number" min="0" max="200" step="0.1" value="0"></label></p>
<p><label><input type="checkbox" name="call" value="1"> Only when the grid operator asks for it and pays</label></p>{{end}}
<p><label><input type="checkbox" name="fixed" value="1"> The aggregator may not move my car's power, even for pay</label></p>
<p><label><input type="checkbox" name="show" value="1"> If the aggregator is away, the host may see which utility is mine</label></p>
<p><button>Charge here</button></p>
</form>
{{end}}
{{if .Sessions}}<h2>Your sessions</h2><table><thead><tr><th>Session</th><th>Begin</th><th>State</th><th>kWh in</th><th>kWh out</th><th>Total</th></tr></thead><tbody>
{{range .Sessions}}<tr><td>{{.ID}}</td><td>{{.Begin.Format "2006-01-02 15:04"}}</td><td>{{.State}}{{with .Refused}}: {{.}}{{end}}</td><td>{{printf "%.2f" .KWhIn}}</td><td>{{printf "%.2f" .KWhOut}}</td><td>{{.Total}}</td></tr>{{end}}
</tbody></table>{{end}}
{{if .Home}}<p>Pseudonyms left this week: {{.Left}}. Notes held: EUR {{.Held}}.</p>
<form method="get" action="/pay"><p><label>Link from the host's QR code <input name="l" size="60" required></label> <button>See prices</button></p></form>{{end}}
</main></body></html>
`))

type pageView struct {
	Title, Error, Link, Seen string
	Prices                   *Prices
	Bands                    []uint16
	Sessions                 []web.SessionRow
	Home                     bool
	Left                     int
	Held                     string
}

// Price writes a price for people.
func (pageView) Price(v int64) string { return "EUR " + euros(v) + " per kWh" }

// servePage answers on the wallet's loopback address until ctx ends.
func (w *Wallet) servePage(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) { w.show(rw, http.StatusOK, w.home("")) })
	mux.HandleFunc("GET /pay", w.lookPage)
	mux.HandleFunc("POST /pay", w.payPage)
	srv := &http.Server{Handler: protect(mux), ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("wallet's page: %w", err)
	}
	return nil
}

// protect lets only this machine's own pages in: the wallet has no password.
func protect(h http.Handler) http.Handler {
	inner := http.NewCrossOriginProtection().Handler(h)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		name, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			name = r.Host
		}
		ip := net.ParseIP(strings.Trim(name, "[]"))
		if name != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(rw, "the wallet answers to localhost only", http.StatusMisdirectedRequest)
			return
		}
		head := rw.Header()
		head.Set("Content-Security-Policy", "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Cache-Control", "no-store")
		inner.ServeHTTP(rw, r)
	})
}

func (w *Wallet) show(rw http.ResponseWriter, status int, v pageView) {
	rw.Header().Set("Content-Type", "text/html; charset=utf-8")
	rw.WriteHeader(status)
	_ = page.Execute(rw, v) // the reader hung up; nobody is left to tell
}

func (w *Wallet) home(problem string) pageView {
	v := pageView{Title: "Wallet", Error: problem, Sessions: w.Sessions(), Home: true, Held: money(held(w.Notes()))[4:]}
	for _, d := range w.Decks() {
		if d.Week == pseudo.Week(w.env.Clock.Now()) {
			v.Left = d.Left
		}
	}
	return v
}

// held is a purse's worth, millionths.
func held(s purse.Standing) int64 { return int64(s.Fresh+s.Swapped) * 10_000 }

// lookPage shows what the host of a scanned link asks.
func (w *Wallet) lookPage(rw http.ResponseWriter, r *http.Request) {
	link := r.URL.Query().Get("l")
	p, err := w.Look(r.Context(), link, Options{})
	if err != nil {
		w.show(rw, http.StatusBadGateway, w.home(err.Error()))
		return
	}
	v := pageView{Title: "Charge here?", Link: link, Seen: hex.EncodeToString(p.Seen[:]), Prices: &p, Bands: pseudo.Bands[:]}
	w.show(rw, http.StatusOK, v)
}

// payPage opens the session and then shows the list, which has it first.
func (w *Wallet) payPage(rw http.ResponseWriter, r *http.Request) {
	f := payForm{Link: r.FormValue("l"), Seen: r.FormValue("seen"), ShowUtility: r.FormValue("show") == "1", Fixed: r.FormValue("fixed") == "1"}
	band, err1 := strconv.ParseUint(r.FormValue("band"), 10, 16)
	want, err2 := kwh(r.FormValue("want"))
	give, err3 := kwh(r.FormValue("give"))
	if err := errors.Join(err1, err2, err3); err != nil {
		w.show(rw, http.StatusBadRequest, w.home("The numbers of the form cannot be read."))
		return
	}
	f.Band, f.WantKWh, f.GiveKWh = uint16(band), want, give
	if f.GiveKWh > 0 {
		f.OnCall = r.FormValue("call") == "1"
		f.Seen = "" // the offer for a discharge is another one; its prices are the same
	}
	if _, err := w.Pay(r.Context(), f.Link, f.options()); err != nil {
		w.show(rw, http.StatusConflict, w.home(err.Error()))
		return
	}
	http.Redirect(rw, r, "/", http.StatusSeeOther)
}

// kwh reads a number of a form; an empty one is zero.
func kwh(text string) (float64, error) {
	if text == "" {
		return 0, nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err == nil && (v < 0 || v > 1000) {
		err = fmt.Errorf("energy of %g kWh", v)
	}
	return v, err
}
