package report

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"flag"
	"slices"
	"sync"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/node/store"
)

var long = flag.Bool("long", false, "fill the backlog with 10,000 reports and measure alarms on a line of 1 Mbit/s: two minutes")

// backlog is a home with a queue of reports in its store, and a substation at the other end of a line that answers each
// with the head-end's final acknowledgement.
type backlog struct {
	t    *testing.T
	home *mesh.Host
	ssn  *meshtest.Node
	q    *Queue
	r    *receiver

	mu    sync.Mutex
	count map[mesh.Service]int // handled by the substation
	bytes map[mesh.Service]int
}

func newBacklog(t *testing.T, reports, bps int) *backlog {
	t.Helper()
	pub, key := testKeys(1)
	st := openStore(t)
	b := &backlog{t: t, q: OpenQueue(st, ClassEnergy, key), r: newReceiver(t, pub), count: map[mesh.Service]int{}, bytes: map[mesh.Service]int{}}
	for made := 0; made < reports; {
		err := st.Update(func(tx *store.Tx) error {
			for n := 0; n < 400 && made < reports; n++ {
				if _, err := b.q.Append(tx, draftAt(t, made)); err != nil {
					return err
				}
				made++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var proxy *meshtest.Proxy
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Speed: 1, Ready: b.serve, Config: func(d *meshtest.Node, c *mesh.Config) {
		if d.Member.Role.Leaf() {
			c.Parents[0].Addrs, c.DailyMB = []ma.Multiaddr{proxy.Addr}, 1000
		}
	}})
	b.ssn = n.SSNs[0]
	proxy = meshtest.NewProxy(t, b.ssn.Addrs[0], bps)
	b.home = n.Add(member.RoleGateway, "z1").Host
	meshtest.Eventually(t, "the home is connected", func() bool { _, up := b.home.Connected(b.ssn.Member.Peer); return up })
	return b
}

func (b *backlog) serve(d *meshtest.Node) error {
	if d.Member.Role != member.RoleSSN {
		return nil
	}
	for _, service := range []mesh.Service{mesh.Report, mesh.Backfill, mesh.Alarm} {
		d.Host.Handle(service, func(_ context.Context, _ mesh.Member, req []byte) ([]byte, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.count[service]++
			b.bytes[service] += len(req)
			if service == mesh.Report {
				return b.r.take(b.t, req, 0).Encode(), nil
			}
			return []byte("ack"), nil
		})
	}
	return nil
}

// drain sends what the queue says, as a gateway does, until ctx ends or nothing waits. Its clock begins at from.
func (b *backlog) drain(ctx context.Context, from time.Duration) {
	pub, began := b.r.key.Public().(ed25519.PublicKey), time.Now()
	now := func() time.Time { return time.UnixMilli(0).Add(from + time.Since(began)) } // the head-end has the keys of day 0
	for ctx.Err() == nil {
		due, err := b.q.Due(now(), rand.Reader, oneKey{b.r.day})
		if err != nil {
			b.t.Error(err)
			return
		}
		if len(due) == 0 {
			return
		}
		for _, m := range due {
			answer, err := b.home.Call(ctx, b.ssn.Member.Peer, mesh.Report, m.Encode())
			if err != nil {
				if ctx.Err() == nil {
					b.t.Errorf("report: %v", err)
				}
				return
			}
			reply, err := DecodeReply(answer)
			if err != nil {
				b.t.Error(err)
				return
			}
			if err := apply(b.t, b.q, reply, pub, now()); err != nil {
				b.t.Error(err)
			}
		}
	}
}

// backfill keeps eight older pieces of 64 KiB on the line until ctx ends.
func (b *backlog) backfill(ctx context.Context, wg *sync.WaitGroup) {
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := b.home.Call(ctx, b.ssn.Member.Peer, mesh.Backfill, make([]byte, 64<<10)); err != nil && ctx.Err() == nil {
					b.t.Errorf("backfill: %v", err)
					return
				}
			}
		})
	}
}

func (b *backlog) alarm(ctx context.Context, size int) (reportsMeanwhile int, err error) {
	before := b.handled(mesh.Report)
	_, err = b.home.Call(ctx, b.ssn.Member.Peer, mesh.Alarm, make([]byte, size))
	return b.handled(mesh.Report) - before, err
}

func (b *backlog) handled(s mesh.Service) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count[s]
}

// TestAlarmsPassABacklogInTheStore fills a real store with reports and drains it over a line. By default it wants alarms
// to wait for none of the backlog but what is under way; with -long it measures them on a line of 1 Mbit/s, at 10^4
// reports and with older pieces on the same lane, and then looks at what endless alarms leave for bulk.
func TestAlarmsPassABacklogInTheStore(t *testing.T) {
	reports, bps, alarms := 200, 0, 10
	if *long {
		reports, bps, alarms = 10_000, 1_000_000, 200
	}
	b := newBacklog(t, reports, bps)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { b.drain(ctx, 0) })
	if *long {
		b.backfill(ctx, &wg)
	}
	meshtest.Eventually(t, "reports flow", func() bool { return b.handled(mesh.Report) > 0 })
	var took []time.Duration
	for range alarms {
		began := time.Now()
		passed, err := b.alarm(t.Context(), 300)
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
		if left, err := b.q.Pending(); err != nil || passed > reports/2 {
			t.Fatalf("an alarm waited for %d of %d reports (%d left, %v)", passed, reports, left, err)
		}
		if *long {
			time.Sleep(50 * time.Millisecond)
		}
	}
	left, err := b.q.Pending()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(took)
	t.Logf("alarms: median %v, P99 %v, slowest %v of %d; %d of %d reports still wait", took[len(took)/2], took[len(took)*99/100], took[len(took)-1],
		len(took), left, reports)
	if !*long {
		cancel()
		wg.Wait()
		b.drain(t.Context(), time.Hour) // what was cut off under way goes again
		if left, err := b.q.Pending(); err != nil || left != 0 || len(b.r.took) != reports || b.r.gaps != 0 {
			t.Errorf("%d reports wait, the head-end has %d of %d and %d gaps, %v", left, len(b.r.took), reports, b.r.gaps, err)
		}
		return
	}
	if left == 0 {
		t.Error("the backlog was gone before the last alarm")
	}
	if p99 := took[len(took)*99/100]; p99 > time.Second {
		t.Errorf("P99 of an alarm is %v, want at most 1s", p99)
	}
	b.endless(ctx, &wg)
}

// endless sends alarms without end and wants bulk to keep a tenth of the line.
func (b *backlog) endless(ctx context.Context, wg *sync.WaitGroup) {
	for range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := b.alarm(ctx, 4<<10); err != nil && ctx.Err() == nil {
					b.t.Errorf("alarm: %v", err)
					return
				}
			}
		})
	}
	time.Sleep(2 * time.Second) // both flow
	b.mu.Lock()
	clear(b.bytes)
	b.mu.Unlock()
	time.Sleep(20 * time.Second)
	b.mu.Lock()
	bulk, alarms := b.bytes[mesh.Report]+b.bytes[mesh.Backfill], b.bytes[mesh.Alarm]
	b.mu.Unlock()
	share := float64(bulk) / float64(bulk+alarms)
	b.t.Logf("with endless alarms bulk gets %.1f %% of %.0f kbit/s", 100*share, float64(bulk+alarms)*8/20/1000)
	if share < 0.09 { // a tenth, less the piece that has not wholly arrived
		b.t.Errorf("bulk gets %.1f %% of the line, want 10 %%", 100*share)
	}
}
