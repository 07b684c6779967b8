package mesh_test

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
)

// TestAPullEndsAfterSoManyPages asks a member that always has one more register.
func TestAPullEndsAfterSoManyPages(t *testing.T) {
	n := meshtest.Start(t, meshtest.Options{SSNs: 1, Others: []member.Role{member.RoleUtility}, Speed: 1})
	ssn, utility := n.SSNs[0], n.Others[0]
	signer, err := utility.Key.Raw()
	if err != nil {
		t.Fatal(err)
	}
	pages, last := 0, mesh.MaxRounds
	page := func(_ context.Context, _ mesh.Member, req []byte) ([]byte, error) {
		if req[4] != 1<<gossip.KindPrice { // of a minute's round: it asks for every kind
			return []byte{0}, nil
		}
		pages++ // one call after another
		e := gossip.Envelope{Network: n.Bundle.Tag(), Kind: gossip.KindPrice, Key: gossip.ZoneKey("z1", uint32(pages)), Version: 1,
			Publisher: utility.Member.Key, CertHash: utility.Member.CertHash, Issued: n.Clock.Now(), Expires: n.Clock.Now().Add(time.Hour), Body: []byte("cheap")}
		if err := e.Sign(signer); err != nil {
			return nil, err
		}
		raw := e.Encode()
		more := byte(1)
		if pages == last {
			more = 0
		}
		return append(binary.BigEndian.AppendUint32([]byte{more}, uint32(len(raw))), raw...), nil
	}
	ssn.Host.Replace(mesh.Sync, page)
	got, err := utility.Host.Pull(t.Context(), ssn.Member.Peer, gossip.KindPrice)
	if err != nil || got != mesh.MaxRounds || pages != mesh.MaxRounds {
		t.Fatalf("of %d pages %d registers came: %v", pages, got, err)
	}
	pages, last = 1000, 1000+mesh.MaxRounds+1
	if got, err = utility.Host.Pull(t.Context(), ssn.Member.Peer, gossip.KindPrice); err != nil || got != mesh.MaxRounds || pages != 1000+mesh.MaxRounds {
		t.Errorf("of a page more: %d registers in %d pages, %v", got, pages-1000, err)
	}
}
