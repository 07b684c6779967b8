package ledger

import (
	"fmt"
	"time"
)

// Limits of the state.
const (
	maxKeys      = 64   // keys a party ever registers per log shard
	recentSeqs   = 4096 // ids remembered per party, as many as its intake queue may hold
	refWindow    = 21   // buckets for which refs are remembered
	maxOpenCases = 4096
)

// errBroken stops a State whose invariants failed: it must be reloaded.
var errBroken = fmt.Errorf("%w: the state is inconsistent, reload it from the log", ErrHalted)

// State is what the log amounts to after Size entries. It is a pure state
// machine: Apply depends only on the entries before. Not safe for concurrent
// use.
type State struct {
	origin     string // of this log
	originHash Hash
	home       string // origin of the ledger's first log, under which all entries and spends are signed
	homeHash   Hash
	network    string
	size       uint64 // of all shards: the index of the next entry, as bodies count
	heir       heir   // zero in a log that began with its genesis
	next       string // origin of the log that goes on, once this one is sealed
	currencies []Currency
	params     Params
	parties    []operator // party p at p-1
	keys       map[KeyID]keyRecord
	names      map[string]PartyID
	books      []book // by currency

	tick   uint64 // UTC ms, the log time
	ticked bool

	tariffs   map[uint64]Tariff          // by leaf index
	denoms    map[epochKey]*epoch        // mint keys and their counters
	mintKeys  map[KeyID]mintKey          // note key id -> its place in denoms
	spent     map[epochKey]*usedSet      // nullifiers, dropped when the epoch lapses
	transfers map[uint64]*transferRecord // reversible ones, since the last close of their currency

	pairs     map[pairKey]*pair      // settlement of one payer and grid
	cdrs      map[digest]*cdrRecord  // refs of the last refWindow buckets and unsettled ones
	refs      map[uint32]*bucketRefs // refs by bucket, to forget them
	touched   []digest               // refs whose record changed after they were entered, since the last Save
	open      uint64                 // unsettled CDRs, held ones included
	issued    map[uint8]uint32       // currency -> bucket + 1 of its last issue
	cases     map[CaseID]*caseRecord // all, ended ones too: an id is never used again
	openCases int
	disputed  map[Hash]CaseID           // refs of open cases
	quota     map[PartyID]uint64        // refs linked or opened per requester in month
	month     uint32                    // yyyymm of quota and monthCDRs
	monthCDRs uint64                    // CDRs of that month
	closes    map[closeKey]*closeRecord // payments by currency and period
	lastClose []closeMark               // by currency
	broken    bool
}

// operator is a registered party.
type operator struct {
	Party
	seq     uint64   // last sequence number applied
	keyIDs  []KeyID  // all ever registered
	entry   int      // active entry keys
	recent  []seqRef // ids of the last recentSeqs entries, oldest first from seq-len+1
	created uint64   // leaf index of the registration
}

// seqRef remembers which entry used a sequence number.
type seqRef struct {
	index uint64
	leaf  Hash
}

type keyRecord struct {
	party   PartyID
	use     Use
	pub     Hash
	added   uint64 // leaf index
	revoked bool
}

// book holds the balances of one currency.
type book struct {
	common      [3]int64 // earned, notes, unclaimed
	open        []int64  // by party
	due         []int64
	circulation int64 // value of issued - redeemed - lapsed over all mint keys
}

type transferRecord struct {
	from, to Account
	x        int64
	leaf     Hash
	reversed uint64 // leaf index of the reverse, 0 if none
}

