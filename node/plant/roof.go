package plant

import (
	"math"
	"math/rand/v2"
	"time"
)

// Roof is a PV system facing south at 50 degrees north: the sun's height gives
// its clear-sky curve, clouds of the zone's day take their share.
type Roof struct {
	PeakW float64
	Seed  uint64  // equal seeds share the weather
	Least float64 // share of the clear sky that the thickest cloud lets through; zero means .15
}

// latitude of the generated neighbourhood, in radians.
const latitude = 50 * math.Pi / 180

// Watts is the roof's mean power in the minute that starts at t.
func (p Roof) Watts(t time.Time) float64 {
	up := sunHeight(t)
	if up <= 0 {
		return 0
	}
	clear := p.PeakW * .92 * math.Pow(up, 1.15)
	return clear * p.sky(t)
}

// sunHeight is the sine of the sun's elevation, by solar time = UTC + 40 min.
func sunHeight(t time.Time) float64 {
	decl := 23.44 * math.Pi / 180 * math.Sin(2*math.Pi*float64(t.YearDay()-81)/365)
	hour := float64(t.Hour()) + float64(t.Minute())/60 + 40./60
	angle := (hour - 12) * math.Pi / 12
	return math.Sin(latitude)*math.Sin(decl) + math.Cos(latitude)*math.Cos(decl)*math.Cos(angle)
}

// sky is the share of light that the clouds let through, between .15 and 1: a
// mean for the day and interpolated swings for each quarter of an hour.
func (p Roof) sky(t time.Time) float64 {
	day := uint64(t.Unix() / 86400)
	mean := .55 + .45*rand.New(rand.NewPCG(p.Seed, day)).Float64()
	quarter := float64(t.Unix()%86400) / 900
	i := math.Floor(quarter)
	a, b := p.cloud(day, uint64(i)), p.cloud(day, uint64(i)+1)
	f := quarter - i
	least := p.Least
	if least == 0 {
		least = .15
	}
	return min(1, max(least, mean+(1-mean)*1.3*(a+(b-a)*f)))
}

func (p Roof) cloud(day, quarter uint64) float64 {
	return 2*rand.New(rand.NewPCG(p.Seed^day<<20, quarter)).Float64() - 1
}
