package packet_test

import (
	"fmt"
	"math/rand/v2"

	"gridveil/mesh/packet"
)

// once is a replay table for one packet.
type once struct{}

func (once) Insert([16]byte) error { return nil }

func Example() {
	rnd := rand.NewChaCha8([32]byte{1}) // crypto/rand.Reader outside of examples
	var route []packet.Hop
	var keys []*packet.Key
	for i := range 4 {
		key, err := packet.NewKey(uint16(i), rnd)
		if err != nil {
			fmt.Println(err)
			return
		}
		keys = append(keys, key)
		route = append(route, packet.Hop{Node: packet.NodeKey{byte(i + 1)}, KeyID: key.ID, Key: key.Public})
	}
	pieces, err := packet.Split(packet.MessageID{1}, packet.MessageRequest, []byte("sealed bytes"))
	if err != nil {
		fmt.Println(err)
		return
	}
	var p packet.Packet
	if err := packet.Build(&p, route, packet.FlagDeliver, pieces[0], rnd); err != nil {
		fmt.Println(err)
		return
	}
	for _, key := range keys {
		step, err := packet.Unwrap(&p, key, once{})
		if err != nil {
			fmt.Println(err)
			return
		}
		if step.Flag == packet.FlagRelay {
			fmt.Printf("forward to node %d\n", step.Next[0])
		}
	}
	user, err := p.User()
	if err != nil {
		fmt.Println(err)
		return
	}
	fragment, err := packet.ParseFragment(user)
	fmt.Printf("%s %v\n", fragment.Data, err)
	// Output:
	// forward to node 2
	// forward to node 3
	// forward to node 4
	// sealed bytes <nil>
}