// New is the empty state of the log with this origin; the first entry applied
// must be its genesis.
func New(origin string) *State {
	return &State{
		origin: origin, originHash: OriginHash(origin), home: origin, homeHash: OriginHash(origin),
		keys: map[KeyID]keyRecord{}, names: map[string]PartyID{},
		tariffs: map[uint64]Tariff{}, denoms: map[epochKey]*epoch{}, mintKeys: map[KeyID]mintKey{},
		spent: map[epochKey]*usedSet{}, transfers: map[uint64]*transferRecord{},
		pairs: map[pairKey]*pair{}, cdrs: map[digest]*cdrRecord{}, refs: map[uint32]*bucketRefs{},
		issued: map[uint8]uint32{}, cases: map[CaseID]*caseRecord{}, disputed: map[Hash]CaseID{},
		quota: map[PartyID]uint64{}, closes: map[closeKey]*closeRecord{},
	}
}

// Apply applies e as the next entry: whole, or not at all and an error of this
// package. It checks every rule and that the signers are exactly those demanded,
// but verifies no signature and no note: run Checks and Verify before. The
// postings are in the order of the design and sum to zero. An error that wraps
// ErrHalted means that the state is inconsistent and must be reloaded.
func (s *State) Apply(e *Entry) ([]Posting, error) {
	if s.broken {
		return nil, errBroken
	}
	if err := s.admit(e); err != nil {
		return nil, err
	}
	var pubs [MaxSigs]Hash
	if _, err := s.signers(e, pubs[:0]); err != nil {
		return nil, err
	}
	postings, err := s.applyBody(e)
	if err != nil {
		return nil, err
	}
	s.number(e)
	if err := s.assertBalances(postings); err != nil {
		s.broken = true
		return nil, err
	}
	return postings, nil
}

// admit checks the author and its sequence number.
func (s *State) admit(e *Entry) error {
	first := KindGenesis
	if s.heir.base > 0 {
		first = KindShard
	}
	if begins := e.Kind() == KindGenesis || e.Kind() == KindShard; begins && e.Kind() != first || begins != (s.Size() == 0) {
		return refuse(ErrKind, "entry %d cannot be a %s", s.Size(), e.Kind())
	}
	if s.size == 0 {
		if e.Party() != 1 || e.Seq() != 1 {
			return refuse(ErrRole, "genesis is entry 1 of party 1")
		}
		return nil
	}
	op, err := s.operator(e.Party())
	if err != nil {
		return err
	}
	switch want := op.seq + 1; {
	case e.Seq() > want:
		return &SeqGapError{Want: want}
	case e.Seq() < want:
		return op.seen(e)
	}
	if s.next != "" {
		return refuse(ErrWindow, "the log is sealed and goes on as %q", s.next)
	}
	return nil
}

// seen tells how a sequence number that was used before relates to e.
func (o *operator) seen(e *Entry) error {
	oldest := o.seq + 1 - uint64(len(o.recent))
	if e.Seq() < oldest {
		return refuse(ErrSeqOld, "%d; the next is %d", e.Seq(), o.seq+1)
	}
	ref := o.recent[e.Seq()-oldest]
	if ref.leaf != e.Leaf() {
		return &SeqConflictError{Index: ref.index}
	}
	return &ExistsError{Index: ref.index}
}

// number counts e as applied.
func (s *State) number(e *Entry) {
	op := &s.parties[e.Party()-1]
	op.seq = e.Seq()
	if len(op.recent) >= 2*recentSeqs { // amortised: half of it is shifted out at once
		op.recent = append([]seqRef(nil), op.recent[recentSeqs:]...)
	}
	op.recent = append(op.recent, seqRef{s.Size(), e.Leaf()})
	s.size++
}

