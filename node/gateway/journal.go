package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"gridveil/node/store"
	"gridveil/privacy/leak"
)

// journal writes down what leaves the house, durably, and shows it by day.
type journal struct {
	st *store.Store

	mu  sync.Mutex
	j   leak.Journal
	seq uint64
}

// journalKeep is how long an entry is kept: as long as the page shows.
const journalKeep = leak.MaxDays * 24 * time.Hour

func openJournal(st *store.Store) (*journal, error) {
	j := &journal{st: st}
	err := st.View(func(tx *store.Tx) error {
		return tx.Each([]byte{byte(store.SpaceJournal)}, func(k, v []byte) error {
			e, err := leak.ParseEntry(v)
			if err != nil {
				return err
			}
			if len(k) == 9 {
				j.seq = binary.BigEndian.Uint64(k[1:])
			}
			return j.j.Record(e)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("journal of what left: %w", err)
	}
	return j, nil
}

// record notes a message in the update that lets it leave. A message that the
// leak table does not know must not be sent: the error says so.
func (j *journal) record(tx *store.Tx, e leak.Entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.j.Record(e); err != nil {
		return err
	}
	j.seq++
	return tx.Set(store.SpaceJournal.Key(store.U64(j.seq)), e.Store())
}

// day is what left on the day of t.
func (j *journal) day(t time.Time) leak.View {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.j.Day(t)
}

// forget drops up to forgetBatch entries that no page shows any more, and says
// how many.
func (j *journal) forget(now time.Time) (n int, err error) {
	err = j.st.Update(func(tx *store.Tx) error {
		var old [][]byte
		err := tx.Each([]byte{byte(store.SpaceJournal)}, func(k, v []byte) error {
			e, err := leak.ParseEntry(v)
			if err == nil && now.Sub(e.At) < journalKeep || len(old) >= forgetBatch {
				return store.ErrStop
			}
			old = append(old, k)
			return nil
		})
		n = len(old)
		for _, k := range old {
			err = errors.Join(err, tx.Delete(k))
		}
		return err
	})
	return n, err
}
