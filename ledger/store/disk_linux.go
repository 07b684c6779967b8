package store

import (
	"os"
	"syscall"
)

// dsync makes each write return only when it is on disk.
const dsync = syscall.O_DSYNC

// dataSync makes the data of a preallocated file durable, not its times.
func dataSync(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }

// preallocate gives a file its disk blocks, so that appending changes no
// metadata. File systems without it get a hole instead.
func preallocate(f *os.File, size int64) error {
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, size); err == nil {
		return nil
	}
	return f.Truncate(size)
}

func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
