package node

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"gridveil/ledger"
	"gridveil/ledger/export"
)

// VerifyExport judges a ledger export by its files alone, with the policy in
// policyFile or, when that is empty, the one inside the export.
func VerifyExport(dir, policyFile string) (LedgerReport, error) {
	policy, err := givenPolicy(policyFile)
	if err != nil {
		return LedgerReport{}, err
	}
	return export.Verify(dir, policy)
}

// VerifyShards judges exports of logs that go on from each other, in their
// order, with the policy of the first.
func VerifyShards(dirs []string, policyFile string) ([]LedgerReport, error) {
	policy, err := givenPolicy(policyFile)
	if err != nil {
		return nil, err
	}
	return export.VerifyShards(dirs, policy)
}

// Conviction is what evidence shows.
type Conviction struct {
	Log    string  `json:"log"`
	Kind   string  `json:"kind"` // E1 to E4
	Shows  string  `json:"shows"`
	Sizes  []int64 `json:"sizes"`           // of the checkpoints
	Index  *uint64 `json:"index,omitempty"` // of the entry, for E3 and E4
	Leaf   string  `json:"leaf,omitempty"`  // hex, of that entry
	By     string  `json:"by,omitempty"`    // who objects, for E4
	Reason string  `json:"reason,omitempty"`
}

// VerifyEvidence judges a file of evidence by the policy of the log alone.
// receiptKeys are those of the log's writer, in hex, for a broken receipt. Its
// error says that the file convicts nobody.
func VerifyEvidence(file, policyFile string, receiptKeys []string) (c Conviction, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return c, err
	}
	e, err := ledger.ParseEvidence(b)
	if err != nil {
		return c, fmt.Errorf("%s: %w", file, err)
	}
	policy, err := readPolicy(policyFile)
	if err != nil {
		return c, err
	}
	var keys []ledger.Hash
	for _, text := range receiptKeys {
		k, err := hex.DecodeString(text)
		if err != nil || len(k) != len(ledger.Hash{}) {
			return c, fmt.Errorf("%w: a receipt key has 64 hex digits, got %q", ledger.ErrMalformed, text)
		}
		keys = append(keys, ledger.Hash(k))
	}
	if err := e.Check(policy, keys...); err != nil {
		return c, fmt.Errorf("%s convicts nobody: %w%s", file, err, hintFor(e, policy, len(keys)))
	}
	return convictionOf(e, policy)
}

// hintFor says what a reader may lack.
func hintFor(e *ledger.Evidence, policy *ledger.Policy, keys int) string {
	if e.Kind == ledger.BrokenPledge && keys == 0 {
		return "\nnext: name the receipt key of the log's aggregator with --receipt-key; the ledger's entries of kind key hold it"
	}
	if e.Kind == ledger.BadEntry {
		if err := e.Objection.Verify(policy); errors.Is(err, ledger.ErrSignature) {
			return "\nnext: add the witness line of who objects to the policy, or replay the log yourself: gridveil verifier --once --log URL --policy FILE"
		}
	}
	return ""
}

func convictionOf(e *ledger.Evidence, policy *ledger.Policy) (Conviction, error) {
	c := Conviction{Log: policy.Log.Name(), Kind: fmt.Sprintf("E%d", e.Kind), Shows: e.Kind.String()}
	for _, note := range [][]byte{e.A, e.B} {
		if note == nil {
			continue
		}
		k, _, err := policy.Open(note)
		if err != nil {
			return c, err
		}
		c.Sizes = append(c.Sizes, int64(k.Size))
	}
	switch e.Kind {
	case ledger.BrokenPledge:
		c.Index, c.Leaf = &e.Receipt.Index, hex.EncodeToString(e.Leaf[:])
	case ledger.BadEntry:
		c.Index, c.Leaf = &e.Objection.Index, hex.EncodeToString(e.Objection.Leaf[:])
		c.By, c.Reason = e.Objection.Witness, e.Objection.Code.Err().Error()
	}
	return c, nil
}
