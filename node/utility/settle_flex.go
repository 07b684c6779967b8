package utility

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"time"

	"gridveil/ev"
	"gridveil/ev/ocmf"
	"gridveil/ev/pool"
	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/keys"
	"gridveil/node/metering"
	"gridveil/node/party"
	"gridveil/node/store"
)

// A utility that runs the grid of a zone buys flexibility there: it certifies
// meters, signs an instruction, and pays for what the aggregator shows was
// delivered.

// bought is an instruction of ours.
type bought struct {
	Instruction []byte
	Taken       bool  // by the aggregator
	Pay         int64 // millionths, once delivery was shown
	Delivered   int64 // mWh
	Shown       bool
}

func boughtKey(hash [32]byte) []byte { return store.SpaceOrder.Key([]byte("bought"), hash[:]) }

// zoneNumber is the number of a zone whose grid this utility runs.
func (s *settlement) zoneNumber(zone string) (uint32, error) {
	b := s.env.Host.Bundle()
	n, ok := metering.ZoneNumber(b, zone)
	operator, run := metering.GridOperator(b, zone)
	if !ok || !run || operator != s.env.Host.Self().Operator {
		return 0, fmt.Errorf("this operator does not run the grid of a zone %q", zone)
	}
	return uint32(n), nil
}

// CertifyMeter states that a meter (by the hash of its key, ocmf.PublicKey.Hash)
// of at most maxW stands in a zone: only such meters can offer flexibility.
func (u *Utility) CertifyMeter(key [32]byte, zone string, maxW uint32) (pool.MeterCert, error) {
	s := u.settlement
	n, err := s.zoneNumber(zone)
	if err != nil {
		return pool.MeterCert{}, err
	}
	signer, err := s.env.Keys.Signer(keys.Entry, s.env.Clock.Now())
	if err != nil {
		return pool.MeterCert{}, err
	}
	return pool.SignMeter(signer, s.env.Net, key, n, maxW), nil
}

// Instruct buys a change of power in a zone: positive takes consumption back,
// negative adds it; pay is for full delivery, millionths. From and to are
// multiples of 15 minutes. The order is durable here before it leaves, and leaves
// until the aggregator has it.
func (u *Utility) Instruct(zone string, from, to time.Time, watts, pay int64) (hash [32]byte, err error) {
	s := u.settlement
	n, err := s.zoneNumber(zone)
	if err != nil {
		return hash, err
	}
	x := &pool.Instruction{Zone: n, From: from.UnixMilli(), To: to.UnixMilli(), W: watts, PayMicro: pay, Currency: ask.Currency}
	if _, err := io.ReadFull(s.env.Rand, x.Reference[:]); err != nil {
		return hash, fmt.Errorf("draw reference: %w", err)
	}
	signer, err := s.env.Keys.Signer(keys.Entry, s.env.Clock.Now())
	if err != nil {
		return hash, err
	}
	x.Sign(signer, s.env.Net)
	if _, err := pool.DecodeInstruction(x.Encode()); err != nil {
		return hash, err
	}
	hash = x.Hash()
	err = s.env.Store.Update(func(tx *store.Tx) error { return putBought(tx, hash, bought{Instruction: x.Encode()}) })
	if err != nil {
		return hash, fmt.Errorf("keep instruction: %w", err)
	}
	s.party.Look()
	return hash, nil
}

func putBought(tx *store.Tx, hash [32]byte, b bought) error {
	v, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return tx.Set(boughtKey(hash), v)
}

// Purchase is an instruction of this utility, as pages and `gridveil flexibility`
// show it.
type Purchase struct {
	Instruction string    `json:"instruction"` // its hash
	Zone        string    `json:"zone"`
	From        time.Time `json:"from"`
	To          time.Time `json:"to"`
	W           int64     `json:"w"`             // positive: consumption taken back
	Offered     int64     `json:"offered_micro"` // for full delivery
	Delivered   int64     `json:"delivered_mwh"`
	Paid        int64     `json:"paid_micro"`
	State       string    `json:"state"` // signed, taken by the aggregator, or paid
}

// Purchases are the instructions of this utility, oldest first.
func (u *Utility) Purchases() (list []Purchase, err error) {
	s := u.settlement
	err = s.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceOrder.Key([]byte("bought")), func(_, v []byte) error {
			var b bought
			if err := json.Unmarshal(v, &b); err != nil {
				return fmt.Errorf("stored instruction: %w", err)
			}
			x, err := pool.DecodeInstruction(b.Instruction)
			if err != nil {
				return err
			}
			hash := x.Hash()
			zone, _ := metering.ZoneName(s.env.Host.Bundle(), uint16(x.Zone)) // it was a zone when it was signed
			p := Purchase{Instruction: hex.EncodeToString(hash[:]), Zone: zone, From: time.UnixMilli(x.From).UTC(), To: time.UnixMilli(x.To).UTC(), W: x.W, Offered: x.PayMicro,
				Delivered: b.Delivered, Paid: b.Pay, State: "signed"}
			switch {
			case b.Shown:
				p.State = "paid"
			case b.Taken:
				p.State = "taken"
			}
			list = append(list, p)
			return nil
		})
	})
	slices.SortFunc(list, func(a, b Purchase) int { return a.From.Compare(b.From) })
	return list, err
}

