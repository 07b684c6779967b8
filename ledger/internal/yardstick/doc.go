// Package yardstick holds tests in which programs of others judge the ledger, and
// benchmarks beside immudb, Badger, Pebble and tessera. It is a module of its
// own, so that the product does not depend on them.
package yardstick
