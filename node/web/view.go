// Package web is the local dashboard: server-rendered pages, one stream of live
// values, no script needed to read anything.
//
// A [Site] supplies what is shown; pages hold no rules. Every page has a stable
// URL and the same data as JSON and, where it is a table, as CSV, from the same
// view, so that an export equals the screen. What a node's owner may not see is
// not in its Site: a page never filters secrets out.
package web

import (
	"context"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gridveil/node/monthly"
)

// Site is what a node, or a whole demonstration, shows. Methods are called from
// many requests at once and must not block on remotes.
type Site interface {
	Meta(ctx context.Context) Meta
	Overview(ctx context.Context) Overview
	// Homes lists what Energy and Left may be asked for; a gateway has one.
	Homes(ctx context.Context) []HomeRef
	Energy(ctx context.Context, home string) (Energy, bool)
	Sessions(ctx context.Context) []SessionRow
	Session(ctx context.Context, id string) (Session, bool)
	// Guests is how strangers' cars may charge at a home; ok is false where the viewer
	// is not its host.
	Guests(ctx context.Context, home string) (Guests, bool)
	Ledger(ctx context.Context, from uint64) Ledger
	Entry(ctx context.Context, index uint64) (Entry, bool)
	Alarms(ctx context.Context) []AlarmRow
	Left(ctx context.Context, home string) (Left, bool)
	// Mask is how well a home's battery hides its load; ok is false where the viewer
	// may not know it. A home without battery has an empty one.
	Mask(ctx context.Context, home string) (Mask, bool)
	// OrderBattery has a home's battery do what its owner asks. The error is for people.
	OrderBattery(ctx context.Context, home string, o BatteryOrder) error
	// TurnDial chooses a home's cost against its privacy, 0 private to 4 thrifty. The
	// error is for people.
	TurnDial(ctx context.Context, home string, stop int) error
	Party(ctx context.Context, id string) (Party, bool)
	// Members lists the nodes that Mesh may be asked for; a node knows only itself.
	Members(ctx context.Context) []HomeRef
	Mesh(ctx context.Context, member string) (Mesh, bool)
	// SwitchMesh turns private messages and relaying of a node off or on, durably. The
	// error is for people.
	SwitchMesh(ctx context.Context, member string, on bool) error
	// Metrics are the counters of this node, without identities; nil where there is
	// no one node to count for.
	Metrics() prometheus.Gatherer
	// Live gives values by key; a page shows them where data-live="key" stands.
	// Keys are listed beside the view fields that they keep current.
	Live(ctx context.Context) map[string]string
	// Proof writes a .tlog-proof of a ledger entry.
	Proof(ctx context.Context, w io.Writer, index uint64) error
	// Find gives the entry whose leaf hash begins with hexadecimal digits, among
	// the newest.
	Find(ctx context.Context, leaf string) (index uint64, ok bool)
	Money(ctx context.Context) Money
	// PaymentFile reads a file that Money lists.
	PaymentFile(ctx context.Context, name string) ([]byte, bool)
	Disputes(ctx context.Context) Disputes
}

// Meta is shown on every page.
type Meta struct {
	Title    string    // "Elm Street neighbourhood", or the node's name
	Role     string    // a role, or "demo"
	Now      time.Time // the node's clock; live key "now"
	Speed    float64   // of an accelerated clock, 1 otherwise
	Banners  []Banner
	Warnings []Warning
	Pages    []string // which of the pages this role has; empty means all
}

// Banner is what every page says of this site: "Simulated hardware", and what
// that means.
type Banner struct{ Short, Text string }

// Warning is a standing problem, worst first.
type Warning struct {
	Severity, Title, Text, Next string
	Since                       time.Time
}

// Overview answers in five seconds: am I fine, what flows, what do I owe or
// earn, who sees what.
type Overview struct {
	Headline string // "All is well: 25 homes metered, 4 cars charging." live "headline"
	Figures  []Figure
	Nodes    []Node
	Edges    []Edge
	Tall     float64 // height of the tall map, 0 for TallHeight
	Events   []Event // newest first, at most 12; live "events", see EventLines
	Verify   string  // "gridveil verify …", for the reader who wants to check
}

// Figure is one large number. Live keys: "fig-" + Key, and + "-note".
type Figure struct{ Key, Label, Value, Unit, Note string }

// Sizes of the two maps, in px: a wide one, and a tall one for phones.
const (
	WideWidth, WideHeight = 1000, 600
	TallWidth, TallHeight = 420, 520
)

// Place is a point of a map in px.
type Place struct{ X, Y float64 }

