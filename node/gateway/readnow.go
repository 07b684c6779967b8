package gateway

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/model"
	"gridveil/node/ondemand"
	"gridveil/node/report"
	"gridveil/privacy/leak"
)

// readNow reads the meter at once for the home's own utility. The request is
// signed by the utility and judged here, at the source; the answer is signed
// here and sealed to the utility, so that nobody on the way reads it or answers
// from memory.
func (m *metering) readNow(ctx context.Context, _ mesh.Member, req []byte) ([]byte, error) {
	q, err := ondemand.Parse(req)
	if err != nil {
		return nil, err
	}
	utility, err := m.asker(q)
	if err != nil {
		return nil, err
	}
	if err := m.permits(q); err != nil {
		return nil, err
	}
	now := m.env.Clock.Now()
	if q.Expired(now) {
		return nil, errors.New("the request is older than its deadline")
	}
	if err := m.fresh(q.Nonce, now); err != nil {
		return nil, err
	}
	f, err := m.collector.ReadNow(ctx, q.Channels)
	if err != nil {
		m.unread(q.Nonce, now)
		return nil, err
	}
	var rows []model.Reading
	for _, c := range q.Channels {
		v, ok := f.Get(c)
		if !ok {
			continue
		}
		rows = append(rows, model.Reading{Channel: c, Slot: model.SlotOf(f.At, time.Minute), At: f.At, Register: v, Unc: f.Unc, State: model.ReadImportExport, Status: f.Status, Quality: model.QualityRaw})
	}
	sealKey, ok := utility.Seal()
	if !ok {
		return nil, errors.New("the utility has published no key to seal the answer to")
	}
	msg, err := ondemand.Answer(m.env.Rand, m.env.ID.Key, req, rows, report.DayOf(now.UnixMilli()), sealKey)
	if err != nil {
		return nil, fmt.Errorf("answer on demand: %w", err)
	}
	raw := msg.Encode()
	if err := m.note(leak.ReadNow, len(raw), leak.OwnUtility, leak.Substation); err != nil {
		return nil, errors.New("the answer cannot be noted in the home's journal now")
	}
	return raw, nil
}

// permits checks the request against the order in force: this home's usage
// point, and registers of a profile that the contract or the law allows.
func (m *metering) permits(q ondemand.Request) error {
	o := m.currentOrder()
	if o == nil {
		return errors.New("no order allows readings to leave")
	}
	if !slices.ContainsFunc(o.Roster.Entries, func(e model.RosterEntry) bool { return e.Ordinal == ordinal && e.UsagePoint == q.UsagePoint }) {
		return errors.New("the request is for another usage point")
	}
	for _, c := range q.Channels {
		if !slices.ContainsFunc(o.Profiles, func(p model.Profile) bool { return slices.Contains(p.Channels, c) }) {
			return errors.New("the request is for a channel that no profile holds")
		}
	}
	return nil
}

// asker finds the utility that signed a request: it must be this home's own.
func (m *metering) asker(q ondemand.Request) (ondemand.Asker, error) {
	for _, u := range m.env.Dir.All(member.RoleUtility, m.env.Host.Self().Operator) {
		if q.Verify(ed25519.PublicKey(u.Member.Key[:])) == nil {
			return ondemand.NewAsker(u, m.env.Clock.Now()), nil
		}
	}
	return ondemand.Asker{}, errors.New("the request is not signed by this home's utility")
}

// maxNonces bounds the memory of answered requests.
const maxNonces = 256

// readEvery is how often a meter may be read on demand: series of single
// readings would be a load curve.
const readEvery = time.Minute

// fresh remembers a nonce until its request is too old anyway, and lets one
// request pass a minute.
func (m *metering) fresh(nonce [16]byte, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n, at := range m.nonces {
		if now.Sub(at) > ondemand.MaxDeadline {
			delete(m.nonces, n)
		}
	}
	if _, seen := m.nonces[nonce]; seen || len(m.nonces) >= maxNonces {
		return errors.New("the request was answered before")
	}
	if !m.asked.IsZero() && now.Sub(m.asked) < readEvery {
		return errors.New("the meter was read on demand within this minute; ask again in the next")
	}
	if m.nonces == nil {
		m.nonces = make(map[[16]byte]time.Time)
	}
	m.nonces[nonce], m.asked = now, now
	return nil
}

// unread gives a turn back that told nobody anything: the meter did not answer. The
// same request may come again by another way.
func (m *metering) unread(nonce [16]byte, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.nonces, nonce)
	if m.asked.Equal(at) {
		m.asked = time.Time{}
	}
}
