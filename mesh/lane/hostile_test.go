package lane

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// rogue is a Link with one neighbour that writes frames by hand.
type rogue struct {
	k       *Link
	running atomic.Int32 // handlers that have begun
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// newRogue serves a Link until the end of the test. Every request on lane l is answered with size bytes.
func newRogue(t *testing.T, l Lane, size int) *rogue {
	ctx, cancel := context.WithCancel(t.Context())
	r := &rogue{cancel: cancel}
	r.k = New(Config{Handle: func(context.Context, Lane, uint8, []byte) ([]byte, error) {
		r.running.Add(1)
		return make([]byte, size), nil
	}})
	r.wg.Go(func() { r.k.Serve(ctx) })
	t.Cleanup(func() { cancel(); r.wg.Wait() })
	return r
}

// open gives the neighbour's end of a fresh stream of lane l, and the reason why the Link ended it.
func (r *rogue) open(t *testing.T, l Lane) (net.Conn, <-chan error) {
	near, far := net.Pipe()
	why := make(chan error, 1)
	r.wg.Go(func() { why <- r.k.Accept(t.Context(), pipeStream{far}) })
	if _, err := near.Write([]byte{byte(l)}); err != nil {
		t.Fatal(err)
	}
	return near, why
}

// waits gives the bytes that wait for the neighbour, and the slots that are taken.
func (r *rogue) waits(l Lane) (queued, slots int) {
	r.k.mu.Lock()
	defer r.k.mu.Unlock()
	for _, o := range r.k.lanes[l].queue {
		queued += cap(o.buf)
	}
	return queued, len(r.k.runs[l])
}

// request writes requests with ids from, from+2, ... as a bulk message where l is Bulk.
func request(w io.Writer, l Lane, from, n int) error {
	for i := range n {
		b := AppendFrame(nil, Frame{ID: uint32(from + 2*i), Type: Req, Service: 5})
		if l == Bulk {
			b = AppendFrame(b, Frame{ID: uint32(from + 2*i), Type: End})
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func TestASlowReaderCannotGrowTheQueue(t *testing.T) {
	for _, l := range []Lane{Alarm, Normal, Bulk} {
		t.Run([]string{"alarm", "normal", "bulk"}[l], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRogue(t, l, MaxMessage(l))
				s, why := r.open(t, l)
				// It reads one piece, just often enough to be no broken stream, and asks as fast as it can.
				stop := make(chan struct{})
				var reader sync.WaitGroup
				reader.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(writeTimeout - time.Second):
						}
						if _, err := io.ReadFull(s, make([]byte, piece)); err != nil {
							return
						}
					}
				})
				frames := 1 + MaxMessage(l)/MaxBulkChunk // and one End on bulk
				limit := handlers[l]*(MaxMessage(l)+2*frames*HeaderSize) + calls[l]*(2*HeaderSize+maxErrText)
				asked := 0
				for range 2000 {
					if request(s, l, 1+2*asked, 1) != nil {
						break
					}
					asked++
					synctest.Wait()
					if queued, _ := r.waits(l); queued > limit {
						t.Fatalf("%d bytes wait after %d requests, want at most %d", queued, asked, limit)
					}
				}
				if asked < handlers[l]+calls[l] || asked > handlers[l]+calls[l]+2 {
					t.Errorf("the stream ended after %d requests, want just above %d answers and %d refusals", asked, handlers[l], calls[l])
				}
				if err := <-why; !errors.Is(err, ErrFrame) {
					t.Errorf("the stream ended with %v, want ErrFrame", err)
				}
				synctest.Wait()
				if queued, slots := r.waits(l); queued+slots > 0 {
					t.Errorf("%d bytes wait and %d slots are taken once the stream is gone", queued, slots)
				}
				close(stop)
				reader.Wait()
			})
		})
	}
}

func TestASlowReaderIsAnsweredAsItReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRogue(t, Normal, MaxNormalBody)
		s, _ := r.open(t, Normal)
		defer s.Close()
		if err := request(s, Normal, 1, handlers[Normal]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, slots := r.waits(Normal); slots != handlers[Normal] {
			t.Fatalf("%d slots are taken by answers that wait, want %d", slots, handlers[Normal])
		}
		for i := range handlers[Normal] {
			if _, err := io.ReadFull(s, make([]byte, HeaderSize+MaxNormalBody)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if _, slots := r.waits(Normal); slots > handlers[Normal]-i {
				t.Fatalf("%d slots are taken after %d answers were read", slots, i+1)
			}
		}
		if queued, slots := r.waits(Normal); queued+slots > 0 {
			t.Errorf("%d bytes wait and %d slots are taken after all answers were read", queued, slots)
		}
	})
}

func TestBulkThatNobodyAcknowledgesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRogue(t, Bulk, MaxBulkMessage)
		s, why := r.open(t, Bulk)
		var reader sync.WaitGroup
		reader.Go(func() { io.Copy(io.Discard, s) }) // reads all, acknowledges nothing
		if err := request(s, Bulk, 1, handlers[Bulk]); err != nil {
			t.Fatal(err)
		}
		// Acknowledging nothing at length counts as nothing.
		if _, err := s.Write(AppendFrame(nil, Frame{Type: Window, Body: binary.BigEndian.AppendUint32(nil, 0)})); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		<-why
		if took := time.Since(began); took < ackTimeout-time.Second || took > ackTimeout+time.Second {
			t.Errorf("the stream ended after %v, want %v", took, ackTimeout)
		}
		synctest.Wait()
		if queued, slots := r.waits(Bulk); queued+slots > 0 {
			t.Errorf("%d bytes wait and %d slots are taken once the stream is gone", queued, slots)
		}
		reader.Wait()
	})
}

func TestASlowHonestReaderOfBulkGetsItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := &slow{bps: 16_000} // a piece in 8 s: one that takes longer than writeTimeout is lost
		p := newPair(t, func(c net.Conn) net.Conn { return slowReader{c, down} }, echo, func(context.Context, Lane, uint8, []byte) ([]byte, error) {
			return bytes.Repeat([]byte("x"), MaxBulkMessage), nil
		})
		if got, err := p.near.Call(t.Context(), Bulk, 1, nil); err != nil || len(got) != MaxBulkMessage {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	})
}

// slowReader takes in bits per second.
type slowReader struct {
	net.Conn
	s *slow
}

func (c slowReader) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b[:min(len(b), 512)])
	time.Sleep(time.Duration(n) * 8 * time.Second / time.Duration(c.s.bps))
	return n, err
}

func TestACancelledRequestLeavesNothingInTheQueue(t *testing.T) {
	for _, l := range []Lane{Normal, Bulk} {
		synctest.Test(t, func(t *testing.T) {
			r := newRogue(t, l, MaxMessage(l))
			s, _ := r.open(t, l)
			defer s.Close()
			if err := request(s, l, 1, handlers[l]+5); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			for i := range handlers[l] + 5 {
				if _, err := s.Write(AppendFrame(nil, Frame{ID: uint32(1 + 2*i), Type: Cancel})); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			// The frame that was begun goes on to its end.
			if queued, slots := r.waits(l); queued > 2*(HeaderSize+MaxBody(l)) || slots > 1 {
				t.Errorf("lane %d: %d bytes wait and %d slots are taken after all was cancelled", l, queued, slots)
			}
		})
	}
}
