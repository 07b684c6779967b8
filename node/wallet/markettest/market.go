// Package markettest is an aggregator and two utilities in memory, for tests of
// gateways and wallets: the real decisions of privacy/session, privacy/note and
// privacy/pseudo behind the operations of package ask, without mesh, ledger or
// disk. Every operator can be taken away and brought back.
//
// It is for tests only. Start with New; a Market is what hosting and wallet call
// their operators.
package markettest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cloudflare/circl/group"

	"gridveil/ev"
	"gridveil/ev/pool"
	"gridveil/ev/settle"
	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/mesh/mailbox"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/clock"
	"gridveil/node/signal"
	"gridveil/privacy"
	"gridveil/privacy/commit"
	"gridveil/privacy/note"
	"gridveil/privacy/pseudo"
	"gridveil/privacy/session"
)

// Names and numbers of every market.
const (
	Origin   = "market.test/ledger"
	Utility  = "southpower" // of drivers and homes
	Operator = "market"
	zone     = 3
)

var (
	// Net and Network name the market's network.
	Net     = privacy.Net{'m', 'a', 'r', 'k', 'e', 't'}
	Network = [16]byte{'m', 'a', 'r', 'k', 'e', 't'}
	// Epoch is when every market begins: a Wednesday morning.
	Epoch = time.Date(2026, 6, 17, 6, 0, 0, 0, time.UTC)
	// Fees is the aggregator's sheet.
	Fees = ev.FeeSheet{Currency: ask.Currency, PerKWhIn: 15_000, PerKWhOut: 15_000}

	// RSA keys take seconds: one set for all tests of a process.
	mints  = sync.OnceValues(func() (*note.Mint, error) { return note.NewMint(ask.Currency, note.Epoch(Epoch)) })
	passes = sync.OnceValues(func() (*note.PassMint, error) { return note.NewPassMint(zone, pseudo.Week(Epoch)) })
)

// Mint is the keys of every market's month.
func Mint() (*note.Mint, error) { return mints() }

// Market is the operators. Its methods are safe for concurrent use.
type Market struct {
	t     testing.TB
	clock clock.Clock
	keys  keys
	// keepers are made once; each guards itself
	keepers map[mailbox.Key]*mailbox.Keeper

	mu       sync.Mutex // guards everything below
	stored   map[string][]byte
	settler  *session.Settler
	registry *note.Registry
	passed   note.Claims
	book     *book
	issuer   *pseudo.Issuer
	nulls    map[[32]byte]string // spent notes, by what spent them
	settled  map[[32]byte]*session.Settled
	entries  map[[32]byte]ask.Proven // cdr entries by ref
	locks    map[[32]byte]int64
	claims   map[[32]byte]bool // collects that were answered "not yet" once
	issues   map[uint64]ask.Proven
	down     bool
	Lines    []session.Line // what the driver's utility would bill
	Issued   int64          // minor units
	Redeemed int64
	Locked   int64 // millionths
	Cases    []ask.OpenCase
	Seen     map[ask.Op]int // requests by operation
	Late     time.Duration  // see Lag; set before use
	// Broken, if set, may answer in the place of the operator.
	Broken func(op ask.Op, body []byte) ([]byte, error, bool)
	// Flex are the offers to the pool that were taken, in order.
	Flex   []*pool.Flex
	earned map[[32]byte][]session.Share
}

type keys struct {
	record, log, witness, issuer, grid ed25519.PrivateKey
	box, issue                         privacy.BoxKey
}

