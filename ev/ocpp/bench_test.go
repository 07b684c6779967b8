package ocpp_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/coder/websocket"

	"gridveil/ev"
	"gridveil/ev/ocpp"
	"gridveil/ev/ocpp/v16"
	"gridveil/ev/ocpp/v201"
)

const sampleFrame = `[2,"1","MeterValues",{"connectorId":1,"transactionId":7,"meterValue":[{"timestamp":"2026-03-01T10:00:00Z","sampledValue":[` +
	`{"value":"1500","measurand":"Energy.Active.Import.Register","unit":"Wh"},{"value":"3000","measurand":"Power.Active.Import","unit":"W"}]}]}]`

// nowhere is the store of a benchmark.
type nowhere struct{}

func (nowhere) LoadStations() ([]ocpp.Record, error) { return nil, nil }
func (nowhere) SaveStation(ocpp.Record) error        { return nil }

// yard is a server for benchmarks and a raw echo beside it.
type yard struct {
	b    *testing.B
	srv  *ocpp.Server
	addr string
	echo string
}

func newYard(b *testing.B) *yard {
	b.Helper()
	srv, err := ocpp.NewServer(ocpp.Config{Dialects: []ocpp.Dialect{v201.Dialect{}, v16.Dialect{}}, Stations: nowhere{},
		Ingest: func(context.Context, string, ev.Event) error { return nil }})
	if err != nil {
		b.Fatal(err)
	}
	srv.Unpaced()
	y := &yard{b: b, srv: srv}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		return ln
	}
	ln, raw := listen(), listen()
	y.addr, y.echo = ln.Addr().String(), raw.Addr().String()
	hs := &http.Server{Handler: http.HandlerFunc(echo)}
	go func() { done <- srv.Serve(ctx, ln) }()
	go func() { done <- hs.Serve(raw) }()
	b.Cleanup(func() {
		cancel()
		hs.Close()
		<-done
		<-done
	})
	return y
}

func echo(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	for {
		kind, b, err := ws.Read(r.Context())
		if err != nil || ws.Write(r.Context(), kind, b) != nil {
			return
		}
	}
}

func (y *yard) station(id string) *websocket.Conn {
	y.b.Helper()
	password, err := y.srv.Provision(id)
	if err != nil {
		y.b.Fatal(err)
	}
	header := http.Header{}
	r := http.Request{Header: header}
	r.SetBasicAuth(id, password)
	return y.dial("ws://"+y.addr+"/ocpp/"+id, header)
}

func (y *yard) dial(url string, header http.Header) *websocket.Conn {
	y.b.Helper()
	ws, _, err := websocket.Dial(context.Background(), url, &websocket.DialOptions{Subprotocols: []string{"ocpp1.6"}, HTTPHeader: header})
	if err != nil {
		y.b.Fatal(err)
	}
	y.b.Cleanup(func() { ws.CloseNow() })
	return ws
}

func exchange(b *testing.B, ws *websocket.Conn) {
	if err := ws.Write(context.Background(), websocket.MessageText, []byte(sampleFrame)); err != nil {
		b.Fatal(err)
	}
	if _, _, err := ws.Read(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// rate measures exchanges per second over n of them.
func rate(b *testing.B, ws *websocket.Conn, n int) float64 {
	began := time.Now()
	for range n {
		exchange(b, ws)
	}
	return float64(n) / time.Since(began).Seconds()
}

// BenchmarkRPC is a message in, handed to a store, answered. The yardstick is
// a raw websocket that echoes the same bytes, measured in turns.
func BenchmarkRPC(b *testing.B) {
	y := newYard(b)
	ours, raw := y.station("WB"), y.dial("ws://"+y.echo, nil)
	const turn = 500
	rate(b, ours, turn)
	rate(b, raw, turn)
	var oursRates, rawRates []float64
	for b.Loop() {
		rawRates = append(rawRates, rate(b, raw, turn))
		oursRates = append(oursRates, rate(b, ours, turn))
	}
	slices.Sort(oursRates)
	slices.Sort(rawRates)
	own, bare := oursRates[len(oursRates)/2], rawRates[len(rawRates)/2]
	b.ReportMetric(own, "msgs/s")
	b.ReportMetric(own/bare, "ratio")
}

// p99 is the slowest of 100 exchanges but one.
func p99(b *testing.B, ws *websocket.Conn) time.Duration {
	var all []time.Duration
	for range 300 {
		began := time.Now()
		exchange(b, ws)
		all = append(all, time.Since(began))
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}

// BenchmarkSilent is the p99 answer time of one active station beside stations
// that never answer a call of ours. The yardstick is the same with none. (The
// server admits 512 sockets, so there are 400 and not the 10 000 of the goal.)
func BenchmarkSilent(b *testing.B) {
	y := newYard(b)
	alone := newYard(b)
	active, lone := y.station("ACTIVE"), alone.station("ACTIVE")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i := range 400 {
		id := fmt.Sprint("MUTE", i)
		y.station(id)
		st, _ := y.srv.Station(id)
		go st.Stop(ctx, "5") // ends with cancel
	}
	p99(b, lone)
	p99(b, active)
	var with, without []time.Duration
	for b.Loop() {
		without = append(without, p99(b, lone))
		with = append(with, p99(b, active)) // in turns, so that other work on the machine hits both
	}
	slices.Sort(with)
	slices.Sort(without)
	b.ReportMetric(float64(with[len(with)/2].Microseconds()), "us_p99")
	b.ReportMetric(float64(with[len(with)/2])/float64(without[len(without)/2]), "ratio")
}

// BenchmarkIdle is the memory of one connected station that says nothing,
// server side and client side together. The yardstick is a bare websocket.
func BenchmarkIdle(b *testing.B) {
	const n = 200
	used := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // the first only queues finalizers of closed sockets
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	y := newYard(b)
	// cost opens n sockets and returns what they take; they stay open, so that
	// nothing is measured against memory that others left behind.
	cost := func(open func(i int)) float64 {
		before := used()
		for i := range n {
			open(i)
		}
		return float64(used()-before) / n
	}
	var own, bare []float64
	for b.Loop() {
		if round := len(own); round < 2 { // 512 sockets are the server's limit
			bare = append(bare, cost(func(int) { y.dial("ws://"+y.echo, nil) }))
			own = append(own, cost(func(i int) { y.station(fmt.Sprintf("IDLE-%d-%d", round, i)) }))
		}
	}
	b.ReportMetric(own[len(own)-1]/1024, "KiB/station")
	b.ReportMetric(own[len(own)-1]/bare[len(bare)-1], "ratio")
}
