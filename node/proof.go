package node

import (
	"context"
	"fmt"
	"io"
	"os"

	"gridveil/ledger/durable"
	"gridveil/mesh/member"
	"gridveil/node/control"
	"gridveil/node/evidence"
	"gridveil/node/identity"
)

// JudgedEvidence is what evidence of meter reports or of an event shows.
type JudgedEvidence = evidence.Judgement

// MeterEvidence asks the running node in dir for what proves a meter's reports, and
// writes it to a file for outsiders.
func MeterEvidence(ctx context.Context, dir string, q evidence.Query, file string) (j JudgedEvidence, err error) {
	var r evidence.Reported
	if err := control.Call(ctx, dir, "meter-evidence", q, &r); err != nil {
		return j, err
	}
	raw, j, err := r.File()
	if err != nil {
		return j, err
	}
	return j, durable.WriteFile(file, raw)
}

// AlarmEvidence asks the running node in dir for what proves an event, named by the
// beginning of its id, and writes it to a file for outsiders.
func AlarmEvidence(ctx context.Context, dir, id, file string) (j JudgedEvidence, err error) {
	var r evidence.Raised
	if err := control.Call(ctx, dir, "alarm-evidence", id, &r); err != nil {
		return j, err
	}
	raw, j, err := r.File()
	if err != nil {
		return j, err
	}
	return j, durable.WriteFile(file, raw)
}

// IsMeterEvidence says whether a file begins as evidence of reports or of an event
// does.
func IsMeterEvidence(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 64)
	n, _ := io.ReadFull(f, head) // a short file is none
	return evidence.Is(head[:n])
}

// VerifyMeterEvidence judges evidence of reports or of an event by the file alone
// and, where network names the rules of a network, by them: whose key signed.
func VerifyMeterEvidence(file, network string) (j JudgedEvidence, err error) {
	var rules *member.Bundle
	if network != "" {
		if rules, err = identity.ReadBundle(network); err != nil {
			return j, fmt.Errorf("%s: %w", network, err)
		}
	}
	f, err := os.Open(file)
	if err != nil {
		return j, err
	}
	defer f.Close()
	if j, err = evidence.Judge(f, rules); err != nil {
		return j, fmt.Errorf("%s: %w", file, err)
	}
	return j, nil
}
