package role

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Severity of a warning.
type Severity string

// Severities: Notice is worth knowing, Problem limits a function, Fault stops one.
const (
	Notice  Severity = "notice"
	Problem Severity = "problem"
	Fault   Severity = "fault"
)

// Warning is a standing problem in words that its reader can act on.
type Warning struct {
	Code     string        `json:"code"` // stable, kebab-case
	Severity Severity      `json:"severity"`
	Title    string        `json:"title"`
	Text     string        `json:"text"`                 // what happened and why it matters
	Next     string        `json:"next"`                 // what to do
	Because  string        `json:"depends_on,omitempty"` // code of the warning that causes this one; hides this while that stands
	Since    time.Time     `json:"since"`
	After    time.Duration `json:"-"` // shown only once it has stood that long, against flapping
}

// maxWarnings bounds a board; codes are constants of the program, so more means
// a fault in it.
const maxWarnings = 64

// Board is the list of a node's standing warnings. Safe for concurrent use.
type Board struct {
	mu  sync.Mutex
	all map[string]Warning
}

// NewBoard makes an empty board.
func NewBoard() *Board { return &Board{all: make(map[string]Warning)} }

// Raise sets a warning; Since stays that of the first raise.
func (b *Board) Raise(w Warning, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, ok := b.all[w.Code]
	if !ok && len(b.all) >= maxWarnings {
		return
	}
	w.Since = now
	if ok {
		w.Since = old.Since
	}
	b.all[w.Code] = w
}

// Has says whether a warning stands, shown or not.
func (b *Board) Has(code string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.all[code]
	return ok
}

// Clear removes a warning that no longer holds.
func (b *Board) Clear(code string) {
	b.mu.Lock()
	delete(b.all, code)
	b.mu.Unlock()
}

// Set raises w if holds, else clears it.
func (b *Board) Set(holds bool, w Warning, now time.Time) {
	if holds {
		b.Raise(w, now)
	} else {
		b.Clear(w.Code)
	}
}

// Standing lists what a person should see at now: warnings that have stood long
// enough and whose cause is not itself listed; worst first.
func (b *Board) Standing(now time.Time) []Warning {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Warning
	for _, w := range b.all {
		if _, caused := b.all[w.Because]; caused && w.Because != "" || now.Sub(w.Since) < w.After {
			continue
		}
		out = append(out, w)
	}
	sortWarnings(out)
	return out
}

// sortWarnings puts the worst first.
func sortWarnings(all []Warning) {
	rank := map[Severity]int{Fault: 0, Problem: 1, Notice: 2}
	slices.SortFunc(all, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(rank[a.Severity], rank[b.Severity]), cmp.Compare(a.Code, b.Code))
	})
}
