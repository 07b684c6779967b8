package party

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"gridveil/ledger"
	"gridveil/node/store"
)

// CaseBook remembers the cases of a ledger as their entries become final: the
// ledger's state finds a case by its id only.
type CaseBook struct{ Store *store.Store }

// CaseRecord is a case as its entries told.
type CaseRecord struct {
	ID        ledger.CaseID
	Index     uint64
	Requester ledger.PartyID
	Utility   ledger.PartyID
	Asks      ledger.CaseKind
	Reason    ledger.Reason
	Refs      []ledger.Hash
	Evidence  ledger.Hash
	Opened    int64                          // log time, UTC ms
	Parts     map[ledger.PartyID]ledger.Hash // sealed partials by seat
	Votes     map[ledger.PartyID]bool        // by seat
	Answer    *ledger.Hash                   // of the result
	Ended     ledger.Outcome                 // 0 while open
}

func caseKey(id ledger.CaseID) []byte { return store.SpaceLedger.Key([]byte("case"), id[:]) }

// Take notes a final entry that concerns a case; others change nothing.
func (c CaseBook) Take(index uint64, e *ledger.Entry, now time.Time) error {
	switch b := e.Body().(type) {
	case *ledger.Dispute:
		return c.Store.Update(func(tx *store.Tx) error {
			if known, err := tx.Has(caseKey(b.Case)); err != nil || known {
				return err
			}
			return putCase(tx, &CaseRecord{ID: b.Case, Index: index, Requester: e.Party(), Utility: b.Utility, Asks: b.Asks, Reason: b.Reason,
				Refs: b.Refs, Evidence: b.Evidence, Opened: now.UnixMilli(), Parts: map[ledger.PartyID]ledger.Hash{}, Votes: map[ledger.PartyID]bool{}})
		})
	case *ledger.Approve:
		return c.change(b.Case, func(x *CaseRecord) { x.Votes[e.Party()] = b.Yes })
	case *ledger.Partial:
		return c.change(b.Case, func(x *CaseRecord) { x.Parts[e.Party()] = b.CT })
	case *ledger.Result:
		return c.change(b.Case, func(x *CaseRecord) { x.Answer = &b.Answer })
	case *ledger.End:
		return c.change(b.Case, func(x *CaseRecord) { x.Ended = b.Outcome })
	}
	return nil
}

func (c CaseBook) change(id ledger.CaseID, f func(*CaseRecord)) error {
	return c.Store.Update(func(tx *store.Tx) error {
		x, err := getCase(tx, id)
		if errors.Is(err, store.ErrNotFound) {
			return nil // opened before this node followed the ledger
		}
		if err != nil {
			return err
		}
		f(x)
		return putCase(tx, x)
	})
}

func putCase(tx *store.Tx, x *CaseRecord) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	return tx.Set(caseKey(x.ID), b)
}

func getCase(tx *store.Tx, id ledger.CaseID) (*CaseRecord, error) {
	b, err := tx.Get(caseKey(id))
	if err != nil {
		return nil, err
	}
	x := new(CaseRecord)
	if err := json.Unmarshal(b, x); err != nil {
		return nil, fmt.Errorf("stored case: %w", err)
	}
	return x, nil
}

// Get finds a case; it returns store.ErrNotFound.
func (c CaseBook) Get(id ledger.CaseID) (x *CaseRecord, err error) {
	err = c.Store.View(func(tx *store.Tx) error {
		x, err = getCase(tx, id)
		return err
	})
	return x, err
}

// All lists the cases, oldest first.
func (c CaseBook) All() (list []CaseRecord, err error) {
	err = c.Store.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceLedger.Key([]byte("case")), func(_, v []byte) error {
			var x CaseRecord
			if err := json.Unmarshal(v, &x); err != nil {
				return fmt.Errorf("stored case: %w", err)
			}
			list = append(list, x)
			return nil
		})
	})
	slices.SortFunc(list, func(a, b CaseRecord) int { return int(int64(a.Index) - int64(b.Index)) })
	return list, err
}

// CaseView is a case as a page shows it.
type CaseView struct {
	ID        string
	Kind      string // hold, link, open
	Reason    string
	Requester string
	Utility   string
	Sessions  int
	Opened    time.Time
	Approvals []string // operators that said yes
	Against   []string
	Partials  []string // operators that gave their part
	State     string   // in words
	Need      int      // approvals, and partials, that an opening takes
	Ended     bool
	Index     uint64 // of the dispute entry
	Statement string // what the driver says, if known here
	Answer    string // only at its requester
	Vote      string // only at a seat: what it may still do
}

var kindWords = map[ledger.CaseKind]string{ledger.CaseHold: "hold", ledger.CaseLink: "link", ledger.CaseOpen: "open"}

var reasonWords = map[ledger.Reason]string{ledger.ReasonSafety: "safety", ledger.ReasonBilling: "billing", ledger.ReasonPayment: "payment",
	ledger.ReasonMeter: "meter", ledger.ReasonLawful: "lawful order"}

// ParseReason reads the word of a reason.
func ParseReason(word string) (ledger.Reason, bool) {
	for r, w := range reasonWords {
		if w == word {
			return r, true
		}
	}
	return 0, false
}

// ParseCaseKind reads the word of a kind.
func ParseCaseKind(word string) (ledger.CaseKind, bool) {
	for k, w := range kindWords {
		if w == word {
			return k, true
		}
	}
	return 0, false
}

// ParseCaseID reads a case's hexadecimal name.
func ParseCaseID(text string) (id ledger.CaseID, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(id) {
		return id, errors.New("case: want its name of 32 hexadecimal digits")
	}
	return ledger.CaseID(b), nil
}

// View puts a case into words; names are the parties'.
func (x *CaseRecord) View(names map[ledger.PartyID]string, need uint64) CaseView {
	v := CaseView{ID: hex.EncodeToString(x.ID[:]), Kind: kindWords[x.Asks], Reason: reasonWords[x.Reason], Requester: names[x.Requester],
		Utility: names[x.Utility], Sessions: len(x.Refs), Opened: time.UnixMilli(x.Opened).UTC(), Index: x.Index, Need: int(need), Ended: x.Ended != 0}
	for p, yes := range x.Votes {
		if yes {
			v.Approvals = append(v.Approvals, names[p])
		} else {
			v.Against = append(v.Against, names[p])
		}
	}
	for p := range x.Parts {
		v.Partials = append(v.Partials, names[p])
	}
	slices.Sort(v.Approvals)
	slices.Sort(v.Against)
	slices.Sort(v.Partials)
	switch {
	case x.Ended == ledger.Release:
		v.State = "ended; its sessions are settled"
	case x.Ended == ledger.Expire:
		v.State = "expired; nobody was opened"
	case x.Ended == ledger.Cancel:
		v.State = "ended; its sessions are cancelled"
	case x.Answer != nil:
		v.State = "answered, to the requester alone"
	case x.Asks == ledger.CaseHold:
		v.State = "the money is held; nothing is revealed"
	case uint64(len(v.Partials)) >= need:
		v.State = "opened by enough seats; the utility answers next"
	case uint64(len(v.Approvals)) >= need:
		v.State = "approved; opened after the notice, seat by seat"
	default:
		v.State = fmt.Sprintf("waits for approvals, %d of %d", len(v.Approvals), need)
	}
	return v
}
