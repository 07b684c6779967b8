package party

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/export"
	lstore "gridveil/ledger/store"
	"gridveil/node/clock"
	"gridveil/node/config"
	"gridveil/node/keys"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy"
)

// border is a node with a sealed log of three entries on disk.
type border struct {
	t      *testing.T
	env    *role.Env
	log    ed25519.PrivateKey
	policy *ledger.Policy
	note   []byte
	raw    [][]byte
}

const nextOrigin = origin + "/2027"

func newBorder(t *testing.T) *border {
	t.Helper()
	dir := t.TempDir()
	mk, err := store.LoadOrCreateKey(filepath.Join(dir, "store.key"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(filepath.Join(dir, "store"), mk, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	b := &border{t: t, log: draw(t), env: &role.Env{Config: &config.Config{Dir: dir}, Clock: clock.Wall{}, Log: slog.New(slog.DiscardHandler), Warn: role.NewBoard(),
		Store: st, Keys: keys.NewRing(st, rand.Reader, privacy.SuiteX25519)}}
	b.policy = ledger.NewPolicy(ledger.LogKey(origin, ledger.Hash(b.log.Public().(ed25519.PublicKey))))
	b.fill()
	return b
}

// fill writes the sealed log into the first shard's store.
func (b *border) fill() {
	b.t.Helper()
	a, u := draw(b.t), draw(b.t)
	bodies := []ledger.Body{&ledger.Genesis{Rules: 1, Origin: origin, Network: "test", Params: ledger.DefaultParams(), Currencies: []ledger.Currency{{ISO4217: 978, Exp: 2}},
		Parties: []ledger.Party{{Party: 1, Role: ledger.Aggregator, Name: "evagg", Pub: ledger.Hash(a.Public().(ed25519.PublicKey))},
			{Party: 2, Role: ledger.Utility, Name: "northgrid", Pub: ledger.Hash(u.Public().(ed25519.PublicKey))}}},
		&ledger.Anchor{Topic: ledger.TopicTask, Ref: ledger.Hash{7}}, &ledger.Seal{Next: nextOrigin}}
	m := ledger.NewMoney(origin)
	opt, err := StoreOptions(b.env)
	b.must(err)
	st, err := lstore.Open(filepath.Join(b.env.Config.Dir, "ledger"), m, opt)
	b.must(err)
	for i, body := range bodies {
		e, err := ledger.NewEntry(1, uint64(i+1), body)
		b.must(err)
		b.must(ledger.Sign(e, origin, a))
		if i == 0 {
			b.must(ledger.Sign(e, origin, u))
		}
		p, err := st.Parse(e.Bytes())
		b.must(err)
		if _, err := st.TakeAll([]*lstore.Pending{p}); err != nil {
			b.t.Fatal(err)
		}
		b.raw = append(b.raw, e.Bytes())
	}
	size, root, err := st.Seal()
	b.must(err)
	b.note, err = ledger.SignCheckpoint(ledger.Checkpoint{Origin: origin, Size: size, Root: root}, ledger.LogSigner(origin, b.log))
	b.must(err)
	b.must(st.Close())
}

func (b *border) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// open starts the shards as a process does; fail names the step after which it
// is killed.
func (b *border) open(fail string) *Shards {
	b.t.Helper()
	s, err := OpenShards(b.env, origin)
	b.must(err)
	s.fail = func(step string) error {
		if step == fail {
			return errKilled
		}
		return nil
	}
	return s
}

var errKilled = errors.New("killed here")

// cross does what a node does at a border from wherever the last process was.
func (b *border) cross(s *Shards) error {
	b.t.Helper()
	if s.Open().No == 1 {
		opt, err := StoreOptions(b.env)
		b.must(err)
		m := ledger.NewMoney(origin)
		st, err := lstore.Open(s.Dir(1), m, opt)
		b.must(err)
		err = s.Cross(m.State, b.note, b.policy)
		b.must(st.Close())
		if err != nil {
			return err
		}
	}
	return s.settle(b.t.Context(), s.List()[0])
}

// TestABorderIsCrossedWhereverItWasKilled ends the process after each step of a
// border and starts it again: every entry can be read at any time, and in the end
// there are flat files that verify, and no store.
func TestABorderIsCrossedWhereverItWasKilled(t *testing.T) {
	for _, step := range []string{"carried", "crossed", "written", "compared", "named", "pruned", ""} {
		t.Run("after "+step, func(t *testing.T) {
			b := newBorder(t)
			err := b.cross(b.open(step))
			if step != "" && !errors.Is(err, errKilled) || step == "" && err != nil {
				t.Fatalf("killed after %q: %v", step, err)
			}
			if step == "written" || step == "compared" { // a disk that lost what was not synced
				b.must(os.Truncate(filepath.Join(b.env.Config.Dir, "ledger-sealed", "1.part", "tile", "entries", "000.p", "3"), 1))
			}
			s := b.open("")
			b.must(b.cross(s))
			dir := s.Files(1)
			r, err := export.Verify(dir, b.policy)
			if err != nil || r.Entries != 3 || r.Sealed != nextOrigin {
				t.Errorf("files: %+v, %v", r, err)
			}
			if _, err := os.Stat(s.Dir(1)); !os.IsNotExist(err) {
				t.Errorf("the store is still there: %v", err)
			}
			for i, want := range b.raw {
				got, err := s.Entry(uint64(i))
				if err != nil || string(got) != string(want) {
					t.Errorf("entry %d: %v", i, err)
				}
				p, err := s.Proof(uint64(i))
				b.must(err)
				if _, err := p.Verify(b.policy, ledger.LeafHash(got)); err != nil {
					t.Errorf("proof of entry %d: %v", i, err)
				}
			}
			if _, err := s.Entry(3); !errors.Is(err, ledger.ErrMalformed) {
				t.Errorf("an entry of the open shard: %v", err)
			}
			x := s.Open()
			if x.No != 2 || x.Origin != nextOrigin || x.Base != 3 || x.Sealed() {
				t.Errorf("open: %+v", x)
			}
			if err := s.Cross(ledger.New(origin), b.note, b.policy); err == nil {
				t.Error("a shard that is not sealed was crossed")
			}
		})
	}
}

// TestAShardMustGoOnFromOurEnd offers a node next shards that begin elsewhere
// than where it saw the log end.
func TestAShardMustGoOnFromOurEnd(t *testing.T) {
	b := newBorder(t)
	s := b.open("")
	b.must(b.cross(s))
	m, err := s.Machine(2)
	b.must(err)
	if err := m.First(m.State.NewShard(m.State.Params(), b.note)); err != nil {
		t.Errorf("our own end: %v", err)
	}
	other, err := ledger.SignCheckpoint(ledger.Checkpoint{Origin: origin, Size: 3, Root: ledger.Hash{1}}, ledger.LogSigner(origin, b.log))
	b.must(err)
	if err := m.First(m.State.NewShard(m.State.Params(), other)); !errors.Is(err, ledger.ErrState) {
		t.Errorf("another end: %v", err)
	}
	forged, err := ledger.SignCheckpoint(ledger.Checkpoint{Origin: origin, Size: 3, Root: ledger.Hash{1}}, ledger.LogSigner(origin, draw(t)))
	b.must(err)
	if err := m.First(m.State.NewShard(m.State.Params(), forged)); err == nil {
		t.Error("an end that the log did not sign")
	}
	b.must(os.WriteFile(s.carriedFile(2), []byte("changed"), 0o600))
	if _, err := s.Machine(2); !errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("changed state: %v", err)
	}
}
