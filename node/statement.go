package node

import (
	"fmt"
	"os"

	"gridveil/ledger/export"
)

// ReadStatement reads a bank statement. What it says about payments that are not
// of a ledger is counted and dropped here, before anything reaches a node.
func ReadStatement(file string) (*export.BankStatement, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	defer f.Close()
	s, err := export.ParseStatement(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w\nnext: ask the bank for the statement as camt.053 or camt.054 in UTF-8, unaltered", file, err)
	}
	return s, nil
}
