package mesh_test

import (
	"fmt"
	"testing"

	"gridveil/mesh/meshbench"
)

func BenchmarkLaneCall(b *testing.B) {
	for _, callers := range []int{1, 32} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) { meshbench.LaneCallBy(b, callers) })
	}
}
