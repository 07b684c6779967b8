package ocpp_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"gridveil/ev"
	"gridveil/ev/ocpp"
	"gridveil/ev/ocpp/v16"
	"gridveil/ev/ocpp/v201"
)

func Example() {
	srv, err := ocpp.NewServer(ocpp.Config{
		Dialects: []ocpp.Dialect{v201.Dialect{}, v16.Dialect{}},
		Ingest:   func(context.Context, string, ev.Event) error { return nil }, // a gateway stores the event durably here
		Stations: nowhere{},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	password, err := srv.Provision("garage") // typed into the wallbox with ws://<gateway>:8887/ocpp/garage
	fmt.Println(len(password), err)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // a gateway runs until it is stopped
	fmt.Println(srv.Serve(ctx, ln))

	wallbox, _ := srv.Station("garage")
	fmt.Println(wallbox.Limit(ctx, 1, 3000, time.Time{}))
	// Output:
	// 40 <nil>
	// <nil>
	// station is not connected
}
