// Package ondemand is a reading asked for now, through the whole chain: the
// utility signs a [Request], substation and head-end pass it on, the gateway
// answers with a signed report sealed to the asker.
//
// Nobody between can read the answer or give an old one: its header binds the
// request, nonce included. Source: doc/design.md, on-demand reading.
package ondemand

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"gridveil/node/keys"
	"gridveil/node/model"
	"gridveil/node/report"
)

// MaxDeadline is how long a request may be valid: a stale one must not be
// answered after its asker gave up.
const MaxDeadline = 2 * time.Minute

// maxChannels bounds a request; a meter has fewer registers than that.
const maxChannels = report.MaxChannels

// Errors of foreign bytes.
var (
	ErrRequest = errors.New("on-demand request is malformed")
	ErrAnswer  = errors.New("on-demand answer is not one to this request")
)

// Request asks one meter for channels now.
type Request struct {
	Nonce      [16]byte
	UsagePoint model.UsagePoint
	Deadline   int64 // UTC ms
	Channels   []model.Channel
	Sig        [ed25519.SignatureSize]byte
}

const requestFixed = 4 + 16 + 16 + 8 + 1

// Encode gives "GVQ1" | nonce 16 | usage point 16 | deadline i64 | n u8 | channel u16 * n | signature 64.
func (q Request) Encode() []byte { return append(q.body(), q.Sig[:]...) }

func (q Request) body() []byte {
	b := append([]byte("GVQ1"), q.Nonce[:]...)
	b = append(b, q.UsagePoint[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(q.Deadline))
	b = append(b, byte(len(q.Channels)))
	for _, c := range q.Channels {
		b = binary.BigEndian.AppendUint16(b, uint16(c))
	}
	return b
}

// Parse is the inverse of Encode; channels must ascend.
func Parse(b []byte) (Request, error) {
	var q Request
	if len(b) < requestFixed || string(b[:4]) != "GVQ1" {
		return q, ErrRequest
	}
	n := int(b[requestFixed-1])
	if n == 0 || n > maxChannels || len(b) != requestFixed+2*n+ed25519.SignatureSize {
		return q, fmt.Errorf("%w: %d channels in %d bytes", ErrRequest, n, len(b))
	}
	copy(q.Nonce[:], b[4:])
	copy(q.UsagePoint[:], b[20:])
	q.Deadline = int64(binary.BigEndian.Uint64(b[36:]))
	for i := range n {
		c := model.Channel(binary.BigEndian.Uint16(b[requestFixed+2*i:]))
		if i > 0 && c <= q.Channels[i-1] {
			return q, fmt.Errorf("%w: channels do not ascend", ErrRequest)
		}
		q.Channels = append(q.Channels, c)
	}
	copy(q.Sig[:], b[len(b)-ed25519.SignatureSize:])
	if q.Deadline < 0 {
		return q, fmt.Errorf("%w: deadline before 1970", ErrRequest)
	}
	return q, nil
}

func message(body []byte) []byte { return append([]byte("gridveil/ondemand/v1\x00"), body...) }

// Sign signs the request as a utility.
func (q *Request) Sign(key ed25519.PrivateKey) {
	copy(q.Sig[:], ed25519.Sign(key, message(q.body())))
}

// Verify checks the asker's signature.
func (q Request) Verify(pub ed25519.PublicKey) error {
	if !ed25519.Verify(pub, message(q.body()), q.Sig[:]) {
		return report.ErrSignature
	}
	return nil
}

// Expired says whether the deadline is over, or further away than allowed.
func (q Request) Expired(now time.Time) bool {
	d := q.Deadline - now.UnixMilli()
	return d < 0 || d > MaxDeadline.Milliseconds()
}

// Asker is a utility with the key of the day that answers are sealed to.
type Asker struct {
	key []byte
}

// NewAsker takes the key from a utility's sheet.
func NewAsker(u keys.Holder, now time.Time) Asker {
	k, _ := u.Sheet.At(keys.Direct, now)
	return Asker{k}
}

// Seal is the public key to seal an answer to.
func (a Asker) Seal() (k [32]byte, ok bool) {
	return k, copy(k[:], a.key) == 32 && len(a.key) == 32
}

// Answer makes the signed and sealed answer of a gateway to the raw request:
// readings of its only meter, all of one slot.
func Answer(rnd io.Reader, key ed25519.PrivateKey, request []byte, readings []model.Reading, day uint16, seal [32]byte) (report.Message, error) {
	if len(readings) == 0 {
		return report.Message{}, errors.New("the meter has none of the channels asked for")
	}
	slices.SortFunc(readings, func(a, b model.Reading) int { return int(a.Channel) - int(b.Channel) })
	var seed [32]byte
	if _, err := io.ReadFull(rnd, seed[:]); err != nil {
		return report.Message{}, fmt.Errorf("draw salt: %w", err)
	}
	first := readings[0]
	row := report.Row{Slot: 0, Status: first.Status}
	body := report.Body{Seed: seed}
	for _, r := range readings {
		body.Columns = append(body.Columns, report.Column{Channel: r.Channel, Scale: report.ScaleOf([]int64{r.Register})})
		row.Values = append(row.Values, r.Register)
	}
	body.Meters = []report.Meter{{Ordinal: 1, State: first.State, Epoch: first.Epoch, Counter: 1, Rows: []report.Row{row}}}
	root, err := body.Root(1)
	if err != nil {
		return report.Message{}, err
	}
	raw, err := body.Encode(1)
	if err != nil {
		return report.Message{}, err
	}
	h := report.Header{Class: report.ClassAnswer, Profile: model.TAFOnDemand, Source: report.SourceOf(key.Public().(ed25519.PublicKey)), Prev: sha256.Sum256(request), From: first.Slot, Period: uint32(time.Minute.Milliseconds()),
		Slots: 1, Channels: uint16(len(body.Columns)), Meters: 1, Unc: first.Unc, Root: root}
	h.Sign(key)
	return report.Seal(rnd, h, raw, day, seal)
}

// Check opens an answer with the asker's key of the day and gives the readings:
// it must bind the request and carry the gateway's signature.
func Check(answer, request []byte, gateway ed25519.PublicKey, key report.DayKey) ([]model.Reading, error) {
	m, err := report.DecodeMessage(answer)
	if err != nil {
		return nil, err
	}
	want := sha256.Sum256(request)
	if m.Header.Class != report.ClassAnswer || !bytes.Equal(m.Header.Prev[:], want[:]) {
		return nil, ErrAnswer
	}
	if err := m.Header.Verify(gateway); err != nil {
		return nil, err
	}
	body, err := report.OpenReport(m, key)
	if err != nil {
		return nil, err
	}
	return report.Readings(m.Header, body)[1], nil
}
