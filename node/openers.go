package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"gridveil/ledger/durable"
	"gridveil/node/identity"
	"gridveil/node/party"
	"gridveil/privacy/committee"
)

// DealOpeners draws the key with which a quorum of openers can open one disputed
// pseudonym, and writes into a network folder committee.pub, for every utility,
// and opener-N.share, for the node of each seat (as opener.share). It gives the
// number of seats. The dealer must delete the shares once they are handed out.
func DealOpeners(networkDir string) (seats int, err error) {
	pubFile := filepath.Join(networkDir, party.CommitteeFile)
	if _, err := os.Stat(pubFile); err == nil {
		return 0, fmt.Errorf("%s is already there: a second key could not open what the first one closed", pubFile)
	}
	if _, err := os.Stat(filepath.Join(networkDir, identity.BundleFile)); err != nil {
		return 0, fmt.Errorf("%s is no network folder: %w", networkDir, err)
	}
	pub, shares, err := committee.Deal(rand.Reader)
	if err != nil {
		return 0, fmt.Errorf("deal the openers' key: %w", err)
	}
	for i, s := range shares {
		name := filepath.Join(networkDir, fmt.Sprintf("opener-%d.share", i+1))
		if err := durable.WriteFile(name, []byte(party.EncodeShare(s))); err != nil {
			return 0, err
		}
	}
	return len(shares), durable.WriteFile(pubFile, []byte(party.EncodeCommittee(pub)))
}

// takeCommittee copies the openers' public key of a network folder, if it was
// dealt there.
func takeCommittee(dir, networkDir string) error {
	b, err := os.ReadFile(filepath.Join(networkDir, party.CommitteeFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("openers' key: %w", err)
	}
	return durable.WriteFile(filepath.Join(dir, party.CommitteeFile), b)
}
