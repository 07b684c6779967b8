package ocpp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Message types of an OCPP-J frame. Source: OCPP-J 1.6, 4.1.3; OCPP 2.0.1 part 4, 4.1.
const (
	typeCall       = 2
	typeCallResult = 3
	typeCallError  = 4
)

// Error codes that a CALLERROR carries in both versions.
const (
	CodeNotImplemented = "NotImplemented"
	CodeInternal       = "InternalError"
	CodeSecurity       = "SecurityError"
	CodeProtocol       = "ProtocolError"
	CodeType           = "TypeConstraintViolation"
	CodeGeneric        = "GenericError"
)

const (
	maxFrame       = 256 << 10 // bytes: far above any real message, small enough for 512 sockets on a home router
	maxMessageID   = 128       // the specification allows 36; longer ones are echoed, not refused
	unreadableID   = "-1"      // answers a frame whose own id cannot be read (OCPP 2.0.1 part 4, 4.2.3)
	maxDescription = 255       // characters of a CALLERROR description
)

// frame is one OCPP-J message. Which fields are set depends on Type: a CALL
// has Action and Payload, a CALLRESULT has Payload, a CALLERROR has Code,
// Description and Payload (its details).
type frame struct {
	Type        int
	ID          string
	Action      string
	Payload     json.RawMessage
	Code        string
	Description string
}

// frameError is a frame that is not OCPP-J. ID is the frame's own id when it
// could be read, else "-1"; Answer tells whether a CALLERROR may go back (an
// answer to a broken answer would start an endless exchange of errors).
type frameError struct {
	ID     string
	Reason string
	Answer bool
}

func (e *frameError) Error() string { return "malformed OCPP-J frame: " + e.Reason }

// CallError is a CALLERROR received from, or to be sent to, a station.
type CallError struct {
	Code        string // one of the specification's error codes
	Description string // for people, at most 255 characters
}

func (e *CallError) Error() string {
	if e.Description == "" {
		return "OCPP call refused: " + e.Code
	}
	return fmt.Sprintf("OCPP call refused: %s: %s", e.Code, e.Description)
}

// parseFrame decodes one websocket message. It is permissive where stations
// differ (a missing or null payload is an empty object, a missing description
// is empty) and strict about everything that decides who is answered.
func parseFrame(b []byte) (frame, error) {
	if len(b) > maxFrame {
		return frame{}, &frameError{ID: unreadableID, Reason: "longer than 256 KiB", Answer: true}
	}
	var part []json.RawMessage
	if err := json.Unmarshal(b, &part); err != nil {
		return frame{}, &frameError{ID: unreadableID, Reason: "not a JSON array", Answer: true}
	}
	if len(part) < 2 {
		return frame{}, &frameError{ID: unreadableID, Reason: "fewer than two elements", Answer: true}
	}
	var f frame
	if err := json.Unmarshal(part[0], &f.Type); err != nil || f.Type < typeCall || f.Type > typeCallError {
		return frame{}, &frameError{ID: readID(part[1]), Reason: "unknown message type", Answer: true}
	}
	f.ID = readID(part[1])
	if f.ID == unreadableID && f.Type == typeCall {
		return frame{}, &frameError{ID: unreadableID, Reason: "message id is not a string of 1 to 128 characters", Answer: true}
	}
	switch f.Type {
	case typeCall:
		return parseCall(f, part)
	case typeCallResult:
		return parseResult(f, part)
	default:
		return parseCallError(f, part)
	}
}

func parseCall(f frame, part []json.RawMessage) (frame, error) {
	if len(part) < 3 || len(part) > 4 {
		return frame{}, &frameError{ID: f.ID, Reason: "a CALL has four elements", Answer: true}
	}
	if err := json.Unmarshal(part[2], &f.Action); err != nil || f.Action == "" {
		return frame{}, &frameError{ID: f.ID, Reason: "action is not a string", Answer: true}
	}
	f.Payload = json.RawMessage("{}")
	if len(part) == 4 && !isNull(part[3]) {
		f.Payload = part[3]
	}
	if !isObject(f.Payload) {
		return frame{}, &frameError{ID: f.ID, Reason: "payload is not an object", Answer: true}
	}
	return f, nil
}

func parseResult(f frame, part []json.RawMessage) (frame, error) {
	f.Payload = json.RawMessage("{}")
	if len(part) > 3 {
		return frame{}, &frameError{ID: f.ID, Reason: "a CALLRESULT has three elements"}
	}
	if len(part) == 3 && !isNull(part[2]) {
		f.Payload = part[2]
	}
	return f, nil
}

func parseCallError(f frame, part []json.RawMessage) (frame, error) {
	if len(part) < 3 || len(part) > 5 {
		return frame{}, &frameError{ID: f.ID, Reason: "a CALLERROR has five elements"}
	}
	if err := json.Unmarshal(part[2], &f.Code); err != nil {
		return frame{}, &frameError{ID: f.ID, Reason: "error code is not a string"}
	}
	if len(part) > 3 {
		// Some stations send null here; the description is only for people.
		_ = json.Unmarshal(part[3], &f.Description)
	}
	if len(part) > 4 {
		f.Payload = part[4]
	}
	return f, nil
}

// encode gives the bytes of a frame as they go on the wire.
func (f frame) encode() ([]byte, error) {
	payload := f.Payload
	if len(payload) == 0 {
		payload = json.RawMessage("{}")
	}
	switch f.Type {
	case typeCall:
		return json.Marshal([]any{typeCall, f.ID, f.Action, payload})
	case typeCallResult:
		return json.Marshal([]any{typeCallResult, f.ID, payload})
	case typeCallError:
		return json.Marshal([]any{typeCallError, f.ID, f.Code, clip(f.Description), payload})
	}
	return nil, errors.New("encode OCPP-J frame: unknown message type")
}

// readID returns the id in b, or "-1" when it is not a usable string.
func readID(b json.RawMessage) string {
	var id string
	if err := json.Unmarshal(b, &id); err != nil || id == "" || len(id) > maxMessageID {
		return unreadableID
	}
	return id
}

func isObject(b json.RawMessage) bool {
	b = bytes.TrimLeft(b, " \t\r\n")
	return len(b) > 0 && b[0] == '{'
}

func isNull(b json.RawMessage) bool { return string(bytes.TrimSpace(b)) == "null" }

// clip shortens s to the longest description that the specification allows.
func clip(s string) string {
	r := []rune(s)
	if len(r) > maxDescription {
		r = r[:maxDescription]
	}
	return string(r)
}
