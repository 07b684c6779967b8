package leak

// Message is a kind of message that leaves a house or a wallet. The numbers are
// stored in journals: they never change.
type Message byte

// Messages.
const (
	Offer        Message = 1
	Opening      Message = 2
	AuthRequest  Message = 3
	Tick         Message = 4
	Ack          Message = 5
	Close        Message = 6
	Signed       Message = 7
	Settlement   Message = 8
	ShownRecords Message = 9 // the signed meter records inside a settlement, where they must be shown
	ShownCert    Message = 10
	Lock         Message = 11
	CollectHost  Message = 12
	CollectBoxed Message = 13
	Swap         Message = 14
	Redeem       Message = 15
	PassRequest  Message = 16
	DeckRequest  Message = 17
	BillLine     Message = 18
	MeterReport  Message = 19 // LFID registers
	Alarm        Message = 20
	SumReport    Message = 21
	DayRequest   Message = 22
	OnionCell    Message = 23
	LedgerEntry  Message = 24
	Flex         Message = 25
	FlexAssent   Message = 26
	ShareAsk     Message = 27
	MailAddress  Message = 28
	Mail         Message = 29
	MailAsk      Message = 30
	ProofAsk     Message = 31
	ReadNow      Message = 32
	lastMessage          = ReadNow
)

// String names the message as the page does.
func (m Message) String() string {
	names := [...]string{"", "offer", "opening", "authorisation request", "tick", "ack", "close", "signed record", "settlement",
		"shown meter records", "shown certificate", "lock", "collect", "collect (boxed)", "swap", "redeem", "host pass request",
		"deck request", "bill line", "meter report", "alarm", "private sum report", "day certificates request", "onion packet",
		"ledger entry", "flexibility offer", "assent to a flexibility offer", "question for pool pay",
		"mailbox address", "mail", "mailbox request", "question for a proof", "reading on demand"}
	if m >= Offer && m <= lastMessage {
		return names[m]
	}
	return "unknown message"
}

// Numbers of values that fields can take, with their reasons.
const (
	random   = 1          // fresh for each use
	everyone = 1          // the same for all who take part
	prices   = 200        // multiples of 5000 millionths up to 1 unit
	power    = 40         // 100 W steps that occur: 11 sizes of connection and their halves
	quarter  = 96         // 15-minute times of a day
	second   = 86400      // of a day
	energy   = 800        // 100 Wh up to 80 kWh
	exactWh  = 80_000_000 // 1 mWh up to 80 kWh
	cents    = 8192       // up to 81.91
	zones    = 1 << 16    // of a network
	contract = 1 << 32    // names one customer
	bands    = 4          // 10, 20, 40, 80
	regs     = 10_000_000 // register values of 1 Wh a year
	ocmf     = 1 << 62    // names one meter, for ever
	weeks    = 53         // of a year
	reading  = 1          // one additive share is uniform
	ciphered = 1          // sealed to somebody else
	notes    = 1 << 20    // one of the month's notes: it names no session
	utility  = 64         // utilities of a network
	modes    = 8          // three bits
	forms    = 3          // signed, cut, unattended
	kinds    = 32         // of alarms
	sizes    = 6          // of a sealed report
	volts    = 400        // tenths of a volt around 230
)

