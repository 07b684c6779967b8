package mesh

import "gridveil/mesh/gossip"

// Stores is what a host keeps across restarts; node implements it. Nil means that nothing is kept, which suits a
// wallet with a certificate of one day. Everything saved is durable when the call returns.
type Stores interface {
	LoadRegisters() ([]Envelope, error)
	SaveRegisters(list []Envelope) error // all or none; each replaces the one with the same ID(), the last counts
	DropRegisters(ids []gossip.ID) error // registers that nobody needs any more; unknown ids are no error

	// Named small states, each replaced as a whole; nil when absent.
	LoadState(name string) ([]byte, error)
	SaveState(name string, value []byte) error
}

// nothing keeps nothing.
type nothing struct{}

func (nothing) LoadRegisters() ([]Envelope, error) { return nil, nil }
func (nothing) SaveRegisters([]Envelope) error     { return nil }
func (nothing) DropRegisters([]gossip.ID) error    { return nil }
func (nothing) LoadState(string) ([]byte, error)   { return nil, nil }
func (nothing) SaveState(string, []byte) error     { return nil }
