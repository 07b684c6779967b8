package demo

import (
	"sync"
	"time"
)

// maxFeed bounds the list of what just happened.
const maxFeed = 200

// Happening is one thing that happened, in words. Kind: session, refused, alarm,
// ledger, node, solar.
type Happening struct {
	At         time.Time
	Kind, Text string
	Link       string // page that shows it, or empty
}

// Feed is the newest happenings. Safe for concurrent use.
type Feed struct {
	mu  sync.Mutex
	all []Happening
}

// Add appends a happening and drops the oldest beyond the bound.
func (f *Feed) Add(h Happening) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.all) == maxFeed {
		f.all = append(f.all[:0], f.all[1:]...)
	}
	f.all = append(f.all, h)
}

// Newest gives at most n happenings, newest first.
func (f *Feed) Newest(n int) []Happening {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Happening
	for i := len(f.all) - 1; i >= 0 && len(out) < n; i-- {
		out = append(out, f.all[i])
	}
	return out
}
