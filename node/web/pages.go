package web

import (
	"bytes"
	"encoding/csv"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

func (s *Server) overview(w http.ResponseWriter, r *http.Request) {
	v := s.site.Overview(r.Context())
	s.show(w, r, "overview", "overview", "Overview", overviewPage{v, maps(v)}, nil)
}

// energyPage is the view of the energy page.
type energyPage struct {
	Homes []HomeRef
	Energy
}

func (s *Server) energy(w http.ResponseWriter, r *http.Request) {
	homes := s.site.Homes(r.Context())
	id := pick(r.URL.Query().Get("home"), homes)
	e, ok := s.site.Energy(r.Context(), id)
	if !ok {
		s.fail(w, r, http.StatusNotFound, "No readings of that home here", "A node shows only the home it stands in; a demonstration shows all of its homes.")
		return
	}
	s.show(w, r, "energy", "energy", "Energy", energyPage{homes, e}, func() [][]string { return energyTable(e) })
}

func pick(asked string, homes []HomeRef) string {
	if asked == "" && len(homes) > 0 {
		return homes[0].ID
	}
	return asked
}

func energyTable(e Energy) [][]string {
	rows := [][]string{{"time", "true_w", "metered_w", "pv_w", "battery_w", "ev_w"}}
	cell := func(v []float64, i int) string {
		if i >= len(v) {
			return ""
		}
		return strconv.FormatFloat(v[i], 'f', 0, 64)
	}
	for i, t := range e.Times {
		rows = append(rows, []string{time.Unix(t, 0).UTC().Format(time.RFC3339), cell(e.True, i), cell(e.Metered, i), cell(e.PV, i), cell(e.Battery, i), cell(e.EV, i)})
	}
	return rows
}

func (s *Server) sessions(w http.ResponseWriter, r *http.Request) {
	rows := s.site.Sessions(r.Context())
	s.show(w, r, "sessions", "sessions", "Sessions", rows, func() [][]string {
		out := [][]string{{"session", "begin", "host", "state", "case", "kwh_in", "kwh_out", "total", "refused"}}
		for _, v := range rows {
			out = append(out, []string{v.ID, v.Begin.UTC().Format(time.RFC3339), v.Host, v.State, v.Case, kwh(v.KWhIn), kwh(v.KWhOut), v.Total, v.Refused})
		}
		return out
	})
}

func (s *Server) session(w http.ResponseWriter, r *http.Request) {
	v, ok := s.site.Session(r.Context(), r.PathValue("id"))
	if !ok {
		s.fail(w, r, http.StatusNotFound, "No such session here", "A session is kept by its host, its driver and the aggregator; others never see it.")
		return
	}
	s.show(w, r, "session", "sessions", "Session "+v.ID, v, func() [][]string {
		out := [][]string{{"start", "from_pv_kwh", "from_house_kwh", "from_grid_kwh", "to_house_kwh", "to_grid_kwh", "amount"}}
		for _, i := range v.Intervals {
			out = append(out, []string{i.Start.UTC().Format(time.RFC3339), kwh(i.FromPV), kwh(i.FromHouse), kwh(i.FromGrid), kwh(i.ToHouse), kwh(i.ToGrid), i.Amount})
		}
		return out
	})
}

// guestsPage is the view of the page that a host shows to a driver.
type guestsPage struct {
	Homes []HomeRef
	Guests
}

func (s *Server) guests(w http.ResponseWriter, r *http.Request) {
	homes := s.site.Homes(r.Context())
	id := pick(r.URL.Query().Get("home"), homes)
	v, ok := s.site.Guests(r.Context(), id)
	if !ok {
		s.fail(w, r, http.StatusNotFound, "No guests here", "A home shows its link to guests on its own dashboard only.")
		return
	}
	s.show(w, r, "guests", "guests", "Guests", guestsPage{homes, v}, nil)
}

func (s *Server) ledger(w http.ResponseWriter, r *http.Request) {
	asked := strings.TrimSpace(r.URL.Query().Get("from"))
	from, ok := parseIndex(asked)
	if !ok {
		from = 1<<63 - 1
	}
	if !ok && asked != "" {
		index, found := s.site.Find(r.Context(), strings.ToLower(asked))
		if !found {
			s.fail(w, r, http.StatusNotFound, "No such entry", "Give an entry's number, or at least eight digits of its leaf hash; leaf hashes are looked for among the newest entries.")
			return
		}
		http.Redirect(w, r, "/ledger/"+strconv.FormatUint(index, 10), http.StatusSeeOther)
		return
	}
	v := s.site.Ledger(r.Context(), from)
	s.show(w, r, "ledger", "ledger", "Ledger", v, func() [][]string {
		out := [][]string{{"index", "kind", "party", "text", "final"}}
		for _, e := range v.Entries {
			out = append(out, []string{strconv.FormatUint(e.Index, 10), e.Kind, e.Party, e.Text, strconv.FormatBool(e.Final)})
		}
		return out
	})
}

func (s *Server) entry(w http.ResponseWriter, r *http.Request) {
	index, ok := parseIndex(r.PathValue("index"))
	var v Entry
	if ok {
		v, ok = s.site.Entry(r.Context(), index)
	}
	if !ok {
		s.fail(w, r, http.StatusNotFound, "No such entry", "Entries are numbered from 0 to the size of the log.")
		return
	}
	s.show(w, r, "entry", "ledger", "Entry "+strconv.FormatUint(index, 10), v, nil)
}

func (s *Server) proof(w http.ResponseWriter, r *http.Request) {
	index, ok := parseIndex(r.PathValue("index"))
	if !ok {
		s.fail(w, r, http.StatusNotFound, "No such entry", "Entries are numbered from 0 to the size of the log.")
		return
	}
	var b bytes.Buffer
	if err := s.site.Proof(r.Context(), &b, index); err != nil {
		s.fail(w, r, http.StatusConflict, "No proof yet", "The entry is not yet under a checkpoint that enough verifiers signed. Try again in a minute.")
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="entry-`+strconv.FormatUint(index, 10)+`.tlog-proof"`)
	_, _ = b.WriteTo(w) // the reader hung up
}

func (s *Server) money(w http.ResponseWriter, r *http.Request) {
	v := s.site.Money(r.Context())
	s.show(w, r, "money", "money", "Money", v, func() [][]string {
		out := [][]string{{"close", "payment", "payer", "payee", "amount", "state", "end_to_end_id", "entry"}}
		for _, p := range v.Payments {
			ended := ""
			if p.Ended != nil {
				ended = strconv.FormatUint(*p.Ended, 10)
			}
			out = append(out, []string{strconv.FormatUint(uint64(p.Period), 10), strconv.Itoa(int(p.No)), p.Payer, p.Payee, p.Exact, p.State, p.EndToEnd, ended})
		}
		return out
	})
}

func (s *Server) paymentFile(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	b, ok := s.site.PaymentFile(r.Context(), name)
	if !ok {
		s.fail(w, r, http.StatusNotFound, "No such payment file", "Payment files are kept by the aggregator, for closes that are final and operators whose accounts are registered.")
		return
	}
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Disposition", "attachment; filename="+strconv.Quote(name))
	_, _ = w.Write(b) // the reader hung up
}

func (s *Server) disputes(w http.ResponseWriter, r *http.Request) {
	v := s.site.Disputes(r.Context())
	s.show(w, r, "disputes", "disputes", "Disputes", v, func() [][]string {
		out := [][]string{{"case", "opened", "kind", "reason", "requester", "utility", "sessions", "approvals", "partials", "state", "entry"}}
		for _, d := range v.Cases {
			out = append(out, []string{d.ID, d.Opened.UTC().Format(time.RFC3339), d.Kind, d.Reason, d.Requester, d.Utility, strconv.Itoa(d.Sessions), strings.Join(d.Approvals, " "),
				strings.Join(d.Partials, " "), d.State, strconv.FormatUint(d.Index, 10)})
		}
		return out
	})
}

func (s *Server) alarms(w http.ResponseWriter, r *http.Request) {
	rows := s.site.Alarms(r.Context())
	s.show(w, r, "alarms", "alarms", "Alarms", rows, func() [][]string {
		out := [][]string{{"id", "at", "priority", "kind", "device", "text", "delivered_ms", "class", "acknowledged"}}
		for _, a := range rows {
			out = append(out, []string{a.ID, a.At.UTC().Format(time.RFC3339), a.Priority, a.Kind, a.Device, a.Text, strconv.FormatInt(a.DeliveredMs, 10), a.Class, a.Acknowledged})
		}
		return out
	})
}

// privacyPage is the view of "What left this house today".
type privacyPage struct {
	Homes []HomeRef
	Left
	Mask
}

func (s *Server) privacy(w http.ResponseWriter, r *http.Request) {
	homes := s.site.Homes(r.Context())
	id := pick(r.URL.Query().Get("home"), homes)
	v, ok := s.site.Left(r.Context(), id)
	if !ok {
		s.fail(w, r, http.StatusNotFound, "No journal of that home here", "What leaves a house is written down in that house only.")
		return
	}
	m, _ := s.site.Mask(r.Context(), id) // who may not know it sees the journal alone
	s.show(w, r, "privacy", "privacy", "What left this house", privacyPage{homes, v, m}, func() [][]string {
		out := [][]string{{"what", "to", "as", "count", "bytes", "learns", "bits", "last"}}
		for _, l := range v.Lines {
			out = append(out, []string{l.What, l.To, l.As, strconv.Itoa(l.Count), strconv.FormatInt(l.Bytes, 10), l.Learns, strconv.FormatFloat(l.Bits, 'f', 1, 64), l.Last.UTC().Format(time.RFC3339)})
		}
		return out
	})
}

// orderBattery takes the form of the owner's command. ServeHTTP has refused foreign
// origins.
func (s *Server) orderBattery(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	home := r.PostFormValue("home")
	o := BatteryOrder{Do: r.PostFormValue("do")}
	var err error
	if o.Do == "charge" || o.Do == "discharge" {
		o.W, err = strconv.Atoi(r.PostFormValue("w"))
	}
	minutes, merr := 0, error(nil)
	if o.Do != "release" {
		minutes, merr = strconv.Atoi(r.PostFormValue("minutes"))
	}
	if err != nil || merr != nil || minutes < 0 || minutes > 24*60 {
		s.fail(w, r, http.StatusBadRequest, "Nothing was asked of the battery", "The form wants a power in watts and at most a day. Open the Privacy page and use its buttons.")
		return
	}
	o.For = time.Duration(minutes) * time.Minute
	if err := s.site.OrderBattery(r.Context(), home, o); err != nil {
		s.fail(w, r, http.StatusConflict, "Nothing was asked of the battery", err.Error())
		return
	}
	http.Redirect(w, r, "/privacy?"+url.Values{"home": {home}}.Encode(), http.StatusSeeOther)
}

// turnDial takes the form of the dial. ServeHTTP has refused foreign origins.
func (s *Server) turnDial(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	home := r.PostFormValue("home")
	stop, err := strconv.Atoi(r.PostFormValue("stop"))
	if err != nil {
		s.fail(w, r, http.StatusBadRequest, "The dial was not turned", "The form wants a stop. Open the Privacy page and use its buttons.")
		return
	}
	if err := s.site.TurnDial(r.Context(), home, stop); err != nil {
		s.fail(w, r, http.StatusConflict, "The dial was not turned", err.Error())
		return
	}
	http.Redirect(w, r, "/privacy?"+url.Values{"home": {home}}.Encode(), http.StatusSeeOther)
}

func (s *Server) party(w http.ResponseWriter, r *http.Request) {
	v, ok := s.site.Party(r.Context(), r.PathValue("id"))
	if !ok {
		s.fail(w, r, http.StatusNotFound, "No such party", "Parties are the nodes on the overview's map.")
		return
	}
	s.show(w, r, "party", "overview", v.Node.Name+": what it can see", v, nil)
}

func writeCSV(w http.ResponseWriter, name string, rows [][]string) {
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="gridveil-`+name+`.csv"`)
	c := csv.NewWriter(w)
	_ = c.WriteAll(rows) // the reader hung up
}

func kwh(v float64) string { return strconv.FormatFloat(v, 'f', 3, 64) }
