// Package store is the durable memory of every gridveil node: one sealed
// Badger directory per node, in which an acknowledged write is either still
// there after a crash or its loss is noticed at the next start.
//
// # What it guarantees
//
//   - Update returns nil only after the write is on disk (group commit: callers
//     that arrive together share one synchronisation).
//   - Every value is AES-256-GCM sealed with key || stamp (generation of the data
//     key, commit number) as associated data, so a value cannot be moved to another
//     key, and Badger encrypts keys and files below that. A disk image shows
//     neither keys nor values.
//   - What was deleted is unreadable after two months at most, for whoever has the
//     master key too, in every old table, log and copy: values are sealed with data
//     keys of a month each, which Maintain erases after it has sealed anew what
//     still lives. The names of records (keys) are below the master key alone.
//   - Every commit writes a chain record of its keys and value hashes and, before
//     it is acknowledged, a checksummed head slot outside Badger. Badger alone
//     cuts its log at the first bad checksum without an error; here that cut is
//     seen, because the head slot is ahead of the chain.
//
// # What it does not
//
// It does not bring lost records back: Open then returns a *DamageError that
// names the lost commits together with a readable store in DEGRADED state. The
// owner restores a backup, or calls AcceptDamage, which starts a new chain that
// names the gap. Nor does it hold against someone who replaces
// the whole directory by an older copy of itself: with its key files that is the
// store of its time, which is what makes it a backup. Whoever kept the key files of
// an old time can open values of that time.
//
// # Use
//
//	key, err := store.LoadOrCreateKey(filepath.Join(dir, "master.key"))
//	st, err := store.Open(filepath.Join(dir, "db"), key, store.Options{})
//	defer st.Close()
//	err = st.Update(func(tx *store.Tx) error {
//		return tx.Set(store.SpaceCursor.Key([]byte("billing")), store.U64(42))
//	})
//
// A node calls Maintain once an hour.
//
// A Store is safe for concurrent use. Three locks exist: turning lets one
// maintenance work at a time and is taken first; mu orders the staging of updates,
// headMu commits and the head file; mu is never taken while headMu is held.
//
// Source: doc/design.md; Badger issue 1049 (log truncation).
package store
