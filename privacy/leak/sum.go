package leak

import "math"

// SumBits is what one published sum over n homes, each in 0..most steps, tells at
// most of one of them, as the mean over these homes: log2(n*most+1)/n bits. It
// assumes only that the homes do not depend on each other: what a sum tells of its
// parts one by one then adds up to no more than its own entropy. A single home that
// varies far more than its neighbours can tell more than the mean.
func SumBits(n int, most int64) float64 {
	if n < 1 || most < 1 {
		return 0
	}
	return math.Log2(float64(n)*float64(most)+1) / float64(n)
}

// AlikeBits is what one sum tells of one home by model: all n homes vary alike and
// independently, and the sum is spread like a bell. The Gaussian channel has then
// log2(1+1/(n-1))/2 bits. It is infinite for a single home.
func AlikeBits(n int) float64 {
	if n < 2 {
		return math.Inf(1)
	}
	return math.Log2(1+1/float64(n-1)) / 2
}
