// Package scene builds small, fully signed ledgers for tests: eight operators
// whose keys come from a seed, a story in which every kind of entry happens
// once, and helpers that fill a log with transfers and sessions. It is imported
// by tests only.
package scene

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"gridveil/ledger"
	"gridveil/ledger/internal/tile"
	"gridveil/privacy"
	"gridveil/privacy/commit"
	notes "gridveil/privacy/note"
)

// Parties of every scene.
const (
	Evagg     ledger.PartyID = 1 // aggregator
	Uta       ledger.PartyID = 2 // the hosts' utility
	Utb       ledger.PartyID = 3 // the drivers' utility
	Dso       ledger.PartyID = 4 // approver
	Regulator ledger.PartyID = 5 // approver, public
	Consumers ledger.PartyID = 6 // approver, public
	Utc       ledger.PartyID = 7 // approver, a third utility
	Late      ledger.PartyID = 8 // joins in the story, approver
)

const (
	// Origin of every scene.
	Origin = "gridveil.test/ledger"
	// Start is the log time of the first tick, UTC ms: 2026-03-02 00:00.
	Start = 1772409600000
	// Hour is a settlement bucket here.
	Hour = 3600 * 1000
	// Month is the epoch of the scene's mint keys.
	Month = 202603
	// Unit is one currency unit in millionths, Cent one minor unit.
	Unit = 1_000_000
	Cent = 10_000
)

// Values of the scene's mint keys in minor units.
var denominations = []uint32{64, 128, 512}

// Scene is a ledger under construction.
type Scene struct {
	TB       testing.TB
	State    *ledger.State
	Log      [][]byte           // entries as they were applied
	Postings [][]ledger.Posting // of each entry
	Keys     map[ledger.PartyID]ed25519.PrivateKey
	LogKey   ed25519.PrivateKey            // signs checkpoints
	Receipt  ed25519.PrivateKey            // signs receipts
	Witness  map[string]ed25519.PrivateKey // cosigners "uta", "utb", "independent"
	Here     string                        // origin of the log, Origin at first

	rnd    *mathrand.ChaCha8
	opens  map[[3]uint32]opening // cur, payer, grid -> what a settle opens
	serial map[[32]byte]ed25519.PrivateKey
}

type opening struct {
	n      uint32
	values commit.Values
	blind  [32]byte
}

// Signer is a key and the use under which it signs.
type Signer struct {
	Use ledger.Use
	Key ed25519.PrivateKey
}

// Step is one entry of a story.
type Step struct {
	Author  ledger.PartyID
	Body    ledger.Body
	Signers []Signer
}

// New is a scene with no entry; its keys and randomness come from seed.
func New(tb testing.TB, seed uint64) *Scene {
	tb.Helper()
	var s [32]byte
	binary.BigEndian.PutUint64(s[:], seed)
	sc := &Scene{TB: tb, Here: Origin, State: ledger.New(Origin), rnd: mathrand.NewChaCha8(s), opens: map[[3]uint32]opening{},
		Keys: map[ledger.PartyID]ed25519.PrivateKey{}, Witness: map[string]ed25519.PrivateKey{}, serial: map[[32]byte]ed25519.PrivateKey{}}
	for p := Evagg; p <= Late; p++ {
		sc.Keys[p] = sc.Key()
	}
	sc.LogKey, sc.Receipt = sc.Key(), sc.Key()
	for _, w := range []string{"uta", "utb", "independent"} {
		sc.Witness[w] = sc.Key()
	}
	return sc
}

// Key draws a fresh Ed25519 key.
func (s *Scene) Key() ed25519.PrivateKey {
	k, err := privacy.NewKey(s.rnd)
	s.must(err)
	return k
}

// Bytes32 draws 32 random bytes.
func (s *Scene) Bytes32() (b [32]byte) {
	s.rnd.Read(b[:])
	return b
}

// N draws a number below n.
func (s *Scene) N(n int) int { return int(s.rnd.Uint64() % uint64(n)) }

func (s *Scene) must(err error) {
	s.TB.Helper()
	if err != nil {
		s.TB.Fatal(err)
	}
}

