package mesh

import (
	"sync"
	"time"

	"gridveil/mesh/lane"
)

const (
	defaultDailyMB = 30 // each way, for a leaf; slots of 30 s need 7.5 up and 9.5 down
	budgetTight    = 80 // percent of the day's cap: bulk stops
	budgetSlow     = 90 // percent: slots slow down
	daySeconds     = 86400
)

// budget counts the bytes of one UTC day in each direction, so that a metered link is not used up. Alarms are counted
// and never stopped.
type budget struct {
	mu       sync.Mutex
	cap      int64 // bytes per day and direction; 0 means none
	day      int64
	up, down int64
}

func (b *budget) spend(up, down int, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if day := now.Unix() / daySeconds; day != b.day {
		b.day, b.up, b.down = day, 0, 0
	}
	b.up, b.down = b.up+int64(up), b.down+int64(down)
}

// level is the percentage of the cap that is used, in the worse direction.
func (b *budget) level(now time.Time) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cap == 0 || now.Unix()/daySeconds != b.day {
		return 0
	}
	return max(b.up, b.down) * 100 / b.cap
}

func untilMidnight(now time.Time) time.Duration {
	return time.Duration(daySeconds-now.Unix()%daySeconds) * time.Second
}

// Spend counts bytes of this node's link that do not travel on lanes.
func (h *Host) Spend(up, down int) { h.spent.spend(up, down, h.clock.Now()) }

// Tight reports whether so much of the day's data budget is used that cover traffic should slow down. Bulk calls are
// refused with ErrBusy before that; alarms never are.
func (h *Host) Tight() bool { return h.spent.level(h.clock.Now()) >= budgetSlow }

// dailyBytes is the cap of this node; backbone members have none.
func (h *Host) dailyBytes() int64 {
	switch {
	case h.self.Role.Backbone():
		return 0
	case h.c.DailyMB == 0:
		return defaultDailyMB << 20
	}
	return int64(h.c.DailyMB) << 20
}

// countLane counts frames of lanes, for metrics and budget.
func (h *Host) countLane(l lane.Lane, sent, received int) {
	h.stats.lane(l, sent, received)
	h.Spend(sent, received)
}
