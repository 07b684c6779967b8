package party

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/export"
	"gridveil/node/control"
	"gridveil/node/web"
)

// Clerk answers what `gridveil ledger` asks a node that has a copy of the ledger,
// its writer or a follower. Everything but Status reads the final part.
type Clerk struct {
	Home  string // data directory, for the export folder
	Me    func() ledger.PartyID
	Copy  func() (Copy, bool)
	Prove func(index uint64) (*ledger.Proof, error)
	Now   func() time.Time
	// Accounts are the bank accounts that an export holds; nil for none.
	Accounts func() ([]export.BankAccount, error)
	// Waiting is how many own entries the ledger has not taken yet; nil for none.
	Waiting func() (int, error)

	writing sync.Mutex // held while a folder is written
}

// errNothingFinal means that no checkpoint has the quorum yet.
var errNothingFinal = errors.New("no part of the ledger is final yet\nnext: try again when its cosigners are here; `gridveil ledger status` lists them")

// LedgerStatus is what `gridveil ledger status` prints.
type LedgerStatus struct {
	Origin         string         `json:"origin"`
	Size           uint64         `json:"size"`
	Final          uint64         `json:"final"`
	Root           string         `json:"final_root"`
	LogTime        time.Time      `json:"log_time"`
	Day            uint32         `json:"settlement_day"`
	Quorum         string         `json:"quorum"`
	Shards         []ShardLine    `json:"shards"` // the logs of this ledger, the growing one last
	Cosigners      []CosignerLine `json:"cosigners"`
	Party          uint32         `json:"party"` // 0: not registered
	Name           string         `json:"name"`
	Open           string         `json:"open"` // own balances
	Due            string         `json:"due"`
	Waiting        int            `json:"waiting"` // own entries that the ledger has not taken yet
	Contradictions int            `json:"contradictions"`
	SumMicro       int64          `json:"sum_micro"` // of all accounts: 0 on a sound ledger
}

// CosignerLine is one cosigner of the newest final checkpoint.
type CosignerLine struct {
	Name string  `json:"name"`
	OK   bool    `json:"ok"`
	Age  float64 `json:"age_s"` // of its signature
}

// Sound says whether nothing in the status is a fault.
func (s LedgerStatus) Sound() bool { return s.Contradictions == 0 && s.SumMicro == 0 }

// Status sums up the ledger as this node has it.
func (k *Clerk) Status() (v LedgerStatus, err error) {
	c, ok := k.Copy()
	if !ok {
		return v, ErrNoLedger
	}
	page := web.Ledger{}
	c.cosigners(&page, k.Now())
	v = LedgerStatus{Size: c.Size, Final: c.finalEnd(), Shards: c.shardLines(), Root: fmt.Sprintf("%x", c.Final.Root), Quorum: page.Quorum, Cosigners: []CosignerLine{},
		Party: uint32(k.Me()), Contradictions: c.Forked}
	for _, x := range page.Cosigners {
		line := CosignerLine{Name: x.Name, OK: x.OK}
		if x.OK {
			line.Age = k.Now().Sub(x.At).Seconds()
		}
		v.Cosigners = append(v.Cosigners, line)
	}
	c.Read(func(s *ledger.State) {
		v.Origin, v.LogTime, v.Day = s.Origin(), s.LogTime(), s.Bucket()
		_, v.SumMicro = balances(s)
		if id := k.Me(); id != 0 {
			v.Open = Money(s.Balance(ledger.OpenAccount(id, 0)), s.Currencies()[0])
			v.Due = Money(s.Balance(ledger.DueAccount(id, 0)), s.Currencies()[0])
		}
	})
	v.Name = c.names()[k.Me()]
	if k.Me() == 0 {
		v.Name = ""
	}
	if k.Waiting != nil {
		v.Waiting, err = k.Waiting()
	}
	return v, err
}

// Checkpoint implements export.Source: the newest final one.
func (c Copy) Checkpoint() ([]byte, error) {
	if c.Note == nil {
		return nil, errNothingFinal
	}
	return c.Note, nil
}

