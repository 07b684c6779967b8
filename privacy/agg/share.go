package agg

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/vdaf/prio3/sum"

	"gridveil/privacy/commit"
	"gridveil/privacy/internal/curve"
)

// p64 is the order of Prio3Sum's field, 2^64 - 2^32 + 1.
const p64 = 0xffffffff00000001

// half is one server's preparation of one report.
type half struct {
	state *sum.PrepState
	prep  []byte // its preparation share, for the other server
	out   uint64 // its output share, o_j
}

// prepare runs Prio3's first step for server id (0 leader, 1 helper) on an
// encoded input share.
func prepare(v *sum.Sum, verify *sum.VerifyKey, nonce [16]byte, id uint8, share []byte) (half, error) {
	params := v.Params()
	var in sum.InputShare
	in.New(&params, uint(id))
	if err := in.UnmarshalBinary(share); err != nil {
		return half{}, fmt.Errorf("%w: input share", ErrMalformed)
	}
	n := sum.Nonce(nonce)
	state, prep, err := v.PrepInit(verify, &n, id, nil, in)
	if err != nil {
		return half{}, fmt.Errorf("%w: input share: %v", ErrMalformed, err)
	}
	raw, err := prep.MarshalBinary()
	if err != nil {
		return half{}, fmt.Errorf("encode preparation share: %w", err)
	}
	// Without joint randomness the message is empty, and the output share is
	// part of the state; it counts only once decide accepted the proof.
	out, err := v.PrepNext(state, new(sum.PrepMessage))
	if err != nil {
		return half{}, fmt.Errorf("output share: %w", err)
	}
	o, err := out.MarshalBinary()
	if err != nil || len(o) != 8 {
		return half{}, fmt.Errorf("encode output share of %d bytes: %w", len(o), ErrMalformed)
	}
	return half{state: state, prep: raw, out: binary.LittleEndian.Uint64(o)}, nil
}

// decide says whether the two preparation shares together accept the proof that
// the reading is in range.
func decide(v *sum.Sum, leader, helper []byte) bool {
	params := v.Params()
	shares := make([]sum.PrepShare, 2)
	for i, raw := range [][]byte{leader, helper} {
		shares[i].New(&params)
		if shares[i].UnmarshalBinary(raw) != nil {
			return false
		}
	}
	_, err := v.PrepSharesToPrep(shares)
	return err == nil
}

// prepLen is the size of an encoded preparation share.
func prepLen(v *sum.Sum) int {
	params := v.Params()
	return int(params.VerifierLength()) * 8
}

// bind is the commitment o*G + r*H to an output share.
func bind(o uint64, r group.Scalar) group.Element {
	c := curve.Mul(commit.H(), r)
	return c.Add(c, curve.MulBase(group.Ristretto255.NewScalar().SetUint64(o)))
}

// tableH holds j*16^i*H for windows i and digits j = 1..15: a server checks a
// blind it was told, so the time may depend on it, and 64 additions are a third
// of a multiplication. Homes, whose blinds are secret, use bind.
var tableH = sync.OnceValue(func() *[64][15]group.Element {
	var t [64][15]group.Element
	base := commit.H()
	for i := range t {
		t[i][0] = base.Copy()
		for j := 1; j < 15; j++ {
			t[i][j] = curve.Add(t[i][j-1], base)
		}
		base = curve.Add(t[i][14], base)
	}
	return &t
})

// opens returns ErrCommitment unless c = o*G + blind*H; blind is a canonical
// scalar, little-endian.
func opens(c [32]byte, o uint64, blind []byte) error {
	point, err := curve.ParseElement(c[:])
	if err != nil {
		return ErrCommitment
	}
	if _, err := curve.ParseScalar(blind); err != nil {
		return ErrCommitment
	}
	sum := curve.MulBase(group.Ristretto255.NewScalar().SetUint64(o))
	table := tableH()
	for i := range table {
		if digit := blind[i/2] >> (4 * (i % 2)) & 15; digit != 0 {
			sum.Add(sum, table[i][digit-1])
		}
	}
	if !sum.IsEqual(point) {
		return ErrCommitment
	}
	return nil
}

// total is an integer sum of output shares: 4096 of 64 bits fit easily.
type total struct{ hi, lo uint64 }

func (t total) plus(o uint64) total {
	lo, carry := bits.Add64(t.lo, o, 0)
	return total{t.hi + carry, lo}
}

// mod reduces the sum of two totals modulo p64.
func (t total) mod(u total) uint64 {
	lo, carry := bits.Add64(t.lo, u.lo, 0)
	hi, _ := bits.Add64(t.hi, u.hi, carry)
	return bits.Rem64(hi, lo, p64)
}

func (t total) scalar() group.Scalar {
	s := group.Ristretto255.NewScalar().SetUint64(t.hi)
	two32 := group.Ristretto255.NewScalar().SetUint64(1 << 32)
	s.Mul(s, two32)
	s.Mul(s, two32)
	return s.Add(s, group.Ristretto255.NewScalar().SetUint64(t.lo))
}

func (t total) bytes() (b [16]byte) {
	binary.BigEndian.PutUint64(b[:], t.hi)
	binary.BigEndian.PutUint64(b[8:], t.lo)
	return b
}

func totalOf(b []byte) total {
	return total{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}
