// Package agg sums the readings of one zone without anybody seeing a reading:
// private sums for the grid.
//
// Each home splits its reading into two shares with a proof that the reading
// lies in range (Prio3), commits to both shares, and signs. Two servers of
// different operators, leader and helper, check each report together, add up
// their own shares and publish the two totals. Anyone can check the result:
//
//	task  := zone, unit, smallest batch, both servers     signed by the grid operator
//	home     NewReport                                    -> leader
//	leader   Add ... Start -> helper Prepare -> leader Combine -> helper Finish -> leader Publish
//	anyone   Check(task, result, list)
//
// # What it guarantees
//
// One server alone sees a share, which is random. No server can move the sum by
// one unit or drop a report unseen: each checks its output share against the
// commitment that the home signed, and the totals must open the product of all
// commitments in the list. A lying home loses its own report and no other. A
// batch below the task's smallest size gives no result. A home reports under a
// one-day certificate, one report per task and interval.
//
// # What it does not
//
// Both servers together see readings. That a reading is in range is proven only
// to the servers; if both lie, the bound n*Max on the sum remains. Bound sums
// are our own composition: experimental until reviewed.
//
// Start with NewReport, NewLeader, NewHelper and Check. Source: doc/design.md;
// privacy design 4.7; draft-irtf-cfrg-vdaf-14 as circl implements it.
package agg

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cloudflare/circl/vdaf/prio3/sum"

	"gridveil/privacy"
	"gridveil/privacy/pseudo"
)

// Errors of reports, servers and results.
var (
	// ErrMalformed: the bytes are not a message of the expected kind.
	ErrMalformed = errors.New("not a valid aggregation message")
	// ErrTask: the task is not usable, or the message is for another task or interval.
	ErrTask = errors.New("message does not fit the task")
	// ErrSignature: a signature does not verify.
	ErrSignature = errors.New("signature does not verify")
	// ErrDay: the certificate is not of the day of the interval.
	ErrDay = errors.New("certificate is of another day")
	// ErrSecond: the one-day identity reported other bytes for this interval before.
	ErrSecond = errors.New("second report of one identity in one interval")
	// ErrCert: the report names a certificate not seen yet; send it with the certificate.
	ErrCert = errors.New("certificate is not known yet")
	// ErrClosed: the interval takes no more reports, or its result is out.
	ErrClosed = errors.New("interval is closed")
	// ErrOrder: the other server's message does not fit the state of the interval.
	ErrOrder = errors.New("message does not fit the state of the interval")
	// ErrRange: the reading is above the task's maximum.
	ErrRange = errors.New("reading is above the maximum")
	// ErrSmallBatch: fewer good reports than the task demands: no result.
	ErrSmallBatch = errors.New("batch is too small")
	// ErrVerifyKey: the leader changed the interval's verify key. The helper stops
	// here: the same reports prepared under two keys would tell the readings.
	ErrVerifyKey = errors.New("verify key of the interval changed")
	// ErrSplit: the servers do not see the same list of reports; run again.
	ErrSplit = errors.New("servers see different lists of reports")
	// ErrCommitment: a total does not open the commitments that homes signed.
	ErrCommitment = errors.New("total does not open the commitments")
)

// Limits with their reasons.
const (
	MaxBatch    = 4096  // reports of one interval: one transformer area has hundreds
	MaxReading  = 16383 // 14 bits: 16 kWh in 15 min is 65 kW, above any house connection
	minMax      = 8192  // a task's Max has 14 bits, so that every report has one size
	MinBatch    = 20    // no task may ask for less outside a demonstration
	IntervalLen = 15 * time.Minute
	shareSize   = 736 // Prio3Sum with 14 bits: 28 + 64 field elements
	seedSize    = 32
)

// Quantity says what a task sums. Import and export are two tasks.
type Quantity byte

// Quantities.
const (
	Import Quantity = 1
	Export Quantity = 2
)

// Task is one standing sum over a zone, signed by its grid operator and
// anchored on the ledger. Fixed zones only: an ad-hoc query could be aimed at
// one home.
type Task struct {
	ID       [16]byte
	Zone     uint16
	Quantity Quantity
	Unit     uint32 // mWh per counted unit; 1000000 is 1 kWh, 1000 is 1 Wh
	Max      uint16 // highest reading in units, 8192 to MaxReading
	MinBatch uint16 // fewest good reports of a result
	DSO      [16]byte
	Leader   [32]byte // key that signs results
	Helper   [32]byte
	From, To uint32 // first day and first day after, days as pseudo.Day counts them
	Sig      privacy.Signature
}

