package mesh

import (
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
)

// NewStranger makes a bare libp2p host that speaks nothing by itself.
func NewStranger(key crypto.PrivKey) (host.Host, error) {
	return newWire(key, leafLimits, newGater(wallClock{}))
}
