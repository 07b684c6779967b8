package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"gridveil/ledger"
	"gridveil/node/clock"
	"gridveil/node/party"
	"gridveil/node/utility"
	"gridveil/node/verifier"
)

// dispute is the case of the day and what came of it.
type dispute struct {
	id     ledger.CaseID
	opened []string // contracts
	err    error
}

// approvals is how many seats must agree: three, one of them a public body.
var approvers = []string{"utility-a", "watchdog", "consumers"}

// voteWait bounds, in wall time, how long a seat may wait for the case's file.
const voteWait = 30 * time.Second

// quarrel lets the aggregator dispute the newest session on the ledger, which is
// the night's. The seats
// vote once they hold the case's file; the driver's utility then opens exactly
// that session.
func (st *Story) quarrel(ctx context.Context) error {
	d := &dispute{}
	st.mu.Lock()
	st.dispute = d
	st.mu.Unlock()
	a, err := st.s.aggregator()
	if err != nil {
		return err
	}
	ref, ok := st.newestRef()
	if !ok {
		d.err = errors.New("no session is on the ledger yet")
		return nil
	}
	if d.id, err = a.Dispute([][32]byte{ref}, ledger.CaseOpen, ledger.ReasonBilling); err != nil {
		return err
	}
	for _, name := range approvers {
		if err := st.vote(ctx, name, d.id); err != nil {
			d.err = fmt.Errorf("seat of %s: %w", name, err)
			return nil
		}
		st.tell("ledger", "/ledger", "%s approves the opening of one session", name)
	}
	for ctx.Err() == nil && st.s.Clock.Now().Before(st.end()) {
		list, err := st.s.utility("utility-b").Opened(d.id)
		if err == nil && len(list) > 0 {
			d.opened = list
			st.tell("ledger", "/ledger", "the dispute opened one session, to the driver's utility only")
			return nil
		}
		clock.Sleep(ctx, clock.Wall{}, 200*time.Millisecond)
	}
	d.err = errors.New("the day ended before the case was opened")
	return nil
}

// newestRef is the ledger's name of the newest session on it.
func (st *Story) newestRef() (ref [32]byte, ok bool) {
	a, err := st.s.aggregator()
	if err != nil {
		return ref, false
	}
	for i := uint64(0); ; i++ {
		raw, err := a.Entry(i)
		if err != nil {
			return ref, ok
		}
		if e, err := ledger.Parse(raw); err == nil {
			if c, is := e.Body().(*ledger.CDR); is {
				ref, ok = c.Ref, true
			}
		}
	}
}

func (st *Story) vote(ctx context.Context, name string, id ledger.CaseID) error {
	seat := st.s.partyOf(name).Seat()
	var err error
	for until := time.Now().Add(voteWait); time.Now().Before(until); {
		if err = seat.Vote(id, true); err == nil {
			return nil
		}
		if !clock.Sleep(ctx, clock.Wall{}, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
	return err
}

func (s *Scene) partyOf(name string) *party.Party {
	switch r := s.Get(name).Node().Role.(type) {
	case *utility.Utility:
		return r.Party()
	case *verifier.Verifier:
		return r.Party
	}
	return nil
}

// judgeDispute says whether exactly the disputed driver was opened, and whether
// the attempt is on the ledger.
func (st *Story) judgeDispute(sum *Summary) {
	st.mu.Lock()
	d := st.dispute
	st.mu.Unlock()
	if d == nil {
		return
	}
	var off []string
	if d.err != nil {
		off = append(off, d.err.Error())
	}
	want := st.s.contracts["driver-1"]
	if len(d.opened) != 1 || !strings.EqualFold(d.opened[0], want) {
		off = append(off, fmt.Sprintf("opened %d contracts", len(d.opened)))
	}
	sum.hold("the dispute opened exactly one session", off...)
	kinds := map[ledger.Kind]int{}
	if a, err := st.s.aggregator(); err == nil {
		for i := uint64(0); ; i++ {
			raw, err := a.Entry(i)
			if err != nil {
				break
			}
			if e, err := ledger.Parse(raw); err == nil {
				kinds[e.Kind()]++
			}
		}
	}
	if kinds[ledger.KindDispute] == 0 || kinds[ledger.KindApprove] < 3 || kinds[ledger.KindPartial] < 3 || kinds[ledger.KindResult] == 0 {
		sum.hold("and its whole trace is on the ledger", fmt.Sprintf("%v", kinds))
		return
	}
	sum.hold("and its whole trace is on the ledger")
}
