package pseudo

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// firstMonday is the beginning of epoch 0.
var firstMonday = time.Date(1970, 1, 5, 0, 0, 0, 0, time.UTC)

const (
	day  = 24 * time.Hour
	week = 7 * day
	// grace lets a session that starts late on Sunday night still open under
	// the certificate its wallet holds.
	grace = 6 * time.Hour
)

// Week is the epoch of driver certificates at t: whole weeks since Monday
// 1970-01-05 00:00 UTC. Times before that are week 0.
func Week(t time.Time) uint32 { return periods(t, week) }

// Day is the epoch of meter certificates at t: whole days since 1970-01-05.
func Day(t time.Time) uint32 { return periods(t, day) }

func periods(t time.Time, p time.Duration) uint32 {
	ms := t.UnixMilli() - firstMonday.UnixMilli()
	if ms < 0 {
		return 0
	}
	return uint32(ms / p.Milliseconds())
}

// Window is when a certificate of the kind and epoch may be used to open a
// session or report: from its first midnight to 06:00 after its last.
func Window(kind CertKind, epoch uint32) (from, to time.Time) {
	p := week
	if kind == Meter {
		p = day
	}
	// time.Duration holds 292 years; milliseconds hold every u32 epoch.
	start := firstMonday.UnixMilli() + int64(epoch)*p.Milliseconds()
	from = time.UnixMilli(start).UTC()
	return from, from.Add(p + grace)
}

// FetchTime draws when in the week of epoch a wallet fetches its next deck:
// uniform over the week, whether the current deck was used or not, so that the
// time tells nothing.
func FetchTime(rnd io.Reader, epoch uint32) (time.Time, error) {
	var b [8]byte
	if _, err := io.ReadFull(rnd, b[:]); err != nil {
		return time.Time{}, fmt.Errorf("draw fetch time: %w", err)
	}
	from, _ := Window(Driver, epoch)
	return from.Add(time.Duration(binary.BigEndian.Uint64(b[:])%uint64(week.Milliseconds())) * time.Millisecond), nil
}
