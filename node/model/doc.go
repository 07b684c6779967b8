// Package model holds the words that meters, substations, head-ends and utility
// systems share: usage points, channels with their OBIS codes, readings, slots,
// data profiles, orders and rosters, and the one table that decides who may
// read or write which object.
//
// Everything here is a value or a pure function. Energy is int64 mWh, power
// mW, voltage mV, current mA, time UTC milliseconds. Import is positive; export
// has registers of its own. A missing reading is absent, never zero.
//
// Start with Channel for what is measured, Reading for one value of one slot,
// Order for what a head-end asks of a source, and May for the access matrix.
//
// Source: doc/design.md; IEC 62056 (OBIS), CIM IEC 61968-9, BSI TR-03109-1 (TAF).
package model