// Pub is the public half of a key.
func Pub(k ed25519.PrivateKey) [32]byte { return [32]byte(k.Public().(ed25519.PublicKey)) }

// Genesis is the first entry of every scene.
func (s *Scene) Genesis() *ledger.Genesis {
	p := ledger.DefaultParams()
	p.BucketMs, p.MinBatch, p.MaxWait, p.RedeemStep, p.CloseEvery, p.Grace = Hour, 2, 3, 64, 2, 1
	p.NoticeMs, p.CaseMs = 2*Hour, 10*Hour
	g := &ledger.Genesis{Rules: 1, Origin: Origin, Network: "testnet", Params: p,
		Currencies: []ledger.Currency{{ISO4217: 978, Exp: 2}, {ISO4217: 392, Exp: 0}}}
	roles := map[ledger.PartyID]ledger.Role{Evagg: ledger.Aggregator, Uta: ledger.Utility, Utb: ledger.Utility, Dso: ledger.DSO,
		Regulator: ledger.Regulator, Consumers: ledger.ConsumerBody, Utc: ledger.Utility}
	names := []string{"", "Evagg", "Stadtwerke Uta", "Utb Energie", "Netz DSO", "Regulator", "Consumers", "Utc Power"}
	for id := Evagg; id <= Utc; id++ {
		g.Parties = append(g.Parties, ledger.Party{Party: id, Role: roles[id], Approver: id >= Dso, Limit: 1000 * Unit,
			Bank: Account(id).Hash(), Name: names[id], Pub: Pub(s.Keys[id])})
	}
	return g
}

// BankAccount is an operator's bank account.
type BankAccount struct {
	Party     ledger.PartyID
	Salt      [32]byte
	IBAN, BIC string
}

// Hash is what the registration carries: SHA-256(salt || IBAN || BIC).
func (a BankAccount) Hash() [32]byte {
	return sha256.Sum256([]byte(string(a.Salt[:]) + a.IBAN + a.BIC))
}

// Account is the bank account of a party: a German IBAN with valid check digits.
func Account(p ledger.PartyID) BankAccount {
	bban := fmt.Sprintf("50010517%010d", 5407324930+uint64(p))
	rest := uint64(0)
	for _, r := range bban + "131400" { // country DE and 00 as digits, moved to the end
		rest = (rest*10 + uint64(r-'0')) % 97
	}
	return BankAccount{Party: p, Salt: sha256.Sum256([]byte{byte(p)}), IBAN: fmt.Sprintf("DE%02d%s", 98-rest, bban), BIC: "INGDDEFFXXX"}
}

// As gives the entry keys of parties as signers.
func (s *Scene) As(parties ...ledger.PartyID) []Signer {
	var out []Signer
	for _, p := range parties {
		out = append(out, Signer{ledger.UseEntry, s.Keys[p]})
	}
	return out
}

// Entry builds the next entry of a step's author.
func (s *Scene) Entry(st Step) *ledger.Entry {
	s.TB.Helper()
	e, err := ledger.NewEntry(st.Author, s.State.NextSeq(st.Author), st.Body)
	s.must(err)
	for _, k := range st.Signers {
		s.must(ledger.SignAs(e, s.State.Ledger(), k.Use, k.Key))
	}
	return e
}

// Submit runs an entry through the whole flow against the state.
func Submit(state *ledger.State, raw []byte) ([]ledger.Posting, error) {
	e, err := ledger.Parse(raw)
	if err != nil {
		return nil, err
	}
	checks, err := state.Checks(e)
	if err != nil {
		return nil, err
	}
	if err := ledger.VerifyOne(checks); err != nil {
		return nil, err
	}
	return state.Apply(e)
}

// Try submits a step and reports the refusal.
func (s *Scene) Try(st Step) error {
	s.TB.Helper()
	e := s.Entry(st)
	postings, err := Submit(s.State, e.Bytes())
	if err == nil {
		s.Log, s.Postings = append(s.Log, e.Bytes()), append(s.Postings, postings)
	}
	return err
}

