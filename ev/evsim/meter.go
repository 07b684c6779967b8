package evsim

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"time"

	"gridveil/ev/ocmf"
)

const msPerHour = 3_600_000

// OBIS codes of the meter's two registers.
const (
	importOBIS = "1-b:1.8.0"
	exportOBIS = "1-b:2.8.0"
)

// meter is the calibrated meter of the wallbox: two registers and a key.
type meter struct {
	key    *ecdsa.PrivateKey // nil: the meter signs nothing
	serial string
	page   uint64

	importMWh, exportMWh int64
	rest                 [2]int64 // W·ms not yet a whole mWh, import and export
}

// run counts watts over ms milliseconds and returns the mWh that went through,
// positive into the car.
func (m *meter) run(watts, ms int64) int64 {
	reg, rest, sign := &m.importMWh, &m.rest[0], int64(1)
	if watts < 0 {
		reg, rest, sign, watts = &m.exportMWh, &m.rest[1], -1, -watts
	}
	sum := *rest + watts*ms
	mwh := sum * 1000 / msPerHour
	*rest = sum - mwh*msPerHour/1000
	*reg += mwh
	return sign * mwh
}

// sign writes one record with both registers. tx is 'B' or 'E'.
func (m *meter) sign(tx byte, at time.Time, code string) ([]byte, error) {
	m.page++
	reading := func(obis string, mwh int64) ocmf.Reading {
		return ocmf.Reading{At: at.UnixMilli(), Sync: 'S', TX: tx, Value: ocmf.FormatEnergy(mwh), RI: obis, RU: "kWh", ST: "G"}
	}
	return ocmf.Sign(m.key, ocmf.Payload{FV: "1.0", GI: "gridveil evsim", GS: m.serial, GV: "1", MS: m.serial, MM: "evsim",
		PG: ocmf.Page{Context: 'T', Number: m.page}, IS: true, IL: "VERIFIED", IF: []string{"OCPP_RS"}, IT: "CENTRAL", ID: code,
		RD: []ocmf.Reading{reading(importOBIS, m.importMWh), reading(exportOBIS, m.exportMWh)}})
}

// publicKey is the DER SPKI that stands on the meter's label.
func (m *meter) publicKey() ([]byte, error) {
	if m.key == nil {
		return nil, nil
	}
	return x509.MarshalPKIXPublicKey(&m.key.PublicKey)
}

// forge raises the import reading of a record after it was signed.
func forge(record []byte, mwh int64) []byte {
	old := fmt.Sprintf(`"RV":%s,"RI":"%s"`, ocmf.FormatEnergy(mwh), importOBIS)
	raised := fmt.Sprintf(`"RV":%s,"RI":"%s"`, ocmf.FormatEnergy(mwh+10_000_000), importOBIS)
	return bytes.Replace(record, []byte(old), []byte(raised), 1)
}
