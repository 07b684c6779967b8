package store

import (
	"os"
	"syscall"
)

// syncData makes the bytes of a file durable whose size does not change; it
// spares the journal entry that the new modification time would cost.
func syncData(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }
