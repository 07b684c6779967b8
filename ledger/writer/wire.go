package writer

import (
	"encoding/binary"
	"errors"
	"fmt"

	"gridveil/ledger"
)

// maxText bounds the words of a refusal on the wire.
const maxText = 255

// RefusedError is a refusal that came from the writer over the network. It is,
// for errors.Is, the error of package ledger with its code.
type RefusedError struct {
	Code   ledger.Code
	Detail uint64 // the wanted sequence number, or the index of the entry in the way
	Text   string
}

func (e *RefusedError) Error() string { return "writer refused: " + e.Text }

// Unwrap gives the typed error of package ledger.
func (e *RefusedError) Unwrap() error {
	switch err := e.Code.Err(); err {
	case ledger.ErrSeqGap:
		return &ledger.SeqGapError{Want: e.Detail}
	case ledger.ErrSeqConflict:
		return &ledger.SeqConflictError{Index: e.Detail}
	case ledger.ErrDuplicate:
		return &ledger.DuplicateError{What: "an id", Index: e.Detail}
	default:
		return err
	}
}

// EncodeResults writes the answer to POST /entries, one record per entry:
//
//	code u16 = 0 or that of ErrExists | receipt
//	code u16, another                 | detail u64 | text u8 length, UTF-8
func EncodeResults(list []Result) []byte {
	var b []byte
	for i := range list {
		r := &list[i]
		switch {
		case r.Err != nil:
			text := r.Err.Error()
			text = text[:min(len(text), maxText)]
			b = binary.BigEndian.AppendUint16(b, uint16(ledger.CodeOf(r.Err)))
			b = binary.BigEndian.AppendUint64(b, detailOf(r.Err))
			b = append(append(b, uint8(len(text))), text...)
		case r.Exists:
			b = binary.BigEndian.AppendUint16(b, uint16(ledger.CodeOf(ledger.ErrExists)))
			b = append(b, r.Receipt.Encode()...)
		default:
			b = binary.BigEndian.AppendUint16(b, 0)
			b = append(b, r.Receipt.Encode()...)
		}
	}
	return b
}

func detailOf(err error) uint64 {
	var gap *ledger.SeqGapError
	var conflict *ledger.SeqConflictError
	var double *ledger.DuplicateError
	switch {
	case errors.As(err, &gap):
		return gap.Want
	case errors.As(err, &conflict):
		return conflict.Index
	case errors.As(err, &double):
		return double.Index
	}
	return 0
}

// ParseResults reads exactly n results; it returns ErrMalformed.
func ParseResults(b []byte, n int) ([]Result, error) {
	bad := fmt.Errorf("%w: answer of the writer", ledger.ErrMalformed)
	var out []Result
	for len(b) > 0 {
		if len(b) < 2 || len(out) == n {
			return nil, bad
		}
		code := ledger.Code(binary.BigEndian.Uint16(b))
		b = b[2:]
		if exists := code == ledger.CodeOf(ledger.ErrExists); code == 0 || exists {
			r, rest, err := ledger.CutReceipt(b)
			if err != nil {
				return nil, err
			}
			out, b = append(out, Result{Receipt: r, Exists: exists}), rest
			continue
		}
		if len(b) < 9 || len(b) < 9+int(b[8]) {
			return nil, bad
		}
		end := 9 + int(b[8])
		out = append(out, Result{Err: &RefusedError{code, binary.BigEndian.Uint64(b), string(b[9:end])}})
		b = b[end:]
	}
	if len(out) != n {
		return nil, bad
	}
	return out, nil
}
