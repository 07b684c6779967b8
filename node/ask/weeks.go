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
