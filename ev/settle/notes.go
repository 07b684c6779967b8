package settle

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"gridveil/ledger"
	"gridveil/privacy/note"
	"gridveil/privacy/session"
)

// lockJob is a host's lock whose notes are being redeemed.
type lockJob struct {
	Msg     []byte
	At      int64 // taken, UTC ms
	Refused bool
}

func (j lockJob) write(s name) Write {
	return Write{Key: under(keyLock, s[:]), Value: encode(j), Until: time.UnixMilli(j.At).Add(keepFor)}
}

// lock takes notes that a host puts behind what it may come to owe. The answer
// comes when their redeem entry is final.
func (d *Desk) lock(now time.Time, msg []byte) ([]byte, error) {
	l, known, err := d.settler.CheckLock(msg)
	if err != nil || known != nil {
		return known, err
	}
	key := under(keyLock, l.Session[:])
	if b := d.cfg.Store.Get(key); b != nil {
		var job lockJob
		if err := json.Unmarshal(b, &job); err != nil {
			return nil, fmt.Errorf("stored lock: %w", err)
		}
		switch {
		case !slices.Equal(job.Msg, msg):
			return nil, fmt.Errorf("lock: %w", session.ErrDuplicate)
		case job.Refused:
			return nil, ErrNotes
		}
		return nil, ErrWait
	}
	cur, err := d.currency(l.Currency)
	if err != nil {
		return nil, err
	}
	payee := ledger.EarnedAccount(cur)
	r := note.RedeemRequest{Currency: l.Currency, Payment: l.Payment}
	minor, err := r.CheckSpend(d.cfg.Registry, d.cfg.Origin, uint32(payee), l.Session[:], now)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if int64(minor)*d.cfg.Currencies[cur].Minor() != l.Value {
		return nil, fmt.Errorf("lock: %w: the notes are worth %d minor units", session.ErrAmount, minor)
	}
	var s step
	s.add(lockJob{Msg: msg, At: now.UnixMilli()}.write(l.Session), func() {})
	d.open(&s, &order{Kind: orderLock, Sessions: []name{l.Session},
		Redeem: &ledger.Redeem{Payee: payee, Bind: note.Bind(l.Payment.Salt, l.Session[:]), Notes: l.Payment.Notes}})
	if err := d.do(s); err != nil {
		return nil, err
	}
	return nil, ErrWait
}

func (d *Desk) lockJob(s name) (lockJob, error) {
	var job lockJob
	err := json.Unmarshal(d.cfg.Store.Get(under(keyLock, s[:])), &job)
	if err != nil {
		return job, fmt.Errorf("stored lock: %w", err)
	}
	return job, nil
}

// confirmLock signs the receipt of a lock whose notes are redeemed for good.
func (d *Desk) confirmLock(s *step, now time.Time, o *order) error {
	job, err := d.lockJob(o.Sessions[0])
	if err != nil {
		return err
	}
	l, err := session.ParseLock(job.Msg)
	if err != nil {
		return err
	}
	r, err := d.settler.Locked(now, &l, l.Value)
	if err != nil {
		return err
	}
	for _, w := range puts(r.Put) {
		s.add(w, func() {})
	}
	return nil
}

func (d *Desk) refuseLock(s *step, o *order) {
	job, err := d.lockJob(o.Sessions[0])
	if err != nil {
		return // the order alone is dropped; the host's next request begins anew
	}
	job.Refused = true
	s.add(job.write(o.Sessions[0]), func() {})
}

// claimState is where a wish for notes stands.
type claimState string

const (
	waiting  claimState = "waiting"  // for the entry that backs it, or for an issue
	grouped  claimState = "grouped"  // in an issue entry
	answered claimState = "answered" // its answer is stored
	lost     claimState = "lost"     // its notes were refused
)

// claim is one request for notes: a collect or a swap.
type claim struct {
	Key      string // names it among all claims
	At       int64  // taken, UTC ms
	State    claimState
	Currency uint16
	Cur      uint8
	Epoch    uint32
	Amounts  []uint16 // minor units, one per row
	Request  name     // H(Collect), or SHA-256 of the swap
	Msg      []byte   // the request as it came
	Backed   bool     // of a swap: its redeem entry is final
	Session  name     // of a collect
	Party    session.Party
	Answer   []byte // of a swap
}

func (c *claim) write() Write {
	w := Write{Key: under(keyClaim, []byte(c.Key)), Value: encode(c)}
	if c.State == answered || c.State == lost {
		w.Until = time.UnixMilli(c.At).Add(keepFor)
	}
	return w
}

// put adds a claim's new state to a step.
func (d *Desk) put(s *step, c *claim) {
	s.add(c.write(), func() {
		if c.State == answered || c.State == lost {
			delete(d.claims, c.Key)
			return
		}
		d.claims[c.Key] = c
	})
}

