package ssn

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"gridveil/mesh"
	"gridveil/node/metering"
	"gridveil/node/store"
	"gridveil/privacy/agg"
)

// helpRound is one interval that this substation helps with. The helper's
// promise stands in the store: one verify key and one signed result for each
// interval, whatever crashes.
type helpRound struct {
	h *agg.Helper
	helpState
}

type helpState struct {
	past    agg.Past
	combine [32]byte // hash of the Combine that was signed
	half    []byte   // the half-signed result, repeated for the same Combine
}

// encode gives verify key 32 | done u8 | combine 32 | half-signed result.
func (h helpState) encode() []byte {
	b := append(h.past.Verify[:len(h.past.Verify):len(h.past.Verify)], 0)
	if h.past.Done {
		b[32] = 1
	}
	return append(append(b, h.combine[:]...), h.half...)
}

func parseHelpState(b []byte) (h helpState, err error) {
	if len(b) < 65 || b[32] > 1 {
		return h, fmt.Errorf("%w: help with a sum of %d bytes", store.ErrDamaged, len(b))
	}
	return helpState{past: agg.Past{Verify: [32]byte(b), Done: b[32] == 1}, combine: [32]byte(b[33:]), half: b[65:]}, nil
}

// prepare answers a leader's Start.
func (s *sums) prepare(from mesh.Member, msg []byte) ([]byte, error) {
	s.help.Lock()
	defer s.help.Unlock()
	id, hr, err := s.helping(from, msg)
	if err != nil {
		return nil, err
	}
	answer, err := hr.h.Prepare(msg)
	if err != nil {
		return nil, err
	}
	if past := hr.h.Past(); past != hr.past {
		hr.past = past
		if err := s.saveHelp(id, hr); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

// finish answers a leader's Combine; the same one gets the same answer.
func (s *sums) finish(from mesh.Member, msg []byte) ([]byte, error) {
	s.help.Lock()
	defer s.help.Unlock()
	id, hr, err := s.helping(from, msg)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(msg)
	if hr.past.Done {
		if hash != hr.combine {
			return nil, agg.ErrClosed
		}
		return hr.half, nil
	}
	half, err := hr.h.Finish(msg)
	if err != nil {
		return nil, err
	}
	hr.past, hr.combine, hr.half = hr.h.Past(), hash, half
	if err := s.saveHelp(id, hr); err != nil {
		return nil, err
	}
	return half, nil
}

// saveHelp stores a round before its answer leaves; if that fails the round is
// forgotten, and what it would have said with it.
func (s *sums) saveHelp(id sumID, hr *helpRound) error {
	if err := s.env.Store.Set(sumSpace(helpPart, id.bytes()), hr.encode()); err != nil {
		delete(s.helped, id)
		return metering.ErrSumLater
	}
	return nil
}

// helping finds or begins the round that a leader's message is for. The caller
// holds help.
func (s *sums) helping(from mesh.Member, msg []byte) (id sumID, hr *helpRound, err error) {
	if id.task, id.interval, err = agg.PrepFor(msg); err != nil {
		return id, nil, err
	}
	s.mu.Lock()
	t, ok := s.tasks[id.task]
	s.mu.Unlock()
	now, ends := s.env.Clock.Now(), agg.Begin(id.interval+1)
	switch {
	case !ok:
		return id, nil, metering.ErrSumLater
	case t.Helper != s.env.Host.Self().Key || from.Key != t.Leader || now.Before(ends):
		return id, nil, agg.ErrTask
	case now.After(ends.Add(2 * sumGiveUp)):
		return id, nil, agg.ErrClosed
	}
	if hr = s.helped[id]; hr != nil {
		return id, hr, nil
	}
	server, err := s.server(t.Task, id.interval)
	if err != nil {
		return id, nil, fmt.Errorf("helper's key: %w", err)
	}
	hr = new(helpRound)
	raw, err := s.env.Store.Get(sumSpace(helpPart, id.bytes()))
	if err == nil {
		hr.helpState, err = parseHelpState(raw)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return id, nil, metering.ErrSumLater
	}
	if hr.h, err = agg.NewHelper(server, id.interval, hr.past); err != nil {
		return id, nil, err
	}
	s.makeRoom()
	s.helped[id] = hr
	return id, hr, nil
}

// makeRoom forgets the oldest round: its leader begins again, with the verify
// key that is stored. The caller holds help.
func (s *sums) makeRoom() {
	if len(s.helped) < maxHelped {
		return
	}
	var oldest sumID
	at := time.Time{}
	for id := range s.helped {
		if begin := agg.Begin(id.interval); at.IsZero() || begin.Before(at) {
			oldest, at = id, begin
		}
	}
	delete(s.helped, oldest)
}
