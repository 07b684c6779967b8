package purse

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/node/wallet/markettest"
	"gridveil/privacy/leak"
	"gridveil/privacy/note"
	"gridveil/privacy/session"
)

// hand is a clock that the test moves.
type hand struct{ now time.Time }

func (h *hand) Now() time.Time                       { return h.now }
func (h *hand) After(time.Duration) <-chan time.Time { return make(chan time.Time) }

// bank is the market with collects that need no session, and answers that can be
// lost on their way back.
type bank struct {
	*markettest.Market
	t      *testing.T
	mint   *note.Mint
	lose   int // the answer of every lose-th request is lost; 0 loses none
	asked  int
	issued map[string]int

	back    func(request [32]byte, minor uint16) session.Collected
	answers map[string]session.Collected
}

var errLost = errors.New("answer lost")

func (b *bank) Ask(ctx context.Context, to member.Key, s mesh.Service, op ask.Op, body []byte) ([]byte, error) {
	answer, err := b.answer(ctx, to, s, op, body)
	b.asked++
	if b.lose > 0 && b.asked%b.lose == 0 {
		return nil, errLost
	}
	return answer, err
}

func (b *bank) answer(ctx context.Context, to member.Key, s mesh.Service, op ask.Op, body []byte) ([]byte, error) {
	if op != ask.Collect {
		return b.Market.Ask(ctx, to, s, op, body)
	}
	minor := int(body[0])<<8 | int(body[1])
	row, err := note.ParseRow(body[2:])
	if err != nil {
		return nil, err
	}
	signed, err := b.mint.Sign(uint16(minor), row)
	if err != nil {
		return nil, err
	}
	c, known := b.answers[string(body)]
	if !known {
		b.Read(func() { c = b.back(sha256.Sum256(body), uint16(minor)) })
		b.answers[string(body)] = c
	}
	b.issued[string(body)], c.Row = minor, *signed
	return c.Bytes(), nil
}

// total is what the mint issued for different requests.
func (b *bank) total() (sum int) {
	for _, v := range b.issued {
		sum += v
	}
	return sum
}

// papers makes requests of amount and row.
type papers struct{ collected map[string]int }

func (papers) Request(c Claim, _ uint32, row note.Row) ([]byte, error) {
	return append([]byte{byte(c.Minor >> 8), byte(c.Minor)}, row.Bytes()...), nil
}

func (papers) Name(_ Claim, msg []byte) ([32]byte, error) { return sha256.Sum256(msg), nil }

func (papers) Open(_ Claim, answer []byte) (session.Collected, error) {
	return session.ParseCollected(answer)
}

func (p papers) Collected(c Claim, _ uint64) { p.collected[c.Session]++ }

type scene struct {
	t     *testing.T
	clock *hand
	bank  *bank
	claim papers
	store *store.Store
	purse *Purse
	left  int
	warn  *role.Board
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, clock: &hand{markettest.Epoch}, warn: role.NewBoard(), claim: papers{map[string]int{}}}
	m := markettest.New(t, s.clock)
	mint, err := markettest.Mint()
	if err != nil {
		t.Fatal(err)
	}
	s.bank = &bank{Market: m, t: t, mint: mint, issued: map[string]int{}, back: m.Back, answers: map[string]session.Collected{}}
	s.store, err = store.Open(t.TempDir(), store.MasterKey{1}, store.Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.store.Close() })
	s.open()
	return s
}

// open starts the purse anew from what is stored.
func (s *scene) open() {
	s.t.Helper()
	p, err := Open(Config{Store: s.store, Clock: s.clock, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler), Operators: s.bank, Claims: s.claim,
		Operator: markettest.Utility, Contract: [16]byte{9}, Warn: s.warn, Journal: func(*store.Tx, leak.Entry) error { s.left++; return nil }})
	if err != nil {
		s.t.Fatal(err)
	}
	s.purse = p
}

