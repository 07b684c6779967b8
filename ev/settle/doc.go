// Package settle is the aggregator's desk: it takes what hosts and drivers
// send, decides it, and turns it into ledger entries and notes.
//
//	AuthReq, Lock, Settle, Collect, Swap  ->  Take  ->  answers
//	Plan     ->  cdr, settle, redeem, issue entries for the ledger
//	Posted, Refused, Rejected, Final  <-  what became of them
//
// The protocol decisions are those of privacy/session.Settler, prices those of
// package ev; the desk adds admission quotas, the order of things and memory.
// It has no clock, socket or goroutine. Everything that an answer or an entry
// depends on is committed to Store before the answer or the entry is returned,
// so a crash at any point repeats the same bytes, and every message and every
// order may be repeated any number of times.
//
// What it guarantees: a session is booked, billed and paid at most once; notes
// are signed only after the entry that backs them is final; sessions reach the
// ledger in shuffled blocks, so that an index tells no hour. What it does not:
// it believes the evidence rule of its Pricer and the ledger's verdicts.
//
// How to use it, in order: Open; Take for each message from the onion service;
// Plan from time to time with the present ledger state, posting each Order
// under its ID exactly once (the poster stores the entry before it sends it);
// Posted or Refused with the outcome; Final whenever the final size grows.
// Settle orders first go to the payer with their Batch; the payer's node calls
// Countersign, and signs or sends rejects, which go to Rejected.
//
// Energy is int64 mWh, money int64 millionths, time UTC.
// Source: doc/design.md; privacy design 4.4, ledger design 4.2, ev design 4.5.
package settle
