package kernel

import (
	"math"
	"testing"
)

// TestAFittedModelTakesWhatTheHomeTakes: spreading pairs over their neighbours moves the
// mean demand by little, also where most blocks are at level 0: a model that takes more
// than its home would fill the store.
func TestAFittedModelTakesWhatTheHomeTakes(t *testing.T) {
	demand := make([]float64, 4000)
	for i := range demand {
		if i%17 > 13 {
			demand[i] = 1 + float64(i%3)/2
		}
	}
	const mx = 3
	mean, home := 0., 0.
	for x, p := range Fit(demand, mx, math.Inf(1)).Stationary() {
		mean += float64(x) * p
	}
	for _, e := range demand {
		home += e / float64(len(demand))
	}
	if math.Abs(mean/home-1) > .06 {
		t.Errorf("the model takes %.3f levels, the home %.3f", mean, home)
	}
}
