package onion_test

import (
	"testing"

	"gridveil/mesh/meshbench"
)

func BenchmarkRelayTCP(b *testing.B) { meshbench.RelayTCP(b) }
