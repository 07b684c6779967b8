package lane

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

type assembly struct {
	frame Frame
	body  []byte
}

// read takes frames off a stream until it fails.
func (k *Link) read(ctx context.Context, l Lane, s Stream) error {
	r := bufio.NewReaderSize(s, readBuffer)
	var h [HeaderSize]byte
	for {
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return err
		}
		f, n, err := ParseHeader(h[:], l)
		if err != nil {
			return err
		}
		if f.Body, err = readBody(r, s, n); err != nil {
			return err
		}
		k.c.Count(l, 0, HeaderSize+n)
		if err := k.receive(ctx, l, f); err != nil {
			return err
		}
	}
}

func readBody(r *bufio.Reader, s Stream, n int) ([]byte, error) {
	b := make([]byte, n)
	if n > r.Buffered() {
		_ = s.SetReadDeadline(time.Now().Add(bodyTimeout)) // a stream that cannot set it fails in Read
		defer func() { _ = s.SetReadDeadline(time.Time{}) }()
	}
	_, err := io.ReadFull(r, b)
	return b, err
}

// receive acts on one frame; an error resets the stream.
func (k *Link) receive(ctx context.Context, l Lane, f Frame) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return errClosed
	}
	if l == Bulk && len(f.Body) > 0 && f.Type != Window {
		k.lanes[l].taken += len(f.Body)
		k.poke()
	}
	ours := f.ID%2 == k.nextID%2
	switch f.Type {
	case Window:
		n := int(binary.BigEndian.Uint32(f.Body))
		if n > k.lanes[l].unacked {
			return fmt.Errorf("%w: window acknowledges more than was sent", ErrFrame)
		}
		k.lanes[l].unacked -= n
		if n > 0 {
			k.lanes[l].acked = time.Now()
		}
		k.poke()
		return nil
	case Cancel:
		if stop := k.running[f.ID]; stop != nil {
			stop()
		}
		if !ours {
			delete(k.partial, f.ID)
			k.sift(l, func(o *out) bool { return o.call != nil || o.id != f.ID || o.off > 0 })
		}
		return nil
	case Req, Reply, Err:
		if (f.Type == Req) == ours {
			return fmt.Errorf("%w: request id %d is on the wrong side", ErrFrame, f.ID)
		}
	}
	if l == Bulk && f.Type != Err {
		var whole bool
		var err error
		if f, whole, err = k.assemble(f); err != nil || !whole {
			return err
		}
	}
	return k.complete(ctx, l, f)
}

// assemble joins the chunks of a bulk message; k.mu is held.
func (k *Link) assemble(f Frame) (Frame, bool, error) {
	a := k.partial[f.ID]
	switch f.Type {
	case Req, Reply:
		if a != nil || len(k.partial) >= maxAssembly+len(k.pending) {
			return f, false, fmt.Errorf("%w: too many bulk messages at once", ErrFrame)
		}
		if f.Type == Reply && k.pending[f.ID] == nil {
			return f, false, nil // the caller has gone
		}
		k.partial[f.ID] = &assembly{frame: f, body: f.Body}
		return f, false, nil
	case Item:
		if a == nil {
			return f, false, nil // its call was abandoned
		}
		if len(a.body)+len(f.Body) > MaxBulkMessage {
			return f, false, fmt.Errorf("%w: bulk message above %d bytes", ErrFrame, MaxBulkMessage)
		}
		a.body = append(a.body, f.Body...)
		return f, false, nil
	default: // End
		if a == nil {
			return f, false, nil
		}
		delete(k.partial, f.ID)
		f = a.frame
		f.Body = a.body
		return f, true, nil
	}
}

// complete acts on a whole message; k.mu is held.
func (k *Link) complete(ctx context.Context, l Lane, f Frame) error {
	if f.Type == Req {
		return k.start(ctx, l, f)
	}
	c := k.pending[f.ID]
	if c == nil || c.lane != l {
		return nil // the caller has gone
	}
	if f.Type == Reply {
		k.finish(f.ID, c, f.Body, nil)
		return nil
	}
	re, err := decodeError(f.Body)
	if err != nil {
		return err
	}
	k.finish(f.ID, c, nil, re)
	return nil
}

// start runs the handler of a request, or answers that we are busy; k.mu is held.
func (k *Link) start(ctx context.Context, l Lane, f Frame) error {
	if k.running[f.ID] != nil {
		return fmt.Errorf("%w: request id %d is in use", ErrFrame, f.ID)
	}
	select {
	case k.runs[l] <- struct{}{}:
	default:
		if k.lanes[l].refused >= calls[l] {
			return fmt.Errorf("%w: requests go on while %d refusals wait", ErrFrame, calls[l])
		}
		k.lanes[l].refused++
		k.enqueue(l, nil, owesRefusal, Frame{ID: f.ID, Type: Err, Service: f.Service,
			Body: encodeError(&RemoteError{Code: CodeBusy, After: time.Second, Text: "too many requests at once"})})
		return nil
	}
	hctx, cancel := context.WithCancel(ctx)
	k.running[f.ID] = cancel
	k.wg.Go(func() { // owned by Serve, which waits in wg after close has cancelled hctx
		defer cancel()
		body, err := k.c.Handle(hctx, l, f.Service, f.Body)
		k.answer(hctx, l, f, body, err)
	})
	return nil
}

// answer queues the answer of a handler, whose slot is free again once the answer has left. Who cancelled gets none.
func (k *Link) answer(ctx context.Context, l Lane, f Frame, body []byte, err error) {
	t := Reply
	if err == nil && len(body) > MaxMessage(l) {
		err = &RemoteError{Code: CodeTooLong, Text: fmt.Sprintf("%d bytes, at most %d", len(body), MaxMessage(l))}
	}
	if err != nil {
		t, body = Err, encodeError(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.running, f.ID)
	if ctx.Err() != nil || k.closed || k.lanes[l].stream == nil {
		<-k.runs[l]
		return
	}
	k.enqueue(l, nil, owesSlot, frames(l, f.ID, t, f.Service, body)...)
}
