package onion

import "time"

// budget counts a leaf's bytes of one day, so that a metered link is not used up by cover.
type budget struct {
	cap   int64 // bytes per UTC day, one direction; 0 means no cap
	day   int64
	spent int64
}

const tightPercent = 80 // of the cap: from here on slots are slowed

func (b *budget) spend(n int, now time.Time) {
	if day := now.Unix() / 86400; day != b.day {
		b.day, b.spent = day, 0
	}
	b.spent += int64(n)
}

// tight reports whether the rest of the day needs slower slots.
func (b *budget) tight(now time.Time) bool {
	return b.cap > 0 && now.Unix()/86400 == b.day && b.spent*100 >= b.cap*tightPercent
}
