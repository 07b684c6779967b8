package party

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/keys"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy/note"
)

// An operator is registered on the ledger in two calls:
//
//	operator -> aggregator  ledger.submit  Wish: who we want to be, signed by our entry key
//	aggregator -> operator  opener         Sign: the entry that registers us, to be signed
//
// The entry is genesis for the founders, a party entry for everybody else.

// Ops of calls between operators: first byte of a request.
const (
	OpFailed    byte = 10 // ledger.submit: a failed entry, signed by the payee
	OpRevoke    byte = 9  // ledger.submit: a utility's sealed pseudo.Revocation
	OpInstruct  byte = 8  // ledger.submit: a grid operator's pool.Instruction
	OpWish      byte = 1  // ledger.submit: Wish
	OpSign      byte = 2  // opener: an entry that registers the asked operator
	OpFile      byte = 3  // opener: a case file, for seats and the payer
	OpPartials  byte = 4  // opener: a seat's sealed partials of a case, for the payer
	OpAnswer    byte = 5  // opener: the payer's answer to a case, for its requester
	OpPayer     byte = 6  // opener: a payer file
	OpStatement byte = 7  // opener: the driver's word in a case
)

// Wish is what an operator wants to be on the ledger, and where it is paid.
type Wish struct {
	Party ledger.Party // its number is 0
	Bank  export.BankAccount
}

const maxBank = 34 // an IBAN

// ErrWish means that bytes are no Wish.
var ErrWish = errors.New("wish to be registered is malformed")

// Bytes encodes entry length u16 | a party entry numbered 1, signed by the
// wisher's key | salt 32 | IBAN length u8, IBAN | BIC length u8, BIC.
func (w Wish) Bytes(origin string, key ed25519.PrivateKey) ([]byte, error) {
	body := w.Party
	body.Party = 1
	e, err := ledger.NewEntry(1, 1, &body)
	if err != nil {
		return nil, err
	}
	if err := ledger.Sign(e, origin, key); err != nil {
		return nil, err
	}
	b := ledger.AppendBundle(nil, e.Bytes())
	b = append(b, w.Bank.Salt[:]...)
	b = append(append(b, byte(len(w.Bank.IBAN))), w.Bank.IBAN...)
	return append(append(b, byte(len(w.Bank.BIC))), w.Bank.BIC...), nil
}

// ParseWish reads a Wish and verifies its signature and account.
func ParseWish(origin string, b []byte) (w Wish, err error) {
	if len(b) < 2 || len(b) < 2+int(b[0])<<8+int(b[1]) {
		return w, ErrWish
	}
	n := 2 + int(b[0])<<8 + int(b[1])
	e, err := ledger.Parse(b[2:n])
	if err != nil {
		return w, fmt.Errorf("%w: %w", ErrWish, err)
	}
	body, ok := e.Body().(*ledger.Party)
	if !ok || e.Party() != 1 || e.Seq() != 1 || len(e.Sigs()) != 1 {
		return w, ErrWish
	}
	w.Party = *body
	w.Party.Party = 0
	if err := ownSignature(e, origin, body.Pub); err != nil {
		return w, err
	}
	rest := b[n:]
	if len(rest) < 34 || rest[32] > maxBank || len(rest) < 34+int(rest[32]) {
		return w, ErrWish
	}
	w.Bank.Salt = [32]byte(rest)
	iban := int(rest[32])
	w.Bank.IBAN = string(rest[33 : 33+iban])
	if rest = rest[33+iban:]; rest[0] > maxBank || len(rest) != 1+int(rest[0]) {
		return w, ErrWish
	}
	w.Bank.BIC = string(rest[1:])
	if w.Bank.IBAN == "" {
		if w.Party.Bank != (ledger.Hash{}) || w.Bank.BIC != "" || w.Bank.Salt != [32]byte{} {
			return w, ErrWish
		}
		return w, nil
	}
	if err := w.Bank.Check(); err != nil {
		return w, err
	}
	if w.Bank.Hash() != w.Party.Bank {
		return w, fmt.Errorf("%w: account is not the registered one", ErrWish)
	}
	return w, nil
}

// ownSignature checks the single signature of a wish by signing nothing: the
// state of an empty log knows no keys, so the check is made here.
func ownSignature(e *ledger.Entry, origin string, pub ledger.Hash) error {
	sig := e.Sigs()[0]
	if sig.Key != ledger.KeyIDOf(ledger.UseEntry, pub) || !ed25519.Verify(pub[:], Signed(e, origin), sig.Sig[:]) {
		return fmt.Errorf("%w: %w", ErrWish, ledger.ErrSignature)
	}
	return ledger.CheckKey(pub)
}

// sigBytes is the size of one signature in an entry: key id and signature.
const sigBytes = 8 + 64

// Signed is what the signatures of an entry cover. Source: design/ledger.md, 4.1.
func Signed(e *ledger.Entry, origin string) []byte {
	h := ledger.OriginHash(origin)
	b := append([]byte("gridveil/entry/v1\x00"), h[:]...)
	return append(b, unsigned(e)...)
}

// unsigned is an entry up to its signatures.
func unsigned(e *ledger.Entry) []byte {
	raw := e.Bytes()
	return raw[:len(raw)-1-len(e.Sigs())*sigBytes]
}

