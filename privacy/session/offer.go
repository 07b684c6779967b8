package session

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/pseudo"
)

// Offer is what a host asks for one session, signed by HPK, a key that is used
// for this session only. Prices are millionths per kWh.
type Offer struct {
	HPK         [32]byte // the host's session key; the serial of its pass
	PassKey     [8]byte  // key id of the pass: zone and week
	MeterCommit [32]byte // see MeterCommit; zero for an unmetered (flat) session
	Terms       [32]byte // SHA-256 of the full terms (package ev)
	PGrid       uint32   // grid energy into the car
	PRes        uint32   // own energy into the car
	POut        uint32   // energy of the car used at home
	Currency    uint16   // ISO 4217 number
	MaxPower    uint16   // units of 100 W
	Mode        byte     // Mode bits
	Expires     uint32   // Unix seconds; an Open must arrive before
	Sig         privacy.Signature
}

func (o *Offer) body() []byte {
	e := head(privacy.KindOffer, OfferSize)
	e.raw(o.HPK[:])
	e.raw(o.PassKey[:])
	e.raw(o.MeterCommit[:])
	e.raw(o.Terms[:])
	e.u32(o.PGrid)
	e.u32(o.PRes)
	e.u32(o.POut)
	e.u16(o.Currency)
	e.u16(o.MaxPower)
	e.u8(o.Mode)
	e.u32(o.Expires)
	return e
}

// Bytes encodes the offer, OfferSize bytes.
func (o *Offer) Bytes() []byte { return append(o.body(), o.Sig[:]...) }

// Hash is H(Offer), the name later messages use for it.
func (o *Offer) Hash(net privacy.Net) [32]byte {
	return privacy.Hash(privacy.KindOffer, net, o.body(), o.Sig)
}

// ParseOffer decodes an offer; it checks the layout only.
func ParseOffer(b []byte) (Offer, error) {
	var o Offer
	d := body(b, privacy.KindOffer, OfferSize)
	d.raw(o.HPK[:])
	d.raw(o.PassKey[:])
	d.raw(o.MeterCommit[:])
	d.raw(o.Terms[:])
	o.PGrid, o.PRes, o.POut = d.u32(), d.u32(), d.u32()
	o.Currency, o.MaxPower = d.u16(), d.u16()
	o.Mode = d.u8()
	o.Expires = d.u32()
	d.raw(o.Sig[:])
	if o.Mode&^modeMask != 0 {
		d.bad = true
	}
	return o, d.end("offer")
}

// Check verifies the offer's signature and that now lies before its expiry and
// not more than MaxOfferAge before. It returns ErrSignature or ErrOffer.
func (o *Offer) Check(net privacy.Net, now time.Time) error {
	if err := o.verify(net); err != nil {
		return err
	}
	until := time.Unix(int64(o.Expires), 0)
	if now.After(until) {
		return fmt.Errorf("%w: it expired; ask the host for a new one", ErrOffer)
	}
	if until.Sub(now) > MaxOfferAge {
		return fmt.Errorf("%w: it would stay valid longer than %v", ErrOffer, MaxOfferAge)
	}
	return nil
}

func (o *Offer) verify(net privacy.Net) error {
	if err := privacy.CheckKey(o.HPK[:]); err != nil {
		return fmt.Errorf("host key: %w", err)
	}
	if !privacy.Verify(o.HPK[:], privacy.KindOffer, net, o.body(), o.Sig) {
		return fmt.Errorf("offer: %w", ErrSignature)
	}
	return nil
}

// Open is the driver's acceptance of one offer up to a band, signed by the
// single-use session key of a certificate.
type Open struct {
	Offer [32]byte // H(Offer)
	SPK   [32]byte // the driver's session key
	EVAGG [16]byte // the aggregator that authorises and settles
	Band  uint16   // most the session may cost, one of Bands
	Box   [32]byte // SHA-256 of the Box
	Sig   privacy.Signature
}

