package ocmf_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"

	"gridveil/ev/ocmf"
)

// A meter signs begin and end of a session in one record; another session's record is refused.
func ExampleCheck() {
	meter, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	label, _ := x509.MarshalPKIXPublicKey(&meter.PublicKey)
	key, err := ocmf.NewKey(label) // confirmed by the owner when the wallbox was paired
	if err != nil {
		fmt.Println(err)
		return
	}
	good := ocmf.Reading{At: 1_700_000_000_000, Sync: 'S', TX: 'B', Value: "100.000", RI: "1-0:1.8.0", RU: "kWh", ST: "G"}
	end := good
	end.At, end.TX, end.Value = good.At+3_600_000, 'E', "107.345"
	record, err := ocmf.Sign(meter, ocmf.Payload{FV: "1.0", MS: "M1", PG: ocmf.Page{Context: 'T', Number: 7},
		IT: "LOCAL", ID: "ABCDEFGHIJKLMNOP", RD: []ocmf.Reading{good, end}})
	if err != nil {
		fmt.Println(err)
		return
	}
	signed, err := ocmf.Check([][]byte{record}, key, "ABCDEFGHIJKLMNOP")
	fmt.Println(signed.ImportMWh, signed.TimeOK, err)

	_, err = ocmf.Check([][]byte{record}, key, "ANOTHERSESSION22")
	var refused *ocmf.ErrOCMF
	fmt.Println(errors.As(err, &refused), err)
	// Output:
	// 7345000 true <nil>
	// true ocmf: record 0 refused: code
}
