// Package durable is what every store of gridveil stands on: files that a crash
// leaves old or new, and Badger databases whose damage is an error.
//
// Badger trusts its own files: over a damaged table it panics in a goroutine of
// its own, ends the process or goes on without the table; without its manifest
// it deletes every table; without its key registry it makes a new one. Open
// reads manifest, key registry and every table first, so that damage is an error
// that can be told and mended, and nothing is deleted.
//
// It does not notice that the newest writes are missing: Badger cuts its log at
// the first bad checksum without an error. The stores keep head slots beside
// their database for that.
package durable
