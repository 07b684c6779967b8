package judge

import (
	"encoding/hex"
	"math/big"
	"testing"

	"github.com/cloudflare/circl/group"
)

// Multiples 1, 2 and 15 of the generator: RFC 9496, appendix A.1.
func TestMultiplesOfTheGeneratorAreThoseOfRFC9496(t *testing.T) {
	for k, want := range map[int64]string{
		0:  "0000000000000000000000000000000000000000000000000000000000000000",
		1:  "e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76",
		2:  "6a493210f7499cd17fecb510ae0cea23a110e8d5b901f8acadd3095c73a3b919",
		15: "e0c418f7c8d9c4cdd7395b93ea124f3ad99021bb681dfc3302a9d99a2e53e64e",
	} {
		e := Base().Mul(big.NewInt(k)).Encode()
		if got := hex.EncodeToString(e[:]); got != want {
			t.Errorf("%d*G: got %s, want %s", k, got, want)
		}
	}
}

func TestHashToElementAgreesWithCircl(t *testing.T) {
	for _, msg := range []string{"", "blind", "cdr/1", "a longer message than one block would need to be hashed twice over and over again, to be sure of it"} {
		got := Hash(msg, "gridveil/commit/v1").Encode()
		b, err := group.Ristretto255.HashToElement([]byte(msg), []byte("gridveil/commit/v1")).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if want := [32]byte(b); got != want {
			t.Errorf("hash of %q: got %x, want %x", msg, got, want)
		}
	}
}

// Encodings that RFC 9496, appendix A.2, lists as invalid.
func TestBadEncodingsAreRefused(t *testing.T) {
	for _, s := range []string{
		"00ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", // not canonical
		"0100000000000000000000000000000000000000000000000000000000000000", // negative
		"26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371", // no square
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p itself
	} {
		b, _ := hex.DecodeString(s)
		if _, err := Decode([32]byte(b)); err == nil {
			t.Errorf("Decode(%s): got no error", s)
		}
		if err := group.Ristretto255.NewElement().UnmarshalBinary(b); err == nil {
			t.Errorf("circl decodes %s", s)
		}
	}
}
