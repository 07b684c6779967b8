package node

import (
	"fmt"
	"os"

	"gridveil/node/monthly"
)

// MonthStatement is a month's sessions of a wallbox or a wallet.
type MonthStatement = monthly.Statement

// JudgedStatement is what a month's statement shows by its file alone.
type JudgedStatement = monthly.Judgement

// JudgedSession is what one session's papers in a statement show.
type JudgedSession = monthly.Judged

// VerifyStatement judges a month's statement in JSON by its file alone, and the
// notes in it by the policy in policyFile; without one they are left open.
func VerifyStatement(file, policyFile string) (j JudgedStatement, err error) {
	policy, err := givenPolicy(policyFile)
	if err != nil {
		return j, err
	}
	f, err := os.Open(file)
	if err != nil {
		return j, fmt.Errorf("statement: %w", err)
	}
	defer f.Close()
	if j, err = monthly.Judge(f, policy); err != nil {
		return j, fmt.Errorf("%s: %w", file, err)
	}
	return j, nil
}