// Node of the neighbourhood map. Kind: home, ssn, headend, utility, aggregator,
// wallet, verifier. Live keys: "node-"+ID+"-state", "node-"+ID+"-text".
type Node struct {
	ID, Kind, Name, Zone string
	Label                string // under its sign; short
	Wide, Tall           Place
	State                string   // idle, charging, discharging, parked, solar, offline, alarm
	Text                 string   // one sentence
	Features             []string // pv, battery, evse
}

// Edge of the map. Kind: power, report, onion, ledger, alarm, car. Live key:
// "edge-"+ID+"-level", a number 0 (still) to 4, negative when it flows from To
// to From.
type Edge struct {
	ID, From, To, Kind string
	Quiet              bool // not drawn at level 0
	Level              int
}

// Event is something that just happened, in words.
type Event struct {
	At   time.Time
	Kind string // session, alarm, ledger, node, refused
	Text string
	Link string // page that shows it, or empty
}

// HomeRef names a home.
type HomeRef struct{ ID, Name string }

// Energy is the load page of one home.
type Energy struct {
	Home       HomeRef
	Simulated  bool
	Offline    bool // the house's node does not run now
	HasBattery bool
	HasRoof    bool
	Hosts      bool      // has a wallbox
	Now        Flows     // live "energy-<home>-<field>"
	Times      []int64   // Unix seconds, one a minute or coarser, at most 1500
	True       []float64 // W, house without car; nil where the viewer may see the meter only
	Metered    []float64 // W, what the meter measures, the only thing that leaves
	PV         []float64
	Battery    []float64 // W, discharge positive
	EV         []float64 // W, charging positive
	TrueKWh    float64   // since midnight, like the two below
	MeterKWh   float64
	ExportKWh  float64
	Masking    Masking
	Bill       []BillLine
	BillEnds   []Pair // registers at both ends
	BillPeriod string
	BillNote   string
	BillTotal  string
}

// Flows are present powers in W.
type Flows struct {
	Load, Meter, PV, Battery, EV float64
	SoCPct                       float64
}

// Masking is what the household is told about its mask.
type Masking struct {
	Policy      string
	BoundBits   float64 // proven upper bound, bits per day; 0 when none holds
	ExposedMins float64
	Cannot      []string // what this battery cannot hide, in sentences
	Reason      string   // why another policy runs than was asked for
}

// BillLine is one line of a bill.
type BillLine struct{ Text, Energy, Rate, Amount, Exact string } // Exact in millionths

// SessionRow is one line of the session list.
type SessionRow struct {
	ID      string // short form of H(Open), "7F3A-92"
	Begin   time.Time
	Host    string // name of the home; only where the viewer may know it
	State   string
	Case    string // pv, grid, mixed, v2g-house, v2g-grid, gift, refused
	KWhIn   float64
	KWhOut  float64
	Total   string
	Refused string // reason, for a refused record
}

// Session is one session in full.
type Session struct {
	SessionRow
	End       time.Time
	Steps     []Event // opened, authorised, started, …
	Intervals []Interval
	Terms     []Pair // prices, rule, band
	Payees    []Payee
	Claims    []monthly.Claim // what the ledger shows of the notes that are here
	OCMF      []Reading
	Ref       string // ledger ref; only for driver and aggregator views
	Entry     *uint64
	Parties   []Knows // who learned what of this session
	Offered   bool    // it was offered to the aggregator's pool
	Moved     bool    // it followed an instruction of a grid operator
	Masked    CarMoves
}

// CarMoves is how the mask used a charging car.
type CarMoves struct {
	Times   int     // that its power was moved away from its plan
	Minutes float64 // that it stayed there
}

// Interval is a five-minute split.
type Interval struct {
	Start                       time.Time
	FromPV, FromHouse, FromGrid float64 // kWh into the car
	ToHouse, ToGrid             float64 // kWh out of the car
	Amount                      string
}

// Payee is one line of how each cent was paid.
type Payee struct{ Who, For, Exact, Paid, How string }

// Reading is a signed meter record, byte for byte.
type Reading struct {
	Raw      string
	Verdict  string // "signature verifies", or the reason why not
	OK       bool
	KeyPrint string // fingerprint of the meter key
}

// Pair is a name and a value.
type Pair struct{ Name, Value string }

// Knows says what one party learned.
type Knows struct{ Party, Learned, NotLearned, Because string }

// Guests is the page that a host shows to a driver.
type Guests struct {
	Home   HomeRef
	Link   string // what the driver's wallet opens; empty while no guest can charge
	Closed string // why, and what to do
	Terms  []Pair // prices and rules
}

