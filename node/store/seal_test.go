package store

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"testing"
	"time"
)

// oneKey seals as stores did before there were generations: the yardstick.
type oneKey struct{ aead cipher.AEAD }

func (s oneKey) seal(key []byte, n uint64, value []byte) []byte {
	out := make([]byte, 8, sealOverhead+len(value))
	binary.BigEndian.PutUint64(out, n)
	return s.aead.Seal(out, nil, value, sealedUnder(key, stamp(n)))
}

func (s oneKey) open(key, sealed []byte) ([]byte, error) {
	return s.aead.Open(nil, nil, sealed[8:], sealedUnder(key, stamp(binary.BigEndian.Uint64(sealed))))
}

// BenchmarkSeal seals and opens values; the yardstick in the same run, in turns, is
// the same under one key for ever.
func BenchmarkSeal(b *testing.B) {
	d := &dataKeys{}
	g, err := newGeneration(1, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	d.keep(g)
	for i := range d.slots {
		d.slots[i].wiped = i != 1
	}
	var now sealer
	now.turn(d)
	before := oneKey{newAEAD(g.key[:])}
	key := SpaceBlock.Key(U64(7))
	for _, size := range []int{200, 4000} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			value := make([]byte, size)
			var took [2]time.Duration
			for b.Loop() {
				for i, f := range []func(){
					func() { _, err = now.open(key, now.seal(key, 9, value)) },
					func() { _, err = before.open(key, before.seal(key, 9, value)) },
				} {
					began := time.Now()
					for range 100 {
						if f(); err != nil {
							b.Fatal(err)
						}
					}
					took[i] += time.Since(began)
				}
			}
			b.ReportMetric(float64(took[0])/float64(took[1]), "ratio")
		})
	}
}
