// Package report carries readings from a gateway or SSN to the head-end: one
// signed columnar report per (source, class, period), chained by sequence and
// hash, sealed to the head-end's day key.
//
// # Flow
//
//	Build(profile, rows) -> Draft -> Queue.Append (durable)
//	-> Queue.Due (seq, prev, signature; sealed messages, at most 8 in flight) -> relay: Admit, ack held
//	-> head-end: Admit, OpenReport, vee, commit, ack final -> Queue.OnAck trims
//
// # Guarantees
//
//   - The signature covers the content (a Merkle root over salted leaves, one
//     for each meter), not the wrapper: sealing anew for another day needs no new
//     signature, and one customer's evidence is header, leaf and path without any
//     neighbour.
//   - Encodings are bijective: a byte string decodes to at most one value, and
//     that value encodes to the same bytes.
//   - A record that lacks identifier, register, status or quality does not parse.
//   - Only a final acknowledgement lets a source trim.
//
// It does not decide whether a value is plausible (package vee), nor does it own
// a connection: the role that uses Queue sends and feeds back the answers.
//
// Source: doc/design.md; RFC 6962 (tree), RFC 9180 (sealing).
package report