// Do submits a step that must be accepted and returns its index.
func (s *Scene) Do(st Step) uint64 {
	s.TB.Helper()
	if err := s.Try(st); err != nil {
		s.TB.Fatalf("%s by party %d: %v", st.Body.Kind(), st.Author, err)
	}
	return s.State.Size() - 1
}

// By submits a body signed by its author alone.
func (s *Scene) By(author ledger.PartyID, body ledger.Body) uint64 {
	s.TB.Helper()
	return s.Do(Step{author, body, s.As(author)})
}

// Begin enters genesis and the first tick.
func (s *Scene) Begin() *Scene {
	s.TB.Helper()
	s.Do(s.Found())
	s.Tick(Start)
	return s
}

// Found is the genesis step.
func (s *Scene) Found() Step {
	return Step{Evagg, s.Genesis(), s.As(Evagg, Uta, Utb, Dso, Regulator, Consumers, Utc)}
}

// Tick enters a tick at log time ms.
func (s *Scene) Tick(ms uint64) { s.TB.Helper(); s.By(Evagg, s.State.NextTick(ms)) }

// Now is the log time in ms.
func (s *Scene) Now() uint64 { return uint64(s.State.LogTime().UnixMilli()) }

// Pass lets so many buckets go by.
func (s *Scene) Pass(buckets int) {
	s.TB.Helper()
	for range buckets {
		s.Tick(s.Now() + Hour)
	}
}

// CDR is the body of a session of these values; what a settle must open is
// remembered.
func (s *Scene) CDR(payer, grid ledger.PartyID, v commit.Values) *ledger.CDR {
	s.TB.Helper()
	blind, err := commit.NewBlind(s.rnd)
	s.must(err)
	c, err := commit.New(v, blind)
	s.must(err)
	key := [3]uint32{0, uint32(payer), uint32(grid)}
	o := s.opens[key]
	if o.n == 0 {
		o.blind = blind
	} else if o.blind, err = commit.AddBlinds(o.blind, blind); err != nil {
		s.TB.Fatal(err)
	}
	o.values, _ = o.values.Plus(v)
	o.n++
	s.opens[key] = o
	return &ledger.CDR{Bucket: s.State.OpenBucket(0, payer, grid), Payer: payer, Grid: grid, Ref: s.Bytes32(),
		Evidence: s.Bytes32(), Commit: c}
}

// Session is a plausible session: 20 kWh at 0.35, fee 0.40.
func Session(kwh int64) commit.Values {
	return commit.Values{Pay: kwh*350_000 + 400_000, Earn: kwh * 330_000 / Cent * Cent, Energy: kwh * Unit}
}

// Settle is the step that opens everything of a pair up to the current bucket.
func (s *Scene) Settle(payer, grid ledger.PartyID) Step {
	key := [3]uint32{0, uint32(payer), uint32(grid)}
	o := s.opens[key]
	delete(s.opens, key)
	signers := s.As(Evagg, payer)
	if o.values.GridPay < 0 {
		signers = s.As(Evagg, payer, grid)
	}
	return Step{Evagg, &ledger.Settle{Payer: payer, Grid: grid, To: s.State.Bucket(), N: o.n, Pay: o.values.Pay, Earn: o.values.Earn,
		GridPay: o.values.GridPay, Energy: o.values.Energy, Blind: o.blind}, signers}
}

// Unsettle remembers again what a refused settle would have opened.
func (s *Scene) Unsettle(b *ledger.Settle) {
	v := commit.Values{Pay: b.Pay, Earn: b.Earn, GridPay: b.GridPay, Energy: b.Energy}
	s.opens[[3]uint32{0, uint32(b.Payer), uint32(b.Grid)}] = opening{b.N, v, b.Blind}
}

// Forget takes a session out of what the next settle opens.
func (s *Scene) Forget(payer, grid ledger.PartyID) {
	delete(s.opens, [3]uint32{0, uint32(payer), uint32(grid)})
}

// mint holds RSA keys made once per test binary: they are slow to make.
var mint = sync.OnceValue(func() []*rsa.PrivateKey {
	keys := make([]*rsa.PrivateKey, len(denominations))
	for i := range keys {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys[i] = k
	}
	return keys
})