func (s *State) applyBody(e *Entry) ([]Posting, error) {
	switch b := e.Body().(type) {
	case *Genesis:
		return nil, s.applyGenesis(b)
	case *Party:
		return nil, s.applyParty(b)
	case *Key:
		return nil, s.applyKey(e.Party(), b)
	case *Denoms:
		return nil, s.applyDenoms(b)
	case *Tariff:
		return nil, s.applyTariff(e, b)
	case *Tick:
		return nil, s.applyTick(b)
	case *Anchor:
		return nil, nil // any party, no effect beyond being in the log
	case *Seal:
		return nil, s.applySeal(b)
	case *Shard:
		return s.applyShard(b)
	case *CDR:
		return nil, s.applyCDR(b)
	case *Settle:
		return s.applySettle(b)
	case *Transfer:
		return s.applyTransfer(e, b)
	case *Reverse:
		return s.applyReverse(b)
	case *Issue:
		return s.applyIssue(b)
	case *Redeem:
		return s.applyRedeem(b)
	case *Lapse:
		return s.applyLapse(b)
	case *Close:
		return s.applyClose(b)
	case *Paid:
		return s.applyPaid(b)
	case *Failed:
		return s.applyFailed(b)
	case *Dispute:
		return nil, s.applyDispute(e, b)
	case *Approve:
		return nil, s.applyApprove(e.Party(), b)
	case *Partial:
		return nil, s.applyPartial(e.Party(), b)
	case *Result:
		return nil, s.applyResult(b)
	case *End:
		return nil, s.applyEnd(b)
	}
	return nil, refuse(ErrKind, "%s", e.Kind())
}

// operator looks up a registered party.
func (s *State) operator(p PartyID) (*operator, error) {
	if p < 1 || int(p) > len(s.parties) {
		return nil, refuse(ErrRole, "party %d is not registered", p)
	}
	return &s.parties[p-1], nil
}

// role checks that p is registered and has one of the roles.
func (s *State) role(p PartyID, roles ...Role) error {
	op, err := s.operator(p)
	if err != nil {
		return err
	}
	for _, r := range roles {
		if op.Role == r {
			return nil
		}
	}
	return refuse(ErrRole, "party %d is a %s, want %v", p, op.Role, roles)
}

func (s *State) currency(cur uint8) error {
	if int(cur) >= len(s.currencies) {
		return refuse(ErrMalformed, "currency %d is not in genesis", cur)
	}
	return nil
}

// Origin is the name of the log.
func (s *State) Origin() string { return s.origin }

// Network is the network named in genesis.
func (s *State) Network() string { return s.network }

// Size is the number of entries applied.
func (s *State) Size() uint64 { return s.size - s.heir.base }

// Currencies lists the currencies of the log; read only.
func (s *State) Currencies() []Currency { return s.currencies }

// Params are the parameters fixed in genesis.
func (s *State) Params() Params { return s.params }

// LogTime is the time of the last tick, the zero Time before the first.
func (s *State) LogTime() time.Time {
	if !s.ticked {
		return time.Time{}
	}
	return time.UnixMilli(int64(s.tick)).UTC()
}

// Bucket is the settlement bucket of the log time.
func (s *State) Bucket() uint32 { return s.bucketOf(s.tick) }

// bucketOf is the bucket of a log time; applyTick keeps it within a u32.
func (s *State) bucketOf(ms uint64) uint32 {
	if s.params.BucketMs == 0 {
		return 0 // before genesis
	}
	return uint32(ms / s.params.BucketMs)
}

// Parties lists the registered operators in order of their numbers.
func (s *State) Parties() []Party {
	out := make([]Party, len(s.parties))
	for i := range s.parties {
		out[i] = s.parties[i].Party
	}
	return out
}

// NextSeq is the sequence number that the party's next entry must carry.
func (s *State) NextSeq(p PartyID) uint64 {
	if op, err := s.operator(p); err == nil {
		return op.seq + 1
	}
	return 1
}

// ActiveKeys lists the keys of a party for one use that are not revoked, in
// order of registration.
func (s *State) ActiveKeys(p PartyID, use Use) []Hash {
	op, err := s.operator(p)
	if err != nil {
		return nil
	}
	var out []Hash
	for _, id := range op.keyIDs {
		if k := s.keys[id]; k.use == use && !k.revoked {
			out = append(out, k.pub)
		}
	}
	return out
}