// sendInstructions hands the aggregator what it does not have yet.
func (s *settlement) sendInstructions(ctx context.Context) error {
	open := map[[32]byte]bought{}
	prefix := store.SpaceOrder.Key([]byte("bought"))
	err := s.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(prefix, func(k, v []byte) error {
			var b bought
			if err := json.Unmarshal(v, &b); err != nil {
				return fmt.Errorf("stored instruction: %w", err)
			}
			if !b.Taken {
				open[[32]byte(k[len(prefix):])] = b
			}
			return nil
		})
	})
	if err != nil || len(open) == 0 {
		return err
	}
	h, ok := s.env.Dir.One(member.RoleAggregator, "")
	if !ok {
		return ask.ErrNoOperator
	}
	for hash, b := range open {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := s.env.Host.Call(call, h.Member.Peer, mesh.LedgerSubmit, append([]byte{party.OpInstruct}, b.Instruction...))
		cancel()
		if err != nil {
			return fmt.Errorf("instruction not taken yet: %w", err)
		}
		b.Taken = true
		if err := s.env.Store.Update(func(tx *store.Tx) error { return putBought(tx, hash, b) }); err != nil {
			return err
		}
	}
	return nil
}

// delivered answers what will be paid for an instruction of ours, and puts the
// transfer in line. The first figures stand.
func (s *settlement) delivered(from mesh.Member, b []byte) ([]byte, error) {
	if len(b) != 48 || from.Role != member.RoleAggregator {
		return nil, party.ErrCall
	}
	hash := [32]byte(b)
	got, asked := int64(binary.BigEndian.Uint64(b[32:])), int64(binary.BigEndian.Uint64(b[40:]))
	if s.party.ID() == 0 {
		return nil, &mesh.BusyError{After: again}
	}
	var pay int64
	err := s.env.Store.Update(func(tx *store.Tx) error {
		v, err := tx.Get(boughtKey(hash))
		if errors.Is(err, store.ErrNotFound) {
			return errNotHere
		}
		if err != nil {
			return err
		}
		var x bought
		if err := json.Unmarshal(v, &x); err != nil {
			return fmt.Errorf("stored instruction: %w", err)
		}
		if x.Shown {
			pay = x.Pay
			return nil
		}
		i, err := pool.DecodeInstruction(x.Instruction)
		if err != nil {
			return err
		}
		if x.Pay, err = payFor(i, got, asked); err != nil {
			return err
		}
		x.Shown, x.Delivered, pay = true, got, x.Pay
		if err := putBought(tx, hash, x); err != nil || pay == 0 {
			return err
		}
		return s.party.PostTx(tx, ledger.Salted(hash, []byte("pay")), &ledger.Transfer{From: ledger.OpenAccount(s.party.ID(), 0), To: ledger.OpenAccount(1, 0),
			X: pay, Purpose: ledger.PurposeFlexibility, Ref: hash})
	})
	if err != nil {
		return nil, err
	}
	s.party.Nudge()
	return binary.BigEndian.AppendUint64(nil, uint64(pay)), nil
}

// payFor is the agreed pay for the delivered part, in whole minor units.
func payFor(i *pool.Instruction, got, asked int64) (int64, error) {
	most := max(i.W, -i.W) * (i.To - i.From) / 3600 // mWh
	if got < 0 || asked < got || most <= 0 || got > most {
		return 0, errors.New("more is claimed than was bought")
	}
	hi, lo := bits.Mul64(uint64(i.PayMicro), uint64(got))
	pay, _ := bits.Div64(hi, lo, uint64(most)) // got <= most, so the quotient fits
	return int64(pay) / ev.MinorEUR * ev.MinorEUR, nil
}

// flexCommands are what a utility's control socket answers about flexibility.
func (u *Utility) flexCommands() {
	u.env.Control.Handle("instruct", func(_ context.Context, in json.RawMessage) (any, error) {
		var q struct {
			Zone     string    `json:"zone"`
			From     time.Time `json:"from"`
			To       time.Time `json:"to"`
			Watts    int64     `json:"watts"`
			PayMicro int64     `json:"pay_micro"`
		}
		if err := json.Unmarshal(in, &q); err != nil {
			return nil, errors.New("want {zone, from, to, watts, pay_micro}")
		}
		hash, err := u.Instruct(q.Zone, q.From, q.To, q.Watts, q.PayMicro)
		return hex.EncodeToString(hash[:]), err
	})
	u.env.Control.Handle("certify-meter", func(_ context.Context, in json.RawMessage) (any, error) {
		var q struct {
			Key  string `json:"key"`
			Zone string `json:"zone"`
			MaxW uint32 `json:"max_w"`
		}
		if err := json.Unmarshal(in, &q); err != nil {
			return nil, errors.New("want {key, zone, max_w}")
		}
		key, err := ocmf.ParseKey(q.Key)
		if err != nil {
			return nil, fmt.Errorf("the meter's public key, as its label or evse.meter_key has it: %w", err)
		}
		if q.MaxW == 0 {
			return nil, errors.New("max_w: want the most power of the connection behind this meter, in W")
		}
		c, err := u.CertifyMeter(key.Hash(), q.Zone, q.MaxW)
		return hex.EncodeToString(c.Encode()), err
	})
	u.env.Control.Handle("flexibility", func(context.Context, json.RawMessage) (any, error) { return u.Purchases() })
}
