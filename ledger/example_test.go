package ledger_test

import (
	"crypto/ed25519"
	"fmt"

	"gridveil/ledger"
)

// Two utilities and an aggregator found a ledger; one pays the other 12.50.
func Example() {
	const origin = "example.org/settlement"
	key := func(b byte) ed25519.PrivateKey {
		seed := [32]byte{b}
		return ed25519.NewKeyFromSeed(seed[:])
	}
	keys := []ed25519.PrivateKey{key(1), key(2), key(3)}
	genesis := &ledger.Genesis{Rules: 1, Origin: origin, Network: "example", Params: ledger.DefaultParams(),
		Currencies: []ledger.Currency{{ISO4217: 978, Exp: 2}}}
	for i, name := range []string{"Aggregator", "Town Energy", "Village Energy"} {
		role := ledger.Utility
		if i == 0 {
			role = ledger.Aggregator
		}
		genesis.Parties = append(genesis.Parties, ledger.Party{Party: ledger.PartyID(i + 1), Role: role, Limit: 100_000_000,
			Name: name, Pub: [32]byte(keys[i].Public().(ed25519.PublicKey))})
	}
	transfer := &ledger.Transfer{From: ledger.OpenAccount(2, 0), To: ledger.OpenAccount(3, 0), X: 12_500_000, Purpose: ledger.PurposeFeedIn}

	state := ledger.New(origin)
	submit := func(author ledger.PartyID, body ledger.Body, signers ...ed25519.PrivateKey) {
		e, err := ledger.NewEntry(author, state.NextSeq(author), body)
		if err == nil {
			err = ledger.Sign(e, origin, signers...)
		}
		if err == nil {
			e, err = ledger.Parse(e.Bytes()) // as it arrives at a writer or verifier
		}
		var checks []ledger.Check
		if err == nil {
			checks, err = state.Checks(e)
		}
		if err == nil {
			err = ledger.VerifyOne(checks)
		}
		if err == nil {
			_, err = state.Apply(e)
		}
		if err != nil {
			fmt.Println(err)
		}
	}
	submit(1, genesis, keys...)
	submit(2, transfer, keys[1])
	submit(2, transfer, keys[2]) // signed by the wrong utility
	fmt.Println(ledger.Amount(state.Balance(ledger.OpenAccount(2, 0))), ledger.Amount(state.Balance(ledger.OpenAccount(3, 0))))
	// Output:
	// signers are not exactly those the kind demands: party 3 signs, but is not asked to
	// -12.500000 12.500000
}
