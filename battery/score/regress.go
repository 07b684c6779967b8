package score

import "math"

// regress is the mean, over the two halves, of how much of one half's load the
// meter explains with coefficients learned on the other half, by least squares
// on 1 and the meter at lags from..to, circular.
func regress(x, y []float64, from, to int) float64 {
	n := len(x)
	if n < 4*(to-from+2) {
		return 0
	}
	rows := make([][]float64, n)
	for t := range rows {
		row := make([]float64, to-from+2)
		row[0] = 1
		for k := from; k <= to; k++ {
			row[k-from+1] = y[((t+k)%n+n)%n]
		}
		rows[t] = row
	}
	half := n / 2
	a := explained(rows[half:], x[half:], leastSquares(rows[:half], x[:half]))
	b := explained(rows[:half], x[:half], leastSquares(rows[half:], x[half:]))
	return (a + b) / 2
}

func explained(rows [][]float64, x, beta []float64) float64 {
	m := mean(x)
	var tot, err, merr float64
	residual := make([]float64, len(x))
	for t, row := range rows {
		p := 0.
		for j, b := range beta {
			p += b * row[j]
		}
		residual[t] = x[t] - p
		merr += residual[t] / float64(len(x))
		tot += (x[t] - m) * (x[t] - m)
	}
	for _, e := range residual {
		err += (e - merr) * (e - merr)
	}
	if tot == 0 {
		return 0
	}
	return 1 - err/tot
}

// leastSquares solves min |A b - x| by Householder QR with column pivoting;
// columns below 1e-10 of the first pivot are dropped.
func leastSquares(rows [][]float64, x []float64) []float64 {
	m, n := len(rows), len(rows[0])
	a := make([][]float64, n) // columns
	for j := range a {
		a[j] = make([]float64, m)
		for t := range rows {
			a[j][t] = rows[t][j]
		}
	}
	b := append([]float64(nil), x...)
	perm := make([]int, n)
	for j := range perm {
		perm[j] = j
	}
	rank, first := 0, 0.
	for k := range min(m, n) {
		p := pivot(a, k)
		a[k], a[p] = a[p], a[k]
		perm[k], perm[p] = perm[p], perm[k]
		size := norm(a[k][k:])
		if k == 0 {
			first = size
		}
		if size <= 1e-10*first || size == 0 {
			break
		}
		reflect(a, b, k, size)
		rank++
	}
	beta := make([]float64, n)
	for k := rank - 1; k >= 0; k-- {
		v := b[k]
		for j := k + 1; j < rank; j++ {
			v -= a[j][k] * beta[perm[j]]
		}
		beta[perm[k]] = v / a[k][k]
	}
	return beta
}

func pivot(a [][]float64, k int) int {
	best, at := -1., k
	for j := k; j < len(a); j++ {
		if s := norm(a[j][k:]); s > best {
			best, at = s, j
		}
	}
	return at
}

// reflect zeroes column k below its diagonal and applies the same reflection to
// the columns behind it and to the right-hand side.
func reflect(a [][]float64, b []float64, k int, size float64) {
	v := append([]float64(nil), a[k][k:]...)
	if v[0] > 0 {
		size = -size
	}
	v[0] -= size
	vv := 0.
	for _, e := range v {
		vv += e * e
	}
	if vv == 0 {
		return
	}
	turn := func(c []float64) {
		dot := 0.
		for i, e := range v {
			dot += e * c[i]
		}
		f := 2 * dot / vv
		for i, e := range v {
			c[i] -= f * e
		}
	}
	for j := k; j < len(a); j++ {
		turn(a[j][k:])
	}
	turn(b[k:])
}

func norm(v []float64) float64 {
	s := 0.
	for _, e := range v {
		s += e * e
	}
	return math.Sqrt(s)
}
