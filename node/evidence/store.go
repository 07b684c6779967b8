package evidence

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/store"
)

func keptPrefix(up model.UsagePoint) []byte { return store.SpaceReport.Key([]byte("proof"), up[:]) }

// Keep keeps what proves a report's part about one meter, inside the update that
// stores or trims the report. A report of the first layout, and one without the
// meter, prove nothing of it and leave nothing.
func Keep(tx *store.Tx, up model.UsagePoint, h report.Header, b report.Body, ordinal uint32) error {
	e, err := report.Prove(h, b, ordinal)
	if errors.Is(err, report.ErrInvalidReport) {
		return nil
	}
	if err != nil {
		return err
	}
	hash := h.Hash()
	key := append(keptPrefix(up), store.U64(uint64(h.From))...)
	return tx.Set(append(append(key, store.U64(h.Seq)...), hash[:8]...), e.Encode())
}

// maxKept is how much one answer may hold, bytes: the control socket carries that,
// and it is a year of hourly reports.
const maxKept = 5 << 19

// Errors of Collect and File.
var (
	ErrNone = errors.New("no report of this meter that can be proved lies in the span")
	ErrLong = errors.New("the reports of this span do not fit one file: ask for a shorter one")
)

// Collect gives what is kept of a usage point's reports by one source that overlap
// from..to, and the end of the last of them. It returns ErrNone or ErrLong.
func Collect(tx *store.Tx, up model.UsagePoint, source model.SourceID, from, to time.Time) (list [][]byte, last time.Time, err error) {
	prefix := keptPrefix(up)
	size, end := 0, int64(0)
	err = tx.Each(prefix, func(k, v []byte) error {
		start, h, err := keptHead(prefix, k, v)
		if err != nil {
			return err
		}
		if start >= to.UnixMilli() {
			return store.ErrStop
		}
		if h.End() <= from.UnixMilli() || h.Source != source {
			return nil
		}
		if size += len(v); size > maxKept {
			return ErrLong
		}
		end = max(end, h.End())
		list = append(list, bytes.Clone(v))
		return nil
	})
	if err == nil && len(list) == 0 {
		err = ErrNone
	}
	return list, utc(end), err
}

// Forget drops up to limit of a usage point's reports that began before an instant,
// and says how many.
func Forget(tx *store.Tx, up model.UsagePoint, before time.Time, limit int) (int, error) {
	prefix := keptPrefix(up)
	var old [][]byte
	err := tx.Each(prefix, func(k, v []byte) error {
		start, _, err := keptHead(prefix, k, v)
		if err != nil {
			return err
		}
		if start >= before.UnixMilli() || len(old) >= limit {
			return store.ErrStop
		}
		old = append(old, bytes.Clone(k))
		return nil
	})
	for _, k := range old {
		err = errors.Join(err, tx.Delete(k))
	}
	return len(old), err
}

func keptHead(prefix, k, v []byte) (start int64, h report.Header, err error) {
	if len(k) < len(prefix)+8 {
		return 0, h, fmt.Errorf("%w: evidence under a name of %d bytes", store.ErrDamaged, len(k))
	}
	if h, err = report.DecodeHeader(v[:min(len(v), report.HeaderSize)]); err != nil {
		return 0, h, fmt.Errorf("%w: %w", store.ErrDamaged, err)
	}
	return int64(binary.BigEndian.Uint64(k[len(prefix):])), h, nil
}
