package meshbench

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

// LaneCall is [LaneCallBy] for one caller.
func LaneCall(b *testing.B) { LaneCallBy(b, 1) }

// LaneCallBy compares a request on a kept lane with the usual way of libp2p, a new stream per request, over the same
// kind of connection with the same 256 bytes each way, for so many callers at once (at most 4 with new streams: more
// exceed the streams that a substation grants a neighbour). The ratio is time per request on new streams / on lanes.
func LaneCallBy(b *testing.B, callers int) {
	n := meshtest.Start(b, meshtest.Options{SSNs: 2, Speed: 1})
	near, far := n.SSNs[1].Host, n.SSNs[0].Member.Peer
	req := make([]byte, 256)
	open := newStreamPerRequest(b, req)
	call := func() {
		if _, err := near.Call(context.Background(), far, mesh.Probe, req); err != nil {
			b.Error(err)
		}
	}
	var lane, stream time.Duration
	turns := 0
	for b.Loop() {
		lane += together(callers, call) / time.Duration(callers)
		stream += together(min(callers, 4), open) / time.Duration(min(callers, 4))
		turns++
	}
	per := float64(turns * rounds)
	reportAgainst(b, float64(lane)/per, float64(stream)/per, float64(stream)/float64(lane))
}

const rounds = 16 // calls per caller and measurement, so that starting goroutines does not count

// together runs f in rounds by several callers at once and gives the time of all.
func together(callers int, f func()) time.Duration {
	var wg sync.WaitGroup
	began := time.Now()
	for range callers {
		wg.Go(func() {
			for range rounds {
				f()
			}
		})
	}
	wg.Wait()
	return time.Since(began)
}

// newStreamPerRequest gives a function that opens a stream, negotiates, sends req and reads it back.
func newStreamPerRequest(b *testing.B, req []byte) func() {
	b.Helper()
	const echo = "/echo/1"
	n := meshtest.Start(b, meshtest.Options{SSNs: 1, Speed: 1})
	ssn := n.SSNs[0].Host
	ssn.Streams(echo, func(_ mesh.Member, s network.Stream) {
		_, _ = io.Copy(s, s) // the caller notices what does not come back
		_ = s.Close()
	})
	home := n.Add(member.RoleAggregator, "").Host
	meshtest.Eventually(b, "connected", func() bool { _, up := home.Connected(ssn.ID()); return up })
	return func() {
		back := make([]byte, len(req))
		s, err := home.Stream(context.Background(), ssn.ID(), echo)
		if err != nil {
			b.Error(err)
			return
		}
		defer s.Close()
		if _, err := s.Write(req); err != nil {
			b.Error(err)
		}
		if err := s.CloseWrite(); err != nil {
			b.Error(err)
		}
		if _, err := io.ReadFull(s, back); err != nil {
			b.Error(err)
		}
	}
}
