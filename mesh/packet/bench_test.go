package packet_test

import (
	"testing"

	"github.com/cloudflare/circl/dh/x25519"

	"gridveil/mesh/meshbench"
)

// BenchmarkX25519Shared is the yardstick of the others, alone.
func BenchmarkX25519Shared(b *testing.B) {
	var private, public, secret x25519.Key
	private[0] = 8
	x25519.KeyGen(&public, &private)
	for b.Loop() {
		x25519.Shared(&secret, &private, &public)
	}
}

func BenchmarkUnwrap(b *testing.B) { meshbench.Unwrap(b) }

func BenchmarkReject(b *testing.B) {
	b.Run("bad tag", meshbench.RejectTampered)
	b.Run("replay", meshbench.RejectReplay)
}

func BenchmarkBuild4(b *testing.B) { meshbench.Build4(b) }

func BenchmarkReplyUse(b *testing.B) { meshbench.ReplyUse(b) }
