// Package privacy is the common core of everything gridveil signs, seals or
// hides: the list of message kinds, domain-separated Ed25519 signatures,
// sealed boxes with exporters, key checks and seeded randomness.
//
// The rooms below it hold the protocols:
//
//   - commit: hiding commitments to a session's money and energy
//   - pseudo: single-use pseudonyms of drivers and meters, and who issues them
//   - note: blind-signed credit notes and host passes
//   - committee: the 3 of 5 openers who can link a pseudonym in a ledgered case
//   - session, agg, leak: one charging session, private sums, what left the house
//
// # What it guarantees
//
// A signature or a box made for one kind, or for one network, verifies or opens
// as no other: kind and network are part of the signed bytes, of the HPKE info
// and of every derived key. Plaintexts are padded to blocks of their kind, so
// the length of a box tells the kind and nothing else. No nonce is ever used
// twice: every later box of an exchange has its own key.
//
// # What it does not
//
// It keeps no state and no clock: replay, expiry and duplicate use are rules of
// the packages that know the protocol. Randomness, time and stored state are
// arguments everywhere, and a step returns what to persist before what to send.
//
// Start with [Sign] and [Verify]; with [Seal], [Open] and the [Exporter] that
// both return.
//
// Source: doc/design.md; RFC 8032, RFC 9180, draft-connolly-cfrg-xwing-kem.
package privacy