const taskSize = 2 + 16 + 2 + 1 + 4 + 2 + 2 + 16 + 32 + 32 + 4 + 4 + 64

func (t *Task) body() []byte {
	b := make([]byte, 0, taskSize)
	b = append(b, byte(privacy.KindTask), privacy.Version)
	b = append(b, t.ID[:]...)
	b = binary.BigEndian.AppendUint16(b, t.Zone)
	b = append(b, byte(t.Quantity))
	b = binary.BigEndian.AppendUint32(b, t.Unit)
	b = binary.BigEndian.AppendUint16(b, t.Max)
	b = binary.BigEndian.AppendUint16(b, t.MinBatch)
	b = append(b, t.DSO[:]...)
	b = append(b, t.Leader[:]...)
	b = append(b, t.Helper[:]...)
	b = binary.BigEndian.AppendUint32(b, t.From)
	return binary.BigEndian.AppendUint32(b, t.To)
}

// Bytes encodes the task.
func (t *Task) Bytes() []byte { return append(t.body(), t.Sig[:]...) }

// Sign signs the task with the grid operator's key.
func (t *Task) Sign(net privacy.Net, dso ed25519.PrivateKey) {
	t.Sig = privacy.Sign(dso, privacy.KindTask, net, t.body())
}

// ParseTask decodes a task and checks its values, not its signature.
func ParseTask(b []byte) (Task, error) {
	var t Task
	if len(b) != taskSize || b[0] != byte(privacy.KindTask) || b[1] != privacy.Version {
		return t, fmt.Errorf("%w: task of %d bytes", ErrMalformed, len(b))
	}
	u16, u32 := binary.BigEndian.Uint16, binary.BigEndian.Uint32
	t.ID = [16]byte(b[2:])
	t.Zone, t.Quantity = u16(b[18:]), Quantity(b[20])
	t.Unit, t.Max, t.MinBatch = u32(b[21:]), u16(b[25:]), u16(b[27:])
	t.DSO, t.Leader, t.Helper = [16]byte(b[29:]), [32]byte(b[45:]), [32]byte(b[77:])
	t.From, t.To = u32(b[109:]), u32(b[113:])
	t.Sig = privacy.Signature(b[117:])
	return t, t.check()
}

func (t *Task) check() error {
	switch {
	case t.Quantity != Import && t.Quantity != Export:
		return fmt.Errorf("%w: quantity %d", ErrTask, t.Quantity)
	case t.Unit == 0 || t.Max < minMax || t.Max > MaxReading:
		return fmt.Errorf("%w: unit %d mWh, maximum %d", ErrTask, t.Unit, t.Max)
	case t.MinBatch < 2:
		return fmt.Errorf("%w: a batch of %d is a reading", ErrTask, t.MinBatch)
	case t.From >= t.To:
		return fmt.Errorf("%w: it never runs", ErrTask)
	case t.Leader == t.Helper:
		return fmt.Errorf("%w: leader and helper must be two operators", ErrTask)
	}
	return nil
}

// Verify returns ErrTask or ErrSignature unless the task holds together and its
// grid operator's key signed it.
func (t *Task) Verify(net privacy.Net, dso [32]byte) error {
	if err := t.check(); err != nil {
		return err
	}
	if !privacy.Verify(dso[:], privacy.KindTask, net, t.body(), t.Sig) {
		return fmt.Errorf("task: %w", ErrSignature)
	}
	return nil
}

// Interval numbers the 15 minutes that hold t since 1970.
func Interval(t time.Time) uint32 { return uint32(t.Unix() / int64(IntervalLen/time.Second)) }

// Begin is the first moment of an interval.
func Begin(interval uint32) time.Time {
	return time.Unix(int64(interval)*int64(IntervalLen/time.Second), 0).UTC()
}

// covers returns ErrTask unless the interval lies in the task's days.
func (t *Task) covers(interval uint32) error {
	if d := pseudo.Day(Begin(interval)); d < t.From || d >= t.To {
		return fmt.Errorf("%w: interval %d lies outside its days", ErrTask, interval)
	}
	return nil
}

// vdaf is Prio3Sum for two servers, bound to the task.
func (t *Task) vdaf() (*sum.Sum, error) {
	v, err := sum.New(2, uint64(t.Max), append([]byte("gridveil/agg/1"), t.ID[:]...))
	if err != nil {
		return nil, fmt.Errorf("prio3: %w", err)
	}
	return v, nil
}
