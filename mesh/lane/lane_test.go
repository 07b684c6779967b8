package lane

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// pipeStream makes a net.Pipe end a Stream.
type pipeStream struct{ net.Conn }

func (p pipeStream) Reset() error { return p.Close() }

// pair runs two linked Links until the test ends; far answers with handle.
type pair struct {
	near, far *Link
	mu        sync.Mutex
	streams   []Stream // near ends, in order of opening
}

func newPair(t *testing.T, wrap func(net.Conn) net.Conn, near, far func(context.Context, Lane, uint8, []byte) ([]byte, error)) *pair {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	p := &pair{}
	p.far = New(Config{Handle: far})
	p.near = New(Config{Handle: near, Open: func(context.Context) (Stream, error) {
		a, b := net.Pipe()
		if wrap != nil {
			a = wrap(a)
		}
		wg.Go(func() { p.far.Accept(ctx, pipeStream{b}) })
		p.mu.Lock()
		defer p.mu.Unlock()
		p.streams = append(p.streams, pipeStream{a})
		return pipeStream{a}, nil
	}})
	wg.Go(func() { p.far.Serve(ctx) })
	wg.Go(func() { p.near.Serve(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return p
}

func echo(_ context.Context, _ Lane, _ uint8, req []byte) ([]byte, error) { return req, nil }

func TestCallsAreAnsweredOnEveryLaneUpToItsLimit(t *testing.T) {
	p := newPair(t, nil, echo, echo)
	for _, l := range []Lane{Alarm, Normal, Bulk} {
		for _, n := range []int{0, 1, MaxBulkChunk - 1, MaxBulkChunk, MaxBulkChunk + 1, MaxMessage(l)} {
			n = min(n, MaxMessage(l))
			req := bytes.Repeat([]byte{byte(n)}, n)
			for _, k := range []*Link{p.near, p.far} {
				got, err := k.Call(t.Context(), l, 7, req)
				if err != nil || !bytes.Equal(got, req) {
					t.Fatalf("lane %d, %d bytes: got %d bytes, %v", l, n, len(got), err)
				}
			}
		}
		if _, err := p.near.Call(t.Context(), l, 7, make([]byte, MaxMessage(l)+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("lane %d, one byte above the limit: got %v, want ErrTooLarge", l, err)
		}
	}
}

func TestErrorsOfTheFarSideKeepTheirCode(t *testing.T) {
	busy := &RemoteError{Code: CodeBusy, After: 1500 * time.Millisecond, Text: "later"}
	p := newPair(t, nil, echo, func(_ context.Context, _ Lane, s uint8, _ []byte) ([]byte, error) {
		if s == 1 {
			return nil, busy
		}
		return nil, errors.New("record 9 is unknown")
	})
	var re *RemoteError
	if _, err := p.near.Call(t.Context(), Bulk, 1, nil); !errors.As(err, &re) || *re != *busy {
		t.Errorf("busy handler: got %v", err)
	}
	if _, err := p.near.Call(t.Context(), Normal, 2, nil); !errors.As(err, &re) || re.Code != CodeFailed || re.Text != "record 9 is unknown" {
		t.Errorf("failing handler: got %v", err)
	}
}

func TestACallThatIsCancelledSaysWhetherItLeftAndStopsTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopped := make(chan struct{})
		p := newPair(t, nil, echo, func(ctx context.Context, _ Lane, _ uint8, _ []byte) ([]byte, error) {
			<-ctx.Done()
			close(stopped)
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.near.Call(ctx, Normal, 1, nil); !errors.Is(err, ErrUnanswered) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want ErrUnanswered by deadline", err)
		}
		<-stopped
		alone := New(Config{Handle: echo})
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := alone.Call(ctx, Normal, 1, nil); !errors.Is(err, ErrUnsent) {
			t.Errorf("no stream: got %v, want ErrUnsent", err)
		}
	})
}

func TestABrokenStreamFailsSentCallsAndIsReopened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		p := newPair(t, nil, echo, func(ctx context.Context, _ Lane, s uint8, req []byte) ([]byte, error) {
			if s == 1 {
				<-hold
			}
			return req, nil
		})
		errs := make(chan error, 1)
		go func() { _, err := p.near.Call(t.Context(), Normal, 1, nil); errs <- err }()
		synctest.Wait()
		p.mu.Lock()
		for _, s := range p.streams {
			s.Close()
		}
		p.mu.Unlock()
		if err := <-errs; !errors.Is(err, ErrUnanswered) {
			t.Errorf("got %v, want ErrUnanswered", err)
		}
		if got, err := p.near.Call(t.Context(), Normal, 2, []byte("again")); err != nil || string(got) != "again" {
			t.Errorf("after reopening: got %q, %v", got, err)
		}
		close(hold)
	})
}

func TestTooManyRequestsAreAnsweredBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		p := newPair(t, nil, echo, func(context.Context, Lane, uint8, []byte) ([]byte, error) { <-hold; return nil, nil })
		n := handlers[Normal]
		errs := make(chan error, n+1)
		for range n + 1 {
			go func() { _, err := p.near.Call(t.Context(), Normal, 1, nil); errs <- err }()
		}
		synctest.Wait()
		var re *RemoteError
		if err := <-errs; !errors.As(err, &re) || re.Code != CodeBusy {
			t.Errorf("one above the limit: got %v, want busy", err)
		}
		close(hold)
		for range n {
			if err := <-errs; err != nil {
				t.Errorf("within the limit: %v", err)
			}
		}
	})
}

// slow passes bits per second of one direction of a link, shared by all its streams.
type slow struct {
	mu   sync.Mutex
	free time.Time
	bps  int
}

type slowConn struct {
	net.Conn
	s *slow
}

func (c slowConn) Write(b []byte) (int, error) {
	c.s.mu.Lock()
	now := time.Now()
	if c.s.free.Before(now) {
		c.s.free = now
	}
	c.s.free = c.s.free.Add(time.Duration(len(b)) * 8 * time.Second / time.Duration(c.s.bps))
	wait := c.s.free.Sub(now)
	c.s.mu.Unlock()
	time.Sleep(wait)
	return c.Conn.Write(b)
}

func TestAnAlarmOvertakesTenThousandQueuedReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &slow{bps: 1_000_000}
		p := newPair(t, func(c net.Conn) net.Conn { return slowConn{c, up} }, echo,
			func(context.Context, Lane, uint8, []byte) ([]byte, error) { return nil, nil })
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		reports := make(chan struct{}, 10_000)
		for range cap(reports) {
			reports <- struct{}{}
		}
		for range 64 {
			wg.Go(func() {
				for len(reports) > 0 && ctx.Err() == nil {
					<-reports
					p.near.Call(ctx, Bulk, 9, make([]byte, 700))
				}
			})
		}
		time.Sleep(2 * time.Second)
		var worst time.Duration
		for range 20 {
			start := time.Now()
			if _, err := p.near.Call(t.Context(), Alarm, 1, make([]byte, 300)); err != nil {
				t.Fatal(err)
			}
			worst = max(worst, time.Since(start))
			time.Sleep(300 * time.Millisecond)
		}
		if len(reports) == 0 {
			t.Error("the backlog ended before the alarms did")
		}
		if worst > time.Second {
			t.Errorf("slowest of 20 alarms took %v, want at most 1s", worst)
		}
		t.Logf("slowest of 20 alarms: %v with %d reports still queued", worst, len(reports))
		cancel()
		wg.Wait()
	})
}

func TestEndlessAlarmsLeaveBulkATenth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p Pace
		sizes := rapid.SliceOfN(rapid.IntRange(1, MaxAlarmBody), 1, 20).Draw(t, "alarm sizes")
		var bulk, total, i int
		for total < 256<<10 {
			l, most, ok := p.Next([Lanes]bool{true, false, true})
			if !ok {
				t.Fatal("nothing to write although two lanes wait")
			}
			n := min(most, sizes[i%len(sizes)]+HeaderSize)
			i++
			if l == Bulk {
				n = min(most, MaxBulkChunk)
				bulk += n
			}
			total += n
			p.Wrote(l, n, true)
		}
		if bulk*10 < total {
			t.Fatalf("bulk got %d of %d bytes, want at least a tenth", bulk, total)
		}
	})
}

