//go:build !linux

package store

import "os"

// dsync is not portable: the head file is synced after each write anyway.
const dsync = 0

func preallocate(f *os.File, size int64) error { return f.Truncate(size) }
