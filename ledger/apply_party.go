package ledger

import (
	"math"
	"strings"
	"time"
	"unicode"

	"gridveil/privacy"
)

const (
	maxApprovals = MaxSigs - 2        // an approver's registration: A, the new key, k approvers
	minBucketMs  = 1000               // accelerated demos; a bucket number must fit a u32
	maxParamTime = 1 << 60            // sums of a tick and a parameter stay below 2^63
	maxCount     = 1 << 31            // buckets and minor units: a bucket plus this fits a u64 with room
	maxNameBytes = 64                 // fits a line of a payment file
	maxOrigin    = 200                // fits a str8
	nameSigns    = " .-&'()/_"        // beside letters and digits: nothing that a journal or XML file would read
	maxTariffs   = 1 << 20            // a tariff a day from every party for years
	maxEpochs    = 12 * 8 * 100       // months of all currencies
	firstEpoch   = 197001             // yyyymm
	maxTickMs    = 1<<62 - 1          // as Parse enforces
	maxBucket    = math.MaxUint32 - 2 // OpenBucket may be one past the current
)

// validName reports whether a name is fit for every export.
func validName(s string) bool {
	if s == "" || len(s) > maxNameBytes || s != strings.TrimSpace(s) || strings.Contains(s, "  ") {
		return false
	}
	for _, r := range s {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(nameSigns, r) {
			return false
		}
	}
	return true
}

// validOrigin reports whether s may name a log, a network or a key: what fits a
// URL without its scheme, a signed note and every export.
func validOrigin(s string) bool {
	if s == "" || len(s) > maxOrigin {
		return false
	}
	for _, r := range s {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-._~/:", r) {
			return false
		}
	}
	return true
}

func (s *State) applyGenesis(g *Genesis) error {
	if err := g.valid(s.origin); err != nil {
		return err
	}
	s.network, s.currencies, s.params = g.Network, append([]Currency(nil), g.Currencies...), g.Params
	s.books = make([]book, len(g.Currencies))
	s.lastClose = make([]closeMark, len(g.Currencies))
	for i := range g.Parties {
		s.register(&g.Parties[i])
	}
	return nil
}

func (g *Genesis) valid(origin string) error {
	switch {
	case g.Rules != maxRules:
		return refuse(ErrMalformed, "rules version %d is unknown, this program knows %d", g.Rules, maxRules)
	case g.Origin != origin || !validOrigin(g.Origin):
		return refuse(ErrMalformed, "genesis is of the log %q, want %q", g.Origin, origin)
	case !validOrigin(g.Network):
		return refuse(ErrMalformed, "network name %q", g.Network)
	}
	for i, c := range g.Currencies {
		for _, d := range g.Currencies[:i] {
			if c.ISO4217 == d.ISO4217 {
				return refuse(ErrMalformed, "currency %d is listed twice", c.ISO4217)
			}
		}
	}
	if err := g.Params.valid(); err != nil {
		return err
	}
	for i := range g.Parties {
		p := &g.Parties[i]
		if p.Party != PartyID(i+1) || (p.Role == Aggregator) != (i == 0) {
			return refuse(ErrRole, "parties are numbered from 1 and the first alone is the aggregator")
		}
		for j := range g.Parties[:i] {
			if p.Name == g.Parties[j].Name || p.Pub == g.Parties[j].Pub {
				return refuse(ErrMalformed, "parties %d and %d share a name or key", j+1, i+1)
			}
		}
	}
	return nil
}

func (p *Params) valid() error {
	for _, v := range p.fields() {
		if *v > maxParamTime {
			return refuse(ErrMalformed, "a parameter is %d, the most is %d", *v, uint64(maxParamTime))
		}
	}
	switch {
	case p.BucketMs < minBucketMs:
		return refuse(ErrMalformed, "bucket_ms is %d, want at least %d", p.BucketMs, minBucketMs)
	case p.MinBatch < 1 || p.RedeemStep < 1 || p.CloseEvery < 1 || p.MaxOpen < 1:
		return refuse(ErrMalformed, "min_batch, redeem_step, close_every and max_open count from 1")
	case max(p.RedeemStep, p.CloseEvery, p.MaxWait, p.Grace) > maxCount:
		return refuse(ErrMalformed, "redeem_step, close_every, max_wait and grace are at most %d", maxCount)
	case p.OpenPer10k > 10_000:
		return refuse(ErrMalformed, "open_per_10k is %d, the most is 10000", p.OpenPer10k)
	case p.K < 1 || p.K > maxApprovals:
		return refuse(ErrMalformed, "k is %d, want 1 to %d", p.K, maxApprovals)
	}
	return nil
}

