package privacy_test

import (
	"crypto/rand"
	"fmt"

	"gridveil/privacy"
)

// A wallet seals a message to an aggregator, which answers in the same exchange
// without learning who asked.
func Example() {
	net := privacy.Net{'d', 'e', 'm', 'o'}
	aggregator, err := privacy.NewBoxKey(rand.Reader, privacy.SuiteX25519)
	if err != nil {
		fmt.Println(err)
		return
	}
	box, wallet, err := privacy.Seal(rand.Reader, aggregator.Suite, aggregator.Pub, privacy.KindBox, net, []byte("may I charge?"))
	if err != nil {
		fmt.Println(err)
		return
	}
	question, exporter, err := privacy.Open(aggregator, privacy.KindBox, net, box)
	if err != nil {
		fmt.Println(err)
		return
	}
	reply, err := exporter.Seal(rand.Reader, privacy.KindAuthInner, []byte("yes"))
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := wallet.Open(privacy.KindAuthInner, reply)
	fmt.Printf("%d bytes: %s %s %v\n", len(box), question, answer, err)
	// Output: 560 bytes: may I charge? yes <nil>
}
