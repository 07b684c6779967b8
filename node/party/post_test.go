package party

import (
	"crypto/ed25519"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/verifier"
	"gridveil/node/store"
)

// atBorder is the party of a border's node in front of its sealed log of three
// entries, all with numbers of its own.
func atBorder(t *testing.T) (*border, *Party) {
	t.Helper()
	b := newBorder(t)
	key := draw(t)
	pub := ledger.Hash(key.Public().(ed25519.PublicKey))
	policy := *b.policy
	policy.LogURL = "http://127.0.0.1:1" // nobody is asked
	policy.Witnesses = []ledger.Witness{{Name: "us", Key: ledger.WitnessKey("us", pub)}}
	opt, err := StoreOptions(b.env)
	b.must(err)
	v, err := verifier.Open(verifier.Config{Dir: filepath.Join(b.env.Config.Dir, "ledger"), Store: opt, Machine: ledger.NewMoney(origin), Policy: &policy, Name: "us", Key: key})
	b.must(err)
	t.Cleanup(func() { v.Close() })
	return b, &Party{env: b.env, key: key, v: v, id: 1}
}

// drafted is an entry of ours with a number, signed by us alone.
func (b *border) drafted(seq uint64, body ledger.Body) []byte {
	b.t.Helper()
	e, err := ledger.NewEntry(1, seq, body)
	b.must(err)
	b.must(ledger.Sign(e, origin, draw(b.t)))
	return e.Bytes()
}

// line puts one entry in line whose bytes, if any, are on their way.
func (b *border) line(p *Party, raw []byte) (id [32]byte) {
	b.t.Helper()
	id = [32]byte{9}
	b.must(p.env.Store.Update(func(tx *store.Tx) error {
		return p.PostTx(tx, id, &ledger.Anchor{Topic: ledger.TopicTask, Ref: ledger.Hash{7}})
	}))
	o, err := p.first()
	b.must(err)
	o.Raw = raw
	b.must(p.keep(o))
	return id
}

// number is what the store says our last number in the log is, 0 if nothing.
func (b *border) number(p *Party) uint64 {
	raw, err := p.env.Store.Get(seqKey)
	if err != nil {
		return 0
	}
	n, _ := store.GetU64(raw)
	return n
}

func TestWhatIsOnItsWayAtABorderIsResolved(t *testing.T) {
	genesis := func(b *border) ledger.Body {
		e, err := ledger.Parse(b.raw[0])
		b.must(err)
		return e.Body()
	}
	for _, tc := range []struct {
		name     string
		raw      func(*border) []byte
		accepted bool
		index    uint64
		same     bool // bytes stay on their way
		number   uint64
	}{
		{"no bytes have left", func(*border) []byte { return nil }, false, 0, true, 0},
		{"its number is the next one", func(b *border) []byte { return b.drafted(4, &ledger.Anchor{Topic: 1}) }, false, 0, true, 0},
		{"it is beyond the next one", func(b *border) []byte { return b.drafted(9, &ledger.Anchor{Topic: 1}) }, false, 0, true, 0},
		{"the log has it", func(b *border) []byte { return b.raw[1] }, true, 1, false, 2},
		{"the log has it as its last entry", func(b *border) []byte { return b.raw[2] }, true, 2, false, 3},
		{"the log has it with signatures of others", func(b *border) []byte { return b.drafted(1, genesis(b)) }, true, 0, false, 1},
		{"another entry has its number", func(b *border) []byte {
			return b.drafted(2, &ledger.Anchor{Topic: ledger.TopicTask, Ref: ledger.Hash{8}})
		}, false, 0, false, 3},
		{"another entry has its number, the last one", func(b *border) []byte {
			return b.drafted(3, &ledger.Anchor{Topic: ledger.TopicTask, Ref: ledger.Hash{7}})
		}, false, 0, false, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, p := atBorder(t)
			raw := tc.raw(b)
			id := b.line(p, raw)
			for range 2 { // and again after a crash
				b.must(p.resolve(p.v))
			}
			s, ok := p.Posted(id)
			if !ok || s.Accepted != tc.accepted || s.Refused || s.Index != tc.index || b.number(p) != tc.number {
				t.Errorf("got %+v, our last number %d", s, b.number(p))
			}
			o, err := p.first()
			b.must(err)
			switch {
			case tc.accepted && o != nil:
				t.Error("it is still in line")
			case !tc.accepted && (o == nil || (string(o.Raw) == string(raw)) != tc.same):
				t.Errorf("in line: %+v", o)
			}
		})
	}
}

func TestAnEntryWhoseNumberIsTakenAtABorderGetsTheNextOne(t *testing.T) {
	b, p := atBorder(t)
	b.line(p, b.drafted(2, &ledger.Anchor{Topic: ledger.TopicTask, Ref: ledger.Hash{8}}))
	b.must(p.resolve(p.v))
	o, err := p.first()
	b.must(err)
	b.must(p.ready(o))
	e, err := ledger.Parse(o.Raw)
	b.must(err)
	if a, ok := e.Body().(*ledger.Anchor); e.Seq() != 4 || !ok || a.Ref != (ledger.Hash{7}) {
		t.Errorf("number %d, %+v; want number 4 and what was posted", e.Seq(), e.Body())
	}
}

func TestABorderIsNotCrossedWithWhatCannotBeRead(t *testing.T) {
	b, p := atBorder(t)
	b.must(p.resolve(p.v)) // nothing in line
	b.line(p, []byte("GVE1 and nothing more"))
	if err := p.resolve(p.v); err == nil || !strings.Contains(err.Error(), "stored entry") {
		t.Errorf("malformed bytes: %v", err)
	}
	b.must(p.env.Store.Update(func(tx *store.Tx) error { return tx.Set(outKey(1), []byte("{")) }))
	if err := p.resolve(p.v); err == nil || !strings.Contains(err.Error(), "stored entry") {
		t.Errorf("a malformed line: %v", err)
	}
	raw, err := json.Marshal(out{No: 1, State: outWaits, Raw: b.raw[1]})
	b.must(err)
	b.must(p.env.Store.Update(func(tx *store.Tx) error { return tx.Set(outKey(1), raw) }))
	b.must(p.v.Close())
	if err := p.resolve(p.v); err == nil {
		t.Error("a log that cannot be read decides on nothing")
	}
}
