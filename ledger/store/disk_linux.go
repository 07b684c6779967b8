package store

import (
	"os"
	"syscall"
)

// dsync makes each write return only when it is on disk.
const dsync = syscall.O_DSYNC

// preallocate gives a file its disk blocks, so that appending changes no
// metadata. File systems without it get a hole instead.
func preallocate(f *os.File, size int64) error {
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, size); err == nil {
		return nil
	}
	return f.Truncate(size)
}
