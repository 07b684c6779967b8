package ev

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// State is where a session stands. Source: doc/design.md, session with a guest.
type State uint8

// The states. Idle to Ended follow the car; the others follow the money.
const (
	Idle State = iota
	Plugged
	Opened // a guest's Open is here, or a start failed: Reason tells
	Starting
	Charging
	Paused
	Discharging
	EndedState    // transaction over; records are awaited, then the driver's signature
	Signed        // both sides signed the record
	Cut           // the driver left: the last acknowledged Tick is settled
	UnattendedEnd // agreed in the terms: the meter's signature stands in
	Receipted     // the aggregator has it
	Paid          // the host holds its notes
	GiftEnd       // over, and nobody pays
	Informational // over, shown on the page, not billable: Reason tells
)

var stateNames = [...]string{"idle", "plugged", "opened", "starting", "charging", "paused", "discharging", "ended",
	"signed", "cut", "unattended", "receipted", "paid", "gift", "informational"}

// String names the state as the Sessions page does.
func (s State) String() string { return stateNames[min(int(s), len(stateNames)-1)] }

// Running reports whether a transaction is under way.
func (s State) Running() bool { return s == Charging || s == Paused || s == Discharging }

// Final reports whether nothing more can happen.
func (s State) Final() bool { return s == Paid || s == GiftEnd || s == Informational }

// Payer says on whose account a session runs.
type Payer uint8

// The payers.
const (
	Own   Payer = iota // the host's own car: nothing is sent, nothing is billed
	Gift               // a guest for whom the host pays
	Guest              // a driver with an Open
)

// OfflineRule is what a host does for a guest when no answer comes within AnswerWait.
type OfflineRule uint8

// The offline rules.
const (
	OfflineTrust  OfflineRule = iota // the guest may show its certificate; package session asks
	OfflineGift                      // start at the host's cost
	OfflineRefuse                    // wait for the network
)

// CutRule is what happens to the car when the driver's wallet stays away.
type CutRule uint8

// The cut rules.
const (
	CutStop CutRule = iota // end the transaction
	CutGift                // go on at the host's cost
)

// Hold is a set of causes that keep the car paused. It never unlocks a cable.
type Hold uint8

// The holds.
const (
	HoldAck  Hold = 1 << iota // the wallet did not acknowledge the last Tick
	HoldBand                  // the agreed band is used up
	HoldLock                  // what the host may owe is used up, or not locked yet
)

// Times of the machine, ms, and the dead band of power, W.
const (
	AnswerWait   = 5_000
	startWait    = 60_000
	startTries   = 3
	deadBandW    = 100
	sessionLimit = 64 << 10 // bytes of a stored session
)

// Rules are the host's choices for one session, fixed when it opens.
type Rules struct {
	Offline OfflineRule
	OnCut   CutRule
	// Margin is kept free below band and lock, in millionths: what the car can cost between two readings. See MarginFor.
	Margin int64
}

// MarginFor returns the cost of reaction ms at full power: how early a car must pause so as not to pass its band.
func MarginFor(d Deal, maxW, reactionMS int64) int64 {
	price := max(d.Grid, d.Res, d.Out, d.Terms.PExport) + max(d.Fee.PerKWhIn, d.Fee.PerKWhOut)
	mwh := maxW * reactionMS / 3600
	return mulDiv(mwh, price, MWhPerKWh) + d.Minor
}

// Session is the life of one car at one EVSE: lifecycle, power and money so far. It holds no message, key, signature or
// name; those are with package privacy/session, whose Host machine runs beside it. The zero value is Idle.
//
// The seam between the two, which the gateway wires:
//
//	Host.Step orders Start                    -> Authorised{Host.Band, Host.Trusted}; again when a late answer came
//	Host.Step took AuthNo, or left Refused    -> Declined
//	Host.Wake orders Pause, Stop              -> GuestSilent, GuestLeft
//	Host.Step orders Resume                   -> GuestBack
//	Host.Step took the receipt of a Lock      -> Locked{Host.Locked}
//	Host reached Settling, Done, Void         -> Recorded{Form}, Receipt, Unbillable
//	Report                                    -> Host.Meter; a Pause that it orders is the band's or lock's: ignore it
//	Finish                                    -> Host.End; ErrOrder means that it has ended before: ignore it
type Session struct {
	Version       int // of this layout
	State         State
	Payer         Payer
	Reason        string // last refusal or failure in words for the page; no names
	Rules         Rules
	Code          string // id token of the transaction; empty for own sessions
	TransactionID string
	StopFirst     bool // a transaction of the car's is to end before ours starts
	Stopping      bool // the running transaction was told to end; the car stays paused until it does
	Offline       bool // began without the aggregator's answer
	Faulted       bool // the connector reported a fault
	Disputed      bool
	Plugged       bool  // a car is there
	Band          int64 // most the driver pays, millionths
	Locked        int64 // most the host can owe, millionths
	Hold          Hold
	LimitW        int64 // newest set point of Resolve
	CommandW      int64 // newest power ordered from the station
	Commanded     bool  // CommandW was ordered in this transaction
	PowerW        int64 // newest power measured
	Tries         int
	Until         int64 // when Timer is due, UTC ms; zero for never
	StartedAt     int64
	EndedAt       int64
	Energy        Energy
	Shares        Shares
	Form          State // Signed, Cut or UnattendedEnd once the record is final, else Idle
	Finished      bool  // Finish was given: the bill, or that there is none
}

