// Package utility is a utility's node. Towards its homes it bills contracts from
// signed registers and keeps their alarms; towards its drivers it issues
// pseudonyms and pays what they charge elsewhere; towards aggregators it signs
// settlements, takes notes home, and replays and cosigns ledgers.
//
// The two sides share nothing but the contract: a home's bill knows no session,
// a driver's bill no place.
package utility

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/alarm"
	"gridveil/node/ask"
	"gridveil/node/clock"
	"gridveil/node/keys"
	"gridveil/node/model"
	"gridveil/node/role"
)

const (
	placeAgain  = 2 * time.Second // first wait, doubled up to orderPeriod, while the head-end is not there yet
	orderPeriod = time.Minute     // until the head-end has every contract
	callTimeout = 10 * time.Second
	sheetPeriod = 6 * time.Hour
)

// Utility is the utility role. Metering stands in contracts.go, billing.go and
// alarms.go; pseudonyms, settlement and notes in files of their own.
type Utility struct {
	env   *role.Env
	inbox alarm.Inbox
	rules alarm.Rules // nil: the standard classification

	escrow     *escrow     // day identities, for homes of other operators
	sums       *sums       // private sums of the zones whose grid it runs
	settlement *settlement // drivers, notes and the ledger
	// answers is what is decided by onion, by service and operation.
	answers map[mesh.Service]map[ask.Op]func(body []byte) ([]byte, error)

	mu        sync.Mutex
	contracts map[member.Key]*Contract
	byPoint   map[model.UsagePoint]*Contract
	delivered []Delivery // the newest alarms, oldest first
	places    uint64     // alarms ever delivered
	placed    chan struct{}
	peaks     []Peak // critical peaks, oldest first
	repriced  chan struct{}
}

// New loads contracts and registers what the utility answers.
func New(env *role.Env) (*Utility, error) {
	u := &Utility{env: env, inbox: alarm.OpenInbox(env.Store), contracts: map[member.Key]*Contract{},
		byPoint: map[model.UsagePoint]*Contract{}, placed: make(chan struct{}, 1), repriced: make(chan struct{}, 1)}
	if err := u.loadContracts(); err != nil {
		return nil, err
	}
	if err := u.loadAlarms(); err != nil {
		return nil, fmt.Errorf("alarms: %w", err)
	}
	if err := u.loadPrices(); err != nil {
		return nil, err
	}
	env.Host.Handle(mesh.Readings, u.takeBlock)
	env.Host.Handle(mesh.AlarmView, u.takeAlarm)
	var err error
	if u.sums, err = openSums(env); err != nil {
		return nil, err
	}
	openers := committeeOf(env)
	u.escrow = &escrow{env: env, committee: openers}
	if u.settlement, err = newSettlement(env, u.Contracts, openers); err != nil {
		return nil, err
	}
	u.answers = map[mesh.Service]map[ask.Op]func(body []byte) ([]byte, error){
		mesh.Deck: {ask.MeterDeck: u.escrow.issue},
	}
	for s, ops := range u.settlement.answers() {
		if u.answers[s] == nil {
			u.answers[s] = ops
			continue
		}
		maps.Copy(u.answers[s], ops)
	}
	u.commands()
	u.settleCommands()
	u.flexCommands()
	for s, ops := range u.answers {
		u.desk(s, ops)
	}
	return u, nil
}

// Serve works until ctx ends.
func (u *Utility) Serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return u.publish(ctx) })
	g.Go(func() error { return u.placeContracts(ctx) })
	g.Go(func() error { return u.settlement.serve(ctx) })
	g.Go(func() error { return u.escrow.serve(ctx) })
	g.Go(func() error { return u.sums.serve(ctx) })
	g.Go(func() error { return u.publishPrices(ctx) })
	return g.Wait()
}

// uses are the service keys that a utility publishes.
var uses = []keys.Use{keys.Issuer, keys.Issue, keys.Bill, keys.Escrow, keys.Entry, keys.Cosign, keys.Direct}

// publish keeps the utility's key sheet known.
func (u *Utility) publish(ctx context.Context) error {
	for {
		now := u.env.Clock.Now()
		sheet, err := u.env.Keys.Sheet(now, 1, uses...)
		if err != nil {
			return fmt.Errorf("service keys: %w", err)
		}
		if err := u.env.Dir.Publish(sheet, now); err != nil {
			u.env.Log.Warn("key sheet not published; tried again", "err", err)
		}
		if !clock.Sleep(ctx, u.env.Clock, sheetPeriod) {
			return nil
		}
	}
}

// placeContracts tells the operator's head-ends about contracts until they have
// all of them.
func (u *Utility) placeContracts(ctx context.Context) error {
	for wait := placeAgain; ; wait = min(2*wait, orderPeriod) {
		for _, c := range u.unplaced() {
			if u.place(ctx, c) {
				if err := u.markPlaced(c); err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-u.placed:
			wait = placeAgain
		case <-u.env.Clock.After(wait):
		}
	}
}

// place tells every head-end of this operator; true once all of them know.
func (u *Utility) place(ctx context.Context, c Contract) bool {
	heads := u.env.Dir.All(member.RoleHeadend, u.env.Host.Self().Operator)
	done := len(heads) > 0
	for _, h := range heads {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := u.env.Host.Call(call, h.Member.Peer, mesh.Order, c.reference().Encode())
		cancel()
		if err != nil {
			u.env.Log.Debug("contract not yet on the head-end's list", "err", err)
			done = false
		}
	}
	return done
}

// Ready waits until every contract is on the head-end's list, or ctx ends.
func (u *Utility) Ready(ctx context.Context) error {
	for len(u.unplaced()) > 0 {
		if !clock.Sleep(ctx, u.env.Clock, time.Second) {
			return fmt.Errorf("contracts are not all on the head-end's list: %w", ctx.Err())
		}
	}
	return nil
}

// desk gives the answerer of an onion service, which decides by operation.
func (u *Utility) desk(s mesh.Service, ops map[ask.Op]func(body []byte) ([]byte, error)) {
	d := &ask.Desk{Answer: func(op ask.Op, body []byte) ([]byte, error) {
		answer, ok := ops[op]
		if !ok {
			return nil, &ask.RefusedError{Reason: "operation is not offered here"}
		}
		return answer(body)
	}}
	u.env.Onion.Handle(s, func(_ context.Context, req []byte) ([]byte, error) { return d.Handle(req), nil })
}
