package p1_test

import (
	"fmt"

	"gridveil/node/meter/p1"
	"gridveil/node/model"
)

func Example() {
	raw := p1.Telegram{Ident: "GVL5EXAMPLE", CRC: true, Objects: []p1.Object{
		{Code: "1-3:0.2.8", Values: []string{"50"}},
		{Code: "1-0:1.8.1", Values: []string{"000004.426*kWh"}},
		{Code: "1-0:1.8.2", Values: []string{"000002.399*kWh"}},
	}}.Encode()
	f, err := p1.Decode(raw, p1.Options{})
	n, _ := f.Get(model.ImportTotal)
	fmt.Println(n, "mWh,", f.Integrity, err)
	raw[30] ^= 1
	_, err = p1.Decode(raw, p1.Options{})
	fmt.Println(err)
	// Output:
	// 6825000 mWh, checksum <nil>
	// meter: invalid frame: p1: checksum differs; check the cable and the baud rate
}