// collect takes a claim of a host or driver. The answer comes when the notes
// are issued.
func (d *Desk) collect(now time.Time, msg []byte) ([]byte, error) {
	c, known, r, err := d.settler.Claim(now, msg)
	if err != nil {
		return nil, err
	}
	if len(known) > 0 {
		return known, nil
	}
	key := fmt.Sprintf("%x.%d", c.Session, c.Party)
	if _, taken := d.claims[key]; taken {
		return nil, ErrWait
	}
	currency, err := d.currencyOf(c.Session)
	if err != nil {
		return nil, err
	}
	cur, err := d.currency(currency)
	if err != nil {
		return nil, err
	}
	if d.cfg.Mint(currency, c.Epoch) == nil {
		return nil, ErrMonth
	}
	x := &claim{Key: key, At: now.UnixMilli(), State: waiting, Currency: currency, Cur: cur, Epoch: c.Epoch, Amounts: []uint16{c.Minor},
		Request: c.Request, Msg: msg, Session: c.Session, Party: c.Party}
	var s step
	for _, w := range puts(r.Put) {
		s.add(w, func() {})
	}
	d.put(&s, x)
	if err := d.do(s); err != nil {
		return nil, err
	}
	return nil, ErrWait
}

// currencyOf is the currency of a session, booked or not: an unused lock comes
// back too, and then its own message tells.
func (d *Desk) currencyOf(s name) (uint16, error) {
	if b, ok := d.booking(s); ok {
		return b.settled.Currency, nil
	}
	job, err := d.lockJob(s)
	if err != nil {
		return 0, err
	}
	l, err := session.ParseLock(job.Msg)
	return l.Currency, err
}

// swap takes old notes for new ones of equal sum.
func (d *Desk) swap(now time.Time, msg []byte) ([]byte, error) {
	hash := name(sha256.Sum256(msg))
	key := fmt.Sprintf("%x", hash)
	if b := d.cfg.Store.Get(under(keyClaim, []byte(key))); b != nil {
		var c claim
		if err := json.Unmarshal(b, &c); err != nil {
			return nil, fmt.Errorf("stored swap: %w", err)
		}
		switch c.State {
		case answered:
			return c.Answer, nil
		case lost:
			return nil, ErrNotes
		}
		return nil, ErrWait
	}
	r, err := note.ParseSwapRequest(msg)
	if err != nil {
		return nil, err
	}
	cur, err := d.currency(r.Currency)
	if err != nil {
		return nil, err
	}
	if d.cfg.Mint(r.Currency, r.Epoch) == nil {
		return nil, ErrMonth
	}
	payee := ledger.EarnedAccount(cur)
	if err := r.Check(d.cfg.Registry, d.cfg.Origin, uint32(payee), now); err != nil {
		return nil, err
	}
	c := &claim{Key: key, At: now.UnixMilli(), State: waiting, Currency: r.Currency, Cur: cur, Epoch: r.Epoch, Amounts: r.Amounts, Request: hash, Msg: msg}
	var s step
	d.put(&s, c)
	d.open(&s, &order{Kind: orderSwap, Claims: []string{key}, Redeem: &ledger.Redeem{Payee: payee, Bind: swapBind(r, msg), Notes: r.Notes}})
	if err := d.do(s); err != nil {
		return nil, err
	}
	return nil, ErrWait
}

// swapBind is what the spends of a swap cover: the salted rows, as they stand
// in the message between its head and its payment.
func swapBind(r *note.SwapRequest, msg []byte) [32]byte {
	const head = 2 + 2 + 4 // kind, version, currency, epoch
	rows := 1 + len(r.Rows)*(2+note.RowSize)
	return note.Bind(r.Salt, msg[head:head+rows])
}

func (d *Desk) fundSwap(s *step, o *order) {
	if c, ok := d.claims[o.Claims[0]]; ok {
		x := *c
		x.Backed = true
		d.put(s, &x)
	}
}

func (d *Desk) loseSwap(s *step, o *order) {
	if c, ok := d.claims[o.Claims[0]]; ok {
		x := *c
		x.State = lost
		d.put(s, &x)
	}
}

// backed says whether the money behind a claim is in the earned book for good.
func (d *Desk) backed(c *claim) bool {
	if c.Party == 0 {
		return c.Backed
	}
	if c.Party == session.PartyChange || c.Party == session.PartyPool {
		return true // the lock was final before its receipt, and shares are named once their payment is
	}
	b, ok := d.booking(c.Session)
	if !ok {
		return false
	}
	if c.Party == session.PartyDriver && b.settled.Values.Earn == b.settled.Host {
		return true // paid from the host's lock alone
	}
	return b.State == settled || b.State == borne
}

