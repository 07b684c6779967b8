package session

import (
	"crypto/ed25519"
	"fmt"
	"io"

	"gridveil/privacy"
	"gridveil/privacy/note"
)

// Party says who collects.
type Party byte

// Parties of a session that collect notes.
const (
	PartyHost   Party = 1
	PartyDriver Party = 2
	PartyChange Party = 3 // the host again, for what is left of its Lock
	PartyPool   Party = 4 // the driver, for its session's shares of flexibility events
)

// boxed says whether a party's request travels sealed by the session's exporter:
// the driver's do, whatever they are for.
func (p Party) boxed() bool { return p == PartyDriver || p == PartyPool }

// Collect asks for the blind notes of a settled session: slot i of Row is a
// blinded note of 2^i minor units where the amount has bit i, filler elsewhere.
// A host signs with hpk; a driver signs with spk and sends it boxed by the
// exporter of its session ([BoxCollect]), so that the host's gateway, which
// carries it, sees no amount.
type Collect struct {
	Session [32]byte // H(Open)
	Party   Party
	Epoch   uint32 // month yyyymm whose keys the row is blinded for
	Row     note.Row
	Sig     privacy.Signature
}

// CollectSize is the encoded size of a Collect.
const CollectSize = 2 + 32 + 1 + 4 + note.RowSize + 64

func (c *Collect) body() []byte {
	e := head(privacy.KindCollect, CollectSize)
	e.raw(c.Session[:])
	e.u8(byte(c.Party))
	e.u32(c.Epoch)
	e.raw(c.Row.Bytes())
	return e
}

// Sign signs the request with the party's session key.
func (c *Collect) Sign(net privacy.Net, key ed25519.PrivateKey) {
	c.Sig = privacy.Sign(key, privacy.KindCollect, net, c.body())
}

// Bytes encodes the request, CollectSize bytes.
func (c *Collect) Bytes() []byte { return append(c.body(), c.Sig[:]...) }

// Hash is H(Collect).
func (c *Collect) Hash(net privacy.Net) [32]byte {
	return privacy.Hash(privacy.KindCollect, net, c.body(), c.Sig)
}

// ParseCollect decodes a Collect.
func ParseCollect(b []byte) (Collect, error) {
	var c Collect
	d := body(b, privacy.KindCollect, CollectSize)
	d.raw(c.Session[:])
	c.Party = Party(d.u8())
	c.Epoch = d.u32()
	row, err := note.ParseRow(d.take(note.RowSize))
	if err != nil {
		return c, fmt.Errorf("%w: collect", ErrMalformed)
	}
	c.Row = *row
	d.raw(c.Sig[:])
	d.bad = d.bad || c.Party < PartyHost || c.Party > PartyPool
	return c, d.end("collect")
}

// MaxProof bounds the inclusion proof in a Collected: 32 B for each of 40
// levels, more than any batch or ledger has.
const MaxProof = 40 * 32

// Collected answers a Collect once the ledger's issue entry is final.
type Collected struct {
	Request [32]byte // H(Collect)
	Row     note.Row // blind signatures, filler where the amount has no bit
	Issue   uint64   // ledger index of the issue entry
	Salt    [32]byte // of this claim's leaf in it
	Proof   []byte   // that leaf's inclusion proof
}

// Bytes encodes the answer.
func (c *Collected) Bytes() []byte {
	e := head(privacy.KindCollectReply, 2+32+note.RowSize+8+32+4+len(c.Proof))
	e.raw(c.Request[:])
	e.raw(c.Row.Bytes())
	e.u64(c.Issue)
	e.raw(c.Salt[:])
	e.blob(c.Proof)
	return e
}

// ParseCollected decodes a Collected.
func ParseCollected(b []byte) (Collected, error) {
	var c Collected
	d := body(b, privacy.KindCollectReply, -1)
	d.raw(c.Request[:])
	row, err := note.ParseRow(d.take(note.RowSize))
	if err != nil {
		return c, fmt.Errorf("%w: collected", ErrMalformed)
	}
	c.Row = *row
	c.Issue = d.u64()
	d.raw(c.Salt[:])
	c.Proof = d.blob(MaxProof)
	return c, d.end("collected")
}

// Lock puts notes of the host behind what it may come to owe the driver. Value
// and change are settled with the session: what is not owed comes back by
// Collect. The notes are spent to the aggregator with the session's name,
// H(Open), as purpose (note.Wallet.Spend).
type Lock struct {
	Session  [32]byte // H(Open)
	Value    int64    // millionths, the sum of the notes
	Currency uint16
	Payment  note.Payment // 1..MaxLocked notes
	Sig      privacy.Signature
}

const spentSize = note.Size + 64

func (l *Lock) body() []byte {
	e := head(privacy.KindLock, 2+32+8+2+32+1+len(l.Payment.Notes)*spentSize+64)
	e.raw(l.Session[:])
	e.i64(l.Value)
	e.u16(l.Currency)
	e.raw(l.Payment.Salt[:])
	e.u8(byte(len(l.Payment.Notes)))
	for i := range l.Payment.Notes {
		e.raw(l.Payment.Notes[i].Note[:])
		e.raw(l.Payment.Notes[i].Spend[:])
	}
	return e
}

// Bytes encodes the lock.
func (l *Lock) Bytes() []byte { return append(l.body(), l.Sig[:]...) }

// Hash is H(Lock).
func (l *Lock) Hash(net privacy.Net) [32]byte {
	return privacy.Hash(privacy.KindLock, net, l.body(), l.Sig)
}

// ParseLock decodes a Lock; it checks layout and ranges only.
func ParseLock(b []byte) (Lock, error) {
	var l Lock
	d := body(b, privacy.KindLock, -1)
	d.raw(l.Session[:])
	l.Value = d.debt()
	l.Currency = d.u16()
	d.raw(l.Payment.Salt[:])
	n := int(d.u8())
	if n < 1 || n > MaxLocked || len(d.b) < n*spentSize {
		d.bad = true
	}
	for i := 0; i < n && !d.bad; i++ {
		var s note.Spent
		d.raw(s.Note[:])
		d.raw(s.Spend[:])
		l.Payment.Notes = append(l.Payment.Notes, s)
	}
	d.raw(l.Sig[:])
	return l, d.end("lock")
}

// A boxed Collect or Collected: kind, version, H(Open), box. The name tells the
// aggregator which exporter opens it; the carrying host knows it anyway.
func boxCollect(rnd io.Reader, x privacy.Exporter, session [32]byte, msg []byte) ([]byte, error) {
	box, err := x.Seal(rnd, privacy.KindCollectInner, msg)
	if err != nil {
		return nil, fmt.Errorf("box collect: %w", err)
	}
	e := head(privacy.KindCollectInner, 34+len(box))
	e.raw(session[:])
	e.raw(box)
	return e, nil
}

func splitBoxed(msg []byte) (session [32]byte, box []byte, err error) {
	d := body(msg, privacy.KindCollectInner, -1)
	d.raw(session[:])
	if d.bad || len(d.b) > maxBoxed {
		return session, nil, fmt.Errorf("%w: boxed collect", ErrMalformed)
	}
	return session, d.b, nil
}

const maxBoxed = 8 << 10 // two blocks of KindCollectInner and the box's own bytes
