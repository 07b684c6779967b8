package ask

import (
	"bytes"
	"errors"
	"testing"

	"gridveil/mesh/member"
)

func TestMeterBatchHasLimits(t *testing.T) {
	good := MeterBatch{Chain: [][]byte{{1, 2}, {3}}, Box: []byte("box")}
	if got, err := ParseMeterBatch(good.Bytes()); err != nil || !bytes.Equal(got.Bytes(), good.Bytes()) || len(got.Chain) != 2 {
		t.Errorf("ParseMeterBatch: %+v, %v", got, err)
	}
	long := make([][]byte, member.MaxChain+1)
	for i := range long {
		long[i] = []byte{1}
	}
	for name, bad := range map[string][]byte{
		"no certificate":          MeterBatch{Box: []byte("box")}.Bytes(),
		"a chain above the limit": MeterBatch{Chain: long, Box: []byte("box")}.Bytes(),
		"an empty certificate":    MeterBatch{Chain: [][]byte{{}}, Box: []byte("box")}.Bytes(),
		"no box":                  MeterBatch{Chain: good.Chain}.Bytes(),
		"a box above the limit":   MeterBatch{Chain: good.Chain, Box: make([]byte, maxBatchBox+1)}.Bytes(),
		"nothing":                 nil,
		"a cut certificate":       {1, 0, 9, 1},
	} {
		if _, err := ParseMeterBatch(bad); !errors.Is(err, ErrBody) {
			t.Errorf("%s: got %v, want ErrBody", name, err)
		}
	}
}

func FuzzMeterBatch(f *testing.F) {
	f.Add(MeterBatch{Chain: [][]byte{{1, 2}, {3}}, Box: []byte("box")}.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := ParseMeterBatch(b); err == nil && !bytes.Equal(m.Bytes(), b) {
			t.Fatal("meter batch")
		}
	})
}
