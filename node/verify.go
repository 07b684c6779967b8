package node

import "gridveil/ledger/export"

// VerifyExport judges a ledger export by its files alone, with the policy in
// policyFile or, when that is empty, the one inside the export.
func VerifyExport(dir, policyFile string) (export.Report, error) {
	policy, err := readPolicy(policyFile)
	if err != nil {
		return export.Report{}, err
	}
	return export.Verify(dir, policy)
}
