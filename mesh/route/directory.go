// Package route knows the relays of a network and chooses ways through them.
//
// Directory collects the `keys` and `seal` registers of members and gives
// immutable Snapshots. A sender keeps two Guards, asks Floor whether the crowd
// is large enough to hide in, and gets a fresh Route per packet from Chooser.
//
// What it guarantees: three distinct relays, operators mixed as far as there
// are several, no sending below a stated floor, uniform choice so that nobody
// can steer it. What it does not: protect when all three relays collude, or
// when all belong to one operator (Route.SingleOperator says so).
//
// All types are plain state with now and rnd as arguments and are not safe for
// concurrent use, except Snapshot, which is read-only. Source: doc/design.md.
package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/mesh/member"
	"gridveil/mesh/mix"
	"gridveil/mesh/packet"
)

// Limits of the `keys` register.
const (
	MaxKeys      = 1 + mix.KeysAhead
	MaxAddresses = 6
	keysFixed    = 24
	keySize      = 2 + 32
	leavesStep   = 5 // published leaf numbers are floored to this, so that one home's coming does not show

	// maxNodes bounds the directory, as the dir registers are bounded (two per member).
	maxNodes = 2048
)

// ErrKeys is a `keys` register that does not have its layout.
var ErrKeys = errors.New("keys register is malformed")

// Flags of a `keys` register.
const (
	FlagRelay     = 1 // forwards onion packets
	FlagRecipient = 2 // takes requests
	FlagMailbox   = 4 // keeps mail for others
	allFlags      = FlagRelay | FlagRecipient | FlagMailbox
)

// Keys is the body of a `keys` register, what a member says about itself:
//
//	ver 1 | flags 1 | region u16 | epoch u32 | n 1 | naddr 1 | leaves u16 | leaf frames per 1000 s u32 | 0 8 | (keyID 2, key 32)* | (len 1, multiaddr)*
type Keys struct {
	Flags      uint8
	Region     uint16
	Epoch      uint32 // of Keys[0]; the others follow without gap
	Keys       []mix.PublicKey
	Leaves     uint16 // attached leaves, a multiple of 5
	LeafFrames uint32 // frames taken from leaves per 1000 s
	Addresses  []string
}

// FloorLeaves gives the number of attached leaves as it may be published.
func FloorLeaves(n int) uint16 { return uint16(min(n, 65535) / leavesStep * leavesStep) }

// Encode gives the register's body.
func (k *Keys) Encode() ([]byte, error) {
	if err := k.check(); err != nil {
		return nil, err
	}
	b := []byte{1, k.Flags}
	b = binary.BigEndian.AppendUint16(b, k.Region)
	b = binary.BigEndian.AppendUint32(b, k.Epoch)
	b = append(b, byte(len(k.Keys)), byte(len(k.Addresses)))
	b = binary.BigEndian.AppendUint16(b, k.Leaves)
	b = binary.BigEndian.AppendUint32(b, k.LeafFrames)
	b = append(b, make([]byte, 8)...)
	for _, key := range k.Keys {
		b = append(binary.BigEndian.AppendUint16(b, key.ID), key.Key[:]...)
	}
	for _, a := range k.Addresses {
		b = append(append(b, byte(len(a))), a...)
	}
	return b, nil
}

func (k *Keys) check() error {
	switch {
	case k.Flags&^allFlags != 0:
		return fmt.Errorf("%w: flags %#x", ErrKeys, k.Flags)
	case len(k.Keys) == 0 || len(k.Keys) > MaxKeys:
		return fmt.Errorf("%w: %d keys, want 1 to %d", ErrKeys, len(k.Keys), MaxKeys)
	case len(k.Addresses) > MaxAddresses:
		return fmt.Errorf("%w: %d addresses, at most %d", ErrKeys, len(k.Addresses), MaxAddresses)
	case k.Leaves%leavesStep != 0:
		return fmt.Errorf("%w: %d leaves, want a multiple of %d", ErrKeys, k.Leaves, leavesStep)
	case k.Epoch > 1<<31:
		return fmt.Errorf("%w: epoch %d", ErrKeys, k.Epoch)
	}
	for i, a := range k.Addresses {
		if a == "" || len(a) > 255 || a[0] != '/' {
			return fmt.Errorf("%w: address %d is no multiaddr", ErrKeys, i)
		}
	}
	ids := map[uint16]bool{}
	for _, key := range k.Keys {
		if ids[key.ID] {
			return fmt.Errorf("%w: two keys with one id", ErrKeys)
		}
		ids[key.ID] = true
	}
	return nil
}

