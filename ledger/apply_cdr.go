package ledger

import (
	"fmt"
	"sort"

	"gridveil/privacy/commit"
)

// digest shortens a ref or nullifier for the used-sets: 128 bits still leave a
// second preimage out of reach, and a collision only refuses its maker.
type digest [16]byte

func short(h Hash) digest { return digest(h[:16]) }

// pairKey names the flow of money from one payer, with one grid utility.
type pairKey struct {
	cur         uint8
	payer, grid PartyID
}

// pair holds the sums of a pair that are not settled, by ascending bucket.
type pair struct {
	settled   bool
	settledTo uint32
	sums      []bucketSum
}

type bucketSum struct {
	bucket uint32
	n      uint64
	sum    commit.Sum
}

// cdrRecord is what must be known of a session after its entry: to refuse its
// ref a second time, and to take it out of a sum in a dispute.
type cdrRecord struct {
	pairKey
	bucket uint32
	state  cdrState
	index  uint64
	commit Hash // zero once it is settled or gone
}

type cdrState uint8

const (
	cdrOpen cdrState = iota // in a sum, or settled if the pair's settledTo has passed its bucket
	cdrHeld                 // frozen by an open case
	cdrGone                 // cancelled
)

// OpenBucket is the bucket that a CDR of this pair must carry now: the current
// one, or the next if the pair has settled up to the current.
func (s *State) OpenBucket(cur uint8, payer, grid PartyID) uint32 {
	now := s.Bucket()
	if p := s.pairs[pairKey{cur, payer, grid}]; p != nil && p.settled && p.settledTo >= now {
		return p.settledTo + 1
	}
	return now
}

func (s *State) applyCDR(c *CDR) error {
	if err := s.currency(c.Cur); err != nil {
		return err
	}
	if err := s.role(c.Payer, Utility); err != nil {
		return err
	}
	if c.Grid != 0 {
		if err := s.role(c.Grid, Utility, DSO); err != nil {
			return err
		}
	}
	if old, used := s.cdrs[short(c.Ref)]; used {
		return &DuplicateError{What: "ref", Index: old.index}
	}
	if want := s.OpenBucket(c.Cur, c.Payer, c.Grid); c.Bucket != want {
		return refuse(ErrBucket, "CDR is for bucket %d, the open one is %d", c.Bucket, want)
	}
	if _, known := s.tariffs[c.Tariff]; !known && c.Tariff != 0 {
		return refuse(ErrWindow, "entry %d is no tariff", c.Tariff)
	}
	if s.open >= s.params.MaxOpen {
		return refuse(ErrLimit, "%d unsettled CDRs", s.open)
	}
	one, err := commit.Sum{}.Add(c.Commit)
	if err != nil {
		return refuse(ErrMalformed, "commitment: %v", err)
	}
	key := pairKey{c.Cur, c.Payer, c.Grid}
	s.join(key, c.Bucket, one)
	s.cdrs[short(c.Ref)] = &cdrRecord{pairKey: key, bucket: c.Bucket, index: s.size, commit: c.Commit}
	s.remember(c.Bucket, short(c.Ref))
	s.open++
	s.monthCDRs++
	return nil
}

// join adds one commitment to the sum of a bucket; buckets of a pair only grow.
func (s *State) join(key pairKey, bucket uint32, one commit.Sum) {
	p := s.pairs[key]
	if p == nil {
		p = &pair{}
		s.pairs[key] = p
	}
	if n := len(p.sums); n == 0 || p.sums[n-1].bucket != bucket {
		p.sums = append(p.sums, bucketSum{bucket: bucket})
	}
	last := &p.sums[len(p.sums)-1]
	last.n++
	last.sum = last.sum.Join(one)
}

// leave takes the commitment of an unsettled CDR out of its sum.
func (s *State) leave(r *cdrRecord) error {
	p := s.pairs[r.pairKey]
	i := sort.Search(len(p.sums), func(i int) bool { return p.sums[i].bucket >= r.bucket })
	if i == len(p.sums) || p.sums[i].bucket != r.bucket {
		return fmt.Errorf("%w: CDR of entry %d is in no sum", errBroken, r.index)
	}
	left, err := p.sums[i].sum.Sub(r.commit)
	if err != nil {
		return fmt.Errorf("%w: commitment of entry %d", errBroken, r.index)
	}
	p.sums[i].sum = left
	if p.sums[i].n--; p.sums[i].n == 0 {
		p.sums = append(p.sums[:i], p.sums[i+1:]...)
	}
	return nil
}

// unsettled reports whether the CDR still waits in a sum.
func (s *State) unsettled(r *cdrRecord) bool {
	p := s.pairs[r.pairKey]
	return r.state == cdrOpen && (!p.settled || r.bucket > p.settledTo)
}

// Unsettled is what a Settle of the pair up to bucket to would take: how many
// sessions, the oldest bucket and the sum of their commitments.
func (s *State) Unsettled(cur uint8, payer, grid PartyID, to uint32) (n uint64, oldest uint32, sum commit.Sum) {
	p := s.pairs[pairKey{cur, payer, grid}]
	if p == nil || len(p.sums) == 0 {
		return 0, 0, sum
	}
	for _, b := range p.sums {
		if b.bucket > to {
			break
		}
		n += b.n
		sum = sum.Join(b.sum)
	}
	return n, p.sums[0].bucket, sum
}

