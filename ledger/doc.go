// Package ledger is the pure core of the settlement log: one append-only
// Merkle log of signed entries that operators (never households or drivers)
// keep their debts in.
//
// It guarantees that balances of each currency sum to zero after every entry,
// that an operator's total falls only under its own signature, that credit
// notes in circulation are always backed, that the same entry counts once, and
// that two parties who were shown different histories hold proof of it. It does
// not guarantee that a debtor pays its bank transfers, nor that a meter told the
// truth. See doc/design.md and design/ledger.md, section 1.
//
// Nothing in this package reads a clock, a disk or global randomness. The flow:
//
//	Parse -> State.Checks -> Verify -> State.Apply -> SignReceipts -> SignCheckpoint
//
// Start with New (a State for one origin), build entries with NewEntry and Sign,
// and replay a log by calling the four steps for each entry in order. Packages
// ledger/store, ledger/writer and ledger/verifier drive any Machine; Money is
// the one for settlement. ledger/export writes archives, statements, journals
// and payment files, and verifies an archive offline.
//
// Signs: a posting above zero means the account is owed money, below zero that
// it owes. Amounts are int64 millionths of a currency unit, energy is mWh, time
// is UTC milliseconds.
package ledger
