package ocpp

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gridveil/ev"
)

// Dialect is one OCPP version: pure translation between its messages and
// events or orders. Implementations are v16.Dialect and v201.Dialect.
type Dialect interface {
	Subprotocol() string   // as in Sec-WebSocket-Protocol
	Version() string       // "1.6" or "2.0.1"
	MalformedCode() string // error code of a CALLERROR for a frame that is not OCPP-J

	// Receive decodes a CALL of a station. The reply goes out after the events
	// are durable. A *CallError is sent to the station.
	Receive(c Call) (Answer, error)

	Start(evse int, code string, number int32) Request
	Stop(transaction string) (Request, error)
	Limit(l Limit) Request
	Setpoint(evse int, watts int64) Request

	// Settings lists what is configured after every accepted boot, in order.
	Settings(s Settings) []Request
	// Learn reads from an answer what the station can do; t is changed in place.
	Learn(action string, reply json.RawMessage, t *Traits)
	// Password sets a new Basic password, Boot asks for a new BootNotification.
	Password(password string) Request
	Boot() Request

	// Verdict returns nil if the station will do as asked, a *RefusedError if
	// it will not, ErrBadReply if the answer does not belong to the action.
	Verdict(action string, reply json.RawMessage) error
}

// Call is a CALL of a station with what is needed to answer it.
type Call struct {
	Station   string
	Action    string
	Payload   json.RawMessage
	Now       time.Time
	Standing  Standing
	Heartbeat time.Duration
	// Authorize says whether an id token may charge here.
	Authorize func(token string) bool
}

// Answer is what a CALL leads to.
type Answer struct {
	Reply  any        // marshalled as the CALLRESULT payload
	Events []ev.Event // made durable before Reply goes out
	Boot   *Boot      // set for a BootNotification
	Needs  *Needs     // set when the car told its plans
}

// Needs is what a car told the station about its plans. It never leaves the
// house.
type Needs struct {
	EVSE      int
	EnergyMWh int64 // wanted, 0 if not told
	Departure int64 // UTC ms, 0 if not told
}

// Boot is what a station says about itself.
type Boot struct{ Vendor, Model string }

// Request is a CALL of ours.
type Request struct {
	Action  string
	Payload any
}

// Limit is a charging limit for one EVSE.
type Limit struct {
	EVSE        int
	Transaction string // running transaction, "" if none
	Watts       int64  // >= 0
	From, Until time.Time
	Default     bool // the profile that holds when nothing else does; EVSE is 0
	Traits      Traits
}

// Settings is what every station is told after boot.
type Settings struct {
	Sample    time.Duration // distance of meter samples during a transaction
	Aligned   time.Duration // distance of clock-aligned samples (interval marks)
	Heartbeat time.Duration
}

// Traits is what a station turned out to be able to do.
type Traits struct {
	AmpereOnly bool  // takes current limits only
	Phases     uint8 // wired phases, 1 or 3
}

// Amperes is the current that draws at most watts on the station's phases, in
// tenths of an ampere rounded down: floor(10*W/(230*phases)).
func (t Traits) Amperes(watts int64) (tenths int64) {
	return 10 * watts / (230 * int64(t.PhaseCount()))
}

// PhaseCount is Phases, 3 if unknown: the safe side, as the same power is then
// spread over more phases and the current per phase is smaller.
func (t Traits) PhaseCount() uint8 {
	if t.Phases == 0 {
		return 3
	}
	return t.Phases
}

// RefusedError is a station's answer other than "accepted".
type RefusedError struct{ Action, Status string }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("station refused %s: %s", e.Action, e.Status)
}

// ErrNoTransaction is returned for an order about a transaction id that this
// dialect cannot express.
var ErrNoTransaction = errors.New("no such transaction at this station")
