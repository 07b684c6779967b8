package metering

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/node/keys"
	"gridveil/privacy/agg"
)

// SumStep is what a message of a private sum between nodes is; they travel by
// service agg.prep.
type SumStep byte

// Steps. The numbers are wire values.
const (
	SumTask    SumStep = 1 // grid operator to leader and helper: agg.Task; answer empty
	SumPrepare SumStep = 2 // leader to helper: agg's Start; answer its preparation
	SumCombine SumStep = 3 // leader to helper: agg's Combine; answer the half-signed result
	SumDeliver SumStep = 4 // leader to grid operator: SumDelivery; answer empty
)

// Zone numbers and registers of private sums.
const (
	sumTaskKey   = 0x53550000 // + quantity: the task, as a net state of the zone
	sumResultKey = 0x53560000 // + quantity: the newest result
)

// ZoneNumber is a zone's number in certificates and tasks: its place in the
// network bundle, from 1. Founders add zones at the end.
func ZoneNumber(b *member.Bundle, zone string) (uint16, bool) {
	for i, z := range b.Zones {
		if z.Name == zone {
			return uint16(i + 1), true
		}
	}
	return 0, false
}

// ZoneName is the inverse of ZoneNumber.
func ZoneName(b *member.Bundle, number uint16) (string, bool) {
	if number == 0 || int(number) > len(b.Zones) {
		return "", false
	}
	return b.Zones[number-1].Name, true
}

// GridOperator is the operator that runs the grid of a zone.
func GridOperator(b *member.Bundle, zone string) (string, bool) {
	for _, o := range b.Operators {
		if slices.Contains(o.DSOZones, zone) {
			return o.Name, true
		}
	}
	return "", false
}

// SumTaskKey and SumResultKey are the keys of the registers (gossip.KindNetState)
// in which a substation shows its zone the task and the newest result.
func SumTaskKey(zone string, q agg.Quantity) uint64 {
	return gossip.ZoneKey(zone, sumTaskKey|uint32(q))
}

// SumResultKey: see SumTaskKey.
func SumResultKey(zone string, q agg.Quantity) uint64 {
	return gossip.ZoneKey(zone, sumResultKey|uint32(q))
}

// SumBoxPeriod is the period of the helper's key for reports of an interval: the
// one at the interval's end, when the first home reports.
func SumBoxPeriod(interval uint32) uint32 { return keys.Sum.Period(agg.Begin(interval + 1)) }

// Limits of a message: 4096 reports of 715 B are 2.9 MB, and agg.prep carries
// 256 KiB at once.
const (
	sumPart     = 192 << 10
	maxSumParts = 16
	sumHead     = 1 + 16 + 1 + 1
	maxSumOpen  = 8 // messages whose parts are still coming; the oldest is forgotten
)

// ErrSumLater means that the other side cannot say yet: try again later.
var ErrSumLater = errors.New("not ready for this step of the sum")

// SendSum sends a message in parts through call, which carries one request, and
// gives the answer to the whole. Errors of package agg come back as themselves.
func SendSum(ctx context.Context, call func(context.Context, []byte) ([]byte, error), step SumStep, whole []byte) ([]byte, error) {
	count := max(1, (len(whole)+sumPart-1)/sumPart)
	if count > maxSumParts {
		return nil, fmt.Errorf("%w: %d bytes of a sum", ErrMessage, len(whole))
	}
	id := sha256.Sum256(whole)
	for i := range count {
		frame := append([]byte{byte(step)}, id[:16]...)
		frame = append(frame, byte(i), byte(count))
		answer, err := call(ctx, append(frame, whole[i*sumPart:min((i+1)*sumPart, len(whole))]...))
		if err != nil {
			return nil, err
		}
		body, err := parseSumAnswer(answer)
		if err != nil || i == count-1 {
			return body, err
		}
	}
	return nil, ErrMessage // count is at least 1
}

// SumJoin puts parts together again. It is safe for concurrent use.
type SumJoin struct {
	mu    sync.Mutex
	open  map[sumPartID][][]byte
	order []sumPartID
}

type sumPartID struct {
	from member.Key
	id   [16]byte
}

