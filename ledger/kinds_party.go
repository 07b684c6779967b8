package ledger

// Limits of the registry.
const (
	MaxParties    = 1024 // one party register fits every snapshot; operators, not people
	MaxCurrencies = 8    // three bits of an account in use, six reserved
	MaxDenoms     = 16   // 2^0..2^15 minor units
	maxRules      = 1    // version of the rules that this package knows
)

// Role says what an operator is. Households and drivers are never parties.
type Role uint8

// Roles, as on the wire.
const (
	Aggregator   Role = 1 // writes the log; party 1 and no other
	Utility      Role = 2
	DSO          Role = 3
	Regulator    Role = 4
	ConsumerBody Role = 5
)

// String is the role as statements print it.
func (r Role) String() string {
	names := [...]string{"role 0", "aggregator", "utility", "dso", "regulator", "consumer body"}
	if int(r) < len(names) {
		return names[r]
	}
	return "unknown role"
}

// Params are fixed in genesis until the next shard.
type Params struct {
	BucketMs     uint64 // length of a settlement bucket (a day) in ms
	MinBatch     uint64 // fewest sessions whose sum may be opened
	MaxWait      uint64 // buckets after which a smaller sum may be opened
	RedeemStep   uint64 // redeems at a utility are multiples of this many minor units
	CloseEvery   uint64 // buckets between two closes of a currency
	Grace        uint64 // buckets after a close before a payment may be called failed
	K            uint64 // approvals that a case needs, and partials
	NoticeMs     uint64 // time between a dispute and its first partial
	CaseMs       uint64 // time after which a case may be expired
	CDRCap       uint64 // most one session may move, in millionths; checked by the payer on its lines
	OpenPer10k   uint64 // sessions per 10 000 that a requester may link or open in a month
	MergeDelayMs uint64 // time within which a receipt promises inclusion
	MaxOpen      uint64 // most unsettled CDRs at any time
}

// DefaultParams are the values of design/ledger.md, 4.2.
func DefaultParams() Params {
	return Params{
		BucketMs: 24 * 3600 * 1000, MinBatch: 32, MaxWait: 7, RedeemStep: 2000, CloseEvery: 7, Grace: 5, K: 3,
		NoticeMs: 72 * 3600 * 1000, CaseMs: 14 * 24 * 3600 * 1000,
		CDRCap:     80_000_000, // the highest band of a pseudonym, 80 units
		OpenPer10k: 1, MergeDelayMs: 60_000, MaxOpen: 1 << 20,
	}
}

func (p *Params) fields() [13]*uint64 {
	return [13]*uint64{&p.BucketMs, &p.MinBatch, &p.MaxWait, &p.RedeemStep, &p.CloseEvery, &p.Grace, &p.K,
		&p.NoticeMs, &p.CaseMs, &p.CDRCap, &p.OpenPer10k, &p.MergeDelayMs, &p.MaxOpen}
}

// Genesis is entry 0: the currencies, rules and first parties, signed by each.
type Genesis struct {
	Rules      uint16 // version of the rules, 1
	Origin     string // the log's name in checkpoints and signatures
	Network    string // the network that the operators' certificates name
	Currencies []Currency
	Params     Params
	Parties    []Party // numbered from 1; party 1 is the aggregator
}

// Party registers an operator.
type Party struct {
	Party    PartyID // last + 1
	Role     Role
	Approver bool  // may approve and open disputes
	Limit    int64 // the total (open + due) may fall to -Limit, in millionths per currency
	Bank     Hash  // SHA-256(salt32 || IBAN || BIC); zero if it is never paid
	Name     string
	Pub      Hash // its first entry key
}

// Key adds or revokes a key of the author.
type Key struct {
	Add bool // else revoke
	Use Use
	Pub Hash
}

// Denoms publishes the mint keys of one currency and month.
type Denoms struct {
	Cur      uint8
	Epoch    uint32 // yyyymm
	IssueTo  uint64 // last log time (UTC ms) at which notes are issued
	RedeemTo uint64 // last at which a utility redeems them
	SwapTo   uint64 // last at which they are swapped; afterwards they lapse
	Keys     []DenomKey
}

// DenomKey is the mint key of one value: an RSA modulus with exponent 65537.
type DenomKey struct {
	Minor uint32 // value in minor units, a power of two
	N     [256]byte
}

// Tariff commits to a tariff document before sessions use it. A CDR names the
// leaf index of this entry, so a later change cannot touch an open session.
type Tariff struct {
	Hash     Hash
	From, To uint64 // UTC ms
}

// Tick moves the log time. State is State.Hash before it in the first tick of a
// bucket, else zero.
type Tick struct {
	Ms    uint64
	State Hash
}

// Anchor commits to something kept elsewhere: key lists, batch roots of meter
// reports, aggregation tasks. Ref is salted by its author.
type Anchor struct {
	Topic Topic
	Ref   Hash
}

// Topic says what an Anchor commits to.
type Topic uint16

// Topics of anchors.
const (
	TopicKeyList     Topic = 1 // a list of keys that certificates refer to
	TopicTask        Topic = 2 // an aggregation task of a DSO
	TopicCommand     Topic = 3 // a critical command
	TopicInstruction Topic = 4 // a flexibility instruction
	TopicMeterBatch  Topic = 5 // root over a batch of meter reports
	TopicBillRun     Topic = 6 // root over the bills of a period
	TopicCheckpoint  Topic = 7 // checkpoint of another log, such as the audit log
)

