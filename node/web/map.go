package web

import (
	"fmt"
	"strings"
)

// overviewPage is the view of the overview: the map is drawn twice, and the
// screen's width decides which one is shown.
type overviewPage struct {
	Overview
	Maps []mapView `json:"-"`
}

// mapView is one drawing of the neighbourhood.
type mapView struct {
	Class         string
	Width, Height float64
	Edges         []edgeView
	Nodes         []nodeView
}

type edgeView struct {
	Edge
	Path string
}

type nodeView struct {
	Node
	At Place
}

func maps(o Overview) []mapView {
	tall := o.Tall
	if tall == 0 {
		tall = TallHeight
	}
	return []mapView{
		draw(o, mapView{Class: "wide", Width: WideWidth, Height: WideHeight}, func(n Node) Place { return n.Wide }),
		draw(o, mapView{Class: "tall", Width: TallWidth, Height: tall}, func(n Node) Place { return n.Tall }),
	}
}

func draw(o Overview, m mapView, place func(Node) Place) mapView {
	at := map[string]Place{}
	for _, n := range o.Nodes {
		at[n.ID] = place(n)
		m.Nodes = append(m.Nodes, nodeView{n, place(n)})
	}
	for _, e := range o.Edges {
		from, ok1 := at[e.From]
		to, ok2 := at[e.To]
		if ok1 && ok2 {
			m.Edges = append(m.Edges, edgeView{e, line(e.Kind, from, to)})
		}
	}
	return m
}

// bends keeps edges of different kinds between the same two nodes apart.
var bends = map[string]float64{"power": 0, "report": .07, "onion": -.09, "ledger": .05, "alarm": .12, "car": .1}

// line is the path of an edge. It bends to the same side of the map whichever
// way it points.
func line(kind string, a, b Place) string {
	mx, my, dx, dy := (a.X+b.X)/2, (a.Y+b.Y)/2, b.X-a.X, b.Y-a.Y
	bend := bends[kind]
	if dx < 0 || dx == 0 && dy < 0 {
		bend = -bend
	}
	if bend == 0 {
		return fmt.Sprintf("M%.1f %.1fL%.1f %.1f", a.X, a.Y, b.X, b.Y)
	}
	return fmt.Sprintf("M%.1f %.1fQ%.1f %.1f %.1f %.1f", a.X, a.Y, mx-dy*bend, my+dx*bend, b.X, b.Y)
}

// levelClass is the class of an edge's level: "level3", and "back" when it flows
// from To to From.
func levelClass(level int) string {
	if level < 0 {
		return fmt.Sprintf("level%d back", min(-level, 4))
	}
	return fmt.Sprintf("level%d", min(level, 4))
}

// kinds are the words for the nodes' kinds.
var kinds = map[string]string{"home": "home", "ssn": "substation", "headend": "meter collector", "utility": "utility", "aggregator": "settlement",
	"wallet": "driver", "verifier": "verifier"}

func kindWord(kind string) string {
	if w, ok := kinds[kind]; ok {
		return w
	}
	return kind
}

// EventLine is an event as the live stream carries it: kind, time, text, link.
// The live value "events" holds the newest ones, one a line, newest first.
func EventLine(e Event) string {
	return strings.Join([]string{e.Kind, e.At.UTC().Format("15:04"), e.Text, e.Link}, "\t")
}

// EventLines is the live value "events".
func EventLines(events []Event) string {
	var out []string
	for _, e := range events[:min(liveEvents, len(events))] {
		out = append(out, EventLine(e))
	}
	return strings.Join(out, "\n")
}

// liveEvents is how many events the live stream repeats, so that none is missed
// between two looks.
const liveEvents = 8
