package node

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/node/party"
)

// What commands print of a ledger.
type (
	// LedgerReport sums up a ledger that was verified or exported.
	LedgerReport = export.Report
	// LedgerStatement lists what moved on one owner's books in a period.
	LedgerStatement = export.Statement
	// BackupHead says what a backup holds.
	BackupHead = export.BackupHead
)

// givenPolicy reads a policy file; without a name there is none.
func givenPolicy(file string) (*ledger.Policy, error) {
	if file == "" {
		return nil, nil
	}
	return readPolicy(file)
}

// ArchivedProof is the .tlog-proof of an entry of an exported ledger.
func ArchivedProof(dir string, index uint64) (string, error) {
	p, err := export.Prove(dir, index)
	if err != nil {
		return "", err
	}
	return string(p.Encode()), nil
}

// ArchivedStatement is a statement out of an exported ledger.
func ArchivedStatement(dir, who string, period uint32, currency string) (export.Statement, error) {
	book, err := export.OpenBook(dir)
	if err != nil {
		return export.Statement{}, err
	}
	return party.StatementOf(book, who, period, currency)
}

// ProofReport says what a .tlog-proof proves.
type ProofReport struct {
	Origin    string   `json:"origin"`
	Index     uint64   `json:"index"`
	Leaf      string   `json:"leaf"`
	Size      uint64   `json:"size"` // of the log at the checkpoint
	Cosigners []string `json:"cosigners"`
}

// VerifyProof checks a .tlog-proof file: that the entry with the leaf hash
// (hexadecimal) is in the log of the policy, under its quorum.
func VerifyProof(file, leaf, policyFile string) (r ProofReport, err error) {
	if policyFile == "" {
		return r, errors.New("a proof needs the policy of its log\nnext: give --policy FILE, from somebody you trust; every export holds one")
	}
	policy, err := readPolicy(policyFile)
	if err != nil {
		return r, err
	}
	hash, err := hex.DecodeString(leaf)
	if err != nil || len(hash) != len(ledger.Hash{}) {
		return r, errors.New("leaf: want the 64 hexadecimal digits that the entry's page shows")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return r, fmt.Errorf("proof: %w", err)
	}
	p, err := ledger.ParseProof(b)
	if err != nil {
		return r, fmt.Errorf("%s: %w", file, err)
	}
	c, err := p.Verify(policy, ledger.Hash(hash))
	if err != nil {
		return r, fmt.Errorf("%s proves nothing: %w", file, err)
	}
	_, cosigners, err := policy.Open(p.Checkpoint)
	return ProofReport{Origin: c.Origin, Index: p.Index, Leaf: leaf, Size: c.Size, Cosigners: cosigners}, err
}

// CheckBackup proves that a backup replays to the root that its head states.
func CheckBackup(dir, policyFile string) (export.BackupHead, error) {
	policy, err := givenPolicy(policyFile)
	if err != nil {
		return export.BackupHead{}, err
	}
	return export.CheckBackup(dir, policy)
}
