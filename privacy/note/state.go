package note

import (
	"encoding/binary"
	"fmt"
)

// Stored wallet: "GVW1" counter8 ops2 {op}* notes2 {note}*. The seed is stored
// elsewhere.
const (
	walletMagic = "GVW1"
	opHead      = 8 + 1 + 2 + 4 + 4 + 32 + 32 + 1 // up to the number of amounts
	heldSize    = 2 + 4 + 2 + 1 + 8 + 8 + 8 + SlotSize
)

// Bytes encodes the wallet's state without its seed, canonically.
func (w *Wallet) Bytes() []byte {
	b := make([]byte, 0, 16+len(w.ops)*(opHead+2*MaxRows)+len(w.notes)*heldSize)
	b = binary.BigEndian.AppendUint64(append(b, walletMagic...), w.counter)
	b = binary.BigEndian.AppendUint16(b, uint16(len(w.ops)))
	for i := range w.ops {
		b = w.ops[i].append(b)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(w.notes)))
	for i := range w.notes {
		b = w.notes[i].append(b)
	}
	return b
}

func (o *Op) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, o.ID)
	b = append(b, byte(o.Kind))
	b = binary.BigEndian.AppendUint16(b, o.Currency)
	b = binary.BigEndian.AppendUint32(b, o.Epoch)
	b = binary.BigEndian.AppendUint32(b, o.Payee)
	b = append(b, o.Salt[:]...)
	b = append(b, o.Bind[:]...)
	b = append(b, byte(len(o.Amounts)))
	for _, a := range o.Amounts {
		b = binary.BigEndian.AppendUint16(b, a)
	}
	return b
}

func (h *held) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, h.currency)
	b = binary.BigEndian.AppendUint32(b, h.epoch)
	b = binary.BigEndian.AppendUint16(b, h.minor)
	if h.swapped {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = binary.BigEndian.AppendUint64(b, h.op)
	b = append(b, h.key[:]...)
	b = binary.BigEndian.AppendUint64(b, h.counter)
	return append(b, h.sig[:]...)
}

// OpenWallet restores a wallet from its seed and stored state. It returns
// ErrEncoding for a state that no wallet stores.
func OpenWallet(seed [32]byte, origin string, state []byte) (*Wallet, error) {
	w := NewWallet(seed, origin)
	if len(state) < 14 || string(state[:4]) != walletMagic {
		return nil, fmt.Errorf("stored wallet: %w", ErrEncoding)
	}
	w.counter = binary.BigEndian.Uint64(state[4:])
	nops, rest := int(binary.BigEndian.Uint16(state[12:])), state[14:]
	if w.counter == 0 || nops > maxOps {
		return nil, fmt.Errorf("stored wallet of %d operations: %w", nops, ErrEncoding)
	}
	open := map[uint64]bool{}
	for range nops {
		o, tail, err := parseOp(rest)
		if err != nil {
			return nil, err
		}
		if o.ID == 0 || o.ID >= w.counter || open[o.ID] {
			return nil, fmt.Errorf("stored operation %d: %w", o.ID, ErrEncoding)
		}
		open[o.ID], rest = true, tail
		w.ops = append(w.ops, o)
	}
	return w, w.parseNotes(rest, open)
}

func parseOp(b []byte) (Op, []byte, error) {
	if len(b) < opHead {
		return Op{}, nil, fmt.Errorf("stored operation: %w", ErrEncoding)
	}
	o := Op{ID: binary.BigEndian.Uint64(b), Kind: OpKind(b[8]), Currency: binary.BigEndian.Uint16(b[9:]), Epoch: binary.BigEndian.Uint32(b[11:]),
		Payee: binary.BigEndian.Uint32(b[15:]), Salt: [32]byte(b[19:]), Bind: [32]byte(b[51:])}
	n, rest := int(b[opHead-1]), b[opHead:]
	if o.Kind < OpCollect || o.Kind > OpSpend || n > MaxRows || len(rest) < 2*n {
		return Op{}, nil, fmt.Errorf("stored operation: %w", ErrEncoding)
	}
	for i := range n {
		a := binary.BigEndian.Uint16(rest[2*i:])
		if a == 0 || a > MaxAmount {
			return Op{}, nil, fmt.Errorf("stored operation: %w", ErrEncoding)
		}
		o.Amounts = append(o.Amounts, a)
	}
	return o, rest[2*n:], nil
}

func (w *Wallet) parseNotes(b []byte, open map[uint64]bool) error {
	if len(b) < 2 || len(b) != 2+int(binary.BigEndian.Uint16(b))*heldSize {
		return fmt.Errorf("stored notes of %d bytes: %w", len(b), ErrEncoding)
	}
	for b = b[2:]; len(b) > 0; b = b[heldSize:] {
		h := held{currency: binary.BigEndian.Uint16(b), epoch: binary.BigEndian.Uint32(b[2:]), minor: binary.BigEndian.Uint16(b[6:]),
			swapped: b[8] == 1, op: binary.BigEndian.Uint64(b[9:]), key: [8]byte(b[17:]), counter: binary.BigEndian.Uint64(b[25:]),
			sig: [SlotSize]byte(b[33:])}
		power := h.minor != 0 && h.minor&(h.minor-1) == 0 && h.minor <= 1<<(Slots-1)
		if b[8] > 1 || !power || checkEpoch(h.epoch) != nil || h.counter >= w.counter || (h.op != 0 && !open[h.op]) {
			return fmt.Errorf("stored note: %w", ErrEncoding)
		}
		w.notes = append(w.notes, h)
	}
	return nil
}
