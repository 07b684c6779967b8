package ask

import (
	"encoding/binary"
	"fmt"
)

// WeekBody asks for the week key of a zone (PassKey): week u32 | zone name. The
// answer is a WeekKey.
func WeekBody(week uint32, zone string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, week), zone...)
}

// ParseWeekBody is the inverse of WeekBody.
func ParseWeekBody(b []byte) (week uint32, zone string, err error) {
	if len(b) < 5 || len(b) > 4+maxZone {
		return 0, "", fmt.Errorf("%w: %d bytes ask for a week key", ErrBody, len(b))
	}
	return binary.BigEndian.Uint32(b), string(b[4:]), nil
}

// RedeemBody is what Redeem carries: the contract to credit, which the notes are
// bound to, and the notes.
func RedeemBody(contract [16]byte, request []byte) []byte {
	return append(contract[:len(contract):len(contract)], request...)
}

// ParseRedeemBody is the inverse of RedeemBody; note.ParseRedeemRequest reads
// the rest.
func ParseRedeemBody(b []byte) (contract [16]byte, request []byte, err error) {
	if len(b) < len(contract) {
		return contract, nil, fmt.Errorf("%w: redeem of %d bytes", ErrBody, len(b))
	}
	return [16]byte(b), b[16:], nil
}

// Booked asks the aggregator, over mesh.Dispute, for the cdr entry of one's own
// session: body ref[32], answer Proven; not yet while no checkpoint covers it.
const Booked Op = 18
