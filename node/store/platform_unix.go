//go:build linux || darwin

package store

import (
	"os"
	"syscall"
)

// lock keeps a second opener away until f is closed or the process ends.
func lock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