// New makes a market on a clock.
func New(t testing.TB, c clock.Clock) *Market {
	t.Helper()
	m := &Market{t: t, clock: c, stored: map[string][]byte{}, registry: &note.Registry{}, nulls: map[[32]byte]string{},
		settled: map[[32]byte]*session.Settled{}, entries: map[[32]byte]ask.Proven{}, claims: map[[32]byte]bool{}, locks: map[[32]byte]int64{}, earned: map[[32]byte][]session.Share{}, issues: map[uint64]ask.Proven{}, Seen: map[ask.Op]int{}}
	m.keepers = map[mailbox.Key]*mailbox.Keeper{}
	for _, c := range m.Keepers() {
		m.keepers[c.Key] = must(mailbox.NewKeeper(c.Key, &shelf{values: map[string][]byte{}}))
	}
	for _, k := range []*ed25519.PrivateKey{&m.keys.record, &m.keys.log, &m.keys.witness, &m.keys.issuer, &m.keys.grid} {
		*k = must(privacy.NewKey(rand.Reader))
	}
	for _, k := range []*privacy.BoxKey{&m.keys.box, &m.keys.issue} {
		*k = must(privacy.NewBoxKey(rand.Reader, privacy.SuiteX25519))
	}
	m.registry.Add(must(mints()).Denoms())
	m.book = &book{contracts: map[[16]byte]pseudo.Contract{}, batches: map[string]pseudo.Batch{}, rows: map[[32]byte]bool{}}
	committee := must(group.Ristretto255.HashToElement([]byte("Y"), []byte("market")).MarshalBinaryCompress())
	m.issuer = &pseudo.Issuer{Net: Net, ID: id(Utility), Key: m.keys.issuer, Box: m.keys.issue, Committee: [32]byte(committee), Book: m.book}
	sheet := must(Fees.Hash())
	m.settler = must(session.NewSettler(session.SettlerConfig{Net: Net, ID: id(Operator), Key: m.keys.record, Boxes: []privacy.BoxKey{m.keys.box}, Issuers: m.Issuers(),
		Revoked: func([16]byte, [32]byte, uint32) bool { return false },
		Pass: func(_ [8]byte, hpk [32]byte, sig [session.PassSize]byte, _ time.Time) error {
			return note.VerifyPass(must(passes()).Public(), hpk, sig)
		},
		Price: func(c session.Case) (int64, error) {
			fee, _, err := settle.Pricer{Fees: Fees}.Price(c, m.locks[c.Record.Open])
			return fee, err
		},
		Shares: func(open [32]byte) ([]session.Share, error) {
			list, ok := m.earned[open]
			if !ok {
				return nil, session.ErrNotYet
			}
			return list, nil
		},
		Fee:     session.FeeTerms{PerKWhIn: uint32(Fees.PerKWhIn), PerKWhOut: uint32(Fees.PerKWhOut), Sheet: sheet},
		AuthFor: 24 * time.Hour, Rand: rand.Reader, Get: func(key []byte) []byte { return bytes.Clone(m.stored[string(key)]) }}))
	return m
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func id(operator string) (b [16]byte) { copy(b[:], operator); return b }

// Down takes the operators away, or brings them back.
func (m *Market) Down(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
}

// Enrol opens a driver's contract for a member key.
func (m *Market) Enrol(key [32]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.book.contracts[ask.Contract(Network, key)] = pseudo.Contract{Kind: pseudo.Driver, LK: key, Arg: ask.DriverLimit, Deck: ask.DeckSize, Active: true}
}

// Read runs f while nothing changes.
func (m *Market) Read(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// Settled lists the sessions booked, by H(Open).
func (m *Market) Settled() map[[32]byte]session.Settled {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[[32]byte]session.Settled{}
	for k, v := range m.settled {
		out[k] = *v
	}
	return out
}

// Aggregator, Utility, Issuers, Origin, Policy and Lag are what a directory says.
// They hold while the operators are away.
func (m *Market) Aggregator() (ask.Aggregator, error) {
	return ask.Aggregator{Key: member.Key{1}, Operator: Operator, ID: id(Operator), Record: pub(m.keys.record), Box: m.keys.box.Pub}, nil
}

// Utility knows the one utility.
func (m *Market) Utility(operator string) (ask.Utility, error) {
	if operator != Utility {
		return ask.Utility{}, ask.ErrNoOperator
	}
	return ask.Utility{Key: member.Key{2}, ID: id(Utility), Issuer: pub(m.keys.issuer), Issue: m.keys.issue.Pub}, nil
}

// Issuers are the utility's certificate keys.
func (m *Market) Issuers() pseudo.IssuerKeys {
	out := pseudo.IssuerKeys{}
	if err := out.Add(id(Utility), pub(m.keys.issuer)); err != nil {
		panic(err)
	}
	return out
}

// Origin is the ledger's.
func (*Market) Origin() (string, error) { return Origin, nil }

// Keepers are two substations that keep mailboxes.
func (m *Market) Keepers() []mailbox.Candidate {
	return []mailbox.Candidate{{Key: mailbox.Key{1}, Operator: "north"}, {Key: mailbox.Key{2}, Operator: "south"}}
}

// Mail answers like a keeper behind an onion.
func (m *Market) Mail(ctx context.Context, keeper mailbox.Key, request []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	k := m.keepers[keeper]
	if k == nil {
		return nil, mesh.ErrOffline
	}
	return k.Answer(request, m.clock.Now()), nil
}

// Mailboxes counts the boxes and items of one keeper.
func (m *Market) Mailboxes(keeper mailbox.Key) (boxes, items int) { return m.keepers[keeper].Counts() }

// shelf is a mailbox.Storage in memory.
type shelf struct {
	mu     sync.Mutex
	values map[string][]byte
}

func (s *shelf) Each(prefix []byte, fn func(key, value []byte) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(s.values)) {
		if bytes.HasPrefix([]byte(k), prefix) {
			if err := fn([]byte(k), s.values[k]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *shelf) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values[string(key)], nil
}

func (s *shelf) Commit(writes []mailbox.Write) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range writes {
		if w.Value == nil {
			delete(s.values, string(w.Key))
			continue
		}
		s.values[string(w.Key)] = bytes.Clone(w.Value)
	}
	return nil
}

// Lag is what a busy test machine may need on an accelerated clock.
func (m *Market) Lag() time.Duration { return m.Late }

func pub(k ed25519.PrivateKey) [32]byte { return [32]byte(k.Public().(ed25519.PublicKey)) }

// Policy wants the log's and the one witness's signature.
func (m *Market) Policy() (*ledger.Policy, error) {
	return ledger.NewPolicy(ledger.LogKey(Origin, pub(m.keys.log)), ledger.Witness{Name: "witness", Key: ledger.WitnessKey("market.test/witness", pub(m.keys.witness))}), nil
}

// Ask answers like an operator behind an onion.
func (m *Market) Ask(ctx context.Context, to member.Key, _ mesh.Service, op ask.Op, body []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return nil, mesh.ErrUnacked
	}
	m.Seen[op]++
	if m.Broken != nil {
		if b, err, instead := m.Broken(op, body); instead {
			return b, err
		}
	}
	answer, err := m.decide(op, body)
	return ask.ParseAnswer(ask.Answer(answer, err))
}

func (m *Market) decide(op ask.Op, body []byte) ([]byte, error) {
	now := m.clock.Now()
	switch op {
	case ask.Authorise:
		return m.reply(m.settler.Authorise(now, body))
	case ask.Lock:
		return m.lock(now, body)
	case ask.Settle:
		return m.settle(now, body)
	case ask.Collect:
		return m.collect(now, body)
	case ask.Shares:
		b, err := m.settler.Shares(body)
		if errors.Is(err, session.ErrNotYet) {
			err = &ask.NotYetError{After: time.Minute}
		}
		return b, err
	case ask.Issue:
		p, ok := m.issues[must(ask.ParseIssueBody(body))]
		if !ok {
			return nil, &ask.NotYetError{After: time.Minute}
		}
		return p.Bytes(), nil
	case ask.Flex:
		return m.flex(body)
	case ask.Denoms:
		return m.denoms()
	case ask.Swap:
		return m.swap(now, body)
	case ask.Account:
		return ask.AccountAnswer(ledger.OpenAccount(3, 0)), nil
	case ask.Redeem:
		return m.redeem(now, body)
	case ask.PassKey:
		return ask.WeekKey{Zone: zone, Week: pseudo.Week(Epoch), Modulus: must(passes()).Public().Modulus(), Fees: Fees}.Bytes()
	case ask.Passes:
		return m.passes(body)
	case ask.Deck:
		return m.deck(now, body)
	case ask.Cases:
		return ask.CasesAnswer(m.Cases), nil
	case ask.Booked:
		p, ok := m.entries[[32]byte(body)]
		if !ok {
			return nil, &ask.NotYetError{After: time.Minute}
		}
		return p.Bytes(), nil
	}
	return nil, fmt.Errorf("operation %d is not known here", op)
}

func (m *Market) put(list []session.Put) {
	for _, p := range list {
		m.stored[string(p.Key)] = p.Value
	}
}

func (m *Market) reply(r session.Reply, err error) ([]byte, error) {
	if err == nil {
		m.put(r.Put)
	}
	return r.Msg, err
}

// settle books a session: its ledger entry, its bill line.
func (m *Market) settle(now time.Time, body []byte) ([]byte, error) {
	r, booked, err := m.settler.Settle(now, body)
	if errors.Is(err, session.ErrUnknown) {
		return nil, &ask.NotYetError{After: time.Minute}
	}
	if err != nil || booked == nil {
		return m.reply(r, err)
	}
	m.put(r.Put)
	m.settled[booked.Session] = booked
	m.Lines = append(m.Lines, booked.Line)
	m.entries[booked.Ref] = m.prove(&ledger.CDR{Payer: 3, Ref: booked.Ref, Evidence: booked.Evidence, Commit: ledger.Hash(must(commit.New(booked.Values, booked.Blind)))})
	return r.Msg, nil
}

// spend refuses a note that was spent by something else before.
func (m *Market) spend(notes []note.Spent, by string) error {
	for i := range notes {
		null := note.Nullifier(&notes[i].Note)
		if old, spent := m.nulls[null]; spent && old != by {
			return errors.New("note was spent before")
		}
	}
	for i := range notes {
		m.nulls[note.Nullifier(&notes[i].Note)] = by
	}
	return nil
}

func (m *Market) lock(now time.Time, body []byte) ([]byte, error) {
	l, known, err := m.settler.CheckLock(body)
	if err != nil || known != nil {
		return known, err
	}
	r := note.RedeemRequest{Currency: l.Currency, Payment: l.Payment}
	minor, err := r.CheckSpend(m.registry, Origin, uint32(ledger.EarnedAccount(0)), l.Session[:], now)
	if err != nil {
		return nil, err
	}
	if !m.once(l.Session) {
		return nil, &ask.NotYetError{After: 10 * time.Second} // the redeem is not final yet
	}
	if err := m.spend(l.Payment.Notes, fmt.Sprintf("lock %x", l.Session)); err != nil {
		return nil, err
	}
	m.Locked += l.Value
	m.locks[l.Session] = l.Value
	return m.reply(m.settler.Locked(now, &l, int64(minor)*ev.MinorEUR))
}

// once is false the first time it is asked about a thing, as a ledger would be.
func (m *Market) once(what [32]byte) bool {
	if m.claims[what] {
		return true
	}
	m.claims[what] = true
	return false
}

func (m *Market) collect(now time.Time, body []byte) ([]byte, error) {
	c, known, r, err := m.settler.Claim(now, body)
	if err != nil {
		return nil, err
	}
	if len(known) > 0 {
		return known, nil
	}
	m.put(r.Put)
	if !m.once(c.Request) {
		return nil, &ask.NotYetError{After: 30 * time.Second}
	}
	row, err := must(mints()).Sign(c.Minor, &c.Row)
	if err != nil {
		return nil, err
	}
	m.Issued += int64(c.Minor)
	answer := m.Back(c.Request, c.Minor)
	answer.Row = *row
	return m.reply(m.settler.Collected(now, &c, answer))
}

// CertifyMeter is the grid operator's certificate over a meter in zone elm, the
// second of the network.
func (m *Market) CertifyMeter(key [32]byte, zone, maxW uint32) pool.MeterCert {
	return pool.SignMeter(m.keys.grid, [8]byte(Net), key, zone, maxW)
}

// ControlKey is the key of a session's control line.
func ControlKey(open [32]byte) signal.Key { return signal.SessionKey([32]byte{'m'}, open) }

// flex takes an offer to the pool and answers with the session's control line.
func (m *Market) flex(body []byte) ([]byte, error) {
	f, err := pool.DecodeFlex(body)
	if err != nil {
		return nil, err
	}
	file, err := m.settler.File(f.Open)
	if err != nil {
		return nil, err
	}
	grid, spk := pub(m.keys.grid), file.Cert.SPK()
	if err := f.Verify(grid[:], file.Offer.HPK[:], spk[:], [8]byte(Net)); err != nil {
		return nil, err
	}
	m.Flex = append(m.Flex, f)
	return signal.Line{Key: ControlKey(f.Open)}.Bytes(), nil
}

// Earn pays a session a share of one flexibility event; 0 says that it earned
// nothing.
func (m *Market) Earn(open [32]byte, delivered, paid int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.earned[open] = nil
	if paid == 0 {
		return
	}
	line := pool.Line{Open: open, DeliveredMWh: delivered, Availability: 1000, PaidMicro: paid}
	tree := pool.NewTree([][]byte{line.Encode(), make([]byte, pool.LineSize)})
	root, salt := tree.Root(), [32]byte{'s'}
	payment := m.prove(&ledger.Transfer{From: ledger.OpenAccount(1, 0), To: ledger.EarnedAccount(0), X: paid + ev.MinorEUR, Purpose: ledger.PurposeHousehold, Ref: ledger.Salted(salt, root[:])})
	m.earned[open] = []session.Share{{Instruction: [32]byte{'i'}, Delivered: delivered, Permille: 1000, Paid: paid, Size: 2, Root: root, Salt: salt, Path: tree.Prove(0), Payment: payment.Bytes()}}
}

func (m *Market) denoms() ([]byte, error) {
	_, redeemTo, swapTo := note.Windows(note.Epoch(Epoch))
	d := &ledger.Denoms{Epoch: note.Epoch(Epoch), IssueTo: uint64(redeemTo.UnixMilli()) - 1, RedeemTo: uint64(redeemTo.UnixMilli()), SwapTo: uint64(swapTo.UnixMilli())}
	for i, k := range must(mints()).Denoms().Keys {
		d.Keys = append(d.Keys, ledger.DenomKey{Minor: 1 << i, N: k.Modulus()})
	}
	return m.prove(d).Bytes(), nil
}

func (m *Market) swap(now time.Time, body []byte) ([]byte, error) {
	r, err := note.ParseSwapRequest(body)
	if err != nil {
		return nil, err
	}
	if err := r.Check(m.registry, Origin, uint32(ledger.EarnedAccount(0)), now); err != nil {
		return nil, err
	}
	if err := m.spend(r.Notes, fmt.Sprintf("swap %x", body[:64])); err != nil {
		return nil, err
	}
	rows, err := must(mints()).SignSwap(r)
	if err != nil {
		return nil, err
	}
	return note.RowsReply(rows), nil
}

func (m *Market) redeem(now time.Time, body []byte) ([]byte, error) {
	contract, request, err := ask.ParseRedeemBody(body)
	if err != nil {
		return nil, err
	}
	r, err := note.ParseRedeemRequest(request)
	if err != nil {
		return nil, err
	}
	minor, err := r.Check(m.registry, Origin, uint32(ledger.OpenAccount(3, 0)), contract[:], now)
	if err != nil {
		return nil, err
	}
	by := fmt.Sprintf("redeem %x", r.Salt)
	if m.nulls[note.Nullifier(&r.Notes[0].Note)] != by {
		m.Redeemed += int64(minor)
	}
	return nil, m.spend(r.Notes, by)
}

func (m *Market) passes(body []byte) ([]byte, error) {
	r, err := ask.ParsePassRequest(body)
	if err != nil {
		return nil, err
	}
	if _, _, err := m.passed.Accept(r.Claim, r.Slots.Bytes()); err != nil {
		return nil, err
	}
	signed, err := must(passes()).Sign(r.Slots)
	if err != nil {
		return nil, err
	}
	return signed.Bytes(), nil
}

func (m *Market) deck(now time.Time, body []byte) ([]byte, error) {
	issued, err := m.issuer.Issue(rand.Reader, privacy.KindBatchReq, body, now)
	if err != nil {
		return nil, err
	}
	if !issued.Repeated {
		m.book.keep(*issued)
	}
	return issued.Batch.Answer, nil
}

// book is the utility's memory.
type book struct {
	contracts map[[16]byte]pseudo.Contract
	batches   map[string]pseudo.Batch
	rows      map[[32]byte]bool
}

func batchName(contract [16]byte, epoch uint32, audience [16]byte) string {
	return fmt.Sprintf("%x %d %x", contract, epoch, audience)
}

func (b *book) keep(i pseudo.Issued) {
	b.batches[batchName(i.Contract, i.Epoch, i.Audience)] = i.Batch
	for _, r := range i.Rows {
		b.rows[r.BPK] = true
	}
}

func (b *book) Contract(handle [16]byte) (pseudo.Contract, bool) {
	c, ok := b.contracts[handle]
	return c, ok
}

func (b *book) Batch(contract [16]byte, epoch uint32, audience [16]byte) (pseudo.Batch, bool) {
	x, ok := b.batches[batchName(contract, epoch, audience)]
	return x, ok
}

func (b *book) HasBillKey(bpk [32]byte) bool { return b.rows[bpk] }
