package site

import "gridveil/node/web"

// sight is what the parties of one kind cannot see, each with its reason.
// Source: doc/design.md; every row is held by a test of privacy/internal/world
// or mesh.
type sight struct {
	is    string   // what the party is for, in a sentence
	never []string // what it cannot see, and why
}

var sights = map[string]sight{
	"home": {"A home: it reads its meter, hides its load behind its battery and lets guests charge.", []string{
		"Who drives the guest's car, and which utility pays: the certificate is sealed to the aggregator, and all answers have one size.",
		"Whether a guest has been here before: every session uses new keys, and the home never gets the session's name on the ledger.",
		"What any other home uses: readings are sealed to the utility, and the zone's sum is opened only as a sum.",
	}},
	"ssn": {"The neighbourhood's node: it passes on reports, alarms and onion packets of its zone.", []string{
		"Any reading: reports are signed by the home and sealed to the head-end with a key of the day.",
		"Who talks to whom by onion: it peels one layer of three, holds packets back for a random time, and sends as many when nothing is said.",
		"That a car charges anywhere: sessions pass it as packets of one size like all others.",
		"What a home adds to the zone's sum: it gets one of two random shares; only both sums together make a number.",
	}},
	"headend": {"The meter collector of the grid company: it opens reports, checks them and passes them to billing.", []string{
		"When somebody cooks or is at home, where a battery masks: the meter itself measured the mask.",
		"Names and addresses: usage points are random numbers; the customer's name is with the utility alone.",
		"Any charging session: no message of a session is addressed to it.",
		"Readings of older days from recorded traffic: each day's key is destroyed three days later.",
	}},
	"utility": {"A utility: it bills its customers and signs for what they charged elsewhere.", []string{
		"As the home's utility: that a guest charged there. No message of a session is addressed to it, and notes come home in equal steps of EUR 20.00 for five different reasons.",
		"As the driver's utility: where, at what hour and at whose house its customer charged. The bill line has no field for it.",
		"Which certificate a customer used: it forgets it on issuing; it can bill only with the key that the driver reveals.",
		"The load of a masked home minute by minute: it gets registers of the ordered period, and they count the mask.",
	}},
	"aggregator": {"The settlement node: it admits sessions, writes the ledger and pays with blind notes.", []string{
		"Who the driver is: it sees a one-time certificate of a utility; opening it takes three of five openers and an entry that everybody can read.",
		"Which house hosted: hosts show a blind-signed pass of their zone and a key for this one session.",
		"Whether two sessions belong to one driver: they share no value. Of one host neither, unless it offers flexibility: its meter's key is in every offer.",
		"Where a note is spent: it signed it blind.",
		"The signed meter record, unless the car followed a grid operator's instruction, or nobody stood by: only its salted hash is inside.",
	}},
	"verifier": {"An independent check: it replays every entry of the ledger and signs only what it came to itself.", []string{
		"What a session cost or how much energy flowed: the entry holds a hiding commitment; only sums of many sessions are opened.",
		"Any household or driver: they are never parties of the ledger.",
		"Which entry a host or driver belongs to: hosts never learn the session's name, and only the aggregator could tell the driver.",
	}},
	"wallet": {"A driver's phone: it holds one-time certificates, agrees to prices and keeps receipts.", []string{
		"Whose house it is: the host shows a key made for this one session.",
		"What the house uses or what others charged there.",
	}},
}

// Is says what parties of a kind are for.
func Is(kind string) string { return sights[kind].is }

// Never lists what parties of a kind cannot see, each with its reason.
func Never(kind string) []string { return sights[kind].never }

// Learned is what a session told its parties: the variable part of the table.
type Learned struct {
	Energy, Amount string // as the session page writes them
	Zone, Utility  string // host's zone, driver's utility; "" where the viewer does not know them
	Shown          bool   // the signed meter record went to the aggregator
	Offered        bool   // it was offered to the pool, with the meter's key
	Moved          bool   // it followed a grid operator's instruction: the record was shown for it
	Trusted        bool   // it began while the aggregator was away: the house was shown the utility
	Refused        bool   // the house refused the meter's record, so nothing was settled
	Onion          bool   // the session travelled by onion
}

// Knows tells who learned what of one session. Source: the table in
// doc/design.md on who learns what.
func Knows(l Learned) []web.Knows {
	rows := []web.Knows{l.house(), {Party: "The driver", Learned: "prices, each tick, the meter's signed record", NotLearned: "the householder", Because: "the host shows a key made for this session"},
		{Party: "The house's utility", Learned: "nothing", NotLearned: "that a car was there", Because: "no message is addressed to it; notes look alike for five reasons"}}
	relays := web.Knows{Party: "Relays", Learned: l.relays(), NotLearned: "sender and content", Because: "three layers, one size, sent as often when nothing is said"}
	if l.Refused {
		return append(rows, web.Knows{Party: "The driver's utility" + named(l.Utility), Learned: "nothing", NotLearned: "that its customer tried to charge", Because: "nothing is billed"},
			web.Knows{Party: "The aggregator", Learned: "the driver's utility, zone" + named(l.Zone) + ", the quarter of an hour in which it was asked", NotLearned: "driver, house, energy", Because: "one-time certificate, blind pass; a refused record is not sent"}, relays)
	}
	return append(rows, web.Knows{Party: "The driver's utility" + named(l.Utility), Learned: "contract, day, energy to 100 Wh, amount", NotLearned: "house, zone, hour", Because: "the bill line has no field for them, and it forgot the certificate when it issued it"},
		l.aggregator(), relays,
		web.Knows{Party: "Everybody, on the ledger", Learned: "one more session of that utility on that day", NotLearned: "energy, amount, place, people", Because: "a hiding commitment; sums are opened for many sessions at once"})
}

func (l Learned) house() web.Knows {
	k := web.Knows{Party: "The house", Learned: "that a guest is allowed, " + l.Energy + ", " + l.Amount + ", the car's power", NotLearned: "the driver, the driver's utility, whether the guest came before",
		Because: "the certificate is in a box for the aggregator, answers have one size, keys are new"}
	if l.Trusted {
		k.Learned += ", and, since the aggregator was away, the driver's utility" + named(l.Utility)
		k.NotLearned = "the driver, whether the guest came before"
	}
	return k
}

func (l Learned) aggregator() web.Knows {
	evidence := "the salted hash of the meter's record"
	if l.Shown {
		evidence = "the meter's signed record, since it pays for energy fed out or nobody stood by"
	}
	notLearned, because := "driver, house, whether either came before", "one-time certificate, blind pass, no value is used twice"
	if l.Offered {
		evidence += ", the meter's key and the plan, since the session was offered to the pool"
		notLearned, because = "driver, whether it came before", "one-time certificate; the meter's key links sessions that are offered, and only those"
	}
	if l.Moved {
		evidence += ", the meter's signed record, since it proves what the grid operator paid for"
	}
	return web.Knows{Party: "The aggregator", Learned: "the driver's utility, zone" + named(l.Zone) + ", quarter of an hour, " + l.Energy + ", " + l.Amount + ", " + evidence,
		NotLearned: notLearned, Because: because}
}

func (l Learned) relays() string {
	if l.Onion {
		return "that packets pass"
	}
	return "that the house talks to the aggregator: class lab, no onion delays"
}

func named(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