// bundleSize is how many entries one bundle holds (C2SP tlog-tiles).
const bundleSize = 256

// Bundle implements export.Source.
func (c Copy) Bundle(n uint64, width int) (b []byte, err error) {
	for i := range uint64(width) {
		raw, err := c.Entry(c.Base + n*bundleSize + i)
		if err != nil {
			return nil, err
		}
		b = ledger.AppendBundle(b, raw)
	}
	return b, nil
}

// final is a copy that has a final part and a policy to judge it by.
func (k *Clerk) final() (Copy, error) {
	c, ok := k.Copy()
	switch {
	case !ok:
		return c, ErrNoLedger
	case c.Note == nil || c.Policy == nil:
		return c, errNothingFinal
	}
	return c, nil
}

// Verify replays the final part of the node's own copy from its first entry.
func (k *Clerk) Verify() (r export.Report, err error) {
	c, err := k.final()
	if err != nil {
		return r, err
	}
	checkpoint, err := c.Policy.OpenFinal(c.Note)
	if err != nil {
		return r, err
	}
	book, err := export.Replay(c, checkpoint)
	if err != nil {
		return r, err
	}
	_, cosigners, err := c.Policy.Open(c.Note)
	if err != nil {
		return r, err
	}
	r = export.Report{Origin: book.Origin, Network: book.State.Network(), Entries: checkpoint.Size, Root: fmt.Sprintf("%x", checkpoint.Root),
		LogTime: book.State.LogTime(), Cosigners: cosigners, Trusted: true, Kinds: book.Kinds, Balances: map[string]string{}}
	list, _ := balances(book.State)
	for _, b := range list {
		r.Balances[b.Party+"/"+b.Account] = b.Amount
	}
	return r, nil
}

// Statement is the statement of a party (number or name; "households" for the
// common books), period and currency code.
func (k *Clerk) Statement(who string, period uint32, currency string) (st export.Statement, err error) {
	c, err := k.final()
	if err != nil {
		return st, err
	}
	checkpoint, err := c.Policy.OpenFinal(c.Note)
	if err != nil {
		return st, err
	}
	book, err := export.Replay(c, checkpoint)
	if err != nil {
		return st, err
	}
	return StatementOf(book, who, period, currency)
}

// StatementOf finds a statement in a replayed ledger; period 0 means the open one.
func StatementOf(book *export.Book, who string, period uint32, currency string) (st export.Statement, err error) {
	cur := -1
	for i, c := range book.State.Currencies() {
		if c.Code() == currency || currency == "" && i == 0 {
			cur = i
		}
	}
	if cur < 0 {
		return st, fmt.Errorf("the ledger has no currency %q", currency)
	}
	id := ledger.PartyID(0)
	if n, err := strconv.ParseUint(who, 10, 32); err == nil {
		id = ledger.PartyID(n)
	} else if who != "households" {
		for _, p := range book.State.Parties() {
			if p.Name == who {
				id = p.Party
			}
		}
		if id == 0 {
			return st, fmt.Errorf("no party %q on the ledger\nnext: name one of its parties, or households", who)
		}
	}
	if period == 0 {
		last, _ := book.State.LastClose(uint8(cur))
		period = last + 1
	}
	return book.Statement(id, uint8(cur), period)
}

// Export writes archive, statements, journals and payment files of the final
// ledger into a folder; "" means export in the data directory. `gridveil verify`
// judges the folder by its files alone.
func (k *Clerk) Export(dir string) (r export.Report, err error) {
	if dir == "" {
		dir = filepath.Join(k.Home, "export")
	}
	c, err := k.final()
	if err != nil {
		return r, err
	}
	cfg, err := k.config(c)
	if err != nil {
		return r, err
	}
	k.writing.Lock() // one at a time: they replace one folder
	defer k.writing.Unlock()
	if r, err = export.Archive(dir, c, cfg); err != nil {
		return r, fmt.Errorf("export: %w", err)
	}
	return r, nil
}

