// Package party is an operator's side of the network's ledger: it replays and
// cosigns the log, gets itself registered, enters what it has to enter exactly
// once, and acts on what became final.
//
// Utilities and verifiers are parties; the aggregator, who writes the log, uses
// the same doors, policy and pages. The flow:
//
//	find the log -> replay and cosign -> join -> act on final entries -> post own entries
//
// Guarantees: nothing is cosigned that was not replayed; OnFinal sees each final
// entry in order, again after a crash in between, so what it does must bear
// repetition; an entry given to Post enters the log at most once, and goes on
// being tried until it is in or refused for good. With the aggregator away
// everything waits.
//
// Start with New, register OnFinal and OnRefused, then run Serve.
package party