// Denoms publishes the scene's mint keys.
func (s *Scene) Denoms() *ledger.Denoms {
	d := &ledger.Denoms{Epoch: Month, IssueTo: Start + 300*Hour, RedeemTo: Start + 400*Hour, SwapTo: Start + 500*Hour}
	for i, k := range mint() {
		d.Keys = append(d.Keys, ledger.DenomKey{Minor: denominations[i], N: [256]byte(k.N.FillBytes(make([]byte, 256)))})
	}
	return d
}

// Note signs a note of mint key i. A blind signature is the same bytes as a
// plain one, so the tests of the ledger need no blinding.
func (s *Scene) Note(i int) notes.Note {
	s.TB.Helper()
	key := mint()[i]
	owner := s.Key()
	serial := Pub(owner)
	s.serial[serial] = owner
	digest := sha512.Sum384(serial[:])
	sig, err := rsa.SignPSS(rand.Reader, key, crypto.SHA384, digest[:], &rsa.PSSOptions{SaltLength: 48, Hash: crypto.SHA384})
	s.must(err)
	var n notes.Note
	id := privacy.KeyID(privacy.UseNote, key.N.FillBytes(make([]byte, 256)))
	copy(n[:], id[:])
	copy(n[8:], serial[:])
	copy(n[40:], sig)
	return n
}

// Redeem spends notes to an account.
func (s *Scene) Redeem(payee ledger.Account, list ...notes.Note) *ledger.Redeem {
	r := &ledger.Redeem{Payee: payee, Bind: s.Bytes32()}
	msg := notes.SpendMessage(s.State.Ledger(), uint32(payee), r.Bind)
	for _, n := range list {
		r.Notes = append(r.Notes, notes.Spent{Note: n, Spend: [64]byte(ed25519.Sign(s.serial[n.Serial()], msg))})
	}
	return r
}

// Policy has the three witnesses, two of which make the quorum.
func (s *Scene) Policy() *ledger.Policy {
	var w []ledger.Witness
	for _, name := range []string{"uta", "utb", "independent"} {
		w = append(w, ledger.Witness{Name: name, Key: ledger.WitnessKey(name+".test", Pub(s.Witness[name]))})
	}
	return ledger.NewPolicy(ledger.LogKey(s.Here, Pub(s.LogKey)), w...)
}

// Checkpoint signs a checkpoint as the log and the named witnesses.
func (s *Scene) Checkpoint(size uint64, root [32]byte, witnesses ...string) []byte {
	s.TB.Helper()
	signers := []note.Signer{ledger.LogSigner(s.Here, s.LogKey)}
	for _, w := range witnesses {
		signers = append(signers, ledger.Cosigner(w+".test", s.Witness[w], time.UnixMilli(Start)))
	}
	msg, err := ledger.SignCheckpoint(ledger.Checkpoint{Origin: s.Here, Size: size, Root: root}, signers...)
	s.must(err)
	return msg
}

// Final is the checkpoint of the whole log, signed by the log and the named
// witnesses.
func (s *Scene) Final(witnesses ...string) []byte {
	s.TB.Helper()
	var e tile.Edge
	for _, raw := range s.Log {
		e.Append(ledger.LeafHash(raw), func(tile.Tile, []byte) {})
	}
	return s.Checkpoint(uint64(len(s.Log)), e.Root(), witnesses...)
}

// GoOn seals the log and begins the next one under another origin; it returns
// the sealed log's entries, its final checkpoint and what it carried over.
func (s *Scene) GoOn(next string) (sealed [][]byte, note, carried []byte) {
	s.TB.Helper()
	s.By(Evagg, &ledger.Seal{Next: next})
	sealed, note = s.Log, s.Final("uta", "utb")
	carried, err := s.State.Carry()
	s.must(err)
	s.State, err = ledger.Succeed(s.Here, next, carried)
	s.must(err)
	s.Here, s.Log, s.Postings = next, nil, nil
	s.By(Evagg, s.State.NewShard(s.State.Params(), note))
	return sealed, note, carried
}