func (s *scene) earn(session string, minor uint16) {
	s.t.Helper()
	e := s.purse.Edit()
	e.Add(Claim{Session: session, Party: 1, Minor: minor}, s.clock.now)
	err := s.store.Update(e.Write)
	e.Close(err)
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) round() {
	s.t.Helper()
	if _, err := s.purse.round(context.Background()); err != nil {
		s.t.Fatal(err)
	}
}

func TestNotesAreCollectedSwappedAndRedeemedInSteps(t *testing.T) {
	s := newScene(t)
	s.earn("a", 1_320)
	s.earn("b", 2_350)
	s.earn("a", 1_320) // known already
	s.round()
	if got := s.purse.Standing(); got.Fresh != 3_670 || got.Waiting != 0 {
		t.Errorf("collected: %+v", got)
	}
	if s.claim.collected["a"] != 1 || s.claim.collected["b"] != 1 || s.purse.Pending("a") {
		t.Errorf("told: %+v", s.claim.collected)
	}
	s.clock.now = s.clock.now.Add(48 * time.Hour)
	s.round()
	if got := s.purse.Standing(); got.Swapped != 3_670 || got.Fresh != 0 {
		t.Errorf("swapped: %+v", got)
	}
	s.clock.now = s.clock.now.Add(9 * 24 * time.Hour) // in the same month, most delays are over
	if err := s.purse.Hurry(); err != nil {
		t.Fatal(err)
	}
	s.round()
	if got := s.purse.Standing(); got.Redeemed != note.RedeemStep || got.Swapped != 1_670 {
		t.Errorf("redeemed: %+v", got)
	}
	s.bank.Read(func() {
		if s.bank.Redeemed != note.RedeemStep {
			t.Errorf("the utility credited %d", s.bank.Redeemed)
		}
	})
}

func TestLostAnswersAndRestartsConserveEveryCent(t *testing.T) {
	for lose := 2; lose <= 4; lose++ {
		t.Run(fmt.Sprintf("every %d. answer", lose), func(t *testing.T) {
			s := newScene(t)
			s.bank.lose = lose
			for i := range 6 {
				s.earn(fmt.Sprint("session ", i), uint16(400+37*i))
				for range 6 {
					s.round()
					s.open()
				}
				if err := s.purse.Hurry(); err != nil {
					t.Fatal(err)
				}
			}
			for range 12 {
				s.round()
				s.open()
				if err := s.purse.Hurry(); err != nil {
					t.Fatal(err)
				}
			}
			want := 0
			for i := range 6 {
				want += 400 + 37*i
			}
			got := s.purse.Standing()
			if held := int64(got.Fresh+got.Swapped) + got.Redeemed; held != int64(want) || got.Leaving != 0 {
				t.Errorf("earned %d, holds %+v", want, got)
			}
			if s.bank.total() != want {
				t.Errorf("the mint issued %d for %d", s.bank.total(), want)
			}
			s.bank.Read(func() {
				if s.bank.Redeemed != got.Redeemed {
					t.Errorf("redeemed %d, the utility credited %d", got.Redeemed, s.bank.Redeemed)
				}
			})
		})
	}
}

