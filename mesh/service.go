package mesh

import (
	"fmt"

	"gridveil/mesh/lane"
	"gridveil/mesh/member"
	"gridveil/mesh/mix"
)

// Service names what a request asks for. The numbers are wire values; those below 256 travel on lanes between
// neighbours, the others by onion.
type Service uint16

// Services between neighbours.
const (
	Alarm        Service = 1  // an event that must be known at once; durable ack
	AlarmView    Service = 2  // head-end shows alarms to the utility
	FeedNow      Service = 3  // urgent registers, parent to leaf
	Feed         Service = 4  // other registers, parent to leaf
	Sync         Service = 5  // registers that the asker lacks
	Cert         Service = 6  // certificates by hash
	Renew        Service = 7  // next certificate for a member
	Probe        Service = 8  // are you there
	ReadNow      Service = 9  // reading on demand
	LedgerSubmit Service = 10 // entries for the ledger
	Cosign       Service = 11 // checkpoints to sign
	Lines        Service = 12 // bill lines and settlement co-signing
	AggPrep      Service = 13 // seats of a private sum agree on it
	Ack          Service = 14 // final acknowledgement of a report, on its way back
	Opener       Service = 15 // partial openings of a dispute
	Report       Service = 16 // meter reports
	Backfill     Service = 17 // older reports
	Order        Service = 18 // commands to a meter
	Readings     Service = 19 // billing readings, head-end to utility
	Tiles        Service = 20 // ledger tiles
	Firmware     Service = 21 // images in chunks
	Announce     Service = 22 // a relaying home's directory register, to be spread
	DialBack     Service = 23 // does a relaying home's address answer
)

// Services by onion: the recipient learns no sender.
const (
	EVAuth        Service = 256 // authorise a session
	EVRecord      Service = 257 // a finished session's record
	EVCollect     Service = 258 // poll for results
	AggShare      Service = 259 // one share of a private sum
	Notes         Service = 260 // blind notes: collect, swap, redeem
	Dispute       Service = 261
	ReceiptSample Service = 262 // a receipt, for a verifier's sample
	Deck          Service = 263 // pseudonyms for a wallet, day identities for a meter
	Pass          Service = 264 // host passes for a gateway
	Mailbox       Service = 265 // boxes for who is away: open, put, get, done, close
	Decoy         Service = 266 // nothing, in the shape of EVAuth; the recipient's onion answers it
)

// Class is the timing of an onion message.
type Class = mix.Class

// Onion classes.
const (
	Meter   = mix.ClassMeter   // in slots, with cover: hides sender, recipient, time, and that anything is sent
	Session = mix.ClassSession // at once; hides sender from recipient, timing shows on the sender's link
	Lab     = mix.ClassLab     // no delay, no cover; only where the bundle's policy allows it
)

// roles is a set of roles.
type roles uint16

func of(rs ...member.Role) roles {
	var s roles
	for _, r := range rs {
		s |= 1 << r
	}
	return s
}

func (s roles) has(r member.Role) bool { return r.Valid() && s&(1<<r) != 0 }

var (
	gateway    = of(member.RoleGateway)
	wallet     = of(member.RoleWallet)
	ssn        = of(member.RoleSSN)
	headend    = of(member.RoleHeadend)
	utility    = of(member.RoleUtility)
	aggregator = of(member.RoleAggregator)
	verifier   = of(member.RoleVerifier)
	leaves     = gateway | wallet
	backbone   = ssn | headend | utility | aggregator | verifier
	anyone     = leaves | backbone
)

// rule says how a service travels and who may ask whom. No rule, no service.
type rule struct {
	name  string
	lane  lane.Lane // services between neighbours
	class Class     // services by onion
	pairs [][2]roles
}

