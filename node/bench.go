package node

import (
	"context"
	"time"

	"gridveil/mesh/meshbench"
)

// Measurement is a row of `gridveil bench mesh`.
type Measurement = meshbench.Measurement

// BenchMesh measures the mesh on this machine, each part for about the time
// given, and hands every row to show as soon as it is there. It needs no network
// and no data directory: what it measures runs on loopback.
func BenchMesh(ctx context.Context, each time.Duration, show func(Measurement)) error {
	return meshbench.Run(ctx, each, show)
}
