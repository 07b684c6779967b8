package enrol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"gridveil/node/store"
)

// MisuseLasts is how long an operator is told of misused codes after the last one.
const MisuseLasts = 7 * 24 * time.Hour

// Misuse is what the operator should know of codes that the wrong hands tried.
type Misuse struct {
	At    time.Time // of the last one
	Times uint32    // since nothing happened for MisuseLasts
	// Used says that one of the codes had admitted a member before another device tried it: of the two, one is not whom
	// the code was meant for. Otherwise wrong proofs killed it, and it admitted nobody.
	Used bool
}

func misuseKey() []byte { return store.SpaceMesh.Key([]byte("misuse")) }

// Misuse gives what stands now; ok is false when nothing happened for MisuseLasts.
func (r *Registrar) Misuse() (m Misuse, ok bool, err error) {
	raw, err := r.st.Get(misuseKey())
	if errors.Is(err, store.ErrNotFound) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("misused codes: %w", err)
	}
	if len(raw) != 13 {
		return m, false, fmt.Errorf("misused codes: stored record has %d bytes, want 13", len(raw))
	}
	m = Misuse{At: time.UnixMilli(int64(binary.BigEndian.Uint64(raw))).UTC(), Times: binary.BigEndian.Uint32(raw[8:]), Used: raw[12] == 1}
	return m, r.clock.Now().Sub(m.At) < MisuseLasts, nil
}

// misused notes one more, durably, so that a restart does not hide it: at u64 | times u32 | used 1.
func (r *Registrar) misused(used bool) error {
	m, stands, err := r.Misuse()
	if err != nil {
		return err
	}
	if !stands {
		m = Misuse{}
	}
	raw := binary.BigEndian.AppendUint64(nil, uint64(r.clock.Now().UnixMilli()))
	raw = binary.BigEndian.AppendUint32(raw, m.Times+1)
	raw = append(raw, 0)
	if used || m.Used {
		raw[12] = 1
	}
	return r.st.Set(misuseKey(), raw)
}