// Ledger is the ledger page.
type Ledger struct {
	Origin        string
	Size          uint64 // live "ledger-size"
	CosignedSize  uint64 // live "ledger-cosigned"
	Quorum        string // "3 of 3 verifiers"
	Checkpoint    string // the signed note, verbatim
	Cosigners     []Cosigner
	Balances      []Balance
	SumMicro      int64
	Facts         []Pair
	Machines      []Pair     // of an aggregator on several: address, and how it does
	Shards        []Pair     // the logs that it is kept in, the growing one last: origin, and what and where it is in words
	Entries       []EntryRow // newest first from the asked index
	Older, Newer  *uint64
	Equivocations int
}

// Cosigner is one verifier with the age of its last signature.
type Cosigner struct {
	Name     string // of its key
	Operator string // who it is, if that says more
	Size     uint64
	At       time.Time
	OK       bool
	Text     string
}

// Balance of one account.
type Balance struct{ Party, Account, Amount, Exact string }

// EntryRow is one ledger entry in a list.
type EntryRow struct {
	Index       uint64
	Kind, Party string
	Text        string // in words
	Final       bool
}

// Entry is one ledger entry in full.
type Entry struct {
	EntryRow
	At       time.Time
	Leaf     string
	Fields   []Pair
	Postings []Balance
	Raw      string // hex
}

// Money is the page of what operators owe each other.
type Money struct {
	Known     bool   // there is a ledger
	Simulated bool   // no bank stands behind the payments
	Operator  string // whose page it is; empty where it is everybody's
	Facts     []Pair // settlement day, next close
	Balances  []Balance
	Next      []Payment // what a close would instruct now
	Payments  []Payment // of all final closes, newest first
	Older     int       // payments besides those
	Files     []MoneyFile
	Keeps     bool // payment files are kept here
}

// Payment is one payment of a close. State: due, paid, failed; empty for one that
// is not instructed yet.
type Payment struct {
	Period        uint32
	No            uint16
	Payer, Payee  string
	Amount, Exact string
	State         string
	Overdue       bool // due beyond its grace time
	EndToEnd      string
	Close         uint64  // entry
	Ended         *uint64 // entry that confirmed it or put it back
}

// MoneyFile is a payment file for a payer's bank.
type MoneyFile struct {
	Name, Payer string
	Period      uint32
	Bytes       int
}

// Disputes is the page of cases.
type Disputes struct {
	Known  bool      // there is a ledger
	Need   int       // approvals that an opening takes
	Notice string    // between a dispute and its first partial
	Limit  string    // after which a case expires
	Cases  []Dispute // newest first
}

// Dispute is one case.
type Dispute struct {
	ID, Kind, Reason   string
	Requester, Utility string
	Sessions           int
	Opened             time.Time
	Notice, Expires    time.Time // zero where they do not apply
	Approvals, Against []string
	Partials           []string
	State              string
	Ended              bool
	Index              uint64 // entry
	Statement          string // what the driver says, if known here
	Answer             string // only at its requester
	Vote               string // only at a seat: what it may still do
}

// AlarmRow is one alarm.
type AlarmRow struct {
	ID             string
	At             time.Time
	Priority, Kind string
	Level          int // of the priority, 0 most urgent
	Over           bool
	Device, Text   string
	DeliveredMs    int64 // from raised to the utility's inbox, -1 while not there or unknown here
	Acknowledged   string
	Class          string // as the utility classifies it
}

// Left is "What left this house today".
type Left struct {
	Home     HomeRef
	Offline  bool // the house's node does not run now
	Day      string
	Lines    []LeftLine
	Messages int
	Bytes    int64
	Stays    []string // what never left, in sentences
	Told     []ToldLine
	NotTold  string // why there are no figures, a sentence
}

// ToldLine is how much one party learnt of a home in a day.
type ToldLine struct {
	Party          string
	Load, Charging ToldFigure
}

// ToldFigure is an upper bound in bits, or says that there is none.
type ToldFigure struct {
	Words      string // "212.4 bits", "nothing", "no figure"
	ModelWords string // "about 9.3 by model"; empty without one
	Basis      string // what it rests on, in a few words
	Rests      string // the same as a sentence
	Test       string // that shows a "nothing"
	// AtMost and Model are in bits; nil where there is no figure.
	AtMost *float64 `json:",omitempty"`
	Model  *float64 `json:",omitempty"`
}

