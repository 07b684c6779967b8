// Package battery drives a home battery, and the slack of a plugged-in car, so
// that the metered load says as little as possible about the true load.
//
// It is arithmetic only: no goroutine, clock, disk, socket or log. Time and
// randomness are arguments, and a caller decides what to persist. The masked
// load is physical: what the meter measures is what the utility bills.
//
// Signs: grid import, house load, charging of a car and *discharge* of the
// battery are positive, so that meter = load + car - battery. Kalogridis et al.
// print the loss with the opposite sign; here Loss is what the battery ate and
// is never negative.
//
// What a given battery cannot hide is said in doc/threats.md: energy over days,
// peaks above its power, one car's charge larger than its capacity.
package battery
