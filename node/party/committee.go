package party

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"gridveil/node/role"
	"gridveil/privacy/committee"
)

// Files of the openers in a data directory. Founders hand the first out with the
// network bundle; the second is one seat's secret.
const (
	CommitteeFile = "committee.pub"
	ShareFile     = "opener.share"
)

// ErrCommittee means that a text is no committee's public key, or no seat's share.
var ErrCommittee = errors.New("openers' key is malformed")

// ErrNoCommittee means that the openers' public key is not installed.
var ErrNoCommittee = errors.New("the network has no committee of openers")

// EncodeCommittee writes the text of CommitteeFile: Y and, so that a wrong seat
// can be named, its five parts, 384 hexadecimal digits.
func EncodeCommittee(pub committee.Public) string {
	b := append([]byte{}, pub.Y[:]...)
	for _, y := range pub.Seats {
		b = append(b, y[:]...)
	}
	return hex.EncodeToString(b) + "\n"
}

// ParseCommittee is the inverse of EncodeCommittee. 64 digits are Y alone, which
// suffices to issue pseudonyms, but not to open one.
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

// LoadCommittee reads CommitteeFile; it returns ErrNoCommittee without one.
func LoadCommittee(env *role.Env) (committee.Public, error) {
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
	return pub, nil
}

// EncodeShare writes the text of ShareFile. It is secret.
func EncodeShare(s committee.Share) string { return hex.EncodeToString(s.Bytes()) + "\n" }

// loadShare reads this node's share and checks that it belongs to the committee.
func loadShare(env *role.Env) (committee.Share, error) {
	pub, err := LoadCommittee(env)
	if err != nil {
		return committee.Share{}, err
	}
	b, err := os.ReadFile(env.Config.Path(ShareFile))
	if err != nil {
		return committee.Share{}, fmt.Errorf("seat's share: %w", err)
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil {
		return committee.Share{}, fmt.Errorf("%s: %w", ShareFile, ErrCommittee)
	}
	return committee.ParseShare(raw, &pub)
}
