package route

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/packet"
)

func TestADirectoryHoldsSoManyMembersAndNoMore(t *testing.T) {
	d := NewDirectory(epoch)
	put := func(i int) error {
		m := member.Member{Role: member.RoleSSN}
		binary.BigEndian.PutUint32(m.Key[:], uint32(i))
		return d.PutSeal(m, make([]byte, packet.SealKeySize), start.Add(time.Hour))
	}
	for i := range maxNodes {
		if err := put(i); err != nil {
			t.Fatalf("member %d: %v", i+1, err)
		}
	}
	if err := put(maxNodes); !errors.Is(err, ErrDirectoryFull) {
		t.Errorf("member %d: %v, want ErrDirectoryFull", maxNodes+1, err)
	}
	if err := put(0); err != nil {
		t.Errorf("a member that is known is refused in a full directory: %v", err)
	}
}

func TestStoredGuardsAreThreeAtMost(t *testing.T) {
	if g, err := ParseGuards(make([]byte, maxGuards*guardRecord)); err != nil || len(g.All()) != maxGuards {
		t.Errorf("%d guards: %v", maxGuards, err)
	}
	if _, err := ParseGuards(make([]byte, (maxGuards+1)*guardRecord)); !errors.Is(err, ErrGuards) {
		t.Errorf("%d guards: %v", maxGuards+1, err)
	}
}
