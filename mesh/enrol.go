package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
)

// ProtocolEnrol is the only protocol open to strangers, on hosts with a Registrar.
const ProtocolEnrol protocol.ID = member.ProtocolEnrol

// Registrar decides who joins; node implements it over member.Registrar, its store and its CA.
type Registrar interface {
	// Enrol consumes the code durably before it returns, and repeats the answer to the same request of the same
	// stranger. The answer needs Refusal or Chain; the host adds bundle and directory. An error means ErrBusy.
	Enrol(ctx context.Context, q member.Request, ch member.Channel) (member.Answer, error)
	// Renew issues the next certificate of a member to the key it has; csr is PKCS #10, checked here.
	Renew(ctx context.Context, m Member, csr []byte) ([][]byte, error)
}

// answerEnrol serves one stranger. The request is u16 length and bytes, the answer u32 length and bytes.
func (h *Host) answerEnrol(s network.Stream) {
	l := h.linkOf(s.Conn())
	if l == nil || !h.beginEnrol(l) {
		h.stats.drop(DropEnrol)
		_ = s.Reset() // too many strangers at once: they try again
		return
	}
	started := h.Go(func(ctx context.Context) {
		defer h.endEnrol()
		defer s.Reset() // closed before, unless something failed
		if err := h.enrolOne(ctx, s); err != nil {
			h.stats.drop(DropEnrol)
			h.log.Debug("enrolment failed", "err", err)
			return
		}
		_ = s.Close() // the answer is written
	})
	if !started {
		h.endEnrol()
		_ = s.Reset() // the host shuts
	}
}

// beginEnrol counts a stranger in, at most eight at once and a few connections' worth waiting nowhere.
func (h *Host) beginEnrol(l *link) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.enrols >= member.MaxEnrolments {
		return false
	}
	h.enrols++
	l.enrolling = true
	return true
}

func (h *Host) endEnrol() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.enrols--
}

func (h *Host) enrolOne(ctx context.Context, s network.Stream) error {
	_ = s.SetDeadline(time.Now().Add(enrolTimeout)) // a stream that cannot set it fails in Read
	raw, err := readSized(s)
	if err != nil {
		return fmt.Errorf("read request: %w", redact(err))
	}
	q, err := member.ParseRequest(raw)
	if err != nil {
		h.gate.deny(s.Conn().RemotePeer())
		return err
	}
	pledge, err := member.KeyOf(s.Conn().RemotePeer())
	if err != nil {
		return err
	}
	b := h.bundle.Load()
	answer, err := h.c.Enrol.Enrol(ctx, q, member.Channel{Network: b.Network, Pledge: pledge, Seed: h.Self().Key})
	if err != nil {
		h.log.Warn("registrar could not decide", "err", err)
		answer = member.Answer{Refusal: member.RefusedBusy}
	}
	if answer.Refusal == member.RefusedNot {
		answer.Bundle, answer.Sig = b.Raw(), b.sig
		if answer.Snapshot, err = h.snapshot(); err != nil {
			return err
		}
	}
	out, err := answer.Encode()
	if err != nil {
		return err
	}
	_, err = s.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(out))), out...))
	return err
}

// snapshot gives a newcomer revocations and directory: len u32 | certificates | registers, both as in package gossip.
func (h *Host) snapshot() ([]byte, error) {
	kinds := []Kind{gossip.KindTrust, gossip.KindDirectory}
	var hashes [][32]byte
	for _, e := range h.Registers(gossip.KindDirectory) {
		hashes = append(hashes, e.CertHash)
	}
	h.trust.Lock()
	certs, err := gossip.AnswerCerts(gossip.AskCerts(hashes), h.roll.Chain)
	h.trust.Unlock()
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	var mask byte
	for _, k := range kinds {
		mask |= 1 << k
	}
	regs, err := h.regs.book.AnswerSync(append([]byte("GVY1"), mask), func(*Envelope) bool { return true })
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return append(append(binary.BigEndian.AppendUint32(nil, uint32(len(certs))), certs...), regs...), nil
}

// Prime takes the directory snapshot that came with an enrolment; every register in it is validated like any other.
// It returns how many were accepted.
func (h *Host) Prime(snapshot []byte) (int, error) {
	if len(snapshot) < 4 || uint64(binary.BigEndian.Uint32(snapshot)) > uint64(len(snapshot)-4) {
		return 0, fmt.Errorf("%w: directory snapshot", member.ErrEnrolment)
	}
	n := binary.BigEndian.Uint32(snapshot)
	chains, err := gossip.ParseCerts(snapshot[4 : 4+n])
	if err != nil {
		return 0, err
	}
	envelopes, _, err := gossip.ParseSync(snapshot[4+n:])
	if err != nil {
		return 0, err
	}
	h.trust.Lock()
	for _, chain := range chains {
		if len(chain) > 0 {
			_, _ = h.roll.Add(chain, h.clock.Now()) // what does not verify stays unknown
		}
	}
	h.trust.Unlock()
	taken, _ := h.regs.take(envelopes)
	return len(taken), nil
}

