package guest_test

import (
	"fmt"

	"gridveil/ev/guest"
)

func ExampleParseLink() {
	shown := guest.Link{Gateway: "192.168.178.20", EVSE: 1, Port: 8443, SPKI: [32]byte{0xa1, 0xb2}}
	fmt.Println(shown)

	scanned, err := guest.ParseLink(shown.String())
	fmt.Println(scanned.Door(), err)
	// Output:
	// http://192.168.178.20:8480/g/AQEg-6GyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
	// 192.168.178.20:8443 <nil>
}
