package world

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	"gridveil/privacy/session"
)

// Fees of the aggregator: 0.015 per kWh both ways.
var Fees = session.FeeTerms{PerKWhIn: 15_000, PerKWhOut: 15_000}

const cent = 10_000

// whole is energy times price, rounded down to a cent.
func whole(mWh int64, perKWh uint32) int64 { return mWh * int64(perKWh) / 1_000_000 / cent * cent }

// Quote is the simulated tariff: single prices, reimbursed by the host, all
// energy of the car used at home.
func Quote(o *session.Offer, e session.Energy) session.Amounts {
	earn := (e.Res*int64(o.PRes) + e.Grid*int64(o.PGrid)) / 1_000_000 / cent * cent
	owe := whole(e.Out, o.POut)
	a := session.Amounts{Host: max(earn-owe, 0), Owed: max(owe-earn, 0)}
	a.Driver = a.Owed
	a.Fee = whole(e.In()+e.Out, Fees.PerKWhIn)
	return a
}

// errPrice is what the simulated package ev refuses with.
var errPrice = errors.New("amounts do not follow from the terms")

// audit checks amounts against the tariff and evidence against the record.
func audit(o session.Offer, r session.Record, v *session.Evidence) (int64, error) {
	want := Quote(&o, r.Energy)
	fee := want.Fee
	want.Fee = 0
	if r.Amounts != want {
		return 0, fmt.Errorf("%w: got %+v, want %+v", errPrice, r.Amounts, want)
	}
	if v == nil {
		return fee, nil
	}
	in, out, err := readMeter(v)
	if err != nil {
		return 0, err
	}
	if r.Form != session.Cut && (in != r.Energy.In() || out != r.Energy.Out) {
		return 0, fmt.Errorf("%w: meter says %d and %d", session.ErrEvidence, in, out)
	}
	return fee, nil
}

func price(c session.Case) (int64, error) { return audit(c.Offer, c.Record, c.Evidence) }

// fair is session.DriverConfig.Fair.
func fair(o *session.Offer) func(session.Tick) (int64, error) {
	return func(t session.Tick) (int64, error) {
		want := Quote(o, t.Energy)
		if t.Cum != want.Total() {
			return 0, fmt.Errorf("%w: tick says %d, want %d", errPrice, t.Cum, want.Total())
		}
		return want.Owed, nil
	}
}

// meterRecord is the simulated meter's signed record: code, energies, signature.
func meterRecord(key ed25519.PrivateKey, code string, e session.Energy) []byte {
	b := append([]byte("METER|"), code...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.In()))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Out))
	return append(b, ed25519.Sign(key, b)...)
}

func readMeter(v *session.Evidence) (in, out int64, err error) {
	const size = 6 + 16 + 16 + 64
	if len(v.Records) != 1 || len(v.Records[0]) != size || len(v.MeterKey) != ed25519.PublicKeySize {
		return 0, 0, session.ErrEvidence
	}
	b := v.Records[0]
	if !ed25519.Verify(v.MeterKey, b[:size-64], b[size-64:]) {
		return 0, 0, session.ErrEvidence
	}
	return int64(binary.BigEndian.Uint64(b[22:])), int64(binary.BigEndian.Uint64(b[30:])), nil
}
