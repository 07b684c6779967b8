//go:build !unix

package meshbench

import "testing"

// RelayTCP needs the processor time of a process, which this system does not tell.
func RelayTCP(b *testing.B) { b.Skip("this system does not tell a process's processor time") }
