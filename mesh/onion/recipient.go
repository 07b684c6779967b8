package onion

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/packet"
)

// receiveLoop puts requests together and starts their handlers.
func (o *Onion) receiveLoop(ctx context.Context, wg *sync.WaitGroup) {
	var parts packet.Assembler
	rc := &receiver{o: o}
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-o.delivered:
			now := o.clock.Now()
			user, err := p.User()
			if err != nil {
				o.count(DropTampered, 1)
				continue
			}
			whole, err := parts.Add(user, now)
			if err != nil {
				o.count(DropMessage, 1)
				continue
			}
			if whole != nil && whole.Kind == packet.MessageRequest {
				rc.request(ctx, wg, whole.Sealed, now)
			}
		}
	}
}

// receiver remembers what was answered.
type receiver struct {
	o  *Onion
	mu sync.Mutex
	packet.Answers
}

// request opens a message and answers it, from memory if it was answered before.
func (rc *receiver) request(ctx context.Context, wg *sync.WaitGroup, sealed []byte, now time.Time) {
	o := rc.o
	q, key, err := o.seals.open(sealed)
	if err != nil {
		o.count(DropMessage, 1)
		return
	}
	rc.mu.Lock()
	rc.Lag = answerLags * o.h.Lag()
	fresh, body, done := rc.Begin(q.ID, now)
	rc.mu.Unlock()
	switch {
	case !fresh && done:
		o.reply(q, key, body)
		return
	case !fresh:
		return // being handled; the first one's reply blocks serve
	}
	select {
	case o.handling <- struct{}{}:
	default:
		rc.mu.Lock()
		rc.Forget(q.ID)
		rc.mu.Unlock()
		o.count(DropHandlers, 1)
		return
	}
	wg.Go(func() { // ends with its handler, which ends with ctx; Serve waits in wg
		defer func() { <-o.handling }()
		body, final := o.handle(ctx, q)
		rc.mu.Lock()
		if final {
			rc.Finish(q.ID, body)
		} else {
			rc.Forget(q.ID)
		}
		rc.mu.Unlock()
		if body != nil {
			o.reply(q, key, body)
		}
	})
}

// handle runs the service of a request; final is false when it had no effect and may run again.
func (o *Onion) handle(ctx context.Context, q packet.Request) (answer []byte, final bool) {
	if q.Flags&flagCarried != 0 {
		return o.handleCarried(ctx, q)
	}
	o.mu.Lock()
	fn := o.handlers[mesh.Service(q.Service)]
	o.stats.Received++
	o.mu.Unlock()
	if fn == nil {
		o.count(DropService, 1)
		return []byte("\x02service is not offered here"), true
	}
	began := time.Now()
	body, err := fn(ctx, q.Body)
	o.worked(mesh.Service(q.Service), time.Since(began))
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, false
	case err != nil:
		var re *mesh.RemoteError
		text := err.Error()
		if errors.As(err, &re) {
			text = re.Text
		}
		return append([]byte{answerFailed}, text[:min(len(text), 240)]...), true
	case len(body) > maxAnswerSize:
		return []byte("\x01answer is too long"), true
	}
	return append([]byte{answerOK}, body...), true
}

// handleCarried serves a request that a guest sealed itself; only the guest can read the answer.
func (o *Onion) handleCarried(ctx context.Context, q packet.Request) (answer []byte, final bool) {
	inner, key, err := o.seals.open(q.Body)
	if err != nil || inner.Flags&flagCarried != 0 || len(inner.Replies) > 0 {
		o.count(DropMessage, 1)
		return []byte("\x01carried message cannot be opened"), true
	}
	body, final := o.handle(ctx, inner)
	if body == nil {
		return nil, final
	}
	sealed, err := key.SealAnswer(inner.ID, body, o.rnd)
	if err != nil {
		return []byte("\x01answer is too long"), true
	}
	return append([]byte{answerOK}, sealed...), final
}

// reply sends an answer by the request's own reply blocks; without one it is dropped, and the next try brings more.
func (o *Onion) reply(q packet.Request, key packet.AnswerKey, body []byte) {
	users, err := o.fragments(q, key, body)
	if err == nil && len(users) > len(q.Replies) {
		users, err = o.fragments(q, key, []byte("\x01answer needs more packets than the request allows"))
	}
	if err != nil || len(users) > len(q.Replies) {
		o.count(DropAnswer, 1)
		return
	}
	if q.Flags&flagFill != 0 {
		for len(users) < len(q.Replies) {
			users = append(users, make([]byte, packet.UserSize))
		}
	}
	for i, user := range users {
		p := new(packet.Packet)
		if err := q.Replies[i].Use(p, user); err != nil {
			o.count(DropAnswer, 1)
			return
		}
		if !o.out.send(q.Replies[i].First(), p) {
			o.count(o.unsent(), 1)
		}
	}
	o.bump(func(s *Stats) { s.Answered++ })
}

func (o *Onion) fragments(q packet.Request, key packet.AnswerKey, body []byte) ([][]byte, error) {
	sealed, err := key.SealAnswer(q.ID, body, o.rnd)
	if err != nil {
		return nil, err
	}
	var id packet.MessageID
	if _, err := io.ReadFull(o.rnd, id[:]); err != nil {
		return nil, err
	}
	return packet.Split(id, packet.MessageReply, sealed)
}
