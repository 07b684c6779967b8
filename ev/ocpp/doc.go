// Package ocpp is the central system of a home: the websocket server that
// wallboxes (OCPP 1.6J and 2.0.1) connect to.
//
// It turns what stations say into ev.Event values and hands each one to
// Config.Ingest; the station is answered only after Ingest returned, that is,
// after the event is durable. If Ingest fails the station is not answered and
// the event is offered again, so nothing is lost while a store is full. In the
// other direction it offers one set of orders for both versions: Station.Start,
// Stop, Limit, DefaultLimit and Setpoint.
//
// The RPC layer is our own. Each station has its own reader, worker and queue;
// a station that never answers, or never reads, costs nobody else any time.
// Malformed frames are answered as OCPP asks, counted, and end the connection
// when there are more than 20 in a minute; they are never guessed at. What
// stations send is read permissively (extra fields, numbers as text, missing
// optional parts); what we send follows the OCA schemas.
//
// Not guaranteed: OCPP profile 2 and 3 (TLS) need a listener from the caller;
// firmware, reservation, local lists and diagnostics are not spoken.
//
// Start with NewServer and Serve. Known stations come from Config.Stations;
// an unknown one is listed as Pending by Server.List until the owner decides
// with Accept or Refuse. The dialects are packages v16 and v201:
//
//	srv, err := ocpp.NewServer(ocpp.Config{
//		Dialects: []ocpp.Dialect{v201.Dialect{}, v16.Dialect{}},
//		Ingest:   store.Append, Stations: store, HouseLimitW: 11_000,
//	})
//	err = srv.Serve(ctx, listener)
//
// Signs: watts given to Limit are what the car may draw, 0 or more; watts given
// to Setpoint are positive for charging, negative for discharging.
// Source: OCPP-J 1.6, OCPP 2.0.1 part 4, doc/design.md, ev design 4.1.
package ocpp
