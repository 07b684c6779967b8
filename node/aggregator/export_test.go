package aggregator

// Keys under which the tests store RSA keys that they made before.
var (
	MonthKey = monthKey
	PassKey  = func(zone uint16, week uint32) []byte { return passKey(passSlot{zone, week}) }
)

// LookAgain has the desk look for issuers and keys now, not at its next turn.
func (a *Aggregator) LookAgain() error { return a.refreshDesk() }
