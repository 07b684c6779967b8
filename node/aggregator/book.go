package aggregator

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/ledger/verifier"
	"gridveil/ledger/writer"
	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/node/clock"
	"gridveil/node/config"
	"gridveil/node/keys"
	"gridveil/node/party"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy/note"
)

// Periods of the writer's shell, on the node's clock.
const (
	lookPeriod   = 5 * time.Second  // for operators that are still missing
	policyPeriod = time.Minute      // for new cosigners
	tellEvery    = 10 * time.Second // between two checkpoints that everybody hears of
	tellAgain    = 12 * time.Hour   // of one that stays the newest: its register lives a day
	patience     = 10 * time.Minute // for founders that do not come
	fastSign     = time.Minute      // between checkpoints on an accelerated clock: each costs every cosigner a disk write
	ownLimit     = 1_000_000_000_000
	maxWishes    = 1000
)

var errNoBook = errors.New("the ledger is not open yet")

// founding is what the aggregator knows of operators that want to be on the
// ledger, and of the policy it was opened with last.
type founding struct {
	st *store.Store

	mu     sync.Mutex
	wishes map[ledger.Hash]wished
}

type wished struct {
	party.Wish
	Peer mesh.Member
}

// openedKey is set once the ledger was opened with the cosigners of its founders.
var openedKey = store.SpaceLedger.Key([]byte("opened"))

func bankKey(name string) []byte { return store.SpaceLedger.Key([]byte("bank"), []byte(name)) }

func (f *founding) open(env *role.Env) error {
	f.st, f.wishes = env.Store, map[ledger.Hash]wished{}
	return nil
}

// take remembers a wish until the operator is registered, and its bank account
// for good.
func (f *founding) take(from mesh.Member, w party.Wish) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.wishes[w.Party.Pub]; !known && len(f.wishes) >= maxWishes {
		return &mesh.BusyError{After: time.Minute}
	}
	if w.Bank.IBAN != "" {
		b, err := json.Marshal(w.Bank)
		if err != nil {
			return err
		}
		if err := f.st.Set(bankKey(w.Party.Name), b); err != nil {
			return fmt.Errorf("keep bank account: %w", err)
		}
	}
	f.wishes[w.Party.Pub] = wished{w, from}
	return nil
}

// list gives the wishes in order of the operators' names.
func (f *founding) list() []wished {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []wished
	for _, w := range f.wishes {
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b wished) int { return slices.Compare([]byte(a.Party.Name), []byte(b.Party.Name)) })
	return out
}

func (f *founding) done(pub ledger.Hash) {
	f.mu.Lock()
	delete(f.wishes, pub)
	f.mu.Unlock()
}

// accounts are the bank accounts of registered operators, for payment files.
func (a *Aggregator) accounts() (out []export.BankAccount, err error) {
	var parties []ledger.Party
	a.Read(func(s *ledger.State) { parties = s.Parties() })
	for _, p := range parties {
		b, err := a.env.Store.Get(bankKey(p.Name))
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var x export.BankAccount
		if err := json.Unmarshal(b, &x); err != nil {
			return nil, fmt.Errorf("stored bank account: %w", err)
		}
		x.Party = p.Party
		if x.Hash() == p.Bank {
			out = append(out, x)
		}
	}
	return out, nil
}

// takeSubmit answers what operators ask the writer beside its door.
func (a *Aggregator) takeSubmit(_ context.Context, from mesh.Member, op byte, body []byte) ([]byte, error) {
	switch op {
	case party.OpWish:
		w, err := party.ParseWish(a.origin, body)
		if err != nil {
			return nil, err
		}
		if w.Party.Name != from.Operator || w.Party.Role == ledger.Aggregator || (w.Party.Role == ledger.Utility) != (from.Role == member.RoleUtility) {
			return nil, errors.New("an operator joins under its own name and as what it is")
		}
		err = a.founding.take(from, w)
		a.nudge()
		return nil, err
	case party.OpInstruct:
		return a.takeInstruction(from, body)
	case party.OpRevoke:
		return a.takeRevocation(from, body)
	case party.OpFailed:
		return a.takeFailed(from, body)
	}
	return nil, party.ErrCall
}

