package utility

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"gridveil/node/identity"
	"gridveil/node/role"
	"gridveil/privacy/committee"
)

// CommitteeFile holds the openers' public keys in a utility's data directory:
// Y and, so that a wrong seat can be named, its five parts, 384 hexadecimal
// digits (64 for Y alone). Founders hand it out with the network bundle.
const CommitteeFile = "committee.pub"

// ErrCommittee means that a text is no committee's public key.
var ErrCommittee = errors.New("openers' key is malformed")

// EncodeCommittee writes the text of CommitteeFile.
func EncodeCommittee(pub committee.Public) string {
	b := append([]byte{}, pub.Y[:]...)
	for _, y := range pub.Seats {
		b = append(b, y[:]...)
	}
	return hex.EncodeToString(b) + "\n"
}

// ParseCommittee is the inverse of EncodeCommittee. Y alone gives no parts.
func ParseCommittee(text string) (pub committee.Public, err error) {
	b, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil || len(b) != 32 && len(b) != 32*(1+committee.Seats) {
		return pub, fmt.Errorf("%w: want 384 hexadecimal digits, or 64 without the seats' parts", ErrCommittee)
	}
	pub.Y = [32]byte(b)
	if len(b) == 32 {
		return pub, nil
	}
	for i := range pub.Seats {
		pub.Seats[i] = [32]byte(b[32*(i+1):])
	}
	return pub, pub.Check()
}

// committeeOf reads CommitteeFile until it is there, and then remembers it.
func committeeOf(env *role.Env) func() (committee.Public, error) {
	var mu sync.Mutex
	var known *committee.Public
	return func() (committee.Public, error) {
		mu.Lock()
		defer mu.Unlock()
		if known != nil {
			return *known, nil
		}
		b, err := os.ReadFile(env.Config.Path(CommitteeFile))
		if errors.Is(err, os.ErrNotExist) {
			return committee.Public{}, ErrNoCommittee
		}
		if err != nil {
			return committee.Public{}, fmt.Errorf("openers' key: %w", err)
		}
		pub, err := ParseCommittee(string(b))
		if err != nil {
			return pub, fmt.Errorf("%s: %w", CommitteeFile, err)
		}
		known = &pub
		return pub, nil
	}
}

// Install writes the openers' public key into the data directory. It is never
// replaced: certificates under another key could not be opened any more.
func (u *Utility) Install(pub committee.Public) error {
	if err := pub.Check(); err != nil {
		return err
	}
	if old, err := u.settlement.openers(); err == nil {
		if old.Y != pub.Y {
			return errors.New("another committee is installed; its certificates could not be opened any more")
		}
		return nil
	}
	return identity.WriteFile(u.env.Config.Path(CommitteeFile), []byte(EncodeCommittee(pub)))
}
