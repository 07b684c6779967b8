package score

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

func home(days int) []float64 {
	r := rand.New(rand.NewPCG(1, 1))
	v := make([]float64, days*1440)
	for i := range v {
		v[i] = 150 + 20*r.Float64()
		if i%1440 > 1020 && r.IntN(60) == 0 || i > 0 && v[i-1] > 1500 && r.IntN(4) != 0 {
			v[i] += 2000
		}
	}
	return v
}

func TestUnmaskedLoadGivesEverythingAway(t *testing.T) {
	x := home(6)
	r, err := Score(Input{Minutes: 1, Load: x, Meter: x, Appliances: [][]float64{x}})
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(r.LinR2-1) > 1e-9 || r.EdgeF1 < .999 || r.AppRecall < .9 || math.Abs(r.DayCorr-1) > 1e-9 || r.CostRatio != 1 || r.LossPct != 0 {
		t.Errorf("got %+v", r)
	}
}

func TestFlatMeterGivesNothingAway(t *testing.T) {
	x := home(6)
	y := make([]float64, len(x))
	for i := range y {
		y[i] = mean(x)
	}
	r, err := Score(Input{Minutes: 1, Load: x, Meter: y})
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(r.LinR2) > 1e-3 || r.EdgeF1 != 0 || math.Abs(r.MILevel) > 1e-9 || r.DayCorr != 0 {
		t.Errorf("got %+v", r)
	}
}

func TestEdgesAreCountedOnce(t *testing.T) {
	// A rise of 600 W spread over two samples, then a fall.
	v := []float64{100, 100, 400, 700, 700, 100, 100}
	e := edgesOf(v, 500)
	if len(e) != 2 || e[0].size != 600 || e[0].at != 2 || e[1].size != -600 || e[1].at != 5 {
		t.Errorf("got %+v", e)
	}
	if tp := match(e, []edge{{3, 650}, {4, -2000}}, true); tp != 1 {
		t.Errorf("strict: %d matches, want 1", tp)
	}
	if tp := match(e, []edge{{3, 650}, {4, -2000}}, false); tp != 2 {
		t.Errorf("loose: %d matches, want 2", tp)
	}
}

func TestLeastSquaresRecoversCoefficientsAndDropsTwins(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	var rows [][]float64
	var x []float64
	for range 200 {
		a, b := r.NormFloat64(), r.NormFloat64()
		rows = append(rows, []float64{1, a, b, a}) // the last column repeats the second
		x = append(x, 3+2*a-5*b)
	}
	beta := leastSquares(rows, x)
	if math.Abs(beta[0]-3) > 1e-9 || math.Abs(beta[1]+beta[3]-2) > 1e-9 || math.Abs(beta[2]+5) > 1e-9 {
		t.Errorf("got %v", beta)
	}
}

func TestMutualInformationOfACoin(t *testing.T) {
	a := make([]int, 4000)
	for i := range a {
		a[i] = i & 1
	}
	if mi := mutual(a, a); math.Abs(mi-1) > .01 {
		t.Errorf("a coin with itself: %.4f bits", mi)
	}
}

func TestSeriesThatCannotBeScoredAreRefused(t *testing.T) {
	for _, in := range []Input{{}, {Minutes: 1, Load: make([]float64, 10), Meter: make([]float64, 9)}, {Minutes: 1, Load: make([]float64, 100), Meter: make([]float64, 100)}} {
		if _, err := Score(in); !errors.Is(err, ErrInput) {
			t.Errorf("%d samples: got %v", len(in.Load), err)
		}
	}
}