// Kind implements Body.
func (*Genesis) Kind() Kind { return KindGenesis }
func (*Party) Kind() Kind   { return KindParty }
func (*Key) Kind() Kind     { return KindKey }
func (*Denoms) Kind() Kind  { return KindDenoms }
func (*Tariff) Kind() Kind  { return KindTariff }
func (*Tick) Kind() Kind    { return KindTick }
func (*Anchor) Kind() Kind  { return KindAnchor }

func (g *Genesis) put(w *encoder) {
	w.u16(g.Rules)
	w.str8(g.Origin)
	w.str8(g.Network)
	w.u8(uint8(len(g.Currencies)))
	for _, c := range g.Currencies {
		w.u16(c.ISO4217)
		w.u8(c.Exp)
	}
	for _, f := range g.Params.fields() {
		w.u64(*f)
	}
	w.u8(uint8(len(g.Parties)))
	for i := range g.Parties {
		g.Parties[i].put(w)
	}
}

func getGenesis(r *decoder) Body {
	g := &Genesis{Rules: r.u16(), Origin: r.str8(), Network: r.str8()}
	n := int(r.u8())
	r.want(n >= 1 && n <= MaxCurrencies)
	for i := 0; i < n && !r.bad; i++ {
		c := Currency{ISO4217: r.u16(), Exp: r.u8()}
		r.want(c.ISO4217 >= 1 && c.ISO4217 <= 999 && c.Exp <= 6)
		g.Currencies = append(g.Currencies, c)
	}
	for _, f := range g.Params.fields() {
		*f = r.u64()
	}
	n = int(r.u8())
	r.want(n >= 1 && n <= MaxSigs) // each of them signs this entry
	for i := 0; i < n && !r.bad; i++ {
		g.Parties = append(g.Parties, getParty(r))
	}
	return g
}

const flagApprover = 1

func (p *Party) put(w *encoder) {
	w.u32(uint32(p.Party))
	w.u8(uint8(p.Role))
	w.bool(p.Approver) // flags: bit 0 is approver, the others are reserved zero
	w.i64(p.Limit)
	w.h32(p.Bank)
	w.str8(p.Name)
	w.h32(p.Pub)
}

func getParty(r *decoder) Party {
	p := Party{Party: PartyID(r.u32()), Role: Role(r.enum(uint8(ConsumerBody)))}
	flags := r.u8()
	r.want(flags <= flagApprover)
	p.Approver = flags == flagApprover
	p.Limit = r.i64()
	r.want(p.Limit >= 0)
	p.Bank = r.h32()
	p.Name = r.str8()
	r.want(validName(p.Name))
	p.Pub = r.h32()
	return p
}

const (
	opAdd    = 1
	opRevoke = 2
)

func (k *Key) put(w *encoder) {
	op := uint8(opRevoke)
	if k.Add {
		op = opAdd
	}
	w.u8(op)
	w.u8(uint8(k.Use))
	w.h32(k.Pub)
}

func getKey(r *decoder) Body {
	return &Key{Add: r.enum(opRevoke) == opAdd, Use: Use(r.enum(uint8(UsePseudonym))), Pub: r.h32()}
}

func (d *Denoms) put(w *encoder) {
	w.u8(d.Cur)
	w.u32(d.Epoch)
	w.u64(d.IssueTo)
	w.u64(d.RedeemTo)
	w.u64(d.SwapTo)
	w.u8(uint8(len(d.Keys)))
	for i := range d.Keys {
		w.u32(d.Keys[i].Minor)
		w.raw(d.Keys[i].N[:])
	}
}

func getDenoms(r *decoder) Body {
	d := &Denoms{Cur: r.u8(), Epoch: r.u32(), IssueTo: r.u64(), RedeemTo: r.u64(), SwapTo: r.u64()}
	n := int(r.u8())
	r.want(n >= 1 && n <= MaxDenoms)
	for i := 0; i < n && !r.bad; i++ {
		k := DenomKey{Minor: r.u32()}
		copy(k.N[:], r.take(len(k.N)))
		d.Keys = append(d.Keys, k)
	}
	return d
}

func (t *Tariff) put(w *encoder) {
	w.h32(t.Hash)
	w.u64(t.From)
	w.u64(t.To)
}

func getTariff(r *decoder) Body {
	t := &Tariff{Hash: r.h32(), From: r.u64(), To: r.u64()}
	r.want(t.From < t.To)
	return t
}

func (t *Tick) put(w *encoder) {
	w.u64(t.Ms)
	w.h32(t.State)
}

func getTick(r *decoder) Body {
	t := &Tick{Ms: r.u64(), State: r.h32()}
	r.want(t.Ms < 1<<62) // leaves room for sums with the times of Params
	return t
}

func (a *Anchor) put(w *encoder) {
	w.u16(uint16(a.Topic))
	w.h32(a.Ref)
}

func getAnchor(r *decoder) Body {
	a := &Anchor{Topic: Topic(r.u16()), Ref: r.h32()}
	r.want(a.Topic != 0)
	return a
}