// rules is the only place that decides who may call what. Source: doc/design.md, services.
var rules = map[Service]rule{
	Alarm:     {name: "alarm", lane: lane.Alarm, pairs: [][2]roles{{gateway, ssn}, {ssn, headend}}},
	AlarmView: {name: "alarm.view", lane: lane.Alarm, pairs: [][2]roles{{headend, utility}}},
	FeedNow:   {name: "feed.now", lane: lane.Alarm, pairs: [][2]roles{{backbone, leaves}}},

	Feed:    {name: "feed", lane: lane.Normal, pairs: [][2]roles{{backbone, leaves}}},
	Sync:    {name: "sync", lane: lane.Normal, pairs: [][2]roles{{anyone, backbone}}},
	Cert:    {name: "cert", lane: lane.Normal, pairs: [][2]roles{{anyone, backbone}}},
	Renew:   {name: "renew", lane: lane.Normal, pairs: [][2]roles{{anyone, backbone}}},
	Probe:   {name: "probe", lane: lane.Normal, pairs: [][2]roles{{anyone, backbone}, {backbone, leaves}}},
	ReadNow: {name: "read-now", lane: lane.Normal, pairs: [][2]roles{{utility, headend}, {headend, ssn}, {ssn, gateway}}},
	Ack:     {name: "ack", lane: lane.Normal, pairs: [][2]roles{{headend, ssn}, {ssn, gateway}}},

	Announce: {name: "announce", lane: lane.Normal, pairs: [][2]roles{{gateway, ssn}}},
	DialBack: {name: "dial-back", lane: lane.Normal, pairs: [][2]roles{{gateway, ssn}}},

	LedgerSubmit: {name: "ledger.submit", lane: lane.Normal, pairs: [][2]roles{{backbone, aggregator}}},
	Cosign:       {name: "cosign", lane: lane.Normal, pairs: [][2]roles{{aggregator, utility | verifier}, {utility | verifier, aggregator}}},
	Lines:        {name: "lines", lane: lane.Normal, pairs: [][2]roles{{aggregator, utility}}},
	AggPrep:      {name: "agg.prep", lane: lane.Normal, pairs: [][2]roles{{ssn, backbone}, {backbone, ssn}}},
	Opener:       {name: "opener", lane: lane.Normal, pairs: [][2]roles{{aggregator | utility, backbone}}},

	Report:   {name: "report", lane: lane.Bulk, pairs: [][2]roles{{gateway, ssn}, {ssn, headend}}},
	Backfill: {name: "backfill", lane: lane.Bulk, pairs: [][2]roles{{gateway, ssn}, {ssn, headend}}},
	Order:    {name: "order", lane: lane.Bulk, pairs: [][2]roles{{utility, headend}, {headend, ssn}, {ssn, gateway}}},
	Readings: {name: "readings", lane: lane.Bulk, pairs: [][2]roles{{headend, utility}}},
	Tiles:    {name: "tiles", lane: lane.Bulk, pairs: [][2]roles{{backbone, backbone}}},
	Firmware: {name: "firmware", lane: lane.Bulk, pairs: [][2]roles{{headend, ssn}, {ssn, gateway}}},

	EVAuth:        {name: "ev.auth", class: Session, pairs: [][2]roles{{leaves, aggregator}}},
	EVRecord:      {name: "ev.record", class: Meter, pairs: [][2]roles{{leaves, aggregator}}},
	EVCollect:     {name: "ev.collect", class: Meter, pairs: [][2]roles{{leaves, aggregator}}},
	AggShare:      {name: "agg.share", class: Meter, pairs: [][2]roles{{gateway, backbone}}},
	Notes:         {name: "notes", class: Meter, pairs: [][2]roles{{leaves, aggregator | utility}}},
	Dispute:       {name: "dispute", class: Meter, pairs: [][2]roles{{leaves, aggregator | utility}}},
	ReceiptSample: {name: "receipt.sample", class: Meter, pairs: [][2]roles{{leaves, verifier}}},
	Deck:          {name: "deck", class: Meter, pairs: [][2]roles{{leaves, utility}}},
	Pass:          {name: "pass", class: Meter, pairs: [][2]roles{{gateway, aggregator}}},
	Mailbox:       {name: "mailbox", class: Meter, pairs: [][2]roles{{leaves, ssn}}},
	Decoy:         {name: "decoy", class: Session, pairs: [][2]roles{{leaves, aggregator}}},
}

// String gives the service's name, as in the design.
func (s Service) String() string {
	if r, ok := rules[s]; ok {
		return r.name
	}
	return fmt.Sprintf("service(%d)", uint16(s))
}

// Onion reports whether the service travels by onion.
func (s Service) Onion() bool { return rules[s].class != 0 }

// Class gives the timing class of an onion service, 0 for others.
func (s Service) Class() Class { return rules[s].class }

// Allowed says whether a member of role from may ask a member of role to for the service.
func (s Service) Allowed(from, to member.Role) bool {
	for _, p := range rules[s].pairs {
		if p[0].has(from) && p[1].has(to) {
			return true
		}
	}
	return false
}

// AllowedSender and AllowedRecipient say whether a role stands on either side of the service. By onion a recipient
// knows no sender, so each side checks its own.
func (s Service) AllowedSender(r member.Role) bool {
	for _, p := range rules[s].pairs {
		if p[0].has(r) {
			return true
		}
	}
	return false
}

// AllowedRecipient is AllowedSender for the other side.
func (s Service) AllowedRecipient(r member.Role) bool {
	for _, p := range rules[s].pairs {
		if p[1].has(r) {
			return true
		}
	}
	return false
}

// Carries says whether a member of role from may carry a guest's sealed request of class c to a member of role to:
// there must be a service that the carrier could ask for itself.
func Carries(c Class, from, to member.Role) bool {
	for s, r := range rules {
		if r.class != 0 && (r.class == c || c == Lab) && s.Allowed(from, to) {
			return true
		}
	}
	return false
}
