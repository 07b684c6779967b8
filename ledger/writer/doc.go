// Package writer is the one writer of a log: it takes entries from operators,
// orders them, answers with receipts once they are durable, signs checkpoints
// and collects the cosignatures that make them final.
//
// It guarantees that a receipt is given only for an entry that survives a crash,
// that the same entry sent again gets its old index, and that nothing is signed
// below what was signed before. It does not judge what an entry means: that is
// the Machine.
//
// The flow, in the words of design/ledger.md:
//
//	decode -> check -> apply -> commit -> receipt -> checkpoint -> witness -> publish
//
// Start with Open, run Serve until the context ends, then Close. Entries come
// through Submit, Post (those of the log's own party) or Handler. Act on what
// Watch reports: only that is final.
package writer
