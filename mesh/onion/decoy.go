package onion

import (
	"context"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/mix"
)

// Decoys are experimental. A request of class session leaves at once, so a home's line shows a burst when a guest comes.
// A decoy is such a request with nothing in it, to an aggregator, at times drawn without regard to anything: it takes the
// same path through this program as a real one, so that it looks alike.

// decoyBody is as long as the request of a guest's session: both are two packets, and two of cover.
const decoyBody = 1073

// sendDecoys sends decoys, at times of clock, until ctx ends. While class session may not send, or the day's data runs out, their times pass.
func (o *Onion) sendDecoys(ctx context.Context, clock mesh.Clock) {
	var plan mix.Decoys
	err := plan.Start(clock.Now(), o.rnd)
	for err == nil {
		select {
		case <-ctx.Done():
			return
		case <-clock.After(plan.Next().Sub(clock.Now())):
		}
		var came bool
		if came, err = plan.Take(clock.Now(), o.rnd); came && err == nil {
			o.decoy(ctx)
		}
	}
	o.log.Error("no randomness", "err", err)
}

// decoy sends one and waits for its answer, with the tries of a real request.
func (o *Onion) decoy(ctx context.Context) {
	list := o.Recipients(member.RoleAggregator)
	if len(list) == 0 {
		return
	}
	i, err := mix.Below(len(list), o.rnd)
	if err != nil {
		o.log.Error("no randomness", "err", err)
		return
	}
	if _, err := o.call(ctx, list[i].Key, mesh.Session, mesh.Decoy, 0, make([]byte, decoyBody)); err != nil {
		o.log.Debug("decoy not answered", "err", err)
		return
	}
	o.bump(func(s *Stats) { s.Decoys++ })
}

// answerDecoy answers after as long as the last real request of class session took: how late an answer comes shows on
// the line too.
func (o *Onion) answerDecoy(ctx context.Context, _ []byte) ([]byte, error) {
	o.mu.Lock()
	took := o.sessionTook
	o.mu.Unlock()
	select {
	case <-time.After(took):
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// maxSessionTook bounds what a decoy waits for at its recipient: a real request that took longer is an exception.
const maxSessionTook = time.Second

// worked notes how long a handler took, in wall time.
func (o *Onion) worked(s mesh.Service, took time.Duration) {
	if s == mesh.Decoy || s.Class() != mesh.Session {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sessionTook = min(took, maxSessionTook)
}
