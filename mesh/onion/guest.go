package onion

import (
	"fmt"
	"io"

	"gridveil/mesh"
	"gridveil/mesh/packet"
)

// GuestKey opens the answer to one request that a guest sealed.
type GuestKey struct {
	id  [16]byte
	key packet.AnswerKey
}

// SealGuest seals a request for a recipient's sealing key, to be carried by a stranger's gateway (Onion.Carry). A guest
// needs no mesh for it. The same record is sealed anew for every try, with its record id inside body.
func SealGuest(sealKey []byte, s mesh.Service, body []byte, rnd io.Reader) (sealed []byte, key GuestKey, err error) {
	if !s.Onion() {
		return nil, key, fmt.Errorf("seal %v: %w", s, mesh.ErrNotAllowed)
	}
	q := packet.Request{Service: uint16(s), Body: body}
	if _, err := io.ReadFull(rnd, q.ID[:]); err != nil {
		return nil, key, fmt.Errorf("draw request id: %w", err)
	}
	sealed, answer, err := packet.SealRequest(sealKey, &q, rnd)
	if err != nil {
		return nil, key, fmt.Errorf("seal %v: %w", s, err)
	}
	return sealed, GuestKey{q.ID, answer}, nil
}

// Open gives the service's answer, or its error as Onion.Call would.
func (k GuestKey) Open(answer []byte) ([]byte, error) {
	plain, err := k.key.OpenAnswer(k.id, answer)
	if err != nil {
		return nil, err
	}
	return plainAnswer(plain)
}
