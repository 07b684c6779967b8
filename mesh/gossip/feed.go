package gossip

import (
	"encoding/binary"
	"fmt"
	"slices"

	"gridveil/mesh/member"
)

// Sync is the sure path beside gossip: who asks sends a digest of what it holds, who answers sends what is newer.
const (
	// MaxSync is the longest request or answer in bytes: one message of a request lane.
	MaxSync = 256 << 10
	// MaxCertAsk is how many certificates one request may name.
	MaxCertAsk = 64

	syncMagic   = "GVY1"
	syncFixed   = 5 // magic, kinds
	answerFixed = 1 // more
	maxHave     = (MaxSync - syncFixed) / DigestSize
)

// PublicMark begins the body of an alarm that homes may see too. Evidence of equivocation is always public.
const PublicMark = "GVP1"

// Public reports whether an alarm may be fed to homes.
func (e *Envelope) Public() bool {
	if len(e.Body) < len(PublicMark) {
		return false
	}
	head := string(e.Body[:len(PublicMark)])
	return head == PublicMark || head == evidenceMagic
}

// ForLeaf reports whether a leaf in zone follows this register at all.
func (e *Envelope) ForLeaf(zone string) bool {
	switch rules[e.Kind].Feed {
	case FeedZone:
		return e.InZone(zone)
	case FeedPublic:
		return e.Public()
	}
	return true
}

// AskSync gives the request that pulls registers of the given kinds:
//
//	"GVY1" | kinds u8 (bit per kind) | (kind 1 | id 8 | version 8)*
//
// A digest above the request's limit is cut: the answer then repeats some registers.
func (b *Book) AskSync(kinds ...Kind) []byte { return b.AskSyncFor(nil, kinds...) }

// AskSyncFor is AskSync that leaves some registers out of the digest: the answer shows them if its sender has them.
func (b *Book) AskSyncFor(show map[ID]uint64, kinds ...Kind) []byte {
	b.c.Lock.Lock()
	defer b.c.Lock.Unlock()
	var mask byte
	for _, k := range kinds {
		mask |= 1 << k
	}
	digest := slices.DeleteFunc(b.c.Registers.Digest(b.c.Now(), kinds...), func(h Have) bool { _, shown := show[h.ID]; return shown })
	return append(append([]byte(syncMagic), mask), EncodeDigest(digest[:min(len(digest), maxHave)])...)
}

// Held lists the registers of the given kinds that are held and not expired.
func (b *Book) Held(kinds ...Kind) []Have {
	b.c.Lock.Lock()
	defer b.c.Lock.Unlock()
	return b.c.Registers.Digest(b.c.Now(), kinds...)
}

// AnswerSync answers a sync request for the registers that want lets through:
//
//	more u8 | (len u32 | envelope)*
//
// more is 1 when the answer is cut; the asker takes what it got and asks again.
func (b *Book) AnswerSync(req []byte, want func(*Envelope) bool) ([]byte, error) {
	if len(req) < syncFixed || string(req[:4]) != syncMagic || req[4]&1 != 0 {
		return nil, fmt.Errorf("%w: sync request", ErrEnvelope)
	}
	var kinds []Kind
	for _, k := range Kinds() {
		if req[4]&(1<<k) != 0 {
			kinds = append(kinds, k)
		}
	}
	digest, err := ParseDigest(req[syncFixed:])
	if err != nil {
		return nil, err
	}
	b.c.Lock.Lock()
	newer := b.c.Registers.Newer(digest, b.c.Now(), kinds...)
	b.c.Lock.Unlock()
	out := []byte{0}
	for _, e := range newer {
		if !want(&e) {
			continue
		}
		raw := e.Encode()
		if len(out)+4+len(raw) > MaxSync {
			out[0] = 1
			break
		}
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(raw))), raw...)
	}
	return out, nil
}

// ParseSync splits a sync answer into envelopes as they came; each still has to be offered.
func ParseSync(raw []byte) (envelopes [][]byte, more bool, err error) {
	if len(raw) < answerFixed || len(raw) > MaxSync || raw[0] > 1 {
		return nil, false, fmt.Errorf("%w: sync answer of %d bytes", ErrEnvelope, len(raw))
	}
	more, raw = raw[0] == 1, raw[answerFixed:]
	for len(raw) > 0 {
		if len(raw) < 4 {
			return nil, false, fmt.Errorf("%w: sync answer is cut", ErrEnvelope)
		}
		size := binary.BigEndian.Uint32(raw)
		if size > MaxEnvelope || uint64(size) > uint64(len(raw)-4) {
			return nil, false, fmt.Errorf("%w: envelope of %d bytes in a sync answer", ErrEnvelope, size)
		}
		envelopes = append(envelopes, raw[4:4+size])
		raw = raw[4+size:]
	}
	return envelopes, more, nil
}

// AskCerts gives the request for certificates by hash: 32 bytes each, at most MaxCertAsk.
func AskCerts(hashes [][32]byte) []byte {
	var b []byte
	for _, h := range hashes[:min(len(hashes), MaxCertAsk)] {
		b = append(b, h[:]...)
	}
	return b
}

// AnswerCerts answers with the chains that are known, in the order asked: n u8 {len u16, DER}* each, n = 0 if unknown.
func AnswerCerts(req []byte, chain func(hash [32]byte) ([][]byte, bool)) ([]byte, error) {
	if len(req)%32 != 0 || len(req) > 32*MaxCertAsk {
		return nil, fmt.Errorf("%w: certificate request of %d bytes", ErrEnvelope, len(req))
	}
	var out []byte
	for ; len(req) > 0; req = req[32:] {
		ders, _ := chain([32]byte(req))
		out = append(out, byte(len(ders)))
		for _, der := range ders {
			out = append(binary.BigEndian.AppendUint16(out, uint16(len(der))), der...)
		}
	}
	return out, nil
}

// ParseCerts splits the answer into chains; an unknown one is empty. Nothing in them is trusted yet.
func ParseCerts(raw []byte) ([][][]byte, error) {
	var out [][][]byte
	for len(raw) > 0 {
		n := int(raw[0])
		if n > member.MaxChain || len(out) >= MaxCertAsk {
			return nil, fmt.Errorf("%w: certificate answer", ErrEnvelope)
		}
		raw = raw[1:]
		var chain [][]byte
		for range n {
			if len(raw) < 2 {
				return nil, fmt.Errorf("%w: certificate answer is cut", ErrEnvelope)
			}
			size := int(binary.BigEndian.Uint16(raw))
			if size > member.MaxCertificate || size > len(raw)-2 {
				return nil, fmt.Errorf("%w: certificate of %d bytes", ErrEnvelope, size)
			}
			chain = append(chain, raw[2:2+size])
			raw = raw[2+size:]
		}
		out = append(out, chain)
	}
	return out, nil
}
