// Package verifier follows a log that somebody else writes: it fetches every
// entry, replays it through its own Machine, and cosigns a checkpoint only if it
// came to the same root by entries that all obey the rules.
//
// It guarantees that it never cosigns a smaller log than before, another history,
// or a log that holds an entry it must refuse; it publishes a signed Objection or
// Evidence instead. It does not guarantee that it sees every log that the writer
// shows to others: the quorum of a policy does.
//
// The flow, in the words of design/ledger.md:
//
//	fetch -> check -> apply -> persist -> cosign
//
// Start with Open, mount Handler, run Serve until the context ends, then Close. Who
// only watches calls Look instead and may mount Mirror.
// Repair refills the damaged store of a verifier or a writer from a peer.
package verifier
