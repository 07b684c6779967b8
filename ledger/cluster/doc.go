// Package cluster lets three or five nodes of one operator keep one log, so that
// its settlement service outlives any one machine of three, or two of five.
//
// It guarantees that an entry with a receipt is on the disks of a majority, that
// at most one member sequences and signs at a time, and that nobody signs below
// what any member signed: each group, each signed state and each final
// checkpoint is one entry of a raft log, applied by the same commit path on every
// member. What an owner keeps beside the ledger goes through the same raft log if
// it is a Beside. It does not protect from an operator who forks the log: that is
// for witnesses.
//
// The flow, in the words of design/ledger.md:
//
//	leader: group closed -> propose -> majority -> apply (W1 to W4) -> receipt
//	follower:                          majority -> check -> apply (W1 to W4)
//
// Start with Open, run Serve until the context ends, then Close. Entries go
// through Writer; who does not lead refuses them with a writer.NotLeaderError. An
// owner with more to do than the log gives Config.Lead. One node needs none of
// this: it uses writer alone.
package cluster
