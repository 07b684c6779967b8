// Package export turns a final log into files that stand on their own, and
// judges such files without a node, a database or a network.
//
// Everything in an export is a pure function of the log, the policy and the
// bank accounts of the operators, so a second export has the same bytes, and
// Verify recomputes every file and compares it byte for byte:
//
//	checkpoint  policy  accounts  manifest
//	carried                   what the sealed log before carried over, if there is one
//	tile/...                  hashes and entries, C2SP tlog-tiles
//	statements/EUR/1/3.txt    party 3, period 1; also .csv and .json
//	journals/ledger.journal   hledger      journals/ledger.beancount
//	payments/EUR-1-3.xml      pain.001.001.09, payer 3 of close 1
//
// Start with Archive and Verify; VerifyShards judges logs that go on from each
// other. Prove takes the .tlog-proof of one entry out
// of an export, Replay builds the Book that statements are read from.
package export