const sessionVersion = 1

// Encode returns the session for the store.
func (s Session) Encode() []byte {
	s.Version = sessionVersion
	b, err := json.Marshal(s)
	if err != nil {
		panic("ev: a Session has only plain fields: " + err.Error())
	}
	return b
}

// DecodeSession reads what Encode wrote; unknown fields or versions are refused.
func DecodeSession(b []byte) (s Session, err error) {
	if len(b) > sessionLimit {
		return s, fmt.Errorf("ev: stored session of %d bytes", len(b))
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Session{}, fmt.Errorf("ev: stored session: %w", err)
	}
	if s.Version != sessionVersion || s.State > Informational || d.More() {
		return Session{}, fmt.Errorf("ev: stored session of version %d", s.Version)
	}
	return s, nil
}

// Input is something that happened: one of the types below, or an Event of the station.
type Input interface{ input() }

// Inputs beside Event.
type (
	// Open: a guest's Open is here and AuthReq is on its way.
	Open struct {
		Code  string
		Rules Rules
	}
	// Authorised: the session may start, up to Band millionths. Trusted: without the aggregator.
	Authorised struct {
		Band    int64
		Trusted bool
	}
	// Declined: the aggregator or the guest said no; before the start, or after a start on trust.
	Declined struct{ Reason string }
	// StartOwn starts a transaction at the host's cost: of the own car, or a gift to a guest.
	StartOwn struct {
		Code string
		Gift bool
	}
	// GuestSilent, GuestBack, GuestLeft: orders of the Host machine about missing Acks.
	GuestSilent struct{}
	// GuestBack lifts GuestSilent.
	GuestBack struct{}
	// GuestLeft: the wallet stayed away for good.
	GuestLeft struct{}
	// Locked: notes of this value stand behind what the host may owe.
	Locked struct{ Value int64 }
	// Power is a measured power, charging positive.
	Power struct{ W int64 }
	// Limit is the newest result of Resolve.
	Limit struct{ W int64 }
	// SoFar is the running bill.
	SoFar struct {
		Energy Energy
		Shares Shares
	}
	// Stop: the host or driver ends the session.
	Stop struct{}
	// Billed: intake is closed and the evidence accepted; the final bill.
	Billed struct {
		Energy Energy
		Shares Shares
	}
	// Unbillable: intake is closed without usable evidence, or the Host machine ended Void.
	Unbillable struct{ Reason string }
	// Recorded: the record is final, in the form Signed, Cut or UnattendedEnd.
	Recorded struct{ Form State }
	// Receipt of the aggregator.
	Receipt struct{}
	// PaidOut: the host's notes are in its wallet, or there were none to collect.
	PaidOut struct{}
	// Contested: somebody opened a dispute.
	Contested struct{}
	// Timer: Session.Until has come.
	Timer struct{}
)

func (Event) input()       {}
func (Open) input()        {}
func (Authorised) input()  {}
func (Declined) input()    {}
func (StartOwn) input()    {}
func (GuestSilent) input() {}
func (GuestBack) input()   {}
func (GuestLeft) input()   {}
func (Locked) input()      {}
func (Power) input()       {}
func (Limit) input()       {}
func (SoFar) input()       {}
func (Stop) input()        {}
func (Billed) input()      {}
func (Unbillable) input()  {}
func (Recorded) input()    {}
func (Receipt) input()     {}
func (PaidOut) input()     {}
func (Contested) input()   {}
func (Timer) input()       {}

// Output is something to do, in order: Store first.
type Output interface{ output() }

// Outputs of Step.
type (
	// Store the session durably before anything else is done.
	Store struct{ Session Session }
	// StartTransaction at the station with this id token.
	StartTransaction struct{ Code string }
	// StopTransaction at the station.
	StopTransaction struct{ TransactionID string }
	// SetPower by charging profile, W; negative discharges, zero pauses.
	SetPower struct{ W int64 }
	// Report the running bill to the guest: Host.Meter.
	Report struct {
		Energy Energy
		Shares Shares
	}
	// Finish the guest's session: Host.End. Zero shares mean that nothing is billable.
	Finish struct {
		Energy Energy
		Shares Shares
	}
	// Refuse tells the guest that there will be no session.
	Refuse struct{ Reason string }
)

func (Store) output()            {}
func (StartTransaction) output() {}
func (StopTransaction) output()  {}
func (SetPower) output()         {}
func (Report) output()           {}
func (Finish) output()           {}
func (Refuse) output()           {}