// register adds a party that was checked; its number is the next.
func (s *State) register(p *Party) {
	s.parties = append(s.parties, operator{Party: *p, created: s.size})
	s.names[p.Name] = p.Party
	for i := range s.books {
		s.books[i].open = append(s.books[i].open, 0)
		s.books[i].due = append(s.books[i].due, 0)
	}
	s.addKey(p.Party, UseEntry, p.Pub)
}

func (s *State) addKey(p PartyID, use Use, pub Hash) {
	id := KeyIDOf(use, pub)
	op := &s.parties[p-1]
	s.keys[id] = keyRecord{party: p, use: use, pub: pub, added: s.size}
	op.keyIDs = append(op.keyIDs, id)
	if use == UseEntry {
		op.entry++
	}
}

func (s *State) applyParty(p *Party) error {
	switch {
	case len(s.parties) >= MaxParties:
		return refuse(ErrLimit, "%d parties", MaxParties)
	case int(p.Party) != len(s.parties)+1:
		return refuse(ErrMalformed, "party is numbered %d, the next is %d", p.Party, len(s.parties)+1)
	case p.Role == Aggregator:
		return refuse(ErrRole, "party 1 alone is the aggregator")
	}
	if other, taken := s.names[p.Name]; taken {
		return &DuplicateError{What: "party name", Index: s.parties[other-1].created}
	}
	if k, taken := s.keys[KeyIDOf(UseEntry, p.Pub)]; taken {
		return &DuplicateError{What: "key", Index: k.added}
	}
	s.register(p)
	return nil
}

func (s *State) applyKey(author PartyID, k *Key) error {
	id := KeyIDOf(k.Use, k.Pub)
	old, known := s.keys[id]
	op := &s.parties[author-1]
	if k.Add {
		switch {
		case known:
			return &DuplicateError{What: "key", Index: old.added}
		case len(op.keyIDs) >= maxKeys:
			return refuse(ErrLimit, "%d keys of a party", maxKeys)
		}
		s.addKey(author, k.Use, k.Pub)
		return nil
	}
	switch {
	case !known || old.party != author || old.revoked:
		return refuse(ErrRole, "only an own active key can be revoked")
	case k.Use == UseEntry && op.entry == 1:
		return refuse(ErrLimit, "the last entry key cannot be revoked: add another first")
	}
	if k.Use == UseEntry {
		op.entry--
	}
	old.revoked = true
	s.keys[id] = old
	return nil
}

func (s *State) applyTariff(e *Entry, t *Tariff) error {
	if len(s.tariffs) >= maxTariffs {
		return refuse(ErrLimit, "%d tariffs", maxTariffs)
	}
	s.tariffs[s.size] = *t
	return nil
}

// Tariff is the tariff entry at a leaf index.
func (s *State) Tariff(index uint64) (Tariff, bool) {
	t, ok := s.tariffs[index]
	return t, ok
}

func (s *State) applyTick(t *Tick) error {
	if s.ticked && t.Ms <= s.tick {
		return refuse(ErrWindow, "tick %d is not after %d", t.Ms, s.tick)
	}
	if t.Ms/s.params.BucketMs > maxBucket {
		return refuse(ErrWindow, "tick %d is beyond the last bucket", t.Ms)
	}
	bucket := s.bucketOf(t.Ms)
	opens := !s.ticked || bucket != s.Bucket()
	var want Hash
	if opens {
		want = s.Hash()
	}
	if t.State != want {
		return refuse(ErrState, "tick carries %x, want %x", t.State[:6], want[:6])
	}
	if !s.ticked {
		for i := range s.lastClose {
			s.lastClose[i].bucket = bucket
		}
	}
	s.ticked, s.tick = true, t.Ms
	if month := monthOf(t.Ms); month != s.month {
		s.month, s.monthCDRs = month, 0
		clear(s.quota)
	}
	if opens {
		s.forgetRefs()
	}
	return nil
}

// monthOf is yyyymm of a log time.
func monthOf(ms uint64) uint32 {
	t := time.UnixMilli(int64(ms)).UTC()
	return uint32(min(t.Year(), 9999)*100 + int(t.Month()))
}

// NextTick is the body of a tick at the log time ms: it carries the state hash
// if that opens a bucket.
func (s *State) NextTick(ms uint64) *Tick {
	t := &Tick{Ms: ms}
	if !s.ticked || s.bucketOf(ms) != s.Bucket() {
		t.State = s.Hash()
	}
	return t
}

// noteKeyID is the name of a mint key in the notes it signs.
func noteKeyID(n *[256]byte) KeyID { return privacy.KeyID(privacy.UseNote, n[:]) }