// keepBook opens the ledger once its cosigners are known, serves it, and opens
// it anew when there are more of them. A ledger that is damaged, or smaller than
// a cosigner knows it, is repaired from the cosigners first.
func (a *Aggregator) keepBook(ctx context.Context) error {
	policy, err := a.firstPolicy(ctx)
	for err == nil && ctx.Err() == nil {
		var next *ledger.Policy
		next, err = a.serveBook(ctx, policy)
		if errors.Is(err, ledger.ErrDamaged) && a.env.Cluster == nil { // other machines have it whole
			err = a.mendBook(ctx, policy, err)
			continue
		}
		if errors.Is(err, errBorder) {
			err = nil
			a.shards.Settle()
			continue
		}
		policy = next
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// firstPolicy is the policy of the configuration, the last one, or one with the
// cosigners of all founders.
func (a *Aggregator) firstPolicy(ctx context.Context) (*ledger.Policy, error) {
	if p, err := GivenPolicy(a.env.Config); p != nil || err != nil {
		return p, err
	}
	if _, err := a.env.Store.Get(openedKey); err == nil {
		return party.KnownPolicy(a.env.Store, a.env.Dir)
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	w := role.Warning{Code: "ledger-waits", Severity: role.Notice, Title: "The ledger waits for its founders",
		Text: "The first entry names the utilities and cosigners of this network; some have not published their keys yet.",
		Next: "Start the nodes of the missing operators, or name fewer in ledger.founders.", After: time.Minute}
	for ctx.Err() == nil {
		p, err := party.Policy(a.env.Dir)
		if err == nil && (a.allCosign(p) || a.late() && a.hasUtility()) {
			a.env.Warn.Clear(w.Code)
			return p, errors.Join(party.KeepPolicy(a.env.Store, p), a.env.Store.Set(openedKey, []byte{1}))
		}
		a.env.Warn.Raise(w, a.env.Clock.Now())
		a.pause(ctx, lookPeriod, a.wake)
	}
	return nil, ctx.Err()
}

// GivenPolicy reads the operator's own policy file, nil without one.
func GivenPolicy(c *config.Config) (*ledger.Policy, error) {
	name := c.Ledger.Policy
	if name == "" {
		return nil, nil
	}
	b, err := os.ReadFile(c.Path(name))
	if err != nil {
		return nil, fmt.Errorf("ledger.policy: %w", err)
	}
	p, err := ledger.ParsePolicy(b)
	if err != nil {
		return nil, fmt.Errorf("ledger.policy: %w", err)
	}
	return p, nil
}

// founders are the operators that the first entry waits for.
func (a *Aggregator) founders() []string {
	if list := a.env.Config.Ledger.Founders; len(list) > 0 {
		return list
	}
	var list []string
	for _, o := range a.env.Host.Bundle().Operators {
		if slices.Contains(o.Roles, member.RoleUtility) || slices.Contains(o.Roles, member.RoleVerifier) {
			list = append(list, o.Name)
		}
	}
	return list
}

// allCosign says whether every founder that runs a utility or verifier publishes
// its cosigning key.
func (a *Aggregator) allCosign(p *ledger.Policy) bool {
	here := map[string]bool{}
	for _, r := range []member.Role{member.RoleUtility, member.RoleVerifier} {
		for _, h := range a.env.Dir.All(r, "") {
			if _, ok := h.Sheet.Find(keys.Cosign, 0); ok {
				here[h.Member.Operator] = true
			}
		}
	}
	for _, name := range a.founders() {
		o, known := a.env.Host.Bundle().Operator(name)
		cosigns := known && (slices.Contains(o.Roles, member.RoleUtility) || slices.Contains(o.Roles, member.RoleVerifier))
		if cosigns && !here[name] {
			return false
		}
	}
	return len(p.Witnesses) > 0
}

func (a *Aggregator) hasUtility() bool { return len(a.env.Dir.All(member.RoleUtility, "")) > 0 }

// late says that founders had their time.
func (a *Aggregator) late() bool {
	return a.env.Clock.Now().Sub(a.started) > patience+a.env.Host.Lag()
}

// serveBook opens the ledger under a policy and serves it until ctx ends or the
// policy changes; it returns the next one.
func (a *Aggregator) serveBook(ctx context.Context, policy *ledger.Policy) (next *ledger.Policy, err error) {
	policy = a.policyNow(policy)
	w, err := a.openBook(policy)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	a.bookMu.Lock()
	a.w, a.policy = w, policy
	a.bookMu.Unlock()
	a.door.Open(a.shards.Handler(w.Origin(), w.Handler()))
	g, gctx := errgroup.WithContext(ctx)
	gctx, stop := context.WithCancel(gctx)
	defer stop()
	g.Go(func() error { return a.serveWriter(gctx, w) })
	g.Go(func() error { return a.work(gctx, w) })
	g.Go(func() error { return a.watchFinal(gctx, w) })
	g.Go(func() error { return a.watchEntries(gctx, w) })
	g.Go(func() error { return a.tellFinal(gctx, w) })
	g.Go(func() error { return a.exports(gctx) })
	g.Go(func() error {
		next = a.watchPolicy(gctx, policy)
		stop()
		return nil
	})
	err = g.Wait()
	a.door.Open(nil)
	a.bookMu.Lock()
	a.w = nil
	a.bookMu.Unlock()
	err = errors.Join(w.Status().Err, err)
	if a.env.Cluster == nil {
		err = errors.Join(err, w.Close())
	}
	return next, err
}

// serveWriter runs the writer. In a cluster it may be interrupted, and goes on
// while this machine leads.
func (a *Aggregator) serveWriter(ctx context.Context, w *writer.Writer) error {
	for {
		err := w.Serve(ctx)
		if a.env.Cluster == nil || w.Status().Err != nil || ctx.Err() != nil {
			return err
		}
		a.env.Log.Warn("writing the ledger interrupted", "err", err)
		a.pause(ctx, time.Second, nil)
	}
}

// mendBook refills the ledger from its cosigners. Entries that were accepted and
// reached none of them are gone: their authors send them again.
func (a *Aggregator) mendBook(ctx context.Context, policy *ledger.Policy, cause error) error {
	opt, err := party.StoreOptions(a.env)
	if err != nil {
		return err
	}
	var peers []string
	for _, w := range policy.Witnesses {
		if w.URL != "" {
			peers = append(peers, party.CopyURL(w.URL, a.shards.Open().Origin))
		}
	}
	no := a.shards.Open().No
	cfg := verifier.Config{Dir: a.shards.Dir(no), Store: opt, Policy: a.policyNow(policy), Clock: a.env.Clock, Log: a.env.Log}
	return a.mender.Mend(ctx, cfg, func() (ledger.Machine, error) { return a.shards.Machine(no) }, cause, peers)
}

func (a *Aggregator) openBook(policy *ledger.Policy) (*writer.Writer, error) {
	now := a.env.Clock.Now()
	log, err := a.env.Keys.Signer(keys.Log, now)
	if err != nil {
		return nil, err
	}
	receipt, err := a.env.Keys.Signer(keys.Receipt, now)
	if err != nil {
		return nil, err
	}
	opt, err := party.StoreOptions(a.env)
	if err != nil {
		return nil, err
	}
	shard := a.shards.Open()
	machine, err := a.shards.Machine(shard.No)
	if err != nil {
		return nil, err
	}
	cfg := writer.Config{Dir: a.shards.Dir(shard.No), Store: opt, Machine: machine, LogKey: log, ReceiptKey: receipt,
		Policy: policy, Transport: a.transport, Tick: writer.MoneyTick(a.origin, a.entry), Clock: a.env.Clock, Log: a.env.Log}
	if _, real := a.env.Clock.(clock.Wall); !real {
		cfg.CheckpointEvery = fastSign
	}
	open := writer.Open
	if a.env.Cluster != nil {
		open = a.env.Cluster.Reopen
	}
	w, err := open(cfg)
	if err != nil {
		return nil, err
	}
	s := w.Status()
	a.env.Warn.Set(len(s.Repaired) > 0, role.Warning{Code: "store-repaired", Severity: role.Problem, Title: "The ledger was repaired at the start",
		Text: "One of its two copies on disk was short or altered and was rewritten from the other. Nothing is lost.",
		Next: "Check the disk; a second repair soon after means that it is failing."}, now)
	return w, nil
}

// watchPolicy waits until the network has cosigners that policy does not know.
func (a *Aggregator) watchPolicy(ctx context.Context, policy *ledger.Policy) *ledger.Policy {
	for ctx.Err() == nil {
		a.pause(ctx, policyPeriod, nil)
		if a.env.Config.Ledger.Policy != "" {
			continue
		}
		next, err := party.KnownPolicy(a.env.Store, a.env.Dir)
		if err == nil && a.policyNow(next).String() != policy.String() {
			return next
		}
	}
	return policy
}

// watchFinal wakes the settlement loop whenever more of the ledger is final.
func (a *Aggregator) watchFinal(ctx context.Context, w *writer.Writer) error {
	for {
		c, _ := w.Final()
		if err := w.WaitFinal(ctx, c.Size+1); err != nil {
			return nil // ctx ended
		}
		a.nudge()
	}
}

// tellFinal publishes each final checkpoint, at most one in tellEvery, so that
// every node would notice another history.
func (a *Aggregator) tellFinal(ctx context.Context, w *writer.Writer) error {
	var told uint64
	var at, shown time.Time
	for ctx.Err() == nil {
		now := a.env.Clock.Now()
		c, note := w.Final()
		if c.Size > told || c.Size > 0 && now.Sub(at) >= tellAgain {
			err := a.env.Host.Publish(gossip.KindCheckpoint, gossip.OriginKey(w.Origin()), note, now.Add(gossip.KindCheckpoint.MaxLife(0)))
			if err == nil {
				told, at = c.Size, now
			} else if ctx.Err() == nil {
				a.env.Log.Debug("checkpoint not published", "err", err) // the next one is
			}
		}
		if c.Size > 0 {
			shown = a.tellBorders(shown)
		}
		a.pause(ctx, max(tellEvery, a.env.Host.Lag()), nil)
	}
	return nil
}

// found enters the first entry once the founders are here: parties are numbered
// in the order of their names, behind the aggregator.
func (a *Aggregator) found(ctx context.Context, w *writer.Writer) error {
	list := a.ready()
	if list == nil {
		return errNoBook
	}
	g := &ledger.Genesis{Rules: 1, Origin: a.origin, Network: networkName(a.env), Currencies: currencies(), Params: a.params()}
	own, err := a.ownParty()
	if err != nil {
		return err
	}
	g.Parties = append(g.Parties, own)
	for _, x := range list {
		x.Party.Party = ledger.PartyID(len(g.Parties) + 1)
		g.Parties = append(g.Parties, x.Party)
	}
	e, err := ledger.NewEntry(1, 1, g)
	if err != nil {
		return err
	}
	if err := ledger.Sign(e, a.origin, a.entry); err != nil {
		return err
	}
	for _, x := range list {
		if e, err = a.askSignature(ctx, x.Peer, e); err != nil {
			return fmt.Errorf("signature of a founder: %w", err)
		}
	}
	results := w.Submit(ctx, [][]byte{e.Bytes()})
	if results[0].Err != nil {
		return fmt.Errorf("genesis: %w", results[0].Err)
	}
	for _, x := range list {
		a.founding.done(x.Party.Pub)
	}
	a.env.Log.Info("ledger founded", "parties", len(g.Parties), "min_batch", g.Params.MinBatch)
	return nil
}

// ready lists the founders' wishes once all are here, or once they had their time
// and a utility is among them; nil before.
func (a *Aggregator) ready() []wished {
	list := a.founding.list()
	here := map[string]bool{}
	utility := false
	for _, x := range list {
		here[x.Party.Name] = true
		utility = utility || x.Party.Role == ledger.Utility
	}
	all := utility
	for _, name := range a.founders() {
		all = all && here[name]
	}
	if !all && !(a.late() && utility) {
		return nil
	}
	return list[:min(len(list), ledger.MaxSigs-1)] // each signs the first entry
}

// networkName is how the ledger names the network.
func networkName(env *role.Env) string { return hex.EncodeToString(env.ID.Bundle.Network[:]) }

func (a *Aggregator) ownParty() (ledger.Party, error) {
	w, err := party.OwnWish(a.env, ledger.Aggregator, ownLimit)
	if err != nil {
		return w.Party, err
	}
	w.Party.Party = 1
	if w.Bank.IBAN != "" {
		b, err := json.Marshal(w.Bank)
		if err != nil {
			return w.Party, err
		}
		if err := a.env.Store.Set(bankKey(w.Party.Name), b); err != nil {
			return w.Party, fmt.Errorf("keep bank account: %w", err)
		}
	}
	return w.Party, nil
}

// params are the rules that the configuration founds the ledger with.
func (a *Aggregator) params() ledger.Params {
	c, p := a.env.Config.Ledger, ledger.DefaultParams()
	p.BucketMs = uint64(c.Bucket.D().Milliseconds())
	p.CloseEvery = uint64(c.CloseEvery)
	p.NoticeMs = uint64(c.Notice.D().Milliseconds())
	p.RedeemStep = note.RedeemStep
	switch {
	case c.MinBatch > 0:
		p.MinBatch = uint64(c.MinBatch)
	case a.env.Lab():
		p.MinBatch = 1
	}
	return p
}

// askSignature has a party sign an entry that registers it.
func (a *Aggregator) askSignature(ctx context.Context, to mesh.Member, e *ledger.Entry) (*ledger.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	b, err := a.env.Host.Call(ctx, to.Peer, mesh.Opener, append([]byte{party.OpSign}, e.Bytes()...))
	if err != nil {
		return nil, err
	}
	signed, err := ledger.Parse(b)
	if err != nil {
		return nil, err
	}
	return party.Merge(e, signed)
}

// register enters operators that came after the founding.
func (a *Aggregator) register(ctx context.Context, w *writer.Writer) error {
	for _, x := range a.founding.list() {
		known, next := false, ledger.PartyID(0)
		a.Read(func(s *ledger.State) {
			for _, p := range s.Parties() {
				known = known || p.Pub == x.Party.Pub || p.Name == x.Party.Name
			}
			next = ledger.PartyID(len(s.Parties()) + 1)
		})
		if known {
			a.founding.done(x.Party.Pub)
			continue
		}
		body := x.Party
		body.Party = next
		if body.Approver {
			a.env.Log.Warn("an opener's seat can only be taken when the ledger is founded", "operator", body.Name)
			body.Approver = false
		}
		_, err := a.enterOne(ctx, w, ledger.Salted(body.Pub, []byte("register")), &body, func(ctx context.Context, e *ledger.Entry) (*ledger.Entry, error) {
			return a.askSignature(ctx, x.Peer, e)
		})
		if err != nil {
			return fmt.Errorf("register an operator: %w", err)
		}
		a.founding.done(x.Party.Pub)
	}
	return nil
}
