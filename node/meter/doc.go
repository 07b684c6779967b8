// Package meter reads meters: it defines what a source of readings is and owns
// the collector that turns a source's frames into stored, checked readings.
//
//	read -> stamp -> check -> store -> (Config.Report: pack, sign, queue)
//
// A Source pushes frames; a Reader answers on demand. Sources live in the
// packages below: p1 (DSMR telegrams over TCP or serial), replay (CSV), sim (a
// physical meter model that speaks P1 bytes). Collector is the only shell here:
// one goroutine per source, started by Serve and ended before it returns.
//
// A reading is in the node's own store before anything else learns of it, and
// the report cursor moves in the same commit as the report it leads to: after a
// crash nothing is missing and nothing is there twice.
//
// Source: doc/design.md.
package meter