// Take takes one part; whole is nil until the last one is there, in order.
func (j *SumJoin) Take(from member.Key, frame []byte) (step SumStep, whole []byte, err error) {
	if len(frame) < sumHead || len(frame) > sumHead+sumPart {
		return 0, nil, fmt.Errorf("%w: part of %d bytes", ErrMessage, len(frame))
	}
	step, id := SumStep(frame[0]), sumPartID{from, [16]byte(frame[1:])}
	i, n := int(frame[17]), int(frame[18])
	if step < SumTask || step > SumDeliver || n < 1 || n > maxSumParts || i >= n {
		return 0, nil, fmt.Errorf("%w: part %d of %d", ErrMessage, i, n)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	parts := j.open[id]
	switch {
	case i == 0:
		j.begin(id)
		parts = nil
	case len(parts) != i:
		return 0, nil, ErrSumLater // a part was lost: the sender begins again
	}
	parts = append(parts, append([]byte{}, frame[sumHead:]...))
	if i < n-1 {
		j.open[id] = parts
		return step, nil, nil
	}
	j.end(id)
	whole = []byte{}
	for _, p := range parts {
		whole = append(whole, p...)
	}
	if sum := sha256.Sum256(whole); [16]byte(sum[:]) != id.id {
		return 0, nil, fmt.Errorf("%w: parts do not fit", ErrMessage)
	}
	return step, whole, nil
}

func (j *SumJoin) begin(id sumPartID) {
	j.end(id)
	if len(j.order) >= maxSumOpen {
		j.end(j.order[0])
	}
	if j.open == nil {
		j.open = map[sumPartID][][]byte{}
	}
	j.order = append(j.order, id)
}

func (j *SumJoin) end(id sumPartID) {
	delete(j.open, id)
	for i, o := range j.order {
		if o == id {
			j.order = append(j.order[:i], j.order[i+1:]...)
			return
		}
	}
}

// sumErrors are the errors that travel, by their code.
var sumErrors = []error{nil, agg.ErrSmallBatch, agg.ErrOrder, agg.ErrClosed, agg.ErrVerifyKey, agg.ErrCommitment, agg.ErrSplit, agg.ErrTask, ErrSumLater}

const (
	sumOther     = 255
	maxSumReason = 200
)

// SumAnswer frames an answer: 0 | body, or the code of an error | its text.
func SumAnswer(body []byte, err error) []byte {
	if err == nil {
		return append([]byte{0}, body...)
	}
	code, text := byte(sumOther), err.Error()
	for i, known := range sumErrors {
		if i > 0 && errors.Is(err, known) {
			code = byte(i)
		}
	}
	return append([]byte{code}, text[:min(len(text), maxSumReason)]...)
}

func parseSumAnswer(b []byte) ([]byte, error) {
	switch {
	case len(b) == 0 || len(b) > 1+maxSumReason && b[0] != 0:
		return nil, fmt.Errorf("%w: answer of %d bytes", ErrMessage, len(b))
	case b[0] == 0:
		return b[1:], nil
	case int(b[0]) < len(sumErrors):
		return nil, fmt.Errorf("other server: %w", sumErrors[b[0]])
	}
	return nil, fmt.Errorf("other server: %w: %q", ErrMessage, b[1:])
}

// SumDelivery is a result on its way to the grid operator, with all that it
// takes to check it.
type SumDelivery struct {
	Result agg.Result
	Feeder *int64 // what the transformer's meter says flowed into the zone, net, mWh; nil without one
	List   [][]byte
}

// Bytes gives result length u16 | result | has feeder u8 | feeder i64 | n u16 | n x { length u16 | report }.
func (d SumDelivery) Bytes() []byte {
	res := d.Result.Bytes()
	b := binary.BigEndian.AppendUint16(nil, uint16(len(res)))
	b = append(b, res...)
	if d.Feeder == nil {
		b = append(b, make([]byte, 9)...)
	} else {
		b = binary.BigEndian.AppendUint64(append(b, 1), uint64(*d.Feeder))
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(d.List)))
	for _, r := range d.List {
		b = binary.BigEndian.AppendUint16(b, uint16(len(r)))
		b = append(b, r...)
	}
	return b
}

// ParseSumDelivery is the inverse of Bytes. It checks the layout only.
func ParseSumDelivery(b []byte) (SumDelivery, error) {
	var d SumDelivery
	bad := fmt.Errorf("%w: sum delivery of %d bytes", ErrMessage, len(b))
	res, b, ok := cut(b)
	if !ok || len(b) < 11 || b[0] > 1 {
		return d, bad
	}
	var err error
	if d.Result, err = agg.ParseResult(res); err != nil {
		return d, err
	}
	if v := int64(binary.BigEndian.Uint64(b[1:])); b[0] == 1 {
		d.Feeder = &v
	} else if v != 0 {
		return d, bad
	}
	n := int(binary.BigEndian.Uint16(b[9:]))
	if n > agg.MaxBatch {
		return d, bad
	}
	b = b[11:]
	for range n {
		var r []byte
		if r, b, ok = cut(b); !ok {
			return d, bad
		}
		d.List = append(d.List, r)
	}
	if len(b) != 0 {
		return d, bad
	}
	return d, nil
}

// cut reads length u16 | bytes from the front.
func cut(b []byte) (part, rest []byte, ok bool) {
	if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
		return nil, nil, false
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	return b[2:n], b[n:], true
}
