package sched

import (
	"fmt"
	"math/bits"
)

// Check reports whether p is a cheapest plan for need mWh in these slots. It trusts nothing in p: every segment dearer
// than Lambda must be empty, every cheaper one full, and the sum exact. The error wraps ErrCertificate and names the
// slot, or ErrInput. It takes one pass.
func (p Plan) Check(slots []Slot, need int64) error {
	if err := check(slots, need); err != nil {
		return err
	}
	if len(p.Shares) != len(slots) {
		return fmt.Errorf("%w: %d shares for %d slots", ErrCertificate, len(p.Shares), len(slots))
	}
	var sum, capacity int64
	for i := range slots {
		res, grid := slots[i].segments()
		if !p.fits(res, p.Shares[i].Res) || !p.fits(grid, p.Shares[i].Grid) {
			return fmt.Errorf("%w: slot %d", ErrCertificate, i)
		}
		sum += p.Shares[i].Res + p.Shares[i].Grid
		capacity += res.energy + grid.energy
	}
	if p.Short != max(0, need-capacity) || sum != need-p.Short {
		return fmt.Errorf("%w: it holds %d mWh and misses %d, need is %d", ErrCertificate, sum, p.Short, need)
	}
	return nil
}

func (p *Plan) fits(s segment, used int64) bool {
	switch {
	case used < 0 || used > s.energy:
		return false
	case used > 0 && s.price > p.Lambda:
		return false
	}
	return used == s.energy || s.price >= p.Lambda
}

// Cost returns what the plan costs by its segments, in millionths, each segment rounded down. It is for comparison and
// display; nothing is billed by it.
func (p Plan) Cost(slots []Slot) (sum int64) {
	for i := range slots {
		res, grid := slots[i].segments()
		sum += cost(p.Shares[i].Res, res.price) + cost(p.Shares[i].Grid, grid.price)
	}
	return sum
}

const mwhPerKWh = 1_000_000

func cost(energy, price int64) int64 {
	hi, lo := bits.Mul64(uint64(energy), uint64(max(price, -price)))
	q, _ := bits.Div64(hi, lo, mwhPerKWh)
	if price < 0 {
		return -int64(q)
	}
	return int64(q)
}

// mulDivUp returns a x b / c rounded up, for a, b >= 0 and b <= c.
func mulDivUp(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	q, r := bits.Div64(hi, lo, uint64(c))
	if r > 0 {
		q++
	}
	return int64(q)
}
