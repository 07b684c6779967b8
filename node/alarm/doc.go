// Package alarm carries events from meters and nodes to whoever has to act, ahead
// of everything else.
//
//	Detector (one per device) -> Merger (20/s) -> [SSN: Clusterer] -> Event.Sign, Encode
//	-> outbox -> lane 0 -> head-end Inbox (once per id, acknowledged) -> Rules.View per utility
//
// An event is at most 4 KiB whatever happened: ten thousand meters that go dark
// become one event with a bitmap of roster ordinals. The source sets the
// priority, the receiver deduplicates by id, and each utility classifies by its
// own rules.
//
// Detector, Merger, Clusterer and Rules are pure state machines over `now`; Inbox
// writes to the node's store. From a home the device and the detail are sealed
// to the head-end's day key, so a relaying SSN sees kind and priority only.
//
// Source: doc/design.md; seed use case "alarms" (OpenNode 4.4), DSMR event codes.
package alarm
