package verifier

import "gridveil/ledger"

// Prove makes the .tlog-proof of an entry under checkpoint c, whose note is msg,
// from our copy of the log. It returns ErrMalformed if c does not hold the entry.
func (v *Verifier) Prove(index uint64, c ledger.Checkpoint, msg []byte) (*ledger.Proof, error) {
	hashes, err := v.store.ProveInclusion(index, c)
	if err != nil {
		return nil, err
	}
	return &ledger.Proof{Index: index, Hashes: hashes, Checkpoint: msg}, nil
}
