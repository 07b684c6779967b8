package model

// Object numbers the rows of the access matrix.
type Object uint8

// The 23 objects.
const (
	ObjClock Object = iota + 1
	ObjSync
	ObjInitial
	ObjReadingState
	ObjRegisters
	ObjUserProfile
	ObjCustomer
	ObjContract
	ObjTariffs
	ObjPowerLimit
	ObjVoltageLimit
	ObjQualityThresholds
	ObjAveraging
	ObjPowerFail
	ObjInterruptions
	ObjVoltage
	ObjAuthFailures
	ObjExcess
	ObjAlarms
	ObjBillImpact
	ObjDisconnect
	ObjFirmware
	ObjKeys
)

// Role is a column of the matrix, or one of the two roles beside it.
type Role uint8

// The roles. RoleUnknown may do nothing; the head-end is a custodian without a
// column: it acts for a caller.
const (
	RoleUnknown Role = iota
	RoleUser
	RoleBilling
	RoleDMS
	RoleSSN
	RoleSCADA
	RoleAdmin
	RoleAuditor
)

// String names the role.
func (r Role) String() string {
	return [...]string{"unknown", "user", "billing", "dms", "ssn", "scada", "admin", "auditor"}[min(r, RoleAuditor)]
}

// Verb is what a role wants to do with an object.
type Verb uint8

// The verbs.
const (
	VerbRead Verb = iota + 1
	VerbWrite
	VerbExecute
)

// Sphere is whose matter an object is.
type Sphere byte

// Customer data go to the contract's utility, technical data to the grid
// operator, strictly personal data stay on the local page.
const (
	SphereCustomer  Sphere = 'c'
	SphereTechnical Sphere = 't'
	SpherePersonal  Sphere = 'p'
)

// Keep is how long an object is kept.
type Keep byte

// The retention classes.
const (
	KeepLive     Keep = 'L' // not stored
	KeepQuality  Keep = 'Q' // 13 months
	KeepContract Keep = 'C' // contract + 3 years
	KeepBilling  Keep = 'B' // as billing law says
	KeepEvents   Keep = 'E' // 3 years
	KeepReplaced Keep = 'K' // until replaced
)

// Scope narrows a permitted verb.
type Scope uint8

// The scopes of a grant.
const (
	ScopeAll       Scope = iota // every object of the kind in the role's area
	ScopeOwn                    // the caller's own usage point or contracts
	ScopeOwnTamper              // own usage point, tamper alarms only
	ScopeTwoPerson              // only inside a quorum command
	ScopeUpdate                 // only on the update authority's order
)

// ObjectInfo is one row of the matrix.
type ObjectInfo struct {
	Object Object
	Text   string
	Code   string // OBIS or gridveil code
	Type   string // unit or shape
	Keep   Keep
	Sphere Sphere
	grants [5]string // user, billing, dms, ssn, scada: "", "r", "w", "rw", "x", "rx", "rwx"
}

