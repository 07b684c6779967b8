package packet

import (
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"
)

// Build writes a packet for route with user bytes for the last hop into p. last
// is FlagDeliver for a message and FlagDrop for cover. user must have UserSize
// bytes. The sender hands p to route[0].Node.
func Build(p *Packet, route []Hop, last Flag, user []byte, rnd io.Reader) error {
	if last != FlagDeliver && last != FlagDrop {
		return fmt.Errorf("%w: the last hop delivers or drops", ErrRoute)
	}
	if len(user) != UserSize {
		return fmt.Errorf("%w: %d, want %d", ErrUserSize, len(user), UserSize)
	}
	layers, err := buildHeader((*[prefixSize + headerSize]byte)(p[:]), route, Routing{Flag: last}, rnd)
	if err != nil {
		return err
	}
	payload := p.payload()
	clear(payload[:zeroSize])
	copy(payload[zeroSize:], user)
	for i := len(layers) - 1; i >= 0; i-- {
		layers[i].wide.encrypt(payload)
	}
	return nil
}

// payload is the part of p that the wide-block cipher covers.
func (p *Packet) payload() *[payloadSize]byte {
	return (*[payloadSize]byte)(p[prefixSize+headerSize:])
}

// buildHeader writes prefix and header for a route whose last hop gets the
// routing last, and returns the layers, first hop first.
func buildHeader(out *[prefixSize + headerSize]byte, route []Hop, last Routing, rnd io.Reader) ([]layer, error) {
	if err := checkRoute(route); err != nil {
		return nil, err
	}
	n := len(route)
	layers, cts := make([]layer, n), make([][ctSize]byte, n)
	for i := range route {
		ct, secret, err := layerKEM{}.encapsulate(&route[i].Key, rnd)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		cts[i], layers[i] = ct, newLayer(&secret, &ct, &route[i].Key, route[i].KeyID)
	}
	beta, err := lastBeta(layers, last, rnd)
	if err != nil {
		return nil, err
	}
	tag := layers[n-1].tag(prefixFor(route[n-1].KeyID), &cts[n-1], &beta)
	for i := n - 2; i >= 0; i-- {
		step := Routing{Flag: FlagRelay, Next: route[i+1].Node, Delay: route[i].Delay, keyID: route[i+1].KeyID}
		beta = wrapBeta(&layers[i], step, &cts[i+1], &tag, &beta)
		tag = layers[i].tag(prefixFor(route[i].KeyID), &cts[i], &beta)
	}
	at := copy(out[:], prefixFor(route[0].KeyID)[:])
	at += copy(out[at:], cts[0][:])
	at += copy(out[at:], tag[:])
	copy(out[at:], beta[:])
	return layers, nil
}

// prefixFor is version | suite | keyID, as the hop with that key sees it.
func prefixFor(keyID uint16) *[prefixSize]byte {
	prefix := [prefixSize]byte{version, suite}
	binary.BigEndian.PutUint16(prefix[2:], keyID)
	return &prefix
}

// lastBeta makes the innermost beta: the last routing and random bytes under the
// last stream, then the filler that the hops before will have appended.
//
//	phi_0 empty; phi_i = (phi_{i-1} | 0^88) xor last 88i bytes of stream_i
//	beta_n = ((routing | random) xor stream_n)[:304-88(n-1)] | phi_{n-1}
func lastBeta(layers []layer, last Routing, rnd io.Reader) (beta [betaSize]byte, err error) {
	n := len(layers)
	var filler []byte
	for i := range layers[:n-1] {
		filler = append(filler, make([]byte, slotSize)...)
		stream := layers[i].stream[:]
		subtle.XORBytes(filler, filler, stream[len(stream)-len(filler):])
	}
	routing := last.encode()
	copy(beta[:], routing[:])
	open := betaSize - len(filler)
	if _, err := io.ReadFull(rnd, beta[routingSize:open]); err != nil {
		return beta, fmt.Errorf("draw header padding: %w", err)
	}
	subtle.XORBytes(beta[:open], beta[:open], layers[n-1].stream[:open])
	copy(beta[open:], filler)
	return beta, nil
}

// wrapBeta puts one more layer around a header:
//
//	beta_i = (routing_i | ct_{i+1} | tag_{i+1} | beta_{i+1}[:216]) xor stream_i
func wrapBeta(l *layer, step Routing, ct *[ctSize]byte, tag *[tagSize]byte, inner *[betaSize]byte) (beta [betaSize]byte) {
	routing := step.encode()
	at := copy(beta[:], routing[:])
	at += copy(beta[at:], ct[:])
	at += copy(beta[at:], tag[:])
	copy(beta[at:], inner[:betaSize-slotSize])
	subtle.XORBytes(beta[:], beta[:], l.stream[:betaSize])
	return beta
}
