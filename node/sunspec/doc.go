// Package sunspec drives home batteries that speak SunSpec over Modbus TCP:
// model 1 says what the device is, 124 is its storage control, and 802 or 713
// say what the battery holds. Where 124 is missing, 704 sets the active power of an
// inverter that carries the battery alone, with 702 for its ratings, 714 for what
// flows and 715 for who controls it.
//
// [Dial] makes the one connection to a host; everything that goes to it waits in
// line there, because many inverters take a single client. A [Battery] on that
// line finds its models by itself, reads them and sets the battery's power.
//
// What comes over the line is foreign: a decoder gives a value or an error,
// never a guess. A point that the device does not implement is absent, a scale
// factor outside -10..10 makes the points that use it absent, and values that no
// home battery has are [ErrAbsurd]. Whoever drives the battery then lets it rest.
//
// Every command carries how long it holds. When the next does not come in time
// the inverter itself gives it up, where it has that timer (InOutWRte_RvrtTms,
// WSetRvrtTms) and the timer runs.
//
// Signs: discharge is positive, as everywhere in gridveil.
package sunspec
