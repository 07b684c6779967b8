package evsim

import "time"

// profile is a charging profile in the words common to both versions.
type profile struct {
	id, stack   int
	evse        int    // 0: the whole wallbox
	purpose     string // TxDefaultProfile, TxProfile, ChargePointMaxProfile, ChargingStationMaxProfile
	transaction string // of a TxProfile
	relative    bool
	start       time.Time // zero: when it was received
	duration    time.Duration
	amperes     bool
	periods     []period
}

type period struct {
	from   time.Duration
	limit  float64 // W or A; a power limit is physics, not money
	phases int
}

// watts is the limit at now, ok false if the profile says nothing about now.
func (p profile) watts(now, txStart time.Time, phases int64) (w int64, ok bool) {
	begin := p.start
	if p.relative {
		begin = txStart
	}
	since := now.Sub(begin)
	if since < 0 || p.duration > 0 && since >= p.duration {
		return 0, false
	}
	for _, q := range p.periods {
		if q.from > since {
			break
		}
		w, ok = int64(q.limit), true
		if p.amperes {
			n := phases
			if q.phases > 0 {
				n = min(n, int64(q.phases))
			}
			w = int64(q.limit * 230 * float64(n))
		}
	}
	return w, ok
}

// profiles is what the wallbox has been told, at most one per id.
type profiles map[int]profile

// limit is the power allowed now: a profile of the transaction goes before the
// default ones, a higher stack before a lower one, and the maximum of the
// station caps both. Source: OCPP 1.6, 3.13; OCPP 2.0.1, K01.
func (ps profiles) limit(now, txStart time.Time, tx string, maxW, phases int64) int64 {
	best, rank := maxW, -1
	ceiling := maxW
	for _, p := range ps {
		w, ok := p.watts(now, txStart, phases)
		if !ok {
			continue
		}
		switch p.purpose {
		case "ChargePointMaxProfile", "ChargingStationMaxProfile":
			ceiling = min(ceiling, w)
		case "TxProfile":
			if p.transaction == tx && 1000+p.stack > rank {
				best, rank = w, 1000+p.stack
			}
		default:
			if p.stack > rank {
				best, rank = w, p.stack
			}
		}
	}
	return max(0, min(best, ceiling))
}

// forget drops the profiles of an ended transaction.
func (ps profiles) forget(tx string) {
	for id, p := range ps {
		if p.purpose == "TxProfile" && p.transaction == tx {
			delete(ps, id)
		}
	}
}
