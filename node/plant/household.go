package plant

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// minutesPerDay is the length of a generated day.
const minutesPerDay = 24 * 60

// Household is a generated home: appliances with their own cycles, switched on
// by people with their own habits. Weekends differ from workdays and no two
// days are alike, yet a seed always gives the same home.
type Household struct {
	seed   uint64
	habits habits
	mu     sync.Mutex
	day    int64 // days since the epoch of the cached curve
	curve  []float64
	hasDay bool
}

// habits are drawn once per home.
type habits struct {
	base, fridge   float64 // W
	fridgeCycle    int     // minutes
	people         int
	wake, home     float64 // hours
	cooksElectric  bool
	electricShower bool
	washes         float64 // per day
	dishes         float64
	media          float64 // W
}

// NewHousehold draws a home from seed.
func NewHousehold(seed uint64) *Household {
	r := rand.New(rand.NewPCG(seed, 0x686f7573))
	return &Household{seed: seed, habits: habits{
		base: 45 + 110*r.Float64(), fridge: 70 + 60*r.Float64(), fridgeCycle: 40 + r.IntN(30),
		people: 1 + r.IntN(4), wake: 5.6 + 2*r.Float64(), home: 15.5 + 3*r.Float64(),
		cooksElectric: r.Float64() < .8, electricShower: r.Float64() < .15,
		washes: .3 + .6*r.Float64(), dishes: .2 + .7*r.Float64(), media: 60 + 140*r.Float64(),
	}}
}

// Watts is the home's mean power in the minute that starts at t.
func (h *Household) Watts(t time.Time) float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	day := t.Unix() / 86400
	if !h.hasDay || h.day != day {
		h.curve = h.draw(day)
		h.day, h.hasDay = day, true
	}
	return h.curve[(t.Unix()%86400)/60]
}

// draw makes the curve of one day from the seed and the day alone.
func (h *Household) draw(day int64) []float64 {
	r := rand.New(rand.NewPCG(h.seed, uint64(day)))
	c := make([]float64, minutesPerDay)
	weekend := (day+3)%7 >= 5 // 1970-01-01 was a Thursday
	h.always(r, c)
	h.morning(r, c, weekend)
	if weekend || r.Float64() < .3 {
		h.kettle(r, c, 10, 15)
		h.cook(r, c, 12.2, .6)
	}
	h.evening(r, c)
	if r.Float64() < h.habits.washes {
		h.cycle(r, c, 8+10*r.Float64(), washer)
	}
	if r.Float64() < h.habits.dishes {
		h.cycle(r, c, 19+2.5*r.Float64(), dishwasher)
	}
	return c
}

func (h *Household) always(r *rand.Rand, c []float64) {
	phase := r.IntN(h.habits.fridgeCycle)
	for m := range c {
		c[m] += h.habits.base * (.96 + .08*r.Float64())
		if (m+phase)%h.habits.fridgeCycle < h.habits.fridgeCycle*2/5 {
			c[m] += h.habits.fridge
		}
	}
}

func (h *Household) morning(r *rand.Rand, c []float64, weekend bool) {
	wake := h.habits.wake + .4*r.NormFloat64()
	if weekend {
		wake += 1.5
	}
	h.run(c, wake, 70, 120+40*float64(h.habits.people)) // lights and radio
	for range h.habits.people {
		if h.habits.electricShower {
			h.run(c, wake+.8*r.Float64(), 6+r.IntN(5), 8600)
		}
	}
	h.kettle(r, c, wake, wake+1)
	h.run(c, wake+.3+.5*r.Float64(), 3, 900) // toaster
}

func (h *Household) evening(r *rand.Rand, c []float64) {
	home := h.habits.home + .5*r.NormFloat64()
	h.run(c, home, int((23-home)*60), h.habits.media)
	h.run(c, 17.5, 300, 60+50*float64(h.habits.people))
	h.cook(r, c, home+1+.8*r.Float64(), 1)
	h.kettle(r, c, home, 22)
}

func (h *Household) kettle(r *rand.Rand, c []float64, from, to float64) {
	for range 1 + r.IntN(h.habits.people+1) {
		h.run(c, from+(to-from)*r.Float64(), 2+r.IntN(3), 1900+300*r.Float64())
	}
}

// cook switches hob plates and sometimes the oven, both on thermostats.
func (h *Household) cook(r *rand.Rand, c []float64, at, chance float64) {
	if !h.habits.cooksElectric || r.Float64() > chance {
		return
	}
	h.thermostat(r, c, at, 18+r.IntN(25), 1800, .5)
	if r.Float64() < .35 {
		h.thermostat(r, c, at-.2, 40+r.IntN(30), 2400, .4)
	}
}

func (h *Household) thermostat(r *rand.Rand, c []float64, at float64, minutes int, watts, duty float64) {
	for i := range minutes {
		if i < 6 || r.Float64() < duty {
			h.run(c, at+float64(i)/60, 1, watts)
		}
	}
}

// phase is a stretch of an appliance's cycle.
type phase struct {
	minutes int
	watts   float64
}

var (
	washer     = []phase{{4, 80}, {18, 2050}, {45, 160}, {10, 300}, {12, 520}}
	dishwasher = []phase{{6, 60}, {16, 1950}, {30, 70}, {14, 1950}, {20, 40}}
)

func (h *Household) cycle(r *rand.Rand, c []float64, at float64, ps []phase) {
	for _, p := range ps {
		n := max(1, int(math.Round(float64(p.minutes)*(.85+.3*r.Float64()))))
		h.run(c, at, n, p.watts*(.92+.16*r.Float64()))
		at += float64(n) / 60
	}
}

// run adds watts for so many minutes from hour at; what would cross midnight
// is cut, since a day is drawn from its own seed alone.
func (h *Household) run(c []float64, at float64, minutes int, watts float64) {
	from := int(at * 60)
	for m := max(0, from); m < min(len(c), from+minutes); m++ {
		c[m] += watts
	}
}
