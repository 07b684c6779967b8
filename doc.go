// Package gridveil is the root of a peer-to-peer edge mesh for smart metering
// with EV-charging settlement. It holds no code of its own: the program is
// cmd/gridveil, and the parts are mesh, ledger, ev, privacy, battery and node.
// doc/design.md walks the data through them.
package gridveil