// ParseKeys is the inverse of Encode.
func ParseKeys(b []byte) (Keys, error) {
	if len(b) < keysFixed || b[0] != 1 {
		return Keys{}, fmt.Errorf("%w: %d bytes or another version", ErrKeys, len(b))
	}
	k := Keys{
		Flags: b[1], Region: binary.BigEndian.Uint16(b[2:]), Epoch: binary.BigEndian.Uint32(b[4:]),
		Leaves: binary.BigEndian.Uint16(b[10:]), LeafFrames: binary.BigEndian.Uint32(b[12:]),
	}
	n, addresses := int(b[8]), int(b[9])
	if binary.BigEndian.Uint64(b[16:]) != 0 || n > MaxKeys || len(b) < keysFixed+n*keySize {
		return Keys{}, fmt.Errorf("%w: %d keys in %d bytes", ErrKeys, n, len(b))
	}
	rest := b[keysFixed:]
	for range n {
		k.Keys = append(k.Keys, mix.PublicKey{ID: binary.BigEndian.Uint16(rest), Key: [32]byte(rest[2:keySize])})
		rest = rest[keySize:]
	}
	for range addresses {
		if len(rest) == 0 || len(rest) < 1+int(rest[0]) {
			return Keys{}, fmt.Errorf("%w: addresses are cut", ErrKeys)
		}
		k.Addresses = append(k.Addresses, string(rest[1:1+int(rest[0])]))
		rest = rest[1+int(rest[0]):]
	}
	if len(rest) > 0 {
		return Keys{}, fmt.Errorf("%w: %d bytes too many", ErrKeys, len(rest))
	}
	return k, k.check()
}

// CheckHome says why a home may not publish k: a home is in the directory as a relay with an address or, with no flag and
// no address, to say that it has stopped. It never counts as a guard, so it has no numbers of leaves.
func (k *Keys) CheckHome() error {
	switch {
	case k.Leaves != 0 || k.LeafFrames != 0:
		return fmt.Errorf("%w: a home with numbers of leaves", ErrKeys)
	case k.Flags == FlagRelay && len(k.Addresses) > 0, k.Flags == 0 && len(k.Addresses) == 0:
		return nil
	}
	return fmt.Errorf("%w: a home with flags %#x and %d addresses", ErrKeys, k.Flags, len(k.Addresses))
}

// Node is what the directory knows about one member: of the backbone, or a home that relays.
type Node struct {
	Key      packet.NodeKey
	Member   member.Member
	Keys     Keys
	KeysAt   time.Time // when the `keys` register was issued
	KeysEnd  time.Time // when it expires
	SealKey  []byte    // HPKE public key; nil until a `seal` register came
	SealEnd  time.Time
	haveKeys bool

	keysCert, sealCert [32]byte // hashes of the certificates that signed the registers
}

// Recipient reports whether the node takes onion requests: it says so and can be sealed to.
func (n *Node) Recipient() bool {
	return n.haveKeys && n.Keys.Flags&FlagRecipient != 0 && n.SealKey != nil
}

// Relay reports whether the node forwards onion packets.
func (n *Node) Relay() bool { return n.haveKeys && n.Keys.Flags&FlagRelay != 0 }

// KeyAt gives the node's onion key for a packet that arrives at time t.
func (n *Node) KeyAt(t time.Time, epoch time.Duration) (mix.PublicKey, bool) {
	number := mix.EpochAt(t, epoch)
	if !n.haveKeys || number < n.Keys.Epoch || number-n.Keys.Epoch >= uint32(len(n.Keys.Keys)) {
		return mix.PublicKey{}, false
	}
	return n.Keys.Keys[number-n.Keys.Epoch], true
}

// Directory collects registers that gossip has validated.
type Directory struct {
	// Self, if set, is left out: a home that relays for others is no relay of its own routes.
	Self packet.NodeKey

	epoch time.Duration
	nodes map[packet.NodeKey]*Node
}

// NewDirectory makes an empty directory for a network with this life of onion keys.
func NewDirectory(epoch time.Duration) *Directory {
	return &Directory{epoch: epoch, nodes: map[packet.NodeKey]*Node{}}
}

// ErrDirectoryFull means that maxNodes members are known.
var ErrDirectoryFull = errors.New("directory is full")

// PutKeys takes the body of a `keys` register of m: of a backbone member, or of a home that relays or has stopped to.
func (d *Directory) PutKeys(m member.Member, body []byte, issued, expires time.Time) error {
	k, err := ParseKeys(body)
	if err != nil {
		return err
	}
	if m.Role == member.RoleGateway {
		if err := k.CheckHome(); err != nil {
			return err
		}
		if packet.NodeKey(m.Key) == d.Self {
			return nil
		}
	}
	n, err := d.node(m)
	if err != nil {
		return err
	}
	n.Keys, n.KeysAt, n.KeysEnd, n.haveKeys, n.keysCert = k, issued, expires, true, m.CertHash
	return nil
}

