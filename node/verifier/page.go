package verifier

import (
	"fmt"

	"gridveil/node/web"
)

// WatchPage shows a watch's report as a page.
type WatchPage struct {
	watch  *Watch
	mirror string
}

// Page shows what w finds; mirrorAt is where its copy is served, empty if it is
// not.
func Page(w *Watch, mirrorAt string) WatchPage { return WatchPage{w, mirrorAt} }

// Evidence implements web.WatchSite.
func (p WatchPage) Evidence(name string) ([]byte, error) { return p.watch.Evidence(name) }

// words are the verdicts for people.
var words = map[Verdict]string{Sound: "sound", Unlooked: "not looked yet", Away: "cannot be checked now", Unfinal: "not signed by the quorum",
	Behind: "shows less than before", Unsigned: "not the log of the policy", Refused: "breaks a rule", Forked: "convicted"}

// String is the verdict for people.
func (v Verdict) String() string { return words[v] }

// Watch implements web.WatchSite.
func (p WatchPage) Watch() web.Watch {
	r := p.watch.Report()
	now := p.watch.cfg.Clock.Now()
	v := web.Watch{Now: now, Headline: r.Text, Standing: "late", Word: r.Verdict.String(), Origin: r.Origin, Log: r.Log, Mirror: p.mirror,
		Entries: r.Entries, Root: r.Root, State: r.State, LogTime: r.LogTime, Looked: r.Looked, Checked: r.Checked, Final: r.Final, Key: r.Key}
	switch {
	case r.Verdict == Sound:
		v.Standing = "ok"
	case r.Verdict.Convicts():
		v.Standing = "refused"
	}
	for _, x := range p.watch.cfg.Policy.Witnesses {
		row := web.Cosigner{Name: x.Name, Text: "has not signed our newest checkpoint"}
		for _, c := range r.Cosigned {
			if c.Name == x.Name {
				row.OK, row.At, row.Text = true, c.At, "signed "+c.At.UTC().Format("2 Jan 2006 15:04:05")+" UTC"
			}
		}
		v.Cosigners = append(v.Cosigners, row)
	}
	if e := r.Entry; e != nil {
		v.Entry = fmt.Sprintf("Entry %d, leaf %s: %s. Nothing from there on was replayed or signed here.", e.Index, e.Leaf, e.Text)
	}
	for _, x := range r.Shards {
		v.Shards = append(v.Shards, web.WatchLog(x))
	}
	for _, f := range r.Evidence {
		v.Evidence = append(v.Evidence, web.WatchFile(f))
	}
	for _, x := range r.Peers {
		name := x.URL
		if x.Name != "" {
			name = x.Name + ", " + x.URL
		}
		v.Peers = append(v.Peers, web.WatchPeer{Name: name, Size: x.Size, At: x.Signed, OK: x.OK, Text: x.Text})
	}
	for _, x := range r.Receipts {
		v.Receipts = append(v.Receipts, web.WatchPeer{Name: x.Name, Size: x.Index, OK: x.OK, Text: x.Text})
	}
	if f := r.Failed; f != nil {
		v.Failed = &web.WatchFailure{At: f.At, Word: f.Verdict.String(), Text: f.Text}
	}
	return v
}