// matrix is the access table, one row per object; doc/design.md prints it.
// A role without a letter for a verb is denied.
var matrix = []ObjectInfo{
	{ObjClock, "clock", "0-0:1.0.0", "ms", KeepLive, SphereTechnical, [5]string{"r", "r", "r", "rw", "r"}},
	{ObjSync, "last sync: time, source, uncertainty", "gv:sync", "ms", KeepQuality, SphereTechnical, [5]string{"", "r", "r", "r", "r"}},
	{ObjInitial, "initial date and register", "gv:init", "ms, mWh", KeepContract, SphereCustomer, [5]string{"r", "r", "", "r", ""}},
	{ObjReadingState, "reading state", "gv:state", "state", KeepContract, SphereCustomer, [5]string{"r", "r", "r", "r", "r"}},
	{ObjRegisters, "registers, load profile", "1-0:1.8.0-3, 2.8.0-3, 99.1.0", "mWh", KeepBilling, SphereCustomer, [5]string{"r", "r", "", "r", ""}},
	{ObjUserProfile, "user profile: contact, preferences", "gv:profile", "record", KeepContract, SpherePersonal, [5]string{"rw", "r", "", "", ""}},
	{ObjCustomer, "customer name, user id", "gv:customer", "text", KeepContract, SpherePersonal, [5]string{"r", "r", "", "", ""}},
	{ObjContract, "contract type, plan, start, end", "gv:contract", "record", KeepContract, SphereCustomer, [5]string{"r", "rw", "", "", ""}},
	{ObjTariffs, "tariffs and time bands", "0-0:13.0.0", "calendar", KeepContract, SphereCustomer, [5]string{"r", "rw", "", "r", ""}},
	{ObjPowerLimit, "power limit per band", "0-0:17.0.0", "mW", KeepContract, SphereCustomer, [5]string{"r", "r", "rw", "r", "r"}},
	{ObjVoltageLimit, "contractual voltage limit", "gv:vlimit", "mV", KeepContract, SphereTechnical, [5]string{"", "", "rw", "r", "r"}},
	{ObjQualityThresholds, "quality logger thresholds", "1-0:12.35.0, 12.31.0", "mV", KeepContract, SphereTechnical, [5]string{"", "", "r", "r", "rw"}},
	{ObjAveraging, "averaging interval, observation days", "gv:avg", "s, d", KeepContract, SphereTechnical, [5]string{"", "", "r", "r", "rw"}},
	{ObjPowerFail, "power-fail parameters, records, counters", "0-0:96.7.x, 99.97.0", "record", KeepQuality, SphereTechnical, [5]string{"", "", "r", "r", "rw"}},
	{ObjInterruptions, "voltage interruptions: threshold, records", "1-0:12.39.0", "mV, s", KeepQuality, SphereTechnical, [5]string{"", "", "r", "r", "r"}},
	{ObjVoltage, "voltage now, minimum and maximum", "1-0:32/52/72.7.0", "mV", KeepQuality, SphereTechnical, [5]string{"", "", "r", "r", "r"}},
	{ObjAuthFailures, "failed-authentication count", "gv:authfail", "count", KeepEvents, SphereTechnical, [5]string{"", "", "r", "r", "r"}},
	{ObjExcess, "power excess and reason", "gv:excess", "mWh", KeepBilling, SphereCustomer, [5]string{"r", "r", "r", "r", ""}},
	{ObjAlarms, "alarms: read, manage, acknowledge", "0-0:97.98.0", "record", KeepEvents, SphereTechnical, [5]string{"r", "", "r", "r", "rwx"}},
	{ObjBillImpact, "bill-impact report", "gv:impact", "record", KeepBilling, SphereCustomer, [5]string{"r", "r", "", "", "w"}},
	{ObjDisconnect, "disconnect flag and element", "0-0:96.3.10", "flag", KeepEvents, SphereCustomer, [5]string{"r", "r", "r", "r", "x"}},
	{ObjFirmware, "firmware image: activate", "0-0:44.0.0", "image", KeepReplaced, SphereTechnical, [5]string{"", "", "", "x", ""}},
	{ObjKeys, "keys, PINs", "0-0:43.0.0", "secret", KeepReplaced, SphereTechnical, [5]string{"", "", "", "", ""}},
}

// Info is the row of o; ok is false for a number outside the table.
func (o Object) Info() (ObjectInfo, bool) {
	if o < ObjClock || int(o) > len(matrix) {
		return ObjectInfo{}, false
	}
	return matrix[o-1], true
}

// Grants prints what a role holds on the row, as "RO", "RW", "WO", "E" or "-".
func (i ObjectInfo) Grants(r Role) string {
	letters := ""
	for _, v := range []Verb{VerbRead, VerbWrite, VerbExecute} {
		if ok, _ := May(r, i.Object, v); ok {
			letters += string("?rwx"[v])
		}
	}
	switch letters {
	case "":
		return "-"
	case "r":
		return "RO"
	case "w":
		return "WO"
	case "rw":
		return "RW"
	case "x":
		return "E"
	}
	return "RW+E"
}

// May decides every access: it says whether role may do verb on object, and
// within which scope. Everything not in the table is denied. Admin may replace
// keys and read nothing; Auditor reads only the audit log, which is no object.
func May(r Role, o Object, v Verb) (bool, Scope) {
	info, ok := o.Info()
	if !ok || v < VerbRead || v > VerbExecute {
		return false, ScopeAll
	}
	if r == RoleAdmin {
		return o == ObjKeys && v == VerbWrite, ScopeAll
	}
	if r < RoleUser || r > RoleSCADA {
		return false, ScopeAll
	}
	for _, held := range info.grants[r-RoleUser] {
		if held == rune("?rwx"[v]) {
			return true, scopeOf(r, o)
		}
	}
	return false, ScopeAll
}

func scopeOf(r Role, o Object) Scope {
	switch {
	case r == RoleUser && o == ObjAlarms:
		return ScopeOwnTamper
	case r == RoleUser, r == RoleBilling:
		return ScopeOwn
	case o == ObjDisconnect && r == RoleSCADA:
		return ScopeTwoPerson
	case o == ObjFirmware:
		return ScopeUpdate
	}
	return ScopeAll
}