// Mask is how well a home's battery hides its load: the second half of the Privacy
// page, strictly for who lives there.
type Mask struct {
	Battery  bool // there is one
	Model    bool // it is simulated
	Policy   string
	Reason   string     // why another policy runs than was asked for
	Times    []int64    // Unix seconds, one a minute or coarser, at most 1500
	True     []float64  // W, house without car
	Metered  []float64  // W
	Trouble  []Warning  // what keeps the mask from working now
	Shown    float64    // share of the day's account in which the meter showed the mask, 0..1; negative while unknown
	Leaks    []Pair     // what still leaks, in bits a day
	Account  []Pair     // exposed minutes and energy
	Commands []Command  // newest first
	Asked    string     // what the owner's own command does now, in words; empty without one
	MostW    int        // that the owner may ask for
	CannotDo []string   // what this battery cannot hide
	Dial     []DialStop // private first; what each means is empty until it is known
	DialNote string
	// DialKnown says that the stops have figures.
	DialKnown bool
	CanOrder  bool // the viewer is the owner
}

// DialStop is a position of the dial of cost against privacy.
type DialStop struct {
	Name                     string
	Bits, Money, Loss, Cycle string // a day
	Chosen                   bool
}

// Command is one command to a battery.
type Command struct {
	From                              time.Time
	By, Asked, Decided, Energy, Price string
	Over                              bool
}

// BatteryOrder is what an owner asks of a battery.
type BatteryOrder struct {
	Do  string // charge, discharge, stop or release
	W   int
	For time.Duration
}

// LeftLine is one kind of message to one kind of recipient.
type LeftLine struct {
	What, To, As string // "meter report", "your utility (northgrid)", pseudonym
	Why          string // what it is good for
	Count        int
	Bytes        int64
	Learns       string
	Bits         float64 // upper bound
	Last         time.Time
}

// Party is what one node of the map can see.
type Party struct {
	Node   Node
	Is     string // what it is for
	Links  []Pair // its own pages: label, URL
	Sees   []Pair
	Never  []string // what it cannot see and why
	Recent []Event
}

// Mesh is one node's end of the mesh.
type Mesh struct {
	Node      HomeRef
	Offline   bool   // this node does not run now
	Headline  string // whether private messages leave, in a sentence
	Off       bool   // switched off by the owner
	OffSince  time.Time
	Leaf      bool        // sends private messages; others relay or receive them
	Classes   []MeshClass // of a leaf
	Peers     []Peer      // at most MaxPeers
	MorePeers int         // connected besides those
	Packets   Packets
	Relaying  Relaying // for other homes; only a gateway's
	Decoys    Decoys   // of a leaf
	Traffic   MeshTraffic
	Routes    []Pair    // health of the ways, in words
	Waiting   []Waiting // nothing waits where it is empty
}

// MaxPeers is how many peers a page lists.
const MaxPeers = 200

// MeshClass says whether messages of a kind may leave, and why not.
type MeshClass struct {
	Name, What string  // "slow messages", what travels so
	Set        float64 // homes that a message could come from
	MinSet     int     // of Set; 0 where the class has no such floor
	Homes      int     // that take part
	MinHomes   int     // of Homes
	Open       bool
	Reason     string // why they wait; what is missing
	Next       string // what to do
	Own        string // what this node's own floors do to the network's; "" without any
}

// Peer is one connected member: what it does and whose it is, never who.
type Peer struct {
	Role, Operator string
	Dialled        bool // by this node; else the other side came
	Since          time.Time
	RoundTripMs    int64 // measured when it connected, -1 unknown
}

// Packets counts onion packets since the node started.
type Packets struct{ Own, Cover, Relayed, Dropped uint64 }

// Share is the part of n in all sent packets, in percent.
func (p Packets) Share(n uint64) int {
	all := p.Own + p.Cover + p.Relayed
	if all == 0 {
		return 0
	}
	return int((n*100 + all/2) / all)
}

// Decoys are bursts that look like a car asking to charge.
type Decoys struct {
	Shown bool   // this is a gateway or wallet, and its network is no trial
	On    bool   // its owner set mesh.decoys
	Sent  uint64 // since the node started, answered ones
}

// Relaying is how a home passes on packets of others.
type Relaying struct {
	Shown   bool   // this is a gateway
	Chosen  bool   // its owner set mesh.relay
	On      bool   // it does now
	Why     string // why not now, and what to do; "" while it does
	Packets uint64 // passed on today
	Share   int    // of the day's data so far that they took, in percent
}

// MeshTraffic is what the links carried today, in bytes.
type MeshTraffic struct {
	Up, Down int64
	Cap      int64 // per direction and day, 0 without one
	Parts    []MeshPart
}

// Percent is how much of the cap is used, in the worse direction.
func (t MeshTraffic) Percent() int64 {
	if t.Cap == 0 {
		return 0
	}
	return max(t.Up, t.Down) * 100 / t.Cap
}

// MeshPart is one kind of traffic.
type MeshPart struct {
	Name     string
	Up, Down int64 // today, since the node started
}

// Waiting is what has not left yet.
type Waiting struct {
	What  string
	Count int
	Since time.Time // of the oldest; zero when it is not known
}
