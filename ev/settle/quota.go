package settle

import (
	"crypto/sha256"
	"fmt"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/note"
	"gridveil/privacy/session"
)

// Quotas: enough for a street that comes home at six, small enough that one
// stolen pass or one session cannot keep the desk busy.
var (
	perPass    = rate{every: 500 * time.Millisecond, burst: 240} // AuthReq, per zone and week
	perSession = rate{every: 2 * time.Second, burst: 60}         // Settle, Lock, Collect, ShareAsk, per session
	allSwaps   = rate{every: 100 * time.Millisecond, burst: 100} // each costs up to 128 signature checks
)

// maxBuckets bounds the memory of quotas; beyond, everybody starts anew.
const maxBuckets = 8192

// rate allows burst requests at once and one more per interval.
type rate struct {
	every time.Duration
	burst int64
}

// quotas are token buckets, kept as the time at which each is full again.
type quotas struct{ full map[string]time.Time }

func newQuotas() quotas { return quotas{map[string]time.Time{}} }

// allow takes one token, and reports false if there was none.
func (q *quotas) allow(now time.Time, key string, r rate) bool {
	full, known := q.full[key]
	if !known && len(q.full) >= maxBuckets {
		clear(q.full)
	}
	if full.Before(now) {
		full = now
	}
	if full.Sub(now) >= time.Duration(r.burst)*r.every {
		return false
	}
	q.full[key] = full.Add(r.every)
	return true
}

// admit parses just enough of a message to charge it to somebody, before any
// signature is checked.
func (d *Desk) admit(now time.Time, msg []byte) error {
	key, r, err := d.chargedTo(msg)
	if err != nil {
		return err
	}
	if !d.quota.allow(now, key, r) {
		return ErrBusy
	}
	return nil
}

func (d *Desk) chargedTo(msg []byte) (key string, r rate, err error) {
	switch privacy.Kind(msg[0]) {
	case privacy.KindAuthReq:
		x, err := session.ParseAuthReq(msg, d.cfg.Session.Boxes[0].Suite)
		return "p" + string(x.Offer.PassKey[:]), perPass, err
	case privacy.KindSettle:
		x, err := session.ParseSettle(msg)
		return "s" + string(x.Record.Open[:]), perSession, err
	case privacy.KindLock:
		x, err := session.ParseLock(msg)
		return "s" + string(x.Session[:]), perSession, err
	case privacy.KindCollect:
		x, err := session.ParseCollect(msg)
		return "s" + string(x.Session[:]), perSession, err
	case privacy.KindCollectInner, privacy.KindShareAsk:
		if len(msg) < 2+sha256.Size { // kind, version, H(Open)
			return "", rate{}, fmt.Errorf("%w: boxed request of %d bytes", session.ErrMalformed, len(msg))
		}
		return "s" + string(msg[2:2+sha256.Size]), perSession, nil
	case privacy.KindSwap:
		_, err := note.ParseSwapRequest(msg)
		return "w", allSwaps, err
	}
	return "", rate{}, fmt.Errorf("%w: kind %d", session.ErrMalformed, msg[0])
}
