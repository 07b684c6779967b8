package store_test

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// harm makes a damaged image out of a shot; later is a shot of the same run
// taken after it. mild says that a mere crash may leave such an image, so the
// log must open without help of others.
type harm struct {
	name string
	mild bool
	do   func(r *rand.Rand, now, later disk) disk
}

var harms = []harm{
	{"killed at a step", true, func(_ *rand.Rand, now, _ disk) disk { return now }},
	{"later pages in part", true, laterPages},
	{"torn head slot", true, tornSlot},
	{"record cut by a full disk", true, cutRecord},
	{"bit in the database", false, func(r *rand.Rand, now, _ disk) disk { return flip(r, now, "badger") }},
	{"bit in the journal", false, func(r *rand.Rand, now, _ disk) disk { return flip(r, now, "journal") }},
	{"bit in the head file", false, func(r *rand.Rand, now, _ disk) disk { return flip(r, now, "HEAD") }},
	{"bits in both copies", false, func(r *rand.Rand, now, _ disk) disk { return flip(r, flip(r, now, "badger"), "journal") }},
	{"lost tail", false, lostTail},
	{"torn tail", false, tornTail},
	{"file missing", false, func(r *rand.Rand, now, _ disk) disk {
		out := maps.Clone(now)
		delete(out, now.any(r, ""))
		return out
	}},
}

// any draws a written file whose name begins so.
func (d disk) any(r *rand.Rand, prefix string) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(d)) {
		if strings.HasPrefix(name, prefix) && d[name].written() > 0 {
			list = append(list, name)
		}
	}
	return list[r.IntN(len(list))]
}

// with is d with other bytes in one file.
func (d disk) with(name string, b []byte) disk {
	out := maps.Clone(d)
	out[name] = contentOf(b)
	return out
}

// flip inverts one bit where something was written.
func flip(r *rand.Rand, d disk, prefix string) disk {
	name := d.any(r, prefix)
	b := d[name].bytes()
	b[r.Int64N(d[name].written())] ^= 1 << r.IntN(8)
	return d.with(name, b)
}

// tail draws where the end of a file was lost, half the time near its end.
func (d disk) tail(r *rand.Rand) (name string, at int64) {
	name = d.any(r, "")
	end := d[name].written()
	at = r.Int64N(end)
	if near := end - 1 - r.Int64N(min(end, 2*page)); r.IntN(2) == 0 {
		at = near
	}
	return name, at
}

func lostTail(r *rand.Rand, now, _ disk) disk {
	name, at := now.tail(r)
	b := now[name].bytes()
	if r.IntN(2) == 0 {
		return now.with(name, b[:at])
	}
	clear(b[at:])
	return now.with(name, b)
}

func tornTail(r *rand.Rand, now, _ disk) disk {
	name, at := now.tail(r)
	b := now[name].bytes()
	for i := at; i < min(at+page, int64(len(b))); i++ {
		b[i] = byte(r.Uint32())
	}
	return now.with(name, b)
}

// bothTails cuts the newer half off database and journal.
func bothTails(_ *rand.Rand, now, _ disk) disk {
	for name, c := range now {
		if strings.HasSuffix(name, ".mem") || strings.HasSuffix(name, ".gvj") {
			b := c.bytes()
			clear(b[c.written()/2:])
			now = now.with(name, b)
		}
	}
	return now
}

// laterPages puts some of the pages that were written later into the image, as a
// kernel may that was interrupted. A head slot is written whole, and only after
// its group.
func laterPages(r *rand.Rand, now, later disk) disk {
	out := maps.Clone(now)
	for name, c := range later {
		if name == "HEAD" {
			continue
		}
		old := now[name]
		if old == nil { // made later: absent, empty or there
			switch r.IntN(3) {
			case 0:
				out[name] = &content{size: 0}
			case 1:
				out[name] = c
			}
			continue
		}
		mixed := &content{max(old.size, c.size), maps.Clone(old.pages)}
		for at, p := range c.pages {
			if !bytes.Equal(p, old.pages[at]) && r.IntN(2) == 0 {
				mixed.pages[at] = p
			}
		}
		out[name] = mixed
	}
	return out
}

// tornSlot writes the older head slot in part, as of a newer state.
func tornSlot(r *rand.Rand, now, _ disk) disk {
	b := now["HEAD"].bytes()
	at := 0
	if bytes.Compare(b[8:16], b[page+8:page+16]) > 0 {
		at = page
	}
	slot := b[at : at+512]
	for i := 8 + r.IntN(400); i < len(slot); i++ {
		slot[i] ^= 0x55
	}
	return now.with("HEAD", b)
}

// cutRecord puts the beginning of the next journal record behind the last.
func cutRecord(r *rand.Rand, now, later disk) disk {
	for name, c := range later {
		if old := now[name]; strings.HasPrefix(name, "journal") && old != nil && c.written() > old.written() {
			b, end := c.bytes(), old.written()
			clear(b[end+r.Int64N(c.written()-end):])
			return now.with(name, b)
		}
	}
	return now
}
