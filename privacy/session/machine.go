package session

import "time"

// Role is a party that messages go to.
type Role byte

// Parties of a session.
const (
	ToDriver     Role = 1 // over the guest link
	ToHost       Role = 2 // over the guest link
	ToAggregator Role = 3 // sealed, by onion route
)

// Send is one message to one party. A message to the aggregator is repeated,
// the same bytes, until its answer came (Host.Outbox lists what is open).
type Send struct {
	To  Role
	Msg []byte
}

// Order is what the gateway or the wallet has to do beside storing and sending.
type Order byte

// Orders of a Host to its gateway (Start to Stop) and of a Driver to its
// wallet (Consent).
const (
	Stay    Order = 0
	Start   Order = 1 // begin the transaction with Host.Code
	Pause   Order = 2 // by profile; never unlock
	Resume  Order = 3
	Stop    Order = 4 // end the transaction, then call Host.End
	Consent Order = 5 // ask the user whether the host may see the certificate
)

// Out is what a step asks for: first store Persist (the whole new state), then
// send, then act. A nil Persist leaves the stored state as it is. With an error
// only Order may be set, and then it stands: ErrNoLock comes with Pause or Stop.
type Out struct {
	Persist []byte
	Send    []Send
	Order   Order
}

// Phase of one side of a session.
type Phase byte

// Phases in the order they are gone through.
const (
	Offered  Phase = 1 // host: offer made
	Asked    Phase = 2 // Open sent; no answer yet
	Running  Phase = 3 // authorised, or on trust
	Left     Phase = 4 // host: the driver left, the transaction is to be ended
	Closing  Phase = 5 // host: record sent, driver's signature awaited
	Settling Phase = 6 // record final, receipt awaited
	Done     Phase = 7 // receipt held
	Refused  Phase = 8 // not authorised; with Trusted, the claim is open to dispute
	Void     Phase = 9 // ended without anything to bill
)

// String names the phase as a page shows it.
func (p Phase) String() string {
	names := [...]string{"", "offered", "asked", "running", "left", "closing", "settling", "done", "refused", "void"}
	if int(p) < len(names) && p > 0 {
		return names[p]
	}
	return "unknown"
}

func millis(t time.Time) int64 { return t.UnixMilli() }

// since says whether at least d passed from the stored instant, Unix ms.
func since(ms int64, now time.Time, d time.Duration) bool {
	return !now.Before(time.UnixMilli(ms).Add(d))
}
