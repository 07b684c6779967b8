package site

import (
	"encoding/hex"
	"fmt"
	"time"

	"gridveil/ledger"
	"gridveil/node/web"
)

// Log is a ledger as a node writes or follows it.
type Log interface {
	// Read calls f with the state after the newest stored entry; false while
	// there is none.
	Read(f func(*ledger.State)) bool
	// Entry reads one stored entry.
	Entry(index uint64) ([]byte, error)
	// Final is the newest checkpoint that this node holds, with its note.
	Final() (ledger.Checkpoint, []byte)
}

// Book is a log with what is known of its signatures.
type Book struct {
	Log
	Policy *ledger.Policy // nil while the network's is not known
	// Behind says why a cosigner did not sign the newest checkpoint, by name.
	Behind        map[string]error
	Sizes         map[string]uint64 // last cosigned size by name, where known
	Equivocations int
}

// pageEntries is how many entries one page lists.
const pageEntries = 40

// Ledger is the ledger page from entry from downwards.
func (b Book) Ledger(from uint64) web.Ledger {
	var out web.Ledger
	b.Read(func(s *ledger.State) {
		out.Origin, out.Size = s.Origin(), s.Size()
		out.Balances, out.SumMicro = balances(s)
		out.Facts = facts(s)
	})
	final, note := b.Final()
	out.CosignedSize, out.Checkpoint, out.Equivocations = final.Size, string(note), b.Equivocations
	out.Cosigners, out.Quorum = b.cosigners(note)
	if out.Size == 0 {
		return out
	}
	top := min(from, out.Size-1)
	for n := uint64(0); n < pageEntries && n <= top; n++ {
		if r, ok := b.row(top-n, final.Size); ok {
			out.Entries = append(out.Entries, r)
		}
	}
	if top >= pageEntries {
		older := top - pageEntries
		out.Older = &older
	}
	if top+1 < out.Size {
		newer := min(top+pageEntries, out.Size-1)
		out.Newer = &newer
	}
	return out
}

// cosigners lists the policy's witnesses with their newest signature.
func (b Book) cosigners(note []byte) (out []web.Cosigner, quorum string) {
	if b.Policy == nil {
		return nil, "nobody yet"
	}
	at := map[string]time.Time{}
	size := uint64(0)
	if c, n, err := ledger.OpenCheckpoint(note, b.Policy.Keys()...); err == nil {
		size = c.Size
		for _, s := range n.Sigs {
			if t, err := ledger.CosignedAt(s); err == nil {
				at[s.Name] = t
			}
		}
	}
	signed := 0
	for _, w := range b.Policy.Witnesses {
		c := web.Cosigner{Name: w.Name, Size: b.Sizes[w.Name], Text: "not yet"}
		if t, ok := at[w.Key.Name()]; ok {
			c.At, c.Size, c.OK, c.Text = t, size, true, "replayed and signed"
			signed++
		}
		if err := b.Behind[w.Name]; err != nil {
			c.Text = sentence(err.Error())
		}
		out = append(out, c)
	}
	return out, fmt.Sprintf("%d of %d verifiers", signed, len(b.Policy.Witnesses))
}

// balances lists every account that is not zero, and the sum of all.
func balances(s *ledger.State) (out []web.Balance, sum int64) {
	for i, cur := range s.Currencies() {
		c := uint8(i)
		add := func(party, account string, a ledger.Account) {
			v := s.Balance(a)
			sum += v
			if v != 0 {
				out = append(out, web.Balance{Party: party, Account: account, Amount: Money(v, cur.Code()), Exact: ledger.Amount(v)})
			}
		}
		for _, p := range s.Parties() {
			add(p.Name, "owed or owes", ledger.OpenAccount(p.Party, c))
			add(p.Name, "at the bank", ledger.DueAccount(p.Party, c))
		}
		add("households", "earned", ledger.EarnedAccount(c))
		add("households", "notes in circulation", ledger.NotesAccount(c))
		add("nobody", "lapsed notes", ledger.UnclaimedAccount(c))
	}
	return out, sum
}

// facts are the numbers that a reader wants next to the balances.
func facts(s *ledger.State) []web.Pair {
	var waiting uint64
	for _, p := range s.Pairs() {
		n, _, _ := s.Unsettled(p.Cur, p.Payer, p.Grid, p.To)
		waiting += n
	}
	out := []web.Pair{{Name: "sessions waiting to be settled", Value: Count(waiting)}}
	if at := s.LogTime(); !at.IsZero() {
		out = append(out, web.Pair{Name: "log time", Value: at.UTC().Format("2 Jan 15:04:05")})
	}
	return out
}

func (b Book) row(index, final uint64) (web.EntryRow, bool) {
	e, ok := b.entry(index)
	if !ok {
		return web.EntryRow{}, false
	}
	r := web.EntryRow{Index: index, Kind: e.Kind().String(), Final: index < final}
	b.Read(func(s *ledger.State) {
		r.Party, r.Text = partyName(s, e.Party()), entryWords(s, e.Body())
	})
	return r, true
}

func (b Book) entry(index uint64) (*ledger.Entry, bool) {
	raw, err := b.Log.Entry(index)
	if err != nil {
		return nil, false
	}
	e, err := ledger.Parse(raw)
	return e, err == nil
}

// Full is one entry in full.
func (b Book) Full(index uint64) (web.Entry, bool) {
	e, ok := b.entry(index)
	if !ok {
		return web.Entry{}, false
	}
	final, _ := b.Final()
	row, _ := b.row(index, final.Size)
	leaf := e.Leaf()
	out := web.Entry{EntryRow: row, Leaf: hex.EncodeToString(leaf[:]), Raw: hex.EncodeToString(e.Bytes()), At: b.timeOf(index, e)}
	b.Read(func(s *ledger.State) {
		out.Fields, out.Postings = fields(s, e.Body()), postings(s, e.Body())
	})
	out.Fields = append(out.Fields, web.Pair{Name: "author's number", Value: fmt.Sprint(e.Seq())})
	for _, s := range e.Sigs() {
		out.Fields = append(out.Fields, web.Pair{Name: "signed by key", Value: hex.EncodeToString(s.Key[:])})
	}
	return out, true
}

// maxTickSearch is how far back an entry's log time is looked for.
const maxTickSearch = 200

// timeOf is the log time of an entry: its own if it is a tick, else that of the
// tick before it.
func (b Book) timeOf(index uint64, e *ledger.Entry) time.Time {
	for n := 0; n < maxTickSearch; n++ {
		if t, ok := e.Body().(*ledger.Tick); ok {
			return time.UnixMilli(int64(t.Ms)).UTC()
		}
		if index == 0 {
			break
		}
		index--
		var ok bool
		if e, ok = b.entry(index); !ok {
			break
		}
	}
	return time.Time{}
}

func partyName(s *ledger.State, p ledger.PartyID) string {
	for _, known := range s.Parties() {
		if known.Party == p {
			return known.Name
		}
	}
	if p == 0 {
		return "households"
	}
	return fmt.Sprintf("party %d", p)
}

func code(s *ledger.State, cur uint8) string {
	if all := s.Currencies(); int(cur) < len(all) {
		return all[cur].Code()
	}
	return fmt.Sprintf("currency %d", cur)
}

func hex32(h ledger.Hash) string { return hex.EncodeToString(h[:]) }

func minor(s *ledger.State, cur uint8) int64 {
	if all := s.Currencies(); int(cur) < len(all) {
		return all[cur].Minor()
	}
	return 0
}
