// Package store keeps one log on disk: entries and tiles in Badger, a second
// copy of the newest entries in a journal, and a head file that says how far
// both must reach. Writer and verifier use it alike.
//
// It guarantees that an entry that Take reported is found again after a crash,
// that a lost or altered acknowledged entry is either repaired from the other
// copy or makes Open return ErrDamaged, and that nothing is signed which was not
// read back. It does not check signatures on its own: call Check before Take, or TakeAll.
//
// The flow, in the words of design/ledger.md, 4.7:
//
//	Open (recover, replay) -> Check -> Take (W1..W4) -> Seal (W5, W6) -> Publish (W8)
//
// A write or sync error is final: every later call returns ErrHalted and the
// process recovers by opening the store again.
//
// Locks are taken in this order: take, shown, mu, head. Seal holds sealing
// outside of them.
package store