func (o *Open) body() []byte {
	e := head(privacy.KindOpen, OpenSize)
	e.raw(o.Offer[:])
	e.raw(o.SPK[:])
	e.raw(o.EVAGG[:])
	e.u16(o.Band)
	e.raw(o.Box[:])
	return e
}

// Bytes encodes the Open, OpenSize bytes.
func (o *Open) Bytes() []byte { return append(o.body(), o.Sig[:]...) }

// Hash is H(Open), the session's name between host, driver and aggregator.
func (o *Open) Hash(net privacy.Net) [32]byte {
	return privacy.Hash(privacy.KindOpen, net, o.body(), o.Sig)
}

// ParseOpen decodes an Open; it checks the layout and that Band is one of Bands.
func ParseOpen(b []byte) (Open, error) {
	var o Open
	d := body(b, privacy.KindOpen, OpenSize)
	d.raw(o.Offer[:])
	d.raw(o.SPK[:])
	d.raw(o.EVAGG[:])
	o.Band = d.u16()
	d.raw(o.Box[:])
	d.raw(o.Sig[:])
	if !IsBand(o.Band) {
		d.bad = true
	}
	return o, d.end("open")
}

func (o *Open) verify(net privacy.Net) error {
	if err := privacy.CheckKey(o.SPK[:]); err != nil {
		return fmt.Errorf("driver key: %w", err)
	}
	if !privacy.Verify(o.SPK[:], privacy.KindOpen, net, o.body(), o.Sig) {
		return fmt.Errorf("open: %w", ErrSignature)
	}
	return nil
}

// billAuth is the driver's mandate to bill bpk up to the band: it is signed by
// the bill key and names neither the host nor the session.
type billAuth struct {
	EVAGG [16]byte
	Epoch uint32
	Band  uint16
	Nonce [16]byte
}

func (a *billAuth) body() []byte {
	e := head(privacy.KindBillAuth, 40)
	e.raw(a.EVAGG[:])
	e.u32(a.Epoch)
	e.u16(a.Band)
	e.raw(a.Nonce[:])
	return e
}

// boxed is the plaintext of Box: what only the aggregator may see.
type boxed struct {
	Cert  pseudo.Cert
	BPK   [32]byte
	BSalt [16]byte
	Nonce [16]byte
	Sig   privacy.Signature // by bpk, over billAuth
}

func (x *boxed) bytes() []byte {
	e := head(privacy.KindBox, boxPlain)
	e.raw(x.Cert[:])
	e.raw(x.BPK[:])
	e.raw(x.BSalt[:])
	e.raw(x.Nonce[:])
	e.raw(x.Sig[:])
	return e
}

func parseBoxed(b []byte) (boxed, error) {
	var x boxed
	d := body(b, privacy.KindBox, boxPlain)
	d.raw(x.Cert[:])
	d.raw(x.BPK[:])
	d.raw(x.BSalt[:])
	d.raw(x.Nonce[:])
	d.raw(x.Sig[:])
	return x, d.end("box")
}

// sealBox seals x to the aggregator; the exporter carries all its later
// messages with the driver.
func sealBox(rnd io.Reader, s privacy.Suite, pk []byte, net privacy.Net, x boxed) ([]byte, privacy.Exporter, error) {
	return privacy.Seal(rnd, s, pk, privacy.KindBox, net, x.bytes())
}

// opening splits what a driver sends, Open followed by Box.
func opening(b []byte, boxSize int) (Open, []byte, error) {
	if len(b) != OpenSize+boxSize {
		return Open{}, nil, fmt.Errorf("%w: opening of %d bytes", ErrMalformed, len(b))
	}
	o, err := ParseOpen(b[:OpenSize])
	if err != nil {
		return Open{}, nil, err
	}
	if sha256.Sum256(b[OpenSize:]) != o.Box {
		return Open{}, nil, fmt.Errorf("%w: box is not the one that open names", ErrMalformed)
	}
	return o, b[OpenSize:], nil
}

// pub is the public half as an array.
func pub(k ed25519.PrivateKey) [32]byte { return [32]byte(k.Public().(ed25519.PublicKey)) }
