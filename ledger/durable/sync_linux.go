package durable

import (
	"os"
	"syscall"
)

// SyncData makes the bytes of a file durable whose size does not change; it
// spares the journal entry that the new modification time would cost.
func SyncData(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }
