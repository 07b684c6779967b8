package privacy

import "fmt"

// Net names one gridveil network. Nothing signed or sealed in one network
// verifies or opens in another.
type Net [8]byte

// Kind says what a message is. It is the first byte of every own codec
// (followed by [Version]) and part of everything signed or sealed.
type Kind uint8

// Version is the second byte of every own codec. A changed layout is a new
// version, never an edit.
const Version = 1

// Messages of one charging session (package session).
const (
	KindOffer        Kind = 1 + iota // host's terms, signed by its per-session key
	KindOpen                         // driver accepts an offer
	KindBox                          // certificate and mandate, sealed to the aggregator
	KindBillAuth                     // driver's mandate up to a band
	KindAuthReq                      // host asks the aggregator
	KindAuthOK                       // aggregator's signed yes
	KindAuthNo                       // aggregator's no, same size as the yes
	KindAuthInner                    // the answer for the driver's eyes, boxed by exporter
	KindTick                         // metered progress, signed by the host
	KindAck                          // driver's signature over a tick
	KindRecord                       // the session's result, signed by both
	KindStub                         // driver's billing stub, boxed by exporter
	KindSettle                       // host hands in record and stub
	KindReceipt                      // aggregator's signed receipt
	KindReceiptInner                 // the driver's receipt with its opening, boxed by exporter
	KindLine                         // one line of a bill, signed by the bill key
	KindBillBatch                    // lines of one utility, sealed
	KindLineReject                   // utility refuses a line
	KindCollect                      // host or driver fetches its blind notes
	KindCollectReply                 // blind signatures
	KindCollectInner                 // the driver's collect and its reply, boxed by exporter
	KindLock                         // notes locked before a car discharges
	KindMandate                      // terms of an unattended session
	KindShareAsk                     // the driver asks what its session earned in the pool, boxed by exporter
	KindShares                       // the answer, boxed by exporter
)

// Pseudonyms (package pseudo).
const (
	KindBatchReq   Kind = 40 + iota // a driver asks for next week's certificates
	KindBatchReply                  // certificates, boxed by exporter
	KindMeterReq                    // a meter asks for next week's daily certificates
	KindEnrol                       // contract key over a certificate's first 116 bytes
	KindCert                        // issuer over a certificate's first 308 bytes
	KindRevocation                  // list of revoked bill keys, sealed
)

// Notes and host passes (package note).
const (
	KindSwap      Kind = 60 + iota // notes in, blinded notes out, equal sums
	KindSwapReply                  // blind signatures
	KindPassReq                    // blinded host keys
	KindPassReply                  // blind signatures
	KindRedeem                     // a redeem step handed to the own utility
)

// Disputes (package committee and the ledger's cases).
const (
	KindPartial   Kind = 80 + iota // one opener's share of one certificate, sealed
	KindStatement                  // driver admits or contests, signed by the session key
	KindAnswer                     // utility's answer to the requester, sealed
	KindCaseFile                   // what openers read, sealed
)

// Private sums (package agg).
const (
	KindTask      Kind = 100 + iota // an aggregation task
	KindReport                      // a home's share of one interval, signed by the one-day key
	KindReportBox                   // helper's part of a report, sealed
	KindPrep                        // preparation messages between leader and helper
	KindSum                         // a result, signed by leader and helper
	KindListHash                    // hash of the sorted report list of an interval
)

// Mail (package mailbox of the mesh).
const (
	KindMail Kind = 120 // an item for a recipient that is away, sealed
)

// kinds holds each kind's name, which is signed, and the block to which its
// sealed plaintext is padded; 0 means the kind is never sealed. Names are part
// of signed bytes: they never change.
var kinds = [...]struct {
	name  string
	block int
}{
	KindOffer: {"offer", 0}, KindOpen: {"open", 0}, KindBox: {"box", 512}, KindBillAuth: {"bill-auth", 0},
	KindAuthReq: {"auth-req", 0}, KindAuthOK: {"auth-ok", 0}, KindAuthNo: {"auth-no", 0}, KindAuthInner: {"auth-inner", 192},
	KindTick: {"tick", 0}, KindAck: {"ack", 0}, KindRecord: {"record", 0}, KindStub: {"stub", 192},
	KindSettle: {"settle", 2048}, KindReceipt: {"receipt", 0}, KindReceiptInner: {"receipt-inner", 384},
	KindLine: {"line", 0}, KindBillBatch: {"bill-batch", 4096}, KindLineReject: {"line-reject", 256},
	KindCollect: {"collect", 3584}, KindCollectReply: {"collect-reply", 3584}, KindCollectInner: {"collect-inner", 3584},
	KindLock: {"lock", 4096}, KindMandate: {"mandate", 256},
	KindShareAsk: {"share-ask", 64}, KindShares: {"shares", 4096},

	KindBatchReq: {"batch-req", 1024}, KindBatchReply: {"batch-reply", 1024}, KindMeterReq: {"meter-req", 1024},
	KindEnrol: {"enrol", 0}, KindCert: {"cert", 0}, KindRevocation: {"revocation", 2048},

	KindSwap: {"swap", 4096}, KindSwapReply: {"swap-reply", 4096}, KindPassReq: {"pass-req", 4608},
	KindPassReply: {"pass-reply", 4608}, KindRedeem: {"redeem", 4096},

	KindPartial: {"partial", 192}, KindStatement: {"statement", 512}, KindAnswer: {"answer", 512}, KindCaseFile: {"case-file", 4096},

	KindTask: {"task", 0}, KindReport: {"report", 2048}, KindReportBox: {"report-box", 96}, KindPrep: {"prep", 0},
	KindSum: {"sum", 0}, KindListHash: {"list-hash", 0},

	KindMail: {"mail", 976},
}

// String gives the kind's name as it stands in signed bytes, or "kind-N" for a
// number that is none.
func (k Kind) String() string {
	if !k.valid() {
		return fmt.Sprintf("kind-%d", uint8(k))
	}
	return kinds[k].name
}

// Block is the size in bytes to whose multiples a sealed plaintext of the kind
// is padded; 0 means the kind is never sealed.
func (k Kind) Block() int {
	if !k.valid() {
		return 0
	}
	return kinds[k].block
}

func (k Kind) valid() bool { return int(k) < len(kinds) && kinds[k].name != "" }
