package node

import (
	"fmt"
	"os"

	"gridveil/ledger"
	"gridveil/ledger/export"
)

// VerifyExport judges a ledger export by its files alone, with the policy in
// policyFile or, when that is empty, the one inside the export.
func VerifyExport(dir, policyFile string) (export.Report, error) {
	var policy *ledger.Policy
	if policyFile != "" {
		b, err := os.ReadFile(policyFile)
		if err != nil {
			return export.Report{}, fmt.Errorf("policy: %w", err)
		}
		if policy, err = ledger.ParsePolicy(b); err != nil {
			return export.Report{}, fmt.Errorf("%s: %w", policyFile, err)
		}
	}
	return export.Verify(dir, policy)
}