// PutSeal takes the body of a `seal` register of m: its HPKE public key.
func (d *Directory) PutSeal(m member.Member, body []byte, expires time.Time) error {
	if len(body) != packet.SealKeySize {
		return fmt.Errorf("%w: seal register of %d bytes, want %d", ErrKeys, len(body), packet.SealKeySize)
	}
	if !m.Role.Backbone() {
		return fmt.Errorf("%w: role %s takes no requests", ErrKeys, m.Role)
	}
	n, err := d.node(m)
	if err != nil {
		return err
	}
	n.SealKey, n.SealEnd, n.sealCert = slices.Clone(body), expires, m.CertHash
	return nil
}

func (d *Directory) node(m member.Member) (*Node, error) {
	if !m.Role.Backbone() && m.Role != member.RoleGateway {
		return nil, fmt.Errorf("%w: role %s has no place in the directory", ErrKeys, m.Role)
	}
	n := d.nodes[m.Key]
	if n == nil {
		if len(d.nodes) >= maxNodes {
			return nil, ErrDirectoryFull
		}
		n = &Node{Key: m.Key}
		d.nodes[m.Key] = n
	}
	if !m.NotAfter.Before(n.Member.NotAfter) {
		n.Member = m // of the newest certificate: registers of the one before it may come later
	}
	return n, nil
}

// Prune forgets what was signed under certificates that standing refuses: revoked, expired, or of a CA that the network
// no longer has. A member with nothing left is gone; the result lists those of them whose certificate was revoked.
func (d *Directory) Prune(standing func(cert [32]byte) error) (revoked []packet.NodeKey) {
	for key, n := range d.nodes {
		var errs []error
		if n.haveKeys {
			if err := standing(n.keysCert); err != nil {
				n.haveKeys, n.KeysEnd = false, time.Time{}
				errs = append(errs, err)
			}
		}
		if n.SealKey != nil {
			if err := standing(n.sealCert); err != nil {
				n.SealKey, n.SealEnd = nil, time.Time{}
				errs = append(errs, err)
			}
		}
		if len(errs) == 0 || n.haveKeys || n.SealKey != nil {
			continue
		}
		delete(d.nodes, key)
		if errors.Is(errors.Join(errs...), member.ErrRevoked) {
			revoked = append(revoked, key)
		}
	}
	return revoked
}

// Sweep forgets members whose registers have all expired.
func (d *Directory) Sweep(now time.Time) {
	for key, n := range d.nodes {
		if !n.KeysEnd.After(now) && !n.SealEnd.After(now) {
			delete(d.nodes, key)
		}
	}
}

// Snapshot is the directory at one moment. It is read-only and may be shared.
type Snapshot struct {
	Epoch  time.Duration
	Fresh  time.Time // issue time of the newest `keys` register; zero when there is none
	nodes  map[packet.NodeKey]*Node
	relays []*Node // ordered by key, so that choice depends on rnd alone
	ssns   int     // relays that are SSNs

	operators int // distinct ones of the relays
}

// Snapshot copies what is valid at now.
func (d *Directory) Snapshot(now time.Time) *Snapshot {
	s := &Snapshot{Epoch: d.epoch, nodes: map[packet.NodeKey]*Node{}}
	for key, n := range d.nodes {
		copied := *n
		copied.haveKeys = n.haveKeys && n.KeysEnd.After(now)
		if !n.SealEnd.After(now) {
			copied.SealKey = nil
		}
		s.nodes[key] = &copied
		if copied.haveKeys && n.KeysAt.After(s.Fresh) {
			s.Fresh = n.KeysAt
		}
		if copied.Relay() {
			s.relays = append(s.relays, &copied)
		}
	}
	slices.SortFunc(s.relays, func(a, b *Node) int { return slices.Compare(a.Key[:], b.Key[:]) })
	operators := map[string]bool{}
	for _, n := range s.relays {
		operators[n.Member.Operator] = true
		if n.Member.Role == member.RoleSSN {
			s.ssns++
		}
	}
	s.operators = len(operators)
	return s
}

// Node finds a member.
func (s *Snapshot) Node(key packet.NodeKey) (*Node, bool) {
	n, known := s.nodes[key]
	return n, known
}

// Relays lists the relays, ordered by key. The caller must not change the slice.
func (s *Snapshot) Relays() []*Node { return s.relays }

// Operators is the number of distinct operators of the relays.
func (s *Snapshot) Operators() int { return s.operators }