// planIssues turns backed claims into one issue entry per currency and month.
// The ledger takes the first of a bucket at any size, later ones from min_batch.
func (d *Desk) planIssues(_ time.Time, v View) error {
	type month struct {
		cur   uint8
		epoch uint32
	}
	ready, busy := map[month][]*claim{}, map[uint8]bool{}
	for _, o := range d.orders {
		if o.Kind == orderIssue && !o.Posted {
			busy[o.Issue.Cur] = true
		}
	}
	for _, c := range d.claims {
		if m := (month{c.Cur, c.Epoch}); c.State == waiting && !busy[c.Cur] && d.cfg.Mint(c.Currency, c.Epoch) != nil && d.backed(c) {
			ready[m] = append(ready[m], c)
		}
	}
	keys := make([]month, 0, len(ready))
	for m := range ready {
		keys = append(keys, m)
	}
	slices.SortFunc(keys, func(a, b month) int {
		if a.cur != b.cur {
			return int(a.cur) - int(b.cur)
		}
		return int(a.epoch) - int(b.epoch)
	})
	for _, m := range keys {
		if d.meta.Issued[m.cur] == v.Bucket()+1 && uint64(len(ready[m])) < v.Params().MinBatch {
			continue
		}
		if err := d.issue(v, m.cur, m.epoch, ready[m]); err != nil {
			return err
		}
	}
	return nil
}

// issue makes one issue order.
func (d *Desk) issue(v View, cur uint8, epoch uint32, list []*claim) error {
	if len(list) > maxIssue {
		list = list[:maxIssue]
	}
	slices.SortFunc(list, func(a, b *claim) int { return slices.Compare(a.Request[:], b.Request[:]) })
	if err := shuffle(d.cfg.Rand, list); err != nil {
		return err
	}
	o := &order{Kind: orderIssue, Issue: &ledger.Issue{Cur: cur, Epoch: epoch, Claims: uint32(len(list)), Counts: make([]uint32, note.Slots)}}
	var s step
	leaves := make([][]byte, 0, len(list))
	for _, c := range list {
		var salt name
		if _, err := io.ReadFull(d.cfg.Rand, salt[:]); err != nil {
			return fmt.Errorf("draw salt: %w", err)
		}
		o.Claims, o.Salts = append(o.Claims, c.Key), append(o.Salts, salt)
		leaves = append(leaves, claimLeaf(salt, c.Request, c.total()))
		for _, minor := range c.Amounts {
			for i := range o.Issue.Counts {
				o.Issue.Counts[i] += uint32(minor >> i & 1)
			}
		}
		x := *c
		x.State = grouped
		d.put(&s, &x)
	}
	o.Issue.Root = treeOf(leaves).root()
	m := meta{Orders: d.meta.Orders, Issued: map[uint8]uint32{}}
	for k, b := range d.meta.Issued {
		m.Issued[k] = b
	}
	m.Issued[cur] = v.Bucket() + 1
	d.number(&m, o)
	s.add(o.write(), func() { d.orders[o.ID] = o })
	s.add(m.write(), func() { d.meta = m })
	return d.do(s)
}

// maxIssue bounds one issue entry's work.
const maxIssue = 4096

func (c *claim) total() (minor uint32) {
	for _, a := range c.Amounts {
		minor += uint32(a)
	}
	return minor
}

// regroup puts the claims of a refused issue back in line.
func (d *Desk) regroup(s *step, o *order) {
	for _, key := range o.Claims {
		if c, ok := d.claims[key]; ok {
			x := *c
			x.State = waiting
			d.put(s, &x)
		}
	}
}

// answer signs the notes of a final issue. The same issue gives the same
// signatures, so a crash in between changes nothing.
func (d *Desk) answer(s *step, now time.Time, o *order) error {
	leaves := make([][]byte, 0, len(o.Claims))
	for i, key := range o.Claims {
		c, ok := d.claims[key]
		if !ok {
			return fmt.Errorf("claim %d of the issue is not stored", i)
		}
		leaves = append(leaves, claimLeaf(o.Salts[i], c.Request, c.total()))
	}
	t := treeOf(leaves)
	for i, key := range o.Claims {
		c := *d.claims[key]
		mint := d.cfg.Mint(c.Currency, c.Epoch)
		if mint == nil {
			return ErrMonth
		}
		if c.Party == 0 {
			r, err := note.ParseSwapRequest(c.Msg)
			if err != nil {
				return err
			}
			rows, err := mint.SignSwap(r)
			if err != nil {
				return err
			}
			c.Answer = note.RowsReply(rows)
		} else if err := d.answerCollect(s, now, &c, mint, o, i, t); err != nil {
			return err
		}
		c.State = answered
		d.put(s, &c)
	}
	return nil
}

func (d *Desk) answerCollect(s *step, now time.Time, c *claim, mint *note.Mint, o *order, i int, t tree) error {
	asked, _, _, err := d.settler.Claim(now, c.Msg)
	if err != nil {
		return err
	}
	row, err := mint.Sign(asked.Minor, &asked.Row)
	if err != nil {
		return err
	}
	r, err := d.settler.Collected(now, &asked, session.Collected{Row: *row, Issue: o.Index, Salt: o.Salts[i], Proof: t.prove(i)})
	if err != nil {
		return err
	}
	for _, w := range puts(r.Put) {
		s.add(w, func() {})
	}
	return nil
}
