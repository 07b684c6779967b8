// Package storetest opens stores for tests. It is imported by tests only.
package storetest

import (
	"crypto/rand"
	"testing"

	"gridveil/node/store"
)

// Open opens an empty store that is closed and removed when the test ends.
func Open(tb testing.TB) *store.Store {
	tb.Helper()
	key, err := store.NewKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	st, err := store.Open(tb.TempDir(), key, store.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { st.Close() })
	return st
}