// Enrolment is what a stranger gets: store all of it, then call New.
type Enrolment struct {
	Bundle   *member.Bundle
	Sig      []byte
	Chain    [][]byte
	Member   Member
	Snapshot []byte // for Host.Prime
}

// Invitation says where to enrol: from a link, or from a typed code and an installed bundle.
type Invitation struct {
	Code    member.Code
	Network member.NetworkID
	Seed    peer.AddrInfo
	Pin     *[32]byte // SHA-256 of the bundle; nil with an installed bundle, which then must have signed by its roots
}

// FromLink turns a scanned link into an invitation.
func FromLink(l member.Link) (Invitation, error) {
	id, err := l.Seed.Peer()
	if err != nil {
		return Invitation{}, fmt.Errorf("seed of the link: %w", err)
	}
	addr, err := ma.NewMultiaddr(l.Address)
	if err != nil {
		return Invitation{}, fmt.Errorf("address of the link: %w", err)
	}
	return Invitation{Code: l.Code, Network: l.Network, Seed: peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{addr}}, Pin: &l.Bundle}, nil
}

// Enrol joins a network with a one-time code, before the node has a certificate. installed is the bundle on disk,
// nil when the invitation pins one. It dials the seed, proves the code, and checks the answer. If the
// answer is lost, call it again with the same key within a day: the seed repeats it. now is the time of the call; the
// answer's certificate is checked against it plus the wall time that passed. Errors: ErrOffline, ErrBusy,
// ErrUnacked, or member.ErrCode with the reason and the next step.
func Enrol(ctx context.Context, inv Invitation, key crypto.PrivKey, installed *member.Bundle, now time.Time) (Enrolment, error) {
	if installed == nil && inv.Pin == nil {
		return Enrolment{}, fmt.Errorf("enrol: %w: a typed code needs an installed network.toml", member.ErrCode)
	}
	began := time.Now()
	raw, err := key.Raw()
	if err != nil {
		return Enrolment{}, fmt.Errorf("enrol: host key: %w", err)
	}
	seed, err := member.KeyOf(inv.Seed.ID)
	if err != nil {
		return Enrolment{}, fmt.Errorf("enrol: seed: %w", err)
	}
	q, err := member.NewRequest(inv.Code, ed25519.PrivateKey(raw), inv.Network, seed, rand.Reader)
	if err != nil {
		return Enrolment{}, fmt.Errorf("enrol: %w", err)
	}
	answer, err := askSeed(ctx, inv.Seed, key, q)
	if err != nil {
		return Enrolment{}, fmt.Errorf("enrol: %w", err)
	}
	if answer.Refusal == member.RefusedBusy {
		return Enrolment{}, fmt.Errorf("enrol: %w", &BusyError{After: time.Minute})
	}
	b, m, err := answer.Accept(member.Key(ed25519.PrivateKey(raw).Public().(ed25519.PublicKey)), inv.Pin, now.Add(time.Since(began)))
	if err != nil {
		return Enrolment{}, fmt.Errorf("enrol: %w", err)
	}
	if installed != nil && string(installed.Raw()) != string(b.Raw()) {
		if b, err = installed.Replace(answer.Bundle, answer.Sig); err != nil {
			return Enrolment{}, fmt.Errorf("enrol: the seed's network bundle: %w", err)
		}
	}
	return Enrolment{Bundle: b, Sig: answer.Sig, Chain: answer.Chain, Member: m, Snapshot: answer.Snapshot}, nil
}

// askSeed runs the exchange on a host of its own that listens nowhere.
func askSeed(ctx context.Context, seed peer.AddrInfo, key crypto.PrivKey, q member.Request) (answer member.Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	w, err := newWire(key, leafLimits, newGater(wallClock{}), nil, nil)
	if err != nil {
		return answer, err
	}
	defer func() { err = errors.Join(err, w.Close(), w.Peerstore().Close()) }()
	w.Peerstore().AddAddrs(seed.ID, seed.Addrs, peerstore.TempAddrTTL)
	s, err := w.NewStream(ctx, seed.ID, ProtocolEnrol)
	if err != nil {
		return answer, fmt.Errorf("%w: the seed does not answer: %w", ErrOffline, redact(err))
	}
	_ = s.SetDeadline(time.Now().Add(enrolTimeout)) // a stream that cannot set it fails in Write
	request, err := q.Encode()
	if err != nil {
		return answer, err
	}
	var n [4]byte
	if err := writeSized(s, request); err != nil {
		return answer, fmt.Errorf("%w: send request: %w", ErrUnacked, redact(err))
	}
	if _, err := io.ReadFull(s, n[:]); err != nil {
		return answer, fmt.Errorf("%w: read answer: %w", ErrUnacked, redact(err))
	}
	size := binary.BigEndian.Uint32(n[:])
	if size > member.MaxAnswer {
		return answer, fmt.Errorf("%w: answer of %d bytes", member.ErrEnrolment, size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(s, body); err != nil {
		return answer, fmt.Errorf("%w: read answer: %w", ErrUnacked, redact(err))
	}
	return member.ParseAnswer(body)
}
