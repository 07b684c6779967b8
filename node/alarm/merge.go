package alarm

import (
	"cmp"
	"slices"
	"time"
)

// perSecond is how many events a source sends singly per second; more of one
// kind and code become one event with a count.
const perSecond = 20

// Merger keeps a source below 20 events a second without losing count or
// identity. It is pure; the zero value is ready.
type Merger struct {
	second  int64
	passed  int
	waiting map[mergeKey]Event
}

type mergeKey struct {
	kind  Kind
	key   Key
	flags Flags
}

// Add returns e if it may leave now; else e is merged and leaves with Flush.
// ordinal is the device's place in the roster, 0 = the source itself.
func (m *Merger) Add(e Event, ordinal uint32, now time.Time) (Event, bool) {
	if s := now.Unix(); s != m.second {
		m.second, m.passed = s, 0
	}
	if m.passed < perSecond && len(m.waiting) == 0 {
		m.passed++
		return e, true
	}
	k := mergeKey{e.Kind, e.Key, e.Flags &^ (Merged | Simulated | Sealed)}
	if m.waiting == nil {
		m.waiting = map[mergeKey]Event{}
	}
	w, ok := m.waiting[k]
	if !ok {
		w = e
		w.Device, w.Count, w.Detail, w.Ordinals = [16]byte{}, 0, []byte("merged events"), nil
		w.Flags = e.Flags&^Sealed | Merged
	}
	w.Count += e.Count
	w.Priority = min(w.Priority, e.Priority)
	w.Flags |= e.Flags & Simulated
	w.Ordinals.Set(ordinal)
	w.Ordinals.Union(e.Ordinals)
	m.waiting[k] = w
	return Event{}, false
}

// Flush returns the merged events of the seconds before now.
func (m *Merger) Flush(now time.Time) (out []Event) {
	if now.Unix() == m.second || len(m.waiting) == 0 {
		return nil
	}
	for _, e := range m.waiting {
		out = append(out, e)
	}
	m.waiting = nil
	slices.SortFunc(out, func(a, b Event) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key.Code, b.Key.Code),
			cmp.Compare(a.Flags, b.Flags))
	})
	return out
}