func (k *Clerk) config(c Copy) (cfg export.Config, err error) {
	cfg.Policy = c.Policy
	if k.Accounts != nil {
		cfg.Accounts, err = k.Accounts()
	}
	return cfg, err
}

// Backup writes all entries that the node has into a new folder; dir must be
// absolute.
func (k *Clerk) Backup(dir string) (h export.BackupHead, err error) {
	if !filepath.IsAbs(dir) {
		return h, errors.New("backup: want an absolute folder")
	}
	c, err := k.final()
	if err != nil {
		return h, err
	}
	cfg, err := k.config(c)
	if err != nil {
		return h, err
	}
	var tail [][]byte
	for i := c.finalEnd(); i < c.Size; i++ {
		raw, err := c.Entry(i)
		if err != nil {
			return h, err
		}
		tail = append(tail, raw)
	}
	k.writing.Lock()
	defer k.writing.Unlock()
	if h, err = export.Backup(dir, c, tail, cfg); err != nil {
		return h, fmt.Errorf("backup: %w", err)
	}
	return h, nil
}

// Commands registers the answers.
func (k *Clerk) Commands(s *control.Server) {
	s.Handle("ledger-status", func(context.Context, json.RawMessage) (any, error) { return k.Status() })
	s.Handle("ledger-verify", func(context.Context, json.RawMessage) (any, error) { return k.Verify() })
	s.Handle("export", func(context.Context, json.RawMessage) (any, error) { return k.Export("") })
	s.Handle("ledger-backup", func(_ context.Context, in json.RawMessage) (any, error) {
		var dir string
		if err := json.Unmarshal(in, &dir); err != nil {
			return nil, errors.New("want a folder")
		}
		return k.Backup(dir)
	})
	s.Handle("proof", func(_ context.Context, in json.RawMessage) (any, error) {
		var index uint64
		if err := json.Unmarshal(in, &index); err != nil {
			return nil, errors.New("want the index of an entry")
		}
		p, err := k.Prove(index)
		if err != nil {
			return nil, err
		}
		return string(p.Encode()), nil
	})
	s.Handle("statement", func(_ context.Context, in json.RawMessage) (any, error) {
		var q struct {
			Party    string `json:"party"`
			Period   uint32 `json:"period"`
			Currency string `json:"currency"`
		}
		if err := json.Unmarshal(in, &q); err != nil {
			return nil, errors.New("want {party, period, currency}")
		}
		return k.Statement(q.Party, q.Period, q.Currency)
	})
}

// NotFinalError says that an entry cannot be proved yet; both count over all
// shards.
type NotFinalError struct {
	Index uint64
	Final uint64 // entries that are final
}

func (e *NotFinalError) Error() string {
	return fmt.Sprintf("entry %d is not final: the quorum has signed %d entries, and the first one is number 0\nnext: `gridveil ledger status` says how many there are and who has not signed; try again when the entry is among them", e.Index, e.Final)
}

// Proof is the .tlog-proof of a final entry, counted over all shards, from our
// copy; the proof counts in its own log.
func (p *Party) Proof(index uint64) (*ledger.Proof, error) {
	p.mu.Lock()
	v, c, note, shards := p.v, p.final, p.note, p.shards
	p.mu.Unlock()
	if v == nil {
		return nil, ErrNoLedger
	}
	base := shards.Open().Base
	switch {
	case index < base:
		return shards.Proof(index)
	case index >= base+c.Size:
		return nil, &NotFinalError{index, base + c.Size}
	}
	return v.Prove(index-base, c, note)
}

// waiting counts own entries that the ledger has not decided on.
func (p *Party) waiting() (n int, err error) {
	err = p.eachWaiting(func(*out) error { n++; return nil })
	return n, err
}

// Clerk answers questions about our copy of the ledger.
func (p *Party) Clerk() *Clerk {
	return &Clerk{Home: p.env.Config.Dir, Me: p.ID, Prove: p.Proof, Now: p.env.Clock.Now, Waiting: p.waiting,
		Copy: func() (Copy, bool) { c := p.copy(); return c, c.Size > 0 }}
}
