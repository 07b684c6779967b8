package route

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// exactSet simulates one honest relay with exponential holds and an attacker who
// sees every arrival with its sender and every departure, and keeps the exact
// probability of each packet to be still inside. It returns the collision-entropy
// size that a departing packet leaves him with, averaged over departures.
func exactSet(framesPerSecond float64, leaves int, hop time.Duration, rnd *rand.Rand) float64 {
	const departures = 4000
	inside := make([]float64, leaves) // expected number of packets of each leaf in the pool
	pool, now, end := 0, 0.0, 10*hop.Seconds()
	collision, counted := 0.0, 0
	for counted < departures {
		arrive, leave := framesPerSecond, float64(pool)/hop.Seconds()
		now += rnd.ExpFloat64() / (arrive + leave)
		if rnd.Float64()*(arrive+leave) < arrive {
			inside[rnd.IntN(leaves)]++
			pool++
			continue
		}
		// Any packet inside is equally likely to be the one that leaves.
		sum := 0.0
		for i, expected := range inside {
			share := expected / float64(pool)
			sum += share * share
			inside[i] -= share
		}
		pool--
		if now > end { // the pool has settled
			collision += sum
			counted++
		}
	}
	return departures / collision
}

func TestTheShownSetNeverFlattersAndIsCloseToTheTruth(t *testing.T) {
	const hop = 30 * time.Second
	rnd := rand.New(seeded(50))
	for _, homes := range []int{6, 20, 30, 60, 120, 400, 1000} {
		for _, slot := range []float64{10, 30} {
			leaves := max(homes*2/3, 1) // three guards, each home attached to two
			frames := float64(homes) / slot / 3
			shown, exact := Set(frames, leaves, hop), exactSet(frames, leaves, hop, rnd)
			if quotient := shown / exact; quotient > 1.01 || quotient < 0.90 || math.IsNaN(quotient) {
				t.Errorf("%d homes, slots of %.0f s: shown %.1f, an exact attacker is left with %.1f", homes, slot, shown, exact)
			}
		}
	}
}
