//go:build !linux

package store

import (
	"math"
	"os"
)

// dsync is not portable: the head file is synced after each write anyway.
const dsync = 0

func dataSync(f *os.File) error { return f.Sync() }

func preallocate(f *os.File, size int64) error { return f.Truncate(size) }

// freeBytes is unknown here; a full disk is then an ordinary write error.
func freeBytes(string) (int64, error) { return math.MaxInt64, nil }