// Merge joins the signatures of two copies of one entry that travelled to
// different parties.
func Merge(a, b *ledger.Entry) (*ledger.Entry, error) {
	head := unsigned(a)
	if !bytes.Equal(head, unsigned(b)) {
		return nil, fmt.Errorf("%w: signatures of another entry", ledger.ErrMalformed)
	}
	sigs, more := a.Sigs(), b.Sigs()
	out := append([]byte(nil), head...)
	count := len(out)
	out = append(out, 0)
	for len(sigs) > 0 || len(more) > 0 {
		var s ledger.Signature
		switch {
		case len(more) == 0 || len(sigs) > 0 && bytes.Compare(sigs[0].Key[:], more[0].Key[:]) < 0:
			s, sigs = sigs[0], sigs[1:]
		case len(sigs) > 0 && sigs[0].Key == more[0].Key:
			s, sigs, more = sigs[0], sigs[1:], more[1:]
		default:
			s, more = more[0], more[1:]
		}
		out = append(append(out, s.Key[:]...), s.Sig[:]...)
		out[count]++
	}
	return ledger.Parse(out)
}

// Wish is what this operator asks for.
func (p *Party) Wish() (Wish, error) { return OwnWish(p.env, p.cfg.Role, p.cfg.Limit) }

// OwnWish is what the operator of env may be registered as.
func OwnWish(env *role.Env, as ledger.Role, limit int64) (w Wish, err error) {
	key, err := env.Keys.Signer(keys.Entry, env.Clock.Now())
	if err != nil {
		return w, err
	}
	c := env.Config.Ledger
	w = Wish{Party: ledger.Party{Role: as, Approver: c.Opener, Limit: limit, Name: env.Host.Self().Operator,
		Pub: ledger.Hash(key.Public().(ed25519.PublicKey))}}
	if c.IBAN == "" {
		return w, nil
	}
	salt, err := bankSalt(env)
	if err != nil {
		return w, err
	}
	w.Bank = export.BankAccount{Salt: salt, IBAN: c.IBAN, BIC: c.BIC}
	if err := w.Bank.Check(); err != nil {
		return w, fmt.Errorf("ledger.iban: %w", err)
	}
	w.Party.Bank = w.Bank.Hash()
	return w, nil
}

var saltKey = store.SpaceLedger.Key([]byte("bank-salt"))

// bankSalt hides the account number in the ledger; it is drawn once.
func bankSalt(env *role.Env) (salt [32]byte, err error) {
	b, err := env.Store.Get(saltKey)
	if err == nil && len(b) == len(salt) {
		return [32]byte(b), nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return salt, err
	}
	if _, err := io.ReadFull(env.Rand, salt[:]); err != nil {
		return salt, fmt.Errorf("draw salt: %w", err)
	}
	return salt, env.Store.Set(saltKey, salt[:])
}

// callTimeout bounds a call to another operator, on the wall clock.
const callTimeout = 10 * time.Second

// join repeats our wish until the ledger has us.
func (p *Party) join(ctx context.Context) error {
	for ctx.Err() == nil && !p.registered() {
		if err := p.wish(ctx); err != nil && ctx.Err() == nil {
			p.env.Log.Debug("not registered on the ledger yet", "err", err)
		}
		p.pause(ctx, joinPeriod)
	}
	return nil
}

func (p *Party) wish(ctx context.Context) error {
	w, err := p.Wish()
	if err != nil {
		return err
	}
	if _, ok := p.Status(); !ok {
		return ErrNoLedger
	}
	home := ""
	p.Read(func(s *ledger.State) { home = s.Ledger() })
	b, err := w.Bytes(home, p.key)
	if err != nil {
		return err
	}
	p.mu.Lock()
	to := p.log.Peer
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = p.env.Host.Call(ctx, to, mesh.LedgerSubmit, append([]byte{OpWish}, b...))
	return err
}

// registered looks for our key among the parties.
func (p *Party) registered() bool {
	pub := ledger.Hash(p.key.Public().(ed25519.PublicKey))
	var id ledger.PartyID
	p.Read(func(s *ledger.State) {
		for _, x := range s.Parties() {
			if x.Pub == pub {
				id = x.Party
			}
		}
	})
	p.mu.Lock()
	p.id = id
	p.mu.Unlock()
	if id != 0 {
		nudge(p.send)
	}
	return id != 0
}

// takeSign answers OpSign: it signs the entry that registers this operator, if
// that says nothing else about it than it wished.
func (p *Party) takeSign(from mesh.Member, b []byte) ([]byte, error) {
	p.mu.Lock()
	log, v := p.log, p.v
	p.mu.Unlock()
	if from.Role != member.RoleAggregator || v == nil || from.Key != log.Key {
		return nil, errors.New("entries are signed for the network's ledger only")
	}
	e, err := ledger.Parse(b)
	if err != nil {
		return nil, err
	}
	w, err := p.Wish()
	if err != nil {
		return nil, err
	}
	home := ""
	p.Read(func(s *ledger.State) { home = s.Ledger() })
	if err := agrees(e.Body(), w, home); err != nil {
		return nil, err
	}
	if err := ledger.Sign(e, home, p.key); err != nil {
		return nil, err
	}
	return e.Bytes(), nil
}

// agrees checks the body of an entry that registers the operator of w.
func agrees(body ledger.Body, w Wish, origin string) error {
	same := func(x ledger.Party) bool {
		x.Party = 0
		asked := w.Party
		asked.Approver = asked.Approver && x.Approver // a seat may be denied: see Config.Opener
		return x == asked
	}
	switch b := body.(type) {
	case *ledger.Party:
		if same(*b) {
			return nil
		}
	case *ledger.Genesis:
		if b.Origin != origin {
			return fmt.Errorf("genesis of another ledger: %w", ledger.ErrMalformed)
		}
		if b.Params.RedeemStep != note.RedeemStep || b.Params.K < 1 {
			return fmt.Errorf("genesis with parameters that this program cannot serve: %w", ledger.ErrMalformed)
		}
		for _, x := range b.Parties {
			if same(x) {
				return nil
			}
		}
	}
	return fmt.Errorf("the entry registers this operator as something else than it wished: %w", ledger.ErrMalformed)
}