func TestAPeerThatBreaksTheRulesLosesItsStream(t *testing.T) {
	cases := map[string][]byte{
		"unknown lane":                 {9},
		"unknown type":                 append([]byte{1}, AppendFrame(nil, Frame{ID: 1, Type: 99})...),
		"reserved bytes":               {1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0},
		"body above the limit":         {0, 0, 0, 0x20, 1, 0, 0, 0, 1, 1, 0, 0, 0},
		"request id of the other side": append([]byte{1}, AppendFrame(nil, Frame{ID: 2, Type: Req})...),
		"window above what was sent":   append([]byte{2}, AppendFrame(nil, Frame{Type: Window, Body: []byte{0, 0, 0, 1}})...),
		"item on the normal lane":      append([]byte{1}, AppendFrame(nil, Frame{ID: 1, Type: Item})...),
	}
	for name, b := range cases {
		t.Run(name, func(t *testing.T) {
			k := New(Config{Handle: echo})
			near, far := net.Pipe()
			go func() { near.Write(b); io.Copy(io.Discard, near) }()
			if err := k.Accept(t.Context(), pipeStream{far}); !errors.Is(err, ErrFrame) {
				t.Errorf("got %v, want ErrFrame", err)
			}
		})
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(AppendFrame(nil, Frame{ID: 1, Type: Req, Service: 3}), uint8(1))
	f.Add(AppendFrame(nil, Frame{Type: Window, Body: []byte{0, 0, 0, 1}})[:HeaderSize], uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, lane uint8) {
		l := Lane(lane % Lanes)
		fr, n, err := ParseHeader(b, l)
		if err != nil {
			return
		}
		fr.Body = make([]byte, n)
		if again := AppendFrame(nil, fr); !bytes.Equal(again[:HeaderSize], b) {
			t.Errorf("decode then encode: got %x, want %x", again[:HeaderSize], b)
		}
	})
}

func FuzzReceive(f *testing.F) {
	f.Add(uint8(1), AppendFrame(nil, Frame{ID: 1, Type: Req, Body: []byte("x")}))
	f.Add(uint8(2), AppendFrame(AppendFrame(nil, Frame{ID: 1, Type: Req, Body: []byte("x")}), Frame{ID: 1, Type: End}))
	f.Fuzz(func(t *testing.T, lane uint8, b []byte) {
		k := New(Config{Handle: echo})
		near, far := net.Pipe()
		go func() { near.Write(append([]byte{lane % Lanes}, b...)); near.Close() }()
		if err := k.Accept(t.Context(), pipeStream{far}); err == nil {
			t.Error("Accept ended without saying why")
		}
		k.wg.Wait()
	})
}

func FuzzDecodeError(f *testing.F) {
	f.Add(encodeError(&RemoteError{Code: CodeBusy, After: time.Second, Text: "too many requests at once"}))
	f.Add([]byte{4, 0x80, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		re, err := decodeError(b)
		if err != nil {
			return
		}
		if again := encodeError(re); !bytes.Equal(again, b) {
			t.Errorf("decode then encode: got %x, want %x", again, b)
		}
	})
}

// FuzzReply feeds a caller the frames of a neighbour that answers.
func FuzzReply(f *testing.F) {
	reply := AppendFrame(nil, Frame{ID: 2, Type: Reply, Body: []byte("begin")})
	reply = AppendFrame(reply, Frame{ID: 2, Type: Item, Body: []byte(", end")})
	f.Add(uint8(Bulk), AppendFrame(reply, Frame{ID: 2, Type: End}))
	f.Add(uint8(Bulk), AppendFrame(nil, Frame{ID: 2, Type: Err, Body: []byte{1, 0, 0, 0, 0}}))
	f.Add(uint8(Normal), AppendFrame(nil, Frame{ID: 2, Type: Reply, Body: []byte("all")}))
	f.Fuzz(func(t *testing.T, lane uint8, b []byte) {
		l := Lane(lane % Lanes)
		k := New(Config{Handle: echo})
		c := &call{lane: l, sent: true, done: make(chan result, 1)}
		k.pending[2] = c
		near, far := net.Pipe()
		go func() { near.Write(append([]byte{byte(l)}, b...)); near.Close() }()
		if err := k.Accept(t.Context(), pipeStream{far}); err == nil {
			t.Error("Accept ended without saying why")
		}
		k.wg.Wait()
		if r := <-c.done; len(r.body) > MaxMessage(l) || r.body != nil && r.err != nil {
			t.Errorf("the call ended with %d bytes and %v", len(r.body), r.err)
		}
		if len(k.pending)+len(k.partial) > 0 && l == Bulk {
			t.Errorf("%d calls and %d messages are left", len(k.pending), len(k.partial))
		}
	})
}

func BenchmarkLinkCall(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	far := New(Config{Handle: echo})
	near := New(Config{Handle: echo, Open: func(context.Context) (Stream, error) {
		x, y := net.Pipe()
		go far.Accept(ctx, pipeStream{y})
		return pipeStream{x}, nil
	}})
	var wg sync.WaitGroup
	wg.Go(func() { far.Serve(ctx) })
	wg.Go(func() { near.Serve(ctx) })
	req := make([]byte, 256)
	for b.Loop() {
		if _, err := near.Call(ctx, Normal, 1, req); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
}
