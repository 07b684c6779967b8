package session

import (
	"fmt"

	"gridveil/privacy"
)

// Tick is metered progress, signed by the host. Each names the one before, so
// that the last one with an Ack proves the whole session up to it.
type Tick struct {
	Seq    uint32 // from 1
	Energy Energy
	Cum    int64    // Amounts.Total so far, millionths
	Prev   [32]byte // H(Tick before); of the first: H(Open)
	Sig    privacy.Signature
}

func (t *Tick) body() []byte {
	e := head(privacy.KindTick, TickSize)
	e.u32(t.Seq)
	e.i64(t.Energy.Grid)
	e.i64(t.Energy.Res)
	e.i64(t.Energy.Out)
	e.i64(t.Cum)
	e.raw(t.Prev[:])
	return e
}

// Bytes encodes the tick, TickSize bytes.
func (t *Tick) Bytes() []byte { return append(t.body(), t.Sig[:]...) }

// Hash is H(Tick).
func (t *Tick) Hash(net privacy.Net) [32]byte {
	return privacy.Hash(privacy.KindTick, net, t.body(), t.Sig)
}

// ParseTick decodes a tick; it checks layout and ranges only.
func ParseTick(b []byte) (Tick, error) {
	d := body(b, privacy.KindTick, TickSize)
	t := d.tick()
	return t, d.end("tick")
}

func (d *dec) tick() (t Tick) {
	t.Seq = d.u32()
	t.Energy = Energy{Grid: d.energy(), Res: d.energy(), Out: d.energy()}
	t.Cum = d.debt()
	d.raw(t.Prev[:])
	d.raw(t.Sig[:])
	return t
}

func (t *Tick) verify(net privacy.Net, hpk [32]byte) error {
	if !privacy.Verify(hpk[:], privacy.KindTick, net, t.body(), t.Sig) {
		return fmt.Errorf("tick: %w", ErrSignature)
	}
	return nil
}

// follows returns ErrChain unless t is the successor of last and no register in
// it runs backwards. (The total may fall while the car discharges.)
func (t *Tick) follows(last *Tick, prev [32]byte) error {
	switch {
	case t.Seq != last.Seq+1:
		return fmt.Errorf("%w: number %d after %d", ErrChain, t.Seq, last.Seq)
	case t.Prev != prev:
		return fmt.Errorf("%w: it names another predecessor", ErrChain)
	case !t.Energy.covers(last.Energy):
		return fmt.Errorf("%w: a register runs backwards", ErrChain)
	}
	return nil
}

// Ack is the driver's signature over one tick.
type Ack struct {
	Tick [32]byte // H(Tick)
	Sig  privacy.Signature
}

func (a *Ack) body() []byte {
	e := head(privacy.KindAck, AckSize)
	e.raw(a.Tick[:])
	return e
}

// Bytes encodes the ack, AckSize bytes.
func (a *Ack) Bytes() []byte { return append(a.body(), a.Sig[:]...) }

// ParseAck decodes an ack.
func ParseAck(b []byte) (Ack, error) {
	d := body(b, privacy.KindAck, AckSize)
	a := d.ack()
	return a, d.end("ack")
}

func (d *dec) ack() (a Ack) {
	d.raw(a.Tick[:])
	d.raw(a.Sig[:])
	return a
}

func (a *Ack) verify(net privacy.Net, spk [32]byte) error {
	if !privacy.Verify(spk[:], privacy.KindAck, net, a.body(), a.Sig) {
		return fmt.Errorf("ack: %w", ErrSignature)
	}
	return nil
}
