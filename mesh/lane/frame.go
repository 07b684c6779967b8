package lane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Lane orders traffic between two neighbours: a lower number goes first.
type Lane uint8

// The three lanes.
const (
	Alarm  Lane = 0 // small and urgent
	Normal Lane = 1 // requests that somebody waits for
	Bulk   Lane = 2 // reports, backfill, files: windowed, so that it never fills the uplink's queue

	Lanes = 3
)

// Type says what a frame is.
type Type uint8

// Frame types. A bulk message is its Req or Reply frame, Item frames, and End; on other lanes one frame is the message.
const (
	Req    Type = 1
	Reply  Type = 2
	Err    Type = 3
	Item   Type = 4
	End    Type = 5
	Cancel Type = 6
	Window Type = 7 // body: 4-byte count of bulk bytes taken in
)

// Limits of one link.
const (
	HeaderSize     = 12
	MaxAlarmBody   = 8 << 10   // an alarm fits one TCP burst of a slow uplink
	MaxNormalBody  = 256 << 10 // a page of registers
	MaxBulkChunk   = 16 << 10  // a writer yields to lower lanes after this many bytes
	MaxBulkMessage = 1 << 20   // memory one neighbour can make us hold per message
	BulkWindow     = 32 << 10  // unacknowledged bulk: 0.25 s of a 1 Mbit/s uplink
	maxErrText     = 240       // enough for one sentence of cause
	maxAfterMS     = 1 << 31   // 25 days: who is busy for longer is gone
)

// Frame is one unit on a lane's stream:
//
//	len u32 (of Body) | request id u32 | type u8 | service u8 | 0 u16 | body
//
// The side that opened the connection numbers its requests odd, the other side even.
type Frame struct {
	ID      uint32
	Type    Type
	Service uint8
	Body    []byte
}

// ErrFrame reports bytes that no honest neighbour sends; the stream that carried them is reset.
var ErrFrame = errors.New("lane: malformed frame")

// MaxBody gives the largest frame body of lane l in bytes.
func MaxBody(l Lane) int {
	switch l {
	case Alarm:
		return MaxAlarmBody
	case Normal:
		return MaxNormalBody
	default:
		return MaxBulkChunk
	}
}

// MaxMessage gives the largest whole request or reply of lane l in bytes.
func MaxMessage(l Lane) int {
	if l == Bulk {
		return MaxBulkMessage
	}
	return MaxBody(l)
}

// AppendFrame appends the encoding of f to dst.
func AppendFrame(dst []byte, f Frame) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.Body)))
	dst = binary.BigEndian.AppendUint32(dst, f.ID)
	dst = append(dst, byte(f.Type), f.Service, 0, 0)
	return append(dst, f.Body...)
}

// ParseHeader reads a frame's header for lane l and gives the frame without its body, and the body's length.
// It returns an error wrapping ErrFrame for an unknown type, reserved bytes that are not zero, or a length above
// the lane's limit or not that of the type.
func ParseHeader(h []byte, l Lane) (Frame, int, error) {
	if len(h) != HeaderSize {
		return Frame{}, 0, fmt.Errorf("%w: header has %d bytes, want %d", ErrFrame, len(h), HeaderSize)
	}
	n := binary.BigEndian.Uint32(h)
	f := Frame{ID: binary.BigEndian.Uint32(h[4:]), Type: Type(h[8]), Service: h[9]}
	if h[10] != 0 || h[11] != 0 {
		return Frame{}, 0, fmt.Errorf("%w: reserved bytes are not zero", ErrFrame)
	}
	if uint64(n) > uint64(MaxBody(l)) {
		return Frame{}, 0, fmt.Errorf("%w: body of %d bytes, lane %d allows %d", ErrFrame, n, l, MaxBody(l))
	}
	switch f.Type {
	case Req, Reply, Err:
	case Item:
		if l != Bulk {
			return Frame{}, 0, fmt.Errorf("%w: item outside the bulk lane", ErrFrame)
		}
	case End:
		if l != Bulk || n != 0 {
			return Frame{}, 0, fmt.Errorf("%w: end with a body or outside the bulk lane", ErrFrame)
		}
	case Cancel:
		if n != 0 {
			return Frame{}, 0, fmt.Errorf("%w: cancel with a body", ErrFrame)
		}
	case Window:
		if l != Bulk || n != 4 {
			return Frame{}, 0, fmt.Errorf("%w: window outside the bulk lane or not 4 bytes", ErrFrame)
		}
	default:
		return Frame{}, 0, fmt.Errorf("%w: unknown type %d", ErrFrame, h[8])
	}
	return f, int(n), nil
}

// Code classes an error that the far side answered with.
type Code uint8

// Codes of a RemoteError.
const (
	CodeFailed  Code = 1 // the handler returned an error; Text says which
	CodeBusy    Code = 2 // try again, not before After
	CodeRefused Code = 3 // no such service, or this role may not call it
	CodeTooLong Code = 4 // the answer does not fit the lane
)

// RemoteError is the far side's answer when it could not serve a request. Handlers may return one to choose the code.
type RemoteError struct {
	Code  Code
	After time.Duration // for CodeBusy: how long to wait; whole milliseconds
	Text  string        // for people, at most 240 bytes; never an identity
}

func (e *RemoteError) Error() string {
	switch e.Code {
	case CodeBusy:
		return fmt.Sprintf("far side is busy for %v: %s", e.After, e.Text)
	case CodeRefused:
		return "far side refused: " + e.Text
	case CodeTooLong:
		return "far side's answer is too long: " + e.Text
	default:
		return "far side: " + e.Text
	}
}

// encodeError gives the body of an Err frame: code u8 | after ms u32 | text.
func encodeError(err error) []byte {
	var re *RemoteError
	if !errors.As(err, &re) {
		re = &RemoteError{Code: CodeFailed, Text: err.Error()}
	}
	ms := min(max(re.After.Milliseconds(), 0), maxAfterMS)
	b := binary.BigEndian.AppendUint32([]byte{byte(re.Code)}, uint32(ms))
	return append(b, re.Text[:min(len(re.Text), maxErrText)]...)
}

// decodeError reads the body of an Err frame.
func decodeError(b []byte) (*RemoteError, error) {
	if len(b) < 5 || len(b) > 5+maxErrText || b[0] == 0 || b[0] > byte(CodeTooLong) {
		return nil, fmt.Errorf("%w: error body", ErrFrame)
	}
	ms := binary.BigEndian.Uint32(b[1:])
	if ms > maxAfterMS {
		return nil, fmt.Errorf("%w: busy for %d ms", ErrFrame, ms)
	}
	return &RemoteError{Code: Code(b[0]), After: time.Duration(ms) * time.Millisecond, Text: string(b[5:])}, nil
}

// frames cuts a message into the frames that carry it on lane l.
func frames(l Lane, id uint32, t Type, service uint8, body []byte) []Frame {
	if l != Bulk || t == Err {
		return []Frame{{ID: id, Type: t, Service: service, Body: body}}
	}
	var out []Frame
	for {
		n := min(len(body), MaxBulkChunk)
		out = append(out, Frame{ID: id, Type: t, Service: service, Body: body[:n]})
		body, t = body[n:], Item
		if len(body) == 0 {
			return append(out, Frame{ID: id, Type: End, Service: service})
		}
	}
}