func TestExactAmountsArePaidOrTakenBack(t *testing.T) {
	s := newScene(t)
	s.earn("a", 1_000)
	s.round()
	s.clock.now = s.clock.now.Add(48 * time.Hour)
	s.round()
	minor, ok := s.purse.Cover(s.clock.now, 120, 12)
	if !ok || minor < 120 {
		t.Fatalf("cover: %d, %v", minor, ok)
	}
	spend := func() uint64 {
		e := s.purse.Edit()
		op, pay, err := e.Spend(s.clock.now, minor, ledger.EarnedAccount(0), []byte("lock"))
		if err != nil || len(pay.Notes) == 0 {
			t.Fatalf("spend: %v", err)
		}
		err = s.store.Update(e.Write)
		e.Close(err)
		if err != nil {
			t.Fatal(err)
		}
		return op
	}
	op := spend()
	if got := s.purse.Standing(); got.Leaving != uint64(minor) {
		t.Errorf("leaving: %+v", got)
	}
	s.open()
	for range 2 { // twice: a receipt may come again
		e := s.purse.Edit()
		err := errors.Join(e.Unspent(op), s.store.Update(e.Write))
		e.Close(err)
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := s.purse.Standing(); got.Leaving != 0 || got.Swapped != 1_000 {
		t.Errorf("taken back: %+v", got)
	}
	op = spend()
	e := s.purse.Edit()
	err := errors.Join(e.Spent(op), s.store.Update(e.Write))
	e.Close(err)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.purse.Standing(); got.Swapped != 1_000-uint64(minor) {
		t.Errorf("paid: %+v", got)
	}
}

// TestClaimsThatNobodyAnswersAreToldAndEnd drops a session whose claim is under way.
func TestClaimsThatNobodyAnswersAreToldAndEnd(t *testing.T) {
	s := newScene(t)
	s.clock.now = s.clock.now.AddDate(0, 0, -14) // all of it within the month of the market's keys
	s.earn("first", 300)
	s.earn("second", 200)
	s.bank.lose = 1
	s.round()
	if codes := s.warned(); strings.Contains(codes, "notes-not-paid") {
		t.Errorf("warned at once: %s", codes)
	}
	s.clock.now = s.clock.now.Add(UnpaidAfter + time.Hour)
	s.round()
	if codes := s.warned(); !strings.Contains(codes, "notes-not-paid") {
		t.Errorf("after two weeks: %s", codes)
	}
	e := s.purse.Edit()
	err := e.GiveUp(s.clock.now, "first", 0)
	if !e.Pending("second") || e.Pending("first") {
		t.Error("another session's claim ended")
	}
	if err == nil {
		err = s.store.Update(e.Write)
	}
	if e.Close(err); err != nil {
		t.Fatal(err)
	}
	s.open()
	s.round()
	if codes := s.warned(); !strings.Contains(codes, "sessions-dropped-unpaid") || s.purse.Standing().Waiting != 200 {
		t.Errorf("after the end of one: %s, %+v", codes, s.purse.Standing())
	}
	s.bank.lose = 0
	for range 10 {
		s.clock.now = s.clock.now.Add(time.Hour)
		s.round()
	}
	if x := s.purse.Standing(); x.Waiting != 0 || x.Fresh+x.Swapped+x.Leaving+x.Expected != 200 {
		t.Errorf("the other is paid: %+v", x)
	}
	s.clock.now = s.clock.now.Add(droppedShown)
	s.round()
	if codes := s.warned(); strings.Contains(codes, "sessions-dropped-unpaid") {
		t.Errorf("a month later: %s", codes)
	}
}

func TestUpdateThatFailsLeavesThePurseAsItWas(t *testing.T) {
	s := newScene(t)
	s.round() // the ledger's name and keys
	e := s.purse.Edit()
	e.Add(Claim{Session: "x", Party: 1, Minor: 5}, s.clock.now)
	e.Close(errors.New("disk full"))
	if s.purse.Pending("x") {
		t.Error("a claim that was not stored is pending")
	}
}

func TestWithEverybodyAwayNothingIsLostAndNothingFails(t *testing.T) {
	s := newScene(t)
	s.bank.Down(true)
	s.earn("a", 700)
	for range 3 {
		s.round()
	}
	if got := s.purse.Standing(); got.Waiting != 700 {
		t.Errorf("waiting: %+v", got)
	}
	s.bank.Down(false)
	s.round()
	if got := s.purse.Standing(); got.Fresh != 700 {
		t.Errorf("collected: %+v", got)
	}
}

func TestKeysWithoutQuorumAreRefused(t *testing.T) {
	s := newScene(t)
	other := markettest.New(t, s.clock) // another log signs this one's keys
	s.bank.Broken = func(op ask.Op, body []byte) ([]byte, error, bool) {
		if op != ask.Denoms {
			return nil, nil, false
		}
		b, err := other.Ask(context.Background(), member.Key{}, mesh.Notes, op, body)
		return b, err, true
	}
	s.earn("a", 700)
	s.round()
	if got := s.purse.Standing(); got.Fresh != 0 || got.Waiting != 700 {
		t.Errorf("notes under keys that no quorum vouches for: %+v", got)
	}
}