// Pairs lists the pairs with unsettled sessions in the order currency, payer,
// grid.
func (s *State) Pairs() []Settle {
	var out []Settle
	for _, k := range sortedPairs(s.pairs) {
		p := s.pairs[k]
		if len(p.sums) == 0 {
			continue
		}
		last := p.sums[len(p.sums)-1].bucket
		n, _, _ := s.Unsettled(k.cur, k.payer, k.grid, last)
		out = append(out, Settle{Cur: k.cur, Payer: k.payer, Grid: k.grid, To: last, N: uint32(n)})
	}
	return out
}

func sortedPairs(m map[pairKey]*pair) []pairKey {
	keys := make([]pairKey, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool {
		a, b := keys[i], keys[j]
		if a.cur != b.cur {
			return a.cur < b.cur
		}
		if a.payer != b.payer {
			return a.payer < b.payer
		}
		return a.grid < b.grid
	})
	return keys
}

func (s *State) applySettle(b *Settle) ([]Posting, error) {
	if err := s.settleForm(b); err != nil {
		return nil, err
	}
	n, oldest, sum := s.Unsettled(b.Cur, b.Payer, b.Grid, b.To)
	now := s.Bucket()
	switch {
	case b.To > now:
		return nil, refuse(ErrBucket, "settle up to bucket %d, now is %d", b.To, now)
	case n == 0 || uint64(b.N) != n:
		return nil, refuse(ErrBucket, "settle names %d sessions, %d are unsettled", b.N, n)
	case n < s.params.MinBatch && uint64(now-oldest) < s.params.MaxWait:
		return nil, refuse(ErrBatchTooSmall, "%d sessions, want %d or a wait of %d buckets", n, s.params.MinBatch, s.params.MaxWait)
	}
	if !sum.Opens(commit.Values{Pay: b.Pay, Earn: b.Earn, GridPay: b.GridPay, Energy: b.Energy}, b.Blind) {
		return nil, refuse(ErrOpening, "settle of %d sessions", n)
	}
	fee, ok := settleFee(b)
	if !ok {
		return nil, refuse(ErrOverflow, "pay - earn - gridpay")
	}
	postings := []Posting{{OpenAccount(b.Payer, b.Cur), -b.Pay}, {EarnedAccount(b.Cur), b.Earn}}
	if b.Grid != 0 {
		postings = append(postings, Posting{OpenAccount(b.Grid, b.Cur), b.GridPay})
	}
	postings = append(postings, Posting{OpenAccount(1, b.Cur), fee})
	if err := s.post(postings...); err != nil {
		return nil, err
	}
	p := s.pairs[pairKey{b.Cur, b.Payer, b.Grid}]
	i := sort.Search(len(p.sums), func(i int) bool { return p.sums[i].bucket > b.To })
	p.sums = append([]bucketSum(nil), p.sums[i:]...)
	p.settled, p.settledTo = true, b.To
	s.open -= n
	return postings, nil
}

func (s *State) settleForm(b *Settle) error {
	if err := s.currency(b.Cur); err != nil {
		return err
	}
	switch {
	case b.Pay < 0 || b.Earn < 0:
		return refuse(ErrMalformed, "pay and earn are not below zero")
	case b.Earn%s.currencies[b.Cur].Minor() != 0:
		return refuse(ErrMalformed, "earn is in whole minor units")
	case b.Grid == 0 && b.GridPay != 0:
		return refuse(ErrMalformed, "gridpay without a grid utility")
	}
	return nil
}

// settleFee is what is left to the aggregator: pay - earn - gridpay.
func settleFee(b *Settle) (int64, bool) {
	rest, ok := addAmount(b.Pay, -b.Earn)
	if !ok || b.GridPay == -1<<63 {
		return 0, false
	}
	return addAmount(rest, -b.GridPay)
}

// forgetRefs drops what is older than the window and not waiting for money.
func (s *State) forgetRefs() {
	for bucket, l := range s.refs {
		if !s.past(bucket) {
			continue
		}
		var keep []digest
		for _, d := range l.list {
			r := s.cdrs[d]
			switch {
			case r == nil || r.bucket != bucket: // moved to a later bucket by a released case
			case r.state == cdrHeld || s.unsettled(r):
				keep = append(keep, d)
			default:
				delete(s.cdrs, d)
			}
		}
		if len(keep) == len(l.list) {
			continue
		}
		if l.list, l.left = keep, true; keep == nil {
			delete(s.refs, bucket)
		}
	}
}

// CDRState tells wallets and auditors where a session stands.
type CDRState string

// States of a session on the ledger.
const (
	CDRUnknown CDRState = "unknown" // no entry, or forgotten after its window
	CDROpen    CDRState = "open"
	CDRSettled CDRState = "settled"
	CDRHeld    CDRState = "held"
	CDRGone    CDRState = "cancelled"
)

// Session looks up a ref: its leaf index and state.
func (s *State) Session(ref Hash) (index uint64, state CDRState) {
	r, ok := s.cdrs[short(ref)]
	switch {
	case !ok:
		return 0, CDRUnknown
	case r.state == cdrHeld:
		return r.index, CDRHeld
	case r.state == cdrGone:
		return r.index, CDRGone
	case s.unsettled(r):
		return r.index, CDROpen
	}
	return r.index, CDRSettled
}