var table = []Row{
	{Offer, Guest, "your prices, for one car", []Field{{"session key", Technical, Charging, random}, {"host pass", Technical, Who, everyone},
		{"meter commitment", Technical, Charging, random}, {"prices", Customer, Charging, prices * prices}, {"highest power", Technical, Charging, power}, {"mode", Customer, Charging, modes}}},
	{Opening, HostHome, "you accept an offer", []Field{{"session key", Technical, Charging, random}, {"band", Customer, Charging, bands}, {"sealed box", Customer, Charging, ciphered}}},
	{Opening, Aggregator, "the sealed box: may you charge?", []Field{{"certificate: your utility", Customer, Who, utility}, {"limit", Customer, Charging, bands},
		{"week", Customer, Charging, weeks}, {"bill key", Customer, Charging, random}, {"band", Customer, Charging, bands}}},
	{AuthRequest, Aggregator, "may this guest charge here?", []Field{{"zone of the pass", Technical, Who, zones}, {"prices", Customer, Charging, prices * prices},
		{"highest power", Technical, Charging, power}, {"time", Technical, Charging, quarter}}},
	{Tick, Guest, "what was charged so far", []Field{{"energy", Customer, Charging, exactWh}, {"amount", Customer, Charging, cents}, {"time", Technical, Charging, second}}},
	{Ack, HostHome, "you agree to it", []Field{{"time", Technical, Charging, second}}},
	{Close, Guest, "the result, with the meter's signature", []Field{{"meter key", Technical, Who, ocmf}, {"energy", Customer, Charging, exactWh},
		{"amounts", Customer, Charging, cents}, {"times", Customer, Charging, quarter * quarter}}},
	{Signed, HostHome, "your signature under it", []Field{{"signature", Customer, Charging, random}, {"sealed stub", Customer, Charging, ciphered}}},
	{Settlement, Aggregator, "the result, to be paid", []Field{{"energy", Customer, Charging, exactWh}, {"amounts", Customer, Charging, cents},
		{"times", Customer, Charging, quarter * quarter}, {"form", Customer, Charging, forms}, {"evidence hash", Technical, Charging, random}}},
	{ShownRecords, Aggregator, "the meter's signature, where a sale or an absent driver demands it", []Field{{"meter key and serial", Technical, Who, ocmf},
		{"registers", Customer, Charging, regs}}},
	{ShownCert, HostHome, "you let an offline host know your utility", []Field{{"your utility", Customer, Who, utility}, {"limit", Customer, Charging, bands}}},
	{Lock, Aggregator, "notes behind what the house may owe", []Field{{"amount", Customer, Charging, cents}, {"notes", Customer, Charging, notes}}},
	{CollectHost, Aggregator, "the notes of a session", []Field{{"session", Customer, Charging, everyone}, {"blinded notes", Customer, Charging, random}}},
	{CollectBoxed, HostHome, "a request carried for a guest", []Field{{"sealed request", Customer, Charging, ciphered}}},
	{CollectBoxed, Aggregator, "a driver's notes", []Field{{"session", Customer, Charging, everyone}, {"blinded notes", Customer, Charging, random}}},
	{Swap, Aggregator, "old notes for new ones, by onion", []Field{{"notes", Customer, Charging, notes}, {"sum", Customer, Charging, cents}}},
	{Redeem, OwnUtility, "a credit of 20.00 on your bill", []Field{{"contract", Customer, Who, contract}, {"step", Customer, Charging, everyone}, {"day", Customer, Charging, 28}}},
	{PassRequest, Aggregator, "the right to host for a week", []Field{{"zone", Technical, Who, zones}, {"blinded keys", Technical, Charging, random}}},
	{DeckRequest, OwnUtility, "next week's pseudonyms", []Field{{"contract", Customer, Who, contract}, {"bill keys", Customer, Charging, random}}},
	{BillLine, OwnUtility, "what you charged elsewhere", []Field{{"contract", Customer, Who, contract}, {"energy in", Customer, Charging, energy},
		{"energy out", Customer, Charging, energy}, {"amount", Customer, Charging, cents}, {"day", Customer, Charging, 31}}},
	{MeterReport, OwnUtility, "your meter's registers", []Field{{"contract", Customer, Who, contract}, {"registers", Customer, Load, regs}, {"day", Customer, Load, 31}}},
	{MeterReport, Substation, "sealed registers on their way", []Field{{"connection", Technical, Who, contract}, {"sealed report", Customer, Load, ciphered}, {"size class", Technical, Load, sizes}}},
	{ReadNow, OwnUtility, "one reading that your utility asked for", []Field{{"contract", Customer, Who, contract}, {"import", Customer, Load, regs}, {"export", Customer, Load, regs},
		{"time", Customer, Load, second}}},
	{ReadNow, Substation, "a sealed reading on its way", []Field{{"connection", Technical, Who, contract}, {"sealed answer", Customer, Load, ciphered}, {"time", Technical, Load, second}}},
	{Alarm, OwnUtility, "a fault at your connection", []Field{{"contract", Customer, Who, contract}, {"kind", Technical, Load, kinds}, {"voltage", Technical, Load, volts},
		{"time", Technical, Load, second}}},
	{Alarm, Substation, "a fault at your connection", []Field{{"connection", Technical, Who, contract}, {"kind", Technical, Load, kinds}, {"voltage", Technical, Load, volts},
		{"time", Technical, Load, second}}},
	{SumReport, SumLeader, "one share of your reading", []Field{{"day identity", Technical, Load, random}, {"zone", Technical, Who, zones}, {"share", Technical, Load, reading}}},
	{SumReport, SumHelper, "the other share of your reading", []Field{{"day identity", Technical, Load, random}, {"zone", Technical, Who, zones}, {"share", Technical, Load, reading}}},
	{SumReport, GridOp, "your report in the published list", []Field{{"day identity", Technical, Load, random}, {"zone", Technical, Who, zones}, {"commitments", Technical, Load, random}}},
	{DayRequest, Escrow, "next week's day identities", []Field{{"meter handle", Technical, Who, contract}, {"zone", Technical, Who, zones}}},
	{OnionCell, Relay, "a packet among others", []Field{{"cell", Technical, Load, ciphered}}},
	{LedgerEntry, Ledger, "your session, hidden in a commitment", []Field{{"utility of the driver", Customer, Charging, utility}, {"day", Customer, Charging, 31},
		{"commitment", Customer, Charging, random}}},
	{Flex, Guest, "what your house and this car could shift, for the driver to agree", []Field{{"meter key", Technical, Who, ocmf}, {"plan", Customer, Charging, power * power},
		{"zone", Technical, Who, zones}}},
	{Flex, Aggregator, "what a car could shift", []Field{{"meter certificate", Technical, Who, ocmf}, {"plan", Customer, Charging, power * power}, {"zone", Technical, Who, zones}}},
	{FlexAssent, HostHome, "you agree that your car may be moved so far", []Field{{"time", Technical, Charging, quarter}, {"signature", Customer, Charging, random}}},
	{MailAddress, HostHome, "where a receipt may wait for you", []Field{{"box, new for each session", Technical, Charging, random}}},
	{Mail, Keeper, "a sealed receipt for a guest who left", []Field{{"box", Technical, Charging, random}, {"sealed receipt", Customer, Charging, ciphered}, {"time", Technical, Charging, second}}},
	{MailAsk, Keeper, "is there a receipt for you?", []Field{{"box", Technical, Charging, random}, {"time", Technical, Charging, second}}},
	{ProofAsk, Aggregator, "is what I was paid on the ledger? asked by onion", []Field{{"number of an entry that others are in as well", Customer, Charging, everyone}}},
	{ShareAsk, Aggregator, "what did my session earn in the pool?", []Field{{"session", Customer, Charging, everyone}}},
}
